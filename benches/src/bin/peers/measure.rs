//! One scenario against one running broker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::dial::{self, Role, Spec, Subscribe};
use crate::flow::{LaneSpec, Manner, Traffic};
use crate::net::{Net, Wait};
use crate::scenario::{Audience, Kind, Messages, Metric, Placement, Scenario};
use benches::process::{anonymous_bytes, cpu_nanoseconds, thread_times};
use benches::wire::{self, Template, Version};

/// The memory of a connection is the slope between these two numbers of them.
const IDLE_CONNECTIONS: (usize, usize) = (1_000, 15_000);
/// Opened, and measured, in the connect rows.
const CONNECTS: usize = 10_000;
/// Untimed connects first, so that the broker's first-time costs are paid.
const CONNECTS_WARM: usize = 500;
const TURN_WAIT: Wait = Wait::AtMost(Duration::from_millis(100));
/// No delivery for so long, and the run fails instead of hanging.
const STALL_MAX: Duration = Duration::from_secs(20);
/// Pings that tell the shard of a connection.
const PROBE_PINGS: usize = 40;

/// What to measure, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    /// Where the broker listens.
    pub(crate) addr: SocketAddr,
    /// Its process.
    pub(crate) pid: u32,
    /// Length of a measured phase.
    pub(crate) span: Duration,
}

/// The figures of one repetition.
pub(crate) type Sample = Vec<(Metric, f64)>;

/// Measures `scenario` once.
pub(crate) fn measure(scenario: &Scenario, subject: Subject) -> Result<Sample> {
    match scenario.kind {
        Kind::Idle { subscribe } => idle(subject, subscribe),
        Kind::Connect { subscribe } => connects(subject, subscribe),
        Kind::Messages(messages) => traffic(subject, &messages),
        Kind::Ping { connections } => pings(subject, connections),
    }
}

/// Connections of no lane, each with a topic of its own.
fn lone(range: std::ops::Range<usize>, subscribe: bool) -> impl Iterator<Item = Spec> {
    range.map(move |number| Spec {
        role: Role::Idle,
        group: number,
        version: Version::V311,
        subscribe: match subscribe {
            true => Subscribe::One(wire::topic(number)),
            false => Subscribe::Nothing,
        },
        qos: 0,
    })
}

fn idle(subject: Subject, subscribe: bool) -> Result<Sample> {
    let mut net = Net::new()?;
    let (few, many) = IDLE_CONNECTIONS;
    dial::open(&mut net, subject.addr, lone(0..few, subscribe))?;
    thread::sleep(Duration::from_millis(500));
    let before = anonymous_bytes(subject.pid)?;
    dial::open(&mut net, subject.addr, lone(few..many, subscribe))?;
    thread::sleep(Duration::from_millis(500));
    let after = anonymous_bytes(subject.pid)?;
    let bytes = (after as f64 - before as f64) / (many - few) as f64;

    let cpu = cpu_nanoseconds(subject.pid)?;
    let began = Instant::now();
    thread::sleep(subject.span);
    let cpu = cpu_nanoseconds(subject.pid)? - cpu;
    let percent = 100.0 * cpu as f64 / began.elapsed().as_nanos() as f64;
    Ok(vec![(Metric::Bytes, bytes), (Metric::IdlePercent, percent)])
}

fn connects(subject: Subject, subscribe: bool) -> Result<Sample> {
    let mut net = Net::new()?;
    dial::open(&mut net, subject.addr, lone(0..CONNECTS_WARM, subscribe))?;
    let cpu = cpu_nanoseconds(subject.pid)?;
    let began = Instant::now();
    let range = CONNECTS_WARM..CONNECTS_WARM + CONNECTS;
    dial::open(&mut net, subject.addr, lone(range, subscribe))?;
    // Let the last thread leave its core, which brings its count up to date.
    let seconds = began.elapsed().as_secs_f64();
    thread::sleep(Duration::from_millis(20));
    let cpu = cpu_nanoseconds(subject.pid)? - cpu;
    Ok(vec![
        (Metric::Cpu, cpu as f64 / 1000.0 / CONNECTS as f64),
        (Metric::Rate, CONNECTS as f64 / seconds),
    ])
}

