//! The cluster's metadata: a state machine over the log of the meta group.
//!
//! [`Meta::apply`] is the only way to change it, and it knows nothing but its
//! state and the entry: the same entries give the same state, the same effects
//! and the same snapshot bytes on every node. A command that can't be is
//! refused with its reason, in apply, so that two leaders of different minds
//! can't both be right.
//!
//! Raft's own membership is not here: it is the truth, `wanted` and `moves` are
//! where it is meant to go.

mod command;
mod config;
mod moves;
mod node;
mod nodes;
mod numbers;
mod outcome;
mod places;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod voters;

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ClusterId, Life, Member, NodeId, PartitionId, UnixMillis};
use crate::limits::PARTITIONS_MAX;

pub use command::{Command, Entry};
pub use config::ClusterConfig;
pub use moves::{Move, MoveStep};
pub use node::{Node, NodeSpec, NodeState, Wish};
pub use outcome::{Effect, Refused, Warning};

/// The metadata of a cluster, as of one index of its log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Meta {
    applied: u64,
    /// The newest time of an entry; it never goes back.
    at: UnixMillis,
    cluster: Option<ClusterId>,
    level: u16,
    generation: u32,
    /// The index at which a node last began to serve.
    serving_since: u64,
    config: ClusterConfig,
    /// The index at which the settings were made.
    config_at: u64,
    nodes: BTreeMap<NodeId, Node>,
    numbers: numbers::Numbers,
    forgotten: BTreeSet<NodeId>,
    /// By partition; who should lead comes first. Empty: not placed yet.
    wanted: Vec<Vec<NodeId>>,
    moves: BTreeMap<PartitionId, Move>,
}

impl Meta {
    /// Before the first entry.
    pub fn new() -> Meta {
        Meta::default()
    }

