//! Benches of Tidegate; see the `benches` folder and `src/bin`.
//!
//! Here is what the programs share: a broker as a process, what the kernel says
//! about it, and the few MQTT bytes of a load.

pub mod process;
pub mod server;
pub mod wire;