fn traffic(subject: Subject, messages: &Messages) -> Result<Sample> {
    let mut net = Net::new()?;
    let mut sample = Sample::new();
    let lanes = match messages.placement {
        Placement::Any => open_lanes(&mut net, subject, messages, &mut sample)?,
        Placement::Same | Placement::Cross => place_lanes(&mut net, subject, messages)?,
    };
    let manner = Manner {
        qos: messages.qos,
        window: messages.window,
        payload: messages.payload,
        fan_out: matches!(messages.audience, Audience::FanOut(_)),
    };
    let template = Template::new(
        messages.version,
        messages.qos,
        0,
        messages.payload,
        messages.user_properties,
    );
    let mut traffic = Traffic::new(manner, template, net.len(), lanes);
    match messages.rate {
        Some(rate) => open_loop(&mut net, &mut traffic, subject, rate, &mut sample)?,
        None => closed_loop(&mut net, &mut traffic, subject, &mut sample)?,
    }
    Ok(sample)
}

/// Opens the subscribers, then the publishers, of every lane.
fn open_lanes(
    net: &mut Net,
    subject: Subject,
    messages: &Messages,
    sample: &mut Sample,
) -> Result<Vec<LaneSpec>> {
    let (members, topics) = match messages.audience {
        Audience::One => (1, 1),
        Audience::Wildcards(filters) => (1, filters),
        Audience::Shared(members) | Audience::FanOut(members) => (members, 1),
    };
    let spec = |role, group, subscribe| Spec {
        role,
        group,
        version: messages.version,
        subscribe,
        qos: messages.qos,
    };
    let subscribers = (0..messages.lanes * members).map(|index| {
        let lane = index / members;
        let topic = wire::topic(lane * topics);
        let subscribe = match messages.audience {
            Audience::One | Audience::FanOut(_) => Subscribe::One(topic),
            Audience::Wildcards(count) => Subscribe::Wildcards { first: lane * count, count },
            Audience::Shared(_) => Subscribe::One(format!("$share/group/{topic}")),
        };
        spec(Role::Subscriber, lane, subscribe)
    });
    let memory = anonymous_bytes(subject.pid)?;
    let cpu = cpu_nanoseconds(subject.pid)?;
    let subscribers = dial::open(net, subject.addr, subscribers)?;
    if topics > 1 {
        thread::sleep(Duration::from_millis(200));
        let filters = (messages.lanes * topics) as f64;
        let cpu = cpu_nanoseconds(subject.pid)? - cpu;
        let memory = anonymous_bytes(subject.pid)? as f64 - memory as f64;
        sample.push((Metric::SubscribeCpu, cpu as f64 / 1000.0 / filters));
        sample.push((Metric::Bytes, memory / filters));
    }
    let publishers =
        (0..messages.lanes).map(|lane| spec(Role::Publisher, lane, Subscribe::Nothing));
    let publishers = dial::open(net, subject.addr, publishers)?;
    Ok(publishers
        .into_iter()
        .zip(subscribers.chunks(members))
        .enumerate()
        .map(|(lane, (publisher, members))| LaneSpec {
            publisher,
            subscribers: members.to_vec(),
            topics: (lane * topics, topics),
        })
        .collect())
}

