//! Member numbers: a small number for each life of a node, in which shards,
//! connections and sessions name whose they are.
//!
//! A number that is given twice would let a dead process's claim look like a
//! living one's. So they are given in turn, and one whose life is over rests:
//! its claims have ended and its wills have fired long before it comes again.
//! A cluster whose nodes start so often that none is free takes nobody in for a
//! while.

use std::collections::BTreeMap;

use crate::ids::{Member, UnixMillis};
use crate::limits::{MEMBER_REST_MS, MEMBERS_MAX};
use crate::wire::{DecodeError, Reader, Writer};

/// The numbers that were given.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Numbers {
    /// The one that was given last.
    last: u16,
    /// Those whose life is over, and when it was.
    resting: BTreeMap<Member, UnixMillis>,
}

impl Numbers {
    /// The number that the next life gets; none: all are in use or at rest.
    pub(super) fn next(&self, at: UnixMillis, in_use: impl Fn(Member) -> bool) -> Option<Member> {
        let rests = |number| {
            let since = self.resting.get(&number);
            since.is_some_and(|since| at.saturating_sub(*since) < MEMBER_REST_MS)
        };
        let turn = (1..=MEMBERS_MAX).map(|step| (self.last + step - 1) % MEMBERS_MAX + 1);
        turn.map(Member).find(|number| !in_use(*number) && !rests(*number))
    }

    pub(super) fn give(&mut self, number: Member) {
        self.last = number.0;
        self.resting.remove(&number);
    }

    pub(super) fn rest(&mut self, number: Member, at: UnixMillis) {
        self.resting.insert(number, at);
    }

    pub(super) fn write(&self, to: &mut Writer) {
        to.u16(self.last);
        to.count(self.resting.len());
        for (number, since) in &self.resting {
            to.u16(number.0);
            to.u64(*since);
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Numbers, DecodeError> {
        let last = from.u16("member number")?;
        if last > MEMBERS_MAX {
            return Err(DecodeError::Unknown { what: "member number", value: last.into() });
        }
        let len = from.count("member numbers", MEMBERS_MAX.into(), 10)?;
        let mut resting = BTreeMap::new();
        for _ in 0..len {
            let number = read_number(from)?;
            super::snapshot::in_order(&resting, &number, "member numbers")?;
            resting.insert(number, from.u64("since")?);
        }
        Ok(Numbers { last, resting })
    }
}

pub(super) fn read_number(from: &mut Reader<'_>) -> Result<Member, DecodeError> {
    let number = from.u16("member number")?;
    if !(1..=MEMBERS_MAX).contains(&number) {
        return Err(DecodeError::Unknown { what: "member number", value: number.into() });
    }
    Ok(Member(number))
}
