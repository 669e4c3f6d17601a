//! Messages that a partition has to see delivered: errands.
//!
//! A QoS 2 PUBLISH of a durable session, a will, a message of a shared
//! subscription whose member has left: each is committed here first, with the
//! record that it comes of, and then routed like any PUBLISH. So is, in a cluster,
//! a PUBLISH whose publisher's node does not know all routes (R1). Whoever has to
//! keep the message confirms; when all have, the errand is done. After a crash
//! what was not done is routed again, under the same number, and a partition
//! that had it already knows the number (QOS-2).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::{Change, Context, Partition};
use crate::ids::{Member, Millis, ShardId};
use crate::journal::{Journal, Place};
use crate::limits::{OUTBOX_ERRANDS_BYTES_MAX, OUTBOX_ERRANDS_MAX};
use crate::mail::{Confirm, Lane, LaneSource, part};
use crate::message::Message;

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Errand {
    pub(crate) message: Arc<Message>,
    /// Name and filter of the share group that it is for; none: for everybody.
    pub(crate) share: Option<(Arc<str>, Arc<str>)>,
}

/// The errands of a partition. An errand's number is the index of the record
/// that it comes of, and its place among those of that record: it is the same
/// when the record is read back.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// The number that the next one has.
    next: u64,
    open: BTreeMap<u64, Open>,
    /// What those who confirm know them by, since the start of the node.
    tokens: BTreeMap<u32, u64>,
    token: u32,
    /// Those that are done, as long as that is not durable: after a crash they
    /// would come again.
    unproven: VecDeque<(u64, Place)>,
    /// Open ones of everybody's, by the client that has published them; with replicas
    /// those too whose end is not durable.
    clients: HashMap<u64, u32, FixedState>,
    /// Bytes of all that are open.
    bytes: usize,
    /// Clients whose connections wait until none of theirs is open.
    settling: Vec<(u64, Confirm)>,
}

#[derive(Debug)]
struct Open {
    errand: Errand,
    /// Who waits until it is done.
    confirm: Option<Confirm>,
    /// Confirmations that came, less those that were expected.
    balance: i64,
    /// Set once it was routed.
    token: Option<u32>,
}

/// Errands that one record may have: sessions that end have at most so many
/// messages of shared subscriptions.
const OF_ONE_RECORD: u64 = 1 << 24;
/// Marks one of a record that was not written: it is not known after a start.
const VOLATILE: u64 = 1 << 63;

impl Outbox {
    /// With nothing; what confirms an errand of before confirms none of these.
    pub(super) fn anew(&self) -> Outbox {
        Outbox { token: self.token, ..Outbox::default() }
    }

    /// A record is about to be applied.
    pub(super) fn begin(&mut self, index: Option<u64>) {
        match index {
            Some(index) => self.next = index * OF_ONE_RECORD,
            None => {
                let last = self.open.last_key_value().map_or(0, |(&number, _)| number);
                self.next = (last | VOLATILE) + 1;
            }
        }
    }

    fn add(&mut self, errand: Errand, confirm: Option<Confirm>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.count(&errand);
        self.open.insert(number, Open { errand, confirm, balance: 0, token: None });
        number
    }

    fn count(&mut self, errand: &Errand) {
        self.bytes += errand.message.bytes();
        if errand.share.is_none() {
            *self.clients.entry(errand.message.origin).or_default() += 1;
        }
    }

    pub(super) fn done(&mut self, number: u64) {
        let Some(open) = self.open.remove(&number) else { return };
        if let Some(token) = open.token {
            self.tokens.remove(&token);
        }
        let Errand { message, share } = open.errand;
        self.bytes -= message.bytes();
        if share.is_none() {
            self.forget_one_of(message.origin);
        }
    }

