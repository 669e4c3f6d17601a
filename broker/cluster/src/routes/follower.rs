//! What this node knows of its peers' routes, and whether that is enough.

use std::collections::{BTreeMap, VecDeque};

use super::announcer::Batch;
use super::epochs::Epochs;
use super::{Authority, Change};
use crate::ids::{Life, Millis, PartitionId};
use crate::lease::RouteHold;
use crate::limits::{FILTER_BYTES_MAX, PARTITIONS_MAX, ROUTES_MAX};

/// Bytes of the texts of all filters; more is refused.
const TEXT_BYTES_MAX: usize = 3 << 30;

/// The streams of all peers: what they say, and what of it still holds. Who
/// keeps what is [`told`](Follower::take_told) keeps an epoch with each filter.
#[derive(Debug, Default)]
pub struct Follower {
    epochs: Epochs,
    told: VecDeque<Told>,
    /// Filters and bytes that are kept, or were told since that was said.
    kept: (usize, usize),
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

/// What an authority has said of a filter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// Whose it is.
    pub authority: Authority,
    /// The filter.
    pub filter: Box<str>,
    /// What was said.
    pub said: Said,
}

/// What is said of a filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said {
    /// The authority has it, as of this epoch.
    Has(u16),
    /// It has it no longer.
    HasNot,
    /// A partition that was led here until now had it, which the keeper knows.
    /// It stays under this epoch; without one, another leader has spoken: it
    /// stays only by what was said of it, if that holds.
    Had(Option<u16>),
}

/// There is no room: what was to be added is not told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no room for another route")]
pub struct Full;

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
    /// What was not taken yet, the oldest first. To be taken until there is none
    /// after every batch, which bounds what waits.
    pub fn take_told(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Filters that the keeper has, each counted for each authority, and their
    /// bytes: by these there is room for more. To be said before each batch; what
    /// is said again counts twice until then.
    pub fn kept(&mut self, filters: usize, bytes: usize) {
        self.kept = (filters, bytes);
    }

    /// Whether what was said of an authority's filter under this epoch holds.
    pub fn is_valid(&self, authority: Authority, epoch: u16) -> bool {
        self.epochs.is_valid(authority, epoch)
    }

    /// Whether nothing is void or untold any more.
    pub fn has_told_all(&self) -> bool {
        !self.epochs.is_void() && self.told.is_empty()
    }

    /// Whether the keeper has to go on, or begin, to walk over all that it has and
    /// to drop what is not [valid](Follower::is_valid). Never while something is
    /// untold: it may be what was said anew.
    pub fn walk(&mut self) -> bool {
        self.told.is_empty() && self.epochs.walk()
    }

    /// The walk has ended.
    pub fn walked(&mut self) {
        self.epochs.walked();
    }

    fn tell(&mut self, authority: Authority, filter: &str, said: Said) {
        self.told.push_back(Told { authority, filter: filter.into(), said });
    }

    fn add(&mut self, authority: Authority, filter: &str) -> Result<(), Full> {
        let (filters, bytes) = &mut self.kept;
        let len = filter.len();
        if *filters >= ROUTES_MAX || *bytes + len > TEXT_BYTES_MAX || len > FILTER_BYTES_MAX {
            return Err(Full);
        }
        (*filters, *bytes) = (*filters + 1, *bytes + len);
        let epoch = self.epochs.newest(authority);
        self.tell(authority, filter, Said::Has(epoch));
        Ok(())
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
                self.epochs.complete(Authority::Node(peer));
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
        self.epochs.begin(Authority::Node(peer));
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
            Change::NodeAdd(filter) => self.add(Authority::Node(peer), filter)?,
            Change::NodeRemove(filter) => self.tell(Authority::Node(peer), filter, Said::HasNot),
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
                    self.epochs.begin(Authority::Partition(*partition));
                }
            }
            // Only who speaks for it now changes it: a deposed leader's words are
            // of the past, in whatever order they come.
            Change::Add { partition, index, filter } => {
                if self.speaks(peer, *partition, *index) {
                    self.add(Authority::Partition(*partition), filter)?;
                }
            }
            Change::Remove { partition, index, filter } => {
                if self.speaks(peer, *partition, *index) {
                    self.tell(Authority::Partition(*partition), filter, Said::HasNot);
                }
            }
            Change::Complete { partition, index } => {
                if self.speaks(peer, *partition, *index)
                    && let Some(known) = self.partitions.get_mut(partition)
                {
                    known.complete = true;
                    self.epochs.complete(Authority::Partition(*partition));
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
    /// There is no room: this node is no good leader for the partition.
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
        self.epochs.begin(Authority::Partition(partition));
        filters.try_for_each(|filter| self.add(Authority::Partition(partition), filter))?;
        self.epochs.complete(Authority::Partition(partition));
        self.partitions.insert(partition, Partition { index, by, complete: true });
        Ok(())
    }

    /// A partition that this node leads has a filter, or has it no longer.
    ///
    /// # Errors
    /// There is no room: the subscription is to be refused.
    pub fn led(&mut self, partition: PartitionId, filter: &str, has: bool) -> Result<(), Full> {
        let known = self.partitions.get(&partition);
        if known.and_then(|known| known.by) != Some(Speaker::Myself) {
            return Ok(());
        }
        if has {
            return self.add(Authority::Partition(partition), filter);
        }
        self.tell(Authority::Partition(partition), filter, Said::HasNot);
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
    /// known here, and the keeper has it already. It stays until the next leader has
    /// said all that it has.
    pub fn keep(&mut self, partition: PartitionId, filter: &str) {
        let authority = Authority::Partition(partition);
        let speaks = self.partitions.get(&partition).is_some_and(|known| known.by.is_some());
        let epoch = (!speaks).then(|| self.epochs.newest(authority));
        self.tell(authority, filter, Said::Had(epoch));
    }

    /// That life is over, by the metadata. Its own routes are void at once; what
    /// it announced of partitions stays, and is not complete.
    pub fn gone(&mut self, peer: Life) {
        self.streams.remove(&peer);
        self.epochs.gone(Authority::Node(peer));
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
}
