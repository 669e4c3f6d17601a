//! How a node is emptied, and how leadership is handed over.
//!
//! Everything here waits for a condition that can be counted (leaderships,
//! clients, replicas), never for a time to pass; times only give up.

mod cut_off;
mod pace;
mod process;
mod transfer;

pub use cut_off::{CutOff, Reach, Whole};
pub use pace::{Pace, Survivor, place};
pub use process::{Act, Drain, Left, Progress};
pub use transfer::{Preferred, Transfer, TransferStep};
