//! Replays that are on their way between nodes, where they may be lost.
//!
//! The shard of a replay's owner keeps a copy of each until it is back. One that
//! is not back in time is given back to its owner as it was, who asks again; what
//! is then still found of it is of an earlier leg, and not taken. Each time in a
//! row it gets twice the time, so that over a slow link it is back at last. A node
//! that is alone keeps none.

use std::collections::BTreeMap;

use crate::ids::{Millis, PartitionId, SessionKey};
use crate::limits::ASK_AGAIN_MS;
use crate::mail::Replay;

/// As often the time that a batch gets is doubled.
const DOUBLINGS_MAX: u8 = 5;

/// Bounded by the replays that a session may have on their way.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// By owner and serial.
    away: BTreeMap<(SessionKey, u64), (Replay, Millis)>,
    /// Nothing is overdue before this.
    due: Millis,
}

impl Asked {
    /// A replay leaves.
    pub(crate) fn leave(&mut self, now: Millis, replay: &mut Replay) {
        replay.leg = replay.leg.wrapping_add(1);
        if self.away.is_empty() {
            self.due = now + ASK_AGAIN_MS;
        }
        self.away.insert((replay.owner, replay.serial), (replay.clone(), now));
    }

    /// One is back; whether it is the one that left last.
    pub(crate) fn is_back(&mut self, replay: &Replay) -> bool {
        let key = (replay.owner, replay.serial);
        let known = self.away.get(&key).is_some_and(|(copy, _)| copy.leg == replay.leg);
        known && self.away.remove(&key).is_some()
    }

    /// When to look for those that are overdue.
    #[inline]
    pub(crate) fn due(&self) -> Option<Millis> {
        (!self.away.is_empty()).then_some(self.due)
    }

    /// Those that have been away for too long.
    pub(crate) fn overdue(&mut self, now: Millis) -> Vec<Replay> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = now + ASK_AGAIN_MS;
        let patience = |copy: &Replay| ASK_AGAIN_MS << copy.late.min(DOUBLINGS_MAX);
        let is_late = |(copy, left): &(Replay, Millis)| left + patience(copy) <= now;
        let late = self.away.extract_if(.., |_, away| is_late(away));
        late.map(|(_, (copy, _))| Replay { late: copy.late.saturating_add(1), ..copy }).collect()
    }

    /// A partition is led here no more: its sessions ask whoever leads it next. What
    /// was found for them would count as what they ask for under a later leader.
    pub(crate) fn forget(&mut self, partition: PartitionId) {
        let of =
            |owner: &SessionKey| owner.durable && PartitionId::split(owner.slot).0 == partition;
        self.away.retain(|(owner, _), _| !of(owner));
    }

    /// How many are away.
    pub(crate) fn len(&self) -> usize {
        self.away.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;
    use crate::index::Options;

    fn replay(serial: u64) -> Replay {
        Replay {
            owner: SessionKey { shard: ShardId(64), durable: false, slot: 1, generation: 1 },
            filter: "#".into(),
            left: 1,
            asked: 0,
            keeper: ShardId::default(),
            cursor: None,
            options: Options::default(),
            id: 0,
            client: 0,
            serial,
            leg: 0,
            late: 0,
        }
    }

    #[test]
    fn what_does_not_come_back_is_overdue_once_and_then_comes_too_late() {
        let mut asked = Asked::default();
        let (mut lost, mut quick) = (replay(1), replay(2));
        asked.leave(0, &mut lost);
        asked.leave(0, &mut quick);
        assert!(asked.is_back(&quick));
        assert!(!asked.is_back(&quick), "once");
        assert!(asked.overdue(ASK_AGAIN_MS - 1).is_empty());
        let mut again = asked.overdue(ASK_AGAIN_MS).remove(0);
        assert_eq!((again.serial, asked.len()), (1, 0));
        asked.leave(ASK_AGAIN_MS, &mut again);
        assert!(!asked.is_back(&lost), "an earlier leg");
        assert!(asked.is_back(&again));
    }

    #[test]
    fn what_is_late_again_gets_twice_the_time() {
        let mut asked = Asked::default();
        let (mut now, mut away) = (0, replay(1));
        for late in 0..10 {
            asked.leave(now, &mut away);
            let patience = ASK_AGAIN_MS << late.min(DOUBLINGS_MAX);
            let before = now + patience;
            while now < before - ASK_AGAIN_MS {
                now += ASK_AGAIN_MS;
                assert!(asked.overdue(now).is_empty(), "{late} times late, {now}");
            }
            now = before;
            away = asked.overdue(now).remove(0);
            assert_eq!(away.late, late + 1);
        }
    }

    #[test]
    fn what_a_partition_asked_for_is_forgotten_with_its_leadership() {
        let mut asked = Asked::default();
        let owner = |partition: u8, durable| {
            let slot = PartitionId(partition).session_slot(1);
            SessionKey { shard: ShardId(64), durable, slot, generation: 1 }
        };
        for owner in [owner(3, true), owner(4, true), owner(3, false)] {
            asked.leave(0, &mut Replay { owner, ..replay(1) });
        }
        asked.forget(PartitionId(3));
        let left: Vec<SessionKey> =
            asked.overdue(ASK_AGAIN_MS).into_iter().map(|replay| replay.owner).collect();
        assert_eq!(left, [owner(3, false), owner(4, true)]);
    }
}