    /// The end of an errand is about to be written; whose it is, if it is one of
    /// everybody's. Until that is durable it may be routed again.
    pub(super) fn ends(&mut self, number: u64) -> Option<u64> {
        let errand = &self.open.get(&number)?.errand;
        let client = Some(errand.message.origin).filter(|_| errand.share.is_none())?;
        *self.clients.entry(client).or_default() += 1;
        Some(client)
    }

    pub(super) fn forget_one_of(&mut self, client: u64) {
        if let Some(left) = self.clients.get_mut(&client) {
            *left -= 1;
            if *left == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// Whether errands of this client are open that are for everybody.
    fn is_open_of(&self, client: u64) -> bool {
        self.clients.contains_key(&client)
    }

    /// Whether it holds so much that no publisher is told that it may go on.
    fn is_full(&self) -> bool {
        self.open.len() > OUTBOX_ERRANDS_MAX || self.bytes > OUTBOX_ERRANDS_BYTES_MAX
    }

    /// That this one is done is written, there.
    pub(super) fn finishes(&mut self, number: u64, place: Place, journal: &Journal) {
        while self.unproven.front().is_some_and(|(_, place)| journal.is_durable(*place)) {
            self.unproven.pop_front();
        }
        self.unproven.push_back((number, place));
    }

    /// The oldest that may come again.
    fn low(&self) -> u64 {
        let first = self.open.first_key_value().map(|(&number, _)| number);
        let first = first.filter(|number| number & VOLATILE == 0).unwrap_or(0);
        self.unproven.iter().map(|(number, _)| *number).fold(first, u64::min)
    }

    /// Of the next message of this partition's own.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The record that is being applied, by its number in the log; none: it is in
    /// no log.
    pub(super) fn record(&self) -> Option<u64> {
        (self.next & VOLATILE == 0).then_some(self.next / OF_ONE_RECORD)
    }

    /// As it was when the state was written.
    pub(super) fn restore(&mut self, open: impl Iterator<Item = (u64, Errand)>) {
        for (number, errand) in open {
            self.count(&errand);
            self.open.insert(number, Open { errand, confirm: None, balance: 0, token: None });
        }
    }

    /// Those that are written.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Errand)> {
        let written = self.open.iter().filter(|&(&number, _)| number & VOLATILE == 0);
        written.map(|(&number, open)| (number, &open.errand))
    }
}

/// Numbered messages that came in, by who numbers them.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    numbers: BTreeSet<(LaneSource, u64, u32)>,
    /// Below it everything has come. One that was on its way for long, or is sent
    /// again by a former leader, says an older lowest number than is known here.
    floors: BTreeMap<LaneSource, u64>,
    /// The next of each lane that counts, of those that only sessions at QoS 0 have
    /// got: no record tells of them, so they are known as long as this node leads.
    passed: BTreeMap<LaneSource, u64>,
}

impl Seen {
    /// Notes a number, if it is to be noted; false: it came before. Numbers below
    /// the lane's lowest do not come again and are forgotten.
    pub(crate) fn is_new(&mut self, lane: Option<Lane>, noted: bool) -> bool {
        let Some(Lane { source, number, low, part }) = lane else { return true };
        let floor = self.floors.get(&source).copied().unwrap_or(0);
        if !noted {
            return number >= floor && !self.numbers.contains(&(source, number, part));
        }
        if low > floor {
            self.floors.insert(source, low);
        }
        let low = low.max(floor);
        while let Some(&old) = self.numbers.range((source, 0, 0)..(source, low, 0)).next() {
            self.numbers.remove(&old);
        }
        // One below the lowest has come and was confirmed, or it would be open.
        number >= low && self.numbers.insert((source, number, part))
    }

    /// The same in a cluster, of a message for all. There the errands of a partition
    /// come in order, so one that comes behind a later one is routed again, by the
    /// next leader, to who was not yet subscribed when it was routed first (ORD-1).
    pub(crate) fn is_next(&mut self, lane: Option<Lane>, noted: bool) -> bool {
        let later = lane.is_some_and(|lane| {
            let after = (lane.source, lane.number, u32::MAX)..=(lane.source, u64::MAX, u32::MAX);
            matches!(lane.source, LaneSource::Partition(_))
                && self.numbers.range(after).any(|&(.., part)| part == part::SESSIONS)
        });
        let passes = noted || self.passes(lane);
        self.is_new(lane, noted) && !later && passes
    }

