//! Sessions, topics, routing and queues: the decisions of a node.
//!
//! A [`Shard`] takes bytes, mail and the time, changes its own
//! state, and offers bytes, mail and events that the shell pulls. It does no
//! I/O and reads no clock (PURE-1), so the same code runs under sockets, under
//! a simulator, in benches and in tests.

pub mod access;
mod alias;
mod asked;
mod catchup;
mod conn;
pub mod counters;
mod debug;
mod delivery;
mod full;
pub mod hole;
pub mod ids;
pub mod index;
pub mod journal;
mod keepalive;
pub mod limits;
pub mod log;
pub mod mail;
pub mod message;
mod newest;
pub mod node;
mod outgoing;
mod output;
mod partition;
pub mod pressure;
pub mod rate;
pub mod retained;
pub mod room;
pub mod settings;
pub mod shard;
mod slab;
pub mod sources;
pub mod stored;
mod subscriptions;
pub mod transit;
mod will;

pub use node::Node;
pub use partition::{Fetch, Header, Image, Keeps, RecordError, Why};
pub use shard::{
    Applied, Away, Event, Hangup, Layer, Opened, Opening, Received, Refused, Shard, Then, Verdict,
    Written,
};
