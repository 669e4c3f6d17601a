//! Clients of a node that drains go to the others: paced, and told where to.
//!
//! What is to be done is decided by [`tidegate_cluster::drain`], from what is left
//! at each look. The leaderships go before, by the task of partitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_cluster::drain::{Act, Drain, Left, Pace, Survivor, place};
use tidegate_cluster::ids::{Millis, NodeId};
use tidegate_cluster::meta::{NodeState, Wish};
use tidegate_core::Away;
use tokio::time::sleep;
use tracing::info;

use crate::cluster::{About, Cluster, Known, View};
use crate::shard::Shared;
use crate::shard::clock::Reading;
use crate::shard::mailbox::{Mailbox, Order};
use crate::telemetry::histogram::Histogram;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Between two looks at how fast CONNECTs are answered, and lines of the log.
const ACCEPTED_EVERY_MS: Millis = 1_000;
const SAY_EVERY_MS: Millis = 5_000;
/// Clients that a shard hands over at one look.
const HANDED_MAX: usize = 1_024;
/// Names in one turn of new clients.
const NAMES: u32 = 16;

/// Says how this node fares, and hands its clients over while it drains. Runs
/// for ever.
pub(super) async fn watch(shared: Arc<Shared>, cluster: Arc<Cluster>) {
    let Some(outlet) = &shared.outlet else { return };
    let (mut accepts, mut under_way): (Accepts, Option<Handover>) = Default::default();
    loop {
        sleep(LOOK).await;
        let now = Reading::take().millis();
        let view = cluster.view();
        let counts = clients(&shared);
        let left = outlet.left();
        tell(&cluster, &view, &counts, left, accepts.look(&shared, now));
        let state = view.this_node().map(|node| node.state);
        if state != Some(NodeState::Draining) && !outlet.is_leaving() {
            outlet.set_clients(None);
            if under_way.take_if(|_| welcome(&shared)).is_some() {
                info!("this node takes clients again");
            }
            continue;
        }
        let handover = under_way.get_or_insert_with(|| Handover::new(&cluster, &view, now));
        let clients = handover.go_on(&shared, &cluster, &view, &counts, left, now);
        outlet.set_clients(Some(clients));
    }
}

/// Lets new clients in; whether all shards will hear of it.
fn welcome(shared: &Shared) -> bool {
    let told = |mailbox: &Mailbox<_>| mailbox.order(Order::Away(None, 0)).is_ok();
    shared.mailboxes.iter().filter(|mailbox| !told(mailbox)).count() == 0
}

/// Clients of each shard.
fn clients(shared: &Shared) -> Vec<u32> {
    let online = |counters: &tidegate_core::counters::Counters| counters.sessions_online.value();
    let counters = shared.node.counters.iter();
    counters.map(|of| u32::try_from(online(of)).unwrap_or(u32::MAX)).collect()
}

fn tell(cluster: &Cluster, view: &View, counts: &[u32], left: Option<usize>, accept_ms: u32) {
    let replicas = cluster.replicas();
    let mut lags: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (node, lag) in replicas.iter().flat_map(|replica| &replica.lag) {
        *lags.entry(*node).or_default() += lag;
    }
    let leads = replicas.iter().filter(|replica| replica.leader == Some(view.me.node)).count();
    let before = cluster.about();
    let about = About {
        clients: counts.iter().sum(),
        accept_ms,
        leads: leads as u32,
        leaving: left.unwrap_or(leads) as u32,
        lags,
        ..About::clone(&before)
    };
    if about != *before {
        cluster.set_about(about);
    }
}

/// How fast this node answers CONNECTs.
#[derive(Debug, Default)]
struct Accepts {
    /// So many were answered, and so many microseconds had gone since each
    /// CONNECT.
    seen: (u64, u64),
    at: Millis,
    mean_ms: u32,
}

impl Accepts {
    /// The mean of the last second.
    fn look(&mut self, shared: &Shared, now: Millis) -> u32 {
        if now < self.at + ACCEPTED_EVERY_MS {
            return self.mean_ms;
        }
        self.at = now;
        let listeners = shared.meters.iter().flat_map(|meters| meters.listeners.iter());
        let mut seen = (0, 0);
        for listener in listeners {
            let [connect, connack] = &listener.connect.0;
            // Both count from the accept: what lies between is ours alone.
            let sum = |of: &Histogram| of.sum_micros();
            seen.0 += connack.count();
            seen.1 += sum(connack).saturating_sub(sum(connect));
        }
        let (count, micros) =
            (seen.0.saturating_sub(self.seen.0), seen.1.saturating_sub(self.seen.1));
        self.seen = seen;
        self.mean_ms = u32::try_from(micros / count.max(1) / 1_000).unwrap_or(u32::MAX);
        self.mean_ms
    }
}

/// One that is under way.
struct Handover {
    drain: Drain,
    /// The names that new clients were told of last; none: they were welcome.
    names: Option<Arc<[Arc<str>]>>,
    began: Millis,
    said: Millis,
    done: bool,
}

