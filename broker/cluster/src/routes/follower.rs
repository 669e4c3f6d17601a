//! What this node knows of its peers' routes, and whether that is enough.

use std::collections::BTreeMap;

use super::announcer::Batch;
use super::table::{Full, Table, Told};
use super::{Authority, Change};
use crate::ids::{Life, Millis, PartitionId};
use crate::lease::RouteHold;
use crate::limits::PARTITIONS_MAX;

/// The streams of all peers and the table that they fill.
#[derive(Debug)]
pub struct Follower {
    table: Table,
    streams: BTreeMap<Life, Stream>,
    partitions: BTreeMap<PartitionId, Partition>,
}

#[derive(Debug, Default)]
struct Stream {
    /// The last number that was applied, once a whole snapshot was.
    applied: Option<u64>,
    /// A change found no room: nothing may be believed until everything came anew.
    full: bool,
    hold: RouteHold,
}

/// Who speaks for a partition.
#[derive(Clone, Copy, Debug)]
struct Partition {
    index: u64,
    /// `None`: nobody any more.
    by: Option<Speaker>,
    complete: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Speaker {
    Peer(Life),
    /// This node leads it: its routes are known here at the source.
    Myself,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// Applied; acknowledge this number.
    Ack(u64),
    /// Applied, in the middle of a snapshot.
    More,
    /// It does not follow what was applied: attach anew, with what there is.
    Gap,
}

/// Why a publish can't be acknowledged before it is in an outbox.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotCovered {
    /// The routes of a node with clients are not known up to now.
    #[error("the routes of {0} may be out of date")]
    Node(Life),
    /// Nobody that is covered has announced all routes of a partition.
    #[error("the routes of partition {0} may be out of date")]
    Partition(PartitionId),
}

impl Follower {
    /// One that knows nothing.
    pub fn new(seed: u64) -> Follower {
        let (streams, partitions) = (BTreeMap::new(), BTreeMap::new());
        Follower { table: Table::new(seed), streams, partitions }
    }

    /// One whose table tells what changes in it.
    pub fn telling(seed: u64) -> Follower {
        Follower { table: Table::telling(seed), ..Follower::new(seed) }
    }

    /// The oldest change of a telling table that was not taken yet.
    pub fn take_told(&mut self) -> Option<Told> {
        self.table.take_told()
    }

    /// Whether nothing is void or untold any more.
    pub fn has_told_all(&self) -> bool {
        self.table.has_told_all()
    }

    /// The routes.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What this node has of a peer's stream: to be said when it attaches.
    pub fn have(&self, peer: Life) -> Option<u64> {
        self.streams.get(&peer).and_then(|stream| stream.applied)
    }

    /// A batch of a peer's stream has come, on a connection that keeps the order.
    pub fn take(&mut self, peer: Life, batch: &Batch) -> Taken {
        match batch {
            Batch::Snapshot { first, last, changes } => {
                if *first {
                    self.restart(peer);
                }
                let Some(stream) = self.streams.get_mut(&peer) else { return Taken::Gap };
                if stream.applied.is_some() {
                    return Taken::Gap;
                }
                self.apply(peer, changes);
                let Some(base) = last else { return Taken::More };
                self.table.complete(Authority::Node(peer));
                let stream = self.streams.get_mut(&peer).expect("looked up above");
                if stream.full {
                    return Taken::Gap;
                }
                stream.applied = Some(*base);
                Taken::Ack(*base)
            }
            Batch::Increments { first, changes } => {
                let Some(stream) = self.streams.get_mut(&peer) else { return Taken::Gap };
                let Some(applied) = stream.applied else { return Taken::Gap };
                let expected = applied.saturating_add(1);
                if *first > expected {
                    return Taken::Gap;
                }
                // What was applied already is passed over.
                let known = (expected - first).min(changes.len() as u64) as usize;
                let number = applied + (changes.len() - known) as u64;
                self.apply(peer, &changes[known..]);
                let stream = self.streams.get_mut(&peer).expect("looked up above");
                if stream.full {
                    stream.applied = None;
                    return Taken::Gap;
                }
                stream.applied = Some(number);
                Taken::Ack(number)
            }
        }
    }

