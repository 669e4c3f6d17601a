//! Mail for one other shard that its mailbox has not taken yet.

use std::collections::VecDeque;

use super::Shard;
use crate::conn::pause;
use crate::ids::{ConnRef, PartitionId, ShardId};
use crate::limits::{
    BATCH_MAILS_MAX, HOMELESS_BYTES_MAX, HOMELESS_MAILS_MAX, OUTBOX_BYTES_MAX, OUTBOX_MAILS_MAX,
};
use crate::mail::Mail;

/// Bounded by pausing: a publisher whose mail goes over the limit is not read
/// until half of it is gone. QoS 1 and 2 are never dropped here.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) mails: VecDeque<Mail>,
    bytes: usize,
    pub(super) paused: Vec<ConnRef>,
}

impl Outbox {
    #[inline]
    pub(super) fn push(&mut self, mail: Mail) {
        self.bytes += mail.bytes();
        self.mails.push_back(mail);
    }

    pub(super) fn take(&mut self) -> Option<Vec<Mail>> {
        if self.mails.is_empty() {
            return None;
        }
        let n = self.mails.len().min(BATCH_MAILS_MAX);
        let batch: Vec<Mail> = self.mails.drain(..n).collect();
        self.bytes -= batch.iter().map(Mail::bytes).sum::<usize>();
        Some(batch)
    }

    /// The first of them.
    pub(super) fn pop(&mut self) -> Option<Mail> {
        let mail = self.mails.pop_front()?;
        self.bytes -= mail.bytes();
        Some(mail)
    }

    /// Drops those that `is` holds for; how many.
    pub(super) fn drop_if(&mut self, is: impl Fn(&Mail) -> bool) -> usize {
        let before = self.mails.len();
        let bytes = &mut self.bytes;
        self.mails.retain(|mail| {
            let drop = is(mail);
            if drop {
                *bytes -= mail.bytes();
            }
            !drop
        });
        before - self.mails.len()
    }

    pub(super) fn put_back(&mut self, batch: Vec<Mail>) {
        for mail in batch.into_iter().rev() {
            self.bytes += mail.bytes();
            self.mails.push_front(mail);
        }
    }

    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.mails.len() >= OUTBOX_MAILS_MAX || self.bytes >= OUTBOX_BYTES_MAX
    }

    /// The same for one that waits for a leader.
    pub(super) fn is_homeless_over(&self) -> bool {
        self.mails.len() >= HOMELESS_MAILS_MAX || self.bytes >= HOMELESS_BYTES_MAX
    }

    fn is_relieved(&self) -> bool {
        self.mails.len() < OUTBOX_MAILS_MAX / 2 && self.bytes < OUTBOX_BYTES_MAX / 2
    }
}

impl Shard {
    /// Pauses a publisher whose mail goes to a shard that does not keep up.
    #[inline]
    pub(super) fn press(&mut self, to: ShardId, publisher: ConnRef) {
        if to == self.id || publisher.shard != self.id || !self.outbox(to).is_over() {
            return;
        }
        let Some(conn) = self.conn(publisher) else { return };
        if conn.pause & pause::OUTBOX == 0 {
            conn.pause |= pause::OUTBOX;
            self.counters().mailbox_pauses.add(1);
            self.outbox(to).paused.push(publisher);
        }
    }

    /// The same for mail to whoever leads a partition.
    #[inline]
    pub(super) fn press_home(&mut self, partition: PartitionId, publisher: ConnRef) {
        match self.node.home(partition) {
            Some(home) => self.press(home, publisher),
            None => self.press_homeless(partition, publisher),
        }
    }

    /// Where mail for a shard waits.
    #[inline]
    pub(super) fn outbox(&mut self, to: ShardId) -> &mut Outbox {
        let here = to.member() == self.id.member();
        match self.outboxes.get_mut(to.index()).filter(|_| here) {
            Some(outbox) => outbox,
            None => self.remote.entry(to).or_default(),
        }
    }

    /// Resumes the publishers that waited for this outbox.
    pub(super) fn relieve(&mut self, to: ShardId) {
        let outbox = self.outbox(to);
        if outbox.paused.is_empty() || !outbox.is_relieved() {
            return;
        }
        let paused = std::mem::take(&mut outbox.paused);
        self.relieve_all(paused);
    }

    pub(super) fn relieve_all(&mut self, paused: Vec<ConnRef>) {
        for publisher in paused {
            if self.conn(publisher).is_some() {
                self.unpause(publisher.slot, pause::OUTBOX);
            }
        }
    }

    /// Mails that wait in all outboxes.
    pub fn outbox_depth(&self) -> usize {
        let all = self.outboxes.iter().chain(self.remote.values()).chain(self.homeless.values());
        all.map(|outbox| outbox.mails.len()).sum()
    }
}
