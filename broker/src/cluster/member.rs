//! As a member: register this life, hold the lease, know the metadata, know the
//! peers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_cluster::bootstrap::Peers;
use tidegate_cluster::drain::Whole;
use tidegate_cluster::ids::{ClusterId, NodeId};
use tidegate_cluster::lease::{Hold, Holder};
use tidegate_cluster::meta::{Command, Meta, NodeState, Wish};
use tidegate_consensus::META;
use tidegate_store::Peer;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::core::{Core, End, lock};
use super::enter::look;
use super::question::{Kind, LeaseAnswer, News, Outcome, Question, encode_asked, encode_have};
use super::view::{Phase, View};
use super::wire::Wire;
use crate::shard::clock::Reading;

/// In the identity: the metadata as it was known last.
const REMEMBERED: &str = "cluster.meta";
const TICK: Duration = Duration::from_millis(50);
/// Between two rounds of probes by a member that has a lease, and by one that
/// looks for its cluster.
const SEEK: [Duration; 2] = [Duration::from_secs(30), Duration::from_millis(500)];
/// For an answer about the lease: well below what it lasts.
const LEASE_PATIENCE: Duration = Duration::from_millis(800);
/// Between two notes of the metadata on the disk.
const REMEMBER: Duration = Duration::from_secs(5);

/// Registers this life, and brings it from Joining to Serving. Runs for ever.
pub(super) async fn register<W: Wire>(core: Arc<Core<W>>, cluster: ClusterId) {
    let mut said = String::new();
    let mut links = Links::default();
    loop {
        let view = core.cluster.view();
        let state = view.this_node().map(|node| node.state);
        let command = match state {
            None => Some(Command::Register { cluster, node: core.spec() }),
            // Whoever says so: the leader of the metadata may be out of reach.
            Some(NodeState::Down) => {
                core.end(End::LifeOver("the metadata has it as down".into()));
                return;
            }
            Some(NodeState::Left) => {
                info!("this node has left its cluster, and waits to be stopped");
                core.cluster.change(|view| {
                    view.phase = Phase::Registering("this node has left its cluster".into());
                    true
                });
                return;
            }
            Some(NodeState::Draining) if leaves(&view) => Some(Command::Leave(core.me)),
            Some(NodeState::Joining) => Some(Command::Sync(core.me)),
            Some(NodeState::Syncing) if links.may_serve(&view) && core.cluster.may_serve() => {
                Some(Command::Ready { life: core.me, seen: view.meta.applied() })
            }
            Some(NodeState::Syncing | NodeState::Serving | NodeState::Draining) => None,
        };
        if state.is_some() && view.phase != Phase::Registered {
            core.cluster.change(|view| {
                view.phase = Phase::Registered;
                true
            });
        }
        let Some(command) = command else {
            sleep(TICK).await;
            continue;
        };
        let registers = matches!(command, Command::Register { .. });
        match core.propose(command).await {
            // Shown when it is applied here.
            Outcome::Done(index) => {
                if registers {
                    core.registered.store(true, Ordering::Release);
                }
                let mut changed = core.cluster.watch();
                let applied = changed.wait_for(|view| view.meta.applied() >= index);
                let _ = timeout(Duration::from_secs(2), applied).await;
            }
            Outcome::Refused(Kind::LifeOver, why) => {
                core.end(End::LifeOver(why));
                return;
            }
            Outcome::Refused(Kind::Void, why) => {
                core.end(End::Void(why));
                return;
            }
            Outcome::Refused(Kind::Outpaced, _) => {}
            Outcome::Refused(Kind::Other, why) => {
                if said != why {
                    error!(why, "the cluster does not take this node in");
                    waits(&core, &why);
                    said = why;
                }
                sleep(Duration::from_secs(1)).await;
            }
            Outcome::Elsewhere(_) => {
                let why = "no leader of the cluster's metadata answers".to_owned();
                if said != why && state.is_none() {
                    warn!(why, "this node waits for its cluster");
                    waits(&core, &why);
                    said = why;
                }
            }
        }
    }
}

/// Whether an operator wants this node gone, and nothing counts on it any more.
fn leaves(view: &View) -> bool {
    let wish = view.this_node().is_some_and(|node| node.wish == Wish::Leave);
    wish && view.meta.partitions_that_need(view.me.node) == 0 && view.meta.lives().count() > 1
}

/// What a node looks at before it serves.
#[derive(Default)]
struct Links {
    whole: Whole,
    said: BTreeSet<NodeId>,
}

