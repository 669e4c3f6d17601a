//! What a partition of a node that is alone has, as its first replica is to have
//! it: for a node that becomes one of a cluster.
//!
//! Its records are read back as at a start, and one more ends the connections of
//! before. Queues are on the disk then; the records of their messages are read
//! once, while the image is written out, and are in it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::replica::{Header, Taken};
use super::{Change, Context, Image, Partition, Record, RecordError};
use crate::ids::Millis;
use crate::log::{FIRST_INDEX, ReplicatedLog};
use crate::mail::{LaneSource, part};
use crate::message::Message;
use crate::node::Node;
use crate::outgoing::Outgoing;

/// How much there is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Keeps {
    /// Sessions.
    pub sessions: u64,
    /// Messages in queues; one that waits for several sessions counts for each.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that came, and are not with all who are to have them.
    pub errands: u64,
    /// Retained messages.
    pub retained: u64,
}

impl Keeps {
    /// Whether there is nothing that could be lost.
    pub fn is_nothing(&self) -> bool {
        (self.sessions, self.errands, self.retained) == (0, 0, 0)
    }
}

/// The errands of all partitions of a node that is alone that are not done.
#[derive(Debug)]
pub(super) struct Open<'a>(&'a [BTreeSet<u64>]);

impl Open<'_> {
    /// Whether the number of an errand has to be known: it may come again. In a
    /// cluster what comes behind a later one counts as done, and alone errands may
    /// overtake each other: those that are done must not be in the way.
    pub(super) fn may_come_again(&self, source: LaneSource, number: u64, part: u32) -> bool {
        part == part::LOW
            || match source {
                LaneSource::Partition(of) => {
                    self.0.get(usize::from(of)).is_some_and(|open| open.contains(&number))
                }
                LaneSource::Shard(_) => false,
            }
    }
}

impl Partition {
    /// Ends the connections of before with one more record, as a start does.
    ///
    /// # Errors
    /// Our own record is not understood.
    pub(crate) fn end_alone(
        &mut self,
        at: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), RecordError> {
        let index = self.log.next_index();
        if index > FIRST_INDEX {
            let mut body = Vec::new();
            self.encode(&Record { at, change: Change::Restarted }, cx.node, &mut body);
            self.replay(index, &body, cx)?;
        }
        Ok(())
    }

    /// How much there is, but for retained messages.
    pub(crate) fn keeps(&self) -> Keeps {
        let mut keeps = Keeps { errands: self.outbox.iter().count() as u64, ..Keeps::default() };
        for (_, session) in self.kept_sessions() {
            keeps.sessions += 1;
            let (messages, bytes, _) =
                session.outgoing.as_deref().map(Outgoing::load).unwrap_or_default();
            keeps.messages += messages as u64;
            keeps.bytes += bytes;
        }
        keeps
    }

    /// The errands that are not done.
    pub(crate) fn open_errands(&self) -> BTreeSet<u64> {
        self.outbox.iter().map(|(number, _)| number).collect()
    }

    /// The state as of the last record that was read back, as a replica has it.
    /// `open` are the errands of all partitions that are not done.
    pub(crate) fn image_alone<'m>(
        &self,
        at: Millis,
        node: &Node,
        retained: impl Iterator<Item = &'m Arc<Message>>,
        open: &[BTreeSet<u64>],
    ) -> Image {
        let time = at.saturating_add(node.epoch);
        let taken = Taken { last: Header::default(), next: self.log.next_index(), time };
        self.paint(taken, node, retained, Some(&Open(open)))
    }

    /// The sessions, with their slots.
    fn kept_sessions(&self) -> impl Iterator<Item = (u32, &super::Session)> {
        let slots = 0..self.claims.slots();
        slots.filter_map(|slot| Some((slot, self.claims.at(slot)?.session.as_deref()?)))
    }
}
