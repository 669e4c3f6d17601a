//! The metrics of a node, read from the shards at scrape time.
//!
//! A shard only counts. A scrape, on a node thread, reads the counts, sums
//! those that are not told a shard, and writes the text. Its cost depends on
//! the number of shards and listeners, not on connections or sessions.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tidegate_core::counters::{
    CloseReason, Count, Counters, DropReason, RejectReason, Scope, Stage, SubscriptionKind,
    WillResult,
};
use tidegate_kernel::program::Facts;

use super::exposition::{Families, Format, Series, classic};
use super::health::{Health, Phase};
use super::histogram::Distribution;
use super::log;
use super::metric::{self, Metric};
use super::process::Process;
use super::source::{ListenerCounts, Observed, ShellCounts, Source, TlsCounts};
use super::{membership, storage, system};
use crate::config::Config;
use crate::steering::Status;
use crate::system::sampler::Snapshot;

/// The packet types by their index, and who may send them: (name, client, server).
const PACKETS: [(&str, bool, bool); 16] = [
    ("reserved", false, false),
    ("connect", true, false),
    ("connack", false, true),
    ("publish", true, true),
    ("puback", true, true),
    ("pubrec", true, true),
    ("pubrel", true, true),
    ("pubcomp", true, true),
    ("subscribe", true, false),
    ("suback", false, true),
    ("unsubscribe", true, false),
    ("unsuback", false, true),
    ("pingreq", true, false),
    ("pingresp", false, true),
    ("disconnect", true, true),
    ("auth", true, true),
];
const VERSIONS: [&str; 3] = ["3.1", "3.1.1", "5.0"];
const QOS: [&str; 3] = ["0", "1", "2"];

/// The metrics of one node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Of the node that `config` describes and `source` counts.
    pub fn new(config: &Config, source: Arc<dyn Source>, health: Arc<Health>) -> Metrics {
        let listeners = config.listeners.iter();
        let node = NodeCollector {
            listeners: listeners.map(|l| (l.name.clone(), l.transport.label())).collect(),
            connections_max: config.settings.limits.connections_max,
            source,
            health,
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(node));
        Metrics { registry }
    }

    /// The text of a scrape.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::with_capacity(64 << 10);
        encode(&mut text, &self.registry).expect("a String takes all that is written");
        match format {
            Format::OpenMetrics => text,
            Format::Classic => classic(&text),
        }
    }
}

/// Reads all that a node counts.
struct NodeCollector {
    /// Name and transport, in the order of the config.
    listeners: Vec<(String, &'static str)>,
    connections_max: u32,
    source: Arc<dyn Source>,
    health: Arc<Health>,
}

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCollector").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Collector for NodeCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        let scrape = Scrape::of(self);
        scrape.connections(&mut families)?;
        scrape.shards(&mut families)?;
        if let Some(status) = self.source.steering() {
            steering(&status, &scrape.shards, &mut families)?;
            let mut all = vec![("steer", status.program.map(|facts| vec![facts]))];
            if let Some(kernel) = self.source.observed() {
                observed(&kernel, &self.listeners, &mut families)?;
                all.extend(kernel.objects);
            }
            objects(&all, &mut families)?;
        }
        scrape.mqtt(&mut families)?;
        if let Some(counts) = self.source.storage() {
            storage::write(&counts, &mut families)?;
        }
        if let Some((view, hold)) = self.source.membership() {
            membership::write(&view, hold, &self.source.replicas(), &mut families)?;
        }
        if let Some(counts) = self.source.peers() {
            membership::write_peers(&counts, &mut families)?;
        }
        self.node(&scrape, &mut families)?;
        let system = self.source.system();
        if let Some(snapshot) = &system {
            let tables = scrape.sum_shell(|shell| shell.table_bytes);
            system::write(snapshot, &self.listeners, &scrape.shards, tables, &mut families)?;
        }
        process(system.as_deref(), &mut families)
    }
}

