//! From what the workers found to the outcome.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use tidegate_loadtest::latency::Recorder;
use tidegate_loadtest::ledger::Ledger;
use tidegate_loadtest::outcome::{
    Config, Connections, FORMAT, Harness, Invalid, Latency, Machine, Outcome,
};

use crate::engine::clock::MILLISECOND;
use crate::procfs::{self, Usage};
use crate::protocol::{Part, TICK_MS};
use crate::scenario::classes::Class;
use crate::scenario::plan::{Plan, Role, Scenario};
use crate::scenario::tally::Tally;

/// A worker above this share of a core measured itself.
const BUSIEST_MAX: f64 = 0.9;
/// A schedule kept worse than this at 99 in 100 was not kept.
const LATENESS_NS_MAX: u64 = 5 * MILLISECOND;

/// What the coordinator alone knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    /// It was stopped before its end.
    pub(crate) interrupted: bool,
    /// Of all workers.
    pub(crate) usage: Usage,
    /// The busiest worker's share of a core.
    pub(crate) busiest: f64,
    /// The broker ended, and was not to.
    pub(crate) gone: bool,
    /// How often it came back.
    pub(crate) restarts: u32,
    /// Clients that are not up at the end.
    pub(crate) missing: u64,
    /// Own memory of an idle connection.
    pub(crate) bytes_each: Option<f64>,
}