/// Opens connections until there are enough on two shards, and pairs them.
///
/// The shard of a connection is the thread of the broker that its pings cost
/// most: an observation from outside, that works for any broker.
fn place_lanes(net: &mut Net, subject: Subject, messages: &Messages) -> Result<Vec<LaneSpec>> {
    let needed = messages.lanes;
    let mut shards: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let specs = (0..messages.lanes * 3).map(|group| Spec {
        role: Role::Echo,
        group,
        version: messages.version,
        subscribe: Subscribe::Nothing,
        qos: 0,
    });
    for index in dial::open(net, subject.addr, specs)? {
        let before: BTreeMap<_, _> =
            thread_times(subject.pid)?.into_iter().map(|t| (t.thread, t.nanoseconds)).collect();
        for _ in 0..PROBE_PINGS {
            ping_once(net, index)?;
        }
        let after = thread_times(subject.pid)?;
        let busiest = after.iter().max_by_key(|time| {
            time.nanoseconds - before.get(&time.thread).copied().unwrap_or_default()
        });
        let Some(busiest) = busiest else { bail!("the broker has no threads") };
        shards.entry(busiest.thread).or_default().push(index);
    }
    shards.retain(|_, connections| connections.len() >= needed);
    let mut shards = shards.into_values();
    let (Some(left), Some(right)) = (shards.next(), shards.next()) else {
        bail!("the connections are not on two shards of at least {needed} each");
    };
    // Half the lanes publish on the one shard, half on the other.
    let half = needed / 2;
    let mut pairs = Vec::with_capacity(needed);
    for index in 0..half {
        pairs.push(match messages.placement {
            Placement::Cross => (left[index], right[index]),
            Placement::Same | Placement::Any => (left[index], left[half + index]),
        });
        pairs.push(match messages.placement {
            Placement::Cross => (right[half + index], left[half + index]),
            Placement::Same | Placement::Any => (right[index], right[half + index]),
        });
    }
    let mut waiting = pairs.len();
    for (lane, (_, subscriber)) in pairs.iter().enumerate() {
        let topic = wire::topic(lane);
        let filters = std::iter::once(topic.as_str());
        net.push(*subscriber, &wire::subscribe(messages.version, 1, filters, messages.qos));
    }
    net.flush()?;
    let deadline = Instant::now() + STALL_MAX;
    while waiting > 0 {
        ensure!(Instant::now() < deadline, "{waiting} SUBACK missing");
        net.turn(TURN_WAIT, &mut |_, _, frame| {
            ensure!(frame.kind() == 9, "packet type {} for a SUBSCRIBE", frame.kind());
            waiting -= 1;
            Ok(())
        })?;
    }
    Ok(pairs
        .into_iter()
        .enumerate()
        .map(|(lane, (publisher, subscriber))| LaneSpec {
            publisher,
            subscribers: vec![subscriber],
            topics: (lane, 1),
        })
        .collect())
}

fn closed_loop(
    net: &mut Net,
    traffic: &mut Traffic,
    subject: Subject,
    sample: &mut Sample,
) -> Result<()> {
    traffic.start(net);
    net.flush()?;
    run_closed(net, traffic, warm_up(subject.span))?;
    let mut phase = Phase::begin(subject.pid, traffic.deliveries)?;
    run_closed(net, traffic, subject.span)?;
    phase.end(subject.pid)?;
    phase.report(traffic.deliveries, sample)
}

fn run_closed(net: &mut Net, traffic: &mut Traffic, span: Duration) -> Result<()> {
    let until = Instant::now() + span;
    let mut last = (traffic.deliveries, Instant::now());
    loop {
        net.turn(TURN_WAIT, &mut |net, from, frame| traffic.on_frame(net, from, frame))?;
        traffic.refill(net);
        net.flush()?;
        let now = Instant::now();
        if now >= until {
            return Ok(());
        }
        if last.0 == traffic.deliveries {
            ensure!(now - last.1 < STALL_MAX, "no delivery for {STALL_MAX:?}");
        } else {
            last = (traffic.deliveries, now);
        }
    }
}

