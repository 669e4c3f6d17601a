//! Kept apart for its length.
