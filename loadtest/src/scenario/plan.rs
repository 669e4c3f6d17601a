//! What a run does, complete and checked: the CLI makes it, every worker gets it.

use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tidegate_codec::{QoS, Version};

use crate::engine::{Codec, Transport};
use crate::scenario::classes::Class;

/// What the load is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scenario {
    /// Connections are opened and held.
    Connect,
    /// All connections break at once and come back.
    Storm,
    /// Many publishers, few subscribers.
    FanIn,
    /// Few publishers, many subscribers.
    FanOut,
    /// A publisher and a subscriber each.
    Pairs,
    /// Groups of subscribers, of whom one gets each message.
    Shared,
    /// Many wildcard filters, each of its own.
    Wildcard,
    /// Retained messages are set, read and cleared.
    Retained,
    /// Clients come a second time while they are there.
    Takeover,
    /// Classes of devices, from a file.
    Mixed,
    /// A node of several goes away.
    Drain,
    /// Nodes go away and come back, one after another.
    Upgrade,
}

impl Scenario {
    /// In a report.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Storm => "storm",
            Self::FanIn => "fan_in",
            Self::FanOut => "fan_out",
            Self::Pairs => "pairs",
            Self::Shared => "shared",
            Self::Wildcard => "wildcard",
            Self::Retained => "retained",
            Self::Takeover => "takeover",
            Self::Mixed => "mixed",
            Self::Drain => "drain",
            Self::Upgrade => "upgrade",
        }
    }
}

/// The protocol version on the wire.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
pub(crate) enum Protocol {
    /// 3.1.1
    #[value(name = "3.1.1")]
    #[default]
    V311,
    /// 5.0
    #[value(name = "5.0", alias = "5")]
    V5,
}

impl Protocol {
    /// As the codec calls it.
    pub(crate) fn version(self) -> Version {
        match self {
            Self::V311 => Version::V3_1_1,
            Self::V5 => Version::V5,
        }
    }

    /// In a report.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

/// How long a client waits before it comes back.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Backoff {
    /// Not at all.
    None,
    /// A random part of the base, each time.
    Fixed,
    /// A random part of the base, which doubles up to the maximum.
    #[default]
    Exponential,
}

/// A whole run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Plan {
    /// What it is about.
    pub(crate) scenario: Scenario,
    /// Drawn once; in every topic, client id and payload.
    pub(crate) run: u32,
    /// The brokers; clients take turns.
    pub(crate) targets: Vec<SocketAddr>,
    /// Their names, as given.
    pub(crate) names: Vec<String>,
    /// Source addresses; empty is the kernel's choice or, on loopback, ours.
    pub(crate) sources: Vec<IpAddr>,
    /// Clients that share a source address on loopback.
    pub(crate) clients_per_source: u32,
    /// What carries MQTT.
    pub(crate) transport: Transport,
    /// Its version.
    pub(crate) protocol: Protocol,
    /// Who puts packets into bytes.
    pub(crate) codec: Codec,
    /// Clients that publish.
    pub(crate) publishers: u32,
    /// Clients that subscribe.
    pub(crate) subscribers: u32,
    /// Clients that are only there.
    pub(crate) idle: u32,
    /// Whether those have a subscription of their own.
    pub(crate) idle_subscribe: bool,
    /// Seconds.
    pub(crate) keep_alive_s: u16,
    /// Name and password, if any.
    pub(crate) username: Option<String>,
    /// The password.
    pub(crate) password: Option<String>,
    /// Connections begun a second in all; 0 is as fast as handshakes end.
    pub(crate) connect_rate: f64,
    /// Handshakes under way at once in all, for `connect_rate` 0.
    pub(crate) handshakes_max: u32,
    /// After that long the run goes on with what is up.
    pub(crate) open_ms_max: u64,
    /// How long connections are held before the storm, or at all.
    pub(crate) hold_ms: u64,
    /// How a client waits.
    pub(crate) backoff: Backoff,
    /// Its base.
    pub(crate) backoff_base_ms: u64,
    /// Its maximum.
    pub(crate) backoff_ms_max: u64,
    /// Storms, one after another.
    pub(crate) storms: u32,
    /// QoS of publishes and subscriptions.
    pub(crate) qos: u8,
    /// Bytes of a payload, identity included.
    pub(crate) payload_bytes: u32,
    /// Whether each connection is pinged at the end.
    pub(crate) ping_all: bool,
    /// Publishes a second in all; 0 is as fast as the windows allow.
    pub(crate) rate: f64,
    /// Publishes of a publisher that may be unacknowledged.
    pub(crate) window: u32,
    /// How long is published.
    pub(crate) duration_ms: u64,
    /// After that long without news, what is missing is lost.
    pub(crate) drain_ms: u64,
    /// Seconds that sessions of publishers and subscribers outlive their connections; none starts
    /// clean each time.
    pub(crate) session_s: Option<u32>,
    /// Losses of connections are part of the run.
    pub(crate) reconnect: bool,
    /// Groups of a shared subscription.
    pub(crate) groups: u32,
    /// Wildcard filters in all.
    pub(crate) filters: u32,
    /// Of a retained message's rounds every so many ends with its end; 0: none.
    pub(crate) clear_every: u32,
    /// How long nothing must come where nothing is retained.
    pub(crate) quiet_ms: u64,
    /// Clients that come a second time, a second.
    pub(crate) takeover_rate: f64,
    /// Of a mixed fleet.
    pub(crate) classes: Vec<Class>,
}

