//! What a listener presents now, and how it changes while sessions go on.
//!
//! A session keeps the configuration that it was opened with, so a change is
//! for new handshakes alone and drops nobody. A change that does not load is
//! not taken: the old material stays, and the fault is there to be shown.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;

use super::fault::TlsFault;
use super::material::{Alpn, Loaded, Tickets, TlsFiles, load_with};

/// One listener's material, shared by all shards.
#[derive(Debug)]
pub struct TlsStore {
    loaded: ArcSwap<Loaded>,
    alpn: Alpn,
    files: Mutex<TlsFiles>,
    changes: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<Option<String>>,
}

/// What a reload found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// The files say what they said before.
    Same,
    /// New handshakes use what is new.
    Changed,
}

impl TlsStore {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn open(files: TlsFiles, alpn: Alpn) -> Result<Self, Vec<TlsFault>> {
        let loaded = load_with(&files, alpn, None)?;
        Ok(Self {
            loaded: ArcSwap::from_pointee(loaded),
            alpn,
            files: Mutex::new(files),
            changes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_error: Mutex::new(None),
        })
    }

    /// The configuration for a new handshake. Takes no lock.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.loaded.load().config.clone()
    }

    /// All that is loaded, to be shown.
    pub fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    /// Reads the files again. What does not load leaves all as it was.
    ///
    /// Session tickets outlive a renewed certificate. They do not outlive a
    /// change of whom the listener trusts: a resumption is not verified again,
    /// so a revoked client would come in with the ticket that it has.
    ///
    /// # Errors
    /// All that is wrong with the files.
    pub fn reload(&self) -> Result<Change, Vec<TlsFault>> {
        let files = lock(&self.files);
        self.take_in(&files)
    }

    /// As [`TlsStore::reload`], from other files: the configuration changed.
    ///
    /// # Errors
    /// All that is wrong with the files; the old ones stay in force.
    pub fn reload_from(&self, files: TlsFiles) -> Result<Change, Vec<TlsFault>> {
        let mut current = lock(&self.files);
        let change = self.take_in(&files)?;
        *current = files;
        Ok(change)
    }

    /// The files in force.
    pub fn files(&self) -> TlsFiles {
        lock(&self.files).clone()
    }

    /// When the first certificate expires, in seconds of Unix time.
    pub fn expires(&self) -> i64 {
        self.loaded.load().expires()
    }

    /// How often something new was taken in.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// How often a reload failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// What was wrong at the last reload, if it failed.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    /// Called with `files` locked, so that one reload runs at a time.
    fn take_in(&self, files: &TlsFiles) -> Result<Change, Vec<TlsFault>> {
        let old = self.loaded.load_full();
        let tickets: Tickets = (old.config.ticketer.clone(), old.trust);
        match load_with(files, self.alpn, Some(&tickets)) {
            Ok(new) => {
                *lock(&self.last_error) = None;
                if new.contents == old.contents {
                    return Ok(Change::Same);
                }
                self.loaded.store(Arc::new(new));
                self.changes.fetch_add(1, Ordering::Relaxed);
                Ok(Change::Changed)
            }
            Err(faults) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                *lock(&self.last_error) = Some(sentence(&faults));
                Err(faults)
            }
        }
    }
}

/// All faults in a line.
fn sentence(faults: &[TlsFault]) -> String {
    let mut text = String::new();
    for (place, fault) in faults.iter().enumerate() {
        let separator = if place == 0 { "" } else { "; " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{fault}");
    }
    text
}

/// A panic elsewhere leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
