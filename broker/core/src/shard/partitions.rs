//! How a shard works with its partitions: what is proposed, and what follows.

use super::Shard;
use crate::counters::DropReason;
use crate::delivery::Delivery;
use crate::ids::{Millis, PartitionId};
use crate::mail::{Kind, Mail};
use crate::partition::{Change, Context, Partition};

/// The capacity above which the vector for a partition's mails is not kept.
const SPARE_MAILS_MAX: usize = 256;

impl Shard {
    /// The place of a partition of this shard.
    pub(super) fn local_number(&self, partition: PartitionId) -> usize {
        usize::from(partition.0) / usize::from(self.node.shards)
    }

    pub(super) fn propose(&mut self, now: Millis, partition: PartitionId, change: Change) {
        let at = self.local_number(partition);
        self.with_partition(now, at, |partition, cx| partition.propose(now, change, cx));
    }

    /// Runs `act` on a partition and carries out what follows from it.
    pub(super) fn with_partition(
        &mut self,
        now: Millis,
        at: usize,
        act: impl FnOnce(&mut Partition, &mut Context<'_>),
    ) {
        // A connect, an acknowledgement: a mail or two, into a vector that stays.
        let mut mails = std::mem::take(&mut self.spare_mails);
        let (mut errands, mut retains) = (Vec::new(), Vec::new());
        let Shard { node, partitions, id, journal, journals, followed, fetches, .. } = self;
        let led = followed.get(at).is_none_or(Option::is_none);
        let mut cx = Context {
            node,
            counters: &node.counters[id.index()],
            journal: Shard::journal_of(journals, journal, at),
            index: led.then_some(&node.index),
            mails: &mut mails,
            errands: &mut errands,
            retains: &mut retains,
            fetches,
            position: None,
            replaying: false,
        };
        let Some(partition) = partitions.get_mut(at) else { return };
        act(partition, &mut cx);
        let frozen = partition.is_frozen();
        if let Some(due) = partition.next_tick() {
            self.partitions_due = self.partitions_due.min(due);
        }
        for retain in retains {
            let at = if self.is_replicated() { retain.at } else { now };
            self.retain(at, &retain.message, retain.clear);
            self.confirm(retain.confirm);
        }
        let read_at = self.transit.origin().map(|origin| origin.read_at);
        let alone = self.node.is_alone();
        for (to, mut mail) in mails.drain(..) {
            if !alone && let Kind::Pace { replay, .. } = &mut mail.kind {
                self.asked.leave(now, replay);
            }
            // QoS 0 gives way when another shard does not keep up; the rest is
            // bounded by windows.
            if let Kind::Subscribed { ticket, .. } = &mail.kind {
                self.send_after(*ticket, to, mail.kind);
                continue;
            }
            let best_effort = matches!(mail.kind, Kind::Push { packet_id: 0, .. });
            if to == self.id {
                self.local.push_back(mail.kind);
            } else if best_effort && self.outbox(to).is_over() {
                self.counters().dropped(DropReason::PeerBuffer, 1);
            } else {
                self.outbox(to).push(Mail { read_at, ..mail });
            }
        }
        if mails.capacity() <= SPARE_MAILS_MAX {
            self.spare_mails = mails;
        }
        for (partition, token, errand) in errands {
            self.run_errand(now, partition, token, errand);
        }
        if frozen {
            self.write_frozen(now, at);
        }
    }

    pub(super) fn redispatch(&mut self, now: Millis, orphans: Vec<Delivery>) {
        for delivery in orphans {
            self.another_member(now, delivery);
        }
    }
}
