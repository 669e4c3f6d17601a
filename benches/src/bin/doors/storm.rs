//! Thousands of clients that come back at once, and what those notice who stayed.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::crowd::{Crowd, GENTLE};
use crate::net::Net;
use crate::report::{Report, mib, short};
use crate::server::{Broker, Running};
use crate::traffic::{Delivery, Pairs, Percentiles, Tally};
use benches::process::cpu_nanoseconds;
use tidegate_loadtest::layers::tls_config;
use tidegate_loadtest::transport::Transport;

/// Before anything is measured.
const WARM: Duration = Duration::from_secs(2);
const COME_TIME_MAX: Duration = Duration::from_secs(180);
/// After the storm, before memory is looked at.
const CALM_DOWN: Duration = Duration::from_secs(3);
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// The size of a storm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storm {
    /// Clients that stay, half of them publishers.
    pub(crate) established: usize,
    /// Clients that are cut off and come back.
    pub(crate) crowd: usize,
    /// Messages a second between those that stay, in sum.
    pub(crate) rate: f64,
    /// Time over which calm is measured.
    pub(crate) calm: Duration,
    /// Time without the crowd before memory is looked at for the last time.
    pub(crate) rest: Duration,
}

/// One storm over `transport`.
pub(crate) fn run(broker: &Broker, transport: Transport, storm: Storm) -> Result<Report> {
    let mut running = broker.start()?;
    let addr = running.addr(transport);
    let pairs = storm.established / 2;
    let net = Net::new(tls_config(false)?, 2 * pairs)?;
    let pairs = Pairs::open(net, addr, transport, pairs, 1, storm.rate)?;
    let net = Net::new(tls_config(false)?, storm.crowd)?;
    let mut crowd = Crowd::new(net, addr, transport, storm.crowd);

    behind_others();
    let over = AtomicBool::new(false);
    let peak = AtomicU64::new(0);
    let pid = running.pid();
    let (course, tally, deliveries) = pairs.beside(|began| {
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    peak.fetch_max(resident(pid).unwrap_or(0), Relaxed);
                    thread::sleep(SAMPLE_EVERY);
                }
            });
            let course = course(&running, &mut crowd, storm, began, &peak);
            over.store(true, Relaxed);
            course
        })
    })?;
    ensure!(running.alive(), "the broker ended");
    report(broker, transport, storm, &course, &tally, &deliveries)
}

/// What happened when; times count from the beginning of the traffic.
struct Course {
    calm: (Duration, Duration),
    storm: (Duration, Duration),
    all_back: bool,
    attempts: u64,
    failures: BTreeMap<String, u64>,
    returns: Percentiles,
    cpu: f64,
    /// Of Tidegate: the turns of its shard in the storm.
    turns: Option<Turns>,
    memory: Memory,
}

/// The broker's own bytes.
struct Memory {
    /// With those alone that stay.
    established: u64,
    /// With the crowd as well.
    full: u64,
    /// The most while the crowd came back.
    peak: u64,
    /// With the crowd back.
    back: u64,
    /// Some time after the crowd left for good.
    left: u64,
}

