//! How long messages and CONNECTs are on their way, without a clock.
//!
//! The shell says when a turn began. A message read in that turn carries this
//! stamp through mail and long fan-outs; its deliveries are counted by stamp,
//! and after the flush the shell asks what was counted and looks at its clock
//! once. So a delivery costs an addition, not a reading of the clock.
//!
//! Timed is what the broker is answerable for: from a PUBLISH to the deliveries
//! that go straight on. A message that had to wait for its receiver (offline,
//! its window full, its socket not writable, retained messages in front of it)
//! is not timed when it leaves at last, nor are retained messages and wills.

use std::num::NonZeroU32;

use tidegate_codec::QoS;

pub use crate::counters::{Scope, Stage};

/// Sorts of deliveries told apart in one turn; further ones count as the last.
const EARLIER_MAX: usize = 32;
/// CONNECTs timed in one turn; further ones are not.
const REACHED_MAX: usize = 1_024;

/// A moment: microseconds of the shell's clock, cut to 32 bits, so that two of
/// them compare within the hour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp(NonZeroU32);

impl Stamp {
    /// From nanoseconds of the shell's clock.
    #[inline]
    pub fn of_nanos(nanos: u64) -> Stamp {
        Stamp::of_bits((nanos / 1_000) as u32).unwrap_or(Stamp(NonZeroU32::MIN))
    }

    /// Microseconds since an earlier stamp.
    #[inline]
    pub fn micros_since(self, earlier: Stamp) -> u32 {
        self.0.get().wrapping_sub(earlier.0.get())
    }

    pub(crate) fn of_bits(bits: u32) -> Option<Stamp> {
        NonZeroU32::new(bits).map(Stamp)
    }

    pub(crate) fn bits(self) -> u32 {
        self.0.get()
    }
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Origin {
    pub(crate) read_at: Stamp,
    pub(crate) scope: Scope,
}

/// Deliveries of messages with the same origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Passed {
    /// When the turn began that read their PUBLISHes.
    pub read_at: Stamp,
    /// Whether they came by another shard.
    pub scope: Scope,
    /// How many, by the QoS of the delivery.
    pub counts: [u32; 3],
}

/// A connection that has come so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reached {
    /// Its slot.
    pub slot: u32,
    /// When the turn began that accepted it.
    pub accepted_at: Stamp,
    /// How far.
    pub stage: Stage,
    /// Whether it has taken a session over from a live connection.
    pub took_over: bool,
}

/// What is timed in the present turn.
#[derive(Debug, Default)]
pub(crate) struct Transit {
    turn: Option<Stamp>,
    /// Whether the message at hand is timed.
    live: bool,
    at_hand: Option<Passed>,
    earlier: Vec<Passed>,
    reached: Vec<Reached>,
}

impl Transit {
    /// A turn begins.
    #[inline]
    pub(crate) fn begin(&mut self, at: Stamp) {
        self.turn = Some(at);
    }

    /// When the turn began; none under a shell that does not time.
    #[inline]
    pub(crate) fn turn(&self) -> Option<Stamp> {
        self.turn
    }

    /// What follows comes of a PUBLISH from a socket of this shard.
    #[inline]
    pub(crate) fn enter_local(&mut self) {
        self.enter(self.turn.map(|read_at| Origin { read_at, scope: Scope::Local }));
    }

    /// What follows comes of mail, with the stamp that it carries.
    #[inline]
    pub(crate) fn enter_mail(&mut self, read_at: Option<Stamp>) {
        self.enter(read_at.map(|read_at| Origin { read_at, scope: Scope::Remote }));
    }

    /// What follows comes of a message with this origin; none: is not timed.
    #[inline]
    pub(crate) fn enter(&mut self, origin: Option<Origin>) {
        self.live = origin.is_some();
        let Some(Origin { read_at, scope }) = origin else { return };
        if self.at_hand.is_none_or(|now| now.read_at != read_at || now.scope != scope) {
            self.fold();
            self.at_hand = Some(Passed { read_at, scope, counts: [0; 3] });
        }
    }

    /// What follows comes of something else.
    #[inline]
    pub(crate) fn leave(&mut self) {
        self.live = false;
    }

