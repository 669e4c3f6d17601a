//! Who votes in the meta group.
//!
//! One voter for one or two nodes, three for three or four, five for more. It
//! changes rarely: one node at a time, only while a quorum is healthy, the
//! newcomer caught up before it votes, never during the install of a snapshot.

use std::collections::BTreeSet;

use crate::ids::NodeId;

use super::{Meta, Node, NodeState, Wish};

/// The group as its leader sees it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Group {
    /// Raft's voters. One that has just been added counts.
    pub voters: BTreeSet<NodeId>,
    /// Those of them that answer, the leader included.
    pub healthy: BTreeSet<NodeId>,
    /// Who learns without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Those of them that have the leader's last entries.
    pub caught_up: BTreeSet<NodeId>,
    /// A change of the membership is not committed yet.
    pub changing: bool,
    /// Somebody installs a snapshot.
    pub installing: bool,
    /// Voters that have been down for so long that they are replaced.
    pub given_up: BTreeSet<NodeId>,
    /// Who leads, and so is removed last.
    pub leader: Option<NodeId>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing: it is as it should be.
    Stay,
    /// Nothing yet, for this reason.
    Wait(Why),
    /// The node learns, without a vote.
    Teach(NodeId),
    /// A learner that has caught up gets a vote.
    Promote(NodeId),
    /// A vote is taken away.
    Demote(NodeId),
    /// A learner that is no longer wanted.
    Dismiss(NodeId),
    /// The leader should go itself, and hands over first.
    HandOver,
}

/// Why nothing is done yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// A change is under way.
    Changing,
    /// A snapshot is being installed.
    Installing,
    /// No healthy majority, now or after the change.
    NoQuorum,
    /// A newcomer has not caught up.
    CatchingUp(NodeId),
}

/// How many voters a cluster of so many nodes has.
pub fn voters_wanted(nodes: usize, max: u8) -> usize {
    let wanted = match nodes {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    wanted.min(usize::from(max))
}

/// The next step towards the voters that this cluster should have.
pub fn next(meta: &Meta, group: &Group) -> Step {
    if group.changing {
        return Step::Wait(Why::Changing);
    }
    if group.installing {
        return Step::Wait(Why::Installing);
    }
    let wanted = choose(meta, group);
    if let Some(extra) = group.learners.iter().find(|node| !wanted.contains(node)) {
        return Step::Dismiss(*extra);
    }
    // First in, then out: the group is never smaller than it has to be.
    if let Some(new) = wanted.difference(&group.voters).next() {
        if !group.learners.contains(new) {
            return Step::Teach(*new);
        }
        if !group.caught_up.contains(new) {
            return Step::Wait(Why::CatchingUp(*new));
        }
        let healthy = group.healthy.len() + 1;
        return if 2 * group.healthy.len() > group.voters.len()
            && 2 * healthy > group.voters.len() + 1
        {
            Step::Promote(*new)
        } else {
            Step::Wait(Why::NoQuorum)
        };
    }
    // A newcomer may be about to take the place of a voter that is gone.
    let comes =
        |node: &&Node| node.state == NodeState::Joining && !group.voters.contains(&node.spec.id);
    if wanted.len() < group.voters.len()
        && let Some(node) = meta.nodes().find(comes)
    {
        return Step::Wait(Why::CatchingUp(node.spec.id));
    }
    let mut extra: Vec<_> = group.voters.difference(&wanted).copied().collect();
    // Those that don't answer go first, the leader last.
    extra.sort_by_key(|node| (group.leader == Some(*node), group.healthy.contains(node), *node));
    let Some(out) = extra.first().copied() else { return Step::Stay };
    if group.leader == Some(out) {
        return Step::HandOver;
    }
    let stay = group.voters.len() - 1;
    let healthy = group.healthy.iter().filter(|node| **node != out).count();
    if 2 * group.healthy.len() > group.voters.len() && 2 * healthy > stay {
        Step::Demote(out)
    } else {
        Step::Wait(Why::NoQuorum)
    }
}

/// A change of the group, as it is carried out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// One of the steps that change no voter.
    Step(Step),
    /// These vote from here on, by one joint change.
    Voters(BTreeSet<NodeId>),
}

