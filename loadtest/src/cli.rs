//! The command line: words to a plan, with every mistake named.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate_loadtest::identity::IDENTITY_BYTES;

use crate::coordinator::Request;
use crate::desk::{Ask, Compare, Report};
use crate::engine::{Codec, Transport, clock};
use crate::scenario::backoff::Chance;
use crate::scenario::census;
use crate::scenario::classes::{self, Class};
use crate::scenario::plan::{Backoff, Plan, Protocol, Scenario};

/// Connections of a worker; a process has some 20,000 descriptors on a usual system.
const CLIENTS_A_WORKER: u32 = 15_000;

/// No roll takes longer than a day.
const ROLL_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// Loads any MQTT broker, keeps a ledger of every message, and reports
#[derive(Debug, Parser)]
#[command(name = "tidegate-loadtest", version, args_override_self = true)]
pub(crate) struct Cli {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Opens connections and holds them
    Connect {
        /// The load
        #[command(flatten)]
        common: Common,
        /// Connections
        #[arg(long, default_value_t = 1_000)]
        clients: u32,
        /// Each subscribes to a topic of its own
        #[arg(long)]
        subscribe: bool,
        /// How long they are held
        #[arg(long, default_value_t = 5_000)]
        hold_ms: u64,
        /// Each is pinged at the end
        #[arg(long)]
        ping: bool,
    },
    /// Opens connections, holds them, sends each a message and pings each
    Census {
        /// The load
        #[command(flatten)]
        common: Common,
        /// Connections, with a subscription each
        #[arg(long, default_value_t = 1_000)]
        clients: u32,
        /// Connections that share a topic
        #[arg(long, default_value_t = 1_000)]
        slice: u32,
        /// How long they are held
        #[arg(long, default_value_t = 5_000)]
        hold_ms: u64,
        /// QoS of publishes and subscriptions
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
        qos: u8,
        /// Deliveries a second
        #[arg(long, default_value_t = 20_000.0)]
        rate: f64,
        /// After that long without news, what is missing is lost
        #[arg(long, default_value_t = 30_000)]
        drain_ms: u64,
    },
    /// Breaks all connections at once and lets them come back
    Storm {
        /// The load
        #[command(flatten)]
        common: Common,
        /// Connections
        #[arg(long, default_value_t = 1_000)]
        clients: u32,
        /// Each subscribes to a topic of its own
        #[arg(long)]
        subscribe: bool,
        /// How long they are held before each storm
        #[arg(long, default_value_t = 1_000)]
        hold_ms: u64,
        /// How many storms
        #[arg(long, default_value_t = 1)]
        storms: u32,
    },
    /// Many publishers, few subscribers
    FanIn {
        /// The load
        #[command(flatten)]
        common: Common,
        /// The messages
        #[command(flatten)]
        flow: Flow,
        /// Clients that publish, each to a topic of its own
        #[arg(long, default_value_t = 1_000)]
        publishers: u32,
        /// Clients that subscribe, each to its share of the topics
        #[arg(long, default_value_t = 1)]
        subscribers: u32,
    },
    /// Few publishers, many subscribers
    FanOut {
        /// The load
        #[command(flatten)]
        common: Common,
        /// The messages
        #[command(flatten)]
        flow: Flow,
        /// Clients that publish, each to a topic of its own
        #[arg(long, default_value_t = 1)]
        publishers: u32,
        /// Clients that subscribe, each to one of the topics
        #[arg(long, default_value_t = 1_000)]
        subscribers: u32,
    },
    /// A publisher and a subscriber each
    Pairs {
        /// The load
        #[command(flatten)]
        common: Common,
        /// The messages
        #[command(flatten)]
        flow: Flow,
        /// Pairs; twice as many connections
        #[arg(long, default_value_t = 100)]
        pairs: u32,
    },
    /// Shared subscriptions: of each group exactly one member gets a message
    Shared {
        /// The load
        #[command(flatten)]
        common: Common,
        /// The messages
        #[command(flatten)]
        flow: Flow,
        /// Groups
        #[arg(long, default_value_t = 1)]
        groups: u32,
        /// Members of each group
        #[arg(long, default_value_t = 10)]
        members: u32,
        /// Clients that publish, each to a topic of one group
        #[arg(long, default_value_t = 10)]
        publishers: u32,
    },
    /// Many distinct filters with + and #, and a new topic for each message
    Wildcard {
        /// The load
        #[command(flatten)]
        common: Common,
        /// The messages
        #[command(flatten)]
        flow: Flow,
        /// Filters in all
        #[arg(long, default_value_t = 1_000)]
        filters: u32,
        /// Clients that subscribe, each to its share of the filters
        #[arg(long, default_value_t = 10)]
        subscribers: u32,
        /// Clients that publish, each to what one subscriber's filters match
        #[arg(long, default_value_t = 10)]
        publishers: u32,
    },
    /// Retained messages are set, read by new and repeated subscriptions, and cleared
    Retained {
        /// The load
        #[command(flatten)]
        common: Common,
        /// Topics with a retained message, each with a writer and a reader
        #[arg(long, default_value_t = 100)]
        registers: u32,
        /// Sets and clears a second in all
        #[arg(long, default_value_t = 100.0)]
        rate: f64,
        /// QoS of publishes and subscriptions
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        qos: u8,
        /// Bytes of a payload
        #[arg(long, default_value_t = 64)]
        payload_bytes: u32,
        /// One of so many rounds of a topic is a clear; 0: none
        #[arg(long, default_value_t = 4)]
        clear_every: u32,
        /// How long nothing must come after a clear
        #[arg(long, default_value_t = 200)]
        quiet_ms: u64,
        /// How long is set and cleared
        #[arg(long, default_value_t = 10_000)]
        duration_ms: u64,
        /// A retained message that takes longer is missing
        #[arg(long, default_value_t = 5_000)]
        drain_ms: u64,
    },
    /// Pairs on durable sessions, whose clients connect again while they are connected
    Takeover {
        /// The load
        #[command(flatten)]
        common: Common,
        /// The messages
        #[command(flatten)]
        flow: Flow,
        /// Pairs; twice as many connections
        #[arg(long, default_value_t = 100)]
        pairs: u32,
        /// Clients that connect again, a second
        #[arg(long, default_value_t = 20.0)]
        takeovers: f64,
    },
    /// Classes of devices, from a TOML file (loadtest/examples/mixed.toml shows all keys)
    Mixed {
        /// The file
        file: PathBuf,
        /// The load
        #[command(flatten)]
        common: Common,
        /// Messages of a device that may be unacknowledged
        #[arg(long, default_value_t = 1_000)]
        window: u32,
        /// How long is published
        #[arg(long, default_value_t = 10_000)]
        duration_ms: u64,
        /// After that long without news, what is missing is lost
        #[arg(long, default_value_t = 5_000)]
        drain_ms: u64,
        /// Losses of connections are part of the run
        #[arg(long)]
        reconnect: bool,
    },
    /// Pairs while one of several nodes goes away: clients follow where they are sent, or go on
    /// to the next target
    Drain(Roll),
    /// The same while all targets go away and come back, one after another
    Upgrade(Roll),
    /// Compares two runs that `--json` wrote; fails if the second is worse
    Compare(Compare),
    /// Makes one HTML report of several runs that `--json` wrote
    Report(Report),
    /// Nodes, memory, disk and kernel settings for a load
    Plan(Ask),
    /// Serves a relay that parses nothing, until killed: what the kernel alone costs
    Floor {
        /// Where it listens
        #[arg(long, default_value = "127.0.0.1:1883")]
        listen: SocketAddr,
        /// Topics of the load: pairs, publishers of a fan-out, subscribers of a fan-in
        #[arg(long, default_value_t = 1)]
        groups: u32,
        /// Threads
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Lends this machine to a coordinator elsewhere (`--agent`); for trusted networks only
    Agent {
        /// Where coordinators connect
        #[arg(long, default_value = "127.0.0.1:21883")]
        listen: SocketAddr,
    },
    /// Works for a coordinator, which speaks over stdin
    #[command(hide = true)]
    Worker,
}

/// Of runs in which nodes are rolled.
#[derive(Args, Clone, Debug)]
pub(crate) struct Roll {
    /// The load
    #[command(flatten)]
    common: Common,
    /// The messages
    #[command(flatten)]
    flow: Flow,
    /// Pairs; twice as many connections
    #[arg(long, default_value_t = 100)]
    pairs: u32,
    /// Sessions end with their connections: what is missed meanwhile is owed to nobody
    #[arg(long, conflicts_with = "persistent")]
    clean: bool,
    /// A shell command that rolls the node $TARGET (its number is $INDEX, from 0) and returns when
    /// that is done; drain runs it once, upgrade once for each target. Without it, who rolls nodes
    /// has --duration-ms to do it
    #[arg(long)]
    trigger: Option<String>,
    /// Time before the command and after
    #[arg(long, default_value_t = 1_000)]
    settle_ms: u64,
}

/// Of every run.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// The brokers, as host:port; clients take turns
    #[arg(required = true)]
    targets: Vec<String>,
    /// What to call the run in reports
    #[arg(long, default_value = "")]
    label: String,
    /// Worker processes [default: one for 15,000 connections]
    #[arg(long)]
    workers: Option<u32>,
    /// Agents that run the workers, in turn, as host:port [default: they run here]
    #[arg(long)]
    agent: Vec<String>,
    /// The broker's process id [default: who listens at the targets]
    #[arg(long)]
    pid: Vec<u32>,
    /// What carries MQTT
    #[arg(long, value_enum, default_value_t)]
    transport: Transport,
    /// The protocol version
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Who puts packets into bytes and back
    #[arg(long, value_enum, default_value_t)]
    codec: Codec,
    /// Source addresses, in turn [default: on loopback one for some clients]
    #[arg(long)]
    source: Vec<IpAddr>,
    /// Clients that share a source address on loopback
    #[arg(long, default_value_t = 1_000)]
    clients_per_source: u32,
    /// Keep-alive in seconds; 0 for none
    #[arg(long, default_value_t = 60)]
    keep_alive_s: u16,
    /// User name
    #[arg(long)]
    username: Option<String>,
    /// Password
    #[arg(long)]
    password: Option<String>,
    /// Connections begun a second; 0: as fast as handshakes end
    #[arg(long, default_value_t = 0.0)]
    connect_rate: f64,
    /// Handshakes under way at once, without a connect rate; more than the broker's backlog
    /// (mosquitto's is 100) makes the kernel drop SYNs, which come again after a second
    #[arg(long, default_value_t = 64)]
    handshakes_max: u32,
    /// After that long the run goes on with what is up
    #[arg(long, default_value_t = 60_000)]
    open_ms_max: u64,
    /// How a client waits that lost its connection
    #[arg(long, value_enum, default_value_t)]
    backoff: Backoff,
    /// Its base
    #[arg(long, default_value_t = 1_000)]
    backoff_base_ms: u64,
    /// Its maximum
    #[arg(long, default_value_t = 30_000)]
    backoff_ms_max: u64,
    /// Runs the load against a relay first, so that each cost is also a multiple of the kernel's
    #[arg(long)]
    pub(crate) floor: bool,
    /// Writes the outcome as JSON to this file; `-` is stdout
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Writes the outcome as Prometheus text to this file; `-` is stdout
    #[arg(long)]
    pub(crate) prometheus: Option<PathBuf>,
    /// Writes the report as one HTML file
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
    /// How to show a run while it goes on, on stderr
    #[arg(long, value_enum, default_value_t)]
    pub(crate) live: Live,
}