    /// Whether a message that is not noted comes for the first time, and behind no
    /// later one.
    fn passes(&mut self, lane: Option<Lane>) -> bool {
        let Some(Lane { source, number, .. }) = lane else { return true };
        let next = self.passed.entry(source).or_default();
        let passes = number >= *next;
        *next = (*next).max(number.saturating_add(1));
        passes
    }

    /// A member is gone for good: what its shards have sent does not come again.
    pub(crate) fn forget(&mut self, member: Member) {
        let first = (LaneSource::Shard(ShardId::of(member, 0)), 0, 0);
        let last = LaneSource::Shard(ShardId::of(member, ShardId::LAST));
        while let Some(&old) = self.numbers.range(first..=(last, u64::MAX, u32::MAX)).next() {
            self.numbers.remove(&old);
        }
        self.floors.retain(|&source, _| source < first.0 || source > last);
        self.passed.retain(|&source, _| source < first.0 || source > last);
    }

    /// Of whose shards it knows numbers.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> {
        let numbers = self.numbers.iter().map(|(source, ..)| source);
        numbers.chain(self.floors.keys()).filter_map(|source| match source {
            LaneSource::Shard(shard) => Some(shard.member()),
            LaneSource::Partition(_) => None,
        })
    }

    /// All numbers. A node that is alone needs no more: nobody led before it.
    pub(super) fn numbers(&self) -> impl Iterator<Item = (LaneSource, u64, u32)> {
        self.numbers.iter().copied()
    }

    /// All numbers, and the lowest that may come of each lane as [`part::LOW`].
    pub(super) fn iter(&self) -> impl Iterator<Item = (LaneSource, u64, u32)> {
        let floors = self.floors.iter().map(|(&source, &low)| (source, low, part::LOW));
        self.numbers.iter().copied().chain(floors)
    }

    pub(super) fn restore(&mut self, numbers: impl Iterator<Item = (LaneSource, u64, u32)>) {
        for (source, number, part) in numbers {
            if part == part::LOW {
                self.floors.insert(source, number);
            } else {
                self.numbers.insert((source, number, part));
            }
        }
    }
}

impl Partition {
    /// Whether what this client publishes by its node might overtake errands of its.
    pub(super) fn is_behind(&self, client: u64) -> bool {
        self.is_replicated() && self.outbox.is_open_of(client)
    }

    /// An errand has waited for long to be routed: it is committed, so its publisher
    /// may forget it. What is to be retained is there first, or who subscribes next
    /// would not get it.
    pub(crate) fn relieve(&mut self, token: u32, cx: &mut Context<'_>) {
        if self.outbox.is_full() {
            return;
        }
        let Some(number) = self.outbox.tokens.get(&token) else { return };
        if let Some(open) = self.outbox.open.get_mut(number)
            && !open.errand.message.retain
        {
            cx.confirm(open.confirm.take());
        }
    }

    /// Confirms when no errand of this client is open.
    pub(super) fn await_settled(&mut self, client: u64, confirm: Confirm, cx: &mut Context<'_>) {
        if !self.outbox.is_open_of(client) {
            return cx.confirm(Some(confirm));
        }
        let one = (client, confirm);
        if !self.outbox.settling.contains(&one) {
            self.outbox.settling.push(one);
        }
    }

    /// One has been done.
    pub(super) fn errand_done(&mut self, number: u64, cx: &mut Context<'_>) {
        self.outbox.done(number);
        self.tell_settled(cx);
    }