    /// Everything of the peer comes anew. It may have changed what it does not
    /// say again, so the partitions that it spoke for are not complete.
    fn restart(&mut self, peer: Life) {
        let stream = self.streams.entry(peer).or_default();
        stream.applied = None;
        stream.full = false;
        for partition in self.partitions.values_mut() {
            partition.complete &= partition.by != Some(Speaker::Peer(peer));
        }
        self.table.begin(Authority::Node(peer));
    }

    fn apply(&mut self, peer: Life, changes: &[Change]) {
        for change in changes {
            if self.change(peer, change).is_err() {
                self.streams.entry(peer).or_default().full = true;
            }
        }
    }

    fn change(&mut self, peer: Life, change: &Change) -> Result<(), Full> {
        let by = Some(Speaker::Peer(peer));
        match change {
            Change::NodeAdd(filter) => self.table.add(Authority::Node(peer), filter)?,
            Change::NodeRemove(filter) => self.table.remove(Authority::Node(peer), filter),
            Change::Begin { partition, index } => {
                if partition.0 >= PARTITIONS_MAX {
                    return Ok(());
                }
                let known = self.partitions.get(partition);
                let newer = known.is_none_or(|known| *index > known.index);
                let again = known.is_some_and(|known| *index == known.index && known.by == by);
                if newer || again {
                    let new = Partition { index: *index, by, complete: false };
                    self.partitions.insert(*partition, new);
                    self.table.begin(Authority::Partition(*partition));
                }
            }
            // Only who speaks for it now changes it: a deposed leader's words are
            // of the past, in whatever order they come.
            Change::Add { partition, index, filter } => {
                if self.speaks(peer, *partition, *index) {
                    self.table.add(Authority::Partition(*partition), filter)?;
                }
            }
            Change::Remove { partition, index, filter } => {
                if self.speaks(peer, *partition, *index) {
                    self.table.remove(Authority::Partition(*partition), filter);
                }
            }
            Change::Complete { partition, index } => {
                if self.speaks(peer, *partition, *index)
                    && let Some(known) = self.partitions.get_mut(partition)
                {
                    known.complete = true;
                    self.table.complete(Authority::Partition(*partition));
                }
            }
        }
        Ok(())
    }

    fn speaks(&self, peer: Life, partition: PartitionId, index: u64) -> bool {
        let known = self.partitions.get(&partition);
        known.is_some_and(|known| known.index == index && known.by == Some(Speaker::Peer(peer)))
    }

