//! Whole clusters under one seed: three to five nodes of real shards and real
//! routes, over models of the network, of the metadata and of consensus.
//!
//! A round of the world moves each node a little, by chance: words, reads, turns,
//! mail, tasks; then sessions between nodes, the Raft groups, the metadata and
//! the clients. What goes wrong is drawn too (`faults`). At the end everything
//! heals, everybody gets what is owed, and the checkers read the history.

mod faults;
mod hole;
mod keep;
mod meta;
mod net;
mod raft;
mod running;
mod settle;
mod stage;
mod step;
mod task;
mod world;

pub use hole::Hole;
pub use world::{Options, run};
