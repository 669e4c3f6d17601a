//! What a shard has to do with the store: what is written, what is durable,
//! what was read back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use super::distribute::Source;
use crate::conn::pause;
use crate::counters::DropReason;
use crate::hole::{self, Hole};
use crate::ids::{ConnRef, Millis, PartitionId, Position, ShardId};
use crate::journal::Batch;
use crate::mail::{Confirm, Kind, Lane, is_system, part};
use crate::message::Message;
use crate::partition::{Change, Context, Errand, Fetch, Partition, RecordError, Retain};
use crate::room::Room;

impl Shard {
    /// From now on what has to survive is written: the shell takes it with
    /// [`Shard::take_batch`].
    pub fn keep(&mut self) {
        self.journal.get_or_insert_default();
    }

    /// Whether there are records to take; if so, whether somebody waits for them.
    #[inline]
    pub fn has_batch(&self) -> Option<bool> {
        self.journal.as_ref()?.is_open()
    }

    /// What this turn wants written. Batches are to be written in order.
    pub fn take_batch(&mut self) -> Option<Batch> {
        let journal = self.journal.as_mut()?;
        let batch = journal.take();
        if journal.is_over() {
            self.node.behind[self.id.index()].store(true, Relaxed);
        }
        batch
    }

    /// The batch with this number is as durable as promised; its records lie at
    /// `positions`. Batches are told in order.
    pub fn durable(&mut self, now: Millis, number: u64, positions: &[u64]) {
        let Some(journal) = &mut self.journal else { return };
        journal.durable(number, positions);
        let relieved = journal.is_relieved();
        self.transit.leave();
        for at in 0..self.partitions.len() {
            if self.partitions[at].is_waiting() {
                self.with_partition(now, at, |partition, cx| partition.go_on(cx));
            }
        }
        let behind = &self.node.behind[self.id.index()];
        if relieved && behind.swap(false, Relaxed) {
            for shard in 0..self.node.shards {
                self.send(ShardId::of(self.id.member(), shard), Kind::Relieved);
            }
        }
        self.settle(now);
    }

    /// Bytes of records that are not durable.
    pub fn journal_bytes(&self) -> usize {
        self.journal.as_ref().map_or(0, |journal| journal.bytes())
    }

    /// Applies a record of one of this shard's partitions that was read back
    /// from `position`; its time. To be called for each, in order, before
    /// anything else.
    ///
    /// # Errors
    /// It is no record that this version knows.
    pub fn replay(
        &mut self,
        now: Millis,
        partition: u8,
        index: u64,
        position: u64,
        body: &[u8],
    ) -> Result<Millis, RecordError> {
        let at = self.local_number(PartitionId(partition));
        let position = Position::of(position);
        let mut retains = Vec::new();
        let outcome = self.with_replayed(at, position, &mut retains, |partition, cx| {
            partition.replay(index, body, cx)
        });
        for retain in retains {
            let at = if self.is_replicated() { retain.at } else { now };
            self.retain(at, &retain.message, retain.clear);
        }
        outcome.unwrap_or(Ok(0))
    }

    /// Takes a piece of a partition's state that was read back; whether it was
    /// the last. To be called for each piece, in order, before the first record
    /// behind them; records that the state has are passed over.
    ///
    /// # Errors
    /// It is no piece that this version knows.
    pub fn restore(
        &mut self,
        now: Millis,
        partition: u8,
        index: u64,
        body: &[u8],
    ) -> Result<bool, RecordError> {
        let at = self.local_number(PartitionId(partition));
        let outcome = self.with_replayed(at, None, &mut Vec::new(), |partition, cx| {
            partition.restore(index, body, cx)
        });
        let Some(restored) = outcome.transpose()? else { return Ok(true) };
        for message in restored.retained {
            self.retain(now, &message, false);
        }
        Ok(restored.ended)
    }

