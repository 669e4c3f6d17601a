//! Who may come in and do what: password files and access rules, pure.
//!
//! Both are text files that people and tools edit while the node runs, so both
//! are read the same way: all of the file or none of it, with every bad line
//! named, what is wrong with it and what would do. The shell reads the files,
//! swaps a new one in, and runs the password hashes on threads of its own; here
//! is only what a file means.

pub mod acl;
mod faults;
pub mod passwords;

pub use acl::{Acl, Action, Explained, Who};
pub use faults::{Fault, Faults};
pub use passwords::{Passwords, Verified};
