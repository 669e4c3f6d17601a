//! What the log of the meta group says, and its bytes.
//!
//! An entry is `version u8 | kind u8 | at u64 | body`, little endian. The bytes
//! of each kind are pinned by `tests/meta_golden.rs`; a change of them is a new
//! version, which is written only above a feature level that all nodes have.

use crate::ids::{ClusterId, Life, NodeId, PartitionId, UnixMillis};
use crate::limits::{NODES_MAX, PARTITIONS_MAX, REPLICAS_MOVING_MAX};
use crate::wire::{DecodeError, Reader, Writer};

use super::config::ClusterConfig;
use super::moves::{MoveStep, read_end, write_end};
use super::node::{NodeSpec, Wish};

const VERSION: u8 = 1;

/// A command and when its proposer wrote it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The time at the leader that proposed it.
    pub at: UnixMillis,
    /// What is to be done.
    pub command: Command,
}

/// A change of the cluster's metadata. Whether it comes about, apply decides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// The first of all: there is a cluster now, and this is its first node.
    Found {
        /// Its id.
        cluster: ClusterId,
        /// How many partitions it has, for ever.
        partitions: u16,
        /// The feature level that it starts with.
        level: u16,
        /// Its settings.
        config: ClusterConfig,
        /// The first node.
        node: NodeSpec,
    },
    /// A node comes, or comes back in a new life or with a new address.
    Register {
        /// The cluster that it means.
        cluster: ClusterId,
        /// What it says of itself.
        node: NodeSpec,
    },
    /// The node knows the metadata and has begun to catch up.
    Sync(Life),
    /// The node has caught up, and every node with clients knows its routes.
    Ready {
        /// Who.
        life: Life,
        /// The index of the metadata that it went by: if a node began to serve
        /// after that, this one has not been seen by all.
        seen: u64,
    },
    /// The node's lease has run out, or it said goodbye.
    Down(Life),
    /// The node is to be emptied.
    Drain {
        /// Which.
        node: NodeId,
        /// What for; [`Wish::Serve`]: for a restart.
        wish: Wish,
    },
    /// It may serve again.
    Undrain(NodeId),
    /// It is empty and goes for good.
    Leave(Life),
    /// A node that is gone is struck off.
    Forget {
        /// Which.
        node: NodeId,
        /// Also if partitions count on it.
        accept_data_loss: bool,
    },
    /// From here on records of this feature level may be written.
    SetLevel(u16),
    /// Replicas for partitions that have none.
    Place(Vec<(PartitionId, Vec<NodeId>)>),
    /// Which replica should lead.
    Prefer(Vec<(PartitionId, NodeId)>),
    /// A replica begins to move.
    MoveStart {
        /// Of which partition.
        partition: PartitionId,
        /// Who gets it.
        add: Option<NodeId>,
        /// Who gives it up.
        remove: Option<NodeId>,
    },
    /// The move is further.
    MoveOn {
        /// Of which partition.
        partition: PartitionId,
        /// How far.
        step: MoveStep,
    },
    /// The membership has changed for good.
    MoveDone(PartitionId),
    /// The move is called off.
    MoveAbort(PartitionId),
    /// Other settings.
    SetConfig {
        /// The index at which the settings that this is a change of were made.
        base: u64,
        /// The new ones.
        config: ClusterConfig,
    },
    /// The operator says that these nodes never come back. What only they had is lost.
    Recover {
        /// Which.
        lost: Vec<NodeId>,
        /// Whether it was said aloud.
        accept_data_loss: bool,
    },
}

impl Entry {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(VERSION);
        to.u8(self.command.kind());
        to.u64(self.at);
        self.command.write(&mut to);
        to.0
    }

    /// The entry of these bytes.
    ///
    /// # Errors
    /// What is wrong with them; nothing is allocated beyond the limits.
    pub fn decode(bytes: &[u8]) -> Result<Entry, DecodeError> {
        let mut from = Reader::new(bytes);
        match from.u8("version")? {
            VERSION => {}
            other => return Err(DecodeError::Version(other.into())),
        }
        let kind = from.u8("kind")?;
        let at = from.u64("time")?;
        let command = Command::read(kind, &mut from)?;
        from.end()?;
        Ok(Entry { at, command })
    }
}

impl Command {
    fn kind(&self) -> u8 {
        match self {
            Self::Found { .. } => 1,
            Self::Register { .. } => 2,
            Self::Sync(_) => 3,
            Self::Ready { .. } => 4,
            Self::Down(_) => 5,
            Self::Drain { .. } => 6,
            Self::Undrain(_) => 7,
            Self::Leave(_) => 8,
            Self::Forget { .. } => 9,
            Self::SetLevel(_) => 10,
            Self::Place(_) => 11,
            Self::Prefer(_) => 12,
            Self::MoveStart { .. } => 13,
            Self::MoveOn { .. } => 14,
            Self::MoveDone(_) => 15,
            Self::MoveAbort(_) => 16,
            Self::SetConfig { .. } => 17,
            Self::Recover { .. } => 18,
        }
    }

