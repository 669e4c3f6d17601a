//! Partitions with replicas: the shell's end of each one's log.
//!
//! A shard of a node in a cluster follows its partitions until it is told to
//! lead one. What it wants to have committed is taken with
//! [`Shard::take_entry`]; every entry that the log has committed, of whomever,
//! comes back to [`Shard::committed`], in order. Each partition has its own
//! journal: one whose entries are not committed holds up nobody else.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shard;
use crate::conn::pause;
use crate::ids::{ConnRef, Member, Millis, PartitionId, ShardId};
use crate::index::Targets;
use crate::journal::{Batch, Journal};
use crate::limits::PARTITION_JOURNAL_BYTES_MAX;
use crate::mail::{Confirm, Kind};
use crate::partition::{Context, Header, Image, Partition, RecordError};
use crate::stored::{HEADER_BYTES, RECORD_BYTES, Stored, record};

/// What became of a committed entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Applied {
    /// It is of the present leadership of this shard: what waited for it goes on.
    Own,
    /// It is of another leader, and so many records of it were taken.
    Followed(usize),
    /// It does not count, for no replica: it is of a leadership whose time was
    /// over, or one in front of it was lost.
    Void,
    /// This shard leads no longer, though nobody has said so: another leader's
    /// entry counts, or one of its own does not. The partition is to be reset,
    /// and read back from its image and log.
    Deposed,
}

impl Batch {
    /// The payload of a log entry.
    fn entry(&self, header: Header) -> Vec<u8> {
        let bytes = HEADER_BYTES + self.entries.len() * RECORD_BYTES + self.bodies.len();
        let mut out = Vec::with_capacity(bytes);
        out.extend_from_slice(&header.member.0.to_le_bytes());
        out.extend_from_slice(&header.epoch.to_le_bytes());
        out.extend_from_slice(&header.number.to_le_bytes());
        for (entry, body) in self.records() {
            out.extend_from_slice(&entry.index.to_le_bytes());
            out.extend_from_slice(&(body.len() as u32).to_le_bytes());
            out.extend_from_slice(body);
        }
        out
    }
}

