//! Topics: what a match, a hit in a shard's route cache and a subscribe cost.
//!
//! `cargo bench -p benches --bench topics`. Before the timings it prints what
//! criterion cannot measure: bytes a subscription, from the resident set, and
//! the longest single subscribe, in CPU time of the thread.
#![allow(clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group};
use rustix::time::{ClockId, clock_gettime};
use tidegate_core::ids::{SessionKey, ShardId};
use tidegate_core::index::{Index, Member, Options, RouteCache, Subscriber};
use tidegate_core::retained::{Cursor, Retained};

const MILLION: u32 = 1_000_000;
/// Subscribes in a churn whose longest one counts as the pause.
const CHURN: u32 = 200_000;
/// Tells a child process which figures to print.
const FIGURE: &str = "TOPICS_FIGURE";

fn subscriber(n: u32) -> Subscriber {
    let session =
        SessionKey { shard: ShardId((n % 2) as u16), durable: false, slot: n / 2, generation: 1 };
    Subscriber { session, options: Options::new(1, false, false), subscription_id: 0 }
}

fn filters(of: impl Fn(u32) -> String) -> Vec<Arc<str>> {
    (0..MILLION).map(|n| of(n).into()).collect()
}

fn full(filters: &[Arc<str>]) -> Index {
    let index = Index::new(1);
    for (n, filter) in (0..).zip(filters) {
        index.subscribe(filter, subscriber(n));
    }
    index
}

/// Each call another of a million numbers, in no order that a cache could use.
fn scattered(step: &mut u32) -> u32 {
    *step = step.wrapping_add(0x9E37_79B9);
    ((u64::from(*step) * u64::from(MILLION)) >> 32) as u32
}

fn resident_bytes() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs is there");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<i64>().ok());
    pages.expect("the second field of statm is a number") * 4096
}

fn cpu_ns() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// Subscribes and unsubscribes `CHURN` fresh filters and prints the costs.
fn churn(name: &str, index: &Index, of: impl Fn(u32) -> String) {
    let fresh: Vec<Arc<str>> = (MILLION..MILLION + CHURN).map(|n| of(n).into()).collect();
    for add in [true, false] {
        let mut costs = Vec::with_capacity(fresh.len());
        for (n, filter) in (MILLION..).zip(&fresh) {
            let start = cpu_ns();
            // A node allocates kilobytes all the time. A loop that never does
            // lets glibc pile up small freed chunks, and one call in the end
            // pays 45 ms for all of them.
            black_box(Vec::<u8>::with_capacity(2048));
            if add {
                index.subscribe(filter, subscriber(n));
            } else {
                index.unsubscribe(filter, subscriber(n).session);
            }
            costs.push(cpu_ns() - start);
        }
        costs.sort_unstable();
        let mean = costs.iter().sum::<i64>() / costs.len() as i64;
        let p999 = costs[costs.len() * 999 / 1000];
        let what = if add { "subscribe" } else { "unsubscribe" };
        println!(
            "{name}: {what} at 1 M: mean {mean} ns, p99.9 {p999} ns, longest {} ns",
            costs[costs.len() - 1]
        );
    }
}

fn figures(name: &str, of: impl Fn(u32) -> String) {
    let filters = filters(&of);
    let before = resident_bytes();
    let start = Instant::now();
    let index = full(&filters);
    let ns = start.elapsed().as_nanos() / u128::from(MILLION);
    let bytes = (resident_bytes() - before) / i64::from(MILLION);
    println!("{name}: {bytes} bytes a subscription beside the filter, built at {ns} ns each");
    churn(name, &index, of);
}

fn exact(n: u32) -> String {
    format!("plant/{}/sensor/{n}", n % 100)
}

fn device(n: u32) -> String {
    format!("dev/{n}/#")
}

fn plus_first(n: u32) -> String {
    format!("+/{n}/state")
}

fn plus_second(n: u32) -> String {
    format!("site/+/{n}/state")
}

const FIGURES: [fn(); 7] = [
    || figures("exact, one a filter", exact),
    || figures("exact, four a filter", |n| format!("room/{}", n / 4)),
    || figures("dev/ID/#", device),
    || figures("+/ID/state", plus_first),
    || figures("site/+/ID/state", plus_second),
    || figures("one exact filter", |_| "news/all".into()),
    || figures("one wildcard filter", |_| "news/#".into()),
];

/// Each in a process of its own: what an earlier one has freed would hide what
/// the next one takes.
fn print_figures() {
    let bench = std::env::current_exe().expect("the bench knows its own file");
    for figure in 0..FIGURES.len() {
        let mut own = std::process::Command::new(&bench);
        let status = own.env(FIGURE, figure.to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "figure {figure} failed");
    }
}