    /// Confirms to those who wait until no errand of a client is open.
    pub(crate) fn tell_settled(&mut self, cx: &mut Context<'_>) {
        let Outbox { settling, clients, .. } = &mut self.outbox;
        settling.retain(|(client, confirm)| {
            let open = clients.contains_key(client);
            if !open {
                cx.confirm(Some(*confirm));
            }
            open
        });
    }

    /// Takes an errand on, in `apply`. `confirm`: who waits until it is done.
    pub(super) fn send_out(
        &mut self,
        errand: Errand,
        confirm: Option<Confirm>,
        cx: &mut Context<'_>,
    ) {
        let copy = errand.clone();
        let number = self.outbox.add(errand, confirm);
        if !cx.replaying {
            self.route(number, copy, cx);
        }
    }

    fn route(&mut self, number: u64, errand: Errand, cx: &mut Context<'_>) {
        let outbox = &mut self.outbox;
        if let Some(open) = outbox.open.get_mut(&number) {
            outbox.token = outbox.token.wrapping_add(1);
            open.token = Some(outbox.token);
            outbox.tokens.insert(outbox.token, number);
            cx.errands.push((self.id, outbox.token, errand));
        }
    }

    /// Routes what was not done when the node ended.
    pub(crate) fn route_again(&mut self, cx: &mut Context<'_>) {
        let open = self.outbox.open.iter().filter(|(_, open)| open.token.is_none());
        let open: Vec<_> = open.map(|(&number, open)| (number, open.errand.clone())).collect();
        for (number, errand) in open {
            self.route(number, errand, cx);
        }
    }

    /// Routes one once more, whose message somebody has not taken. Who has knows
    /// its number.
    pub(crate) fn route_anew(&mut self, token: u32, cx: &mut Context<'_>) {
        let Some(number) = self.outbox.tokens.remove(&token) else { return };
        let Some(open) = self.outbox.open.get_mut(&number) else { return };
        open.balance = 0;
        let errand = open.errand.clone();
        self.route(number, errand, cx);
    }

    /// Whether an errand is still this partition's to route: it may have waited
    /// for its time, and the partition have been reset meanwhile.
    pub(crate) fn is_under_way(&self, token: u32) -> bool {
        self.outbox.tokens.contains_key(&token)
    }

    /// How an errand's message says which it is; none: it comes once.
    pub(crate) fn lane(&self, token: u32) -> Option<Lane> {
        let number = *self.outbox.tokens.get(&token)?;
        let mut low = self.outbox.low();
        // Until its end is durable an errand may come again.
        let closing = self.replica.iter().flat_map(|replica| &replica.closing);
        if let Some(oldest) = closing.map(|closing| closing.number).min() {
            low = low.min(oldest);
        }
        let source = LaneSource::Partition(self.id.0);
        let lane = Lane { source, number, low, part: part::SESSIONS };
        Some(lane).filter(|_| number & VOLATILE == 0)
    }

    /// The errand was routed to so many who have to confirm.
    pub(crate) fn expect(&mut self, at: Millis, token: u32, confirms: u16, cx: &mut Context<'_>) {
        self.settle_errand(at, token, -i64::from(confirms), cx);
    }

    /// One of them has.
    pub(crate) fn confirmed(&mut self, at: Millis, token: u32, cx: &mut Context<'_>) {
        self.settle_errand(at, token, 1, cx);
    }

