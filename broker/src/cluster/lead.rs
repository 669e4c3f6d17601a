//! What the leader of the meta group does for the cluster: it grants node
//! leases and says who is down, keeps the voters of the group right, and plans
//! where partitions go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_cluster::drain::{CutOff, Reach};
use tidegate_cluster::ids::{Life, Millis, NodeId, PartitionId};
use tidegate_cluster::lease::{Asked, Grant, Granter, NoGrant};
use tidegate_cluster::limits::NODE_LEASE_MS;
use tidegate_cluster::meta::voters::{self, Change, Step};
use tidegate_cluster::meta::{Command, Meta, NodeState};
use tidegate_cluster::placement::{Decision, Pacing};
use tidegate_consensus::{GroupStatus, META};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::core::{Core, lock, unix_millis};
use super::question::Outcome;
use super::wire::Wire;
use crate::config::{Bootstrap, Discovery};
use crate::shard::clock::Reading;

/// Between two looks at leases.
const LEASE_TICK: Duration = Duration::from_millis(25);
/// Between two looks at who reaches whom.
const CUT_TICK_MS: Millis = 250;
/// A leader that no quorum has confirmed for so long proposes nobody's end.
const QUORUM_MS: Millis = NODE_LEASE_MS;
/// Between two looks at voters and placement.
const DUTIES_TICK: Duration = Duration::from_millis(250);
/// A cluster that is being put up has so long to become complete before its
/// partitions are placed on those who are there.
const COMPLETE_WITHIN_MS: Millis = 5_000;
/// Entries behind the snapshot of the metadata.
const ENTRIES_MAX: u64 = 1_000;

/// The leases that this leader grants.
pub(crate) struct Desk {
    term: u64,
    granter: Granter,
    waiting: HashMap<(Life, u64), oneshot::Sender<Grant>>,
    /// When a quorum said last that this is the leader.
    confirmed: Millis,
    /// Whom each node reaches, and when it said so.
    reports: BTreeMap<NodeId, (Reach, Millis)>,
    cut: CutOff,
    /// When that was looked at last.
    looked: Millis,
}

impl Desk {
    fn new(term: u64, now: Millis) -> Desk {
        Desk {
            term,
            granter: Granter::new(term, now),
            waiting: HashMap::new(),
            // It was elected by one.
            confirmed: now,
            reports: BTreeMap::new(),
            cut: CutOff::default(),
            looked: now,
        }
    }

    /// A request has come; its answer leaves once a quorum has confirmed that
    /// this is the leader.
    pub(super) fn asked(
        &mut self,
        asked: Asked,
        reach: Reach,
        now: Millis,
    ) -> Result<oneshot::Receiver<Grant>, NoGrant> {
        self.granter.asked(asked)?;
        self.reports.insert(asked.life.node, (reach, now));
        // One a node waits: an earlier one is not worth an answer any more.
        self.waiting.retain(|(life, _), _| *life != asked.life);
        let (grant, granted) = oneshot::channel();
        self.waiting.insert((asked.life, asked.request), grant);
        Ok(granted)
    }

    /// The lives that are over, if that can be committed.
    fn down(&mut self, now: Millis) -> Vec<Life> {
        if now.saturating_sub(self.confirmed) >= QUORUM_MS {
            return Vec::new();
        }
        self.granter.down(now)
    }

    /// Has one of two nodes go that have been cut off from each other for long.
    fn part(&mut self, meta: &Meta, me: NodeId, now: Millis) {
        if now.saturating_sub(self.looked) < CUT_TICK_MS {
            return;
        }
        self.looked = now;
        let serves = |node| meta.node(node).is_some_and(|node| node.state == NodeState::Serving);
        self.reports
            .retain(|node, (_, at)| now.saturating_sub(*at) < NODE_LEASE_MS && serves(*node));
        let reports: Vec<Reach> = self
            .reports
            .values()
            .map(|(reach, _)| Reach { leads: reach.node == me, ..reach.clone() })
            .collect();
        let members = meta.nodes().filter(|node| node.state != NodeState::Left).count();
        if let Some(node) = self.cut.goes(&reports, members, now) {
            warn!(%node, "it does not reach a node that serves: it gets no lease any more");
            self.granter.expel(node);
            self.reports.remove(&node);
        }
    }

    /// A quorum has said that this is the leader.
    fn confirm(&mut self, now: Millis) {
        if now.saturating_sub(self.confirmed) >= QUORUM_MS {
            self.granter.regained(now);
        }
        self.confirmed = now;
    }
}

