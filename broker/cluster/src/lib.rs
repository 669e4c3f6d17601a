//! The decisions of a cluster: who belongs to it, what lies where, whom to
//! trust for how long.
//!
//! Everything here takes an input and the time, changes its own state, and
//! offers what follows from it. Nothing does I/O, reads a clock or draws a
//! random number (PURE-1), so the same code runs under sockets and openraft,
//! and under a simulator of whole clusters with one seed.
//!
//! | module | decides |
//! |---|---|
//! | [`meta`] | the cluster's metadata: a state machine over a replicated log |
//! | [`placement`] | which nodes hold which partition, and when to change that |
//! | [`lease`] | how long a node may believe that it belongs to the cluster |
//! | [`routes`] | who wants which topic on other nodes, and when that is certain |
//! | [`bootstrap`] | found, join, rejoin, wait or refuse, from what a probe found |
//! | [`drain`] | how a node is emptied, and how leadership is handed over |
//! | [`moving`] | what the leader of a partition does about its replicas and its leadership |
//! | [`lanes`] | that a message between partitions arrives once and in order |

pub mod bootstrap;
pub mod drain;
pub mod ids;
pub mod lanes;
pub mod lease;
pub mod limits;
pub mod meta;
pub mod moving;
pub mod placement;
pub mod routes;
mod wire;

pub use wire::DecodeError;

#[cfg(test)]
mod seeded;
