//! Several nodes that are one broker.
#![allow(missing_docs, unreachable_pub, dead_code)]

#[path = "cluster/chaos.rs"]
mod chaos;
#[path = "cluster/claims.rs"]
mod claims;
#[path = "cluster/retained.rs"]
mod retained;
mod rig;
#[path = "rig/runner.rs"]
mod runner;
#[path = "cluster/world.rs"]
mod world;
