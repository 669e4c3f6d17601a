//! When the placement is changed, and how much of it at a time.

use std::collections::BTreeMap;

use crate::ids::{Millis, NodeId, PartitionId};
use crate::limits::{MOVES_MAX, REBALANCE_AFTER_JOIN_MS};
use crate::meta::{Command, Meta, Node, NodeState, Wish};

use super::plan::{Balance, Home, difference, plan};

/// Moves into one node at a time.
const MOVES_INTO_NODE_MAX: usize = 2;

/// Watches the nodes by the clock of whoever leads the meta group. A new leader
/// knows no times, and so waits anew.
#[derive(Clone, Debug, Default)]
pub struct Pacing {
    /// When a node last began to take replicas.
    joined: Option<Millis>,
    /// Who is down, since when.
    down: BTreeMap<NodeId, Millis>,
    homes: BTreeMap<NodeId, u16>,
}

/// What to do about the placement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// All is where it should be.
    Settled,
    /// Not yet.
    Wait {
        /// Until then, unless something changes before.
        until: Millis,
        /// For what.
        waiting: Waiting,
    },
    /// Propose these.
    Change(Change),
}

/// What a decision waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waiting {
    /// More nodes may be joining.
    Joins,
    /// A node that is down may come back.
    Loss,
    /// A drain is under way.
    Drain,
    /// As many moves as there may be are under way.
    Moves,
}

/// Commands that bring the placement nearer to the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Why.
    pub reason: Reason,
    /// To be proposed in this order.
    pub commands: Vec<Command>,
    /// Replicas that still have to move after these.
    pub left: usize,
}

/// Why the placement changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Partitions had no replicas.
    Place,
    /// A node is emptied.
    Evacuate,
    /// A node was down for too long.
    Rebuild,
    /// Loads, or the number of replicas.
    Rebalance,
}

impl Pacing {
    /// For a leader that begins.
    pub fn new() -> Pacing {
        Pacing::default()
    }

    /// To be called when nodes have changed, and first of all.
    pub fn observe(&mut self, meta: &Meta, now: Millis) {
        let takes = |node: &&Node| node.state.takes_replicas() && node.spec.weight > 0;
        let homes: BTreeMap<_, _> =
            meta.nodes().filter(takes).map(|node| (node.spec.id, node.spec.weight)).collect();
        if homes.iter().any(|(node, weight)| self.homes.get(node) != Some(weight)) {
            self.joined = Some(now);
        }
        self.homes = homes;
        let is_down =
            |node: NodeId| meta.node(node).is_some_and(|node| node.state == NodeState::Down);
        self.down.retain(|node, _| is_down(*node));
        for node in meta.nodes().filter(|node| node.state == NodeState::Down) {
            self.down.entry(node.spec.id).or_insert(now);
        }
    }

    /// An operator wants the loads balanced now: joins are not waited for, while
    /// losses and drains still are.
    pub fn hurry(&mut self) {
        self.joined = None;
    }

    /// Whether a node has been down for so long that it is replaced.
    pub fn is_given_up(&self, meta: &Meta, node: NodeId, now: Millis) -> bool {
        let after = meta.config().rebuild_after_ms;
        self.down.get(&node).is_some_and(|since| now.saturating_sub(*since) >= after)
    }

    /// What to do now.
    pub fn decide(&self, meta: &Meta, now: Millis) -> Decision {
        let (homes, replicas) = self.homes(meta, now);
        if homes.iter().all(|home| !home.takes) {
            return Decision::Settled;
        }
        let empty = meta.placement().iter().any(Vec::is_empty);
        let taking: Vec<Home> = homes.iter().filter(|home| home.takes).cloned().collect();
        if empty {
            return place(meta, &taking, replicas);
        }
        let gone = |node: &NodeId| homes.iter().all(|home| home.node != *node);
        let must = meta.placement().iter().flatten().find(|node| gone(node));
        let reason = match must {
            Some(node) if self.is_given_up(meta, *node, now) => Reason::Rebuild,
            Some(_) => Reason::Evacuate,
            None => Reason::Rebalance,
        };
        let quiet = self.quiet(meta, now);
        if reason == Reason::Rebalance
            && let Err((until, waiting)) = quiet
        {
            let then = plan(&homes, replicas, meta.placement(), Balance::Yes);
            let same = then == meta.placement();
            return if same { Decision::Settled } else { Decision::Wait { until, waiting } };
        }
        let balance = if quiet.is_ok() { Balance::Yes } else { Balance::No };
        let then = plan(&homes, replicas, meta.placement(), balance);
        steps(meta, &then, usize::from(replicas), reason, now)
    }

