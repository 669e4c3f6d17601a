//! What clients do, from the plan of a run.

pub(crate) mod audience;
pub(crate) mod backoff;
pub(crate) mod census;
pub(crate) mod classes;
pub(crate) mod fleet;
pub(crate) mod plan;
pub(crate) mod publisher;
pub(crate) mod registers;
pub(crate) mod takeover;
pub(crate) mod tally;
pub(crate) mod traffic;
