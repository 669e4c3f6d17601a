//! The I/O shell of a Tidegate node.

pub mod admin;
pub mod auth;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod import;
pub mod net;
pub mod node;
pub mod observe;
pub mod overload;
pub mod pages;
pub mod replication;
pub mod shard;
pub mod steering;
pub mod store;
pub mod system;
pub mod telemetry;
