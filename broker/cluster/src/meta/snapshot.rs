//! The metadata as bytes: the same state, the same bytes.
//!
//! `"TGMS" | version u16 | fields`, every list with its length and in order, so
//! that two nodes can compare their states by a hash of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{ClusterId, NodeId, PartitionId};
use crate::limits::{FORGOTTEN_MAX, MOVES_MAX, NODES_MAX, PARTITIONS_MAX, REPLICAS_MOVING_MAX};
use crate::wire::{DecodeError, Reader, Writer};

use super::numbers::Numbers;
use super::{ClusterConfig, Meta, Move, Node};

const MAGIC: u32 = u32::from_le_bytes(*b"TGMS");
const VERSION: u16 = 1;

impl Meta {
    /// The whole state.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u32(MAGIC);
        to.u16(VERSION);
        to.u64(self.applied);
        to.u64(self.at);
        to.u8(self.cluster.is_some().into());
        to.u128(self.cluster.map_or(0, |cluster| cluster.0));
        to.u16(self.level);
        to.u32(self.generation);
        to.u64(self.serving_since);
        self.config.write(&mut to);
        to.u64(self.config_at);
        to.count(self.nodes.len());
        self.nodes.values().for_each(|node| node.write(&mut to));
        self.numbers.write(&mut to);
        to.count(self.forgotten.len());
        self.forgotten.iter().for_each(|node| to.u64(node.0));
        to.count(self.wanted.len());
        self.wanted.iter().for_each(|replicas| to.nodes(replicas));
        to.count(self.moves.len());
        for (partition, of) in &self.moves {
            to.u16(partition.0);
            of.write(&mut to);
        }
        to.0
    }

    /// The state of these bytes.
    ///
    /// # Errors
    /// What is wrong with them. What is taken would be written with the same
    /// bytes again.
    pub fn restore(bytes: &[u8]) -> Result<Meta, DecodeError> {
        let mut from = Reader::new(bytes);
        let magic = from.u32("magic")?;
        if magic != MAGIC {
            return Err(DecodeError::Unknown { what: "snapshot", value: magic.into() });
        }
        match from.u16("version")? {
            VERSION => {}
            other => return Err(DecodeError::Version(other)),
        }
        let meta = Meta {
            applied: from.u64("index")?,
            at: from.u64("time")?,
            cluster: read_cluster(&mut from)?,
            level: from.u16("level")?,
            generation: from.u32("generation")?,
            serving_since: from.u64("index")?,
            config: ClusterConfig::read(&mut from)?,
            config_at: from.u64("index")?,
            nodes: read_nodes(&mut from)?,
            numbers: Numbers::read(&mut from)?,
            forgotten: read_forgotten(&mut from)?,
            wanted: read_wanted(&mut from)?,
            moves: read_moves(&mut from)?,
        };
        from.end()?;
        if meta.moves.keys().any(|partition| partition.index() >= meta.wanted.len()) {
            return Err(DecodeError::Contradiction("a partition moves that is not there"));
        }
        Ok(meta)
    }
}

fn read_cluster(from: &mut Reader<'_>) -> Result<Option<ClusterId>, DecodeError> {
    let founded = from.flag("founded")?;
    let cluster = from.cluster()?;
    if !founded && cluster.0 != 0 {
        return Err(DecodeError::Contradiction("a cluster id of no cluster"));
    }
    Ok(founded.then_some(cluster))
}

fn read_nodes(from: &mut Reader<'_>) -> Result<BTreeMap<NodeId, Node>, DecodeError> {
    let len = from.count("nodes", NODES_MAX, 40)?;
    let mut nodes = BTreeMap::new();
    for _ in 0..len {
        let node = Node::read(from)?;
        in_order(&nodes, &node.spec.id, "nodes")?;
        nodes.insert(node.spec.id, node);
    }
    Ok(nodes)
}

fn read_forgotten(from: &mut Reader<'_>) -> Result<BTreeSet<NodeId>, DecodeError> {
    let nodes = from.nodes(FORGOTTEN_MAX)?;
    if nodes.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(DecodeError::Unordered("forgotten nodes"));
    }
    Ok(nodes.into_iter().collect())
}

fn read_wanted(from: &mut Reader<'_>) -> Result<Vec<Vec<NodeId>>, DecodeError> {
    let len = from.count("partitions", PARTITIONS_MAX.into(), 2)?;
    (0..len).map(|_| from.nodes(REPLICAS_MOVING_MAX)).collect()
}

fn read_moves(from: &mut Reader<'_>) -> Result<BTreeMap<PartitionId, Move>, DecodeError> {
    let len = from.count("moves", MOVES_MAX, 5)?;
    let mut moves = BTreeMap::new();
    for _ in 0..len {
        let partition = from.partition()?;
        in_order(&moves, &partition, "moves")?;
        moves.insert(partition, Move::read(from)?);
    }
    Ok(moves)
}

pub(super) fn in_order<K: Ord, V>(
    map: &BTreeMap<K, V>,
    next: &K,
    what: &'static str,
) -> Result<(), DecodeError> {
    if map.last_key_value().is_some_and(|(last, _)| last >= next) {
        return Err(DecodeError::Unordered(what));
    }
    Ok(())
}
