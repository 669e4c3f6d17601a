//! The I/O shell of a Tidegate node.
