//! Sockets: how they are opened, what is set on them, and how bytes pass.

pub mod listener;
pub mod tls;
pub(crate) mod transport;
