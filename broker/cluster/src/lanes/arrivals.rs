//! The target's end of all lanes: part of a partition's replicated state.

use std::collections::BTreeMap;

use super::{Lane, Stamp};
use crate::ids::{Incarnation, Life, NodeId};
use crate::limits::{LANES_MAX, NODES_MAX};
use crate::wire::{DecodeError, Reader, Writer};

const VERSION: u8 = 1;

/// How far each lane has come. Changed in apply alone.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Arrivals {
    lanes: BTreeMap<Lane, u64>,
    /// The last life of a node that is over.
    gone: BTreeMap<NodeId, Incarnation>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offer {
    /// It is the next: enqueue and acknowledge it.
    Take,
    /// It was taken already: acknowledge it again, and nothing else.
    Repeat,
    /// It does not follow what was taken last: tell the sender.
    Gap {
        /// The number of the last one taken.
        position: u64,
    },
    /// Its lane's life is over: its publishers are no more, nobody waits.
    Over,
    /// There is no room for a new lane.
    TooManyLanes,
}

impl Arrivals {
    /// A committed message; if it is taken, it counts from here on.
    pub fn apply(&mut self, stamp: Stamp) -> Offer {
        if let Lane::Publish(life) = stamp.lane
            && self.gone.get(&life.node).is_some_and(|gone| life.incarnation <= *gone)
        {
            return Offer::Over;
        }
        let position = self.position(stamp.lane);
        if stamp.number <= position {
            return Offer::Repeat;
        }
        if stamp.after != position {
            return Offer::Gap { position };
        }
        if position == 0 && self.lanes.len() >= LANES_MAX {
            return Offer::TooManyLanes;
        }
        self.lanes.insert(stamp.lane, stamp.number);
        Offer::Take
    }

    /// The number of the last one taken; 0: none. What a new leader of an outbox
    /// asks for first.
    pub fn position(&self, lane: Lane) -> u64 {
        self.lanes.get(&lane).copied().unwrap_or(0)
    }

    /// `NodeGone`: the lanes of that life and those before it end, for ever.
    pub fn gone(&mut self, life: Life) {
        let over = self.gone.entry(life.node).or_insert(life.incarnation);
        *over = (*over).max(life.incarnation);
        let over = *over;
        if self.gone.len() > 2 * NODES_MAX {
            // More than there are nodes: some were struck off and nobody said so.
            let oldest = self.gone.keys().copied().find(|node| *node != life.node);
            oldest.map(|node| self.gone.remove(&node));
        }
        self.lanes.retain(|lane, _| match lane {
            Lane::Publish(of) => of.node != life.node || of.incarnation > over,
            Lane::Outbox(_) => true,
        });
    }

    /// The node was struck off: its id never comes back.
    pub fn forget(&mut self, node: NodeId) {
        self.gone.remove(&node);
        self.lanes.retain(|lane, _| match lane {
            Lane::Publish(of) => of.node != node,
            Lane::Outbox(_) => true,
        });
    }

    /// The state as bytes, the same for the same state.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut to = Writer::default();
        to.u8(VERSION);
        to.u32(self.lanes.len() as u32);
        for (lane, position) in &self.lanes {
            match lane {
                Lane::Publish(life) => {
                    to.u8(1);
                    to.u64(life.node.0);
                    to.u64(life.incarnation.0);
                }
                Lane::Outbox(partition) => {
                    to.u8(2);
                    to.u16(partition.0);
                }
            }
            to.u64(*position);
        }
        to.count(self.gone.len());
        for (node, incarnation) in &self.gone {
            to.u64(node.0);
            to.u64(incarnation.0);
        }
        to.0
    }

    /// The state of these bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn restore(bytes: &[u8]) -> Result<Arrivals, DecodeError> {
        let mut from = Reader::new(bytes);
        match from.u8("version")? {
            VERSION => {}
            other => return Err(DecodeError::Version(other.into())),
        }
        let len = from.u32("lanes")?;
        if len as usize > LANES_MAX {
            let (got, max) = (len.into(), LANES_MAX as u64);
            return Err(DecodeError::TooMany { what: "lanes", got, max });
        }
        let mut arrivals = Arrivals::default();
        for _ in 0..len {
            let lane = match from.u8("lane")? {
                1 => Lane::Publish(Life { node: from.node()?, incarnation: from.incarnation()? }),
                2 => Lane::Outbox(from.partition()?),
                value => return Err(DecodeError::Unknown { what: "lane", value: value.into() }),
            };
            if arrivals.lanes.last_key_value().is_some_and(|(last, _)| *last >= lane) {
                return Err(DecodeError::Unordered("lanes"));
            }
            arrivals.lanes.insert(lane, from.u64("position")?);
        }
        let len = from.count("lives", 2 * NODES_MAX, 16)?;
        for _ in 0..len {
            let (node, incarnation) = (from.node()?, from.incarnation()?);
            if arrivals.gone.last_key_value().is_some_and(|(last, _)| *last >= node) {
                return Err(DecodeError::Unordered("lives"));
            }
            arrivals.gone.insert(node, incarnation);
        }
        from.end()?;
        Ok(arrivals)
    }
}
