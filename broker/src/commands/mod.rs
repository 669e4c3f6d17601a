//! What the commands of `tidegate` do, apart from running a node.

pub mod tls;
