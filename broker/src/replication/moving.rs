//! What a node does about where its partitions are: hands leaderships over,
//! brings the members of groups to those that are wanted, and gives replicas
//! back that are not.
//!
//! What is to be done is decided by [`tidegate_cluster::moving`], from the
//! metadata and the groups as they are at each look. What takes time runs in
//! tasks of its own, one a partition, and says here that it has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::ids::{self as theirs, Millis, NodeId};
use tidegate_cluster::lease::Hold;
use tidegate_cluster::limits::{GIVE_BACK_AFTER_MS, NEAR_ENTRIES};
use tidegate_cluster::meta::{Command, Meta, NodeState};
use tidegate_cluster::moving::{Group, Leaders, Led, Step, movable, next};
use tidegate_consensus::{GroupStatus, Groups, LogId, Role, Transport};
use tidegate_core::ids::PartitionId;
use tidegate_store::Disk;
use tidegate_store::raft::{PartitionIndex, Writer};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::Word;
use super::machine::say;
use super::run::{Replication, all, group};
use crate::cluster::{Cluster, Replica, View};
use crate::shard::clock::Reading;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// For one step of a move; it is taken again after.
const STEP_PATIENCE: Duration = Duration::from_secs(10);
/// After a step that was not taken, before the next one of the partition.
const AGAIN: Duration = Duration::from_millis(500);

/// When to look.
pub(super) fn pace() -> Interval {
    let mut pace = interval(LOOK);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

/// What has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// A handover of leadership, and whether another leads.
    Handed(PartitionId, bool),
    /// A step of a move.
    Stepped(PartitionId),
    /// A replica was given up, with what stays of it, or could not be.
    GaveUp(PartitionId, Option<PartitionIndex>),
}

/// What is under way.
#[derive(Debug)]
pub(super) struct Moving {
    leaders: Leaders,
    /// The leaderships that are being handed over, and what the shard of each
    /// would have proposed meanwhile: as many batches as may be under way.
    handing: BTreeMap<PartitionId, Vec<(u64, Bytes)>>,
    /// Partitions of which a step is being taken.
    stepping: BTreeSet<PartitionId>,
    /// Replicas that were closed since nobody wants them, and when.
    closed: BTreeMap<PartitionId, Millis>,
    /// Of them those that are being given up.
    giving_up: BTreeSet<PartitionId>,
    /// What an earlier process had was looked through.
    discarded: bool,
    ended: mpsc::UnboundedSender<Ended>,
}

impl Moving {
    pub(super) fn new(ended: mpsc::UnboundedSender<Ended>) -> Moving {
        Moving {
            leaders: Leaders::default(),
            handing: BTreeMap::new(),
            stepping: BTreeSet::new(),
            closed: BTreeMap::new(),
            giving_up: BTreeSet::new(),
            discarded: false,
            ended,
        }
    }

    /// Whether the leadership of a partition is being handed over.
    pub(super) fn hands_over(&self, partition: PartitionId) -> bool {
        self.handing.contains_key(&partition)
    }

    /// Whether a replica is just being given up, and cannot be opened.
    pub(super) fn gives_up(&self, partition: PartitionId) -> bool {
        self.giving_up.contains(&partition)
    }

    /// A replica is wanted again.
    pub(super) fn opened(&mut self, partition: PartitionId) {
        self.closed.remove(&partition);
    }

    /// Keeps what is to be proposed while leadership is handed over; else gives
    /// it back. A proposal that the group refuses would end this leadership,
    /// though the handover may yet come to nothing.
    pub(super) fn hold(
        &mut self,
        partition: PartitionId,
        term: u64,
        payload: Bytes,
    ) -> Option<Bytes> {
        match self.handing.get_mut(&partition) {
            Some(held) => {
                held.push((term, payload));
                None
            }
            None => Some(payload),
        }
    }
}

