//! WebSocket (RFC 6455) as MQTT uses it: binary frames, and packets that care
//! nothing about where a frame ends (MQTT 5.0, section 6).
//!
//! The request is read by `httparse`; frames are our own, because a crate that
//! fits a connection without buffers and tasks of its own does not exist.

mod frame;
mod handshake;

pub use frame::{Close, FrameHeader, NORMAL, Unwrapped, WebSocket, close_frame, header};
pub use handshake::{HEAD_BYTES_MAX, HEADERS_MAX, Handshake, Options, handshake};
