//! What one thread has subscribed, the others route by.

use std::sync::atomic::{AtomicU32, Ordering};

use tidegate_core::ids::{SessionKey, ShardId};
use tidegate_core::index::{Index, Options, Route, RouteCache, Subscriber};

fn session(slot: u32) -> SessionKey {
    SessionKey { shard: ShardId(0), durable: false, slot, generation: 0 }
}

fn reaches(route: &Route, slot: u32) -> bool {
    route.groups.iter().any(|group| group.targets.iter().any(|target| target.slot == slot))
}

/// One thread subscribes and withdraws, and says after each how far it is; then
/// it waits, so that a route which the other has cached in the middle of the
/// change, and takes for new, is not mended by the next change.
fn follow(filter_of: fn(u32) -> String, topic_of: fn(u32) -> String) {
    const ROUNDS: u32 = 800;
    const KEPT: u32 = 8;
    let index = Index::new(5);
    let (changed, seen) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=ROUNDS {
                let options = Options::default();
                let subscriber = Subscriber { session: session(n), options, subscription_id: 0 };
                assert!(index.subscribe(&filter_of(n).into(), subscriber));
                if n > KEPT {
                    assert!(index.unsubscribe(&filter_of(n - KEPT), session(n - KEPT)));
                }
                changed.store(n, Ordering::Release);
                while seen.load(Ordering::Acquire) < n {
                    std::thread::yield_now();
                }
            }
        });
        // A failed assertion below must not leave the other waiting.
        let _release = Release(&seen);
        let mut cache = RouteCache::new(64, 5);
        let mut last = 0;
        while last < ROUNDS {
            // Looks while the change is being made, so as to cache halves of it.
            for n in [last + 1, (last + 1).saturating_sub(KEPT)] {
                cache.route(&index, &topic_of(n));
            }
            let now = changed.load(Ordering::Acquire);
            if now == last {
                continue;
            }
            assert!(reaches(cache.route(&index, &topic_of(now)), now), "{now} is not routed to");
            if now > KEPT {
                let gone = now - KEPT;
                let route = cache.route(&index, &topic_of(gone));
                assert!(!reaches(route, gone), "{gone} is still routed to");
            }
            last = now;
            seen.store(now, Ordering::Release);
        }
    });
}

struct Release<'a>(&'a AtomicU32);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.store(u32::MAX, Ordering::Release);
    }
}

#[test]
fn a_subscribe_to_one_exact_filter_is_seen_at_once() {
    follow(|_| "t/x".into(), |_| "t/x".into());
}

#[test]
fn subscribes_to_exact_filters_are_seen_at_once() {
    follow(|n| format!("t/{}", n % 64), |n| format!("t/{}", n % 64));
}

#[test]
fn subscribes_to_wildcard_filters_are_seen_at_once() {
    follow(|n| format!("+/{}/x", n % 64), |n| format!("a/{}/x", n % 64));
    follow(|n| format!("a/{}/#", n % 64), |n| format!("a/{}/x", n % 64));
    follow(|n| format!("a/+/{}", n % 64), |n| format!("a/b/{}", n % 64));
}
