//! A partition with replicas: who leads, which entries of its log count, what a
//! leader tells besides what it was asked.
//!
//! A follower is a partition that is read back forever. It says nothing, is in
//! no index and has no timers. What depends on what only a leader knows (what
//! was sent, what a clock or a limit says) is not decided anew by its records:
//! the leader tells it with one more record, [`Change::Dropped`]. So does a node
//! that is alone: a start reads it back.
//!
//! A Raft group may commit an entry after its leader has been replaced and has
//! come back. So entries name the leadership that they are of and are numbered
//! within it, and every replica takes the same ones: each next one of the
//! leadership of the last, or the first of another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hashbrown::HashMap;

use super::install::Installing;
use super::{Change, Context, Ended, Partition};
use crate::ids::{ConnRef, Member, Millis, PartitionId, ShardId};
use crate::index::Remote;
use crate::journal::{Journal, Place};
use crate::log::{FIRST_INDEX, ReplicatedLog, Role};
use crate::node::Node;

/// The leadership that an entry is of, and its number there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Header {
    /// Whose entry it is.
    pub member: Member,
    /// Counts that member's promotions of the partition.
    pub epoch: u64,
    /// Counts the entries of that leadership, from 1.
    pub number: u64,
}

/// What every replica has taken of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Taken {
    /// The last entry.
    pub(super) last: Header,
    /// The index of the next record.
    pub(super) next: u64,
    /// The time of the newest record: the only clock that replicas share.
    /// By the wall clock.
    pub(super) time: Millis,
}

/// A message that a leader has dropped: of a queue by its number, or one that
/// was kept back for a replay, by its id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Dropped {
    pub(crate) session: u32,
    pub(crate) deferred: bool,
    pub(crate) number: u64,
}

/// Whose claims end without a word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Gone {
    /// Those of an incarnation of a node.
    Member(Member),
    /// Those of connections that ended, with their sessions.
    Sessions(Vec<u32>),
}

/// What a partition has that has replicas.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) taken: Taken,
    /// Counts the promotions, over all of them in this process.
    epoch: u64,
    /// Errands that are done, and whose records are not durable: as long as one
    /// may come again, its number has to be known where it went.
    pub(super) closing: VecDeque<Closing>,
    /// Claims that an earlier leader granted, by connection.
    inherited: BTreeMap<ConnRef, u32>,
    pub(super) installing: Option<Box<Installing>>,
    /// The last image that was given out, by number, and where its records lay.
    pub(super) painted: Option<(u32, Vec<u64>)>,
}

/// An errand whose end is written.
#[derive(Debug)]
pub(super) struct Closing {
    pub(super) place: Place,
    pub(super) number: u64,
    /// Who has published it, if it is for everybody.
    pub(super) client: Option<u64>,
}

impl Default for Replica {
    fn default() -> Replica {
        Replica {
            taken: Taken { last: Header::default(), next: FIRST_INDEX, time: 0 },
            epoch: 0,
            closing: VecDeque::new(),
            inherited: BTreeMap::new(),
            installing: None,
            painted: None,
        }
    }
}

impl Taken {
    /// Whether an entry counts whose first record has this index.
    fn admits(&self, header: Header, first: u64) -> bool {
        let of = |header: Header| (header.member, header.epoch);
        let goes_on = match of(header) == of(self.last) {
            true => header.number == self.last.number + 1,
            false => header.number == 1,
        };
        goes_on && first == self.next
    }
}

impl Partition {
    /// One that has replicas, and follows.
    pub(crate) fn following(id: PartitionId, shard: ShardId, epoch: u64) -> Partition {
        let mut partition = Partition::new(id, shard);
        partition.replica = Some(Box::new(Replica { epoch, ..Replica::default() }));
        partition.sessions = Some(HashMap::default());
        partition.log.set_role(Role::Follower);
        partition
    }

    /// Forgets everything, and follows.
    pub(crate) fn follow_anew(&mut self) {
        let outbox = self.outbox.anew();
        *self = Partition::following(self.id, self.shard, self.epoch());
        self.outbox = outbox;
    }

    pub(crate) fn id(&self) -> PartitionId {
        self.id
    }

    /// Whether it has replicas.
    #[inline]
    pub(crate) fn is_replicated(&self) -> bool {
        self.replica.is_some()
    }

    /// Whether this node leads it.
    #[inline]
    pub(crate) fn leads(&self) -> bool {
        self.log.role() == Role::Leader
    }

