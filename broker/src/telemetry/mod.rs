//! What a node tells its operator: logs, and metrics.

pub mod exposition;
pub mod health;
pub mod histogram;
pub mod log;
mod membership;
pub mod metric;
pub mod process;
pub mod registry;
pub mod source;
pub mod storage;
mod system;
pub mod watch;