    /// Whether loads may be balanced now; if not, when to look again and why.
    fn quiet(&self, meta: &Meta, now: Millis) -> Result<(), (Millis, Waiting)> {
        if meta.nodes().any(|node| node.state == NodeState::Draining) {
            return Err((now + REBALANCE_AFTER_JOIN_MS, Waiting::Drain));
        }
        let after = meta.config().rebuild_after_ms;
        let losses = self.down.values().map(|since| since + after);
        if let Some(until) = losses.filter(|until| *until > now).max() {
            return Err((until, Waiting::Loss));
        }
        match self.joined.map(|joined| joined + REBALANCE_AFTER_JOIN_MS) {
            Some(until) if until > now => Err((until, Waiting::Joins)),
            Some(_) | None => Ok(()),
        }
    }

    /// Who may hold replicas, and how many of each partition there should be.
    fn homes(&self, meta: &Meta, now: Millis) -> (Vec<Home>, u8) {
        let home = |node: &Node, takes| Home {
            node: node.spec.id,
            zone: node.spec.zone.clone(),
            weight: node.spec.weight,
            takes,
        };
        let mut homes = Vec::new();
        // Those that are to be emptied, if others can do without them.
        let mut yielding = Vec::new();
        for node in meta.nodes().filter(|node| node.spec.weight > 0) {
            let (takes, yields) = match (node.state, node.wish) {
                (NodeState::Left, _) | (_, Wish::Leave) => continue,
                (NodeState::Down, _) => (false, self.is_given_up(meta, node.spec.id, now)),
                (NodeState::Draining, wish) => (false, wish == Wish::Empty),
                (NodeState::Syncing | NodeState::Serving, wish) => {
                    (wish == Wish::Serve, wish == Wish::Empty)
                }
                (NodeState::Joining, _) => (false, false),
            };
            if yields {
                yielding.push(home(node, takes));
            } else if takes || meta.partitions_that_need(node.spec.id) > 0 {
                homes.push(home(node, takes));
            }
        }
        let replicas = meta.config().replicas(homes.len() + yielding.len());
        // A partition of two replicas can't even change its membership with one
        // of them down, so nothing is planned around it.
        if homes.len() < usize::from(replicas) || replicas < 3 && self.any_given_up(meta, now) {
            homes.append(&mut yielding);
        }
        (homes, replicas)
    }

    fn any_given_up(&self, meta: &Meta, now: Millis) -> bool {
        self.down.keys().any(|node| self.is_given_up(meta, *node, now))
    }
}

fn place(meta: &Meta, homes: &[Home], replicas: u8) -> Decision {
    let then = plan(homes, replicas, meta.placement(), Balance::No);
    let new = |(partition, now): (usize, &Vec<NodeId>)| {
        now.is_empty().then(|| (PartitionId(partition as u16), then[partition].clone()))
    };
    let placed: Vec<_> = meta.placement().iter().enumerate().filter_map(new).collect();
    let commands = vec![Command::Place(placed)];
    Decision::Change(Change { reason: Reason::Place, commands, left: 0 })
}

/// The next moves towards a placement; the leaders once nothing moves any more.
/// A replica is never given up without another one while there are no more than
/// `replicas`: a node that would hold it may be down for now.
fn steps(
    meta: &Meta,
    then: &[Vec<NodeId>],
    replicas: usize,
    reason: Reason,
    now: Millis,
) -> Decision {
    let mut into: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut moving = 0;
    for (_, under_way) in meta.moves() {
        moving += 1;
        under_way.add.into_iter().for_each(|node| *into.entry(node).or_default() += 1);
    }
    let (mut commands, mut left) = (Vec::new(), 0);
    let is_moving = |partition| meta.moves().any(|(at, _)| at == partition);
    for (number, (now, then)) in meta.placement().iter().zip(then).enumerate() {
        let changes = difference(PartitionId(number as u16), now, then);
        for (place, (partition, add, remove)) in changes.into_iter().enumerate() {
            if add.is_none() && now.len() <= replicas {
                continue;
            }
            let busy = add.map_or(0, |node| into.get(&node).copied().unwrap_or(0));
            let full = moving + commands.len() >= MOVES_MAX || busy >= MOVES_INTO_NODE_MAX;
            if place > 0 || full || is_moving(partition) {
                left += 1;
                continue;
            }
            add.into_iter().for_each(|node| *into.entry(node).or_default() += 1);
            commands.push(Command::MoveStart { partition, add, remove });
        }
    }
    if left == 0 && commands.is_empty() && moving == 0 {
        let leaders: Vec<_> = meta
            .placement()
            .iter()
            .zip(then)
            .enumerate()
            .filter(|(_, (now, then))| now.first() != then.first())
            .filter_map(|(at, (_, then))| Some((PartitionId(at as u16), *then.first()?)))
            .collect();
        if leaders.is_empty() {
            return Decision::Settled;
        }
        commands.push(Command::Prefer(leaders));
    }
    if commands.is_empty() {
        return Decision::Wait { until: now + 1_000, waiting: Waiting::Moves };
    }
    Decision::Change(Change { reason, commands, left })
}
