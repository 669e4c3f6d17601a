//! This node's own routes, and the streams that tell its peers.

use std::collections::{BTreeMap, VecDeque};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::Change;
use super::index::{FilterNo, Index};
use crate::ids::{Life, Millis, PartitionId};
use crate::lease::RouteGrants;
use crate::limits::{
    BARRIER_WAITING_MAX, INCREMENT_ACK_MS, INCREMENTS_MAX, ROUTE_BATCH_BYTES_MAX, ROUTE_BATCH_MAX,
};

/// The routes of one life of this node.
#[derive(Debug)]
pub struct Announcer {
    seed: u64,
    own: Counted,
    led: BTreeMap<PartitionId, Led>,
    /// The last changes, the oldest first, and when each was made.
    increments: VecDeque<(Change, Millis)>,
    /// The number of the newest change.
    newest: u64,
    /// The additions among `increments`, by filter of this node.
    recent: HashMap<(Option<PartitionId>, FilterNo), u64, FixedState>,
    /// From so many on, those that nobody can wait for are dropped from `recent`.
    recent_max: usize,
    peers: BTreeMap<Life, Peer>,
    grants: RouteGrants,
    waiting: VecDeque<(u64, u64)>,
    tickets: u64,
}

/// Additions below this many are not worth a walk to drop some.
const RECENT_MIN: usize = 1_024;

/// Filters and how many subscribers each has.
#[derive(Debug)]
struct Counted {
    index: Index,
    counts: Vec<u32>,
}

#[derive(Debug)]
struct Led {
    index: u64,
    filters: Counted,
}

/// How far a peer is.
#[derive(Debug)]
struct Peer {
    sends: Sends,
    /// What it acknowledges below this is of what it had before.
    base: u64,
    /// The newest number that it has applied, once it has had a snapshot.
    acked: Option<u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sends {
    /// Everything there is, from this place on.
    Snapshot(Cursor),
    /// The increment of this number next.
    Increments(u64),
}

/// Where a snapshot goes on. What was changed before that place since then is
/// among the increments that follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Cursor {
    /// The number of the newest change when it began.
    base: u64,
    /// `None`: this node's own filters.
    part: Option<PartitionId>,
    filter: FilterNo,
    begun: bool,
}

/// Changes for one peer, to be sent in order on one connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Batch {
    /// A part of everything there is.
    Snapshot {
        /// It is the first: what the peer knew is void when the last one is there.
        first: bool,
        /// It is the last; increments go on after this number.
        last: Option<u64>,
        /// Its changes.
        changes: Vec<Change>,
    },
    /// Changes with contiguous numbers.
    Increments {
        /// The number of the first.
        first: u64,
        /// They.
        changes: Vec<Change>,
    },
}

/// What a SUBACK waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waiting {
    /// Nothing.
    No,
    /// It leaves when [`Announcer::released`] names this ticket.
    Ticket(u64),
}

/// An acknowledgement that can't be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Acked {
    /// Noted.
    Yes,
    /// The peer says what it was never sent: the link is to be closed.
    Impossible,
}

/// So many SUBACKs wait that one more is refused (0x97).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many subscriptions wait for the other nodes")]
pub struct BarrierFull;

impl Counted {
    fn new(seed: u64) -> Counted {
        Counted { index: Index::new(seed), counts: Vec::new() }
    }

    /// The filter, and whether it is new.
    fn add(&mut self, text: &str) -> (FilterNo, bool) {
        let filter = self.index.insert(text);
        if filter as usize >= self.counts.len() {
            self.counts.resize(filter as usize + 1, 0);
        }
        let count = &mut self.counts[filter as usize];
        *count = count.checked_add(1).expect("fewer than 4 billion subscriptions a node");
        (filter, *count == 1)
    }

    /// The filter, if that was its last subscriber. One that had none is nothing.
    fn remove(&mut self, text: &str) -> Option<FilterNo> {
        let filter = self.index.find(text)?;
        let count = &mut self.counts[filter as usize];
        *count -= 1;
        if *count > 0 {
            return None;
        }
        self.index.remove(filter);
        Some(filter)
    }
}

