//! Nodes that speak over real sockets, on loopback.

mod calls;
mod discovery;
mod faults;
mod mail;
mod refusals;
mod rig;
mod sessions;
mod trust;
