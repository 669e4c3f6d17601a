//! What a node tells its operator: logs, and metrics.

pub mod log;
pub mod throttle;