/// The next change. Steps that would leave an even number of voters between
/// them are taken as one: of two voters neither can be done without, so a
/// cluster that grows from one voter to three would be weaker on the way than
/// before.
pub fn next_change(meta: &Meta, group: &Group) -> Change {
    let step = next(meta, group);
    let new = match step {
        Step::Promote(new) => new,
        Step::Demote(out) => {
            let voters = group.voters.iter().copied().filter(|node| *node != out);
            return Change::Voters(voters.collect());
        }
        Step::Stay | Step::Wait(_) | Step::Teach(_) | Step::Dismiss(_) | Step::HandOver => {
            return Change::Step(step);
        }
    };
    let mut then = group.clone();
    then.learners.remove(&new);
    then.caught_up.remove(&new);
    then.voters.insert(new);
    then.healthy.insert(new);
    match next(meta, &then) {
        Step::Promote(second) => {
            then.voters.insert(second);
        }
        Step::Demote(out) => {
            then.voters.remove(&out);
        }
        // Whoever comes with it learns first.
        step @ (Step::Teach(_) | Step::Wait(Why::CatchingUp(_))) => return Change::Step(step),
        Step::Stay
        | Step::Dismiss(_)
        | Step::HandOver
        | Step::Wait(Why::Changing | Why::Installing | Why::NoQuorum) => {}
    }
    Change::Voters(then.voters)
}

/// The voters that there should be: those of now as far as they can stay, then
/// nodes of zones that have none yet.
fn choose(meta: &Meta, group: &Group) -> BTreeSet<NodeId> {
    let counts = |node: &&Node| match node.state {
        NodeState::Serving | NodeState::Syncing | NodeState::Draining => true,
        NodeState::Down => {
            // Who leads is there. Who was to leave does not come back.
            let id = node.spec.id;
            let gone = group.given_up.contains(&id) || node.wish == Wish::Leave;
            !gone || group.leader == Some(id)
        }
        // The first node votes before it serves.
        NodeState::Joining => group.voters.contains(&node.spec.id),
        NodeState::Left => false,
    };
    let members: Vec<&Node> = meta.nodes().filter(counts).collect();
    let stays = |node: &&&Node| group.voters.contains(&node.spec.id);
    // It may be that it serves only once it votes, in the place of one that is gone.
    let can = |node: &&&Node| matches!(node.state, NodeState::Serving | NodeState::Syncing);
    let able = members.iter().filter(|node| stays(node) || can(node)).count();
    let size = voters_wanted(members.len(), meta.config().voters_max).min(odd(able));
    let mut chosen: Vec<&Node> = Vec::new();
    let zone_new = |chosen: &[&Node], node: &Node| {
        node.spec.zone.is_empty() || chosen.iter().all(|other| other.spec.zone != node.spec.zone)
    };
    // A node that drains keeps its vote only if nobody else can have it.
    let classes: [&dyn Fn(&&&Node) -> bool; 3] = [
        &|node| stays(node) && node.state != NodeState::Draining,
        &|node| can(node) && !stays(node),
        &|node| stays(node),
    ];
    for class in classes {
        for fresh_zone in [true, false] {
            for node in members.iter().filter(class) {
                let taken = chosen.iter().any(|other| other.spec.id == node.spec.id);
                if chosen.len() < size && !taken && (!fresh_zone || zone_new(&chosen, node)) {
                    chosen.push(node);
                }
            }
        }
    }
    chosen.into_iter().map(|node| node.spec.id).collect()
}