fn open_loop(
    net: &mut Net,
    traffic: &mut Traffic,
    subject: Subject,
    rate: u64,
    sample: &mut Sample,
) -> Result<()> {
    let interval = 1_000_000_000 / rate;
    let lanes = traffic.lane_count();
    let mut next = 0_u64;
    let mut run = |span: Duration, net: &mut Net, traffic: &mut Traffic| -> Result<()> {
        let until = Instant::now() + span;
        while Instant::now() < until {
            let elapsed = traffic.began().elapsed().as_nanos() as u64;
            while next * interval <= elapsed {
                traffic.send_due(net, (next % lanes as u64) as usize, next * interval)?;
                next += 1;
            }
            net.flush()?;
            let due = traffic.began() + Duration::from_nanos(next * interval);
            net.turn(Wait::Until(due), &mut |net, from, frame| traffic.on_frame(net, from, frame))?;
            net.flush()?;
        }
        Ok(())
    };
    run(warm_up(subject.span), net, traffic)?;
    let before = traffic.deliveries;
    traffic.latencies = Some(Vec::with_capacity(1 << 20));
    let mut phase = Phase::begin(subject.pid, before)?;
    run(subject.span, net, traffic)?;
    phase.end(subject.pid)?;
    let mut latencies = traffic.latencies.take().unwrap_or_default();
    ensure!(!latencies.is_empty(), "nothing was delivered");
    latencies.sort_unstable();
    let p99 = latencies[(latencies.len() * 99 / 100).min(latencies.len() - 1)];
    sample.push((Metric::P99, p99 as f64 / 1000.0));
    phase.report(traffic.deliveries, sample)
}

fn pings(subject: Subject, connections: usize) -> Result<Sample> {
    let mut net = Net::new()?;
    let specs = (0..connections).map(|group| Spec {
        role: Role::Echo,
        group,
        version: Version::V311,
        subscribe: Subscribe::Nothing,
        qos: 0,
    });
    for index in dial::open(&mut net, subject.addr, specs)? {
        net.push(index, &PINGREQ);
    }
    net.flush()?;
    let mut answered = 0;
    let mut run = |span: Duration| -> Result<u64> {
        let until = Instant::now() + span;
        while Instant::now() < until {
            net.turn(TURN_WAIT, &mut |net, from, frame| {
                pong(frame.kind())?;
                answered += 1;
                net.push(from, &PINGREQ);
                Ok(())
            })?;
            net.flush()?;
        }
        Ok(answered)
    };
    let before = run(warm_up(subject.span))?;
    let mut phase = Phase::begin(subject.pid, before)?;
    let after = run(subject.span)?;
    phase.end(subject.pid)?;
    let mut sample = Sample::new();
    phase.report(after, &mut sample)?;
    Ok(sample)
}

const PINGREQ: [u8; 2] = [0xc0, 0];

/// PINGRESP, or the PINGREQ itself from the floor.
fn pong(kind: u8) -> Result<()> {
    ensure!(kind == 13 || kind == 12, "packet type {kind} for a PINGREQ");
    Ok(())
}

fn ping_once(net: &mut Net, index: usize) -> Result<()> {
    net.push(index, &PINGREQ);
    net.flush()?;
    let deadline = Instant::now() + STALL_MAX;
    let mut answered = false;
    while !answered {
        ensure!(Instant::now() < deadline, "no PINGRESP on connection {index}");
        net.turn(TURN_WAIT, &mut |_, _, frame| {
            answered = true;
            pong(frame.kind())
        })?;
    }
    Ok(())
}

fn warm_up(span: Duration) -> Duration {
    (span / 4).clamp(Duration::from_millis(200), Duration::from_secs(1))
}

/// CPU and time of a measured phase.
struct Phase {
    events: u64,
    cpu: u64,
    began: Instant,
    seconds: f64,
}

impl Phase {
    fn begin(pid: u32, events: u64) -> Result<Self> {
        let cpu = cpu_nanoseconds(pid)?;
        Ok(Self { events, cpu, began: Instant::now(), seconds: 0.0 })
    }

    fn end(&mut self, pid: u32) -> Result<()> {
        self.cpu = cpu_nanoseconds(pid)? - self.cpu;
        self.seconds = self.began.elapsed().as_secs_f64();
        Ok(())
    }

    fn report(&self, events: u64, sample: &mut Sample) -> Result<()> {
        let events = events - self.events;
        ensure!(events > 0, "nothing happened in the measured phase");
        sample.push((Metric::Cpu, self.cpu as f64 / 1000.0 / events as f64));
        sample.push((Metric::Rate, events as f64 / self.seconds));
        Ok(())
    }
}
