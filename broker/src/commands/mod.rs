//! What the commands of `tidegate` do, apart from running a node.

pub mod backup;
pub mod store;
pub mod tls;