impl NodeCollector {
    fn node(&self, scrape: &Scrape<'_>, families: &mut Families<'_>) -> fmt::Result {
        let (state, remaining) = match self.health.phase() {
            Phase::Starting | Phase::Ready => (0, 0),
            Phase::Draining => (1, scrape.sum(|c| &c.sessions_online)),
            Phase::Drained => (2, scrape.sum(|c| &c.sessions_online)),
        };
        families.single(&metric::DRAIN_STATE, state)?;
        families.single(&metric::DRAIN_SESSIONS_REMAINING, remaining)?;
        let revoked = scrape.sum(|c| &c.subscriptions_revoked);
        families.single(&metric::SUBSCRIPTIONS_REVOKED, revoked)?;
        families.single(&metric::CONNECTS_DELAYED, scrape.sum(|c| &c.connects_delayed))?;
        families.single(&metric::PUBLISH_ERRANDS, scrape.sum(|c| &c.errands))?;
        families.single(&metric::CLIENT_RATE_PAUSES, scrape.sum(|c| &c.rate_pauses))?;
        if let Some(overload) = self.source.overload() {
            families.single(&metric::OVERLOAD_STAGE, overload.stage)?;
            families.single(&metric::MEMORY_USED, overload.memory_used)?;
            if overload.memory_limit > 0 {
                families.single(&metric::MEMORY_LIMIT, overload.memory_limit)?;
            }
        }
        let suppressed = log::suppressed();
        families.family(&metric::LOG_LINES_SUPPRESSED, |series| {
            series.add(&["rate_limit"], suppressed.rate_limited)?;
            series.add(&["unread"], suppressed.unread)
        })?;
        let features = if cfg!(feature = "defects") { "defects" } else { "" };
        let commit = option_env!("TIDEGATE_COMMIT").unwrap_or("unknown");
        families.family(&metric::BUILD, |series| {
            series.inform(&[env!("CARGO_PKG_VERSION"), commit, features])
        })?;
        let hash = format!("{:08x}", self.source.config_digest());
        families.family(&metric::CONFIG_HASH, |series| series.inform(&[&hash]))
    }
}

/// Which shard gets a connection, as far as the kernel sees to it.
fn steering(status: &Status, shards: &[String], families: &mut Families<'_>) -> fmt::Result {
    let on = || status.listeners.iter().filter(|listener| listener.effective.is_some());
    let counted = || on().filter_map(|l| Some((l.name.as_str(), l.counts?)));
    if status.program.is_some() {
        families.family(&metric::SHARD_STEERING_WEIGHT, |series| {
            on().try_for_each(|listener| {
                let each = shards.iter().zip(&listener.weights);
                each.into_iter()
                    .try_for_each(|(shard, n)| series.add(&[&listener.name, shard], u64::from(*n)))
            })
        })?;
        families.family(&metric::SHARD_SELECTED, |series| {
            on().try_for_each(|listener| {
                let each = shards.iter().zip(&listener.picked);
                each.into_iter().try_for_each(|(shard, n)| series.add(&[&listener.name, shard], *n))
            })
        })?;
        families.family(&metric::SHARD_PENDING, |series| {
            let mut each = shards.iter().zip(&status.loads);
            each.try_for_each(|(shard, load)| series.add(&[shard], load.pending))
        })?;
        families.family(&metric::SHARD_STEERING_FALLBACK, |series| {
            counted().try_for_each(|(name, counts)| {
                series.add(&[name, "drained"], counts.fallback_ring)?;
                series.add(&[name, "hash"], counts.fallback_hash)
            })
        })?;
        families.family(&metric::SHARD_MIGRATED, |series| {
            counted().try_for_each(|(name, counts)| series.add(&[name], counts.migrated))
        })?;
        families.family(&metric::KERNEL_REFUSED, |series| {
            counted().try_for_each(|(name, counts)| {
                series.add(&[name, "rate"], counts.refused_rate)?;
                series.add(&[name, "source"], counts.refused_prefix)?;
                series.add(&[name, "blocked"], counts.refused_blocked)
            })
        })?;
    }
    Ok(())
}

