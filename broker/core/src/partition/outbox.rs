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

/// The errands of a partition.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    next: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    errand: Errand,
    /// Confirmations that came, less those that were expected.
    balance: i64,
    /// Whether it was routed since the start of the node.
    routed: bool,
}

impl Outbox {
    fn add(&mut self, errand: Errand) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number, Open { errand, balance: 0, routed: false });
        number
    }

    pub(super) fn done(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// The oldest that may come again.
    fn low(&self) -> u64 {
        self.open.first_key_value().map_or(self.next, |(&number, _)| number)
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// As it was when the state was written.
    pub(super) fn restore(&mut self, next: u64, open: impl Iterator<Item = (u64, Errand)>) {
        self.next = next;
        self.open = open
            .map(|(number, errand)| (number, Open { errand, balance: 0, routed: false }))
            .collect();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Errand)> {
        self.open.iter().map(|(&number, open)| (number, &open.errand))
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
        if let Some(open) = self.outbox.open.get_mut(&number) {
            open.routed = true;
        }
        cx.errands.push((self.id, number, errand));
    }

    /// Routes what was not done when the node ended.
    pub(super) fn route_again(&mut self, cx: &mut Context<'_>) {
        let open = self.outbox.open.iter().filter(|(_, open)| !open.routed);
        let open: Vec<_> = open.map(|(&number, open)| (number, open.errand.clone())).collect();
        for (number, errand) in open {
            self.route(number, errand, cx);
        }
    }

    /// How an errand's message says which it is.
    pub(crate) fn lane(&self, number: u64) -> Lane {
        Lane { partition: self.id.0, number, low: self.outbox.low(), part: part::SESSIONS }
    }

    /// The errand was routed to so many who have to confirm.
    pub(crate) fn expect(&mut self, at: Millis, number: u64, confirms: u16, cx: &mut Context<'_>) {
        if let Some(open) = self.outbox.open.get_mut(&number) {
            open.balance -= i64::from(confirms);
            if open.balance == 0 {
                self.propose(at, Change::ErrandDone { number }, cx);
            }
        }
    }

    /// One of them has; `token` is the end of the errand's number.
    pub(crate) fn confirmed(&mut self, at: Millis, token: u32, cx: &mut Context<'_>) {
        let low = self.outbox.low();
        let number = low + u64::from(token.wrapping_sub(low as u32));
        if let Some(open) = self.outbox.open.get_mut(&number) {
            open.balance += 1;
            if open.balance == 0 {
                self.propose(at, Change::ErrandDone { number }, cx);
            }
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
