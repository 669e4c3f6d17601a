//! Commands about nodes: coming, serving, going.

use crate::ids::{Life, Member, NodeId};
use crate::limits::{FORGOTTEN_MAX, NODES_MAX};

use super::{Effect, Meta, Node, NodeSpec, NodeState, Refused, Wish};

/// Refuses a node whose version can't work at this feature level.
pub(super) fn check_level(node: &NodeSpec, level: u16) -> Result<(), Refused> {
    if node.supports(level) {
        return Ok(());
    }
    let (min, max) = (node.level_min, node.level_max);
    Err(Refused::LevelNotSupported { level, min, max })
}

impl Meta {
    /// The number that the next life gets.
    pub(super) fn free_number(&self) -> Option<Member> {
        self.numbers.next(self.at, |number| self.member(number).is_some())
    }

    /// That life of the node is over.
    fn gone(&mut self, life: Life, member: Member, effects: &mut Vec<Effect>) {
        self.numbers.rest(member, self.at);
        effects.push(Effect::NodeGone(life, member));
    }

    pub(super) fn insert(&mut self, spec: &NodeSpec, member: Member, effects: &mut Vec<Effect>) {
        self.numbers.give(member);
        let node = Node {
            spec: spec.clone(),
            member,
            state: NodeState::Joining,
            wish: Wish::Serve,
            since: self.at,
        };
        self.nodes.insert(spec.id, node);
        effects.push(Effect::NodeChanged(spec.id));
    }

    pub(super) fn register(
        &mut self,
        spec: &NodeSpec,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        spec.check()?;
        if self.forgotten.contains(&spec.id) {
            return Err(Refused::Forgotten(spec.id));
        }
        let copied = |node: &&Node| node.spec.store == spec.store && node.spec.id != spec.id;
        if let Some(other) = self.nodes.values().find(copied) {
            return Err(Refused::StoreCopied { of: other.spec.id });
        }
        check_level(spec, self.level)?;
        let (at, number) = (self.at, self.free_number().ok_or(Refused::NoMemberNumber));
        if !self.nodes.contains_key(&spec.id) {
            return self.admit(spec, number?, effects);
        }
        let known = self.nodes.get_mut(&spec.id).expect("looked up above");
        if known.spec.store != spec.store {
            return Err(Refused::StoreChanged { node: spec.id, known: known.spec.store });
        }
        let (got, present) = (spec.incarnation, known.spec.incarnation);
        // A life that was declared over stays over: its claims are free and its
        // wills have fired, so the process has to begin a new one.
        if got == present && known.state == NodeState::Left {
            return Err(Refused::WrongState { node: spec.id, state: known.state });
        }
        if got < present || got == present && !known.state.is_alive() {
            return Err(Refused::LifeOver { node: spec.id, got, present });
        }
        if got == present {
            if known.spec != *spec {
                known.spec = spec.clone();
                effects.push(Effect::NodeChanged(spec.id));
            }
            return Ok(());
        }
        let number = number?;
        let (life, was_alive) = (known.spec.life(), known.state.is_alive());
        let before = std::mem::replace(&mut known.member, number);
        known.spec = spec.clone();
        known.state = NodeState::Joining;
        known.since = at;
        self.numbers.give(number);
        if was_alive {
            self.gone(life, before, effects);
        }
        effects.push(Effect::NodeChanged(spec.id));
        Ok(())
    }

    /// Takes in a node that was never here before. One whose place it is at is
    /// gone for good, and it gets what that one had.
    fn admit(
        &mut self,
        spec: &NodeSpec,
        number: Member,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let there = self.nodes.values().filter(|node| node.state != NodeState::Left);
        let there = there.filter(|node| node.spec.is_where(spec));
        let before = there.max_by_key(|node| node.state.is_alive());
        let before = before.map(|node| (node.spec.id, node.state));
        if let Some((node, state)) = before {
            if state.is_alive() {
                return Err(Refused::PlaceTaken { node, state });
            }
            if let Some(partition) = self.only_majority(node) {
                return Err(Refused::NoMajority { node, partition });
            }
        } else if self.nodes.len() >= NODES_MAX {
            return Err(Refused::TooManyNodes(self.nodes.len()));
        }
        self.insert(spec, number, effects);
        if let Some((node, _)) = before {
            self.hand_replicas(node, spec.id, effects);
            self.strike_off(node, effects);
        }
        Ok(())
    }

    /// The node, if that is its present life and it is in one of these states.
    fn living(&mut self, life: Life, states: &[NodeState]) -> Result<&mut Node, Refused> {
        let node = self.nodes.get_mut(&life.node).ok_or(Refused::NoSuchNode(life.node))?;
        let present = node.spec.incarnation;
        if present != life.incarnation {
            return Err(Refused::LifeOver { node: life.node, got: life.incarnation, present });
        }
        if !states.contains(&node.state) {
            return Err(Refused::WrongState { node: life.node, state: node.state });
        }
        Ok(node)
    }

    fn enter(&mut self, node: NodeId, state: NodeState, effects: &mut Vec<Effect>) {
        let at = self.at;
        let node = self.nodes.get_mut(&node).expect("looked up by the caller");
        if node.state == state {
            return;
        }
        let (life, member) = (node.spec.life(), node.member);
        let ends = node.state.is_alive() && !state.is_alive();
        node.state = state;
        node.since = at;
        if ends {
            self.gone(life, member, effects);
        }
        effects.push(Effect::NodeChanged(life.node));
    }

    pub(super) fn sync(&mut self, life: Life, effects: &mut Vec<Effect>) -> Result<(), Refused> {
        self.living(life, &[NodeState::Joining, NodeState::Syncing])?;
        self.enter(life.node, NodeState::Syncing, effects);
        Ok(())
    }