/// The eBPF objects themselves.
fn objects(
    objects: &[(&'static str, Option<Vec<Facts>>)],
    families: &mut Families<'_>,
) -> fmt::Result {
    families.family(&metric::BPF_PROGRAM_LOADED, |series| {
        objects
            .iter()
            .try_for_each(|(name, loaded)| series.add(&[name], u64::from(loaded.is_some())))
    })?;
    let timed = || {
        let programs = objects.iter().filter_map(|(_, loaded)| loaded.as_ref()).flatten();
        programs.filter_map(|f| Some((f.name.as_str(), f.runs?, f.run_nanos?)))
    };
    families.family(&metric::BPF_RUNS, |series| {
        timed().try_for_each(|(name, runs, _)| series.add(&[name], runs))
    })?;
    families.family(&metric::BPF_RUN_SECONDS, |series| {
        timed().try_for_each(|(name, _, nanos)| series.add(&[name], nanos as f64 / 1e9))
    })
}

/// TCP states that a connection of ours can come into, by the kernel's number.
const STATES: [(usize, &str); 8] = [
    (1, "established"),
    (4, "fin_wait1"),
    (5, "fin_wait2"),
    (6, "time_wait"),
    (7, "close"),
    (8, "close_wait"),
    (9, "last_ack"),
    (11, "closing"),
];

/// What the kernel counts of our connections.
fn observed(
    observed: &Observed,
    listeners: &[(String, &'static str)],
    families: &mut Families<'_>,
) -> fmt::Result {
    let all = || observed.connections.iter().zip(listeners.iter().map(|(name, _)| name.as_str()));
    if !observed.connections.is_empty() {
        families.family(&metric::TCP_ESTABLISHED, |series| {
            all().try_for_each(|(stats, name)| series.add(&[name], stats.established))
        })?;
        families.family(&metric::TCP_RETRANSMITS, |series| {
            all().try_for_each(|(stats, name)| series.add(&[name], stats.retransmitted_segments))
        })?;
        families.family(&metric::TCP_TIMEOUTS, |series| {
            all().try_for_each(|(stats, name)| series.add(&[name], stats.timeouts))
        })?;
        if observed.resets {
            families.family(&metric::TCP_RESETS, |series| {
                all().try_for_each(|(stats, name)| series.add(&[name], stats.resets_received))
            })?;
        }
        families.family(&metric::TCP_RTT, |series| {
            all().try_for_each(|(stats, name)| {
                // 128 us to 2 s, each four times the one before.
                let sum = stats.rtt_us_sum as f64 / 1e6;
                series.distribute(&[name], &Distribution::of_log2(&stats.rtt_us, 1e-6, 6, sum))
            })
        })?;
        families.family(&metric::TCP_LIFETIME, |series| {
            all().try_for_each(|(stats, name)| {
                // A second to 4.6 hours.
                let sum = stats.lifetime_ms_sum as f64 / 1e3;
                series.distribute(&[name], &Distribution::of_log2(&stats.lifetime_ms, 1e-3, 9, sum))
            })
        })?;
        families.family(&metric::TCP_TRANSITIONS, |series| {
            all().try_for_each(|(stats, name)| {
                STATES.iter().try_for_each(|(state, label)| {
                    series.add(&[name, label], stats.entered[*state])
                })
            })
        })?;
    }
    if !observed.tracking.is_empty() {
        families.family(&metric::CONNTRACK_EVENTS, |series| {
            observed.tracking.iter().try_for_each(|(event, count)| series.add(&[event], *count))
        })?;
    }
    Ok(())
}

/// What went well on a listener, and what did not.
fn results(series: &mut Series<'_>, listener: &str, counts: [u64; 2]) -> fmt::Result {
    series.add(&[listener, "ok"], counts[0])?;
    series.add(&[listener, "failed"], counts[1])
}

/// The numbers of one scrape.
struct Scrape<'a> {
    node: &'a NodeCollector,
    counters: &'a [Counters],
    shell: Vec<ShellCounts>,
    /// The labels of shards, by index.
    shards: Vec<String>,
}

impl<'a> Scrape<'a> {
    fn of(node: &'a NodeCollector) -> Scrape<'a> {
        let counters = node.source.counters();
        let indexes = 0..counters.len();
        Scrape {
            node,
            counters,
            shell: indexes.clone().map(|shard| node.source.shell(shard)).collect(),
            shards: indexes.map(|shard| shard.to_string()).collect(),
        }
    }

    /// Wrapping: one shard may add to a gauge what another subtracts.
    fn sum(&self, count: impl Fn(&Counters) -> &Count) -> u64 {
        self.counters.iter().fold(0, |sum, counters| sum.wrapping_add(count(counters).value()))
    }

    fn sum_shell(&self, count: impl Fn(&ShellCounts) -> u64) -> u64 {
        self.shell.iter().map(count).sum()
    }

    /// The label of what is not counted a listener: its name when there is but
    /// one, else none.
    fn only_listener(&self) -> (&str, &str) {
        match self.node.listeners.as_slice() {
            [(name, transport)] => (name, transport),
            _ => ("", ""),
        }
    }

    /// Calls `add` for each listener and shard with what is counted there.
    fn each_listener(
        &self,
        mut add: impl FnMut((&str, &str), usize, &ListenerCounts) -> fmt::Result,
    ) -> fmt::Result {
        for (shard, counters) in self.counters.iter().enumerate() {
            let told = |listener| self.node.source.listener(shard, listener);
            if told(0).is_none() {
                let counts = ListenerCounts {
                    connections: counters.connections.value(),
                    accepted: counters.connections_accepted.value(),
                };
                add(self.only_listener(), shard, &counts)?;
                continue;
            }
            for (listener, (name, transport)) in self.node.listeners.iter().enumerate() {
                add((name, transport), shard, &told(listener).unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn connections(&self, families: &mut Families<'_>) -> fmt::Result {
        let (listener, _) = self.only_listener();
        families.family(&metric::CONNECTIONS, |series| {
            self.each_listener(|(name, transport), shard, counts| {
                series.add(&[name, transport, &self.shards[shard]], counts.connections)
            })
        })?;
        families.family(&metric::CONNECTIONS_LIMIT, |series| {
            series.add(&[listener], u64::from(self.node.connections_max))
        })?;
        families.single(&metric::CONNECTIONS_HALF_OPEN, self.sum(|c| &c.half_open))?;
        families.family(&metric::CONNECTIONS_ACCEPTED, |series| {
            self.each_listener(|(name, _), shard, counts| {
                series.add(&[name, &self.shards[shard]], counts.accepted)
            })
        })?;
        families.family(&metric::CONNECTIONS_CLOSED, |series| {
            CloseReason::ALL.iter().try_for_each(|&reason| {
                let count = self.sum(|c| &c.connections_closed[reason as usize]);
                series.add(&[listener, reason.label()], count)
            })
        })?;
        families.family(&metric::CONNECTIONS_REJECTED, |series| {
            RejectReason::ALL.iter().try_for_each(|&reason| {
                let count = self.sum(|c| &c.connections_rejected[reason as usize]);
                series.add(&[listener, reason.label()], count)
            })
        })?;
        families.single(&metric::ACCEPT_HALTS, self.sum_shell(|s| s.accept_halts))?;
        self.connect_duration(families)?;
        self.layers(families)?;
        families.single(&metric::KEEPALIVE_CLAMPED, self.sum(|c| &c.keepalive_clamped))?;
        families.family(&metric::AUTH, |series| {
            ["accepted", "refused"].iter().enumerate().try_for_each(|(i, result)| {
                series.add(&["connect", result], self.sum(|c| &c.auth[i]))
            })
        })?;
        if let Some(passwords) = self.node.source.passwords() {
            families.family(&metric::PASSWORD_CHECKS, |series| {
                let results = ["right", "wrong", "refused", "expired"];
                results.iter().zip(passwords.results).try_for_each(|(r, n)| series.add(&[r], n))
            })?;
            families.single(&metric::PASSWORD_CHECKS_WAITING, passwords.waiting)?;
            families.family(&metric::PASSWORD_CHECK_SECONDS, |series| {
                series.add(&[], passwords.nanos as f64 / 1e9)
            })?;
        }
        families.single(&metric::SOCKET_RECEIVED, self.sum_shell(|s| s.bytes_received))?;
        families.single(&metric::SOCKET_SENT, self.sum_shell(|s| s.bytes_sent))?;
        families.single(&metric::SOCKET_READS, self.sum_shell(|s| s.receives))?;
        families.single(&metric::SOCKET_WRITES, self.sum_shell(|s| s.sends))
    }

    /// TLS, PROXY and WebSocket, on the listeners that have them.
    fn layers(&self, families: &mut Families<'_>) -> fmt::Result {
        let all = self.node.source.layers();
        let named = || all.iter().zip(self.node.listeners.iter().map(|(name, _)| name.as_str()));
        if all.iter().any(|counts| counts.tls.is_some()) {
            let tls = || named().filter_map(|(counts, name)| Some((counts.tls?, name)));
            families.family(&metric::TLS_HANDSHAKES, |series| {
                tls().try_for_each(
                    |(TlsCounts { handshakes: [older, newer, failed], .. }, name)| {
                        series.add(&[name, "ok", "1.2"], older)?;
                        series.add(&[name, "ok", "1.3"], newer)?;
                        series.add(&[name, "failed", "unknown"], failed)
                    },
                )
            })?;
            families.family(&metric::TLS_CERTIFICATE_EXPIRY, |series| {
                tls().try_for_each(|(counts, name)| {
                    series.add(&[name], counts.expires.max(0) as u64)
                })
            })?;
            families.family(&metric::TLS_RELOADS, |series| {
                tls().try_for_each(|(counts, name)| results(series, name, counts.reloads))
            })?;
        }
        let two = [
            (&metric::PROXY_HEADERS, all.iter().map(|counts| counts.proxy).collect::<Vec<_>>()),
            (&metric::WEBSOCKET_HANDSHAKES, all.iter().map(|counts| counts.websocket).collect()),
        ];
        for (metric, counts) in two {
            if counts.iter().any(Option::is_some) {
                families.family(metric, |series| {
                    let listeners = counts.iter().zip(&self.node.listeners);
                    listeners
                        .filter_map(|(counts, (name, _))| Some(((*counts)?, name)))
                        .try_for_each(|(counts, name)| results(series, name, counts))
                })?;
            }
        }
        Ok(())
    }

    /// By listener and stage, summed over the shards.
    fn connect_duration(&self, families: &mut Families<'_>) -> fmt::Result {
        let node = self.node;
        families.family(&metric::CONNECT_DURATION, |series| {
            for (listener, (name, _)) in node.listeners.iter().enumerate() {
                let told = |shard| node.source.connect_timings(shard, listener);
                let shards: Vec<_> = (0..self.shards.len()).filter_map(told).collect();
                if shards.is_empty() {
                    continue;
                }
                for &stage in Stage::ALL {
                    let all = Distribution::of(shards.iter().map(|s| &s.0[stage as usize]));
                    series.distribute(&[name, stage.label()], &all)?;
                }
            }
            Ok(())
        })
    }

    /// By QoS and scope, summed over the shards.
    fn publish_latency(&self, families: &mut Families<'_>) -> fmt::Result {
        families.family(&metric::PUBLISH_LATENCY, |series| {
            for (qos, label) in QOS.iter().enumerate() {
                for &scope in Scope::ALL {
                    let shards = (0..self.shards.len()).map(|s| self.node.source.timings(s));
                    let all = Distribution::of(shards.map(|s| &s.publishes[scope as usize][qos]));
                    series.distribute(&[label, scope.label()], &all)?;
                }
            }
            Ok(())
        })
    }

    fn shards(&self, families: &mut Families<'_>) -> fmt::Result {
        families.family(&metric::SHARD_IMBALANCE, |series| {
            let loads = self.counters.iter().map(|c| c.connections.value());
            series.add(&[self.only_listener().0], imbalance(loads))
        })?;
        families.family(&metric::SHARD_BUSY, |series| {
            self.counters.iter().zip(&self.shards).try_for_each(|(counters, shard)| {
                series.add(&[shard], counters.busy_micros.value() as f64 / 1e6)
            })
        })?;
        families.family(&metric::SHARD_LOOP_LAG, |series| {
            self.shards.iter().enumerate().try_for_each(|(at, shard)| {
                let turns = &self.node.source.timings(at).turns;
                series.distribute(&[shard], &Distribution::of([turns]))
            })
        })?;
        self.by_shard(families, &metric::SHARD_TURNS, |c| &c.turns)?;
        self.by_shell(families, &metric::SHARD_SLEEPS, |s| Some(s.sleeps))?;
        self.by_shell(families, &metric::SHARD_WAKES, |s| Some(s.wakes))?;
        self.by_shard(families, &metric::SHARD_CROSS_MESSAGES, |c| &c.cross_messages)?;
        if self.shell.iter().any(|shell| shell.mailbox_depth.is_some()) {
            self.by_shell(families, &metric::SHARD_MAILBOX_DEPTH, |s| s.mailbox_depth)?;
        }
        self.by_shard(families, &metric::SHARD_OUTBOX_DEPTH, |c| &c.outbox_depth)?;
        families.single(&metric::SHARD_MAILBOX_FULL, self.sum_shell(|s| s.mailbox_full))?;
        self.by_shard(families, &metric::SHARD_MAILBOX_PAUSES, |c| &c.mailbox_pauses)
    }

    fn by_shard(
        &self,
        families: &mut Families<'_>,
        metric: &'static Metric,
        count: impl Fn(&Counters) -> &Count,
    ) -> fmt::Result {
        families.family(metric, |series| {
            self.counters
                .iter()
                .zip(&self.shards)
                .try_for_each(|(counters, shard)| series.add(&[shard], count(counters).value()))
        })
    }

    fn by_shell(
        &self,
        families: &mut Families<'_>,
        metric: &'static Metric,
        count: impl Fn(&ShellCounts) -> Option<u64>,
    ) -> fmt::Result {
        families.family(metric, |series| {
            self.shell
                .iter()
                .zip(&self.shards)
                .filter_map(|(shell, shard)| Some((shard, count(shell)?)))
                .try_for_each(|(shard, count)| series.add(&[shard], count))
        })
    }

    fn mqtt(&self, families: &mut Families<'_>) -> fmt::Result {
        families.family(&metric::PACKETS_RECEIVED, |series| {
            self.packets(series, |packet| packet.1, |c| &c.packets_received)
        })?;
        families.family(&metric::PACKETS_SENT, |series| {
            self.packets(series, |packet| packet.2, |c| &c.packets_sent)
        })?;
        self.labelled(families, &metric::MESSAGES_RECEIVED, &QOS, |c| &c.messages_received)?;
        self.labelled(families, &metric::MESSAGES_DELIVERED, &QOS, |c| &c.messages_delivered)?;
        let reasons: Vec<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
        self.labelled(families, &metric::MESSAGES_DROPPED, &reasons, |c| &c.messages_dropped)?;
        let received = self.sum(|c| &c.message_bytes_received);
        families.single(&metric::MESSAGE_BYTES_RECEIVED, received)?;
        families.single(&metric::MESSAGE_BYTES_SENT, self.sum(|c| &c.message_bytes_sent))?;
        self.publish_latency(families)?;
        families.family(&metric::SESSIONS, |series| {
            series.add(&["online"], self.sum(|c| &c.sessions_online))?;
            series.add(&["offline"], self.sum(|c| &c.sessions_offline))
        })?;
        let kinds: Vec<_> = SubscriptionKind::ALL.iter().map(|kind| kind.label()).collect();
        self.labelled(families, &metric::SUBSCRIPTIONS, &kinds, |c| &c.subscriptions)?;
        families.single(&metric::RETAINED_MESSAGES, self.sum(|c| &c.retained_messages))?;
        families.single(&metric::RETAINED_BYTES, self.sum(|c| &c.retained_bytes))?;
        families.single(&metric::QUEUED_MESSAGES, self.sum(|c| &c.queued_messages))?;
        families.single(&metric::QUEUED_BYTES, self.sum(|c| &c.queued_bytes))?;
        let directions = ["in", "out"];
        self.labelled(families, &metric::INFLIGHT_MESSAGES, &directions, |c| &c.inflight)?;
        let results: Vec<_> = WillResult::ALL.iter().map(|result| result.label()).collect();
        self.labelled(families, &metric::WILL_MESSAGES, &results, |c| &c.wills)?;
        let lookups = ["hit", "miss"];
        self.labelled(families, &metric::ROUTE_CACHE_LOOKUPS, &lookups, |c| &c.route_cache)?;
        let scopes = ["shard", "node", "cluster"];
        self.labelled(families, &metric::SESSION_TAKEOVERS, &scopes, |c| &c.takeovers)?;
        let shards = (0..self.shards.len()).map(|s| self.node.source.timings(s));
        let all = Distribution::of(shards.map(|s| &s.takeovers));
        families
            .family(&metric::SESSION_TAKEOVER_SECONDS, |series| series.distribute(&[], &all))?;
        families.single(&metric::SESSION_TAKEOVER_BYTES, self.sum(|c| &c.takeover_bytes))
    }

    /// A family with one label, whose values are the indexes of an array.
    fn labelled<const N: usize>(
        &self,
        families: &mut Families<'_>,
        metric: &'static Metric,
        labels: &[&str],
        counts: impl Fn(&Counters) -> &[Count; N],
    ) -> fmt::Result {
        debug_assert_eq!(labels.len(), N, "{}", metric.name);
        families.family(metric, |series| {
            labels
                .iter()
                .enumerate()
                .try_for_each(|(i, label)| series.add(&[label], self.sum(|c| &counts(c)[i])))
        })
    }

    /// By type and version. What the standard does not know is told only if it
    /// was counted all the same.
    fn packets(
        &self,
        series: &mut Series<'_>,
        sent_by_that_side: impl Fn(&(&str, bool, bool)) -> bool,
        counts: impl Fn(&Counters) -> &[[Count; 3]; 16],
    ) -> fmt::Result {
        for (kind, packet) in PACKETS.iter().enumerate() {
            for (version, label) in VERSIONS.iter().enumerate() {
                let count = self.sum(|c| &counts(c)[kind][version]);
                let only_v5 = packet.0 == "auth";
                if count > 0 || (sent_by_that_side(packet) && (version == 2 || !only_v5)) {
                    series.add(&[packet.0, label], count)?;
                }
            }
        }
        Ok(())
    }
}

fn process(system: Option<&Snapshot>, families: &mut Families<'_>) -> fmt::Result {
    let process = Process::read();
    families.family(&metric::COLLECTOR_UP, |series| {
        let others = system.map(Snapshot::collectors).into_iter().flatten();
        others
            .map(|(name, why)| (name, why.is_none()))
            .try_for_each(|(name, up)| series.add(&[name], u64::from(up)))?;
        series.add(&["process"], u64::from(process.is_some()))
    })?;
    let Some(process) = process else { return Ok(()) };
    families.single(&metric::PROCESS_CPU, process.cpu_seconds)?;
    families.optional(&metric::PROCESS_OPEN_FDS, process.open_fds)?;
    families.optional(&metric::PROCESS_MAX_FDS, process.max_fds)?;
    families.optional(&metric::PROCESS_VIRTUAL_MEMORY, process.virtual_bytes)?;
    families.optional(&metric::PROCESS_RESIDENT_MEMORY, process.resident_bytes)?;
    families.optional(&metric::PROCESS_THREADS, process.threads)?;
    families.optional(&metric::PROCESS_START_TIME, process.start_seconds)
}

/// The greatest load over the mean; 1 when there is none.
fn imbalance(loads: impl Iterator<Item = u64> + Clone) -> f64 {
    let shards = loads.clone().count() as f64;
    let (sum, most) = (loads.clone().sum::<u64>(), loads.max().unwrap_or(0));
    if sum == 0 { 1.0 } else { most as f64 * shards / sum as f64 }
}
