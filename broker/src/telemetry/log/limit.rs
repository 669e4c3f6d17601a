//! Holds back what one place in the code says too often.
//!
//! A client that fails the same way a thousand times a second must not fill a
//! disk, nor push what matters out of it. The first lines of each second show
//! what happens; the rest is counted, and told in one line every ten seconds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber, debug, error, info, trace, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::format;
use super::{ANNOUNCE_TARGET, LOG_TARGET};

/// Time between two tellings of what was held back.
pub(super) const SUMMARY_EVERY: Duration = Duration::from_secs(10);

/// What was said, by place. There are as many as the program has.
pub(super) struct RateLimit {
    per_second: AtomicU32,
    started: Instant,
    sites: RwLock<HashMap<Identifier, Arc<Site>>>,
    suppressed: AtomicU64,
    /// When what was held back was told last.
    told_at: Mutex<Instant>,
}

/// One place.
struct Site {
    metadata: &'static Metadata<'static>,
    /// The second since the start (high half), and lines in it (low half).
    window: AtomicU64,
    /// Held back since it was told.
    held: AtomicU64,
    /// The message of the first of them.
    sample: Mutex<String>,
}

impl RateLimit {
    pub(super) fn new(per_second: u32) -> RateLimit {
        let now = Instant::now();
        RateLimit {
            per_second: AtomicU32::new(per_second),
            started: now,
            sites: RwLock::default(),
            suppressed: AtomicU64::new(0),
            told_at: Mutex::new(now),
        }
    }

    /// Another limit from now on.
    pub(super) fn set(&self, per_second: u32) {
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Lines held back since the start.
    pub(super) fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    fn passes(&self, event: &Event<'_>) -> bool {
        let per_second = self.per_second.load(Ordering::Relaxed);
        let metadata = event.metadata();
        if per_second == 0 || [LOG_TARGET, ANNOUNCE_TARGET].contains(&metadata.target()) {
            return true;
        }
        let site = self.site(metadata);
        // Wraps after 136 years.
        let second = self.started.elapsed().as_secs() as u32;
        if site.count(second) <= per_second {
            return true;
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        if site.held.fetch_add(1, Ordering::Relaxed) == 0 {
            *site.sample.lock().unwrap_or_else(PoisonError::into_inner) = format::message(event);
        }
        false
    }

    fn site(&self, metadata: &'static Metadata<'static>) -> Arc<Site> {
        let id = metadata.callsite();
        let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = sites.get(&id) {
            return Arc::clone(site);
        }
        drop(sites);
        let mut sites = self.sites.write().unwrap_or_else(PoisonError::into_inner);
        let site = sites.entry(id).or_insert_with(|| {
            Arc::new(Site {
                metadata,
                window: AtomicU64::new(0),
                held: AtomicU64::new(0),
                sample: Mutex::default(),
            })
        });
        Arc::clone(site)
    }

    /// Tells what was held back since the last time, a line a place.
    pub(super) fn summarise(&self) {
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = told_at.elapsed().as_secs_f64().ceil() as u64;
        *told_at = Instant::now();
        drop(told_at);
        // Copied, as no lock may be held while a line is made.
        let sites: Vec<_> = {
            let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
            sites.values().cloned().collect()
        };
        for site in sites {
            let sample = {
                let sample = site.sample.lock().unwrap_or_else(PoisonError::into_inner);
                sample.clone()
            };
            let held = site.held.swap(0, Ordering::Relaxed);
            if held > 0 {
                tell(site.metadata, held, seconds, &sample);
            }
        }
    }
}

impl Site {
    /// Lines in this second, with this one.
    fn count(&self, second: u32) -> u32 {
        let next = |window: u64| {
            let lines = if (window >> 32) as u32 == second { window as u32 } else { 0 };
            (u64::from(second) << 32) | u64::from(lines.saturating_add(1))
        };
        let old = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |w| Some(next(w)));
        next(old.unwrap_or_else(|window| window)) as u32
    }
}

/// At the level of what was held back. The macros want it to be a constant.
fn tell(metadata: &Metadata<'_>, suppressed: u64, seconds: u64, sample: &str) {
    let source = metadata.target();
    macro_rules! tell {
        ($at:ident) => {
            $at!(
                target: LOG_TARGET,
                source,
                suppressed,
                "{sample} ... and {suppressed} more like it in {seconds} s"
            )
        };
    }
    match *metadata.level() {
        Level::ERROR => tell!(error),
        Level::WARN => tell!(warn),
        Level::INFO => tell!(info),
        Level::DEBUG => tell!(debug),
        _ => tell!(trace),
    }
}

/// The limit as a layer.
pub(super) struct Limited(pub(super) Arc<RateLimit>);

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.passes(event)
    }
}
