//! Everything a run found, as one value.
//!
//! The engine fills it, the faces show it, `compare` reads two of it from
//! disk. It holds measurements, not conclusions of the reader: a ratio or a
//! quotient is a method, so that a figure and its parts cannot disagree.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ledger::registers::RetainedReport;

/// The layout of the JSON; a reader refuses another.
pub const FORMAT: u32 = 1;

/// One run against one broker.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Outcome {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// The harness's version.
    pub tool: String,
    /// What to call this run beside others, such as `tidegate` or `mosquitto 2.1.2`.
    pub label: String,
    /// The command that repeats it.
    pub command: String,
    /// The run's number, as in every message's identity.
    pub run: u32,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long it ran, connecting and all.
    pub duration_ms: u64,
    /// What was asked for.
    pub config: Config,
    /// Where it ran.
    pub machine: Machine,
    /// One every [`Config::sample_ms`], in order.
    pub samples: Vec<Sample>,
    /// How the connections came up and stayed.
    pub connections: Connections,
    /// Messages and bytes of the whole run.
    pub totals: Totals,
    /// From the time a message was due to its delivery.
    pub latency: Latency,
    /// From the time a QoS 1 or 2 message was due to its last acknowledgement.
    pub ack_latency: Latency,
    /// The broker's CPU, a phase each.
    pub costs: Vec<Cost>,
    /// The broker's memory, where it could be read.
    pub memory: Option<Memory>,
    /// What became of every message.
    pub ledger: LedgerReport,
    /// The harness's own load.
    pub harness: Harness,
    /// Errors by their name, from a closed set; never an address or a client id.
    pub errors: BTreeMap<String, u64>,
    /// Why the figures mean nothing, if so.
    pub invalid: Option<Invalid>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Config {
    /// `connect`, `storm`, `fan_in`, `fan_out`, `pairs` and so on.
    pub scenario: String,
    /// The brokers' addresses.
    pub targets: Vec<String>,
    /// `3.1.1` or `5.0`.
    pub version: String,
    /// `tcp`, `tls`, `ws` or `wss`.
    pub transport: String,
    /// Connections in all.
    pub clients: u64,
    /// Those that publish.
    pub publishers: u64,
    /// Those that subscribe.
    pub subscribers: u64,
    /// The QoS of publishing.
    pub qos: u8,
    /// Bytes of a payload.
    pub payload_bytes: u64,
    /// Messages a second of all publishers together, on an open loop; none on
    /// a closed one.
    pub rate: Option<f64>,
    /// Messages in flight a publisher, on a closed loop.
    pub window: Option<u32>,
    /// Connects a second while ramping up.
    pub connect_rate: Option<f64>,
    /// The keep-alive announced.
    pub keepalive_s: u32,
    /// Bytes of a client id.
    pub client_id_bytes: u32,
    /// Time between samples.
    pub sample_ms: u32,
    /// Time that is measured, without ramp and drain.
    pub measure_ms: u64,
    /// Worker processes.
    pub workers: u32,
    /// `own` or `mqttbytes`.
    pub codec: String,
    /// Sessions outlive their connections.
    pub persistent: bool,
    /// Losses of connections are part of the run.
    pub reconnect: bool,
    /// What else a scenario was told.
    pub more: BTreeMap<String, String>,
}

/// Where a run took place.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Machine {
    /// Cores the system has.
    pub cores: u32,
    /// Cores the broker may use, where it could be read.
    pub broker_cores: Option<u32>,
    /// Cores the harness may use.
    pub harness_cores: Option<u32>,
    /// The kernel's release.
    pub kernel: String,
    /// Memory of the system.
    pub memory_bytes: u64,
}