/// Grants leases whenever this node leads. Runs for ever.
pub(super) async fn leases<W: Wire>(core: Arc<Core<W>>) {
    let mut seen = None;
    loop {
        sleep(LEASE_TICK).await;
        let status = core.groups.status(META);
        if !status.leads {
            if lock(&core.desk).take().is_some() {
                info!(term = status.term, "this node does not lead the metadata any more");
            }
            seen = None;
            continue;
        }
        let meta = core.own.borrow().clone();
        let now = Reading::take().millis();
        let round = {
            let mut slot = lock(&core.desk);
            let desk = match slot.as_mut().filter(|desk| desk.term == status.term) {
                Some(desk) => desk,
                None => {
                    info!(term = status.term, "this node leads the metadata");
                    seen = None;
                    slot.insert(Desk::new(status.term, now))
                }
            };
            if seen != Some(meta.applied()) {
                seen = Some(meta.applied());
                desk.granter.members(meta.lives(), now);
            }
            desk.part(&meta, core.me.node, now);
            for life in desk.down(now) {
                let core = Arc::clone(&core);
                tokio::spawn(async move {
                    warn!(%life, "no lease for 2.5 s: the node is down");
                    if let Outcome::Refused(_, why) = core.commit(Command::Down(life)).await {
                        debug!(%life, why, "Down is refused");
                    }
                });
            }
            desk.granter.begin_round()
        };
        if let Some(round) = round {
            tokio::spawn(confirm(Arc::clone(&core), round, status.term));
        }
    }
}

/// A round of answers: they leave only if a quorum says that this node leads.
async fn confirm<W: Wire>(core: Arc<Core<W>>, round: u64, term: u64) {
    let confirmed = core.groups.read_index(META).await;
    let index = core.own.borrow().applied();
    let now = Reading::take().millis();
    let mut slot = lock(&core.desk);
    let Some(desk) = slot.as_mut().filter(|desk| desk.term == term) else { return };
    // A newer term may be confirmed while an older desk is still here.
    if confirmed.is_err() || core.groups.status(META).term != term {
        desk.granter.failed(round);
        return;
    }
    desk.confirm(now);
    for grant in desk.granter.confirmed(round, index, now) {
        if let Some(waits) = desk.waiting.remove(&(grant.life, grant.request)) {
            // Who asked may be gone.
            let _ = waits.send(grant);
        }
    }
}

/// Voters, placement, feature level and forgetting, whenever this node leads. Runs for
/// ever.
pub(super) async fn duties<W: Wire>(core: Arc<Core<W>>) {
    let mut plan = Plan::default();
    loop {
        sleep(DUTIES_TICK).await;
        let status = core.groups.status(META);
        compact(&core, &status).await;
        if !status.leads {
            plan = Plan::default();
            continue;
        }
        let meta = core.own.borrow().clone();
        if meta.cluster().is_none() {
            continue;
        }
        if core.keeps.is_some() && meta.placement().iter().all(Vec::is_empty) {
            // Nobody gets a vote before: it might place them elsewhere.
            place_here(&core, &meta).await;
            continue;
        }
        let now = Reading::take().millis();
        plan.observe(&meta, now);
        if core.hurry.swap(false, Ordering::AcqRel) {
            info!("the loads of nodes are balanced without waiting for more joins");
            plan.pacing.hurry();
        }
        vote(&core, &meta, &status, &plan, now).await;
        for command in plan.commands(&core, &meta, now) {
            if let Outcome::Refused(_, why) = core.commit(command).await {
                debug!(why, "a step of the plan is refused");
                break;
            }
        }
        if let Some(level) = meta.level_possible() {
            let _ = core.commit(Command::SetLevel(level)).await;
        }
        for node in meta.forgettable(unix_millis()) {
            let accept_data_loss = false;
            let _ = core.commit(Command::Forget { node, accept_data_loss }).await;
        }
    }
}

/// Places all partitions on this node, which has kept them from when it was
/// alone; others get theirs as nodes that join do.
async fn place_here<W: Wire>(core: &Core<W>, meta: &Meta) {
    let me = core.me.node;
    if !meta.node(me).is_some_and(|node| node.state.takes_replicas()) {
        return;
    }
    let all = 0..meta.placement().len() as u16;
    let placed = all.map(|partition| (PartitionId(partition), vec![me])).collect();
    match core.commit(Command::Place(placed)).await {
        Outcome::Done(_) => info!("the partitions are here, with what this node has kept alone"),
        Outcome::Refused(_, why) => debug!(why, "the partitions are not placed yet"),
        Outcome::Elsewhere(_) => {}
    }
}

/// Keeps the log of the metadata short, on whichever node.
async fn compact<W: Wire>(core: &Core<W>, status: &GroupStatus) {
    let index = |id: Option<tidegate_consensus::LogId>| id.map_or(0, |id| id.index);
    if index(status.applied).saturating_sub(index(status.snapshot)) < ENTRIES_MAX {
        return;
    }
    match core.groups.snapshot(META).await {
        Ok(Some(held)) => {
            if let Err(error) = core.groups.purge(META, held.index.saturating_sub(100)).await {
                debug!(%error, "the metadata's log is not cut");
            }
        }
        Ok(None) => {}
        Err(error) => warn!(%error, "no snapshot of the metadata"),
    }
}

