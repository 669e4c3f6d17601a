//! How short memory is, measured from outside the shards.

pub mod memory;
pub mod monitor;
mod trim;