    pub(super) fn with_replayed<T>(
        &mut self,
        at: usize,
        position: Option<Position>,
        retains: &mut Vec<Retain>,
        act: impl FnOnce(&mut Partition, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let followed = self.followed.get(at).and_then(Option::as_deref);
        let index = followed.is_none().then_some(&self.node.index);
        let counters = match followed {
            Some(counters) => counters,
            None => self.replayed.get_or_insert_default(),
        };
        let (mut mails, mut errands, mut fetches) = (Vec::new(), Vec::new(), Vec::new());
        let mut cx = Context {
            node: &self.node,
            counters,
            journal: None,
            index,
            mails: &mut mails,
            errands: &mut errands,
            retains,
            fetches: &mut fetches,
            position,
            replaying: true,
        };
        Some(act(self.partitions.get_mut(at)?, &mut cx))
    }

    /// Has the state of a partition written as soon as its records on the way
    /// are durable. It is in the `written` of a batch then.
    pub fn write_state(&mut self, now: Millis, partition: u8) {
        let at = self.local_number(PartitionId(partition));
        if self.journal.is_some() {
            self.with_partition(now, at, |partition, _| partition.freeze());
            self.settle(now);
        }
    }

    /// Writes it, if that can be done now.
    pub(super) fn write_frozen(&mut self, now: Millis, at: usize) {
        let Shard { node, partitions, journal, retained, retained_of, .. } = self;
        let (Some(journal), Some(partition)) = (journal, partitions.get(at)) else { return };
        if !partition.is_frozen() {
            return;
        }
        let mut topics: Vec<&Arc<str>> = retained_of[at].iter().collect();
        topics.sort_unstable();
        let messages = topics.into_iter().filter_map(|topic| retained.get(topic));
        partition.write_state(journal, node, messages);
        self.with_partition(now, at, |partition, cx| partition.thaw(cx));
    }

    /// Has what lies below `limit` in the log and is still needed by queues of
    /// this partition written again; how many messages.
    pub fn relocate(&mut self, now: Millis, partition: u8, limit: u64) -> usize {
        let at = self.local_number(PartitionId(partition));
        let mut found = 0;
        self.with_partition(now, at, |partition, cx| found = partition.relocate(limit, cx));
        found
    }

    /// What is to be read from the disk since the last call.
    pub fn take_fetches(&mut self) -> Vec<Fetch> {
        std::mem::take(&mut self.fetches)
    }

    /// What a fetch asked for: the bodies of its records, in order.
    ///
    /// # Errors
    /// One is no record of a message: the log is not what was written.
    pub fn fetched(
        &mut self,
        now: Millis,
        fetch: &Fetch,
        bodies: &[impl AsRef<[u8]>],
    ) -> Result<(), RecordError> {
        let at = self.local_number(PartitionId(fetch.partition()));
        let mut outcome = Ok(());
        self.transit.leave();
        self.with_partition(now, at, |partition, cx| {
            outcome = partition.fetched(now, fetch, bodies, cx);
        });
        self.settle(now);
        outcome
    }

    /// All shards have read their records back.
    pub fn resume(&mut self, now: Millis) {
        // What is counted as lost was counted before; gauges are adopted.
        if let Some(counters) = self.replayed.take() {
            self.counters().adopt(&counters);
        }
        for at in 0..self.partitions.len() {
            self.with_partition(now, at, |partition, cx| partition.resume(now, cx));
        }
        self.settle(now);
    }

    /// A message id that no other message has.
    #[inline]
    pub(super) fn next_message(&mut self) -> u64 {
        self.message += 1;
        self.message << 6 | self.id.index() as u64
    }

    /// A retained message for a topic of this shard.
    pub(super) fn propose_retain(
        &mut self,
        now: Millis,
        message: Arc<Message>,
        clear: bool,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    ) {
        if is_system(message.topic()) && !self.node.is_alone() {
            // A node's own, of whoever leads the partition.
            if clear || message.expired(now) || self.has_place(&message) {
                self.retain(now, &message, clear);
            }
            return self.confirm(confirm);
        }
        // What the broker says of itself is not written.
        let no_room = self.node.room() != Room::Enough && !message.topic().starts_with("$SYS/");
        if !clear && !message.expired(now) && (no_room || !self.has_place(&message)) {
            let reason = match no_room {
                true => DropReason::DiskFull,
                false => DropReason::RetainedFull,
            };
            self.counters().dropped(reason, 1);
            if let Some(confirm) = confirm {
                self.send(confirm.conn.shard, Kind::NotRetained(confirm));
            }
            return;
        }
        let partition = self.node.retained_partition(message.topic());
        self.propose(now, partition, Change::Retain { message, clear, lane, confirm });
    }

    /// Routes the message of an errand; whoever has to keep it confirms.
    pub(super) fn run_errand(
        &mut self,
        now: Millis,
        partition: PartitionId,
        token: u32,
        errand: Errand,
    ) {
        if let Some(errand) = self.errand_in_time(now, partition, token, errand) {
            self.route_errand(now, partition, token, errand);
        }
    }

    /// The same, when it may be routed.
    pub(super) fn route_errand(
        &mut self,
        now: Millis,
        partition: PartitionId,
        token: u32,
        errand: Errand,
    ) {
        let at = self.local_number(partition);
        let Some(known) = self.partitions.get(at).filter(|known| known.is_under_way(token)) else {
            return; // whoever leads the partition now sees to it
        };
        let lane = known.lane(token).filter(|_| !hole::on(Hole::LanesByIncarnation));
        let mut source = Source::errand(Confirm::errand(self.id, partition, token), lane);
        let Errand { message, share } = errand;
        match share {
            None => self.distribute(now, &mut message.draft(), &mut source),
            Some((name, filter)) => {
                let hash = self.node.share_hash(&name, &filter);
                source.lane = lane.map(|lane| Lane { part: part::share(hash), ..lane });
                self.give_a_member(now, &message, &name, &filter, &mut source);
            }
        }
        let confirms = source.confirms;
        self.with_partition(now, at, |partition, cx| partition.expect(now, token, confirms, cx));
    }

    /// Pauses a publisher whose messages go to a shard whose journal is behind.
    #[inline]
    pub(super) fn press_journal(&mut self, to: ShardId, publisher: ConnRef) {
        if to.member() != self.id.member()
            || !self.node.behind[to.index()].load(Relaxed)
            || publisher.shard != self.id
        {
            return;
        }
        self.pause_for_journal(publisher);
    }

    /// A journal has caught up.
    pub(super) fn relieved(&mut self) {
        for publisher in std::mem::take(&mut self.journal_paused) {
            if self.conn(publisher).is_some() {
                self.unpause(publisher.slot, pause::OUTBOX);
            }
        }
    }
}
