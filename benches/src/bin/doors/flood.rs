//! A flood to clients that never read, in little memory, and the traffic beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::cgroup::Cgroup;
use crate::net::{Net, News};
use crate::report::{Report, mib, short};
use crate::server::{Broker, Running};
use crate::storm::{resident, show};
use crate::traffic::{KEEP_ALIVE_S, Pairs, Percentiles, Tally};
use benches::wire::{self, Template, Version};
use tidegate_loadtest::layers::tls_config;
use tidegate_loadtest::transport::Transport;

const MEMORY_BYTES: u64 = 256 << 20;
/// Half of them publish with QoS 0, half with QoS 1.
const FLOODERS: usize = 8;
/// Newcomers that are asked for at the same time at most.
const PROBES: usize = 16;
const PAYLOAD: usize = 4 * 1024;
/// The readers' topics begin here; the pairs' are below.
const TOPIC_FIRST: usize = 100_000;
const PAIRS: usize = 20;
const PAIRS_RATE: f64 = 1_000.0;
/// What a flooder has not got rid of; beyond, it waits.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
const OPEN_TIME_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const WARM: Duration = Duration::from_secs(2);

/// The size of a flood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flood<'a> {
    /// Clients that subscribe and never read.
    pub(crate) readers: usize,
    /// Time of calm before it.
    pub(crate) calm: Duration,
    /// How long it lasts.
    pub(crate) span: Duration,
    /// The cgroup below which ours is made, if not our own one.
    pub(crate) cgroup: Option<&'a Path>,
}

/// One flood over `transport`.
pub(crate) fn run(broker: &Broker, transport: Transport, flood: Flood<'_>) -> Result<Report> {
    let cgroup = Cgroup::new(flood.cgroup, MEMORY_BYTES)?;
    let mut running = broker.start_in(Some(cgroup))?;
    let addr = running.addr(transport);
    let net = Net::new(tls_config(false)?, 2 * PAIRS)?;
    let pairs = Pairs::open(net, addr, transport, PAIRS, 1, PAIRS_RATE)?;
    let mut course = Course::default();
    let (ran, tally, deliveries) =
        pairs.beside(|began| Ok(course.run(&running, transport, flood, began)))?;
    let alive = running.alive();
    // Of a broker that died there is something to tell as well.
    if alive {
        ran?;
    }
    let calm = Percentiles::between(&deliveries, course.calm.0, course.calm.1);
    let wild = Percentiles::between(&deliveries, course.flood.0, course.flood.1);
    report(broker, transport, flood, &running, alive, &course, &tally, (calm, wild))
}

#[derive(Debug, Default)]
struct Course {
    calm: (Duration, Duration),
    flood: (Duration, Duration),
    published: u64,
    probes: BTreeMap<String, u64>,
    stages: BTreeMap<String, u64>,
    resident: u64,
    before: BTreeMap<String, u64>,
    after: BTreeMap<String, u64>,
}

/// Readers, flooders and newcomers, all on this thread.
struct Scene {
    net: Net,
    readers: usize,
    next_topic: usize,
    templates: [Template; 2],
    identifiers: u64,
    unacknowledged: Vec<u32>,
    published: u64,
    probes: BTreeMap<String, u64>,
    /// Where the newcomers come in.
    probe_next: usize,
}

impl Course {
    fn run(
        &mut self,
        running: &Running,
        transport: Transport,
        flood: Flood<'_>,
        began: Instant,
    ) -> Result<()> {
        let addr = running.addr(transport);
        let mut scene = Scene::new(flood.readers)?;
        scene.open(addr, transport)?;
        thread::sleep(WARM);
        let calm = began.elapsed();
        thread::sleep(flood.calm);
        let start = began.elapsed();
        self.calm = (calm, start);
        self.before = counts(&running.metrics()?);
        let until = Instant::now() + flood.span;
        let mut next_look = Instant::now();
        while Instant::now() < until {
            if Instant::now() >= next_look {
                next_look += LOOK_EVERY;
                self.flood = (start, began.elapsed());
                self.published = scene.published;
                self.probes.clone_from(&scene.probes);
                self.look(running)?;
                scene.probe(addr, transport)?;
            }
            scene.publish()?;
            scene.take_in(Duration::from_millis(5))?;
        }
        self.flood = (start, began.elapsed());
        self.published = scene.published;
        self.after = counts(&running.metrics()?);
        self.probes = scene.probes;
        Ok(())
    }

    fn look(&mut self, running: &Running) -> Result<()> {
        self.resident = self.resident.max(resident(running.pid())?);
        let metrics = running.metrics()?;
        let stage = value(&metrics, "tidegate_overload_stage").unwrap_or("unknown");
        *self.stages.entry(stage.to_owned()).or_default() += 1;
        self.after = counts(&metrics);
        Ok(())
    }
}