/// How to show a run while it goes on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Live {
    /// Drawn over itself on a terminal, else not at all.
    #[default]
    Auto,
    /// Drawn over itself.
    View,
    /// A line a second.
    Lines,
    /// Not at all.
    Off,
}

/// Of runs with messages.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flow {
    /// QoS of publishes and subscriptions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Bytes of a payload
    #[arg(long, default_value_t = 64)]
    payload_bytes: u32,
    /// Publishes a second in all; 0: closed loops, as fast as the windows allow
    #[arg(long, default_value_t = 1_000.0)]
    rate: f64,
    /// Messages of a publisher that may be unacknowledged
    #[arg(long, default_value_t = 1_000)]
    window: u32,
    /// How long is published
    #[arg(long, default_value_t = 10_000)]
    duration_ms: u64,
    /// After that long without news, what is missing is lost
    #[arg(long, default_value_t = 5_000)]
    drain_ms: u64,
    /// Connections beside, which only are there
    #[arg(long, default_value_t = 0)]
    idle: u32,
    /// Sessions outlive their connections: what is published while a client is away is owed to
    /// it, and a publisher sends again what was not acknowledged
    #[arg(long)]
    persistent: bool,
    /// Seconds that a session lasts without its connection (5.0; before, the broker decides)
    #[arg(long, default_value_t = 3_600)]
    session_expiry_s: u32,
    /// Losses of connections are part of the run, such as those of a broker that is killed and
    /// started again: clients come back, and that they were lost breaks no promise
    #[arg(long)]
    reconnect: bool,
}

