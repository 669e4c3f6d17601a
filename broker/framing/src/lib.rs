//! What carries MQTT besides plain TCP: the header of a proxy, and WebSocket.
//!
//! Pure: bytes in, bytes out. Nothing here reads a socket or a clock, and
//! nothing is kept that is not bounded.

pub mod proxy;
pub mod trusted;
pub mod websocket;
