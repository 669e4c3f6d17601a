//! Whole nodes under one seed, and what their clients were promised.
//!
//! The pure parts of a node (shards of `tidegate-core` over the log of
//! `tidegate-store` on a simulated disk) are driven in steps that a seed
//! orders: turns, mail, commits, reads, states, the removal of old segments,
//! and what goes wrong: power cuts with loss of what was not synced, torn
//! sectors, failed writes and syncs, a full and a slow disk, crashes while the
//! log is read back, starts with another number of shards or a clock set back.
//! Clients write down what they did and saw; [`check`] holds that history, and
//! nothing else, against each promise.
//!
//! The checkers are checked: [`Plant`] switches bugs on, and a test requires
//! that each is caught. Seeds that once failed are in `seeds/`.
//!
//! For tests only; nothing here is shipped.

pub mod check;
mod client;
pub mod cluster;
mod dice;
pub mod history;
mod node;
mod plant;
mod store;
mod world;

pub use check::Failure;
pub use plant::Plant;
pub use world::{Outcome, Stats, run};