/// Reads the header of an entry; with the records behind it.
fn header(payload: &[u8]) -> Result<(Header, &[u8]), RecordError> {
    let (head, records) =
        payload.split_at_checked(HEADER_BYTES).ok_or(RecordError::Short("header"))?;
    let number = |at: usize, n: usize| {
        head[at..at + n].iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let member = Member(number(0, 2) as u16);
    Ok((Header { member, epoch: number(2, 8), number: number(10, 8) }, records))
}

impl Shard {
    /// From now on each partition has replicas, and follows until it is
    /// promoted. To be called instead of [`Shard::keep`], before anything else.
    pub fn replicate(&mut self) {
        let id = self.id;
        let follow = |p: &Partition| Partition::following(p.id(), id, 0);
        self.partitions = self.partitions.iter().map(follow).collect();
        self.journals = self.partitions.iter().map(|_| None).collect();
        self.followed = self.partitions.iter().map(|_| Some(Box::default())).collect();
    }

    /// Whether the partitions have replicas.
    #[inline]
    pub(super) fn is_replicated(&self) -> bool {
        !self.journals.is_empty()
    }

    /// Whether state outlives this process, here or elsewhere.
    #[inline]
    pub(super) fn keeps(&self) -> bool {
        self.journal.is_some() || self.is_replicated()
    }

    /// The partitions with something to commit, and whether somebody waits for it.
    pub fn entries(&self) -> impl Iterator<Item = (PartitionId, bool)> + '_ {
        let journals = self.partitions.iter().zip(&self.journals);
        journals
            .filter_map(|(partition, journal)| Some((partition.id(), journal.as_ref()?.is_open()?)))
    }

    /// Whether a partition has something to commit; if so, whether somebody waits
    /// for it. What nobody waits for may lie for a while, and then costs no entry
    /// of its own if another record comes.
    pub fn has_entry(&self, p: PartitionId) -> Option<bool> {
        self.journals.get(self.local_number(p))?.as_ref()?.is_open()
    }

    /// What a partition wants to have committed: the payload of one log entry,
    /// and its number. Entries are to be proposed in order; one that cannot be
    /// is the end of the leadership.
    pub fn take_entry(&mut self, p: PartitionId) -> Option<(u64, Vec<u8>)> {
        let batch = self.take_batch_of(p)?;
        let epoch = self.partitions.get(self.local_number(p))?.epoch();
        let member = self.node.member();
        Some((batch.number, batch.entry(Header { member, epoch, number: batch.number })))
    }

    /// The same as records.
    pub fn take_batch_of(&mut self, p: PartitionId) -> Option<Batch> {
        let at = self.local_number(p);
        let journal = self.journals.get_mut(at)?.as_mut()?;
        let batch = journal.take();
        if journal.bytes() >= PARTITION_JOURNAL_BYTES_MAX {
            self.node.behind_of.fetch_or(p.bit(), Relaxed);
        }
        batch
    }

    /// The batch with this number is committed, with its records at these
    /// positions. Batches are told in order.
    fn durable_of(&mut self, now: Millis, p: PartitionId, number: u64, positions: &[u64]) {
        let at = self.local_number(p);
        let Some(Some(journal)) = self.journals.get_mut(at) else { return };
        journal.durable(number, positions);
        if let Some(partition) = self.partitions.get_mut(at) {
            partition.close_errands(journal);
        }
        let relieved = journal.bytes() < PARTITION_JOURNAL_BYTES_MAX / 2;
        self.transit.leave();
        self.with_partition(now, at, |partition, cx| {
            partition.tell_settled(cx);
            partition.go_on(cx);
        });
        if relieved {
            self.relieve_partition(p);
        }
        self.settle(now);
    }

    /// Bytes of a partition's records that are not committed.
    pub fn journal_bytes_of(&self, p: PartitionId) -> usize {
        let journal = self.journals.get(self.local_number(p)).and_then(Option::as_ref);
        journal.map_or(0, |journal| journal.bytes())
    }

    /// An entry of a partition's log is committed: its index and its payload,
    /// which stays readable as long as [`Shard::oldest_entry`] says. To be called
    /// for each, in the order of the log, whoever proposed it. Index 0: it does
    /// not stay, and what it brings is kept in memory.
    ///
    /// # Errors
    /// It is no entry that this version knows. The partition can't go on.
    pub fn committed(
        &mut self,
        now: Millis,
        p: PartitionId,
        entry: u64,
        payload: &[u8],
    ) -> Result<Applied, RecordError> {
        let (header, mut records) = header(payload)?;
        let position = |rest: &[u8]| {
            let within = u32::try_from(payload.len() - rest.len()).unwrap_or(u32::MAX);
            let stored = Stored::Entry { index: entry, at: within };
            stored.position().map_or(0, |position| position.offset())
        };
        let (first, _, _) = record(records)?;
        let at = self.local_number(p);
        let Some(partition) = self.partitions.get_mut(at) else { return Ok(Applied::Void) };
        let counts = partition.admits(header, first);
        let present = (self.node.member(), partition.epoch());
        if partition.leads() {
            if (header.member, header.epoch) != present {
                return Ok(if counts { Applied::Deposed } else { Applied::Void });
            }
            if !counts {
                return Ok(Applied::Deposed);
            }
            let mut next = first;
            let mut positions = Vec::new();
            while !records.is_empty() {
                let (index, _, rest) = record(records)?;
                positions.push(position(records));
                (next, records) = (index + 1, rest);
            }
            partition.take(header, next);
            self.durable_of(now, p, header.number, &positions);
            return Ok(Applied::Own);
        }
        if !counts {
            return Ok(Applied::Void);
        }
        let (mut taken, mut next) = (0, first);
        while !records.is_empty() {
            let (index, body, rest) = record(records)?;
            self.replay(now, p.0, index, position(records), body)?;
            (taken, next, records) = (taken + 1, index + 1, rest);
        }
        if let Some(partition) = self.partitions.get_mut(at) {
            partition.take(header, next);
        }
        Ok(Applied::Followed(taken))
    }

    /// This shard leads the partition from now on: its log has applied the first
    /// entry of the term. Then say so with [`Node::set_home`](crate::Node::set_home)
    /// and [`Shard::home_moved`], and tell of each incarnation that is gone and
    /// may have connections ([`Shard::members_of`]) with [`Shard::node_gone_of`].
    pub fn promote(&mut self, now: Millis, p: PartitionId) {
        let at = self.local_number(p);
        let Some(counters) = self.followed.get_mut(at).and_then(Option::take) else { return };
        self.counters().adopt(&counters);
        if let Some(journal) = self.journals.get_mut(at) {
            *journal = Some(Box::default());
        }
        self.forget_tails(p);
        self.transit.leave();
        self.with_partition(now, at, |partition, cx| partition.promote(cx));
        self.promoted.push(p);
        self.settle(now);
    }

    /// Routes the errands of partitions that are led here since the last turn:
    /// more than one may be, and their sessions are in the index by now.
    pub(super) fn route_promoted(&mut self, now: Millis) {
        for p in std::mem::take(&mut self.promoted) {
            let at = self.local_number(p);
            self.with_partition(now, at, |partition, cx| {
                if partition.leads() {
                    partition.route_again(cx);
                }
            });
        }
    }

    /// Forgets all of a partition, which follows from now on with nothing. Say
    /// first, with [`Node::set_home`](crate::Node::set_home), that it is not led
    /// here; then its image and log are to be read back.
    pub fn reset(&mut self, now: Millis, p: PartitionId) {
        let at = self.local_number(p);
        if !self.is_replicated() {
            return;
        }
        let mut retained = std::mem::take(&mut self.retained_of[at]);
        for topic in retained.drain() {
            if let Some(old) = self.retained.remove(&topic) {
                self.count_retained(&old, false);
            }
        }
        let Shard { node, partitions, id, .. } = self;
        let Some(partition) = partitions.get_mut(at) else { return };
        if partition.leads() {
            // The others keep what they know of it until the next leader speaks.
            node.index.follow(p);
        }
        let (mut mails, mut errands) = (Vec::new(), Vec::new());
        let (mut retains, mut fetches) = (Vec::new(), Vec::new());
        partition.forget_all(&mut Context {
            node,
            counters: &node.counters[id.index()],
            journal: None,
            index: None,
            mails: &mut mails,
            errands: &mut errands,
            retains: &mut retains,
            fetches: &mut fetches,
            position: None,
            replaying: false,
        });
        partition.follow_anew();
        let undone = mails;
        self.journals[at] = None;
        self.followed[at] = Some(Box::default());
        self.fetches.retain(|fetch| fetch.partition() != p.0);
        self.forget_errands(p);
        self.forget_tails(p);
        self.forget_grants(p);
        self.asked.forget(p);
        self.relieve_partition(p);
        for (to, mail) in undone {
            self.send(to, mail.kind);
        }
        self.settle(now);
    }

    /// The partition is about to be somebody else's, since it was handed over or
    /// this node's replica is not wanted any more: counts its sessions.
    pub fn count_moved(&mut self, p: PartitionId) {
        let at = self.local_number(p);
        let sessions = self.partitions.get(at).map_or(0, Partition::sessions_held);
        self.counters().sessions_moved.add(sessions as u64);
    }

    /// The state of a partition for another replica, as of the last entry that
    /// was committed. None: entries are on their way; ask again after the next.
    /// `generation`: its number among those of this partition that are kept here,
    /// from 1; each is higher than the ones before.
    pub fn image_of(&mut self, now: Millis, p: PartitionId, generation: u32) -> Option<Image> {
        let at = self.local_number(p);
        let Shard { node, partitions, journals, retained, retained_of, .. } = self;
        let journal = journals.get_mut(at)?.as_deref_mut();
        let settled = journal.is_none_or(|journal| journal.barrier().is_none());
        let mut topics: Vec<&Arc<str>> = retained_of[at].iter().collect();
        topics.sort_unstable();
        let messages = topics.into_iter().filter_map(|topic| retained.get(topic));
        let image = partitions.get_mut(at)?.image(generation, settled, node, messages)?;
        self.with_partition(now, at, |partition, cx| partition.thaw(cx));
        self.settle(now);
        Some(image)
    }

    /// The image that [`Shard::image_of`] gave out under this number is durable
    /// here, with its records at these places ([`Image::write`]): queues need the
    /// log no longer for what is in it, nor an image of before. False: another
    /// was given out since, or the partition was reset; nothing has changed.
    pub fn saved(&mut self, p: PartitionId, generation: u32, places: &[u64]) -> bool {
        let at = self.local_number(p);
        self.partitions.get_mut(at).is_some_and(|partition| partition.saved(generation, places))
    }

    /// The oldest entry of a partition's log that a queue still needs.
    pub fn oldest_entry(&mut self, p: PartitionId) -> Option<u64> {
        let at = self.local_number(p);
        self.partitions.get_mut(at)?.oldest_entry()
    }

    /// Takes the next bytes of an image, cut anywhere, into a partition that was
    /// reset; whether it is whole. `generation`: its number among those of this
    /// partition that are kept here, as of [`Shard::image_of`].
    ///
    /// # Errors
    /// It is no image that this version knows. The partition is to be reset.
    pub fn install(
        &mut self,
        now: Millis,
        p: PartitionId,
        generation: u32,
        bytes: &[u8],
    ) -> Result<bool, RecordError> {
        let at = self.local_number(p);
        let outcome = self.with_replayed(at, None, &mut Vec::new(), |partition, cx| {
            partition.install(generation, bytes, cx)
        });
        let Some(installed) = outcome.transpose()? else { return Ok(true) };
        for message in installed.retained {
            self.keep_retained(&message);
        }
        let _ = now;
        Ok(installed.ended)
    }

    /// An incarnation is gone for good: in all partitions led here its
    /// connections' claims end, and their wills are due in a moment. To be called
    /// on every shard, behind [`Shard::member_lost`].
    pub fn node_gone(&mut self, now: Millis, member: Member) {
        self.forget_mail(member);
        let led = self.partitions.iter().map(Partition::id).collect::<Vec<_>>();
        for p in led {
            self.node_gone_of(now, p, member);
        }
    }

    /// The same in one partition, if it is led here.
    pub fn node_gone_of(&mut self, now: Millis, p: PartitionId, member: Member) {
        let at = self.local_number(p);
        self.transit.leave();
        self.with_partition(now, at, |partition, cx| partition.member_gone(now, member, cx));
        self.settle(now);
    }

    /// The incarnations whose connections hold claims in a partition.
    pub fn members_of(&self, p: PartitionId) -> Vec<Member> {
        let partition = self.partitions.get(self.local_number(p));
        partition.map_or(Vec::new(), |partition| partition.members().into_iter().collect())
    }

    /// The last record of a partition that every replica has, or will have.
    pub fn index_of(&self, p: PartitionId) -> u64 {
        let partition = self.partitions.get(self.local_number(p));
        partition.map_or(0, |partition| partition.next() - 1)
    }

    /// A message of a publisher of this node, or of an errand, was not taken by a
    /// partition that it had led. An errand goes again. A client cannot be told:
    /// it is disconnected, and sends again what was not acknowledged.
    pub(super) fn undone(&mut self, now: Millis, confirm: Confirm) {
        match confirm.partition() {
            Some(partition) => {
                let at = self.local_number(partition);
                self.with_partition(now, at, |partition, cx| {
                    partition.route_anew(confirm.token, cx);
                });
            }
            None => {
                if self.conn(confirm.conn).is_some() {
                    self.end_moved(now, confirm.conn.slot);
                }
            }
        }
    }

    /// Pauses a publisher if a partition that its message goes to is behind.
    #[inline]
    pub(super) fn press_partitions(&mut self, targets: &Targets, publisher: ConnRef) {
        let behind = self.node.behind_of.load(Relaxed);
        if behind == 0 {
            return;
        }
        let mut at = 0;
        while at < targets.len() {
            let (partition, end) = Partition::run_end(targets, at);
            if behind & partition.bit() != 0 {
                return self.pause_for_journal(publisher);
            }
            at = end;
        }
    }

    /// Pauses a publisher whose messages go to a partition that is behind.
    #[inline]
    pub(super) fn press_partition(&mut self, partition: PartitionId, publisher: ConnRef) {
        if self.node.behind_of.load(Relaxed) & partition.bit() != 0 {
            self.pause_for_journal(publisher);
        }
    }

    pub(super) fn pause_for_journal(&mut self, publisher: ConnRef) {
        if publisher.shard != self.id {
            return;
        }
        let Some(conn) = self.conn(publisher) else { return };
        if conn.pause & pause::OUTBOX == 0 {
            conn.pause |= pause::OUTBOX;
            self.counters().mailbox_pauses.add(1);
            self.journal_paused.push(publisher);
        }
    }

    fn relieve_partition(&mut self, p: PartitionId) {
        if self.node.behind_of.fetch_and(!p.bit(), Relaxed) & p.bit() != 0 {
            for shard in 0..self.node.shards {
                self.send(ShardId::of(self.id.member(), shard), Kind::Relieved);
            }
        }
    }

    /// The journal that a partition writes to.
    pub(super) fn journal_of<'j>(
        journals: &'j mut [Option<Box<Journal>>],
        journal: &'j mut Option<Box<Journal>>,
        at: usize,
    ) -> Option<&'j mut Journal> {
        match journals.get_mut(at) {
            Some(own) => own.as_deref_mut(),
            None => journal.as_deref_mut(),
        }
    }
}