impl Links {
    /// Whether this node reaches all that serve, and no vote in the metadata is
    /// that of a node which is gone for good: who takes nodes down one after the
    /// other waits for each to serve.
    fn may_serve(&mut self, view: &View) -> bool {
        let others = view.meta.nodes().filter(|node| node.spec.id != view.me.node);
        let serving = others.filter(|node| node.state.has_clients()).map(|node| node.spec.id);
        let missing: BTreeSet<NodeId> = serving.filter(|node| !view.up.contains(node)).collect();
        let now = Reading::take().millis();
        let reaches_all = missing.is_empty();
        let whole = self.whole.may_serve(reaches_all, now);
        if !whole && self.whole.is_shaky() && self.said != missing {
            if let Some(node) = missing.first() {
                warn!(%node, "this node serves when it reaches that one, which does");
            }
            self.said = missing;
        }
        whole && view.voters.iter().all(|node| view.meta.node(*node).is_some())
    }
}

fn waits<W: Wire>(core: &Core<W>, why: &str) {
    core.cluster.change(|view| {
        let registers = matches!(view.phase, Phase::Registering(_));
        if registers {
            view.phase = Phase::Registering(why.to_owned());
        }
        registers
    });
}

/// Holds the lease. Runs for ever.
pub(super) async fn lease<W: Wire>(core: Arc<Core<W>>) {
    let mut holder = Holder::new(core.me);
    let mut turn = 0;
    loop {
        sleep(TICK).await;
        // From the moment that the leader counts, and not only once this node
        // knows of it.
        if !core.registered.load(Ordering::Acquire) {
            continue;
        }
        let Some(asked) = holder.ask(Reading::take().millis()) else { continue };
        let view = core.cluster.view();
        // It needs none any more, and waits to be stopped.
        if view.this_node().is_some_and(|node| node.state == NodeState::Left) {
            return;
        }
        let question = encode_asked(asked, core.cluster.clients(), &view.up);
        let leads = core.groups.status(META).leads;
        turn += 1;
        let answering = async {
            if leads {
                let what = Question::Lease as u16;
                return core.answer(core.me.node, META, what, question).await.ok();
            }
            let leader = core.someone(turn)?;
            core.reach(&leader, Question::Lease, question).await
        };
        // While it is waited for there is no next request, which would make its
        // answer worthless.
        let answer = timeout(LEASE_PATIENCE, answering).await.ok().flatten();
        match answer.map(|answer| LeaseAnswer::decode(&answer)) {
            Some(Ok(LeaseAnswer::Granted(grant))) => {
                let counts = holder.granted(&grant);
                if counts {
                    core.cluster.leased(&holder, grant.index);
                }
            }
            Some(Ok(LeaseAnswer::Elsewhere(leader))) => {
                let other = leader.as_ref().is_none_or(|leader| leader.node != core.me.node);
                if other {
                    *lock(&core.hint) = leader;
                }
            }
            // It may be that the leader does not know this life yet; whether it
            // is over is told by registering it again, which else does nothing.
            Some(Ok(LeaseAnswer::Over(why))) => {
                let Some(cluster) = core.cluster.view().cluster else { continue };
                let again = Command::Register { cluster, node: core.spec() };
                if let Outcome::Refused(Kind::LifeOver, _) = core.propose(again).await {
                    core.end(End::LifeOver(why));
                    return;
                }
            }
            Some(Err(error)) => warn!(%error, "an answer about the lease cannot be read"),
            None => {}
        }
    }
}

