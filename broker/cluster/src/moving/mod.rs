//! What the leader of a partition does about where it is.
//!
//! The metadata says which replicas there should be and who should lead, and
//! which replica is on its way ([`crate::meta::Move`]). The leader of each
//! partition brings Raft's own membership there, one step at a time, and says
//! what has come about. A step is decided from the metadata and the group as
//! they are now and from nothing else: a leader that comes anew, of the
//! partition or of the metadata, goes on where the last one stopped, and a step
//! that is taken twice does nothing the second time.

mod leaders;
mod members;
#[cfg(test)]
mod tests;

pub use leaders::{Leaders, Led, movable};
pub use members::{Group, Step, next};