impl Scene {
    fn new(readers: usize) -> Result<Self> {
        Ok(Self {
            net: Net::new(tls_config(false)?, readers + FLOODERS + PROBES)?,
            readers,
            next_topic: 0,
            templates: [0, 1].map(|qos| Template::new(Version::V5, qos, 0, PAYLOAD, false)),
            identifiers: 0,
            unacknowledged: vec![0; FLOODERS],
            published: 0,
            probes: BTreeMap::new(),
            probe_next: 0,
        })
    }

    fn open(&mut self, addr: std::net::SocketAddr, transport: Transport) -> Result<()> {
        let deadline = Instant::now() + OPEN_TIME_MAX;
        let count = self.readers + FLOODERS;
        let (readers, mut next, mut settled) = (self.readers, 0, 0);
        while settled < count {
            while next < count && next - settled < 48 {
                // What a reader's kernel takes is not the broker's.
                let small = (next < readers).then_some(4 * 1024);
                self.net.open_with(next, addr, transport, small)?;
                next += 1;
            }
            let wait = Instant::now() + Duration::from_millis(100);
            self.net.turn(wait, &mut |net, index, news| {
                match news {
                    News::Ready => {
                        let id = format!("flood{index:011}");
                        net.push(index, &wire::connect(Version::V5, &id, KEEP_ALIVE_S));
                    }
                    News::Frame(frame) if frame.kind() == 2 => {
                        ensure!(frame.body.get(1) == Some(&0), "CONNACK {:?}", frame.body);
                        match index < readers {
                            true => {
                                let topic = wire::topic(TOPIC_FIRST + index);
                                let filters = std::iter::once(topic.as_str());
                                let qos = (index % 2) as u8;
                                net.push(index, &wire::subscribe(Version::V5, 1, filters, qos));
                            }
                            false => settled += 1,
                        }
                    }
                    News::Frame(_) => {
                        settled += 1;
                        net.stop_reading(index)?;
                    }
                    News::Gone(why) => bail!("connection {index}: {}", why.label()),
                }
                Ok(())
            })?;
            ensure!(Instant::now() < deadline, "{settled} of {count} came in");
        }
        Ok(())
    }

    /// Each flooder sends as long as the broker takes it.
    fn publish(&mut self) -> Result<()> {
        for flooder in 0..FLOODERS {
            let index = self.readers + flooder;
            let qos = flooder % 2;
            // 64 at QoS 1 are on their way; QoS 0 knows no window but the socket's.
            for _ in 0..64 {
                if !self.net.is_open(index)
                    || self.net.unsent(index) > UNSENT_BYTES_MAX
                    || (qos == 1 && self.unacknowledged[flooder] >= 64)
                {
                    break;
                }
                self.templates[qos].renumber(TOPIC_FIRST + self.next_topic);
                self.next_topic = (self.next_topic + 1) % self.readers;
                self.identifiers += 1;
                self.templates[qos].identify(self.identifiers);
                self.unacknowledged[flooder] += qos as u32;
                self.published += 1;
                self.net.push(index, self.templates[qos].bytes());
            }
        }
        self.net.flush()
    }

    /// One more client asks to come in; how it fares is counted.
    fn probe(&mut self, addr: std::net::SocketAddr, transport: Transport) -> Result<()> {
        let index = self.readers + FLOODERS + self.probe_next;
        self.probe_next = (self.probe_next + 1) % PROBES;
        if self.net.is_open(index) {
            *self.probes.entry("no answer".to_owned()).or_default() += 1;
            self.net.close(index);
        }
        self.net.open(index, addr, transport)
    }

    fn take_in(&mut self, wait: Duration) -> Result<()> {
        let Self { net, readers, unacknowledged, probes, .. } = self;
        let first_probe = *readers + FLOODERS;
        net.turn(Instant::now() + wait, &mut |net, index, news| {
            let mut count = |what: String| *probes.entry(what).or_default() += 1;
            match news {
                News::Ready => {
                    let id = format!("probe{index:011}");
                    net.push(index, &wire::connect(Version::V5, &id, KEEP_ALIVE_S));
                }
                News::Frame(frame) if frame.kind() == 2 => {
                    count(format!("CONNACK {:#04x}", frame.body.get(1).unwrap_or(&255)));
                    net.close(index);
                }
                News::Frame(frame) if frame.kind() == 4 => {
                    let waiting = &mut unacknowledged[index - *readers];
                    *waiting = waiting.saturating_sub(1);
                }
                News::Frame(frame) if index < first_probe => {
                    count(format!("flooder told packet type {}", frame.kind()));
                }
                News::Frame(_) => {}
                News::Gone(why) if index >= first_probe => count(why.label().to_owned()),
                News::Gone(why) if index >= *readers => {
                    count(format!("flooder {}", why.label()));
                }
                News::Gone(why) => count(format!("reader {}", why.label())),
            }
            Ok(())
        })
    }
}