    fn settle_errand(&mut self, at: Millis, token: u32, by: i64, cx: &mut Context<'_>) {
        let Some(&number) = self.outbox.tokens.get(&token) else { return };
        let Some(open) = self.outbox.open.get_mut(&number) else { return };
        open.balance += by;
        if open.balance != 0 {
            return;
        }
        let confirm = open.confirm.take();
        cx.confirm(confirm);
        if number & VOLATILE == 0 {
            self.propose(at, Change::ErrandDone { number }, cx);
        } else {
            self.errand_done(number, cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_may_come_again_until_that_is_durable() {
        let message =
            || crate::delivery::tests::delivery("m", tidegate_codec::QoS::ExactlyOnce).message;
        let (mut outbox, mut journal) = (Outbox::default(), Journal::default());
        outbox.begin(Some(5));
        let first = outbox.add(Errand { message: message(), share: None }, None);
        outbox.begin(Some(6));
        let second = outbox.add(Errand { message: message(), share: None }, None);
        assert_eq!(outbox.low(), first);
        let place = journal.append(0, 7, false, |_| ());
        outbox.finishes(first, place, &journal);
        outbox.done(first);
        assert_eq!(outbox.low(), first, "a crash now would send it again");
        journal.take();
        journal.durable(1, &[64]);
        let place = journal.append(0, 8, false, |_| ());
        outbox.finishes(second, place, &journal);
        assert_eq!(outbox.low(), second);
    }

    #[test]
    fn a_number_that_came_is_known_until_it_cannot_come_again() {
        let mut seen = Seen::default();
        let lane = |partition, number, low| {
            let source = LaneSource::Partition(partition);
            Some(Lane { source, number, low, part: 0 })
        };
        assert!(seen.is_new(lane(1, 7, 5), true));
        assert!(!seen.is_new(lane(1, 7, 5), true), "the same again");
        assert!(seen.is_new(lane(1, 6, 5), true), "an earlier one may come later");
        assert!(seen.is_new(lane(2, 7, 0), true), "each partition counts for itself");
        assert!(seen.is_new(lane(1, 9, 8), true));
        let of = LaneSource::Partition;
        let all = [(of(1), 9, 0), (of(2), 7, 0), (of(1), 8, part::LOW)];
        assert_eq!(seen.iter().collect::<Vec<_>>(), all);
        assert!(seen.is_new(None, true));
        assert!(!seen.is_next(lane(1, 8, 5), true), "in a cluster, one behind a later one");
        assert!(seen.is_next(lane(1, 10, 5), true) && !seen.is_next(lane(1, 10, 5), true));
        seen.numbers.retain(|&(_, number, _)| number != 8 && number != 10);
        assert!(!seen.is_new(lane(1, 7, 8), true), "so late that it was confirmed before");
        let mut copy = Seen::default();
        copy.restore(seen.iter());
        for seen in [&mut seen, &mut copy] {
            let late = lane(1, 7, 5);
            assert!(!seen.is_new(late, false), "by a former leader, with what it knew");
            assert!(!seen.is_new(late, true), "by a former leader, with what it knew");
        }
    }

    #[test]
    fn at_qos_0_nothing_that_is_routed_again_comes_twice_or_behind_a_later_one() {
        let mut seen = Seen::default();
        let lane = |number| {
            let source = LaneSource::Partition(3);
            Some(Lane { source, number, low: 5, part: part::SESSIONS })
        };
        assert!(seen.is_next(lane(6), false));
        assert!(!seen.is_next(lane(5), false), "behind a later one");
        assert!(!seen.is_next(lane(6), false), "again");
        assert!(seen.is_next(lane(7), false));
        assert!(seen.is_next(lane(6), true), "somebody has to keep it by now");
        assert_eq!(seen.iter().count(), 2, "a number and the lowest of its lane");
    }

    #[test]
    fn a_member_that_is_gone_leaves_no_number_behind() {
        let mut seen = Seen::default();
        let lane = |member, shard| {
            let source = LaneSource::Shard(ShardId::of(Member(member), shard));
            Some(Lane { source, number: 7, low: 7, part: 0 })
        };
        for member in 1..4 {
            assert!(seen.is_new(lane(member, 0), true) && seen.is_new(lane(member, 63), true));
        }
        seen.forget(Member(2));
        assert!(seen.iter().all(|(source, ..)| {
            matches!(source, LaneSource::Shard(shard) if shard.member() != Member(2))
        }));
        assert!(!seen.is_new(lane(1, 63), true) && !seen.is_new(lane(3, 0), true));
        assert!(seen.is_new(lane(2, 0), true));
    }
}