/// What a client is for, and its number among those.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// It subscribes.
    Subscriber(u32),
    /// It publishes.
    Publisher(u32),
    /// It is there.
    Idle(u32),
    /// It is of a class, which says what it does.
    Device(u32),
}

impl Plan {
    /// How many clients there are.
    pub(crate) fn clients(&self) -> u32 {
        self.subscribers + self.publishers + self.idle + self.devices()
    }

    fn devices(&self) -> u32 {
        self.classes.last().map_or(0, |last| last.first + last.count)
    }

    /// The class of a device.
    pub(crate) fn class(&self, device: u32) -> &Class {
        let at = self.classes.partition_point(|class| class.first + class.count <= device);
        &self.classes[at.min(self.classes.len() - 1)]
    }

    /// The clients of one worker; a pair is never parted.
    pub(crate) fn roles(&self, worker: u32, workers: u32) -> Vec<Role> {
        let mine = |count: u32| (worker..count).step_by(workers.max(1) as usize);
        let subscribers = mine(self.subscribers).map(Role::Subscriber);
        let publishers = mine(self.publishers).map(Role::Publisher);
        // Dialled in this order: nobody publishes to a subscriber who is not there yet.
        let both = subscribers.chain(publishers);
        both.chain(mine(self.idle).map(Role::Idle))
            .chain(mine(self.devices()).map(Role::Device))
            .collect()
    }

    /// The number of a client in the whole load.
    pub(crate) fn number(&self, role: Role) -> u32 {
        match role {
            Role::Subscriber(number) | Role::Device(number) => number,
            Role::Publisher(number) => self.subscribers + number,
            Role::Idle(number) => self.subscribers + self.publishers + number,
        }
    }

    /// Its number in the ledger, if it subscribes.
    pub(crate) fn receiver(&self, role: Role) -> Option<u32> {
        match role {
            Role::Subscriber(number) => Some(number),
            Role::Device(number) => self.class(number).subscribe.as_ref().map(|_| number),
            Role::Publisher(_) | Role::Idle(_) => None,
        }
    }

    /// Its number in the ledger, if it publishes.
    pub(crate) fn publisher(&self, role: Role) -> Option<u32> {
        match role {
            Role::Publisher(number) => Some(number),
            Role::Device(number) => self.class(number).publish.as_ref().map(|_| number),
            Role::Subscriber(_) | Role::Idle(_) => None,
        }
    }

    /// Its broker. With several, a publisher's is not its subscriber's.
    pub(crate) fn target(&self, role: Role) -> SocketAddr {
        let turn = match role {
            Role::Subscriber(number) | Role::Idle(number) => number as usize,
            Role::Publisher(number) => number as usize + 1,
            Role::Device(number) => match self.class(number).target {
                Some(target) => return target,
                None => number as usize,
            },
        };
        self.targets[turn % self.targets.len()]
    }

    /// Its client id, of 21 bytes.
    pub(crate) fn client_id(&self, role: Role) -> String {
        let (letter, number) = match role {
            Role::Subscriber(number) => ('s', number),
            Role::Publisher(number) => ('p', number),
            Role::Idle(number) => ('i', number),
            Role::Device(number) => ('d', number),
        };
        format!("lt-{:08x}-{letter}{number:08}", self.run)
    }