impl Announcer {
    /// For a node that begins. The seed keeps foreign filters from choosing
    /// their places in the tables.
    pub fn new(seed: u64) -> Announcer {
        Announcer {
            seed,
            own: Counted::new(seed),
            led: BTreeMap::new(),
            increments: VecDeque::new(),
            newest: 0,
            recent: HashMap::with_hasher(FixedState::with_seed(seed)),
            recent_max: RECENT_MIN,
            peers: BTreeMap::new(),
            grants: RouteGrants::default(),
            waiting: VecDeque::new(),
            tickets: 0,
        }
    }

    /// The number of the newest change.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Distinct filters that this node announces.
    pub fn filters(&self) -> usize {
        self.own.index.len() + self.led.values().map(|led| led.filters.index.len()).sum::<usize>()
    }

    /// Bytes of memory of what it announces, without what peers have not
    /// acknowledged, by the capacities of what it is made of.
    pub fn memory_bytes(&self) -> usize {
        let counted = |of: &Counted| of.index.memory_bytes() + of.counts.capacity() * 4;
        counted(&self.own) + self.led.values().map(|led| counted(&led.filters)).sum::<usize>()
    }

    /// A subscription of a session of this node, or of a partition that it leads
    /// (committed, at an index of its log). Returns the number that its SUBACK
    /// has to wait for: the one under which its filter was announced, if that is
    /// not acknowledged by all yet.
    pub fn subscribe(&mut self, of: Option<PartitionId>, filter: &str, now: Millis) -> u64 {
        let Some(counted) = self.counted(of) else { return self.newest };
        let (number, is_new) = counted.add(filter);
        if !is_new {
            return self.recent.get(&(of, number)).copied().unwrap_or(0);
        }
        let filter = filter.into();
        let change = match of {
            None => Change::NodeAdd(filter),
            Some(partition) => Change::Add { partition, index: self.led[&partition].index, filter },
        };
        self.push(change, now);
        self.recent.insert((of, number), self.newest);
        self.newest
    }

    /// A subscription has ended.
    pub fn unsubscribe(&mut self, of: Option<PartitionId>, filter: &str, now: Millis) {
        let Some(counted) = self.counted(of) else { return };
        let Some(number) = counted.remove(filter) else { return };
        self.recent.remove(&(of, number));
        let filter = filter.into();
        let change = match of {
            None => Change::NodeRemove(filter),
            Some(partition) => {
                Change::Remove { partition, index: self.led[&partition].index, filter }
            }
        };
        self.push(change, now);
    }

    fn counted(&mut self, of: Option<PartitionId>) -> Option<&mut Counted> {
        match of {
            None => Some(&mut self.own),
            Some(partition) => self.led.get_mut(&partition).map(|led| &mut led.filters),
        }
    }

