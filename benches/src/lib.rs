//! Benches of Tidegate; see the `benches` folder and `src/bin`.
