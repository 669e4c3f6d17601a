//! Sockets: how they are opened, what is set on them, and how bytes pass.

pub mod admission;
pub mod door;
pub mod listener;
pub(crate) mod stack;
pub mod tls;
pub(crate) mod transport;