    fn write(&self, to: &mut Writer) {
        match self {
            Self::Found { cluster, partitions, level, config, node } => {
                to.u128(cluster.0);
                to.u16(*partitions);
                to.u16(*level);
                config.write(to);
                node.write(to);
            }
            Self::Register { cluster, node } => {
                to.u128(cluster.0);
                node.write(to);
            }
            Self::Sync(life) | Self::Down(life) | Self::Leave(life) => write_life(*life, to),
            Self::Ready { life, seen } => {
                write_life(*life, to);
                to.u64(*seen);
            }
            Self::Drain { node, wish } => {
                to.u64(node.0);
                to.u8(wish.code());
            }
            Self::Undrain(node) => to.u64(node.0),
            Self::Forget { node, accept_data_loss } => {
                to.u64(node.0);
                to.u8((*accept_data_loss).into());
            }
            Self::SetLevel(level) => to.u16(*level),
            Self::Place(placed) => {
                to.count(placed.len());
                for (partition, replicas) in placed {
                    to.u16(partition.0);
                    to.nodes(replicas);
                }
            }
            Self::Prefer(leaders) => {
                to.count(leaders.len());
                for (partition, leader) in leaders {
                    to.u16(partition.0);
                    to.u64(leader.0);
                }
            }
            Self::MoveStart { partition, add, remove } => {
                to.u16(partition.0);
                write_end(*add, to);
                write_end(*remove, to);
            }
            Self::MoveOn { partition, step } => {
                to.u16(partition.0);
                to.u8(step.code());
            }
            Self::MoveDone(partition) | Self::MoveAbort(partition) => to.u16(partition.0),
            Self::SetConfig { base, config } => {
                to.u64(*base);
                config.write(to);
            }
            Self::Recover { lost, accept_data_loss } => {
                to.nodes(lost);
                to.u8((*accept_data_loss).into());
            }
        }
    }

    fn read(kind: u8, from: &mut Reader<'_>) -> Result<Command, DecodeError> {
        let partitions = usize::from(PARTITIONS_MAX);
        Ok(match kind {
            1 => Self::Found {
                cluster: from.cluster()?,
                partitions: from.u16("partitions")?,
                level: from.u16("level")?,
                config: ClusterConfig::read(from)?,
                node: NodeSpec::read(from)?,
            },
            2 => Self::Register { cluster: from.cluster()?, node: NodeSpec::read(from)? },
            3 => Self::Sync(read_life(from)?),
            4 => Self::Ready { life: read_life(from)?, seen: from.u64("index")? },
            5 => Self::Down(read_life(from)?),
            6 => Self::Drain { node: from.node()?, wish: Wish::read(from)? },
            7 => Self::Undrain(from.node()?),
            8 => Self::Leave(read_life(from)?),
            9 => Self::Forget {
                node: from.node()?,
                accept_data_loss: from.flag("accept data loss")?,
            },
            10 => Self::SetLevel(from.u16("level")?),
            11 => {
                let len = from.count("partitions", partitions, 4)?;
                let place = |_| Ok((from.partition()?, from.nodes(REPLICAS_MOVING_MAX)?));
                Self::Place((0..len).map(place).collect::<Result<_, DecodeError>>()?)
            }
            12 => {
                let len = from.count("partitions", partitions, 10)?;
                let prefer = |_| Ok((from.partition()?, from.node()?));
                Self::Prefer((0..len).map(prefer).collect::<Result<_, DecodeError>>()?)
            }
            13 => Self::MoveStart {
                partition: from.partition()?,
                add: read_end(from)?,
                remove: read_end(from)?,
            },
            14 => Self::MoveOn { partition: from.partition()?, step: MoveStep::read(from)? },
            15 => Self::MoveDone(from.partition()?),
            16 => Self::MoveAbort(from.partition()?),
            17 => Self::SetConfig { base: from.u64("index")?, config: ClusterConfig::read(from)? },
            18 => Self::Recover {
                lost: from.nodes(NODES_MAX)?,
                accept_data_loss: from.flag("accept data loss")?,
            },
            value => return Err(DecodeError::Unknown { what: "command", value: value.into() }),
        })
    }
}

fn write_life(life: Life, to: &mut Writer) {
    to.u64(life.node.0);
    to.u64(life.incarnation.0);
}

fn read_life(from: &mut Reader<'_>) -> Result<Life, DecodeError> {
    Ok(Life { node: from.node()?, incarnation: from.incarnation()? })
}