/// What is known before anything happened.
pub(crate) fn begin(plan: &Plan, workers: u32, label: &str) -> Outcome {
    let closed = plan.rate == 0.0;
    let flows = match plan.scenario {
        Scenario::Connect | Scenario::Storm => false,
        Scenario::FanIn
        | Scenario::FanOut
        | Scenario::Pairs
        | Scenario::Shared
        | Scenario::Wildcard
        | Scenario::Retained
        | Scenario::Takeover
        | Scenario::Mixed
        | Scenario::Drain
        | Scenario::Upgrade => true,
    };
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let own_cores = procfs::cores(std::process::id());
    Outcome {
        format: FORMAT,
        tool: format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
        label: label.to_owned(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        run: plan.run,
        config: Config {
            scenario: plan.scenario.label().to_owned(),
            targets: plan.targets.iter().map(ToString::to_string).collect(),
            version: all_of(plan, |class| class.protocol.label().to_owned())
                .unwrap_or_else(|| plan.protocol.label().to_owned()),
            transport: all_of(plan, |class| class.transport.to_string())
                .unwrap_or_else(|| plan.transport.to_string()),
            clients: u64::from(plan.clients()),
            publishers: count(plan, |plan, role| plan.publisher(role)),
            subscribers: count(plan, |plan, role| plan.receiver(role)),
            qos: plan.qos,
            payload_bytes: u64::from(plan.payload_bytes),
            rate: (flows && !closed).then_some(plan.rate),
            window: flows.then_some(plan.window),
            connect_rate: (plan.connect_rate > 0.0).then_some(plan.connect_rate),
            keepalive_s: u32::from(plan.keep_alive_s),
            client_id_bytes: plan.client_id(Role::Idle(0)).len() as u32,
            sample_ms: TICK_MS as u32,
            measure_ms: if flows { plan.duration_ms } else { plan.hold_ms },
            workers,
            codec: plan.codec.label().to_owned(),
            persistent: plan.session_s.is_some(),
            reconnect: plan.reconnect,
            more: told(plan),
        },
        machine: Machine {
            cores: std::thread::available_parallelism().map_or(0, |count| count.get() as u32),
            broker_cores: None,
            harness_cores: own_cores,
            kernel,
            memory_bytes: procfs::memory_bytes(),
        },
        ..Outcome::default()
    }
}

/// Counts while the run goes on, for those who watch.
pub(crate) fn so_far(outcome: &mut Outcome, tally: &Tally) {
    let Connections { peak, ramp_ms, .. } = outcome.connections;
    outcome.connections = Connections {
        attempted: tally.attempted,
        established: tally.established,
        refused: tally.refused,
        failed: tally.failed,
        missing: 0,
        lost: tally.lost,
        reconnected: tally.reconnected,
        resumed: tally.resumed,
        peak,
        ramp_ms,
        latency: Latency::default(),
        gap: Latency::default(),
    };
    let totals = &mut outcome.totals;
    totals.published = tally.published;
    totals.acknowledged = tally.acknowledged;
    totals.delivered = tally.delivered;
    totals.sent_bytes = tally.sent_bytes;
    totals.received_bytes = tally.received_bytes;
    outcome.errors = tally.errors.clone();
}

/// The rest, from all parts.
pub(crate) fn end(outcome: &mut Outcome, plan: &Plan, parts: &[Part], own: &Own) -> Result<()> {
    let mut tally = Tally::default();
    let mut ledger = Ledger::new(plan.run);
    for part in parts {
        tally.add(&part.tally);
        ledger.absorb(&part.ledger)?;
    }
    so_far(outcome, &tally);
    outcome.connections.missing = own.missing;
    if own.missing > 0 {
        outcome.errors.insert("not up at the end".to_owned(), own.missing);
    }
    outcome.connections.latency = merged(parts, |part| &part.connect_latency).save();
    outcome.connections.gap = merged(parts, |part| &part.gap).save();
    outcome.latency = merged(parts, |part| &part.latency).save();
    outcome.ack_latency = merged(parts, |part| &part.ack_latency).save();
    outcome.ledger = ledger.report();
    outcome.harness = Harness {
        user_us: own.usage.user_us,
        kernel_us: own.usage.kernel_us,
        busiest: own.busiest,
        rss_bytes: own.usage.rss_bytes,
        bytes_each: own.bytes_each,
        lateness: merged(parts, |part| &part.lateness).quantiles(),
        unsent: tally.owed,
    };
    if plan.keep_alive_s > 0 {
        outcome.config.more.insert("pings".to_owned(), tally.pings.to_string());
        outcome.config.more.insert("pongs".to_owned(), tally.pongs.to_string());
    }
    let more = &mut outcome.config.more;
    if tally.left > 0 {
        more.insert("left on purpose".to_owned(), tally.left.to_string());
    }
    if tally.followed > 0 || plan.wanders() {
        more.insert("followed a server reference".to_owned(), tally.followed.to_string());
    }
    if plan.reconnect {
        more.insert("publishes sent again".to_owned(), tally.resent.to_string());
        more.insert("given up with their session".to_owned(), tally.given_up.to_string());
    }
    if own.restarts > 0 {
        more.insert("broker restarts".to_owned(), own.restarts.to_string());
    }
    outcome.invalid = invalid(outcome, parts, own);
    Ok(())
}

fn invalid(outcome: &Outcome, parts: &[Part], own: &Own) -> Option<Invalid> {
    if own.interrupted {
        return Some(Invalid::Interrupted);
    }
    if own.gone {
        return Some(Invalid::BrokerGone);
    }
    if let Some(what) = parts.iter().find_map(|part| part.lacking.clone()) {
        return Some(Invalid::OutOfResources { what });
    }
    let late = outcome.harness.lateness.p99_ns;
    if late > LATENESS_NS_MAX {
        return Some(Invalid::ScheduleMissed { p99_ns: late, limit_ns: LATENESS_NS_MAX });
    }
    (own.busiest > BUSIEST_MAX)
        .then_some(Invalid::HarnessSaturated { busiest: own.busiest, limit: BUSIEST_MAX })
}

/// What a scenario was told beside what all are.
fn told(plan: &Plan) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let mut add = |name: &str, value: String| drop(told.insert(name.to_owned(), value));
    match plan.scenario {
        Scenario::Shared => {
            add("groups", plan.groups.to_string());
            add("members a group", (plan.subscribers / plan.groups.max(1)).to_string());
        }
        Scenario::Wildcard => add("filters", plan.filters.to_string()),
        Scenario::Retained => {
            add("a clear in so many rounds", plan.clear_every.to_string());
            add("quiet after a clear", format!("{} ms", plan.quiet_ms));
        }
        Scenario::Takeover => add("takeovers a second", plan.takeover_rate.to_string()),
        Scenario::Mixed => {
            for class in &plan.classes {
                let publishes = class.publish.as_ref().map_or(String::new(), |publish| {
                    let all = publish.rate * f64::from(class.count);
                    format!(
                        ", {all:.1} messages/s of {} bytes, QoS {}",
                        publish.payload_bytes, publish.qos
                    )
                });
                let subscribes = class.subscribe.as_ref();
                let subscribes =
                    subscribes.map_or(String::new(), |given| format!(", filter {}", given.filter));
                let text = format!("{} devices{publishes}{subscribes}", class.count);
                add(&format!("class {}", class.name), text);
            }
        }
        Scenario::Connect
        | Scenario::Storm
        | Scenario::FanIn
        | Scenario::FanOut
        | Scenario::Pairs
        | Scenario::Drain
        | Scenario::Upgrade => {}
    }
    told
}

/// What the classes say, each thing once; none without classes.
fn all_of(plan: &Plan, says: fn(&Class) -> String) -> Option<String> {
    let all: BTreeSet<String> = plan.classes.iter().map(says).collect();
    (!all.is_empty()).then(|| all.into_iter().collect::<Vec<_>>().join(" and "))
}

fn count(plan: &Plan, which: fn(&Plan, Role) -> Option<u32>) -> u64 {
    let of_class = |class: &Class| match which(plan, Role::Device(class.first)) {
        Some(_) => u64::from(class.count),
        None => 0,
    };
    let publishers = which(plan, Role::Publisher(0)).map_or(0, |_| plan.publishers);
    let subscribers = which(plan, Role::Subscriber(0)).map_or(0, |_| plan.subscribers);
    u64::from(publishers + subscribers) + plan.classes.iter().map(of_class).sum::<u64>()
}

fn merged(parts: &[Part], which: fn(&Part) -> &Latency) -> Recorder {
    let mut all = Recorder::default();
    for part in parts {
        all.merge_saved(which(part));
    }
    all
}