#[derive(Default)]
struct Plan {
    pacing: Pacing,
    /// How many nodes there were, and since when.
    nodes: (usize, Millis),
    seen: u64,
}

impl Plan {
    fn observe(&mut self, meta: &Meta, now: Millis) {
        if self.seen != meta.applied() {
            self.seen = meta.applied();
            self.pacing.observe(meta, now);
        }
        let nodes = meta.nodes().filter(|node| node.state.takes_replicas()).count();
        if nodes != self.nodes.0 {
            self.nodes = (nodes, now);
        }
    }

    fn commands<W: Wire>(&self, core: &Core<W>, meta: &Meta, now: Millis) -> Vec<Command> {
        let unplaced = meta.placement().iter().any(Vec::is_empty);
        if unplaced && !self.is_complete(core, meta, now) {
            return Vec::new();
        }
        match self.pacing.decide(meta, now) {
            Decision::Settled | Decision::Wait { .. } => Vec::new(),
            Decision::Change(change) => {
                info!(reason = ?change.reason, steps = change.commands.len(), left = change.left,
                    "the placement of partitions changes");
                change.commands
            }
        }
    }

    /// Whether as many nodes are there as are expected, or nobody has come for
    /// a while.
    fn is_complete<W: Wire>(&self, core: &Core<W>, meta: &Meta, now: Millis) -> bool {
        let expected = match (&core.config.bootstrap, &core.config.discovery) {
            (Bootstrap::Single, _) => 1,
            (_any, Some(Discovery::Static(list))) => list.len().max(1),
            (_any, Some(Discovery::Dns { .. } | Discovery::File(_)) | None) => usize::MAX,
        };
        let expected = expected.min(meta.config().replicas(usize::MAX).into());
        let (nodes, since) = self.nodes;
        nodes > 0 && (nodes >= expected || now.saturating_sub(since) >= COMPLETE_WITHIN_MS)
    }
}

/// One step towards the voters that there should be.
async fn vote<W: Wire>(
    core: &Core<W>,
    meta: &Meta,
    status: &GroupStatus,
    plan: &Plan,
    now: Millis,
) {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    // A leader before this one began a change, and did not end it.
    if let ([_, .., new], true) = (&status.voters[..], status.settled) {
        match core.groups.change_voters(META, new.iter().copied().collect()).await {
            Ok(()) => info!(voters = new.len(), "a change of the metadata's voters is finished"),
            Err(error) => debug!(%error, "a change of the metadata's voters stands half-way"),
        }
        return;
    }
    let voters: BTreeSet<NodeId> = status.voters.iter().flat_map(|set| ids(set)).collect();
    let up: BTreeSet<NodeId> = core.wire.up().into_iter().chain([core.me.node]).collect();
    let learners = ids(&status.learners);
    let near = |node: &NodeId| status.lag(node.0).is_some_and(|lag| lag <= 8);
    let given_up =
        |node: &&tidegate_cluster::meta::Node| plan.pacing.is_given_up(meta, node.spec.id, now);
    let group = voters::Group {
        healthy: voters.intersection(&up).copied().collect(),
        caught_up: learners.iter().copied().filter(near).collect(),
        changing: !status.settled || status.voters.len() > 1,
        installing: false,
        given_up: meta.nodes().filter(given_up).map(|node| node.spec.id).collect(),
        leader: Some(core.me.node),
        learners,
        voters,
    };
    let change = voters::next_change(meta, &group);
    let numbers = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect();
    let changed = match &change {
        // Steps that change voters come as what they lead to.
        Change::Step(Step::Stay | Step::Wait(_) | Step::Promote(_) | Step::Demote(_)) => return,
        Change::Step(Step::Teach(node)) => core.groups.add_learner(META, node.0).await,
        Change::Step(Step::Dismiss(node)) => core.groups.remove_learner(META, node.0).await,
        Change::Voters(voters) => core.groups.change_voters(META, numbers(voters)).await,
        Change::Step(Step::HandOver) => {
            let other = group.healthy.iter().find(|node| **node != core.me.node);
            let Some(other) = other else { return };
            if let Err(error) = core.groups.transfer_leadership(META, other.0).await {
                debug!(%error, "leadership of the metadata is not handed over");
            }
            return;
        }
    };
    match changed {
        Ok(()) => info!(?change, "the voters of the metadata change"),
        Err(error) => debug!(?change, %error, "the voters of the metadata do not change yet"),
    }
}