    /// A node may serve once every node with clients knows its routes. Nodes
    /// that began to serve after it looked may not: it has to look again.
    pub(super) fn ready(
        &mut self,
        index: u64,
        life: Life,
        seen: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let since = self.serving_since;
        let node = self.living(life, &[NodeState::Syncing])?;
        if since > seen {
            return Err(Refused::Outpaced { since });
        }
        let state = if node.wish > Wish::Serve { NodeState::Draining } else { NodeState::Serving };
        self.serving_since = index;
        self.enter(life.node, state, effects);
        Ok(())
    }

    pub(super) fn down(&mut self, life: Life, effects: &mut Vec<Effect>) -> Result<(), Refused> {
        use NodeState::{Down, Draining, Joining, Serving, Syncing};
        self.living(life, &[Joining, Syncing, Serving, Draining, Down])?;
        self.enter(life.node, Down, effects);
        Ok(())
    }

    pub(super) fn drain(
        &mut self,
        node: NodeId,
        wish: Wish,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let known = self.nodes.get_mut(&node).ok_or(Refused::NoSuchNode(node))?;
        match known.state {
            NodeState::Left => {
                return Err(Refused::WrongState { node, state: known.state });
            }
            // It drains once it is there, if it is not for a restart.
            NodeState::Joining | NodeState::Syncing | NodeState::Down => {
                if wish == Wish::Serve {
                    return Err(Refused::WrongState { node, state: known.state });
                }
                known.wish = known.wish.max(wish);
                effects.push(Effect::NodeChanged(node));
            }
            NodeState::Serving | NodeState::Draining => {
                known.wish = known.wish.max(wish);
                self.enter(node, NodeState::Draining, effects);
            }
        }
        Ok(())
    }

    pub(super) fn undrain(
        &mut self,
        index: u64,
        node: NodeId,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let known = self.nodes.get_mut(&node).ok_or(Refused::NoSuchNode(node))?;
        let was = std::mem::replace(&mut known.wish, Wish::Serve);
        if known.state == NodeState::Draining {
            self.serving_since = index;
            self.enter(node, NodeState::Serving, effects);
        } else if was > Wish::Serve {
            effects.push(Effect::NodeChanged(node));
        }
        Ok(())
    }

    pub(super) fn leave(&mut self, life: Life, effects: &mut Vec<Effect>) -> Result<(), Refused> {
        use NodeState::{Draining, Joining, Left, Syncing};
        self.living(life, &[Joining, Syncing, Draining, Left])?;
        self.check_unneeded(life.node)?;
        if self.alive_besides(life.node) == 0 {
            return Err(Refused::NobodyLeft);
        }
        self.enter(life.node, Left, effects);
        Ok(())
    }

    fn check_unneeded(&self, node: NodeId) -> Result<(), Refused> {
        match self.partitions_that_need(node) {
            0 => Ok(()),
            partitions => Err(Refused::StillNeeded { node, partitions }),
        }
    }

    fn alive_besides(&self, node: NodeId) -> usize {
        let others = self.nodes.values().filter(|other| other.spec.id != node);
        others.filter(|other| other.state.is_alive()).count()
    }

    pub(super) fn forget(
        &mut self,
        node: NodeId,
        accept_data_loss: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let known = self.nodes.get(&node).ok_or(Refused::NoSuchNode(node))?;
        if known.state.is_alive() {
            return Err(Refused::WrongState { node, state: known.state });
        }
        if !accept_data_loss {
            self.check_unneeded(node)?;
        }
        self.strike_off(node, effects);
        Ok(())
    }

    fn strike_off(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(known) = self.nodes.remove(&node) else { return };
        if known.state.is_alive() {
            self.gone(known.spec.life(), known.member, effects);
        }
        self.drop_replicas(node, effects);
        self.forgotten.insert(node);
        if self.forgotten.len() > FORGOTTEN_MAX {
            self.forgotten.pop_first();
        }
        effects.push(Effect::NodeForgotten(node));
    }

    pub(super) fn recover(
        &mut self,
        lost: &[NodeId],
        accept_data_loss: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        if !accept_data_loss {
            return Err(Refused::DataLossNotAccepted);
        }
        if let Some(unknown) = lost.iter().find(|node| !self.nodes.contains_key(node)) {
            return Err(Refused::NoSuchNode(*unknown));
        }
        let stays = |node: &&Node| node.state.is_alive() && !lost.contains(&node.spec.id);
        if self.nodes.values().find(stays).is_none() {
            return Err(Refused::NobodyLeft);
        }
        lost.iter().for_each(|node| self.strike_off(*node, effects));
        self.generation += 1;
        effects.push(Effect::GenerationRaised(self.generation));
        Ok(())
    }

    pub(super) fn set_level(
        &mut self,
        level: u16,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        if level <= self.level {
            return Err(Refused::LevelReached(self.level));
        }
        // Those that are down too: they are to come back.
        let members = self.nodes.values().filter(|node| node.state != NodeState::Left);
        if let Some(behind) = members.map(|node| &node.spec).find(|spec| !spec.supports(level)) {
            return Err(Refused::LevelTooHigh { node: behind.id, max: behind.level_max });
        }
        self.level = level;
        effects.push(Effect::LevelRaised(level));
        Ok(())
    }

    /// The highest level that all members support; none if there is none.
    pub fn level_supported(&self) -> Option<u16> {
        let members = self.nodes.values().filter(|node| node.state != NodeState::Left);
        let highest = members.clone().map(|node| node.spec.level_max).min()?;
        let lowest = members.map(|node| node.spec.level_min).max()?;
        (lowest <= highest).then_some(highest)
    }

    /// The same, if it is above the present one.
    pub fn level_possible(&self) -> Option<u16> {
        self.level_supported().filter(|level| *level > self.level)
    }
}