    /// This node leads a partition from this index on, and has applied it; these
    /// are the filters of all its subscriptions. [`Follower::led`] is told of
    /// those that come and go. Where a later leader has spoken already that one
    /// counts: a shard may say late that it leads, when it does no longer.
    ///
    /// # Errors
    /// The table is full: this node is no good leader for the partition.
    pub fn lead<'a>(
        &mut self,
        partition: PartitionId,
        index: u64,
        mut filters: impl Iterator<Item = &'a str>,
    ) -> Result<(), Full> {
        if self.partitions.get(&partition).is_some_and(|known| known.index > index) {
            return Ok(());
        }
        let by = Some(Speaker::Myself);
        self.partitions.insert(partition, Partition { index, by, complete: false });
        self.table.begin(Authority::Partition(partition));
        filters.try_for_each(|filter| self.table.add(Authority::Partition(partition), filter))?;
        self.table.complete(Authority::Partition(partition));
        self.partitions.insert(partition, Partition { index, by, complete: true });
        Ok(())
    }

    /// A partition that this node leads has a filter, or has it no longer.
    ///
    /// # Errors
    /// The table is full: the subscription is to be refused.
    pub fn led(&mut self, partition: PartitionId, filter: &str, has: bool) -> Result<(), Full> {
        let known = self.partitions.get(&partition);
        if known.and_then(|known| known.by) != Some(Speaker::Myself) {
            return Ok(());
        }
        if has {
            return self.table.add(Authority::Partition(partition), filter);
        }
        self.table.remove(Authority::Partition(partition), filter);
        Ok(())
    }

    /// This node no longer leads it: nobody speaks for it until the next does.
    pub fn follow(&mut self, partition: PartitionId) {
        if let Some(known) = self.partitions.get_mut(&partition)
            && known.by == Some(Speaker::Myself)
        {
            known.by = None;
        }
    }

    /// A partition that this node led until now has this filter, as far as is
    /// known here, and the keeper of a copy of the table has it already. It stays
    /// until the next leader has said all that it has.
    pub fn keep(&mut self, partition: PartitionId, filter: &str) {
        let authority = Authority::Partition(partition);
        match self.partitions.get(&partition).and_then(|known| known.by) {
            // Without room it stays in the copy alone, and is one message too many.
            None => drop(self.table.add(authority, filter)),
            Some(_) => self.table.deny(authority, filter),
        }
    }

    /// That life is over, by the metadata. Its own routes are void at once; what
    /// it announced of partitions stays, and is not complete.
    pub fn gone(&mut self, peer: Life) {
        self.streams.remove(&peer);
        self.table.gone(Authority::Node(peer));
        for partition in self.partitions.values_mut() {
            if partition.by == Some(Speaker::Peer(peer)) {
                partition.by = None;
            }
        }
    }

    /// The next ping to a peer, if it is time.
    pub fn ask(&mut self, peer: Life, now: Millis) -> Option<u64> {
        self.streams.get_mut(&peer)?.hold.ask(now)
    }

    /// A ping was answered with a lease and the peer's newest number.
    pub fn granted(&mut self, peer: Life, request: u64, newest: u64) {
        if let Some(stream) = self.streams.get_mut(&peer) {
            stream.hold.granted(request, newest);
        }
    }

    /// Until when publishes may be acknowledged by what this node knows (R1),
    /// unless something comes before: `required` are the lives with clients, by
    /// the metadata, but for this node's own. Holds for a publish only if a clock
    /// that was read after the read that brought it is before that time.
    ///
    /// # Errors
    /// What is not covered: publishes go to the outbox first.
    pub fn covered_until(
        &self,
        required: impl Iterator<Item = Life>,
        partitions: u16,
    ) -> Result<Millis, NotCovered> {
        let mut until = Millis::MAX;
        for life in required {
            until = until.min(self.life_until(life)?);
        }
        // Who has told us everything may serve any moment, before the metadata
        // that says so is here.
        let told = self.streams.iter().filter(|(_, stream)| stream.applied.is_some());
        for (life, _) in told {
            until = until.min(self.life_until(*life)?);
        }
        for number in 0..partitions {
            let partition = PartitionId(number);
            let known = self.partitions.get(&partition).filter(|known| known.complete);
            match known.and_then(|known| known.by) {
                Some(Speaker::Myself) => {}
                Some(Speaker::Peer(life)) => until = until.min(self.life_until(life)?),
                None => return Err(NotCovered::Partition(partition)),
            }
        }
        Ok(until)
    }

    /// Until when what this node knows of a peer is all there is.
    ///
    /// # Errors
    /// It is not.
    pub fn life_until(&self, life: Life) -> Result<Millis, NotCovered> {
        let stream = self.streams.get(&life).ok_or(NotCovered::Node(life))?;
        let applied = stream.applied.ok_or(NotCovered::Node(life))?;
        stream.hold.until(applied).ok_or(NotCovered::Node(life))
    }

    /// Looks at some filters of the table and drops what is void. Says whether
    /// there is more to do.
    pub fn sweep(&mut self, filters_max: usize) -> bool {
        self.table.sweep(filters_max)
    }
}
