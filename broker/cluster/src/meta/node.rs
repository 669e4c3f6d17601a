//! A node as the cluster knows it.

use crate::ids::{Incarnation, Life, Member, NodeId, StoreId, UnixMillis};
use crate::limits::{ADDRESS_BYTES_MAX, NODE_NAME_BYTES_MAX, WEIGHT_MAX, ZONE_BYTES_MAX};
use crate::wire::{DecodeError, Reader, Writer};

use super::Refused;
use super::numbers::read_number;

/// What a node says of itself when it registers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeSpec {
    /// Its id.
    pub id: NodeId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Its data directory.
    pub store: StoreId,
    /// Where it stands: replicas of a partition are spread over zones. May be empty.
    pub zone: String,
    /// Where its peers reach it. Changes with every pod.
    pub address: String,
    /// What its operator calls it, as long as its disk is at one place: another
    /// store under the same name is in its stead. May be empty.
    pub name: String,
    /// Its share of the load, next to others'; 0: it holds no replicas.
    pub weight: u16,
    /// The lowest feature level that it can work with.
    pub level_min: u16,
    /// The highest.
    pub level_max: u16,
}

/// Where a node is in its life as a member.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NodeState {
    /// Registered; it does not know the cluster's metadata yet.
    Joining,
    /// It catches up with routes and replicas.
    Syncing,
    /// It serves clients.
    Serving,
    /// It serves the clients that it has until they are elsewhere.
    Draining,
    /// It has gone for good, with nothing left on it.
    Left,
    /// Its lease has run out.
    Down,
}

/// What a node is there for, as its operator wants it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Wish {
    /// To serve. A drain for a restart ends with the restart.
    Serve,
    /// To be empty until somebody says undrain. Its replicas go elsewhere if
    /// others can hold as many.
    Empty,
    /// To go for good. Its replicas go, even if there are fewer of them then.
    Leave,
}

/// A node of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// What it said of itself.
    pub spec: NodeSpec,
    /// The number of its present life; of its last one, if it is gone.
    pub member: Member,
    /// Where it is in its life as a member.
    pub state: NodeState,
    /// What an operator wants of it: a restart does not end that.
    pub wish: Wish,
    /// Since when it is in this state, by the clock of the leader of then. For
    /// people, and for forgetting.
    pub since: UnixMillis,
}

impl NodeSpec {
    /// The node and its life.
    pub fn life(&self) -> Life {
        Life { node: self.id, incarnation: self.incarnation }
    }

    /// Whether two nodes are at one place, so that one of them is gone: by their
    /// names, or by their addresses if one of them has no name.
    pub(super) fn is_where(&self, other: &NodeSpec) -> bool {
        match self.name.is_empty() || other.name.is_empty() {
            true => self.address == other.address,
            false => self.name == other.name,
        }
    }

    /// Whether it can work at a feature level.
    pub fn supports(&self, level: u16) -> bool {
        (self.level_min..=self.level_max).contains(&level)
    }

    pub(super) fn check(&self) -> Result<(), Refused> {
        if self.zone.len() > ZONE_BYTES_MAX {
            return Err(Refused::ZoneTooLong { bytes: self.zone.len() });
        }
        if self.address.is_empty() || self.address.len() > ADDRESS_BYTES_MAX {
            return Err(Refused::BadAddress { bytes: self.address.len() });
        }
        if self.name.len() > NODE_NAME_BYTES_MAX {
            return Err(Refused::NameTooLong { bytes: self.name.len() });
        }
        if self.weight > WEIGHT_MAX {
            return Err(Refused::WeightTooLarge { weight: self.weight });
        }
        Ok(())
    }

    pub(super) fn write(&self, to: &mut Writer) {
        to.u64(self.id.0);
        to.u64(self.incarnation.0);
        to.u128(self.store.0);
        to.text(&self.zone);
        to.text(&self.address);
        to.text(&self.name);
        to.u16(self.weight);
        to.u16(self.level_min);
        to.u16(self.level_max);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<NodeSpec, DecodeError> {
        Ok(NodeSpec {
            id: from.node()?,
            incarnation: from.incarnation()?,
            store: from.store()?,
            zone: from.text("zone", ZONE_BYTES_MAX)?,
            address: from.text("address", ADDRESS_BYTES_MAX)?,
            name: from.text("name", NODE_NAME_BYTES_MAX)?,
            weight: from.u16("weight")?,
            level_min: from.u16("level")?,
            level_max: from.u16("level")?,
        })
    }
}

impl NodeState {
    /// Whether clients of this node count: it has a live process that speaks for
    /// them. Whoever acknowledges a publish has to know such a node's routes.
    pub fn has_clients(self) -> bool {
        match self {
            Self::Serving | Self::Draining => true,
            Self::Joining | Self::Syncing | Self::Left | Self::Down => false,
        }
    }

    /// Whether the node's process is believed to run.
    pub fn is_alive(self) -> bool {
        match self {
            Self::Joining | Self::Syncing | Self::Serving | Self::Draining => true,
            Self::Left | Self::Down => false,
        }
    }

    /// Whether new replicas may be put there.
    pub fn takes_replicas(self) -> bool {
        match self {
            Self::Syncing | Self::Serving => true,
            Self::Joining | Self::Draining | Self::Left | Self::Down => false,
        }
    }

    /// The word that people are shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Syncing => "syncing",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Left => "left",
            Self::Down => "down",
        }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Joining => 1,
            Self::Syncing => 2,
            Self::Serving => 3,
            Self::Draining => 4,
            Self::Left => 5,
            Self::Down => 6,
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<NodeState, DecodeError> {
        Ok(match from.u8("node state")? {
            1 => Self::Joining,
            2 => Self::Syncing,
            3 => Self::Serving,
            4 => Self::Draining,
            5 => Self::Left,
            6 => Self::Down,
            value => return Err(DecodeError::Unknown { what: "node state", value: value.into() }),
        })
    }
}

impl Wish {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Serve => 0,
            Self::Empty => 1,
            Self::Leave => 2,
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Wish, DecodeError> {
        Ok(match from.u8("wish")? {
            0 => Self::Serve,
            1 => Self::Empty,
            2 => Self::Leave,
            value => return Err(DecodeError::Unknown { what: "wish", value: value.into() }),
        })
    }
}

impl Node {
    pub(super) fn write(&self, to: &mut Writer) {
        self.spec.write(to);
        to.u16(self.member.0);
        to.u8(self.state.code());
        to.u8(self.wish.code());
        to.u64(self.since);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Node, DecodeError> {
        Ok(Node {
            spec: NodeSpec::read(from)?,
            member: read_number(from)?,
            state: NodeState::read(from)?,
            wish: Wish::read(from)?,
            since: from.u64("since")?,
        })
    }
}
