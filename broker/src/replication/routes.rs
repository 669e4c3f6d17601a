//! The task of routes: tells the other nodes which filters this one has, and the
//! core which ones they have.
//!
//! What is said and when is `tidegate_cluster::routes::Exchange`'s affair; here
//! bytes are moved. Woken by the shards when the index has changed, by links, and
//! by time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::ids::{self, Life};
use tidegate_cluster::limits::ROUTE_SWEEP_MAX;
use tidegate_cluster::routes::{Call, Exchange, Own, Said, Target};
use tidegate_core::ids::{Member, Millis, PARTITIONS, PartitionId};
use tidegate_core::index::{Remote, RemoteWalk, RouteChange};
use tidegate_mesh::{MailClass, Peer, Room};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;
use tracing::warn;

use super::Word;
use crate::cluster::Cluster;
use crate::shard::Shared;
use crate::shard::clock::Reading;

/// Changes of the index that are taken at once.
const CHANGES_A_STEP: usize = 1_024;
/// How often leases are looked after.
const LOOK_MS: Millis = 100;

/// What happens to the task.
#[derive(Debug)]
pub(crate) enum RouteEvent {
    /// A member can be reached, on a new link.
    Up(Life, Member, Peer),
    /// Its link is lost.
    Down(Life),
    /// It is over, by the metadata.
    Gone(Life),
    /// Its bytes; the room is given back when they are dealt with.
    Said(Life, Bytes, Room),
    /// The others that have clients, by the metadata.
    Serving(Vec<Life>),
    /// The feature level, by the metadata.
    Level(u16),
}

/// Runs until the channel ends.
pub(crate) async fn run(
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    seed: u64,
    wake: Arc<Notify>,
    mut events: mpsc::UnboundedReceiver<RouteEvent>,
) {
    let mut routes = Routes {
        shared,
        cluster,
        exchange: Exchange::new(seed, PARTITIONS),
        walk: RemoteWalk::default(),
        peers: BTreeMap::new(),
        passed: 0,
        covered: None,
        more: false,
    };
    loop {
        let now = millis();
        let next = routes.next(now).saturating_sub(now);
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else { return };
                routes.take(event);
                // What has come meanwhile makes one step.
                while let Ok(event) = events.try_recv() {
                    routes.take(event);
                }
            }
            () = wake.notified() => {}
            () = sleep(Duration::from_millis(next.max(1))) => {}
        }
        routes.step();
    }
}

struct Routes {
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    exchange: Exchange,
    walk: RemoteWalk,
    peers: BTreeMap<Life, Peer>,
    passed: u64,
    covered: Option<Millis>,
    /// There is more to sweep, or to take.
    more: bool,
}

impl Routes {
    fn take(&mut self, event: RouteEvent) {
        match event {
            RouteEvent::Up(life, member, peer) => {
                self.exchange.up(life, member.0);
                self.peers.insert(life, peer);
            }
            RouteEvent::Down(life) => {
                self.exchange.down(life);
                self.peers.remove(&life);
            }
            RouteEvent::Gone(life) => {
                self.exchange.gone(life);
                self.peers.remove(&life);
            }
            RouteEvent::Said(life, bytes, room) => {
                let (filters, held) = self.shared.node.index.remotes();
                self.exchange.kept(filters, held);
                if let Err(error) = self.exchange.read(life, &bytes, millis()) {
                    warn!(node = %life.node, %error, "routes of another node were not understood");
                    if let Some(peer) = self.peers.get(&life) {
                        peer.disconnect("routes that were not understood");
                    }
                }
                drop(room);
                self.calls();
            }
            RouteEvent::Serving(lives) => self.exchange.serving(lives.into_iter()),
            RouteEvent::Level(level) => self.shared.node.set_feature_level(level),
        }
    }

    fn step(&mut self) {
        let now = millis();
        let changes = self.shared.node.index.take_changes(CHANGES_A_STEP);
        self.more = changes.len() == CHANGES_A_STEP;
        for (ticket, change) in changes {
            self.exchange.own(ticket, &own(change), now);
        }
        self.calls();
        self.sweep();
        self.exchange.tick(now);
        for (life, peer) in &self.peers {
            // A word that was not taken would be a gap.
            while peer.ready(MailClass::Routes) {
                let Some(word) = self.exchange.write(*life, now) else { break };
                if peer.send(MailClass::Routes, word.into()).is_err() {
                    break;
                }
            }
        }
        let passed = self.exchange.passed(now);
        let covered = self.exchange.covered_until(self.cluster.lease_until()).ok();
        let may_go_on = passed != self.passed
            || (covered.is_some_and(|until| now < until)
                && self.covered.is_none_or(|until| until <= now));
        self.shared.node.set_covered(covered);
        self.covered = covered;
        if passed != self.passed {
            self.passed = passed;
            self.shared.node.index.pass(passed);
        }
        if may_go_on {
            self.shared.mailboxes.iter().for_each(|mailbox| mailbox.say(Word::RoutesMoved));
        }
    }

    fn calls(&mut self) {
        while let Some(call) = self.exchange.next_call() {
            self.call(&call);
        }
    }

    fn call(&self, Call { target, filter, said }: &Call) {
        let (index, remote) = (&self.shared.node.index, remote(*target));
        match said {
            Said::Has(epoch) => _ = index.set_remote(remote, filter, Some(*epoch)),
            Said::HasNot => _ = index.set_remote(remote, filter, None),
            Said::Had(epoch) => {
                let is_void = |epoch| self.exchange.is_void(*target, epoch);
                index.settle_remote(remote, filter, *epoch, is_void);
            }
        }
    }

    /// Drops some of what is void.
    fn sweep(&mut self) {
        if !self.exchange.walk() {
            return;
        }
        let is_void = |remote, epoch| self.exchange.is_void(target(remote), epoch);
        let index = &self.shared.node.index;
        if !index.sweep_remotes(&mut self.walk, ROUTE_SWEEP_MAX, is_void) {
            self.exchange.walked();
        }
        self.more |= self.exchange.walk();
    }

    /// When to look again though nothing happens.
    fn next(&self, now: Millis) -> Millis {
        if self.more {
            return now;
        }
        let passing = self.exchange.next_passing(now).unwrap_or(Millis::MAX);
        passing.min(now + LOOK_MS)
    }
}

fn remote(target: Target) -> Remote {
    match target {
        Target::Node(member) => Remote::Node(Member(member)),
        Target::Partition(partition) => Remote::Partition(PartitionId(partition.0 as u8)),
    }
}

fn target(remote: Remote) -> Target {
    match remote {
        Remote::Node(member) => Target::Node(member.0),
        Remote::Partition(partition) => Target::Partition(ids::PartitionId(partition.0.into())),
    }
}

fn own(change: RouteChange) -> Own {
    let number = |partition: PartitionId| ids::PartitionId(u16::from(partition.0));
    match change {
        RouteChange::Appeared { of, filter } => Own::Appeared { of: of.map(number), filter },
        RouteChange::Vanished { of, filter } => Own::Vanished { of: of.map(number), filter },
        RouteChange::Led { partition, index } => Own::Led { partition: number(partition), index },
        RouteChange::Followed(partition) => Own::Followed(number(partition)),
    }
}

fn millis() -> Millis {
    Reading::take().millis()
}