/// The state at one moment and what happened since the moment before.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Sample {
    /// Time since the run's epoch.
    pub at_ms: u64,
    /// Connections that have their CONNACK.
    pub connected: u64,
    /// Connections tried and not yet answered.
    pub connecting: u64,
    /// Connections established since the last sample.
    pub connects: u64,
    /// Connections lost without having been asked to since the last sample.
    pub disconnects: u64,
    /// Messages published since the last sample.
    pub published: u64,
    /// Messages acknowledged to their publisher since the last sample.
    pub acknowledged: u64,
    /// Messages delivered since the last sample.
    pub delivered: u64,
    /// Errors since the last sample.
    pub errors: u64,
    /// Latencies of the messages delivered since the last sample.
    pub latency: Quantiles,
    /// The broker's CPU time since the last sample, where it could be read.
    pub broker_user_us: Option<u64>,
    /// The same in the kernel.
    pub broker_kernel_us: Option<u64>,
    /// The broker's resident memory.
    pub broker_rss_bytes: Option<u64>,
    /// The harness's own CPU time since the last sample, user and kernel.
    pub harness_us: u64,
}

/// The usual quantiles, in nanoseconds; all zero when `count` is.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// The least.
    pub min_ns: u64,
    /// The mean.
    pub mean_ns: u64,
    /// The median.
    pub p50_ns: u64,
    /// 90 in 100 are no slower.
    pub p90_ns: u64,
    /// 99 in 100 are no slower.
    pub p99_ns: u64,
    /// 999 in 1,000 are no slower.
    pub p999_ns: u64,
    /// 9,999 in 10,000 are no slower.
    pub p9999_ns: u64,
    /// The greatest.
    pub max_ns: u64,
}

/// A whole distribution: what to read and what to merge.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Latency {
    /// For reading.
    pub quantiles: Quantiles,
    /// For merging and plotting: a value and how often it came, ascending.
    pub buckets: Vec<(u64, u64)>,
    /// Latencies beyond the histogram's range, counted as its greatest.
    pub clipped: u64,
}

/// How the connections came up and stayed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Connections {
    /// TCP connects begun.
    pub attempted: u64,
    /// CONNACKs that accepted.
    pub established: u64,
    /// CONNACKs that refused.
    pub refused: u64,
    /// Attempts that ended without a CONNACK and were made again.
    pub failed: u64,
    /// Clients without a connection at the end.
    pub missing: u64,
    /// Established, then lost without having been asked to.
    pub lost: u64,
    /// Established again after a loss or in a storm.
    pub reconnected: u64,
    /// Of these, those that found their session.
    pub resumed: u64,
    /// The most at one time.
    pub peak: u64,
    /// From the first attempt to the last CONNACK.
    pub ramp_ms: u64,
    /// From the time a connect was due to its CONNACK.
    pub latency: Latency,
    /// From the loss of a connection to the client's return, in a run that is about losses.
    pub gap: Latency,
}

impl Connections {
    /// Connections a second over the ramp.
    pub fn rate(&self) -> Option<f64> {
        // Those that came back came later than the ramp.
        let first = self.established.saturating_sub(self.reconnected);
        per(first as f64, self.ramp_ms as f64 / 1e3)
    }
}

/// Messages and bytes of the whole run.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Totals {
    /// Messages published.
    pub published: u64,
    /// Messages acknowledged to their publisher.
    pub acknowledged: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Bytes sent to the broker.
    pub sent_bytes: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// How long messages flowed.
    pub flow_ms: u64,
}

impl Totals {
    /// Messages published a second.
    pub fn publish_rate(&self) -> Option<f64> {
        per(self.published as f64, self.flow_ms as f64 / 1e3)
    }

    /// Deliveries a second.
    pub fn delivery_rate(&self) -> Option<f64> {
        per(self.delivered as f64, self.flow_ms as f64 / 1e3)
    }
}

/// What a cost was paid for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A connection established.
    Connect,
    /// A connection established with one subscription of its own.
    ConnectSubscribe,
    /// A connection established again, in a storm.
    Reconnect,
    /// A message published and delivered.
    Message,
    /// One delivery of a message with many.
    Delivery,
    /// A second of an idle connection.
    IdleSecond,
    /// A PINGREQ and its answer.
    Ping,
}

impl Event {
    /// What follows "a".
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectSubscribe => "connect + subscribe",
            Self::Reconnect => "reconnect",
            Self::Message => "message",
            Self::Delivery => "delivery",
            Self::IdleSecond => "second of an idle connection",
            Self::Ping => "ping",
        }
    }
}

/// The broker's CPU over one phase.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Cost {
    /// What the phase did.
    pub event: Event,
    /// How often.
    pub events: u64,
    /// CPU outside of the kernel.
    pub user_us: u64,
    /// CPU in the kernel.
    pub kernel_us: u64,
    /// The same event's cost in a bare relay, measured in the same run.
    pub floor_us_each: Option<f64>,
}

