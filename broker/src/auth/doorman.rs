//! What a shard asks about who comes in.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_codec::ReasonCode;
use tidegate_core::access::{Access, Who};
use tidegate_core::ids::Millis;

use super::files::{AuthFault, AuthFiles, ReloadReport};
use super::hasher::{Attempt, HashCounters, Hasher};
use crate::config::Auth;

/// The files in force, and the threads that check passwords against them.
#[derive(Debug)]
pub struct Doorman {
    files: Arc<AuthFiles>,
    hasher: Hasher,
    threads: usize,
}

impl Doorman {
    /// Reads the files that a config names.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn open(auth: &Auth) -> Result<Doorman, Vec<AuthFault>> {
        let files = Arc::new(AuthFiles::open(auth)?);
        Ok(Doorman { files, hasher: Hasher::new(auth.hash_queue_max), threads: auth.hash_threads })
    }

    /// Starts the threads that check passwords, until the doorman is dropped.
    /// `answer` gets each attempt that did not expire and whether it is right;
    /// it runs on those threads, and `now` too.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        &self,
        now: impl Fn() -> Millis + Send + Sync + 'static,
        answer: impl Fn(&Attempt, bool) + Send + Sync + 'static,
    ) -> io::Result<()> {
        self.hasher.start(self.threads, Arc::clone(&self.files), now, answer)
    }

    /// Whether user names are looked up at all.
    pub fn has_passwords(&self) -> bool {
        self.files.passwords().is_some()
    }

    /// Has a password checked. Never blocks.
    ///
    /// # Errors
    /// The attempt comes back when too many wait.
    pub fn ask(&self, attempt: Attempt) -> Result<(), Attempt> {
        self.hasher.submit(attempt)
    }

    /// The rules, for the core. They follow a reload.
    pub fn access(&self) -> Box<dyn Access> {
        Box::new(Rules(Arc::clone(&self.files)))
    }

    /// Reads the files again, or others if `auth` names others now. A fault in
    /// one leaves both as they were. The number of threads and of those who
    /// wait stays what it was.
    ///
    /// # Errors
    /// All that is wrong with the files.
    pub fn reload(&self, auth: Option<&Auth>) -> Result<ReloadReport, Vec<AuthFault>> {
        self.files.reload(auth)
    }

    /// The files, to be watched.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.paths()
    }

    /// What was done so far.
    pub fn counters(&self) -> &HashCounters {
        self.hasher.counters()
    }
}

/// The core's share in the files.
#[derive(Debug)]
struct Rules(Arc<AuthFiles>);

impl Access for Rules {
    fn publish(&self, who: Who<'_>, topic: &str) -> Result<(), ReasonCode> {
        self.0.publish(who, topic)
    }

    fn subscribe(&self, who: Who<'_>, filter: &str) -> Result<(), ReasonCode> {
        self.0.subscribe(who, filter)
    }
}
