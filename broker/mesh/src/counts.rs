//! What is counted, for metrics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::limits::REFUSALS_LOGGED_PER_SECOND;

/// Who refused whom, and why.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Refused {
    /// The peer refused us; else we it.
    pub by_peer: bool,
    /// The reason's name in `docs/protocol.md`; besides: `tls`, `handshakes`
    /// (too many at a time), `unknown` (a newer peer's).
    pub reason: &'static str,
}

/// A look at the counters.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Connections that were refused, in the handshake or after it.
    pub refused: BTreeMap<Refused, u64>,
    /// Sessions that came up.
    pub ups: u64,
    /// Sessions that were up and ended.
    pub downs: u64,
    /// Calls of peers that were dealt with, or refused.
    pub calls_handled: u64,
    /// Calls of peers that were too many at a time.
    pub calls_busy: u64,
    /// Answers that nobody waited for any more.
    pub answers_late: u64,
    /// Answers that found no room before their time was over.
    pub answers_dropped: u64,
    /// Pieces of mail received.
    pub mails: u64,
    /// Pings that were sent because nothing was heard.
    pub pings: u64,
    /// Pongs that came.
    pub pongs: u64,
}

macro_rules! counters {
    ($($name:ident),+) => {
        /// The counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            refused: Mutex<BTreeMap<Refused, u64>>,
            logged: Mutex<Logged>,
            $(pub(crate) $name: AtomicU64,)+
        }

        impl Counters {
            pub(crate) fn look(&self) -> Counts {
                Counts {
                    refused: self.refused.lock().expect("no panic while it is held").clone(),
                    $($name: self.$name.load(Ordering::Relaxed),)+
                }
            }
        }
    };
}

counters!(
    ups,
    downs,
    calls_handled,
    calls_busy,
    answers_late,
    answers_dropped,
    mails,
    pings,
    pongs
);

#[derive(Debug, Default)]
struct Logged {
    second: Option<Instant>,
    lines: u32,
}

impl Counters {
    /// Counts a refusal; says whether it may be logged.
    pub(crate) fn refuse(&self, by_peer: bool, reason: &'static str) -> bool {
        let mut refused = self.refused.lock().expect("no panic while it is held");
        *refused.entry(Refused { by_peer, reason }).or_default() += 1;
        drop(refused);
        let mut logged = self.logged.lock().expect("no panic while it is held");
        let now = Instant::now();
        if logged.second.is_none_or(|then| now - then >= Duration::from_secs(1)) {
            *logged = Logged { second: Some(now), lines: 0 };
        }
        logged.lines += 1;
        logged.lines <= REFUSALS_LOGGED_PER_SECOND
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
