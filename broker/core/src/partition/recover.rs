//! Reading a partition's records back at a start.

use super::bytes::RecordError;
use super::{Change, Context, Partition};
use crate::ids::Millis;
use crate::log::{FIRST_INDEX, ReplicatedLog};

impl Partition {
    /// Applies a record that was read back.
    ///
    /// # Errors
    /// It is no record that this version knows.
    pub(crate) fn replay(
        &mut self,
        index: u64,
        body: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<Millis, RecordError> {
        if index < self.log.next_index() {
            return Ok(0); // the state that was restored has it
        }
        self.sessions.get_or_insert_default();
        let record = self.decode(body, cx)?;
        let at = record.at;
        self.log.resume_after(index);
        self.note_time(at, cx.node);
        self.outbox.begin(Some(index));
        self.apply(record, true, cx);
        Ok(at)
    }

    /// All records were read back: the connections of before are gone, and what
    /// had not been delivered is on its way again.
    pub(crate) fn resume(&mut self, now: Millis, cx: &mut Context<'_>) {
        self.sessions = None;
        if self.log.next_index() > FIRST_INDEX {
            self.propose(now, Change::Restarted, cx);
        }
        for slot in 0..self.claims.slots() {
            self.note_room(slot, cx);
        }
        self.route_again(cx);
    }
}
