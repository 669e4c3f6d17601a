//! The rows: what each measures, and the reference figures beside it.
//!
//! A scenario is measured once and may fill several lines of the table.
//! Reference figures are those of the page of figures to beat; they come from
//! another machine, so that only the multiples of the floor compare.

use benches::wire::Version;

/// Where the broker runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cores {
    /// Broker on core 0, load on core 1, one shard.
    Apart,
    /// Nothing pinned, two shards.
    Both,
}

/// Which shards of the broker a publisher and its subscriber live on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Placement {
    /// Wherever the kernel puts them.
    Any,
    /// On the same shard.
    Same,
    /// On two shards.
    Cross,
}

/// What the subscribers of a lane subscribe to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Audience {
    /// One subscriber, one exact filter.
    One,
    /// One subscriber that holds so many distinct wildcard filters.
    Wildcards(usize),
    /// A shared subscription of so many members.
    Shared(usize),
    /// So many subscribers, each of which gets each message.
    FanOut(usize),
}

/// Publishers, subscribers and their messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Messages {
    /// How many publishers.
    pub(crate) lanes: usize,
    /// Who receives.
    pub(crate) audience: Audience,
    /// QoS of messages and subscriptions.
    pub(crate) qos: u8,
    /// Messages outstanding a publisher.
    pub(crate) window: u64,
    /// Bytes of payload.
    pub(crate) payload: usize,
    /// Protocol version.
    pub(crate) version: Version,
    /// Two user properties a message.
    pub(crate) user_properties: bool,
    /// Same or other shard.
    pub(crate) placement: Placement,
    /// Messages a second over all lanes; `None` is a closed loop.
    pub(crate) rate: Option<u64>,
}

const PAIRS: Messages = Messages {
    lanes: 100,
    audience: Audience::One,
    qos: 0,
    window: 16,
    payload: 64,
    version: Version::V311,
    user_properties: false,
    placement: Placement::Any,
    rate: None,
};

/// What is done to the broker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Idle connections: memory of one, and CPU of all.
    Idle { subscribe: bool },
    /// Connections are opened.
    Connect { subscribe: bool },
    /// Messages flow.
    Messages(Messages),
    /// PINGREQ and PINGRESP, one at a time on each connection.
    Ping { connections: usize },
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// What selects it on the command line.
    pub(crate) name: &'static str,
    /// What is done.
    pub(crate) kind: Kind,
    /// Where.
    pub(crate) cores: Cores,
    /// Whether a relay that parses nothing can do it.
    pub(crate) floor: bool,
    /// Whether it wants connections on shards of its choice, which only Tidegate is known to have.
    pub(crate) placed: bool,
    /// Repetitions at least.
    pub(crate) repetitions_min: usize,
}

impl Scenario {
    /// The protocol version of its clients.
    pub(crate) fn version(&self) -> Version {
        match self.kind {
            Kind::Messages(messages) => messages.version,
            Kind::Idle { .. } | Kind::Connect { .. } | Kind::Ping { .. } => Version::V311,
        }
    }

    /// Wildcard filters of all connections.
    pub(crate) fn filters(&self) -> usize {
        match self.kind {
            Kind::Messages(Messages { lanes, audience: Audience::Wildcards(each), .. }) => {
                lanes * each
            }
            Kind::Messages(_) | Kind::Idle { .. } | Kind::Connect { .. } | Kind::Ping { .. } => 0,
        }
    }
}

/// A figure a scenario yields.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Metric {
    /// Microseconds of the broker's CPU an event.
    Cpu,
    /// Events a second.
    Rate,
    /// 99th percentile of the time from due to delivered, in microseconds.
    P99,
    /// Bytes of the broker's memory a connection (or filter).
    Bytes,
    /// Microseconds of the broker's CPU a subscribed filter.
    SubscribeCpu,
    /// Percent of a core that the idle connections cost together.
    IdlePercent,
}

