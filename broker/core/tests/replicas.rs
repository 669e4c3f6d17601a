//! Partitions with replicas: what is committed outlives its leader, and nothing
//! else does.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    reason = "a test, with its size set from outside"
)]

#[path = "replicas/alone.rs"]
mod alone;
#[path = "replicas/cluster.rs"]
mod cluster;
#[path = "replicas/disk.rs"]
mod disk;
#[path = "replicas/random.rs"]
mod random;
mod rig;
#[path = "replicas/stories.rs"]
mod stories;