/// The largest odd number up to `n`, and 1 at least.
fn odd(n: usize) -> usize {
    if n.is_multiple_of(2) { n.saturating_sub(1).max(1) } else { n }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, Incarnation, Life, StoreId};
    use crate::meta::{ClusterConfig, Command, Entry, NodeSpec};
    use crate::seeded::Seeded;

    fn spec(id: u64) -> NodeSpec {
        NodeSpec {
            id: NodeId(id),
            incarnation: Incarnation(1),
            store: StoreId(id.into()),
            zone: format!("z{}", id % 3),
            address: format!("10.0.0.{id}:1"),
            name: String::new(),
            weight: 1,
            level_min: 1,
            level_max: 1,
        }
    }

    fn say(meta: &mut Meta, command: Command) {
        let index = meta.applied() + 1;
        meta.apply(index, &Entry { at: 0, command }).expect("not refused");
    }

    fn life(id: u64) -> Life {
        Life { node: NodeId(id), incarnation: Incarnation(1) }
    }

    fn cluster_of(nodes: u64) -> Meta {
        let mut meta = Meta::new();
        let (cluster, config) = (ClusterId(1), ClusterConfig::default());
        say(&mut meta, Command::Found { cluster, partitions: 1, level: 1, config, node: spec(1) });
        for id in 1..=nodes {
            say(&mut meta, Command::Register { cluster, node: spec(id) });
            say(&mut meta, Command::Sync(life(id)));
            let seen = meta.applied();
            say(&mut meta, Command::Ready { life: life(id), seen });
        }
        meta
    }

    fn ids(of: &[u64]) -> BTreeSet<NodeId> {
        of.iter().map(|id| NodeId(*id)).collect()
    }

    fn group(voters: &[u64]) -> Group {
        let voters = ids(voters);
        let leader = voters.first().copied();
        Group { healthy: voters.clone(), voters, leader, ..Group::default() }
    }

    /// Takes steps, each as it should go, until it stays.
    fn settle(meta: &Meta, group: &mut Group) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..40 {
            let step = next(meta, group);
            match step {
                Step::Stay | Step::Wait(_) => return steps,
                Step::Teach(node) => {
                    group.learners.insert(node);
                    group.caught_up.insert(node);
                }
                Step::Promote(node) => {
                    group.learners.remove(&node);
                    group.caught_up.remove(&node);
                    group.voters.insert(node);
                    group.healthy.insert(node);
                }
                Step::Demote(node) => {
                    group.voters.remove(&node);
                    group.healthy.remove(&node);
                }
                Step::Dismiss(node) => {
                    group.learners.remove(&node);
                    group.caught_up.remove(&node);
                }
                Step::HandOver => {
                    let other = group.healthy.iter().find(|node| Some(**node) != group.leader);
                    group.leader = Some(*other.expect("somebody"));
                }
            }
            steps.push(step);
        }
        panic!("it never settles: {steps:?}");
    }

    #[test]
    fn one_three_or_five_vote() {
        for (nodes, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
            let mut group = group(&[1]);
            settle(&cluster_of(nodes), &mut group);
            assert_eq!(group.voters.len(), voters, "{nodes} nodes");
        }
    }

    #[test]
    fn one_voter_becomes_three_at_once_and_a_lost_one_is_replaced_at_once() {
        let mut meta = cluster_of(3);
        let mut group = group(&[1]);
        let teach = |group: &mut Group, id| {
            group.learners.insert(NodeId(id));
            group.caught_up.insert(NodeId(id));
        };
        assert_eq!(next_change(&meta, &group), Change::Step(Step::Teach(NodeId(2))));
        teach(&mut group, 2);
        assert_eq!(next_change(&meta, &group), Change::Step(Step::Teach(NodeId(3))));
        teach(&mut group, 3);
        assert_eq!(next_change(&meta, &group), Change::Voters(ids(&[1, 2, 3])));

        meta = cluster_of(4);
        say(&mut meta, Command::Down(life(3)));
        let mut group = Group { voters: ids(&[1, 2, 3]), ..group };
        (group.healthy, group.given_up) = (ids(&[1, 2]), ids(&[3]));
        (group.learners, group.caught_up) = (ids(&[4]), ids(&[4]));
        assert_eq!(next_change(&meta, &group), Change::Voters(ids(&[1, 2, 4])));
    }

    #[test]
    fn the_voters_are_of_different_zones() {
        let meta = cluster_of(4);
        let mut group = group(&[1]);
        settle(&meta, &mut group);
        let zones: BTreeSet<_> = group.voters.iter().map(|node| node.0 % 3).collect();
        assert_eq!(zones.len(), 3);
    }

    #[test]
    fn nothing_changes_during_a_change_an_install_or_without_a_quorum() {
        let meta = cluster_of(3);
        let changing = Group { changing: true, ..group(&[1]) };
        assert_eq!(next(&meta, &changing), Step::Wait(Why::Changing));
        let installing = Group { installing: true, ..group(&[1]) };
        assert_eq!(next(&meta, &installing), Step::Wait(Why::Installing));
        let learning = Group { learners: ids(&[2]), ..group(&[1]) };
        assert_eq!(next(&meta, &learning), Step::Wait(Why::CatchingUp(NodeId(2))));
        let meta = cluster_of(5);
        let mut sick = group(&[1, 2, 3]);
        sick.healthy = ids(&[1]);
        sick.learners = ids(&[4, 5]);
        sick.caught_up = ids(&[4, 5]);
        assert_eq!(next(&meta, &sick), Step::Wait(Why::NoQuorum));
    }

    #[test]
    fn a_voter_that_is_down_keeps_its_vote_until_it_is_given_up() {
        let mut meta = cluster_of(4);
        say(&mut meta, Command::Down(life(3)));
        let mut group = group(&[1, 2, 3]);
        group.healthy = ids(&[1, 2]);
        assert_eq!(next(&meta, &group), Step::Stay);
        group.given_up = ids(&[3]);
        let steps = settle(&meta, &mut group);
        let node = NodeId(4);
        assert_eq!(steps, [Step::Teach(node), Step::Promote(node), Step::Demote(NodeId(3))]);
    }

    #[test]
    fn one_whose_disk_was_wiped_has_the_vote_of_the_node_that_it_was() {
        let mut meta = cluster_of(3);
        say(&mut meta, Command::Down(life(2)));
        let mut group = group(&[1, 2, 3]);
        group.healthy = ids(&[1, 3]);
        let new = NodeSpec { address: spec(2).address, ..spec(9) };
        say(&mut meta, Command::Register { cluster: ClusterId(1), node: new });
        assert!(meta.is_forgotten(NodeId(2)));
        assert_eq!(next(&meta, &group), Step::Wait(Why::CatchingUp(NodeId(9))), "never two voters");
        say(&mut meta, Command::Sync(life(9)));
        assert_eq!(next_change(&meta, &group), Change::Step(Step::Teach(NodeId(9))));
        (group.learners, group.caught_up) = (ids(&[9]), ids(&[9]));
        assert_eq!(next_change(&meta, &group), Change::Voters(ids(&[1, 3, 9])));
    }

    #[test]
    fn one_that_was_to_leave_and_is_down_has_no_vote() {
        let mut meta = cluster_of(4);
        say(&mut meta, Command::Drain { node: NodeId(3), wish: Wish::Leave });
        say(&mut meta, Command::Down(life(3)));
        let mut group = group(&[1, 2, 3]);
        group.healthy = ids(&[1, 2]);
        settle(&meta, &mut group);
        assert_eq!(group.voters, ids(&[1, 2, 4]));
    }

    #[test]
    fn a_voter_that_drains_gives_its_vote_to_another_and_leadership_first() {
        let mut meta = cluster_of(4);
        say(&mut meta, Command::Drain { node: NodeId(1), wish: Wish::Leave });
        let mut group = group(&[1, 2, 3]);
        let steps = settle(&meta, &mut group);
        assert!(steps.contains(&Step::HandOver));
        assert_eq!(group.voters, ids(&[2, 3, 4]));
    }

    /// Nodes that go down and come back at random: whatever is done, a majority
    /// of the voters is healthy before and after it, and it settles.
    #[test]
    fn no_step_takes_the_quorum_away() {
        for seed in 0..200 {
            let mut random = Seeded::new(seed);
            let meta = cluster_of(1 + random.below(7));
            let nodes: Vec<NodeId> = meta.nodes().map(|node| node.spec.id).collect();
            let mut group = group(&[1]);
            for _ in 0..60 {
                for node in group.voters.clone() {
                    if random.chance(20) {
                        group.healthy.remove(&node);
                    } else {
                        group.healthy.insert(node);
                    }
                }
                group.given_up = nodes.iter().filter(|_| random.chance(5)).copied().collect();
                group.leader = group.healthy.first().copied();
                let quorum = |group: &Group| 2 * group.healthy.len() > group.voters.len();
                let had = quorum(&group);
                match next(&meta, &group) {
                    Step::Promote(node) => {
                        assert!(group.caught_up.contains(&node), "seed {seed}");
                        group.learners.remove(&node);
                        group.caught_up.remove(&node);
                        group.voters.insert(node);
                        group.healthy.insert(node);
                        assert!(had && quorum(&group), "seed {seed}");
                    }
                    Step::Demote(node) => {
                        assert_ne!(group.leader, Some(node), "seed {seed}");
                        group.voters.remove(&node);
                        group.healthy.remove(&node);
                        assert!(had && quorum(&group), "seed {seed}");
                    }
                    Step::Teach(node) => {
                        group.learners.insert(node);
                        group.caught_up.insert(node);
                    }
                    Step::Dismiss(node) => {
                        group.learners.remove(&node);
                        group.caught_up.remove(&node);
                    }
                    Step::HandOver | Step::Stay | Step::Wait(_) => {}
                }
                assert!(!group.voters.is_empty());
            }
            group.healthy = group.voters.clone();
            group.leader = group.healthy.first().copied();
            group.given_up.clear();
            settle(&meta, &mut group);
            assert_eq!(group.voters.len(), voters_wanted(nodes.len(), 5), "seed {seed}");
        }
    }
}
