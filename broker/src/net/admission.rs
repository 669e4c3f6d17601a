//! How many connections a listener takes: in all, a second, and from one place.
//!
//! Asked right after the accept, before anything is kept of the connection.
//! One limit does not eat into another: a source that is over its own rate takes
//! nothing of the listener's.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tidegate_core::counters::RejectReason;
use tidegate_core::limits::Limits;
use tidegate_core::rate::{Rate, SharedBucket};
use tidegate_core::sources::{Buckets, prefix};
use tidegate_framing::trusted::Trusted;

use crate::config::{self, Listener};

/// The limits of one listener. They can be changed at any time.
#[derive(Debug)]
pub struct Admission {
    connections_max: AtomicU32,
    /// Rate and burst in one word; 0: no limit.
    connects: AtomicU64,
    source_connects: AtomicU64,
    /// PUBLISHes and bytes a second of one client; 0: no limit.
    client_rates: [AtomicU32; 2],
    blocked: ArcSwap<Trusted>,
    /// What the kernel has seen to already: [`IN_KERNEL_RATE`] and so on.
    in_kernel: AtomicU8,
    bucket: SharedBucket,
    open: AtomicU64,
    /// Of all listeners; a source has a bucket on each.
    sources: Arc<Sources>,
    index: u64,
}

/// Bits of [`Admission::set_in_kernel`]: the listener's rate and the block list.
pub const IN_KERNEL_LISTENER: u8 = 1;
/// The same for the rates of sources.
pub const IN_KERNEL_SOURCES: u8 = 2;

/// The rates of all sources.
#[derive(Debug)]
pub struct Sources {
    buckets: Buckets,
    bits_v4: u8,
    bits_v6: u8,
}

impl Sources {
    /// `seed` has to be unpredictable.
    pub fn new(seed: u64, limits: &Limits) -> Sources {
        let (bits_v4, bits_v6) = (limits.source_prefix_v4, limits.source_prefix_v6);
        Sources { buckets: Buckets::new(seed), bits_v4, bits_v6 }
    }
}

impl Admission {
    /// Of the listener with this place in the config.
    pub fn new(index: usize, listener: &Listener, sources: Arc<Sources>) -> Admission {
        let admission = Admission {
            connections_max: AtomicU32::new(u32::MAX),
            connects: AtomicU64::new(0),
            source_connects: AtomicU64::new(0),
            client_rates: Default::default(),
            blocked: ArcSwap::default(),
            in_kernel: AtomicU8::new(0),
            bucket: SharedBucket::default(),
            open: AtomicU64::new(0),
            sources,
            index: index as u64,
        };
        admission.set(listener);
        admission
    }

    /// Takes over the limits of a config that was read again.
    pub fn set(&self, listener: &Listener) {
        self.connections_max.store(listener.connections_max.unwrap_or(u32::MAX), Relaxed);
        self.connects.store(pack(listener.connects), Relaxed);
        self.source_connects.store(pack(listener.source_connects), Relaxed);
        self.blocked.store(Arc::new(Trusted::new(listener.blocked_sources.0.clone())));
        let rates = [listener.client_messages_per_second, listener.client_bytes_per_second];
        for (ours, new) in self.client_rates.iter().zip(rates) {
            ours.store(new.map_or(0, NonZeroU32::get), Relaxed);
        }
    }

    /// What the kernel refuses before it gets here, and is not held against
    /// anything a second time.
    pub fn set_in_kernel(&self, bits: u8) {
        self.in_kernel.store(bits, Relaxed);
    }

    /// PUBLISHes and bytes a second of one client that comes in now; 0: no limit.
    pub fn client_rates(&self) -> [u32; 2] {
        [0, 1].map(|n: usize| self.client_rates[n].load(Relaxed))
    }

