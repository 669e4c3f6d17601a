//! What a run does, complete and checked: the CLI makes it, every worker gets it.

use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tidegate_codec::{QoS, Version};

use crate::engine::{Codec, Transport};

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
}

impl Plan {
    /// How many clients there are.
    pub(crate) fn clients(&self) -> u32 {
        self.subscribers + self.publishers + self.idle
    }

    /// The clients of one worker; a pair is never parted.
    pub(crate) fn roles(&self, worker: u32, workers: u32) -> Vec<Role> {
        let mine = |count: u32| (worker..count).step_by(workers.max(1) as usize);
        let subscribers = mine(self.subscribers).map(Role::Subscriber);
        let publishers = mine(self.publishers).map(Role::Publisher);
        // Dialled in this order: nobody publishes to a subscriber who is not there yet.
        subscribers.chain(publishers).chain(mine(self.idle).map(Role::Idle)).collect()
    }

    /// The number of a client in the whole load.
    pub(crate) fn number(&self, role: Role) -> u32 {
        match role {
            Role::Subscriber(number) => number,
            Role::Publisher(number) => self.subscribers + number,
            Role::Idle(number) => self.subscribers + self.publishers + number,
        }
    }

    /// Its broker. With several, a publisher's is not its subscriber's.
    pub(crate) fn target(&self, role: Role) -> SocketAddr {
        let turn = match role {
            Role::Subscriber(number) | Role::Idle(number) => number as usize,
            Role::Publisher(number) => number as usize + 1,
        };
        self.targets[turn % self.targets.len()]
    }

    /// Its client id, of 21 bytes.
    pub(crate) fn client_id(&self, role: Role) -> String {
        let (letter, number) = match role {
            Role::Subscriber(number) => ('s', number),
            Role::Publisher(number) => ('p', number),
            Role::Idle(number) => ('i', number),
        };
        format!("lt-{:08x}-{letter}{number:08}", self.run)
    }

    /// What a publisher publishes to.
    pub(crate) fn topic(&self, publisher: u32) -> String {
        match self.scenario {
            Scenario::FanIn => {
                let subscriber = publisher % self.subscribers.max(1);
                format!("lt/{:08x}/in/{subscriber}/{publisher}", self.run)
            }
            Scenario::FanOut => format!("lt/{:08x}/out/{publisher}", self.run),
            Scenario::Pairs => format!("lt/{:08x}/pair/{publisher}", self.run),
            Scenario::Connect | Scenario::Storm => format!("lt/{:08x}/none/{publisher}", self.run),
        }
    }

    /// What a client subscribes to.
    pub(crate) fn filter(&self, role: Role) -> Option<String> {
        match (role, self.scenario) {
            (Role::Publisher(_), _) => None,
            (Role::Subscriber(number), Scenario::FanIn) => {
                Some(format!("lt/{:08x}/in/{number}/+", self.run))
            }
            (Role::Subscriber(number), Scenario::FanOut) => {
                Some(self.topic(number % self.publishers.max(1)))
            }
            (Role::Subscriber(number), Scenario::Pairs | Scenario::Connect | Scenario::Storm) => {
                Some(self.topic(number))
            }
            (Role::Idle(number), _) => {
                self.idle_subscribe.then(|| format!("lt/{:08x}/idle/{number}", self.run))
            }
        }
    }

    /// Who must get what a publisher publishes.
    pub(crate) fn subscribers_of(&self, publisher: u32) -> Vec<u32> {
        match self.scenario {
            Scenario::Connect | Scenario::Storm => Vec::new(),
            Scenario::Pairs => vec![publisher],
            Scenario::FanIn => vec![publisher % self.subscribers.max(1)],
            Scenario::FanOut => {
                let every = self.publishers.max(1);
                (publisher..self.subscribers).step_by(every as usize).collect()
            }
        }
    }

    /// How many deliveries a publish makes.
    pub(crate) fn copies(&self, publisher: u32) -> u64 {
        match self.scenario {
            Scenario::Connect | Scenario::Storm => 0,
            Scenario::Pairs | Scenario::FanIn => 1,
            Scenario::FanOut => {
                u64::from((self.subscribers - publisher).div_ceil(self.publishers.max(1)))
            }
        }
    }

    /// What carries a client's MQTT, and its version.
    pub(crate) fn wire(&self, _role: Role) -> (Transport, Version) {
        (self.transport, self.protocol.version())
    }

    /// Seconds that a client's session outlives its connection; none for a clean start.
    pub(crate) fn session_s(&self, role: Role) -> Option<u32> {
        match role {
            Role::Subscriber(_) | Role::Publisher(_) => self.session_s,
            Role::Idle(_) => None,
        }
    }

    /// As the codec calls it.
    pub(crate) fn quality(&self) -> QoS {
        QoS::try_from(self.qos).unwrap_or_default()
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
            rate: 100.0,
            window: 100,
            duration_ms: 1_000,
            drain_ms: 1_000,
            session_s: None,
            reconnect: false,
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
        for scenario in [Scenario::FanIn, Scenario::FanOut, Scenario::Pairs] {
            let plan = plan(scenario, 6, if scenario == Scenario::Pairs { 6 } else { 4 });
            for publisher in 0..plan.publishers {
                let topic = plan.topic(publisher);
                let matching: Vec<u32> = (0..plan.subscribers)
                    .filter(|number| {
                        let filter = plan.filter(Role::Subscriber(*number));
                        filter.is_some_and(|filter| tidegate_codec::matches(&filter, &topic))
                    })
                    .collect();
                // More publishers than subscribers of a fan-out: the surplus has no receiver.
                let expected = plan.subscribers_of(publisher);
                assert_eq!(matching, expected, "{scenario:?} {publisher}");
                if scenario != Scenario::FanOut || publisher < plan.subscribers {
                    assert_eq!(plan.copies(publisher), expected.len() as u64);
                }
            }
        }
    }
}
