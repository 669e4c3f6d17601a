//! Who may come in, and what they may do.
//!
//! `tidegate-auth` knows what the files mean; here they are read, swapped
//! while the node runs, and asked. The rules are asked on the shards, without a
//! lock. A password costs some 20 ms and 19 MiB, so it is hashed on threads of
//! its own, behind a bounded queue: a storm of logins makes logins wait, and
//! nothing else.

pub mod commands;
mod doorman;
mod files;
mod hasher;
mod prompt;
mod replace;

pub use doorman::Doorman;
pub use files::{AuthFault, AuthFiles, Change, ReloadReport};
pub use hasher::{Attempt, HashCounters, Hasher};