impl Cost {
    /// User CPU an event in microseconds.
    pub fn user_us_each(&self) -> Option<f64> {
        per(self.user_us as f64, self.events as f64)
    }

    /// Kernel CPU an event in microseconds.
    pub fn kernel_us_each(&self) -> Option<f64> {
        per(self.kernel_us as f64, self.events as f64)
    }

    /// CPU an event in microseconds.
    pub fn us_each(&self) -> Option<f64> {
        per((self.user_us + self.kernel_us) as f64, self.events as f64)
    }

    /// The cost as a multiple of the floor's.
    pub fn floors(&self) -> Option<f64> {
        per(self.us_each()?, self.floor_us_each?)
    }
}

/// The broker's memory before and with the connections.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Memory {
    /// Connections between the two measurements.
    pub connections: u64,
    /// Resident memory without them.
    pub user_before_bytes: u64,
    /// Resident memory with them.
    pub user_with_bytes: u64,
    /// Memory of the kernel without them (sockets, slab), where it could be read.
    pub kernel_before_bytes: Option<u64>,
    /// The same with them; the harness's end of each connection is in it.
    pub kernel_with_bytes: Option<u64>,
}

impl Memory {
    /// User memory a connection; none where it did not grow, since that is
    /// something else shrinking and no measurement.
    pub fn user_bytes_each(&self) -> Option<f64> {
        self.each(self.user_before_bytes, self.user_with_bytes)
    }

    /// Kernel memory a connection, both ends; none where it did not grow.
    pub fn kernel_bytes_each(&self) -> Option<f64> {
        self.each(self.kernel_before_bytes?, self.kernel_with_bytes?)
    }

    fn each(&self, before: u64, with: u64) -> Option<f64> {
        let grown = with.checked_sub(before).filter(|&grown| grown > 0)?;
        per(grown as f64, self.connections as f64)
    }
}

/// What became of every message, with the judgement.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct LedgerReport {
    /// By the QoS a subscriber could expect: the lower of the publisher's and
    /// its own.
    pub qos: [Tally; 3],
    /// Messages that two members of a group got, though nobody had lost a connection.
    pub shared_twice: u64,
    /// What became of connections whose client came a second time.
    pub takeovers: Takeovers,
    /// What looks at retained messages found.
    pub retained: RetainedReport,
    /// Sessions that should have outlived their connections and did not.
    pub forgotten: u64,
    /// Deliveries whose identity was changed on the way.
    pub damaged: u64,
    /// Deliveries to someone who had not subscribed to them.
    pub misrouted: u64,
    /// Deliveries of another run or program; they are not judged.
    pub foreign: u64,
    /// What the ledger says.
    pub verdict: Verdict,
}

/// What became of connections whose client came a second time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Takeovers {
    /// Second connections that were accepted.
    pub done: u64,
    /// First connections that lived on.
    pub lived_on: u64,
    /// First connections that ended without a word, where 5.0 asks for 0x8E.
    pub untold: u64,
}

impl Takeovers {
    pub(crate) fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.lived_on += other.lived_on;
        self.untold += other.untold;
    }
}

/// Deliveries of one QoS, where one message to two subscribers is two.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Tally {
    /// Messages published with this QoS, whoever was to receive them.
    pub published: u64,
    /// Those of them that were acknowledged.
    pub acknowledged: u64,
    /// Deliveries that the published messages called for.
    pub expected: u64,
    /// Those that came, each counted once.
    pub delivered: u64,
    /// Deliveries of what had been delivered already.
    pub duplicated: u64,
    /// First deliveries that came after a later message of their publisher.
    pub reordered: u64,
    /// Deliveries of acknowledged messages that did not come; at QoS 0, of all.
    pub lost: u64,
    /// Deliveries of messages never acknowledged that did not come.
    pub unacknowledged: u64,
    /// Deliveries of messages that nobody published.
    pub invented: u64,
    /// Deliveries beyond what the ledger could keep apart.
    pub unrecorded: u64,
}

