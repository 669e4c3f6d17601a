//! The ways to look at a run.
//!
//! Each is a function from an outcome (or a moment of it) to text; who writes
//! the text where is the caller's business.

pub mod figures;
pub mod html;
pub mod json;
pub mod plot;
pub mod prometheus;
pub mod terminal;