/// Shows the newest metadata that this node's own replica has, or others do.
/// Runs for ever.
pub(super) async fn own<W: Wire>(core: Arc<Core<W>>) {
    let mut own = core.own.clone();
    let Some(mut status) = core.groups.watch(META) else { return };
    loop {
        let meta = own.borrow_and_update().clone();
        let now = status.borrow_and_update().clone();
        let takes_part = now.is_voter(core.me.node.0) || now.learners.contains(&core.me.node.0);
        let voters: BTreeSet<_> = now.voters.iter().flatten().copied().map(NodeId).collect();
        let mut newer = false;
        core.cluster.change(|view| {
            let before = (view.term, view.leader, view.voters.clone());
            if takes_part && now.term >= view.term {
                view.term = now.term;
                view.leader = now.leader.map(NodeId);
                view.voters = voters;
            }
            newer = meta.applied() > view.meta.applied();
            if newer {
                view.meta = meta.clone();
            }
            newer || before != (view.term, view.leader, view.voters.clone())
        });
        if newer {
            core.keep(&meta);
        }
        tokio::select! {
            changed = own.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

/// Asks others for metadata while this node's own replica is no voter that
/// knows its leader, or is behind what its lease needs: who is voted out may
/// never hear of it. Runs for ever.
pub(super) async fn follow<W: Wire>(core: Arc<Core<W>>) {
    let mut turn = 0;
    loop {
        let status = core.groups.status(META);
        let current = core.cluster.hold(Reading::take().millis()) == Hold::Serving;
        if status.is_voter(core.me.node.0) && status.leader.is_some() && current {
            sleep(4 * TICK).await;
            continue;
        }
        let Some(other) = core.someone(turn) else {
            sleep(2 * TICK).await;
            continue;
        };
        turn += 1;
        let have = core.cluster.view().meta.applied();
        let news = core.reach(&other, Question::News, encode_have(have)).await;
        let news = news.and_then(|news| News::decode(&news).ok());
        let Some(news) = news else {
            sleep(2 * TICK).await;
            continue;
        };
        take(&core, news);
    }
}

fn take<W: Wire>(core: &Core<W>, news: News) {
    let meta = match news.meta.is_empty() {
        true => None,
        false => match Meta::restore(&news.meta) {
            Ok(meta) => Some(Arc::new(meta)),
            Err(error) => {
                warn!(%error, "metadata of a peer cannot be read");
                None
            }
        },
    };
    let mut newer = false;
    core.cluster.change(|view| {
        // Of another cluster's it is not: its nodes do not answer.
        let ours = meta.as_ref().filter(|meta| meta.cluster() == view.cluster);
        let ours = ours.filter(|meta| meta.applied() > view.meta.applied());
        newer = ours.is_some();
        if let Some(meta) = ours {
            view.meta = Arc::clone(meta);
        }
        let before = (view.term, view.leader, view.voters.clone());
        if news.term >= view.term && news.leader.is_some() {
            view.term = news.term;
            view.leader = news.leader;
            view.voters = news.voters.iter().copied().collect();
        }
        newer || before != (view.term, view.leader, view.voters.clone())
    });
    if newer {
        let meta = core.cluster.view().meta.clone();
        core.keep(&meta);
    }
    if let Some(leader) = news.leader.filter(|leader| *leader != core.me.node) {
        let address = lock(&core.book).address(leader).unwrap_or_default().to_owned();
        *lock(&core.hint) = Some(super::question::Leader { node: leader, address });
    }
}

/// Looks where the peers are: often without a lease, since all may have moved.
/// Runs for ever.
pub(super) async fn seek<W: Wire>(core: Arc<Core<W>>) {
    let remembered = core.identity.peers().unwrap_or_default();
    let mut peers = Peers::new(remembered.into_iter().map(|peer| peer.address).collect());
    loop {
        let held = core.cluster.hold(Reading::take().millis()) == Hold::Serving;
        let addresses = look(&core, &mut peers, held).await;
        core.probe(addresses).await;
        let meta = core.cluster.view().meta.clone();
        if meta.cluster().is_some() {
            core.keep(&meta);
        }
        let rest = SEEK[usize::from(!held)];
        let lost = async {
            while core.cluster.hold(Reading::take().millis()) == Hold::Serving {
                sleep(2 * TICK).await;
            }
        };
        // Who loses its lease looks at once.
        if held {
            let _ = timeout(rest, lost).await;
        } else {
            sleep(rest).await;
        }
    }
}

/// Notes metadata and peers on the disk, for the next start. Runs for ever.
pub(super) async fn remember<W: Wire>(core: Arc<Core<W>>) {
    let mut noted = (0, Vec::new());
    loop {
        sleep(REMEMBER).await;
        let meta = core.cluster.view().meta.clone();
        let others = meta.nodes().filter(|node| node.spec.id != core.me.node);
        let book = lock(&core.book).clone();
        let peers: Vec<Peer> = others
            .filter_map(|node| {
                let address = book.address(node.spec.id)?.to_owned();
                Some(Peer { node: node.spec.id.0, address })
            })
            .collect();
        if meta.applied() == 0 || noted == (meta.applied(), peers.clone()) {
            continue;
        }
        let written = core
            .identity
            .set_peers(&peers)
            .and_then(|()| core.identity.set_value(REMEMBERED, Some(&meta.snapshot())));
        match written {
            Ok(()) => noted = (meta.applied(), peers),
            Err(error) => warn!(%error, "the peers are not noted"),
        }
    }
}

/// What was noted, of that cluster.
pub(super) fn remembered<W: Wire>(core: &Core<W>, cluster: ClusterId) {
    let bytes = core.identity.value(REMEMBERED).ok().flatten();
    let Some(meta) = bytes.and_then(|bytes| Meta::restore(&bytes).ok()) else { return };
    if meta.cluster() != Some(cluster) {
        return;
    }
    info!(nodes = meta.nodes().count(), "the cluster as it was known last");
    let meta = Arc::new(meta);
    core.cluster.change(|view| {
        let newer = meta.applied() > view.meta.applied();
        if newer {
            view.meta = meta.clone();
        }
        newer
    });
    core.keep(&meta);
}

/// Shows with whom connections are up. Runs for ever.
pub(super) async fn links<W: Wire>(core: Arc<Core<W>>) {
    loop {
        let up: BTreeSet<NodeId> = core.wire.up().into_iter().collect();
        core.cluster.change(|view| {
            let new = view.up != up;
            view.up = up;
            new
        });
        sleep(4 * TICK).await;
    }
}
