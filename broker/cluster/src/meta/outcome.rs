//! What follows from a command: effects, or the reason why nothing does.

use crate::ids::{ClusterId, Incarnation, Life, Member, NodeId, PartitionId, StoreId};

use super::moves::MoveStep;
use super::node::NodeState;

/// Something that the rest of a node has to act on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// There is a cluster now.
    Founded(ClusterId),
    /// A node is new, or its state, life or address has changed.
    NodeChanged(NodeId),
    /// That life is over: `NodeGone` goes into the log of every partition, and
    /// its routes are void.
    NodeGone(Life, Member),
    /// The node is struck off and its id stays refused.
    NodeForgotten(NodeId),
    /// The partition's wanted replicas or their order are others.
    PlacementChanged(PartitionId),
    /// The partition has no replica left that anybody knows of.
    PartitionLost(PartitionId),
    /// A move began, went on, ended or was called off.
    MoveChanged(PartitionId),
    /// Records of this level may be written.
    LevelRaised(u16),
    /// The settings are others.
    ConfigChanged,
    /// Nodes that were given up are told apart from now on by this number.
    GenerationRaised(u32),
    /// A weakness has come up that an operator should know of.
    Warn(Warning),
}

/// A weakness of the cluster as it stands.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum Warning {
    /// Two nodes: the one voter of the meta group can't be done without.
    #[error("with two nodes the loss of the meta group's only voter stops the whole service")]
    TwoNodes,
    /// Two replicas keep what was acknowledged and can't go on with one.
    #[error("with two replicas a partition stops while either of its nodes is down")]
    TwoReplicas,
    /// Fewer nodes than replicas that are asked for.
    #[error("{wanted} replicas are asked for and there are {nodes} nodes to hold them")]
    TooFewNodes {
        /// The replication factor.
        wanted: u8,
        /// The nodes.
        nodes: u8,
    },
    /// All but one zone can be lost; the last one can't.
    #[error("all nodes with replicas are in one zone, although zones are named")]
    OneZone,
}