impl Common {
    fn plan(&self, scenario: Scenario) -> Result<Plan> {
        let targets = resolve(&self.targets, "target")?;
        ensure!(self.connect_rate >= 0.0, "--connect-rate must not be negative");
        let mut chance = Chance::new(clock::now() ^ u64::from(std::process::id()) << 40);
        Ok(Plan {
            scenario,
            run: chance.next() as u32,
            targets,
            names: self.targets.clone(),
            sources: self.source.clone(),
            clients_per_source: self.clients_per_source,
            transport: self.transport,
            protocol: self.protocol,
            codec: self.codec,
            publishers: 0,
            subscribers: 0,
            idle: 0,
            idle_subscribe: false,
            keep_alive_s: self.keep_alive_s,
            username: self.username.clone(),
            password: self.password.clone(),
            connect_rate: self.connect_rate,
            handshakes_max: self.handshakes_max,
            open_ms_max: self.open_ms_max,
            hold_ms: 0,
            backoff: self.backoff,
            backoff_base_ms: self.backoff_base_ms,
            backoff_ms_max: self.backoff_ms_max,
            storms: 0,
            qos: 0,
            payload_bytes: IDENTITY_BYTES as u32,
            ping_all: false,
            rate: 0.0,
            window: 1,
            duration_ms: 0,
            drain_ms: 0,
            session_s: None,
            reconnect: false,
            groups: 1,
            filters: 0,
            clear_every: 0,
            quiet_ms: 0,
            takeover_rate: 0.0,
            classes: Vec::new(),
        })
    }

