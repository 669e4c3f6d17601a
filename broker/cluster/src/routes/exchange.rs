//! All that a node says and hears of routes, in one place for the shell.
//!
//! The shell moves bytes and calls. Into it go: what the core's index says has
//! appeared and vanished here ([`Own`]), which peers can be reached and which
//! are gone, their bytes, and the time. Out of it come: bytes for each peer,
//! what the core's index has to know of others ([`Call`]), up to which ticket
//! the peers know of this node's changes (R2), and until when publishes may be
//! acknowledged by what is known here (R1).
//!
//! Members are the numbers by which the core knows lives of nodes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::announcer::Batch;
use super::{Acked, Announcer, Authority, Follower, NotCovered, Said, Taken, Told, Word};
use crate::ids::{Life, Millis, PartitionId};
use crate::limits::{INCREMENT_ACK_MS, ROUTE_TICKETS_MAX};
use crate::wire::DecodeError;

/// What has changed at this node, as its index says it, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Own {
    /// A filter has its first subscriber.
    Appeared {
        /// A partition that is led here; none: of sessions that end with their
        /// connection.
        of: Option<PartitionId>,
        /// The filter, with `$share/NAME/` in front if it is a group's.
        filter: Box<str>,
    },
    /// It has lost the last one.
    Vanished {
        /// As above.
        of: Option<PartitionId>,
        /// As above.
        filter: Box<str>,
    },
    /// This node leads the partition; what it has was said before.
    Led {
        /// Which.
        partition: PartitionId,
        /// Grows with each leader.
        index: u64,
    },
    /// It leads it no longer; what it had will vanish after this.
    Followed(PartitionId),
}

/// Whom the core has to send to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// The node with this member number.
    Node(u16),
    /// Whoever leads this partition.
    Partition(PartitionId),
}

/// What the core's index has to know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// Whose filter it is.
    pub target: Target,
    /// The filter, with `$share/NAME/` in front if it is a group's.
    pub filter: Box<str>,
    /// What is said of it.
    pub said: Said,
}

/// Why a link is to be closed: the peer, or this node, does not do what it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// The bytes are no word.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The peer acknowledges what it was never sent.
    #[error("the peer acknowledges number {0}, which it was never sent")]
    Acked(u64),
    /// Nobody said that this life can be reached.
    #[error("words of {0}, to which there is no link")]
    NoLink(Life),
}

/// Announcer and follower of one life of this node, and the links between.
#[derive(Debug)]
pub struct Exchange {
    partitions: u16,
    announcer: Announcer,
    follower: Follower,
    members: BTreeMap<Life, u16>,
    links: BTreeMap<Life, Link>,
    /// Other lives with clients, by the metadata.
    serving: BTreeSet<Life>,
    /// Lives that have had everything of this one at some time: from then on they want
    /// its lease.
    known: BTreeSet<Life>,
    /// Lives that are over and whose filters may still be swept.
    over: Vec<Life>,
    /// What partitions have that are not led yet, or no longer.
    gathered: BTreeMap<PartitionId, BTreeSet<Box<str>>>,
    led: BTreeSet<PartitionId>,
    /// The core's tickets, and the numbers that stand for them.
    tickets: VecDeque<(u64, u64)>,
    passed: u64,
}

/// What waits to be said on a link; newer words take the place of older ones.
#[derive(Debug, Default)]
struct Link {
    attach: bool,
    attached_at: Option<Millis>,
    ack: Option<u64>,
    pong: Option<(u64, u64)>,
}

impl Exchange {
    /// Of a node that begins, in a cluster of so many partitions. The seed keeps
    /// foreign filters from choosing their places in the tables.
    pub fn new(seed: u64, partitions: u16) -> Exchange {
        Exchange {
            partitions,
            announcer: Announcer::new(seed),
            follower: Follower::default(),
            members: BTreeMap::new(),
            links: BTreeMap::new(),
            serving: BTreeSet::new(),
            known: BTreeSet::new(),
            over: Vec::new(),
            gathered: BTreeMap::new(),
            led: BTreeSet::new(),
            tickets: VecDeque::new(),
            passed: 0,
        }
    }

