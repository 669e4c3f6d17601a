//! Copies of a log: made while it is written, checked, and put back.
