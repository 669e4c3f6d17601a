//! Messages that a partition has to see delivered: errands.
//!
//! A QoS 2 PUBLISH of a durable session, a will, a message of a shared
//! subscription whose member has left: each is committed here first, with the
//! record that it comes of, and then routed like any PUBLISH. Whoever has to
//! keep the message confirms; when all have, the errand is done. After a crash
//! what was not done is routed again, under the same number, and a partition
//! that had it already knows the number (QOS-2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Change, Context, Partition};
use crate::ids::Millis;
use crate::mail::{Lane, part};
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
}

#[derive(Debug)]
struct Open {
    errand: Errand,
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

    fn add(&mut self, errand: Errand) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Open { errand, balance: 0, token: None });
        number
    }

    pub(super) fn done(&mut self, number: u64) {
        if let Some(token) = self.open.remove(&number).and_then(|open| open.token) {
            self.tokens.remove(&token);
        }
    }

    /// The oldest that may come again.
    fn low(&self) -> u64 {
        let first = self.open.first_key_value().map(|(&number, _)| number);
        first.filter(|number| number & VOLATILE == 0).unwrap_or(0)
    }

    /// Of the next message of this partition's own.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// As it was when the state was written.
    pub(super) fn restore(&mut self, open: impl Iterator<Item = (u64, Errand)>) {
        self.open = open
            .map(|(number, errand)| (number, Open { errand, balance: 0, token: None }))
            .collect();
    }

    /// Those that are written.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Errand)> {
        let written = self.open.iter().filter(|&(&number, _)| number & VOLATILE == 0);
        written.map(|(&number, open)| (number, &open.errand))
    }
}

/// Errands that came in, by the partition that sent them.
#[derive(Debug, Default)]
pub(super) struct Seen {
    numbers: BTreeSet<(u8, u64, u32)>,
}

impl Seen {
    /// Notes a number; false: it came before. Numbers below the lane's lowest
    /// do not come again and are forgotten.
    pub(super) fn is_new(&mut self, lane: Option<Lane>) -> bool {
        let Some(Lane { partition, number, low, part }) = lane else { return true };
        while let Some(&old) = self.numbers.range((partition, 0, 0)..(partition, low, 0)).next() {
            self.numbers.remove(&old);
        }
        self.numbers.insert((partition, number, part))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u8, u64, u32)> {
        self.numbers.iter().copied()
    }

    pub(super) fn restore(&mut self, numbers: impl Iterator<Item = (u8, u64, u32)>) {
        self.numbers = numbers.collect();
    }
}

impl Partition {
    /// Takes an errand on, in `apply`.
    pub(super) fn send_out(&mut self, errand: Errand, cx: &mut Context<'_>) {
        let copy = errand.clone();
        let number = self.outbox.add(errand);
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
    pub(super) fn route_again(&mut self, cx: &mut Context<'_>) {
        let open = self.outbox.open.iter().filter(|(_, open)| open.token.is_none());
        let open: Vec<_> = open.map(|(&number, open)| (number, open.errand.clone())).collect();
        for (number, errand) in open {
            self.route(number, errand, cx);
        }
    }

    /// How an errand's message says which it is; none: it comes once.
    pub(crate) fn lane(&self, token: u32) -> Option<Lane> {
        let number = *self.outbox.tokens.get(&token)?;
        let (partition, low) = (self.id.0, self.outbox.low());
        let lane = Lane { partition, number, low, part: part::SESSIONS };
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
        if number & VOLATILE == 0 {
            self.propose(at, Change::ErrandDone { number }, cx);
        } else {
            self.outbox.done(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_came_is_known_until_it_cannot_come_again() {
        let mut seen = Seen::default();
        let lane = |partition, number, low| Some(Lane { partition, number, low, part: 0 });
        assert!(seen.is_new(lane(1, 7, 5)));
        assert!(!seen.is_new(lane(1, 7, 5)), "the same again");
        assert!(seen.is_new(lane(1, 6, 5)), "an earlier one may come later");
        assert!(seen.is_new(lane(2, 7, 0)), "each partition counts for itself");
        assert!(seen.is_new(lane(1, 9, 8)));
        assert_eq!(seen.iter().collect::<Vec<_>>(), [(1, 9, 0), (2, 7, 0)]);
        assert!(seen.is_new(None));
    }
}