fn report(
    broker: &Broker,
    transport: Transport,
    flood: Flood<'_>,
    running: &Running,
    alive: bool,
    course: &Course,
    tally: &Tally,
    (calm, wild): (Percentiles, Percentiles),
) -> Result<Report> {
    let mut report = Report::new(format!("flood.{transport}.{broker}"), &["what", "value"]);
    let mut row = |what: &str, value: String| report.row([what.to_owned(), value]);
    let span = (course.flood.1.saturating_sub(course.flood.0)).as_secs_f64();
    let peak = running.cgroup.as_ref().and_then(Cgroup::peak).unwrap_or(0);
    let killed = running.cgroup.as_ref().and_then(Cgroup::killed).unwrap_or(0);
    let rate = wild.count as f64 / span;

    row("flood", {
        format!("{} that never read, over {transport}, {broker}", short(flood.readers as f64))
    });
    row("flood taken", {
        let each = course.published as f64 / span;
        let bytes = each * PAYLOAD as f64 / f64::from(1 << 20);
        format!("{} messages a second, {bytes:.1} MiB a second", short(each))
    });
    row("broker alive / killed by the kernel", format!("{alive} / {killed}"));
    row("pairs, calm: p50 / p99 / p99.9 / max", show(&calm));
    row("pairs, flood: p50 / p99 / p99.9 / max", show(&wild));
    row("pairs' rate in the flood", {
        format!("{} of {} a second", short(rate), short(PAIRS_RATE))
    });
    row("pairs: sent / delivered / lost", {
        format!("{} / {} / {}", tally.sent, tally.delivered, tally.lost)
    });
    row("memory: limit / cgroup's peak / own peak", {
        format!("{} / {} / {}", mib(MEMORY_BYTES), mib(peak), mib(course.resident))
    });
    row("looks at each stage of overload", format!("{:?}", course.stages));
    row("newcomers", format!("{:?}", course.probes));
    for (name, after) in &course.after {
        let before = course.before.get(name).copied().unwrap_or(0);
        if *after > before {
            row(name, (after - before).to_string());
        }
    }

    report.fact("calm.p99_us", calm.p99.as_micros() as u64);
    report.fact("flood.p99_us", wild.p99.as_micros() as u64);
    report.fact("flood.p999_us", wild.p999.as_micros() as u64);
    report.fact("pairs_rate", rate);
    report.fact("memory_peak", peak);
    report.fact("published", course.published);
    report.fact("newcomers", serde_json::to_value(&course.probes)?);

    report.bound("the broker lives", alive && killed == 0);
    report.bound(format!("{} of the pairs were cut off", tally.lost), tally.lost == 0);
    let undelivered = tally.sent - tally.delivered;
    report.bound(format!("{undelivered} messages of the pairs are missing"), undelivered == 0);
    let words = format!("{} of {} messages a second flow", short(rate), short(PAIRS_RATE));
    report.goal(words, rate >= 0.98 * PAIRS_RATE);
    Ok(report)
}

/// The counters that say what was refused, dropped and ended.
fn counts(metrics: &str) -> BTreeMap<String, u64> {
    const NAMES: [&str; 4] = [
        "tidegate_connections_closed_total",
        "tidegate_connections_rejected_total",
        "tidegate_messages_dropped_total",
        "tidegate_accept_halts_total",
    ];
    let mut counts = BTreeMap::new();
    for line in metrics.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or_default();
        if !NAMES.contains(&name) {
            continue;
        }
        let reason = series.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next());
        let name = name.trim_start_matches("tidegate_").trim_end_matches("_total");
        let name = format!("{name} {}", reason.unwrap_or_default());
        *counts.entry(name.trim_end().to_owned()).or_default() += value.parse().unwrap_or(0);
    }
    counts
}

fn value<'a>(metrics: &'a str, name: &str) -> Option<&'a str> {
    let line = metrics.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_by_their_reason() {
        let metrics = "tidegate_messages_dropped_total{reason=\"queue_full\",shard=\"0\"} 3\n\
                       tidegate_messages_dropped_total{reason=\"queue_full\",shard=\"1\"} 4\n\
                       tidegate_accept_halts_total 2\ntidegate_overload_stage 1\n";
        let counts = counts(metrics);
        assert_eq!(counts["messages_dropped queue_full"], 7);
        assert_eq!(counts["accept_halts"], 2);
        assert_eq!(value(metrics, "tidegate_overload_stage"), Some("1"));
    }
}