/// The ledger's judgement.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "why")]
pub enum Verdict {
    /// No message was looked at.
    #[default]
    Unjudged,
    /// Every promise was kept.
    Good,
    /// Promises were broken: each breach with its count.
    Bad(Vec<Breach>),
    /// Nothing broken was seen, and not everything could be seen.
    Inconclusive {
        /// Deliveries that could not be told from duplicates.
        unrecorded: u64,
    },
}

/// A promise of the standard, broken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Breach {
    /// Which.
    pub promise: Promise,
    /// The QoS of the delivery, where it matters.
    pub qos: Option<u8>,
    /// How often.
    pub count: u64,
}

/// What a broker promises of messages.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// An acknowledged message is delivered (QoS 1 and 2).
    Delivery,
    /// A message is delivered at most once (QoS 0 and 2).
    Once,
    /// Messages of one publisher and topic keep their order.
    Order,
    /// A payload arrives as it was sent.
    Integrity,
    /// Only subscribers receive.
    Routing,
    /// Only what was published is delivered.
    Authenticity,
    /// A session outlives its connection for as long as was agreed.
    Session,
    /// One member of a group gets each message.
    Sharing,
    /// Who comes a second time ends its first connection.
    Takeover,
    /// Who subscribes is sent the last retained message, and none after its end.
    Retained,
}

impl Promise {
    /// What was broken, for a reader.
    pub fn breach(self) -> &'static str {
        match self {
            Self::Delivery => "acknowledged and lost",
            Self::Once => "delivered more than once",
            Self::Order => "delivered out of order",
            Self::Integrity => "damaged on the way",
            Self::Routing => "delivered to a stranger",
            Self::Authenticity => "delivered though never published",
            Self::Session => "sessions forgotten",
            Self::Sharing => "delivered to two members of a group",
            Self::Takeover => "taken over, and not ended as is due",
            Self::Retained => "retained messages wrong or missing",
        }
    }
}

/// The harness's own load, which says whether the figures are the broker's.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Harness {
    /// CPU outside of the kernel.
    pub user_us: u64,
    /// CPU in the kernel.
    pub kernel_us: u64,
    /// The busiest worker's share of its core while measuring, 0 to 1.
    pub busiest: f64,
    /// Resident memory of all workers.
    pub rss_bytes: u64,
    /// Own memory of an idle connection.
    pub bytes_each: Option<f64>,
    /// How late the schedule was kept, from due to the write.
    pub lateness: Quantiles,
    /// Messages that were due and could not be sent before the end.
    pub unsent: u64,
}

/// Why a run's figures mean nothing.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Invalid {
    /// The harness had no CPU to spare: it measured itself.
    HarnessSaturated {
        /// Share of its core, 0 to 1.
        busiest: f64,
        /// The most that is allowed.
        limit: f64,
    },
    /// The schedule was not kept, and not because of the broker.
    ScheduleMissed {
        /// Lateness at 99 in 100.
        p99_ns: u64,
        /// The most that is allowed.
        limit_ns: u64,
    },
    /// Connections could not be made for want of the harness's own ports or files.
    OutOfResources {
        /// What was missing, such as `ports` or `open files`.
        what: String,
    },
    /// The broker was gone before the end.
    BrokerGone,
    /// Stopped by hand or by its time limit.
    Interrupted,
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::HarnessSaturated { busiest, limit } => write!(
                f,
                "the harness was the bottleneck: {:.0} % of its core, limit {:.0} %",
                busiest * 100.0,
                limit * 100.0
            ),
            Self::ScheduleMissed { p99_ns, limit_ns } => write!(
                f,
                "the harness missed its schedule: p99 {:.3} ms late, limit {:.3} ms",
                *p99_ns as f64 / 1e6,
                *limit_ns as f64 / 1e6
            ),
            Self::OutOfResources { what } => write!(f, "the harness ran out of {what}"),
            Self::BrokerGone => f.write_str("the broker was gone before the end"),
            Self::Interrupted => f.write_str("stopped before its end"),
        }
    }
}

impl Outcome {
    /// Reads what [`crate::faces::json`] wrote.
    pub fn parse(text: &str) -> Result<Self, OutcomeError> {
        let outcome: Self = serde_json::from_str(text).map_err(OutcomeError::Json)?;
        if outcome.format != FORMAT {
            return Err(OutcomeError::Format { got: outcome.format });
        }
        Ok(outcome)
    }

