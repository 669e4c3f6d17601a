//! Queues of partitions with replicas: their messages lie in the log, or in the
//! image of the partition that this node keeps.

use super::{Partition, Session};
use crate::catchup::Catchup;
use crate::ids::Position;
use crate::outgoing::Outgoing;
use crate::stored::Stored;

impl Partition {
    /// Where the records lie that brought the messages of queues, in their order.
    pub(super) fn places(&self) -> Vec<u64> {
        let mut places = Vec::new();
        for slot in 0..self.claims.slots() {
            let session = self.claims.at(slot).and_then(|claim| claim.session.as_deref());
            let Some(session) = session else { continue };
            let queue = session.outgoing.as_deref().map(Outgoing::all_kept).unwrap_or_default();
            places.extend(queue.into_iter().map(|kept| kept.position.offset()));
            let deferred = session.catchup.as_deref().map(Catchup::promised).unwrap_or_default();
            places.extend(deferred.into_iter().map(Position::offset));
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The image with this number is durable, with its records at these places:
    /// there they lie from now on. False: it is not the last that was given out,
    /// or from before all was forgotten, and they lie where they lay.
    pub(crate) fn saved(&mut self, generation: u32, places: &[u64]) -> bool {
        let Some(replica) = &mut self.replica else { return false };
        let painted = replica.painted.take_if(|(number, _)| *number == generation);
        let Some((_, before)) = painted.filter(|(_, before)| before.len() == places.len()) else {
            return false;
        };
        self.each_position(&mut |position| {
            let Ok(nth) = before.binary_search(&position.offset()) else { return };
            let place = places.get(nth).map(|&at| Stored::Image { generation, at });
            if let Some(now) = place.and_then(Stored::position) {
                *position = now;
            }
        });
        true
    }

    /// The oldest entry of the log in which the message of a queue lies.
    pub(crate) fn oldest_entry(&mut self) -> Option<u64> {
        let mut oldest = None;
        self.each_position(&mut |position| {
            if let Stored::Entry { index, .. } = Stored::of(position.offset()) {
                oldest = Some(oldest.map_or(index, |oldest: u64| oldest.min(index)));
            }
        });
        oldest
    }

    fn each_position(&mut self, f: &mut dyn FnMut(&mut Position)) {
        for slot in 0..self.claims.slots() {
            let session = self.claims.at_mut(slot).and_then(|claim| claim.session.as_deref_mut());
            let Some(Session { outgoing, catchup, .. }) = session else { continue };
            if let Some(outgoing) = outgoing {
                outgoing.each_position(f);
            }
            if let Some(catchup) = catchup {
                catchup.each_position(f);
            }
        }
    }
}