impl<D, W, T> Replication<D, W, T>
where
    D: Disk + Send + Sync + 'static,
    D::File: Send + Sync,
    W: Writer,
    T: Transport,
{
    /// A look at what is to be done.
    pub(super) async fn go_on(&mut self) {
        let Some(cluster) = self.shared.cluster.clone() else { return };
        let (view, now) = (cluster.view(), Reading::take().millis());
        let me = NodeId(self.node);
        let led: Vec<(PartitionId, GroupStatus)> = all()
            .filter(|partition| self.replicas[usize::from(partition.0)].led.is_some())
            .map(|partition| (partition, self.groups.status(group(partition))))
            .filter(|(_, status)| status.leads)
            .collect();
        self.hand_over(&view, me, &led, now);
        for (partition, status) in &led {
            let busy = self.moving.stepping.contains(partition);
            if !busy && !self.moving.hands_over(*partition) {
                self.step(&cluster, &view.meta, me, *partition, status);
            }
        }
        self.close_unwanted(now).await;
        self.give_back(&cluster, now);
    }

    fn hand_over(
        &mut self,
        view: &View,
        me: NodeId,
        led: &[(PartitionId, GroupStatus)],
        now: Millis,
    ) {
        let voters = |status: &GroupStatus| {
            let voters: BTreeSet<u64> = status.voters.iter().flatten().copied().collect();
            voters.into_iter().map(NodeId).filter(|node| *node != me)
        };
        let reached = |node: &NodeId| view.up.contains(node);
        let of = |near: bool| {
            let one = |(partition, status): &(PartitionId, GroupStatus)| Led {
                partition: number(*partition),
                in_sync: voters(status)
                    .filter(reached)
                    .filter(|node| !near || is_near(status, *node))
                    .collect(),
            };
            led.iter().map(one).collect::<Vec<Led>>()
        };
        let leaving = self.shared.outlet.as_ref().is_some_and(super::Outlet::is_leaving);
        let drains = view.this_node().is_some_and(|node| node.state == NodeState::Draining);
        if let Some(outlet) = &self.shared.outlet {
            let handing = self.moving.handing.len();
            let left = || movable(&view.meta, me, &of(false), leaving).max(handing);
            outlet.set_left((leaving || drains).then(left));
        }
        let in_sync = of(true);
        let mut under_way: BTreeSet<_> = self.moving.handing.keys().copied().map(number).collect();
        while let Some((at, to)) =
            self.moving.leaders.next(&view.meta, me, &in_sync, leaving, &under_way, now)
        {
            under_way.insert(at);
            self.hand(PartitionId(at.0 as u8), to);
        }
    }

    /// Begins a handover.
    fn hand(&mut self, partition: PartitionId, to: NodeId) {
        self.moving.handing.insert(partition, Vec::new());
        let (groups, ended) = (self.groups.clone(), self.moving.ended.clone());
        tokio::spawn(async move {
            let handed = groups.transfer_leadership(group(partition), to.0).await;
            match &handed {
                Ok(()) => debug!(partition = partition.0, to = %to, "leadership is handed over"),
                Err(error) => debug!(partition = partition.0, to = %to, %error, "it stays here"),
            }
            let _ = ended.send(Ended::Handed(partition, handed.is_ok()));
        });
    }

    /// Tells what is here, for whoever asks.
    pub(super) fn show(&self) {
        let Some(cluster) = &self.shared.cluster else { return };
        let open = all().filter(|partition| self.replicas[usize::from(partition.0)].open);
        let shown = open.map(|partition| replica(partition, self.groups.status(group(partition))));
        cluster.show_replicas(shown.collect());
    }

    /// Takes the next step of a partition that this node leads.
    fn step(
        &mut self,
        cluster: &Arc<Cluster>,
        meta: &Meta,
        me: NodeId,
        partition: PartitionId,
        status: &GroupStatus,
    ) {
        let step = next(meta, number(partition), me, &members(status, me));
        if matches!(step, Step::Stay | Step::Wait) {
            return;
        }
        self.moving.stepping.insert(partition);
        let (groups, cluster) = (self.groups.clone(), Arc::clone(cluster));
        let ended = self.moving.ended.clone();
        tokio::spawn(async move {
            let taking = take(&groups, &cluster, partition, step.clone());
            let taken = timeout(STEP_PATIENCE, taking).await;
            match taken.unwrap_or_else(|_| Err("it takes too long".into())) {
                Ok(()) => debug!(partition = partition.0, ?step, "a step of a move"),
                Err(why) => {
                    debug!(partition = partition.0, ?step, why, "a step was not taken");
                    sleep(AGAIN).await;
                }
            }
            let _ = ended.send(Ended::Stepped(partition));
        });
    }

    /// Closes the replicas that the metadata puts elsewhere.
    async fn close_unwanted(&mut self, now: Millis) {
        for partition in all() {
            let at = usize::from(partition.0);
            let unwanted = self.view.holds(partition, self.node) == Some(false);
            // Who still leads has to hand over, or to step down, first.
            if !unwanted || !self.replicas[at].open || self.replicas[at].led.is_some() {
                continue;
            }
            self.groups.close(group(partition)).await;
            say(&self.shared, partition, Word::Moved(partition));
            say(&self.shared, partition, Word::Reset(partition));
            self.replicas[at].open = false;
            self.moving.closed.insert(partition, now);
            info!(partition = partition.0, "a partition has gone to other nodes");
        }
    }

    /// Gives back what closed replicas have on the disk, once it is certain that
    /// nobody counts on them: for longer than a lease lasts they have confirmed
    /// nothing, and with a lease this node knows what the metadata said within
    /// it.
    fn give_back(&mut self, cluster: &Cluster, now: Millis) {
        if cluster.hold(now) != Hold::Serving {
            return;
        }
        let due = self.moving.closed.iter();
        let due = due.filter(|(_, since)| now.saturating_sub(**since) >= GIVE_BACK_AFTER_MS);
        let due: Vec<PartitionId> = due.map(|(partition, _)| *partition).collect();
        for partition in due {
            let wanted = self.view.holds(partition, self.node) != Some(false);
            if wanted || !self.moving.giving_up.insert(partition) {
                continue;
            }
            let (groups, ended) = (self.groups.clone(), self.moving.ended.clone());
            tokio::spawn(async move {
                let index = match groups.give_up(group(partition)).await {
                    Ok(index) => Some(index),
                    Err(error) => {
                        warn!(partition = partition.0, %error, "a replica is not given back");
                        sleep(Duration::from_millis(GIVE_BACK_AFTER_MS)).await;
                        None
                    }
                };
                let _ = ended.send(Ended::GaveUp(partition, index));
            });
        }
    }

    /// Gives back what an earlier process had of partitions that are elsewhere
    /// now. The metadata is as new as this life of the node, and nobody has
    /// counted on these replicas in it.
    pub(super) async fn discard_strays(&mut self) {
        if self.view.wanted.is_empty() || std::mem::replace(&mut self.moving.discarded, true) {
            return;
        }
        for partition in all() {
            if self.view.holds(partition, self.node) != Some(false) {
                continue;
            }
            let index = self.indexes.remove(&group(partition)).unwrap_or_default();
            let had = index.last().is_some();
            match self.groups.discard(group(partition), index).await {
                Ok(index) => {
                    if had {
                        info!(partition = partition.0, "a partition is on other nodes by now");
                    }
                    self.indexes.insert(group(partition), index);
                }
                Err(error) => {
                    warn!(partition = partition.0, %error, "a replica is not given back");
                }
            }
        }
    }

    /// Something has ended.
    pub(super) async fn ended(
        &mut self,
        ended: Ended,
        failed: &mpsc::UnboundedSender<(PartitionId, u64)>,
    ) {
        match ended {
            Ended::Stepped(partition) => {
                self.moving.stepping.remove(&partition);
            }
            Ended::Handed(partition, another_leads) => {
                if another_leads {
                    say(&self.shared, partition, Word::Moved(partition));
                }
                let held = self.moving.handing.remove(&partition).unwrap_or_default();
                self.moving.leaders.tried(number(partition), Reading::take().millis());
                // Before what was held: a leadership that is over takes nothing.
                self.look_at(partition).await;
                for (term, payload) in held {
                    self.propose(partition, term, payload, failed);
                }
                self.go_on().await;
            }
            Ended::GaveUp(partition, index) => {
                self.moving.giving_up.remove(&partition);
                if let Some(index) = index {
                    self.moving.closed.remove(&partition);
                    self.indexes.insert(group(partition), index);
                    self.replicas[usize::from(partition.0)].known = false;
                    info!(partition = partition.0, "its records were given back");
                }
            }
        }
    }
}

