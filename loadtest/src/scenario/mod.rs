//! What clients do, from the plan of a run.

pub(crate) mod backoff;
pub(crate) mod census;
pub(crate) mod fleet;
pub(crate) mod plan;
pub(crate) mod tally;
pub(crate) mod traffic;