    /// This node leads a partition from this index of its log on, the first of
    /// its term, which it has applied; these are the filters of all its
    /// subscriptions. Returns the number that the first SUBACK waits for.
    pub fn lead<'a>(
        &mut self,
        partition: PartitionId,
        index: u64,
        filters: impl Iterator<Item = &'a str>,
        now: Millis,
    ) -> u64 {
        self.follow(partition);
        self.led.insert(partition, Led { index, filters: Counted::new(self.seed) });
        self.push(Change::Begin { partition, index }, now);
        for filter in filters {
            self.subscribe(Some(partition), filter, now);
        }
        self.push(Change::Complete { partition, index }, now);
        self.newest
    }

    /// This node no longer leads it. Its peers keep what they know until the next
    /// leader speaks.
    pub fn follow(&mut self, partition: PartitionId) {
        if self.led.remove(&partition).is_some() {
            self.recent.retain(|(of, _), _| *of != Some(partition));
        }
    }

    fn push(&mut self, change: Change, now: Millis) {
        self.newest += 1;
        self.increments.push_back((change, now));
        if self.increments.len() > INCREMENTS_MAX {
            self.increments.pop_front();
            let oldest = self.oldest();
            for peer in self.peers.values_mut() {
                // Too far behind: everything anew is less than what it lacks.
                let lacks = match peer.sends {
                    Sends::Snapshot(cursor) => cursor.base + 1 < oldest,
                    Sends::Increments(next) => next < oldest,
                };
                if lacks {
                    *peer = Peer::new(self.newest);
                }
            }
        }
        if self.recent.len() > self.recent_max {
            let passed = self.passed(now);
            self.recent.retain(|_, number| *number > passed);
            self.recent_max = RECENT_MIN.max(2 * self.recent.len());
        }
    }

    /// The number of the oldest increment that is kept.
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.increments.len() as u64
    }

    /// A peer can be reached. What it has of this node's stream, in this life,
    /// goes on if that is still there; otherwise everything comes anew.
    pub fn attach(&mut self, peer: Life, have: Option<u64>) {
        let there = self.oldest()..=self.newest + 1;
        let resumes = have.filter(|have| there.contains(&have.saturating_add(1)));
        let state = match resumes {
            Some(have) => {
                Peer { sends: Sends::Increments(have + 1), base: have, acked: Some(have) }
            }
            None => Peer::new(self.newest),
        };
        // Another life of the same node is over.
        self.peers.retain(|other, _| other.node != peer.node);
        self.peers.insert(peer, state);
    }

    /// The connection to the peer has ended.
    pub fn detach(&mut self, peer: Life) {
        self.peers.remove(&peer);
    }

    /// That life is over, by the metadata: nothing waits for it.
    pub fn gone(&mut self, peer: Life) {
        self.detach(peer);
        self.grants.gone(peer);
    }

    /// What to send to the peer next; `None`: nothing for now.
    pub fn next_batch(&mut self, peer: Life) -> Option<Batch> {
        let sends = self.peers.get(&peer)?.sends;
        let (batch, next) = match sends {
            Sends::Snapshot(cursor) => self.snapshot(cursor),
            Sends::Increments(next) if next > self.newest => return None,
            Sends::Increments(next) => {
                let from = (next - self.oldest()) as usize;
                let to = self.increments.len().min(from + ROUTE_BATCH_MAX);
                let mut bytes = 0;
                let mut fits = |change: &Change| {
                    let before = bytes;
                    bytes += change.text_bytes();
                    before < ROUTE_BATCH_BYTES_MAX
                };
                let range = self.increments.range(from..to).map(|(change, _)| change);
                let changes: Vec<_> = range.take_while(|change| fits(change)).cloned().collect();
                let after = next + changes.len() as u64;
                (Batch::Increments { first: next, changes }, Sends::Increments(after))
            }
        };
        self.peers.get_mut(&peer).expect("looked up above").sends = next;
        Some(batch)
    }

    fn snapshot(&self, mut cursor: Cursor) -> (Batch, Sends) {
        let first = !cursor.begun;
        cursor.begun = true;
        let mut changes = Vec::new();
        let mut bytes = 0;
        loop {
            let part = cursor.part;
            // A partition that is not led any more is passed over.
            let counted = match part {
                None => Some((0, &self.own)),
                Some(partition) => self.led.get(&partition).map(|led| (led.index, &led.filters)),
            };
            if let Some((index, counted)) = counted {
                if cursor.filter == 0
                    && let Some(partition) = part
                {
                    changes.push(Change::Begin { partition, index });
                }
                // Free numbers count as well: a step is bounded, not its yield.
                let mut end = counted.index.end().min(cursor.filter + ROUTE_BATCH_MAX as u32);
                for number in cursor.filter..end {
                    let Some(filter) = counted.index.text(number) else { continue };
                    if bytes >= ROUTE_BATCH_BYTES_MAX {
                        end = number;
                        break;
                    }
                    bytes += filter.len();
                    let filter = filter.into();
                    changes.push(match part {
                        None => Change::NodeAdd(filter),
                        Some(partition) => Change::Add { partition, index, filter },
                    });
                }
                cursor.filter = end;
                if end < counted.index.end() {
                    return (
                        Batch::Snapshot { first, last: None, changes },
                        Sends::Snapshot(cursor),
                    );
                }
                if let Some(partition) = part {
                    changes.push(Change::Complete { partition, index });
                }
            }
            let after = part.map_or(0, |partition| u32::from(partition.0) + 1);
            let mut later = self.led.keys().filter(|next| u32::from(next.0) >= after);
            let Some(next) = later.next() else {
                let base = cursor.base;
                return (
                    Batch::Snapshot { first, last: Some(base), changes },
                    Sends::Increments(base + 1),
                );
            };
            cursor.part = Some(*next);
            cursor.filter = 0;
            if changes.len() >= ROUTE_BATCH_MAX {
                return (Batch::Snapshot { first, last: None, changes }, Sends::Snapshot(cursor));
            }
        }
    }

    /// The peer has applied everything up to this number.
    pub fn acked(&mut self, peer: Life, number: u64) -> Acked {
        let Some(known) = self.peers.get_mut(&peer) else { return Acked::Yes };
        match known.sends {
            Sends::Increments(next) if number < next => {}
            // An answer to what was sent before everything came anew.
            Sends::Snapshot(_) => return Acked::Yes,
            Sends::Increments(_) => return Acked::Impossible,
        }
        if number >= known.base {
            known.acked = known.acked.max(Some(number));
            self.trim();
        }
        Acked::Yes
    }

    /// Drops the increments that no peer needs any more.
    fn trim(&mut self) {
        let needs = self.peers.values().map(|peer| match peer.sends {
            Sends::Snapshot(cursor) => cursor.base,
            Sends::Increments(_) => peer.acked.unwrap_or(peer.base),
        });
        let all_have = needs.min().unwrap_or(self.newest);
        let drop = (all_have + 1).saturating_sub(self.oldest()) as usize;
        if drop > 0 {
            self.increments.drain(..drop);
        }
    }

    /// A peer pings: it gets the number of the newest change and with it a lease,
    /// unless it has not had everything, or has left a change unacknowledged for
    /// too long.
    pub fn ping(&mut self, peer: Life, now: Millis) -> Option<u64> {
        let acked = self.peers.get(&peer)?.acked?;
        if acked < self.newest {
            let at = (acked + 1).saturating_sub(self.oldest()) as usize;
            let (_, made) = self.increments.get(at)?;
            if now.saturating_sub(*made) >= INCREMENT_ACK_MS {
                return None;
            }
        }
        self.grants.grant(peer, now);
        Some(self.newest)
    }

    /// A SUBACK that has to wait for a number (R2).
    ///
    /// # Errors
    /// Too many wait.
    pub fn barrier(&mut self, number: u64, now: Millis) -> Result<Waiting, BarrierFull> {
        if number <= self.passed(now) {
            return Ok(Waiting::No);
        }
        if self.waiting.len() >= BARRIER_WAITING_MAX {
            return Err(BarrierFull);
        }
        self.tickets += 1;
        // Mostly the newest number, so near the end.
        let place = self.waiting.iter().rposition(|(other, _)| *other <= number);
        self.waiting.insert(place.map_or(0, |place| place + 1), (number, self.tickets));
        Ok(Waiting::Ticket(self.tickets))
    }

    /// The SUBACKs that may leave now, by the numbers that `barrier` gave them.
    pub fn released(&mut self, now: Millis) -> Vec<u64> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let passed = self.passed(now);
        let released = self.waiting.partition_point(|(number, _)| *number <= passed);
        self.waiting.drain(..released).map(|(_, ticket)| ticket).collect()
    }

    /// When to ask for released ones again, if nobody acknowledges before.
    pub fn next_release(&self, now: Millis) -> Option<Millis> {
        let (number, _) = self.waiting.front()?;
        self.next_passing(*number, now)
    }

    /// When to ask again whether a number is [`passed`](Announcer::passed), if
    /// nobody acknowledges before.
    pub fn next_passing(&self, number: u64, now: Millis) -> Option<Millis> {
        let lags = |peer: &Life| self.peers.get(peer).and_then(|peer| peer.acked) < Some(number);
        self.grants.holders(now).filter(|(peer, _)| lags(peer)).map(|(_, until)| until).min()
    }

    /// Every peer that may hold a lease has all up to this number.
    pub fn passed(&self, now: Millis) -> u64 {
        let acked = |peer: Life| self.peers.get(&peer).and_then(|peer| peer.acked).unwrap_or(0);
        self.grants.holders(now).map(|(peer, _)| acked(peer)).min().unwrap_or(self.newest)
    }

    /// Whether a peer has everything up to now: what Ready asks of every node
    /// that has clients.
    pub fn is_known_to(&self, peer: Life) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.acked.is_some())
    }

    /// Forgets leases that have ended; now and then.
    pub fn sweep(&mut self, now: Millis) {
        self.grants.sweep(now);
    }
}

impl Peer {
    /// One that gets everything.
    fn new(base: u64) -> Peer {
        let cursor = Cursor { base, part: None, filter: 0, begun: false };
        Peer { sends: Sends::Snapshot(cursor), base, acked: None }
    }
}