/// Takes a step; what a former leader did already counts as done.
async fn take<D, W, T>(
    groups: &Groups<D, W, T>,
    cluster: &Cluster,
    partition: PartitionId,
    step: Step,
) -> Result<(), String>
where
    D: Disk + Send + Sync + 'static,
    D::File: Send + Sync,
    W: Writer,
    T: Transport,
{
    let (id, at) = (group(partition), number(partition));
    let changed = match step {
        Step::Stay | Step::Wait => return Ok(()),
        Step::Teach(node) => groups.add_learner(id, node.0).await,
        Step::Dismiss(node) => groups.remove_learner(id, node.0).await,
        Step::Change(voters) => {
            info!(partition = partition.0, voters = voters.len(), "the replicas change");
            groups.change_voters(id, voters.into_iter().map(|node| node.0).collect()).await
        }
        Step::Say(step) => return tell(cluster, Command::MoveOn { partition: at, step }).await,
        Step::Done => return tell(cluster, Command::MoveDone(at)).await,
        Step::Abort => return tell(cluster, Command::MoveAbort(at)).await,
    };
    changed.map_err(|error| error.to_string())
}

/// Has a command applied, here too: the next step is decided from it.
async fn tell(cluster: &Cluster, command: Command) -> Result<(), String> {
    let index = cluster.propose(command).await.map_err(|error| error.to_string())?;
    let mut changed = cluster.watch();
    let applied = changed.wait_for(|view| view.meta.applied() >= index).await;
    applied.map(drop).map_err(|error| error.to_string())
}

