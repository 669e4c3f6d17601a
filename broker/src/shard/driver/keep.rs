//! The shard's part in keeping what has to survive: records to the store and
//! back, and what lies on the disk alone.

use std::time::Duration;

use tidegate_core::ids::Millis;

use super::Driver;
use crate::shard::clock::Reading;
use crate::store::{Recovery, ReplayError, Replayed};

impl Driver {
    /// Has the core apply what its partitions wrote before.
    ///
    /// # Errors
    /// When it cannot be read; the shard must not start.
    pub(crate) fn replay(&mut self, from: Option<Recovery>) -> Result<Replayed, ReplayError> {
        let shards = self.node().shards();
        let now = Reading::take().millis();
        from.map_or(Ok(Replayed::default()), |from| {
            from.replay(now, &mut self.core, self.id, shards)
        })
    }

    /// All shards have read their records back: the first turn may come.
    pub(crate) fn begin(&mut self) {
        if self.submitter.is_some() {
            self.core.resume(Reading::take().millis());
            // Who comes in finds that the connections of before are gone.
            self.settle(None);
            self.pending = true;
        }
    }

    /// What the store has made durable may be applied, and acknowledged.
    pub(super) fn complete(&mut self, now: Millis) {
        let Some(submitter) = &mut self.submitter else { return };
        let mailbox = &self.shared.mailboxes[self.id.index()];
        while let Some(submission) = mailbox.next_completion() {
            submitter.complete(now, &mut self.core, submission);
        }
        while let Some(fetched) = mailbox.next_fetched() {
            let outcome = submitter.fetched(now, &mut self.core, fetched);
            // Its checksum was right: we wrote something else than we read.
            outcome.expect("what lies at the position of a message is a message");
        }
    }

    /// Hands what has to survive to the store.
    #[inline]
    pub(super) fn submit(&mut self, now: Millis) {
        if let Some(submitter) = &mut self.submitter {
            submitter.submit(now, &mut self.core);
            submitter.fetch(&mut self.core);
            self.meters().journal_bytes.set(self.core.journal_bytes() as u64);
        }
    }

    /// Has everything written, and waits for it.
    pub(super) fn settle(&mut self, patience: Option<Duration>) {
        let Some(submitter) = &mut self.submitter else { return };
        let mailbox = &self.shared.mailboxes[self.id.index()];
        let now = || Reading::take().millis();
        submitter.settle(&mut self.core, patience, now, || mailbox.next_completion());
    }
}
