//! Sessions, topics, routing and queues: the decisions of a node.
pub mod counters;
pub mod ids;
pub mod index;
pub mod limits;
pub mod retained;
pub mod settings;