    /// Something has changed here. `ticket` counts changes up.
    pub fn own(&mut self, ticket: u64, own: &Own, now: Millis) {
        let announcer = &mut self.announcer;
        let is_led = |of: &Option<PartitionId>| of.is_none_or(|p| self.led.contains(&p));
        match own {
            Own::Appeared { of, filter } => match of {
                Some(partition) if !is_led(of) => {
                    self.gathered.entry(*partition).or_default().insert(filter.clone());
                }
                Some(_) | None => {
                    announcer.subscribe(*of, filter, now);
                }
            },
            Own::Vanished { of, filter } => match of {
                Some(partition) if !is_led(of) => {
                    let gathered = self.gathered.get_mut(partition);
                    if !gathered.is_some_and(|filters| filters.remove(filter)) {
                        // It was led here: the core's index has it as another's.
                        self.follower.keep(*partition, filter);
                    }
                }
                Some(_) | None => announcer.unsubscribe(*of, filter, now),
            },
            Own::Led { partition, index } => {
                let filters = self.gathered.remove(partition).unwrap_or_default();
                announcer.lead(*partition, *index, filters.iter().map(|filter| &**filter), now);
                self.led.insert(*partition);
                // The core has the sessions themselves; what others had said of
                // them is void.
                let nothing = std::iter::empty();
                self.follower.lead(*partition, *index, nothing).expect("nothing has room");
            }
            Own::Followed(partition) => {
                announcer.follow(*partition);
                self.follower.follow(*partition);
                self.led.remove(partition);
            }
        }
        let newest = self.announcer.newest();
        if self.tickets.len() >= ROUTE_TICKETS_MAX {
            // The one before waits for this one too: later, never too early.
            self.tickets.pop_back();
        }
        self.tickets.push_back((ticket, newest));
    }

    /// The lives that have clients, by the metadata, but for this node's own.
    pub fn serving(&mut self, lives: impl Iterator<Item = Life>) {
        self.serving = lives.collect();
    }

    /// A peer can be reached, on a new link that keeps the order.
    pub fn up(&mut self, peer: Life, member: u16) {
        self.members.insert(peer, member);
        self.links.insert(peer, Link { attach: true, ..Link::default() });
    }

    /// The link is lost.
    pub fn down(&mut self, peer: Life) {
        self.links.remove(&peer);
        self.announcer.detach(peer);
    }

    /// That life is over, by the metadata.
    pub fn gone(&mut self, peer: Life) {
        self.links.remove(&peer);
        self.serving.remove(&peer);
        self.known.remove(&peer);
        self.announcer.gone(peer);
        self.follower.gone(peer);
        if self.members.contains_key(&peer) && !self.over.contains(&peer) {
            self.over.push(peer);
        }
    }

    /// A word of a peer.
    ///
    /// # Errors
    /// The link is to be closed.
    pub fn read(&mut self, peer: Life, bytes: &[u8], now: Millis) -> Result<(), ReadError> {
        let link = self.links.get_mut(&peer).ok_or(ReadError::NoLink(peer))?;
        match Word::decode(bytes)? {
            Word::Attach { have } => self.announcer.attach(peer, have),
            Word::Batch(batch) => match self.follower.take(peer, &batch) {
                Taken::Ack(number) => link.ack = Some(number),
                Taken::More => {}
                Taken::Gap => {
                    // What is still on its way of the old stream has one too.
                    let early = link.attached_at.is_some_and(|at| now < at + INCREMENT_ACK_MS);
                    link.attach |= !early;
                }
            },
            Word::Ack(number) => match self.announcer.acked(peer, number) {
                Acked::Yes if self.announcer.is_known_to(peer) => _ = self.known.insert(peer),
                Acked::Yes => {}
                Acked::Impossible => return Err(ReadError::Acked(number)),
            },
            Word::Ping(request) => {
                link.pong = self.announcer.ping(peer, now).map(|newest| (request, newest));
            }
            Word::Pong { request, newest } => self.follower.granted(peer, request, newest),
        }
        Ok(())
    }

    /// The next word for a peer; none: nothing for now. To be called until there
    /// is none, or the link takes no more.
    pub fn write(&mut self, peer: Life, now: Millis) -> Option<Vec<u8>> {
        self.next_word(peer, now).map(|word| word.encode())
    }