fn number(partition: PartitionId) -> theirs::PartitionId {
    theirs::PartitionId(u16::from(partition.0))
}

/// Whether a member's log is near the end, as far as the leader knows.
fn is_near(status: &GroupStatus, node: NodeId) -> bool {
    let matched = status.matched.get(&node.0).copied().flatten();
    let held = matched.is_some() && matched >= status.purged;
    held && status.lag(node.0).is_some_and(|lag| lag <= NEAR_ENTRIES)
}

fn replica(partition: PartitionId, status: GroupStatus) -> Replica {
    let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
    let voters: BTreeSet<u64> = status.voters.iter().flatten().copied().collect();
    let others = status.matched.keys().filter(|_| status.role == Role::Leader);
    Replica {
        partition: u16::from(partition.0),
        role: match status.role {
            Role::Closed => "closed",
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        },
        term: status.term,
        leader: status.leader.map(NodeId),
        applied: index(status.applied),
        last: index(status.last),
        lag: others.filter_map(|node| Some((NodeId(*node), status.lag(*node)?))).collect(),
        voters: voters.into_iter().map(NodeId).collect(),
        learners: status.learners.iter().copied().map(NodeId).collect(),
    }
}

fn members(status: &GroupStatus, me: NodeId) -> Group {
    let voters: BTreeSet<NodeId> = status.voters.iter().flatten().copied().map(NodeId).collect();
    let learners: BTreeSet<NodeId> = status.learners.iter().copied().map(NodeId).collect();
    let all = voters.iter().chain(&learners).copied();
    let near = all.filter(|node| *node != me && is_near(status, *node)).collect();
    let (joint, settled) = (status.voters.len() > 1, status.settled);
    Group { voters, joint, settled, learners, near }
}