    /// Takes one more connection in; `source` is where it comes from, if that
    /// is known. [`Admission::leave`] has to follow when it is over.
    ///
    /// # Errors
    /// It is to be closed; nothing was taken in.
    pub fn enter(&self, source: Option<IpAddr>, now_micros: u64) -> Result<(), RejectReason> {
        let max = u64::from(self.connections_max.load(Relaxed));
        if self.open.load(Relaxed) >= max {
            return Err(RejectReason::Limit);
        }
        let in_kernel = self.in_kernel.load(Relaxed);
        if let Some(source) = source
            && in_kernel & IN_KERNEL_SOURCES == 0
        {
            self.source(source, now_micros)?;
        }
        if in_kernel & IN_KERNEL_LISTENER == 0
            && let Some(rate) = unpack(self.connects.load(Relaxed))
            && !self.bucket.take(rate, now_micros)
        {
            return Err(RejectReason::Rate);
        }
        self.open.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Holds the place that a connection comes from against the block list and
    /// its rate.
    ///
    /// # Errors
    /// It is to be closed.
    pub fn source(&self, source: IpAddr, now_micros: u64) -> Result<(), RejectReason> {
        let blocked = self.blocked.load();
        if !blocked.is_empty() && blocked.contains(source) {
            return Err(RejectReason::Blocked);
        }
        let Some(rate) = unpack(self.source_connects.load(Relaxed)) else { return Ok(()) };
        let Sources { buckets, bits_v4, bits_v6 } = &*self.sources;
        let key = prefix(source, *bits_v4, *bits_v6) ^ self.index << 56;
        buckets.take(key, rate, now_micros).map_err(|_wait| RejectReason::Source)
    }

    /// A connection that was taken in is over.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

fn pack(rate: Option<config::Rate>) -> u64 {
    rate.map_or(0, |rate| u64::from(rate.per_second) << 32 | u64::from(rate.burst))
}

fn unpack(word: u64) -> Option<Rate> {
    (word > 0).then_some(Rate { per_second: (word >> 32) as u32, burst: word as u32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 5_000_000;

    fn admission(keys: &str) -> Admission {
        let text = format!("[listener.a]\nbind = '127.0.0.1:1'\n{keys}");
        let config = config::load(&text, &Default::default()).expect("a good config");
        let sources = Arc::new(Sources::new(1, &config.settings.limits));
        Admission::new(0, &config.listeners[0], sources)
    }

    fn ip(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn without_limits_everybody_comes_in() {
        let admission = admission("");
        assert!((0..100_000).all(|_| admission.enter(ip(1), NOW).is_ok()));
    }

    #[test]
    fn who_is_over_its_own_rate_takes_nothing_of_the_listener_s() {
        let admission = admission("connects_per_second = 4\nsource_connects_per_second = 2");
        assert_eq!(admission.enter(ip(1), NOW), Ok(()));
        assert_eq!(admission.enter(ip(1), NOW), Ok(()));
        for _ in 0..10 {
            assert_eq!(admission.enter(ip(1), NOW), Err(RejectReason::Source));
        }
        assert_eq!(admission.enter(ip(2), NOW), Ok(()));
        assert_eq!(admission.enter(None, NOW), Ok(()));
        assert_eq!(admission.enter(ip(3), NOW), Err(RejectReason::Rate));
    }

    #[test]
    fn a_place_is_free_again_when_somebody_leaves() {
        let admission = admission("connections_max = 1");
        assert_eq!(admission.enter(None, NOW), Ok(()));
        assert_eq!(admission.enter(None, NOW), Err(RejectReason::Limit));
        admission.leave();
        assert_eq!(admission.enter(None, NOW), Ok(()));
    }

    #[test]
    fn limits_change_while_it_runs() {
        let admission = admission("connects_per_second = 1");
        assert_eq!(admission.enter(None, NOW), Ok(()));
        assert_eq!(admission.enter(None, NOW), Err(RejectReason::Rate));
        let text = "[listener.a]\nbind = '127.0.0.1:1'";
        let config = config::load(text, &Default::default()).expect("a good config");
        admission.set(&config.listeners[0]);
        assert_eq!(admission.enter(None, NOW), Ok(()));
    }
}