    fn next_word(&mut self, peer: Life, now: Millis) -> Option<Word> {
        let link = self.links.get_mut(&peer)?;
        if std::mem::take(&mut link.attach) {
            link.attached_at = Some(now);
            return Some(Word::Attach { have: self.follower.have(peer) });
        }
        if let Some(number) = link.ack.take() {
            return Some(Word::Ack(number));
        }
        if let Some((request, newest)) = link.pong.take() {
            return Some(Word::Pong { request, newest });
        }
        if let Some(request) = self.follower.ask(peer, now) {
            return Some(Word::Ping(request));
        }
        let batch: Option<Batch> = self.announcer.next_batch(peer);
        batch.map(Word::Batch)
    }

    /// The next call for the core's index; none: no more for now. To be called
    /// until there is none after every [`Exchange::read`] and [`Exchange::own`].
    pub fn next_call(&mut self) -> Option<Call> {
        while let Some(Told { authority, filter, said }) = self.follower.take_told() {
            let target = match authority {
                Authority::Partition(partition) => Target::Partition(partition),
                Authority::Node(life) => match self.members.get(&life) {
                    Some(member) => Target::Node(*member),
                    None => continue,
                },
            };
            return Some(Call { target, filter, said });
        }
        None
    }

    /// Filters of others that the core's index holds, and their bytes: by these
    /// there is room for more. To be said before each [`Exchange::read`].
    pub fn kept(&mut self, filters: usize, bytes: usize) {
        self.follower.kept(filters, bytes);
    }

    /// Whether the core's index is to be walked over, or further, to drop what is
    /// [void](Exchange::is_void). Not before all calls were made.
    pub fn walk(&mut self) -> bool {
        self.follower.walk()
    }

    /// Whether what was said under this epoch holds no longer.
    pub fn is_void(&self, target: Target, epoch: u16) -> bool {
        match target {
            Target::Partition(partition) => {
                !self.follower.is_valid(Authority::Partition(partition), epoch)
            }
            Target::Node(member) => {
                let mut lives = self.members.iter().filter(|(_, number)| **number == member);
                !lives.any(|(life, _)| self.follower.is_valid(Authority::Node(*life), epoch))
            }
        }
    }

    /// A walk over the core's index has ended.
    pub fn walked(&mut self) {
        self.follower.walked();
    }

    /// Forgets leases that have ended, and lives of which nothing is left.
    pub fn tick(&mut self, now: Millis) {
        self.announcer.sweep(now);
        if self.follower.has_told_all() {
            for life in std::mem::take(&mut self.over) {
                self.members.remove(&life);
            }
        }
    }

    /// Every peer that may hold a lease knows of this node's changes up to this
    /// ticket: what waits for it may go on (R2). None passes before each life that has
    /// clients has had everything once: one that was cut off when this life began holds
    /// leases of others, and may take what is led here for led by somebody else still.
    pub fn passed(&mut self, now: Millis) -> u64 {
        if !self.serving.is_subset(&self.known) {
            return self.passed;
        }
        let passed = self.announcer.passed(now);
        while let Some(&(ticket, number)) = self.tickets.front()
            && number <= passed
        {
            self.tickets.pop_front();
            self.passed = ticket;
        }
        self.passed
    }

    /// When [`Exchange::passed`] may grow though no peer has said anything.
    pub fn next_passing(&self, now: Millis) -> Option<Millis> {
        let (_, number) = self.tickets.front()?;
        self.announcer.next_passing(*number, now)
    }

    /// Until when publishes may be acknowledged by what this node knows (R1).
    /// Holds for a publish only if a clock that was read after the read that
    /// brought it is before that time. Not beyond this node's own lease: when it
    /// is given up after that, nobody waits for it ([`Exchange::gone`]), though
    /// its leases on the others' routes last longer.
    ///
    /// # Errors
    /// What is stale: such publishes wait.
    pub fn covered_until(&self, lease: Millis) -> Result<Millis, NotCovered> {
        let routes = self.follower.covered_until(self.serving.iter().copied(), self.partitions)?;
        Ok(routes.min(lease))
    }

    /// Whether all that a peer has announced is known here, for people.
    pub fn is_fresh(&self, peer: Life, now: Millis) -> bool {
        self.follower.life_until(peer).is_ok_and(|until| now < until)
    }

    /// Whether a peer has everything of this node: what Ready asks.
    pub fn is_known_to(&self, peer: Life) -> bool {
        self.announcer.is_known_to(peer)
    }

    /// Distinct filters announced by this node.
    pub fn filters(&self) -> usize {
        self.announcer.filters()
    }
}
