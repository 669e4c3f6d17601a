//! Commands about where replicas are meant to be, and how they get there.

use std::collections::BTreeSet;

use crate::ids::{NodeId, PartitionId};
use crate::limits::{MOVES_MAX, REPLICAS_MAX, REPLICAS_MOVING_MAX};

use super::{Effect, Meta, Move, MoveStep, Refused};

impl Meta {
    fn check_partition(&self, partition: PartitionId) -> Result<(), Refused> {
        if partition.index() < self.wanted.len() {
            return Ok(());
        }
        Err(Refused::NoSuchPartition(partition))
    }

    /// Refuses a node that a replica may not be put on.
    fn check_home(&self, node: NodeId) -> Result<(), Refused> {
        let known = self.nodes.get(&node).ok_or(Refused::NoSuchNode(node))?;
        if known.state.takes_replicas() {
            return Ok(());
        }
        Err(Refused::WrongState { node, state: known.state })
    }

    pub(super) fn place(
        &mut self,
        placed: &[(PartitionId, Vec<NodeId>)],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let mut seen = BTreeSet::new();
        for (partition, replicas) in placed {
            self.check_partition(*partition)?;
            if !self.wanted[partition.index()].is_empty() || !seen.insert(*partition) {
                return Err(Refused::PlacedAlready(*partition));
            }
            let distinct: BTreeSet<_> = replicas.iter().collect();
            let fits = (1..=usize::from(REPLICAS_MAX)).contains(&replicas.len());
            if !fits || distinct.len() != replicas.len() {
                return Err(Refused::BadReplicas(*partition));
            }
            replicas.iter().try_for_each(|node| self.check_home(*node))?;
        }
        for (partition, replicas) in placed {
            self.wanted[partition.index()].clone_from(replicas);
            effects.push(Effect::PlacementChanged(*partition));
        }
        Ok(())
    }

    pub(super) fn prefer(
        &mut self,
        leaders: &[(PartitionId, NodeId)],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        for (partition, node) in leaders {
            self.check_partition(*partition)?;
            if !self.wanted[partition.index()].contains(node) {
                return Err(Refused::NoReplica { partition: *partition, node: *node });
            }
        }
        for (partition, node) in leaders {
            let replicas = &mut self.wanted[partition.index()];
            let place = replicas.iter().position(|at| at == node).expect("checked above");
            if place > 0 {
                replicas[..=place].rotate_right(1);
                effects.push(Effect::PlacementChanged(*partition));
            }
        }
        Ok(())
    }

    pub(super) fn move_start(
        &mut self,
        partition: PartitionId,
        add: Option<NodeId>,
        remove: Option<NodeId>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        self.check_partition(partition)?;
        if self.moves.contains_key(&partition) {
            return Err(Refused::Moving(partition));
        }
        if self.moves.len() >= MOVES_MAX {
            return Err(Refused::TooManyMoves(self.moves.len()));
        }
        let replicas = &self.wanted[partition.index()];
        if let Some(node) = remove
            && !replicas.contains(&node)
        {
            return Err(Refused::NoReplica { partition, node });
        }
        let twice = add.is_some_and(|node| replicas.contains(&node));
        let empty = add.is_none() && (remove.is_none() || replicas.len() == 1);
        // What has no replica left is placed, not moved.
        let nowhere = replicas.is_empty();
        if twice || empty || nowhere || add.is_some() && replicas.len() >= REPLICAS_MOVING_MAX {
            return Err(Refused::BadReplicas(partition));
        }
        if let Some(node) = add {
            self.check_home(node)?;
        }
        self.moves.insert(partition, Move { add, remove, step: MoveStep::Learner });
        effects.push(Effect::MoveChanged(partition));
        Ok(())
    }

    pub(super) fn move_on(
        &mut self,
        partition: PartitionId,
        step: MoveStep,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let of = self.moves.get_mut(&partition).ok_or(Refused::NotMoving(partition))?;
        if step == of.step {
            return Ok(());
        }
        if !step.follows(of.step) {
            return Err(Refused::WrongStep { partition, at: of.step });
        }
        of.step = step;
        effects.push(Effect::MoveChanged(partition));
        Ok(())
    }

    pub(super) fn move_done(
        &mut self,
        partition: PartitionId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let of = *self.moves.get(&partition).ok_or(Refused::NotMoving(partition))?;
        if of.step != MoveStep::Joint {
            return Err(Refused::WrongStep { partition, at: of.step });
        }
        self.moves.remove(&partition);
        let replicas = &mut self.wanted[partition.index()];
        *replicas = of.done(replicas);
        effects.extend([Effect::MoveChanged(partition), Effect::PlacementChanged(partition)]);
        Ok(())
    }

    pub(super) fn move_abort(
        &mut self,
        partition: PartitionId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let of = self.moves.get(&partition).ok_or(Refused::NotMoving(partition))?;
        // The membership change may be committed already: only Raft can say.
        if of.step == MoveStep::Joint {
            return Err(Refused::WrongStep { partition, at: of.step });
        }
        self.moves.remove(&partition);
        effects.push(Effect::MoveChanged(partition));
        Ok(())
    }

    /// A partition whose other replicas that are up are no majority of all: what
    /// it has acknowledged may be nowhere else.
    pub(super) fn only_majority(&self, node: NodeId) -> Option<PartitionId> {
        let serves = |at: &&NodeId| {
            let known = self.nodes.get(*at);
            **at != node && known.is_some_and(|known| known.state.has_clients())
        };
        let needs = |replicas: &Vec<NodeId>| {
            let others = replicas.iter().filter(serves).count();
            replicas.contains(&node) && 2 * others <= replicas.len()
        };
        let place = self.wanted.iter().position(needs)?;
        Some(PartitionId(place as u16))
    }

    /// A node is gone for good, and a new one takes its places. Those that were
    /// being moved away from it go where they were to go.
    pub(super) fn hand_replicas(&mut self, gone: NodeId, new: NodeId, effects: &mut Vec<Effect>) {
        for (number, replicas) in self.wanted.iter_mut().enumerate() {
            let partition = PartitionId(number as u16);
            let moves = self.moves.get(&partition).is_some_and(|of| of.remove == Some(gone));
            let Some(place) = replicas.iter().position(|at| *at == gone).filter(|_| !moves) else {
                continue;
            };
            replicas.remove(place);
            // Last, as it has nothing yet: the first one begins a group, and leads it.
            replicas.push(new);
            effects.push(Effect::PlacementChanged(partition));
        }
    }

    /// Takes a node that is given up out of the placement.
    pub(super) fn drop_replicas(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let moving: Vec<_> = self.moves.iter().filter(|(_, of)| of.add == Some(node)).collect();
        let moving: Vec<_> = moving.into_iter().map(|(partition, _)| *partition).collect();
        for partition in moving {
            self.moves.remove(&partition);
            effects.push(Effect::MoveChanged(partition));
        }
        for (number, replicas) in self.wanted.iter_mut().enumerate() {
            let partition = PartitionId(number as u16);
            let Some(place) = replicas.iter().position(|at| *at == node) else { continue };
            // Where it was to be replaced, the newcomer still comes.
            if let Some(of) = self.moves.get_mut(&partition)
                && of.remove == Some(node)
            {
                of.remove = None;
                if of.add.is_none() {
                    self.moves.remove(&partition);
                }
                effects.push(Effect::MoveChanged(partition));
            }
            replicas.remove(place);
            effects.push(Effect::PlacementChanged(partition));
            if replicas.is_empty() {
                // Nobody is there to learn from.
                self.moves.remove(&partition);
                effects.push(Effect::PartitionLost(partition));
            }
        }
    }
}
