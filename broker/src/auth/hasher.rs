//! Passwords are checked here, off the shards.
//!
//! A bounded queue and a few threads. A shard never waits for either: a full
//! queue gives the attempt back, and the client is told that the server is
//! busy. What waited too long is not hashed at all, as its connection is gone;
//! so a flood of logins costs the queue's length of work at most.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use std::{fmt, hint, io, thread};

use tidegate_auth::Verified;
use tidegate_core::Opened;
use tidegate_core::ids::{Millis, ShardId};

use super::files::AuthFiles;

/// A CONNECT whose password is to be checked.
pub struct Attempt {
    /// Where it came in.
    pub shard: ShardId,
    /// Its connection.
    pub opened: Opened,
    /// Its user name.
    pub user: String,
    /// Its password. Overwritten when the attempt is dropped.
    pub password: Vec<u8>,
    /// When nobody waits any more.
    pub expires_at: Millis,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.password.fill(0);
        // So that the overwriting is not optimised away.
        hint::black_box(&self.password);
    }
}

impl fmt::Debug for Attempt {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("shard", &self.shard)
            .field("opened", &self.opened)
            .field("user", &self.user)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct HashCounters {
    /// Attempts that wait now.
    pub waiting: AtomicU64,
    /// Attempts that came back because too many waited.
    pub refused: AtomicU64,
    /// Attempts that waited too long and were dropped.
    pub expired: AtomicU64,
    /// Passwords that were right.
    pub right: AtomicU64,
    /// Passwords that were wrong, and users that do not exist.
    pub wrong: AtomicU64,
    /// Nanoseconds of hashing.
    pub hashing_nanos: AtomicU64,
}

/// The queue, and the threads that take from it until it is dropped.
#[derive(Debug)]
pub struct Hasher {
    attempts: SyncSender<Attempt>,
    waiting: Arc<Mutex<Receiver<Attempt>>>,
    counters: Arc<HashCounters>,
}

impl Hasher {
    /// A queue for so many attempts.
    pub fn new(queue_max: usize) -> Hasher {
        let (attempts, waiting) = sync_channel(queue_max.max(1));
        Hasher {
            attempts,
            waiting: Arc::new(Mutex::new(waiting)),
            counters: Arc::new(HashCounters::default()),
        }
    }

    /// Starts the threads, which end when the hasher is dropped.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(
        &self,
        threads: usize,
        files: Arc<AuthFiles>,
        now: impl Fn() -> Millis + Send + Sync + 'static,
        answer: impl Fn(&Attempt, bool) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let answer = Arc::new(answer);
        let now = Arc::new(now);
        for index in 0..threads {
            let (files, now, answer) = (files.clone(), now.clone(), answer.clone());
            let (waiting, counters) = (self.waiting.clone(), self.counters.clone());
            thread::Builder::new().name(format!("hash-{index}")).spawn(move || {
                while let Some(attempt) = next(&waiting) {
                    counters.waiting.fetch_sub(1, Ordering::Relaxed);
                    check(&attempt, &files, now(), &counters, &*answer);
                }
            })?;
        }
        Ok(())
    }

    /// Puts an attempt into the queue. Never blocks.
    ///
    /// # Errors
    /// The attempt comes back when too many wait.
    pub fn submit(&self, attempt: Attempt) -> Result<(), Attempt> {
        // Before it can be taken, so that the count never falls below zero.
        self.counters.waiting.fetch_add(1, Ordering::Relaxed);
        self.attempts.try_send(attempt).map_err(|full| {
            self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            match full {
                TrySendError::Full(attempt) | TrySendError::Disconnected(attempt) => attempt,
            }
        })
    }

    /// What was done so far.
    pub fn counters(&self) -> &HashCounters {
        &self.counters
    }
}

/// The next attempt; none: the hasher is gone. The threads wait for the lock
/// where they would wait for the queue.
fn next(waiting: &Mutex<Receiver<Attempt>>) -> Option<Attempt> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn check(
    attempt: &Attempt,
    files: &AuthFiles,
    now: Millis,
    counters: &HashCounters,
    answer: &impl Fn(&Attempt, bool),
) {
    if attempt.expires_at <= now {
        counters.expired.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let began = Instant::now();
    // No file any more: nobody is right.
    let right = files.passwords().is_some_and(|passwords| {
        passwords.verify(&attempt.user, &attempt.password) == Verified::Right
    });
    let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    counters.hashing_nanos.fetch_add(nanos, Ordering::Relaxed);
    let verified = if right { &counters.right } else { &counters.wrong };
    verified.fetch_add(1, Ordering::Relaxed);
    answer(attempt, right);
}