    fn request(&self, plan: Plan) -> Result<Request> {
        ensure!(plan.clients() > 0, "there is no client");
        let least = plan.clients().div_ceil(CLIENTS_A_WORKER).max(self.agent.len() as u32);
        let workers = self.workers.unwrap_or(least);
        ensure!(workers > 0, "--workers must be at least 1");
        let label = match self.label.as_str() {
            "" => self.targets.join(" "),
            given => given.to_owned(),
        };
        let agents = resolve(&self.agent, "agent")?;
        let pids = self.pid.clone();
        Ok(Request { plan, workers, agents, pids, label, trigger: None, settle_ms: 0 })
    }
}

impl Flow {
    fn fill(&self, mut plan: Plan, publishers: u32, subscribers: u32) -> Result<Plan> {
        ensure!(publishers > 0 && subscribers > 0, "both publishers and subscribers are needed");
        ensure!(
            self.payload_bytes as usize >= IDENTITY_BYTES,
            "--payload-bytes must be at least {IDENTITY_BYTES}: the identity of a message"
        );
        ensure!(self.rate >= 0.0, "--rate must not be negative");
        ensure!((1..=65_000).contains(&self.window), "--window must be from 1 to 65000");
        (plan.publishers, plan.subscribers) = (publishers, subscribers);
        (plan.qos, plan.payload_bytes) = (self.qos, self.payload_bytes);
        (plan.rate, plan.window) = (self.rate, self.window);
        (plan.duration_ms, plan.drain_ms) = (self.duration_ms, self.drain_ms);
        plan.idle = self.idle;
        plan.session_s = self.persistent.then_some(self.session_expiry_s);
        plan.reconnect = self.reconnect;
        Ok(plan)
    }
}