    /// The number of the present leadership, or of the last one.
    pub(crate) fn epoch(&self) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.epoch)
    }

    /// The index of the next record of an entry that counts.
    pub(crate) fn next(&self) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.taken.next)
    }

    /// The time of its newest record.
    pub(crate) fn time(&self, node: &Node) -> Millis {
        let time = self.replica.as_ref().map_or(Millis::MAX, |replica| replica.taken.time);
        time.saturating_sub(node.epoch)
    }

    /// Whether an entry counts; nothing changes.
    pub(crate) fn admits(&self, header: Header, first: u64) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.taken.admits(header, first))
    }

    /// An entry that counts was taken, up to the record before `next`.
    pub(crate) fn take(&mut self, header: Header, next: u64) {
        if let Some(replica) = &mut self.replica {
            replica.taken.last = header;
            replica.taken.next = next;
        }
    }

    /// A record that is written is applied.
    pub(super) fn note_time(&mut self, at: Millis, node: &Node) {
        if let Some(replica) = &mut self.replica {
            replica.taken.time = replica.taken.time.max(at.saturating_add(node.epoch));
        }
    }

    /// The same, of an image.
    pub(super) fn set_time(&mut self, time: Millis) {
        if let Some(replica) = &mut self.replica {
            replica.taken.time = time;
        }
    }

    /// The errands whose end is durable may be forgotten.
    pub(crate) fn close_errands(&mut self, journal: &Journal) {
        let Some(replica) = &mut self.replica else { return };
        let durable = |closing: &mut Closing| journal.is_durable(closing.place);
        while let Some(closing) = replica.closing.pop_front_if(durable) {
            if let Some(client) = closing.client {
                self.outbox.forget_one_of(client);
            }
        }
    }

    /// This node leads from now on: all that is committed was applied. What the
    /// sessions subscribe to is in the index from here on. Its errands are to be
    /// routed again.
    pub(crate) fn promote(&mut self, cx: &mut Context<'_>) {
        let Some(replica) = &mut self.replica else { return };
        replica.epoch += 1;
        self.log.set_role(Role::Leader);
        for slot in 0..self.claims.slots() {
            let Some(claim) = self.claims.at(slot) else { continue };
            let Some(session) = claim.session.as_deref() else {
                self.forget_if_empty(slot);
                continue;
            };
            let key = self.session_key(slot, session.generation);
            session.subscriptions.enter(key, &cx.node.index);
            match claim.live {
                Some(conn) => {
                    if let Some(replica) = &mut self.replica {
                        replica.inherited.insert(conn, slot);
                    }
                }
                None => session.offline(),
            }
        }
        for slot in 0..self.claims.slots() {
            self.note_room(slot, cx);
        }
        self.go_on(cx);
    }

    /// All of it is forgotten here: its sessions leave the index, and what they
    /// counted is given back.
    pub(crate) fn forget_all(&mut self, cx: &mut Context<'_>) {
        let leads = self.leads();
        cx.node.full.clear(self.id);
        let mut sessions = 0;
        for slot in 0..self.claims.slots() {
            let Some(claim) = self.claims.at_mut(slot) else { continue };
            let live = claim.live.is_some();
            let Some(mut session) = claim.session.take() else { continue };
            sessions += 1;
            let key = self.session_key(slot, session.generation);
            if leads {
                // Publishers here know them until the next leader has spoken, as
                // those of other nodes do.
                let (index, there) = (&cx.node.index, Remote::Partition(self.id));
                session.subscriptions.each(|text, _| {
                    index.keep_remote(there, text);
                });
                session.subscriptions.clear(key, Some(&cx.node.index), cx.counters);
                if let Some(outgoing) = &session.outgoing {
                    cx.counters.track(outgoing.load(), Default::default());
                }
                if !live {
                    cx.counters.sessions_offline.sub(1);
                }
            }
        }
        let pending = self.log.take_pending().chain(self.frozen.take().unwrap_or_default());
        for record in pending.collect::<Vec<_>>() {
            match record.change {
                Change::Claim { request, .. } => sessions += u64::from(request.counted),
                change => cx.undo(change),
            }
        }
        cx.node.totals.sessions.fetch_sub(sessions, std::sync::atomic::Ordering::Relaxed);
    }

    /// Tells the replicas, and the next start, what was dropped.
    pub(super) fn tell_dropped(&mut self, at: Millis, cx: &mut Context<'_>) {
        if self.dropped.is_empty() {
            return;
        }
        let list = std::mem::take(&mut self.dropped);
        if self.leads() && cx.journal.is_some() {
            self.propose_now(at, Change::Dropped(list), cx);
        }
    }

    /// Notes that a queue has dropped these.
    pub(super) fn note_dropped(&mut self, session: u32, deferred: bool, numbers: &[u64]) {
        let dropped = |&number| Dropped { session, deferred, number };
        self.dropped.extend(numbers.iter().map(dropped));
    }

    /// The leader has dropped these. It has them no more; a replica has.
    pub(super) fn drop_all(&mut self, list: &[Dropped], cx: &mut Context<'_>) {
        if self.leads() && !cx.replaying {
            return;
        }
        for &Dropped { session, deferred, number } in list {
            let slot = self.sessions.as_ref().and_then(|sessions| sessions.get(&session));
            let Some(claim) = slot.and_then(|&slot| self.claims.at_mut(slot)) else { continue };
            let Some(session) = claim.session.as_deref_mut() else { continue };
            match deferred {
                true => {
                    if let Some(catchup) = &mut session.catchup {
                        catchup.drop_one(number);
                    }
                }
                false => {
                    let outgoing = &mut session.outgoing;
                    if let Some(queue) = outgoing {
                        let before = queue.load();
                        queue.drop_one(number);
                        cx.counters.track(before, queue.load());
                        if queue.is_empty() {
                            *outgoing = None;
                        }
                    }
                }
            }
        }
    }

    /// Proposes that the claims of an incarnation's connections end: those that
    /// are granted, and those whose grants are on their way.
    pub(crate) fn member_gone(&mut self, now: Millis, member: Member, cx: &mut Context<'_>) {
        if self.leads() {
            // Now, and not once that is committed: an owner that goes meanwhile
            // would leave its claim to them, behind the record that ends theirs.
            self.forget_waiting(member);
            self.propose(now, Change::Gone(Gone::Member(member)), cx);
        }
    }

    /// The incarnations whose connections hold claims, and those of which numbers
    /// of messages are known.
    pub(crate) fn members(&self) -> BTreeSet<Member> {
        let claims = (0..self.claims.slots()).filter_map(|slot| self.claims.at(slot));
        let live = claims.filter_map(|claim| Some(claim.live?.shard.member()));
        live.chain(self.seen.members()).collect()
    }

    /// The claim that an earlier leader granted to this connection.
    pub(super) fn inherited(&self, conn: ConnRef) -> Option<u32> {
        self.replica.as_ref().and_then(|replica| replica.inherited.get(&conn)).copied()
    }

    /// A claim's connection is not its owner any more.
    pub(super) fn disinherit(&mut self, conn: ConnRef) {
        if let Some(replica) = &mut self.replica {
            replica.inherited.remove(&conn);
        }
    }

    /// Claims end whose connections ended without a word. Their clients have a
    /// moment to come back before their wills are due.
    pub(super) fn gone(&mut self, at: Millis, gone: &Gone, cx: &mut Context<'_>) {
        if let Gone::Member(member) = gone {
            self.seen.forget(*member);
            self.forget_waiting(*member);
        }
        for slot in self.live_slots() {
            let Some(claim) = self.claims.at(slot) else { continue };
            let Some(conn) = claim.live else { continue };
            let session = claim.session.as_deref().map(|session| session.generation);
            let is_one = match gone {
                Gone::Member(member) => conn.shard.member() == *member,
                Gone::Sessions(sessions) => session.is_some_and(|s| sessions.contains(&s)),
            };
            if is_one {
                self.end_claim(at, slot, Ended::Gone, cx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(member: u16, epoch: u64, number: u64) -> Header {
        Header { member: Member(member), epoch, number }
    }

    #[test]
    fn an_entry_counts_if_it_is_the_next_of_the_last_leadership_or_the_first_of_another() {
        let mut taken = Replica::default().taken;
        let mut take = |header: Header, first: u64, next: u64| {
            let admitted = taken.admits(header, first);
            if admitted {
                taken.last = header;
                taken.next = next;
            }
            admitted
        };
        assert!(take(header(1, 1, 1), 2, 5));
        assert!(!take(header(1, 1, 1), 5, 6), "the same again");
        assert!(!take(header(1, 1, 3), 5, 6), "one in between was lost");
        assert!(take(header(1, 1, 2), 5, 7));
        assert!(take(header(2, 1, 1), 7, 8));
        assert!(!take(header(1, 1, 3), 8, 9), "its time is over");
        assert!(!take(header(1, 2, 1), 7, 9), "it did not know what went before");
        assert!(take(header(1, 2, 1), 8, 9));
    }
}