    /// What a publisher's message number `sequence` is published to.
    pub(crate) fn topic(&self, publisher: u32, sequence: u64) -> String {
        let run = self.run;
        match self.scenario {
            Scenario::FanIn => {
                let subscriber = publisher % self.subscribers.max(1);
                format!("lt/{run:08x}/in/{subscriber}/{publisher}")
            }
            Scenario::FanOut => format!("lt/{run:08x}/out/{publisher}"),
            Scenario::Pairs | Scenario::Takeover | Scenario::Drain | Scenario::Upgrade => {
                format!("lt/{run:08x}/pair/{publisher}")
            }
            Scenario::Retained => format!("lt/{run:08x}/kept/{publisher}"),
            Scenario::Shared => {
                format!("lt/{run:08x}/group/{}/{publisher}", publisher % self.groups.max(1))
            }
            Scenario::Wildcard => self.wildcards().topic(publisher, sequence),
            Scenario::Mixed => {
                let class = self.class(publisher);
                let topic = class.publish.as_ref().map_or("", |publish| &publish.topic);
                format!("lt/{run:08x}/{}", class.expand(topic, publisher))
            }
            Scenario::Connect | Scenario::Storm => format!("lt/{run:08x}/none/{publisher}"),
        }
    }

    /// What a client subscribes to when it comes.
    pub(crate) fn filters(&self, role: Role) -> Vec<String> {
        let run = self.run;
        match (role, self.scenario) {
            // A reader asks anew in each round.
            (Role::Publisher(_), _) | (Role::Subscriber(_), Scenario::Retained) => Vec::new(),
            (Role::Subscriber(number), Scenario::FanIn) => {
                vec![format!("lt/{run:08x}/in/{number}/+")]
            }
            (Role::Subscriber(number), Scenario::FanOut) => {
                vec![self.topic(number % self.publishers.max(1), 0)]
            }
            (Role::Subscriber(number), Scenario::Shared) => {
                let group = self.group(role).unwrap_or(number);
                vec![format!("$share/g{group}/lt/{run:08x}/group/{group}/+")]
            }
            (Role::Subscriber(number), Scenario::Wildcard) => {
                let all = self.wildcards();
                all.of(number).map(|filter| all.filter(filter)).collect()
            }
            (
                Role::Subscriber(number),
                Scenario::Pairs
                | Scenario::Takeover
                | Scenario::Drain
                | Scenario::Upgrade
                | Scenario::Mixed
                | Scenario::Connect
                | Scenario::Storm,
            ) => vec![self.topic(number, 0)],
            (Role::Idle(number), _) => {
                let own = format!("lt/{run:08x}/idle/{number}");
                self.idle_subscribe.then_some(own).into_iter().collect()
            }
            (Role::Device(number), _) => {
                let class = self.class(number);
                let given = class.subscribe.as_ref().map(|subscribe| {
                    let filter = class.expand(&subscribe.filter, number);
                    match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
                        Some((group, shared)) => format!("$share/{group}/lt/{run:08x}/{shared}"),
                        None => format!("lt/{run:08x}/{filter}"),
                    }
                });
                given.into_iter().collect()
            }
        }
    }

    /// The group of a subscriber that shares.
    pub(crate) fn group(&self, role: Role) -> Option<u32> {
        match (role, self.scenario) {
            (Role::Subscriber(number), Scenario::Shared) => Some(number % self.groups.max(1)),
            _ => None,
        }
    }

    fn wildcards(&self) -> Wildcards {
        let (subscribers, publishers) = (self.subscribers.max(1), self.publishers.max(1));
        Wildcards { run: self.run, filters: self.filters, subscribers, publishers }
    }

    /// Who must get what a publisher publishes; of a group all of whom one must. A mixed fleet's
    /// are found by their filters.
    pub(crate) fn subscribers_of(&self, publisher: u32) -> Vec<u32> {
        match self.scenario {
            Scenario::Connect | Scenario::Storm | Scenario::Retained | Scenario::Mixed => {
                Vec::new()
            }
            Scenario::Pairs | Scenario::Takeover | Scenario::Drain | Scenario::Upgrade => {
                vec![publisher]
            }
            Scenario::FanIn | Scenario::Wildcard => vec![publisher % self.subscribers.max(1)],
            Scenario::FanOut => {
                let every = self.publishers.max(1);
                (publisher..self.subscribers).step_by(every as usize).collect()
            }
            Scenario::Shared => {
                let groups = self.groups.max(1);
                (publisher % groups..self.subscribers).step_by(groups as usize).collect()
            }
        }
    }

    /// How many deliveries a publish makes. A mixed fleet's are found by its filters.
    pub(crate) fn copies(&self, publisher: u32) -> u64 {
        match self.scenario {
            Scenario::Connect | Scenario::Storm | Scenario::Retained | Scenario::Mixed => 0,
            Scenario::Pairs
            | Scenario::FanIn
            | Scenario::Shared
            | Scenario::Wildcard
            | Scenario::Takeover
            | Scenario::Drain
            | Scenario::Upgrade => 1,
            Scenario::FanOut => {
                let behind = self.subscribers.saturating_sub(publisher);
                u64::from(behind.div_ceil(self.publishers.max(1)))
            }
        }
    }

    /// Whether a publisher has a topic for each message.
    pub(crate) fn topics_change(&self) -> bool {
        self.scenario == Scenario::Wildcard
    }

    /// Clients go on purpose while messages flow.
    pub(crate) fn churns(&self) -> bool {
        self.takeover_rate > 0.0 || self.classes.iter().any(|class| class.churn.is_some())
    }

    /// Sessions that end with their connections may do so, and what they miss is excused.
    pub(crate) fn excuses(&self) -> bool {
        let clean = |class: &Class| class.session_s.is_none() && class.churn.is_some();
        (self.reconnect && self.session_s.is_none()) || self.classes.iter().any(clean)
    }

    /// Who lost its connection tries the next of the targets.
    pub(crate) fn wanders(&self) -> bool {
        matches!(self.scenario, Scenario::Drain | Scenario::Upgrade)
    }

    /// What carries a client's MQTT, and its version.
    pub(crate) fn wire(&self, role: Role) -> (Transport, Version) {
        match role {
            Role::Device(number) => {
                let class = self.class(number);
                (class.transport, class.protocol.version())
            }
            Role::Subscriber(_) | Role::Publisher(_) | Role::Idle(_) => {
                (self.transport, self.protocol.version())
            }
        }
    }

    /// A client's keep-alive in seconds.
    pub(crate) fn keep_alive_s(&self, role: Role) -> u16 {
        match role {
            Role::Device(number) => self.class(number).keep_alive_s,
            Role::Subscriber(_) | Role::Publisher(_) | Role::Idle(_) => self.keep_alive_s,
        }
    }

    /// Seconds that a client's session outlives its connection; none for a clean start.
    pub(crate) fn session_s(&self, role: Role) -> Option<u32> {
        match role {
            Role::Subscriber(_) | Role::Publisher(_) => self.session_s,
            Role::Idle(_) => None,
            Role::Device(number) => self.class(number).session_s,
        }
    }

    /// The QoS of a client's subscription.
    pub(crate) fn granted(&self, role: Role) -> QoS {
        match role {
            Role::Subscriber(_) => self.quality(),
            Role::Publisher(_) | Role::Idle(_) => QoS::AtMostOnce,
            Role::Device(number) => {
                let subscribe = self.class(number).subscribe.as_ref();
                subscribe.map_or(QoS::AtMostOnce, |subscribe| quality(subscribe.qos))
            }
        }
    }

    /// The QoS and the size of what a publisher publishes.
    pub(crate) fn message(&self, publisher: u32) -> (QoS, u32) {
        match self.scenario {
            Scenario::Mixed => match &self.class(publisher).publish {
                Some(publish) => (quality(publish.qos), publish.payload_bytes),
                None => (QoS::AtMostOnce, self.payload_bytes),
            },
            _ => (self.quality(), self.payload_bytes),
        }
    }

    /// As the codec calls it.
    pub(crate) fn quality(&self) -> QoS {
        quality(self.qos)
    }
}