    /// Whether the run counts and every promise was kept: exit code 0.
    ///
    /// A run without messages is judged by its connections. An attempt that was made again and
    /// came through is no failure; nor is a loss, in a run that is about losses.
    pub fn passed(&self) -> bool {
        let kept = match &self.ledger.verdict {
            Verdict::Good | Verdict::Unjudged => true,
            Verdict::Bad(_) | Verdict::Inconclusive { .. } => false,
        };
        let connections = &self.connections;
        let stayed = self.config.reconnect || connections.lost == 0;
        kept && self.invalid.is_none() && connections.missing == 0 && stayed
    }
}

/// A file that is no outcome of ours.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// Not JSON, or not this shape.
    #[error("not an outcome: {0}")]
    Json(serde_json::Error),
    /// Another version's.
    #[error("outcome of format {got}, this version reads {FORMAT}")]
    Format {
        /// The format found.
        got: u32,
    },
}

/// A quotient, where there is something to divide by.
fn per(total: f64, parts: f64) -> Option<f64> {
    (parts > 0.0).then(|| total / parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_json() {
        let outcome = Outcome {
            format: FORMAT,
            label: "tidegate".into(),
            ledger: LedgerReport {
                verdict: Verdict::Bad(vec![Breach {
                    promise: Promise::Delivery,
                    qos: Some(1),
                    count: 3,
                }]),
                ..LedgerReport::default()
            },
            invalid: Some(Invalid::HarnessSaturated { busiest: 0.99, limit: 0.9 }),
            costs: vec![Cost {
                event: Event::Message,
                events: 4,
                user_us: 6,
                kernel_us: 2,
                floor_us_each: Some(1.0),
            }],
            ..Outcome::default()
        };
        let text = serde_json::to_string(&outcome).expect("plain data");
        assert_eq!(Outcome::parse(&text).expect("our own"), outcome);
    }

    #[test]
    fn another_formats_file_is_refused() {
        let got = Outcome::parse(r#"{"format": 9}"#);
        assert!(matches!(got, Err(OutcomeError::Format { got: 9 })));
        assert!(matches!(Outcome::parse("{"), Err(OutcomeError::Json(_))));
    }

    #[test]
    fn a_figure_without_events_is_none_and_not_zero() {
        let idle = Cost {
            event: Event::Connect,
            events: 0,
            user_us: 5,
            kernel_us: 5,
            floor_us_each: None,
        };
        assert_eq!(idle.us_each(), None);
        let busy = Cost { events: 4, floor_us_each: Some(1.25), ..idle };
        assert_eq!(busy.us_each(), Some(2.5));
        assert_eq!(busy.floors(), Some(2.0));
    }

    #[test]
    fn memory_that_shrank_is_no_measurement_of_connections() {
        let mut memory = Memory {
            connections: 1_000,
            user_before_bytes: 5_000,
            user_with_bytes: 305_000,
            kernel_before_bytes: Some(9_000),
            kernel_with_bytes: Some(8_000),
        };
        assert_eq!(memory.user_bytes_each(), Some(300.0));
        assert_eq!(memory.kernel_bytes_each(), None);
        memory.connections = 0;
        assert_eq!(memory.user_bytes_each(), None);
    }

    #[test]
    fn an_invalid_run_does_not_pass_however_good_its_ledger() {
        let mut outcome = Outcome::default();
        outcome.ledger.verdict = Verdict::Good;
        assert!(outcome.passed());
        outcome.invalid = Some(Invalid::BrokerGone);
        assert!(!outcome.passed());
    }

    #[test]
    fn a_lost_connection_fails_the_run() {
        let mut outcome = Outcome::default();
        outcome.connections.lost = 1;
        assert!(!outcome.passed());
        outcome.config.reconnect = true;
        assert!(outcome.passed(), "unless the run is about losses");
    }

    #[test]
    fn an_attempt_made_again_is_no_failure_but_a_missing_client_is() {
        let mut outcome = Outcome::default();
        outcome.connections.failed = 3;
        assert!(outcome.passed());
        outcome.connections.missing = 1;
        assert!(!outcome.passed());
    }
}