fn course(
    running: &Running,
    crowd: &mut Crowd,
    storm: Storm,
    began: Instant,
    peak: &AtomicU64,
) -> Result<Course> {
    let pid = running.pid();
    thread::sleep(WARM);
    let established = resident(pid)?;
    let all = crowd.come(0..storm.crowd, GENTLE, COME_TIME_MAX)?;
    ensure!(all, "{} of {} came: {:?}", crowd.up(), storm.crowd, crowd.failures);
    thread::sleep(WARM);
    let full = resident(pid)?;
    let calm = began.elapsed();
    thread::sleep(storm.calm);

    peak.store(0, Relaxed);
    let cpu = cpu_nanoseconds(pid)?;
    let turns = Turns::read(running);
    let cut = began.elapsed();
    crowd.cut();
    let all_back = crowd.come(0..storm.crowd, usize::MAX, COME_TIME_MAX)?;
    let back_at = began.elapsed();
    let cpu = (cpu_nanoseconds(pid)? - cpu) as f64 / 1e9;
    let turns = Turns::read(running).zip(turns).map(|(after, before)| after.since(&before));
    thread::sleep(CALM_DOWN);
    let highest = peak.load(Relaxed);
    let back = resident(pid)?;
    let (attempts, failures) = (crowd.attempts, crowd.failures.clone());
    let returns = Percentiles::of(crowd.returns.clone());
    crowd.turn(Duration::ZERO)?;
    let all_back = all_back && crowd.up() == storm.crowd;

    crowd.cut();
    thread::sleep(storm.rest);
    let left = resident(pid)?;
    Ok(Course {
        calm: (calm, cut),
        storm: (cut, back_at),
        all_back,
        attempts,
        failures,
        returns,
        cpu,
        turns,
        memory: Memory { established, full, peak: highest, back, left },
    })
}

/// The histogram of a shard's turns: upper bounds in seconds, and how many are within.
struct Turns(Vec<(f64, u64)>);

impl Turns {
    fn read(running: &Running) -> Option<Self> {
        let metrics = running.metrics().ok()?;
        let buckets: Vec<_> = metrics
            .lines()
            .filter_map(|line| line.strip_prefix("tidegate_shard_loop_lag_seconds_bucket"))
            .filter_map(|line| {
                let bound = line.split("le=\"").nth(1)?.split('"').next()?.parse().ok()?;
                Some((bound, line.rsplit(' ').next()?.parse().ok()?))
            })
            .collect();
        (!buckets.is_empty()).then_some(Self(buckets))
    }

    fn since(&self, before: &Self) -> Self {
        let each = self.0.iter().zip(&before.0);
        Self(each.map(|((bound, now), (_, then))| (*bound, now - then)).collect())
    }

    fn show(&self) -> String {
        let all = self.0.last().map_or(0, |(_, count)| *count);
        let at = |share: f64| {
            let wanted = (all as f64 * share).ceil() as u64;
            let found = self.0.iter().find(|(_, count)| *count >= wanted);
            show_time(
                Duration::try_from_secs_f64(found.map_or(0.0, |(bound, _)| *bound))
                    .unwrap_or(Duration::MAX),
            )
        };
        [0.5, 0.99, 1.0].map(at).join(" / ")
    }
}