fn quality(qos: u8) -> QoS {
    QoS::try_from(qos).unwrap_or_default()
}

/// Filters no two of which match the same topic, and the topics that they match.
///
/// Those of one subscriber are numbered with the distance of all subscribers. A publisher goes
/// round the filters of one subscriber, with a topic that it never used before: so each message
/// goes to one subscriber, and a broker's memory of topics helps it nothing.
#[derive(Clone, Copy, Debug)]
struct Wildcards {
    run: u32,
    filters: u32,
    subscribers: u32,
    publishers: u32,
}

impl Wildcards {
    /// The filters of a subscriber.
    fn of(self, subscriber: u32) -> impl Iterator<Item = u32> {
        (subscriber..self.filters).step_by(self.subscribers as usize)
    }

    fn filter(self, number: u32) -> String {
        let run = self.run;
        match number % 3 {
            0 => format!("lt/{run:08x}/w/{number}/+/v"),
            1 => format!("lt/{run:08x}/w/{number}/#"),
            _ => format!("lt/{run:08x}/+/{number}/z"),
        }
    }

    fn topic(self, publisher: u32, sequence: u64) -> String {
        let run = self.run;
        let subscriber = publisher % self.subscribers;
        let count = self.filters.saturating_sub(subscriber).div_ceil(self.subscribers).max(1);
        // Publishers of the same subscriber begin at different filters.
        let at = (u64::from(publisher / self.subscribers) + sequence) % u64::from(count);
        let number = subscriber + at as u32 * self.subscribers;
        let once = sequence * u64::from(self.publishers) + u64::from(publisher);
        match number % 3 {
            0 => format!("lt/{run:08x}/w/{number}/{once}/v"),
            1 => format!("lt/{run:08x}/w/{number}/{once}"),
            _ => format!("lt/{run:08x}/{once}/{number}/z"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Ten pairs against nobody.
    pub(crate) fn plan(scenario: Scenario, publishers: u32, subscribers: u32) -> Plan {
        Plan {
            scenario,
            run: 7,
            targets: vec![([127, 0, 0, 1], 1883).into()],
            names: Vec::new(),
            sources: Vec::new(),
            clients_per_source: 1_000,
            transport: Transport::Tcp,
            protocol: Protocol::V311,
            codec: Codec::Own,
            publishers,
            subscribers,
            idle: 0,
            idle_subscribe: false,
            keep_alive_s: 60,
            username: None,
            password: None,
            connect_rate: 0.0,
            handshakes_max: 64,
            open_ms_max: 10_000,
            hold_ms: 100,
            backoff: Backoff::Fixed,
            backoff_base_ms: 10,
            backoff_ms_max: 100,
            storms: 1,
            qos: 1,
            payload_bytes: 64,
            ping_all: false,
            rate: 100.0,
            window: 100,
            duration_ms: 1_000,
            drain_ms: 1_000,
            session_s: None,
            reconnect: false,
            groups: 1,
            filters: 0,
            clear_every: 0,
            quiet_ms: 0,
            takeover_rate: 0.0,
            classes: Vec::new(),
        }
    }

    #[test]
    fn workers_share_all_clients_and_keep_pairs() {
        let plan = plan(Scenario::Pairs, 10, 10);
        let mut all = Vec::new();
        for worker in 0..3 {
            let roles = plan.roles(worker, 3);
            for role in &roles {
                if let Role::Publisher(number) = role {
                    assert!(roles.contains(&Role::Subscriber(*number)));
                }
            }
            all.extend(roles.iter().map(|role| plan.number(*role)));
        }
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn every_filter_matches_the_topics_of_its_publishers() {
        let scenarios = [
            Scenario::FanIn,
            Scenario::FanOut,
            Scenario::Pairs,
            Scenario::Takeover,
            Scenario::Shared,
            Scenario::Wildcard,
        ];
        for scenario in scenarios {
            let pairs = matches!(scenario, Scenario::Pairs | Scenario::Takeover);
            let plan = plan(scenario, 6, if pairs { 6 } else { 4 });
            let plan = Plan { groups: 2, filters: 50, ..plan };
            for (publisher, sequence) in (0..6).flat_map(|p| (0..40).map(move |s| (p, s))) {
                let topic = plan.topic(publisher, sequence);
                let matching: Vec<u32> = (0..plan.subscribers)
                    .flat_map(|number| {
                        let filters = plan.filters(Role::Subscriber(number));
                        filters.into_iter().map(move |filter| (number, filter))
                    })
                    .filter(|(_, filter)| {
                        let shared = filter.strip_prefix("$share/");
                        let filter = shared.map_or(filter.as_str(), |rest| &rest[3..]);
                        tidegate_codec::matches(filter, &topic)
                    })
                    .map(|(number, _)| number)
                    .collect();
                // More publishers than subscribers of a fan-out: the surplus has no receiver.
                let expected = plan.subscribers_of(publisher);
                assert_eq!(matching, expected, "{scenario:?} {publisher} {topic}");
                let copies = match scenario {
                    Scenario::Shared => 1,
                    _ => expected.len() as u64,
                };
                assert_eq!(plan.copies(publisher), copies, "{scenario:?}");
            }
        }
    }

    #[test]
    fn all_wildcard_filters_are_used_and_no_topic_twice() {
        let plan = Plan { filters: 50, ..plan(Scenario::Wildcard, 6, 4) };
        let (mut topics, mut used) = (Vec::new(), std::collections::BTreeSet::new());
        for (publisher, sequence) in (0..6).flat_map(|p| (0..40).map(move |s| (p, s))) {
            let topic = plan.topic(publisher, sequence);
            for filter in (0..4).flat_map(|number| plan.filters(Role::Subscriber(number))) {
                if tidegate_codec::matches(&filter, &topic) {
                    used.insert(filter);
                }
            }
            topics.push(topic);
        }
        let count = topics.len();
        topics.sort();
        topics.dedup();
        assert_eq!((topics.len(), used.len()), (count, 50));
    }
}