/// Why a command changed nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// There is no cluster yet.
    #[error("there is no cluster yet")]
    NotFounded,
    /// There is one already.
    #[error("cluster {0} was founded already")]
    FoundedAlready(ClusterId),
    /// The node means another cluster.
    #[error("this is cluster {ours}, not {theirs}")]
    WrongCluster {
        /// The one that this is.
        ours: ClusterId,
        /// The one that the node means.
        theirs: ClusterId,
    },
    /// A cluster of that many partitions can't be.
    #[error("{partitions} partitions are not within 1 and 256")]
    BadPartitions {
        /// How many.
        partitions: u16,
    },
    /// The disk is not the one that this node id belongs to.
    #[error(
        "node {node} is known with the store {known}; with another or a wiped disk it is a new node and needs a new id"
    )]
    StoreChanged {
        /// The id.
        node: NodeId,
        /// The store that is known.
        known: StoreId,
    },
    /// The disk is a copy of another node's.
    #[error("the store is that of node {of}: a copied data directory is no new node")]
    StoreCopied {
        /// Whose it is.
        of: NodeId,
    },
    /// A node that lives by its lease has its name, or its address.
    #[error(
        "node {node}, which is {}, has its node.name, or its cluster.advertise: it has to wait \
         until that one is down; if that one runs, give this one another name or address",
        state.name()
    )]
    PlaceTaken {
        /// Who.
        node: NodeId,
        /// The state of that one.
        state: NodeState,
    },
    /// The node whose place the new one would take may be the only one that has something.
    #[error(
        "node {node} was here before it, and without that one partition {partition} has no majority \
         that serves: bring the others up first, or strike it off with tidegate cluster forget"
    )]
    NoMajority {
        /// Who was there.
        node: NodeId,
        /// A partition that needs it.
        partition: PartitionId,
    },
    /// The node was struck off.
    #[error("node {0} was forgotten; its data is void and it has to start as a new node")]
    Forgotten(NodeId),
    /// A life that is over, or is followed by a later one.
    #[error("life {got} of node {node} is over, the present one is {present}")]
    LifeOver {
        /// The node.
        node: NodeId,
        /// The life that it is about.
        got: Incarnation,
        /// The newest one.
        present: Incarnation,
    },
    /// The node's version does not work with the records that are written.
    #[error("the cluster is at feature level {level}, the node supports {min} to {max}")]
    LevelNotSupported {
        /// The cluster's.
        level: u16,
        /// The node's lowest.
        min: u16,
        /// The node's highest.
        max: u16,
    },
    /// Somebody would be left behind.
    #[error("node {node} supports feature levels up to {max} only")]
    LevelTooHigh {
        /// Who.
        node: NodeId,
        /// Its highest.
        max: u16,
    },
    /// It never falls.
    #[error("the feature level is {0} already, and never falls")]
    LevelReached(u16),
    /// No node of that id.
    #[error("there is no node {0}")]
    NoSuchNode(NodeId),
    /// Not out of that state.
    #[error("node {node} is {}", state.name())]
    WrongState {
        /// Who.
        node: NodeId,
        /// Its state.
        state: NodeState,
    },
    /// A node began to serve that may not know this one yet.
    #[error("a node began to serve at index {since}, after what this one went by")]
    Outpaced {
        /// The index at which it did.
        since: u64,
    },
    /// Partitions count on the node.
    #[error("{partitions} partitions count on node {node}")]
    StillNeeded {
        /// Who.
        node: NodeId,
        /// How many.
        partitions: u16,
    },
    /// It has to be said aloud.
    #[error("what only these nodes have is lost for good: say so with --accept-data-loss")]
    DataLossNotAccepted,
    /// Nobody would be left.
    #[error("no node would be left")]
    NobodyLeft,
    /// Too many.
    #[error("there are {0} nodes, the most there may be")]
    TooManyNodes(usize),
    /// Nodes have started so often lately that every number is in use or at rest.
    #[error("no member number is free: nodes have started too often, try again in some minutes")]
    NoMemberNumber,
    /// The zone's name is too long.
    #[error("a zone's name of {bytes} bytes is too long")]
    ZoneTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The node's name is too long.
    #[error("a node's name of {bytes} bytes is too long")]
    NameTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The address is empty or too long.
    #[error("an address of {bytes} bytes is none")]
    BadAddress {
        /// Its length.
        bytes: usize,
    },
    /// The weight is too large.
    #[error("the weight {weight} is too large")]
    WeightTooLarge {
        /// The weight.
        weight: u16,
    },
    /// A setting out of its range.
    #[error("{key} is out of its range")]
    BadConfig {
        /// Which.
        key: &'static str,
    },
    /// The settings were changed by somebody else meanwhile.
    #[error("the settings were changed at index {at} meanwhile")]
    ConfigChanged {
        /// When.
        at: u64,
    },
    /// No partition of that number.
    #[error("there is no partition {0}")]
    NoSuchPartition(PartitionId),
    /// It has replicas.
    #[error("partition {0} has its replicas: they move one by one")]
    PlacedAlready(PartitionId),
    /// Replicas that can't be: none, too many, or twice on one node.
    #[error("partition {0} can't have those replicas")]
    BadReplicas(PartitionId),
    /// Not a replica of it.
    #[error("node {node} has no replica of partition {partition}")]
    NoReplica {
        /// The partition.
        partition: PartitionId,
        /// The node.
        node: NodeId,
    },
    /// One at a time.
    #[error("partition {0} is moving already")]
    Moving(PartitionId),
    /// There is no such move.
    #[error("partition {0} is not moving")]
    NotMoving(PartitionId),
    /// Too many moves.
    #[error("{0} moves are under way, the most there may be")]
    TooManyMoves(usize),
    /// A step that does not follow.
    #[error("the move of partition {partition} is at {at:?}")]
    WrongStep {
        /// The partition.
        partition: PartitionId,
        /// How far it is.
        at: MoveStep,
    },
}
