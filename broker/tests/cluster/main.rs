//! Clusters of real processes, each node on a loopback address of its own.

mod disks;
mod drains;
mod forms;
mod from_alone;
mod moves;
mod queues;
mod recovers;
mod rig;