    /// Applies the entry at an index. One that was applied already changes
    /// nothing and has no effects.
    ///
    /// # Errors
    /// Why the command changed nothing. That is an outcome like any other: it is
    /// the same on every node, and the index counts as applied.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Result<Vec<Effect>, Refused> {
        if index <= self.applied {
            return Ok(Vec::new());
        }
        self.applied = index;
        self.at = self.at.max(entry.at);
        let before = self.warnings();
        let mut effects = Vec::new();
        self.change(index, &entry.command, &mut effects)?;
        let new = self.warnings();
        effects.extend(new.into_iter().filter(|new| !before.contains(new)).map(Effect::Warn));
        Ok(effects)
    }

    /// Either refuses and has changed nothing, or changes.
    fn change(
        &mut self,
        index: u64,
        command: &Command,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        if let Command::Found { cluster, partitions, level, config, node } = command {
            return self.found(index, (*cluster, *partitions, *level), config, node, effects);
        }
        let Some(ours) = self.cluster else { return Err(Refused::NotFounded) };
        match command {
            Command::Found { .. } => unreachable!("handled above"),
            Command::Register { cluster, .. } if *cluster != ours => {
                Err(Refused::WrongCluster { ours, theirs: *cluster })
            }
            Command::Register { node, .. } => self.register(node, effects),
            Command::Sync(life) => self.sync(*life, effects),
            Command::Ready { life, seen } => self.ready(index, *life, *seen, effects),
            Command::Down(life) => self.down(*life, effects),
            Command::Drain { node, wish } => self.drain(*node, *wish, effects),
            Command::Undrain(node) => self.undrain(index, *node, effects),
            Command::Leave(life) => self.leave(*life, effects),
            Command::Forget { node, accept_data_loss } => {
                self.forget(*node, *accept_data_loss, effects)
            }
            Command::SetLevel(level) => self.set_level(*level, effects),
            Command::Place(placed) => self.place(placed, effects),
            Command::Prefer(leaders) => self.prefer(leaders, effects),
            Command::MoveStart { partition, add, remove } => {
                self.move_start(*partition, *add, *remove, effects)
            }
            Command::MoveOn { partition, step } => self.move_on(*partition, *step, effects),
            Command::MoveDone(partition) => self.move_done(*partition, effects),
            Command::MoveAbort(partition) => self.move_abort(*partition, effects),
            Command::SetConfig { base, config } => self.set_config(index, *base, config, effects),
            Command::Recover { lost, accept_data_loss } => {
                self.recover(lost, *accept_data_loss, effects)
            }
        }
    }

    fn found(
        &mut self,
        index: u64,
        (cluster, partitions, level): (ClusterId, u16, u16),
        config: &ClusterConfig,
        node: &NodeSpec,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        if let Some(cluster) = self.cluster {
            return Err(Refused::FoundedAlready(cluster));
        }
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(Refused::BadPartitions { partitions });
        }
        config.check()?;
        node.check()?;
        nodes::check_level(node, level)?;
        self.cluster = Some(cluster);
        self.level = level;
        self.generation = 1;
        self.config = *config;
        self.config_at = index;
        self.wanted = vec![Vec::new(); usize::from(partitions)];
        effects.push(Effect::Founded(cluster));
        let first = self.free_number().expect("nobody has one yet");
        self.insert(node, first, effects);
        Ok(())
    }

    fn set_config(
        &mut self,
        index: u64,
        base: u64,
        config: &ClusterConfig,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        if base != self.config_at {
            return Err(Refused::ConfigChanged { at: self.config_at });
        }
        config.check()?;
        self.config = *config;
        self.config_at = index;
        effects.push(Effect::ConfigChanged);
        Ok(())
    }

    /// The last index that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The cluster's id, once it was founded.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The feature level: records newer than it are never written.
    pub fn level(&self) -> u16 {
        self.level
    }

    /// Grows with each recovery: a node of an earlier one was given up.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The cluster's settings.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// What a change of the settings has to name as its base.
    pub fn config_at(&self) -> u64 {
        self.config_at
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u16 {
        self.wanted.len() as u16
    }

    /// A node.
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The living node with a member number.
    pub fn member(&self, member: Member) -> Option<&Node> {
        self.nodes.values().find(|node| node.member == member && node.state.is_alive())
    }

    /// The lives that hold or should hold a node lease.
    pub fn lives(&self) -> impl Iterator<Item = Life> + '_ {
        let alive = self.nodes.values().filter(|node| node.state.is_alive());
        alive.map(|node| node.spec.life())
    }

    /// The lives with clients: whoever acknowledges a publish by what it knows
    /// has to know their routes.
    pub fn lives_with_clients(&self) -> impl Iterator<Item = Life> + '_ {
        let serving = self.nodes.values().filter(|node| node.state.has_clients());
        serving.map(|node| node.spec.life())
    }

    /// Whether the id was struck off.
    pub fn is_forgotten(&self, node: NodeId) -> bool {
        self.forgotten.contains(&node)
    }

    /// Where a partition's replicas are meant to be; who should lead is first.
    pub fn wanted(&self, partition: PartitionId) -> &[NodeId] {
        self.wanted.get(partition.index()).map_or(&[], Vec::as_slice)
    }

    /// Of all partitions, by number.
    pub fn placement(&self) -> &[Vec<NodeId>] {
        &self.wanted
    }

    /// The moves under way.
    pub fn moves(&self) -> impl Iterator<Item = (PartitionId, &Move)> {
        self.moves.iter().map(|(partition, of)| (*partition, of))
    }

    /// How many partitions count on a node, as a replica or in a move.
    pub fn partitions_that_need(&self, node: NodeId) -> u16 {
        let needs = |(partition, replicas): &(usize, &Vec<NodeId>)| {
            let moving = self.moves.get(&PartitionId(*partition as u16));
            replicas.contains(&node) || moving.is_some_and(|of| of.add == Some(node))
        };
        self.wanted.iter().enumerate().filter(needs).count() as u16
    }

    /// The nodes that have been gone for so long that they may be struck off
    /// without losing anything.
    pub fn forgettable(&self, now: UnixMillis) -> Vec<NodeId> {
        let long_gone = |node: &&Node| {
            !node.state.is_alive()
                && now.saturating_sub(node.since) >= self.config.forget_after_ms
                && self.partitions_that_need(node.spec.id) == 0
        };
        self.nodes.values().filter(long_gone).map(|node| node.spec.id).collect()
    }

    /// Replicas that a partition should have, with the nodes that there are.
    pub fn replicas_wanted(&self) -> u8 {
        self.config.replicas(self.holders().count())
    }

    /// Partitions that have fewer replicas on nodes that run than they should.
    pub fn under_replicated(&self) -> usize {
        let wanted = usize::from(self.replicas_wanted());
        let runs = |node: &&NodeId| self.node(**node).is_some_and(|node| node.state.is_alive());
        let few = |replicas: &&Vec<NodeId>| {
            !replicas.is_empty() && replicas.iter().filter(runs).count() < wanted
        };
        self.wanted.iter().filter(few).count()
    }

    /// Nodes that replicas may be on, whether they run or not.
    fn holders(&self) -> impl Iterator<Item = &Node> {
        let holds = |node: &&Node| node.state != NodeState::Left && node.spec.weight > 0;
        self.nodes.values().filter(holds)
    }

    /// The weaknesses of the cluster as it stands.
    pub fn warnings(&self) -> Vec<Warning> {
        if self.cluster.is_none() {
            return Vec::new();
        }
        let members: Vec<&Node> = self.holders().collect();
        let wanted = self.config.replication_factor;
        let mut warnings = Vec::new();
        if members.len() == 2 {
            warnings.push(Warning::TwoNodes);
        }
        if self.replicas_wanted() == 2 {
            warnings.push(Warning::TwoReplicas);
        }
        if members.len() < usize::from(wanted) {
            warnings.push(Warning::TooFewNodes { wanted, nodes: members.len() as u8 });
        }
        let zones: BTreeSet<&str> = members.iter().map(|node| node.spec.zone.as_str()).collect();
        if members.len() > 2 && zones.len() == 1 && !zones.contains("") {
            warnings.push(Warning::OneZone);
        }
        warnings
    }
}
