//! What one thread has subscribed, the others route by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tidegate_core::ids::{SessionKey, ShardId};
use tidegate_core::index::{Index, Options, Route, RouteCache, Subscriber};

fn session(slot: u32) -> SessionKey {
    SessionKey { shard: ShardId(0), durable: false, slot, generation: 0 }
}

fn reaches(route: &Route, slot: u32) -> bool {
    route.groups.iter().any(|group| group.targets.iter().any(|target| target.slot == slot))
}

/// One thread subscribes and withdraws; after each it says how far it is. The
/// other, which caches, must have seen at least that much.
fn follow(filter_of: fn(u32) -> String, topic_of: fn(u32) -> String) {
    const ROUNDS: u32 = 20_000;
    let index = Index::new(5);
    let (subscribed, withdrawn) = (AtomicU32::new(0), AtomicU32::new(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=ROUNDS {
                let filter: Arc<str> = filter_of(n).into();
                let options = Options::default();
                let subscriber = Subscriber { session: session(n), options, subscription_id: 0 };
                assert!(index.subscribe(&filter, subscriber));
                subscribed.store(n, Ordering::Release);
                if n > 8 {
                    assert!(index.unsubscribe(&filter_of(n - 8), session(n - 8)));
                    withdrawn.store(n - 8, Ordering::Release);
                }
            }
            done.store(true, Ordering::Release);
        });
        let mut cache = RouteCache::new(64, 5);
        while !done.load(Ordering::Acquire) {
            let (there, gone) =
                (subscribed.load(Ordering::Acquire), withdrawn.load(Ordering::Acquire));
            if there == 0 {
                continue;
            }
            let route = Arc::clone(cache.route(&index, &topic_of(there)));
            // Unless it was withdrawn since.
            if !reaches(&route, there) {
                assert!(withdrawn.load(Ordering::Acquire) + 1 >= there, "{there} is not routed to");
            }
            if gone > 0 {
                let route = cache.route(&index, &topic_of(gone));
                assert!(!reaches(route, gone), "{gone} is still routed to");
            }
        }
        for n in 1..=ROUNDS {
            let there = n > ROUNDS - 8;
            assert_eq!(reaches(cache.route(&index, &topic_of(n)), n), there, "{n} at the end");
        }
    });
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
