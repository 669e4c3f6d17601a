//! Real openraft on the real log over simulated disks, with a network that can
//! be cut, under a clock that jumps to the next timer.

mod chaos;
mod crashes;
mod elections;
mod handover;
mod heartbeats;
mod members;
mod recovery;
mod rig;
mod snapshots;