fn hits(criterion: &mut Criterion) {
    let index = full(&filters(exact));
    let topics: Vec<String> = (0..100).map(|n| format!("plant/{n:02}/sensor/{n:04}")).collect();
    assert!(topics.iter().all(|topic| topic.len() == 20));
    for topic in &topics {
        index.subscribe(&topic.as_str().into(), subscriber(1));
    }
    let mut cache = RouteCache::new(8192, 1);
    let mut at = 0;
    criterion.bench_function("route cache hit, 100 topics of 20 bytes", |bench| {
        bench.iter(|| {
            at = if at == 99 { 0 } else { at + 1 };
            black_box(cache.route(&index, black_box(&topics[at])));
        });
    });
    let topics: Vec<String> = (0..4000).map(|n| format!("plant/{n}/sensor/{n}")).collect();
    let mut at = 0;
    criterion.bench_function("route cache hit, 4,000 topics", |bench| {
        bench.iter(|| {
            at = if at == 3999 { 0 } else { at + 1 };
            black_box(cache.route(&index, black_box(&topics[at])));
        });
    });
}

fn matches(criterion: &mut Criterion) {
    for (name, filter, topic) in [
        ("exact", exact as fn(u32) -> String, exact as fn(u32) -> String),
        ("dev/ID/#", device, |n| format!("dev/{n}/up")),
        ("+/ID/state", plus_first, |n| format!("hall/{n}/state")),
        ("site/+/ID/state", plus_second, |n| format!("site/b/{n}/state")),
    ] {
        let index = full(&filters(filter));
        // Of 100,000 topics, so that they themselves are not what misses.
        let topics: Vec<String> = (0..100_000).map(|n| topic(n * 10)).collect();
        assert_eq!(index.route(&topics[7]).groups.len(), 1);
        let mut step = 0;
        criterion.bench_function(&format!("cold match of {name} at 1 M"), |bench| {
            bench.iter(|| {
                let topic = &topics[scattered(&mut step) as usize / 10];
                black_box(index.route(topic));
            });
        });
        let mut at = 0;
        criterion.bench_function(&format!("match of {name} at 1 M, 100 topics"), |bench| {
            bench.iter(|| {
                at = if at == 99 { 0 } else { at + 1 };
                black_box(index.route(&topics[at]));
            });
        });
        let fresh: Vec<Arc<str>> = (0..100_000).map(|n| filter(MILLION + n).into()).collect();
        let mut n = 0;
        criterion.bench_function(&format!("subscribe and unsubscribe {name} at 1 M"), |bench| {
            bench.iter(|| {
                n = (n + 1) % fresh.len();
                index.subscribe(&fresh[n], subscriber(MILLION));
                index.unsubscribe(&fresh[n], subscriber(MILLION).session);
            });
        });
    }
}

fn crowds(criterion: &mut Criterion) {
    let index = full(&filters(|_| "news/#".into()));
    let filter: Arc<str> = "news/#".into();
    criterion.bench_function("subscribe the millionth to one filter, with a route", |bench| {
        bench.iter(|| {
            index.unsubscribe(&filter, subscriber(123_456).session);
            index.subscribe(&filter, subscriber(123_456));
            black_box(index.route("news/today"));
        });
    });
    index.subscribe(&"news/today".into(), subscriber(5));
    index.subscribe(&"news/+".into(), subscriber(7));
    criterion.bench_function("merge two into a million", |bench| {
        bench.iter(|| black_box(index.route("news/today")));
    });
    let index = Index::new(1);
    for n in 0..100 {
        let member = Arc::new(Member::new(subscriber(n).session, Options::default(), 0));
        member.outstanding.store(3, std::sync::atomic::Ordering::Relaxed);
        index.subscribe_shared("g", &"jobs".into(), member);
    }
    let route = index.route("jobs");
    criterion.bench_function("pick one of 100 busy members", |bench| {
        bench.iter(|| black_box(route.shares[0].pick(None)).map(|member| member.session));
    });
}

fn retained(criterion: &mut Criterion) {
    let mut store = Retained::new();
    for n in 0..MILLION {
        store.set(format!("a/{}/s{}", n / 1000, n % 1000).into(), n);
    }
    let walk = |filter: &str| {
        let mut cursor = Cursor::new(filter.into());
        let mut budget = usize::MAX;
        let mut found = 0;
        cursor.walk(&store, &mut budget, |_, _| {
            found += 1;
            ControlFlow::Continue(())
        });
        found
    };
    let mut step = 0;
    criterion.bench_function("retained, one of 1 M by its topic", |bench| {
        bench.iter(|| {
            let n = scattered(&mut step);
            walk(&format!("a/{}/s{}", n / 1000, n % 1000))
        });
    });
    criterion.bench_function("retained, a/+/s500 of 1 M (1,000 found)", |bench| {
        bench.iter(|| walk("a/+/s500"));
    });
    criterion.bench_function("retained, a/7/# of 1 M (1,000 found)", |bench| {
        bench.iter(|| walk("a/7/#"));
    });
}

criterion_group! {
    name = topics;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2));
    targets = hits, matches, crowds, retained
}

fn main() {
    if let Ok(figure) = std::env::var(FIGURE) {
        let figure: usize = figure.parse().expect("the parent has written a number");
        return FIGURES[figure]();
    }
    let listing = std::env::args().any(|arg| arg == "--list" || arg == "--test");
    if !listing {
        print_figures();
    }
    topics();
    Criterion::default().configure_from_args().final_summary();
}
