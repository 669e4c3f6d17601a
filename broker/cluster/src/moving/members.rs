//! From the members that a group has to those that are wanted.

use std::collections::BTreeSet;

use crate::ids::{NodeId, PartitionId};
use crate::meta::{Meta, MoveStep, NodeState, Wish};

/// A partition's group as its leader sees it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Group {
    /// Who votes; in a joint membership those of both sets.
    pub voters: BTreeSet<NodeId>,
    /// Two sets vote: a change stands half-way.
    pub joint: bool,
    /// The membership is committed.
    pub settled: bool,
    /// Who takes part without a vote.
    pub learners: BTreeSet<NodeId>,
    /// The members besides the leader whose log is near its end.
    pub near: BTreeSet<NodeId>,
}

/// What the leader does next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// All is as it should be.
    Stay,
    /// Something has to happen first, by itself.
    Wait,
    /// Have a node learn, without a vote.
    Teach(NodeId),
    /// Have a learner that is not wanted forget.
    Dismiss(NodeId),
    /// Make these the voters; goes on with a change that stands half-way.
    Change(BTreeSet<NodeId>),
    /// Tell the metadata how far the move is.
    Say(MoveStep),
    /// Tell it that the move is done.
    Done,
    /// Tell it to call the move off: who is to get the replica is gone.
    Abort,
}

/// The next step of a partition that this node leads.
///
/// Never fewer voters than there are, or are wanted: a newcomer votes in the
/// same change in which another stops.
pub fn next(meta: &Meta, partition: PartitionId, me: NodeId, group: &Group) -> Step {
    let wanted = meta.wanted(partition);
    // Lost, or not placed: nobody could say who should vote.
    if wanted.is_empty() || group.voters.is_empty() {
        return Step::Stay;
    }
    let Some((_, of)) = meta.moves().find(|(at, _)| *at == partition) else {
        return reconcile(meta, &wanted.iter().copied().collect(), me, group);
    };
    let target: BTreeSet<NodeId> = of.done(wanted).into_iter().collect();
    if of.step == MoveStep::Joint {
        if group.voters == target && !group.joint {
            return if group.settled { Step::Done } else { Step::Wait };
        }
        // Leadership goes first, where somebody can take it over.
        let stays = |node: &&NodeId| **node != me && group.near.contains(node);
        if of.remove == Some(me) && group.voters.intersection(&target).any(|node| stays(&node)) {
            return Step::Wait;
        }
        // It cannot be called off; the newcomer may have to learn again.
        let unready = (!group.joint).then(|| prepare(meta, &target, me, group)).flatten();
        return unready.unwrap_or(Step::Change(target));
    }
    // Nobody has said yet that the votes change: somebody went by old metadata.
    if group.joint {
        return Step::Change(wanted.iter().copied().collect());
    }
    let Some(add) = of.add else {
        return Step::Say(follows(of.step));
    };
    if !may_come(meta, add) {
        return Step::Abort;
    }
    if !group.settled {
        return Step::Wait;
    }
    if !group.voters.contains(&add) && !group.learners.contains(&add) {
        return Step::Teach(add);
    }
    if add != me && !group.near.contains(&add) {
        return Step::Wait;
    }
    Step::Say(follows(of.step))
}

fn follows(step: MoveStep) -> MoveStep {
    match step {
        MoveStep::Learner => MoveStep::CaughtUp,
        MoveStep::CaughtUp | MoveStep::Joint => MoveStep::Joint,
    }
}

/// Nothing moves: the group has to be what is wanted. It is not after a node
/// was struck off, or a move was called off.
fn reconcile(meta: &Meta, target: &BTreeSet<NodeId>, me: NodeId, group: &Group) -> Step {
    if group.joint {
        return Step::Change(target.clone());
    }
    if !group.settled {
        return Step::Wait;
    }
    if let Some(step) = prepare(meta, target, me, group) {
        return step;
    }
    if group.voters != *target {
        return Step::Change(target.clone());
    }
    match group.learners.difference(target).next() {
        Some(learner) => Step::Dismiss(*learner),
        None => Step::Stay,
    }
}

/// What has to be before these can become the voters; none: they can.
fn prepare(meta: &Meta, target: &BTreeSet<NodeId>, me: NodeId, group: &Group) -> Option<Step> {
    for node in target.difference(&group.voters) {
        if !group.learners.contains(node) {
            let there = may_come(meta, *node) && group.settled;
            return Some(if there { Step::Teach(*node) } else { Step::Wait });
        }
        if *node != me && !group.near.contains(node) {
            return Some(Step::Wait);
        }
    }
    None
}

/// Whether a node may get a replica.
fn may_come(meta: &Meta, node: NodeId) -> bool {
    meta.node(node).is_some_and(|node| {
        let there = match node.state {
            NodeState::Joining | NodeState::Syncing | NodeState::Serving => true,
            NodeState::Draining | NodeState::Left | NodeState::Down => false,
        };
        there && node.wish == Wish::Serve
    })
}