fn report(
    broker: &Broker,
    transport: Transport,
    storm: Storm,
    course: &Course,
    tally: &Tally,
    deliveries: &[Delivery],
) -> Result<Report> {
    let mut report = Report::new(format!("storm.{transport}.{broker}"), &["what", "value"]);
    let mut row = |what: &str, value: String| report.row([what.to_owned(), value]);
    let calm = Percentiles::between(deliveries, course.calm.0, course.calm.1);
    let wild = Percentiles::between(deliveries, course.storm.0, course.storm.1);
    ensure!(calm.count > 0 && wild.count > 0, "nothing was delivered: {tally:?}");
    let ratio = wild.p99.as_secs_f64() / calm.p99.as_secs_f64();
    let worst = worst_second(deliveries, course.storm);
    let took = (course.storm.1 - course.storm.0).as_secs_f64();

    row("storm", format!("{} clients over {transport}, {broker}", short(storm.crowd as f64)));
    row("calm: p50 / p99 / p99.9 / max", show(&calm));
    row("storm: p50 / p99 / p99.9 / max", show(&wild));
    row("p99 of the storm's worst second", show_time(worst));
    row("p99 in the storm / calm (goal <= 2)", format!("{ratio:.2}"));
    row("messages: sent / delivered / connections lost", {
        format!("{} / {} / {}", tally.sent, tally.delivered, tally.lost)
    });
    row(
        "until all are back",
        match course.all_back {
            true => format!("{took:.2} s"),
            false => format!("NOT all, after {took:.0} s"),
        },
    );
    row("a client's return: p50 / p99 / p99.9 / max", show(&course.returns));
    row("attempts", course.attempts.to_string());
    row(
        "failed attempts",
        match course.failures.is_empty() {
            true => "none".to_owned(),
            false => format!("{:?}", course.failures),
        },
    );
    row("broker's CPU in the storm", format!("{:.2} s", course.cpu));
    if let Some(turns) = &course.turns {
        row("broker's own turns: p50 / p99 / max, at most", turns.show());
    }
    let memory = &course.memory;
    row("memory: before the crowd / with it", {
        format!("{} / {}", mib(memory.established), mib(memory.full))
    });
    row("memory: peak / all back", format!("{} / {}", mib(memory.peak), mib(memory.back)));
    let rest = format!("memory: {} s after the crowd left", storm.rest.as_secs());
    row(&rest, mib(memory.left));

    for (name, percentiles) in [("calm", &calm), ("storm", &wild)] {
        report.fact(format!("{name}.p50_us"), percentiles.p50.as_micros() as u64);
        report.fact(format!("{name}.p99_us"), percentiles.p99.as_micros() as u64);
        report.fact(format!("{name}.p999_us"), percentiles.p999.as_micros() as u64);
    }
    report.fact("p99_ratio", ratio);
    report.fact("seconds_until_back", took);
    report.fact("attempts", course.attempts);
    report.fact("failures", serde_json::to_value(&course.failures)?);
    report.fact("memory_established", memory.established);
    report.fact("memory_full", memory.full);
    report.fact("memory_peak", memory.peak);
    report.fact("memory_back", memory.back);
    report.fact("memory_left", memory.left);

    report.goal(format!("p99 in the storm is {ratio:.2} times its calm value"), ratio <= 2.0);
    report.bound("all clients are back", course.all_back);
    report.bound("nobody who stayed was cut off", tally.lost == 0);
    let undelivered = tally.sent - tally.delivered;
    report.bound(format!("{undelivered} messages were not delivered"), undelivered == 0);
    let back = memory.back as f64 / memory.full as f64;
    let words = format!("memory with all back is {back:.2} times that before the storm");
    report.goal(words, back <= 1.1);
    let left = memory.left as f64 / memory.established as f64;
    let words = format!("memory without the crowd is {left:.2} times that before it came");
    report.goal(words, left <= 1.1);
    Ok(report)
}

/// p99 of the second in which it was the highest.
fn worst_second(deliveries: &[Delivery], (from, to): (Duration, Duration)) -> Duration {
    let mut worst = Duration::ZERO;
    let mut start = from;
    while start < to {
        let end = start + Duration::from_secs(1);
        worst = worst.max(Percentiles::between(deliveries, start, end).p99);
        start = end;
    }
    worst
}

/// A few latencies in a line.
pub(crate) fn show(percentiles: &Percentiles) -> String {
    let Percentiles { p50, p99, p999, max, .. } = *percentiles;
    [p50, p99, p999, max].map(show_time).join(" / ")
}

fn show_time(time: Duration) -> String {
    match time.as_secs_f64() * 1e3 {
        seconds if seconds >= 1_000.0 => format!("{:.2} s", seconds / 1e3),
        milliseconds => format!("{} ms", short(milliseconds)),
    }
}

/// Lets this thread run before the other threads of its core, so that what it
/// measures is the broker and not the load beside it.
pub(crate) fn ahead_of_others() {
    schedule("--fifo", "10");
}

/// Lets all other threads of its core run before this one: the kernel's part of the
/// network is among them, and a storm's client must not hold it up.
pub(crate) fn behind_others() {
    schedule("--idle", "0");
}

fn schedule(class: &str, priority: &str) {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let _ = Command::new("chrt")
        .args([class, "--pid", priority, &thread])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// The process's own memory; cheaper to ask for than `smaps`, and nearly as exact.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes: u64 =
        line.and_then(|line| line.split_whitespace().next()).context("no RssAnon")?.parse()?;
    Ok(kilobytes * 1024)
}