/// What the broker should reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// None was set.
    Unset,
    /// At most this, whatever the machine.
    AtMost(f64),
    /// At most this on the reference machine: scaled by the measured floor.
    Scaled(f64),
    /// At least this on the reference machine: scaled by the measured floor.
    ScaledAtLeast(f64),
    /// At most this on the reference machine, which has no floor for the row:
    /// scaled by the floor of a row of the same kind.
    ScaledLike(f64, &'static str),
    /// At most so many times the floor.
    FloorTimes(f64),
    /// At most twice this line of the same broker.
    Twice(&'static str),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// The scenario that fills it.
    pub(crate) scenario: &'static str,
    /// Which of its figures.
    pub(crate) metric: Metric,
    /// Text of the row.
    pub(crate) label: &'static str,
    /// Floor and mosquitto 2.0.11 on the reference machine.
    pub(crate) reference: (Option<f64>, Option<f64>),
    /// What to reach.
    pub(crate) goal: Goal,
}

const fn apart(name: &'static str, kind: Kind) -> Scenario {
    Scenario { name, kind, cores: Cores::Apart, floor: true, placed: false, repetitions_min: 1 }
}

const fn messages(name: &'static str, messages: Messages) -> Scenario {
    apart(name, Kind::Messages(messages))
}

const fn fan_out(window: u64) -> Messages {
    Messages { lanes: 1, audience: Audience::FanOut(1000), window, ..PAIRS }
}

const fn two_shards(name: &'static str, placement: Placement) -> Scenario {
    let kind = Kind::Messages(Messages { placement, ..PAIRS });
    Scenario { cores: Cores::Both, floor: false, placed: true, ..apart(name, kind) }
}

/// All scenarios, in the order of the table.
pub(crate) const SCENARIOS: &[Scenario] = &[
    apart("idle", Kind::Idle { subscribe: false }),
    apart("idle-sub", Kind::Idle { subscribe: true }),
    apart("connect", Kind::Connect { subscribe: false }),
    apart("connect-sub", Kind::Connect { subscribe: true }),
    messages("qos0-w1", Messages { window: 1, ..PAIRS }),
    messages("qos0-w16", PAIRS),
    messages("qos1-w16", Messages { qos: 1, ..PAIRS }),
    messages("qos2-w16", Messages { qos: 2, ..PAIRS }),
    messages("fanout-w4", fan_out(4)),
    messages("fanout-w1", fan_out(1)),
    messages("wildcards", Messages { audience: Audience::Wildcards(150), ..PAIRS }),
    Scenario {
        repetitions_min: 9,
        ..messages("rate", Messages { qos: 1, rate: Some(20_000), ..PAIRS })
    },
    Scenario { cores: Cores::Both, ..messages("both-qos0-w16", PAIRS) },
    Scenario { cores: Cores::Both, ..messages("both-fanout-w4", fan_out(4)) },
    two_shards("same-shard", Placement::Same),
    two_shards("cross-shard", Placement::Cross),
    messages("v5-props", Messages { version: Version::V5, user_properties: true, ..PAIRS }),
    messages("4kib", Messages { payload: 4096, ..PAIRS }),
    messages("64kib", Messages { payload: 65_536, window: 4, ..PAIRS }),
    Scenario {
        floor: false,
        ..messages(
            "share",
            Messages { version: Version::V5, audience: Audience::Shared(2), ..PAIRS },
        )
    },
    apart("ping", Kind::Ping { connections: 100 }),
    Scenario {
        floor: false,
        ..messages("wildcards-1m", Messages { audience: Audience::Wildcards(10_000), ..PAIRS })
    },
];

const fn line(
    scenario: &'static str,
    metric: Metric,
    label: &'static str,
    reference: (Option<f64>, Option<f64>),
    goal: Goal,
) -> Line {
    Line { scenario, metric, label, reference, goal }
}

const NONE: (Option<f64>, Option<f64>) = (None, None);

const fn peers(floor: f64, mosquitto: f64) -> (Option<f64>, Option<f64>) {
    (Some(floor), Some(mosquitto))
}

/// All lines of the table.
pub(crate) const LINES: &[Line] = &[
    line(
        "idle",
        Metric::Bytes,
        "user bytes, idle connection",
        peers(71.0, 735.0),
        Goal::AtMost(400.0),
    ),
    line(
        "idle",
        Metric::IdlePercent,
        "CPU of 15,000 idle connections, % of a core",
        NONE,
        Goal::AtMost(0.1),
    ),
    line(
        "idle-sub",
        Metric::Bytes,
        "user bytes, idle connection + one own subscription",
        peers(71.0, 1766.0),
        Goal::AtMost(640.0),
    ),
    line("connect", Metric::Cpu, "CPU a connect", peers(9.1, 15.3), Goal::Scaled(11.0)),
    line(
        "connect-sub",
        Metric::Cpu,
        "CPU a connect + subscribe",
        peers(14.0, 25.3),
        Goal::Scaled(17.0),
    ),
    line("qos0-w1", Metric::Cpu, "QoS 0, W1", peers(3.99, 7.3), Goal::Scaled(4.8)),
    line("qos0-w16", Metric::Cpu, "QoS 0, W16", peers(0.22, 5.3), Goal::Scaled(0.55)),
    line("qos1-w16", Metric::Cpu, "QoS 1, W16", peers(0.43, 10.6), Goal::Scaled(0.9)),
    line(
        "qos2-w16",
        Metric::Cpu,
        "QoS 2, W16",
        (None, Some(21.7)),
        Goal::ScaledLike(1.6, "qos1-w16"),
    ),
    line(
        "fanout-w4",
        Metric::Cpu,
        "fan-out 1 to 1,000, W4, a delivery",
        peers(0.90, 5.4),
        Goal::Scaled(1.1),
    ),
    line(
        "fanout-w1",
        Metric::Cpu,
        "fan-out 1 to 1,000, W1, a delivery",
        peers(2.59, 5.75),
        Goal::Scaled(3.2),
    ),
    line(
        "wildcards",
        Metric::Cpu,
        "15,000 wildcard filters, QoS 0, W16",
        (None, Some(8.1)),
        Goal::ScaledLike(1.5, "qos0-w16"),
    ),
    line(
        "rate",
        Metric::P99,
        "20,000 msg/s QoS 1, p99, us",
        peers(1876.0, 2834.0),
        Goal::FloorTimes(1.1),
    ),
    line("rate", Metric::Cpu, "20,000 msg/s QoS 1, CPU", peers(18.1, 21.5), Goal::Scaled(20.0)),
    line(
        "both-qos0-w16",
        Metric::Rate,
        "both cores: QoS 0, W16, msg/s",
        peers(3.6e6, 180e3),
        Goal::ScaledAtLeast(2e6),
    ),
    line(
        "both-fanout-w4",
        Metric::Rate,
        "both cores: fan-out, W4, deliveries/s",
        peers(1.05e6, 154e3),
        Goal::ScaledAtLeast(950e3),
    ),
    line(
        "same-shard",
        Metric::Cpu,
        "2 shards, pairs on the same shard, QoS 0, W16",
        NONE,
        Goal::Unset,
    ),
    line(
        "cross-shard",
        Metric::Cpu,
        "2 shards, pairs across shards, QoS 0, W16",
        NONE,
        Goal::Twice("same-shard"),
    ),
    line("v5-props", Metric::Cpu, "5.0, two user properties, QoS 0, W16", NONE, Goal::Unset),
    line("4kib", Metric::Cpu, "payload 4 KiB, QoS 0, W16", NONE, Goal::Unset),
    line("64kib", Metric::Cpu, "payload 64 KiB, QoS 0, W4", NONE, Goal::Unset),
    line("share", Metric::Cpu, "`$share`, groups of 2, QoS 0, W16", NONE, Goal::Unset),
    line("ping", Metric::Cpu, "PINGREQ, one at a time on 100 connections", NONE, Goal::Unset),
    line(
        "wildcards-1m",
        Metric::SubscribeCpu,
        "1 M wildcard filters: CPU a filter subscribed",
        NONE,
        Goal::AtMost(20.0),
    ),
    line(
        "wildcards-1m",
        Metric::Bytes,
        "1 M wildcard filters: user bytes a filter",
        NONE,
        Goal::Unset,
    ),
    line("wildcards-1m", Metric::Cpu, "1 M wildcard filters, QoS 0, W16", NONE, Goal::Unset),
];