impl Handover {
    fn new(cluster: &Cluster, view: &View, now: Millis) -> Handover {
        let draining = view.in_state(NodeState::Draining).max(1) as u32;
        let pace = Pace::new(cluster.policy().reconnects_per_second, draining, now);
        // How long it may take is seen to by whoever stops the process.
        let drain = Drain::new(false, None, pace);
        Handover { drain, names: None, began: now, said: now, done: false }
    }

    /// A look; how many clients are left that others could take.
    fn go_on(
        &mut self,
        shared: &Shared,
        cluster: &Cluster,
        view: &View,
        counts: &[u32],
        leaderships: Option<usize>,
        now: Millis,
    ) -> u32 {
        let known = cluster.known();
        let mut survivors = survivors(view, &known, now);
        let slowest = survivors.iter().filter_map(|survivor| known.get(&survivor.node));
        let slowest = slowest.map(|known| known.about.accept_ms).max().unwrap_or(0);
        let draining = view.in_state(NodeState::Draining).max(1) as u32;
        let pace = self.drain.pace();
        pace.share(cluster.policy().reconnects_per_second, draining);
        pace.adapt((!survivors.is_empty()).then_some(slowest), now);
        if survivors.is_empty() {
            // Nobody could take them, so this node still does.
            if self.names.is_some() && welcome(shared) {
                self.names = None;
            }
            return 0;
        }
        // Nobody has looked yet: there may be some.
        let leaderships = leaderships.map_or(1, |left| left as u32);
        let clients: u32 = counts.iter().sum();
        // They are under way, whatever is left of them.
        let transfers = leaderships;
        let left = Left { leaderships, transfers, clients, ..Left::default() };
        let (acts, _) = self.drain.next(&left, now);
        let send = acts.iter().map(|act| if let Act::Send(clients) = act { *clients } else { 0 });
        let send: u32 = send.sum();
        let placed = place(&mut survivors, send.max(NAMES));
        let at = |node: &NodeId| known.get(node).map(|known| known.about.clients_at.as_str());
        let names = placed.iter().filter_map(at).filter(|at| !at.is_empty());
        let names: Arc<[Arc<str>]> = names.map(Arc::from).collect();
        self.order(shared, view, counts, names, send as usize);
        self.say(clients, now);
        clients
    }

    /// Has the shards send so many away, each its share.
    fn order(
        &mut self,
        shared: &Shared,
        view: &View,
        counts: &[u32],
        names: Arc<[Arc<str>]>,
        send: usize,
    ) {
        let mut same: Vec<&Arc<str>> = names.iter().collect();
        same.sort_unstable();
        same.dedup();
        let mut before: Vec<&Arc<str>> = self.names.iter().flat_map(|names| names.iter()).collect();
        before.sort_unstable();
        before.dedup();
        if send == 0 && self.names.is_some() && same == before {
            return;
        }
        let for_good = view.this_node().is_some_and(|node| node.wish == Wish::Leave);
        let all = counts.iter().map(|count| *count as usize).sum::<usize>().max(1);
        let (mut rest, mut told, mut at) = (send, true, 0);
        for (mailbox, count) in shared.mailboxes.iter().zip(counts) {
            let share = (send * *count as usize).div_ceil(all).min(rest).min(HANDED_MAX);
            rest -= share;
            // Each begins where the last one ends.
            let mut turn: Vec<Arc<str>> = names.to_vec();
            if !turn.is_empty() {
                let by = at % turn.len();
                turn.rotate_left(by);
            }
            at += share;
            let away = Away::new(for_good, turn.into());
            // Whoever is not sent away now is the next time.
            told &= mailbox.order(Order::Away(Some(away), share)).is_ok();
        }
        self.names = told.then_some(names);
    }

    fn say(&mut self, clients: u32, now: Millis) {
        if clients == 0 {
            if !self.done {
                self.done = true;
                let seconds = now.saturating_sub(self.began) / 1_000;
                info!(seconds, "no client is left on this node");
            }
            return;
        }
        self.done = false;
        if self.said == self.began || now >= self.said + SAY_EVERY_MS {
            // Not the same again at once.
            self.said = now.max(self.began + 1);
            let per_second = self.drain.pace().per_second();
            info!(clients, per_second, "clients are handed over to other nodes");
        }
    }
}

/// Who takes clients: nodes that serve and are connected.
fn survivors(view: &View, known: &BTreeMap<NodeId, Known>, now: Millis) -> Vec<Survivor> {
    let nodes = view.meta.nodes().filter(|node| {
        let serves = node.state == NodeState::Serving && node.wish == Wish::Serve;
        serves && node.spec.id != view.me.node && view.up.contains(&node.spec.id)
    });
    let survivor = |node: &tidegate_cluster::meta::Node| {
        let known = known.get(&node.spec.id).filter(|known| known.is_fresh(now));
        let clients = known.map_or(0, |known| known.about.clients);
        Survivor { node: node.spec.id, clients, weight: node.spec.weight.max(1) }
    };
    nodes.map(survivor).collect()
}