    /// The origin of the message at hand.
    #[inline]
    pub(crate) fn origin(&self) -> Option<Origin> {
        let Passed { read_at, scope, .. } = self.at_hand?;
        self.live.then_some(Origin { read_at, scope })
    }

    /// The message at hand was given to one receiver.
    #[inline]
    pub(crate) fn count(&mut self, qos: QoS) {
        if let Some(at_hand) = &mut self.at_hand {
            at_hand.counts[qos as usize] += u32::from(self.live);
        }
    }

    /// Puts the message at hand aside.
    fn fold(&mut self) {
        let Some(passed) = self.at_hand.take() else { return };
        if passed.counts == [0; 3] {
            return;
        }
        let same = |other: &Passed| (other.read_at, other.scope) == (passed.read_at, passed.scope);
        let full = self.earlier.len() >= EARLIER_MAX;
        let into = match self.earlier.iter().position(same) {
            Some(at) => self.earlier.get_mut(at),
            None if full => self.earlier.last_mut(),
            None => None,
        };
        match into {
            Some(into) => {
                for (sum, count) in into.counts.iter_mut().zip(passed.counts) {
                    *sum += count;
                }
            }
            None => self.earlier.push(passed),
        }
    }

    /// A connection, accepted then, has come to `stage`.
    pub(crate) fn reach(
        &mut self,
        slot: u32,
        accepted_at: Option<Stamp>,
        stage: Stage,
        took_over: bool,
    ) {
        if let Some(accepted_at) = accepted_at
            && self.reached.len() < REACHED_MAX
        {
            self.reached.push(Reached { slot, accepted_at, stage, took_over });
        }
    }

    /// Tells and forgets what was counted.
    #[inline]
    pub(crate) fn take_passed(&mut self, each: impl FnMut(Passed)) {
        self.live = false;
        if self.at_hand.is_some() || !self.earlier.is_empty() {
            self.fold();
            self.earlier.drain(..).for_each(each);
        }
    }

    /// Tells and forgets which connections have come how far.
    #[inline]
    pub(crate) fn take_reached(&mut self, each: impl FnMut(Reached)) {
        self.reached.drain(..).for_each(each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Stamp {
        Stamp::of_nanos(micros * 1_000)
    }

    fn taken(transit: &mut Transit) -> Vec<Passed> {
        let mut all = Vec::new();
        transit.take_passed(|passed| all.push(passed));
        all
    }

    #[test]
    fn stamps_compare_over_the_wrap() {
        let before = at(u64::from(u32::MAX) - 4);
        assert_eq!(at(u64::from(u32::MAX) + 6).micros_since(before), 10);
    }

    #[test]
    fn deliveries_are_told_by_origin_however_they_mix() {
        let mut transit = Transit::default();
        transit.begin(at(100));
        for _ in 0..2 {
            transit.enter_local();
            transit.count(QoS::AtMostOnce);
            transit.enter_mail(Some(at(50)));
            transit.count(QoS::AtLeastOnce);
            transit.enter_mail(None);
            transit.count(QoS::ExactlyOnce);
        }
        let passed = |read_at, scope, counts| Passed { read_at, scope, counts };
        let local = passed(at(100), Scope::Local, [2, 0, 0]);
        let remote = passed(at(50), Scope::Remote, [0, 2, 0]);
        assert_eq!(taken(&mut transit), [local, remote]);
        assert_eq!(taken(&mut transit), []);
    }

    #[test]
    fn too_many_origins_lose_no_delivery() {
        let mut transit = Transit::default();
        for n in 1..=100 {
            transit.enter_mail(Some(at(n)));
            transit.count(QoS::AtMostOnce);
        }
        let all = taken(&mut transit);
        assert_eq!(all.len(), EARLIER_MAX);
        assert_eq!(all.iter().map(|passed| passed.counts[0]).sum::<u32>(), 100);
    }

    #[test]
    fn a_shell_that_does_not_time_is_told_nothing() {
        let mut transit = Transit::default();
        transit.enter_local();
        transit.count(QoS::AtMostOnce);
        assert_eq!(transit.origin(), None);
        assert_eq!(taken(&mut transit), []);
    }
}
