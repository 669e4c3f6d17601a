//! Mail for one other shard that its mailbox has not taken yet.

use std::collections::VecDeque;

use super::Shard;
use crate::conn::pause;
use crate::ids::{ConnRef, ShardId};
use crate::limits::{BATCH_MAILS_MAX, OUTBOX_BYTES_MAX, OUTBOX_MAILS_MAX};
use crate::mail::Mail;

/// Bounded by pausing: a publisher whose mail goes over the limit is not read
/// until half of it is gone. QoS 1 and 2 are never dropped here.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    mails: VecDeque<Mail>,
    bytes: usize,
    paused: Vec<ConnRef>,
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

    fn is_relieved(&self) -> bool {
        self.mails.len() < OUTBOX_MAILS_MAX / 2 && self.bytes < OUTBOX_BYTES_MAX / 2
    }
}

impl Shard {
    /// Pauses a publisher whose mail goes to a shard that does not keep up.
    #[inline]
    pub(super) fn press(&mut self, to: ShardId, publisher: ConnRef) {
        if to == self.id || publisher.shard != self.id || !self.outboxes[to.index()].is_over() {
            return;
        }
        let Some(conn) = self.conn(publisher) else { return };
        if conn.pause & pause::OUTBOX == 0 {
            conn.pause |= pause::OUTBOX;
            self.counters().mailbox_pauses.add(1);
            self.outboxes[to.index()].paused.push(publisher);
        }
    }

    /// Resumes the publishers that waited for this outbox.
    pub(super) fn relieve(&mut self, to: ShardId) {
        let outbox = &mut self.outboxes[to.index()];
        if outbox.paused.is_empty() || !outbox.is_relieved() {
            return;
        }
        for publisher in std::mem::take(&mut outbox.paused) {
            if self.conn(publisher).is_some() {
                self.unpause(publisher.slot, pause::OUTBOX);
            }
        }
    }

    /// Mails that wait in all outboxes.
    pub fn outbox_depth(&self) -> usize {
        self.outboxes.iter().map(|outbox| outbox.mails.len()).sum()
    }
}
