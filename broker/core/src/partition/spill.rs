//! Queues whose messages are on the disk alone: fetched before they are sent,
//! written again before their segment goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bytes::RecordError;
use super::{Change, Context, MovedTo, Partition};
use crate::catchup::Catchup;
use crate::delivery::Delivery;
use crate::ids::{Millis, PartitionId, Position, SessionKey};
use crate::limits::FETCH_BYTES_MAX;
use crate::outgoing::Outgoing;

/// The number of a message that is kept back and has none yet.
const UNNUMBERED: u64 = u64::MAX;

/// What to do with messages that were fetched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// Send them.
    Send,
    /// Write them again: their segment is to go.
    Move,
}

/// Records to be read from the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fetch {
    pub(crate) session: SessionKey,
    /// Where they lie.
    pub positions: Vec<u64>,
    /// What for.
    pub why: Why,
}

impl Fetch {
    /// The partition whose records they are.
    pub fn partition(&self) -> u8 {
        PartitionId::split(self.session.slot).0.0
    }
}

impl Partition {
    /// What was asked for: the bodies of the records, in order.
    ///
    /// # Errors
    /// One is no record of a message.
    pub(crate) fn fetched(
        &mut self,
        now: Millis,
        fetch: &Fetch,
        bodies: &[impl AsRef<[u8]>],
        cx: &mut Context<'_>,
    ) -> Result<(), RecordError> {
        let records = fetch.positions.iter().zip(bodies);
        match fetch.why {
            // Who leads it now asks by itself.
            Why::Send if !self.leads() => {}
            Why::Send => {
                let mut deliveries = Vec::with_capacity(bodies.len());
                for (&position, body) in records {
                    let delivery = self.delivery_of(body.as_ref(), fetch.session, cx.node)?;
                    let position = Position::of(position);
                    deliveries.extend(delivery.map(|d| Delivery { position, ..d }));
                }
                let Some((slot, session)) = self.session_mut(fetch.session) else { return Ok(()) };
                if let Some(outgoing) = &mut session.outgoing {
                    let before = outgoing.load();
                    outgoing.warm(deliveries);
                    if self.claims.at(slot).is_some_and(|claim| claim.live.is_none())
                        && let Some((_, session)) = self.session_mut(fetch.session)
                        && let Some(outgoing) = &mut session.outgoing
                    {
                        outgoing.park(false); // it has left meanwhile
                    }
                    if let Some((_, session)) = self.session_mut(fetch.session)
                        && let Some(outgoing) = &session.outgoing
                    {
                        cx.counters.track(before, outgoing.load());
                    }
                }
                self.pump(now, slot, cx);
            }
            Why::Move => {
                for (&position, body) in records {
                    let Some(from) = Position::of(position) else { continue };
                    self.propose_move(now, from, body.as_ref(), cx)?;
                }
            }
        }
        Ok(())
    }

    /// Asks for the messages of queues that lie below `limit`, to write them
    /// again. How many there are.
    pub(crate) fn relocate(&mut self, limit: u64, cx: &mut Context<'_>) -> usize {
        let mut sizes = BTreeMap::new();
        self.moving.clear();
        for slot in 0..self.claims.slots() {
            let session = self.claims.at(slot).and_then(|claim| claim.session.as_deref());
            let Some(session) = session else { continue };
            let queue = session.outgoing.as_deref().map(Outgoing::all_kept).unwrap_or_default();
            let queue = queue.into_iter().map(|k| (k.position.offset(), k.bytes, k.sequence));
            let deferred = session.catchup.as_deref().map(Catchup::kept).unwrap_or_default();
            let deferred = deferred.into_iter().map(|(position, b)| (position, b, UNNUMBERED));
            for (position, bytes, sequence) in queue.chain(deferred) {
                if position < limit {
                    sizes.insert(position, bytes);
                    self.moving.entry(position).or_default().push((slot, sequence));
                }
            }
        }
        let session = self.session_key(0, 0);
        let found = sizes.len();
        let (mut positions, mut bytes) = (Vec::new(), 0);
        for (position, size) in sizes {
            positions.push(position);
            bytes += size;
            if bytes >= FETCH_BYTES_MAX {
                bytes = 0;
                let positions = std::mem::take(&mut positions);
                cx.fetches.push(Fetch { session, positions, why: Why::Move });
            }
        }
        if !positions.is_empty() {
            cx.fetches.push(Fetch { session, positions, why: Why::Move });
        }
        found
    }

    /// Writes a message again, once for all queues of this partition that have it.
    fn propose_move(
        &mut self,
        now: Millis,
        from: Position,
        body: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<(), RecordError> {
        let mut to = Vec::new();
        for (slot, sequence) in self.moving.remove(&from.offset()).unwrap_or_default() {
            let session = self.claims.at(slot).and_then(|claim| claim.session.as_deref());
            let Some(session) = session else { continue };
            let key = self.session_key(slot, session.generation);
            if let Some(delivery) = self.delivery_of(body, key, cx.node)? {
                to.push(MovedTo { session: key, sequence, delivery });
            }
        }
        if let Some(first) = to.first() {
            let message = Arc::clone(&first.delivery.message);
            self.propose(now, Change::Moved { message, from, to }, cx);
        }
        Ok(())
    }

    pub(super) fn moved(&mut self, from: Position, to: Vec<MovedTo>, cx: &mut Context<'_>) {
        let Some(position) = cx.position else { return };
        for MovedTo { session, sequence, .. } in to {
            let Some((_, session)) = self.session_mut(session) else { continue };
            if sequence == UNNUMBERED
                && session.catchup.as_mut().is_some_and(|catchup| catchup.moved(from, position))
            {
                continue;
            }
            if let Some(outgoing) = &mut session.outgoing {
                outgoing.moved(Some(sequence).filter(|&n| n != UNNUMBERED), from, position);
            }
        }
    }
}