impl Verb {
    /// The run that is asked for, and where its outcome goes; none for what is no run.
    pub(crate) fn request(&self) -> Result<Option<(Request, &Common)>> {
        let (common, plan) = match self {
            Self::Worker
            | Self::Agent { .. }
            | Self::Floor { .. }
            | Self::Compare(_)
            | Self::Report(_)
            | Self::Plan(_) => return Ok(None),
            Self::Connect { common, clients, subscribe, hold_ms, ping } => {
                let plan = common.plan(Scenario::Connect)?;
                let (idle, idle_subscribe, hold_ms) = (*clients, *subscribe, *hold_ms);
                (common, Plan { idle, idle_subscribe, hold_ms, ping_all: *ping, ..plan })
            }
            Self::Census { common, clients, slice, hold_ms, qos, rate, drain_ms } => {
                ensure!(*clients > 0 && *slice > 0, "--clients and --slice must be at least 1");
                ensure!(*rate > 0.0, "--rate must be above 0");
                let plan = common.plan(Scenario::FanOut)?;
                let plan = Plan { hold_ms: *hold_ms, qos: *qos, drain_ms: *drain_ms, ..plan };
                (common, census::fill(plan, *clients, *slice, *rate))
            }
            Self::Storm { common, clients, subscribe, hold_ms, storms } => {
                let plan = common.plan(Scenario::Storm)?;
                let (idle, idle_subscribe, hold_ms) = (*clients, *subscribe, *hold_ms);
                (common, Plan { idle, idle_subscribe, hold_ms, storms: *storms, ..plan })
            }
            Self::FanIn { common, flow, publishers, subscribers } => {
                (common, flow.fill(common.plan(Scenario::FanIn)?, *publishers, *subscribers)?)
            }
            Self::FanOut { common, flow, publishers, subscribers } => {
                (common, flow.fill(common.plan(Scenario::FanOut)?, *publishers, *subscribers)?)
            }
            Self::Pairs { common, flow, pairs } => {
                (common, flow.fill(common.plan(Scenario::Pairs)?, *pairs, *pairs)?)
            }
            Self::Shared { common, flow, groups, members, publishers } => {
                ensure!(*groups > 0, "--groups must be at least 1");
                ensure!(
                    publishers >= groups,
                    "--publishers must be at least --groups: {groups}, one for each"
                );
                ensure!(
                    !flow.reconnect || flow.persistent,
                    "--reconnect needs --persistent here: what a clean member had in hand when it \
                     was cut off may go to another or be lost, and nobody can tell which"
                );
                let subscribers = groups.checked_mul(*members).context("too many members")?;
                let plan = flow.fill(common.plan(Scenario::Shared)?, *publishers, subscribers)?;
                (common, Plan { groups: *groups, ..plan })
            }
            Self::Wildcard { common, flow, filters, subscribers, publishers } => {
                ensure!(
                    filters >= subscribers,
                    "--filters must be at least --subscribers: {subscribers}, one for each"
                );
                let plan =
                    flow.fill(common.plan(Scenario::Wildcard)?, *publishers, *subscribers)?;
                (common, Plan { filters: *filters, ..plan })
            }
            Self::Retained {
                common,
                registers,
                rate,
                qos,
                payload_bytes,
                clear_every,
                quiet_ms,
                duration_ms,
                drain_ms,
            } => {
                let flow = Flow {
                    qos: *qos,
                    payload_bytes: *payload_bytes,
                    rate: *rate,
                    window: 1,
                    duration_ms: *duration_ms,
                    drain_ms: *drain_ms,
                    idle: 0,
                    persistent: false,
                    session_expiry_s: 0,
                    reconnect: false,
                };
                ensure!(*rate > 0.0, "--rate must be above 0");
                let plan = flow.fill(common.plan(Scenario::Retained)?, *registers, *registers)?;
                (common, Plan { clear_every: *clear_every, quiet_ms: *quiet_ms, ..plan })
            }
            Self::Takeover { common, flow, pairs, takeovers } => {
                ensure!(*takeovers > 0.0, "--takeovers must be above 0");
                let plan = flow.fill(common.plan(Scenario::Takeover)?, *pairs, *pairs)?;
                let session_s = Some(flow.session_expiry_s);
                (common, Plan { takeover_rate: *takeovers, session_s, ..plan })
            }
            Self::Mixed { file, common, window, duration_ms, drain_ms, reconnect } => {
                ensure!((1..=65_000).contains(window), "--window must be from 1 to 65000");
                let classes = classes::read(file)?;
                let rate = |class: &Class| {
                    let each = class.publish.as_ref().map_or(0.0, |publish| publish.rate);
                    each * f64::from(class.count)
                };
                let plan = Plan {
                    rate: classes.iter().map(rate).sum(),
                    classes,
                    window: *window,
                    duration_ms: *duration_ms,
                    drain_ms: *drain_ms,
                    reconnect: *reconnect,
                    ..common.plan(Scenario::Mixed)?
                };
                (common, plan)
            }
            Self::Drain(roll) => return roll.request(Scenario::Drain).map(Some),
            Self::Upgrade(roll) => {
                ensure!(roll.trigger.is_some(), "upgrade needs --trigger, once for each target");
                return roll.request(Scenario::Upgrade).map(Some);
            }
        };
        Ok(Some((common.request(plan)?, common)))
    }
}

impl Roll {
    fn request(&self, scenario: Scenario) -> Result<(Request, &Common)> {
        let plan = self.flow.fill(self.common.plan(scenario)?, self.pairs, self.pairs)?;
        let session_s = (!self.clean).then_some(self.flow.session_expiry_s);
        let mut plan = Plan { session_s, reconnect: true, ..plan };
        if self.trigger.is_some() {
            // It ends when the last node is back.
            plan.duration_ms = ROLL_MS_MAX;
        }
        let request = self.common.request(plan)?;
        let (trigger, settle_ms) = (self.trigger.clone(), self.settle_ms);
        Ok((Request { trigger, settle_ms, ..request }, &self.common))
    }
}

fn resolve(names: &[String], what: &str) -> Result<Vec<SocketAddr>> {
    let mut all = Vec::new();
    for name in names {
        let mut found = name.to_socket_addrs().with_context(|| format!("{what} {name}"))?;
        all.push(found.next().with_context(|| format!("{what} {name}: no address"))?);
    }
    Ok(all)
}
