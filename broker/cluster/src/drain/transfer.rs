//! Handing a partition's leadership over.
//!
//! A target that lacks the last entry ignores the transfer, and the leader then
//! proposes nothing until an election: a failed transfer costs one. So the
//! leader stops proposing first, waits until the target has everything, and
//! gives up before it triggers if that takes longer than 50 ms.

use crate::ids::{Millis, NodeId};
use crate::limits::{PREFERRED_LEADER_AFTER_MS, TRANSFER_CATCH_UP_MS};

/// Until the target has to have become leader; an election takes no longer.
const TRIGGERED_MS: Millis = 2_500;

/// One transfer.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    target: NodeId,
    /// Proposing was stopped then.
    stopped: Millis,
    triggered: Option<Millis>,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TransferStep {
    /// The target has not matched the last entry: propose nothing, until then.
    Wait(Millis),
    /// It has: trigger the transfer, once.
    Trigger(NodeId),
    /// Triggered; propose nothing until there is a leader, or until then.
    Triggered(Millis),
    /// It took too long: propose again.
    GiveUp,
    /// Another leads.
    Done,
    /// It was triggered and came to nothing; an election will settle it.
    Failed,
}

impl Transfer {
    /// Proposing stops now.
    pub fn begin(target: NodeId, now: Millis) -> Transfer {
        Transfer { target, stopped: now, triggered: None }
    }

    /// What to do now. `last` is the last index of the leader's log, `matched`
    /// what the target is known to have; `leads`: this node still does.
    pub fn next(&mut self, last: u64, matched: u64, leads: bool, now: Millis) -> TransferStep {
        if !leads {
            return TransferStep::Done;
        }
        if let Some(triggered) = self.triggered {
            let until = triggered + TRIGGERED_MS;
            return if now < until { TransferStep::Triggered(until) } else { TransferStep::Failed };
        }
        let until = self.stopped + TRANSFER_CATCH_UP_MS;
        if now >= until {
            return TransferStep::GiveUp;
        }
        if matched < last {
            return TransferStep::Wait(until);
        }
        self.triggered = Some(now);
        TransferStep::Trigger(self.target)
    }
}

/// Whether leadership goes back to the replica that should have it: after it has
/// been in sync for 10 s without a break, and not again at once if that failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Preferred {
    since: Option<Millis>,
}

impl Preferred {
    /// To be called now and then with whether the preferred replica, which does
    /// not lead, is alive, serving and in sync.
    pub fn is_due(&mut self, in_sync: bool, now: Millis) -> bool {
        if !in_sync {
            self.since = None;
            return false;
        }
        now >= *self.since.get_or_insert(now) + PREFERRED_LEADER_AFTER_MS
    }

    /// A transfer was tried.
    pub fn tried(&mut self, now: Millis) {
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: NodeId = NodeId(2);

    #[test]
    fn it_triggers_once_the_target_has_everything() {
        let mut transfer = Transfer::begin(TARGET, 0);
        assert_eq!(transfer.next(10, 8, true, 10), TransferStep::Wait(50));
        assert_eq!(transfer.next(10, 10, true, 20), TransferStep::Trigger(TARGET));
        assert_eq!(transfer.next(10, 10, true, 30), TransferStep::Triggered(2_520));
        assert_eq!(transfer.next(10, 10, false, 40), TransferStep::Done);
    }

    #[test]
    fn it_gives_up_after_50_ms_before_it_has_cost_anything() {
        let mut transfer = Transfer::begin(TARGET, 0);
        assert_eq!(transfer.next(10, 9, true, 49), TransferStep::Wait(50));
        assert_eq!(transfer.next(10, 10, true, 50), TransferStep::GiveUp, "even if it has now");
    }

    #[test]
    fn one_that_comes_to_nothing_is_noticed() {
        let mut transfer = Transfer::begin(TARGET, 0);
        assert_eq!(transfer.next(10, 10, true, 0), TransferStep::Trigger(TARGET));
        assert_eq!(transfer.next(10, 10, true, 2_500), TransferStep::Failed);
    }

    #[test]
    fn leadership_returns_after_10_seconds_in_sync_without_a_break() {
        let mut preferred = Preferred::default();
        assert!(!preferred.is_due(true, 0));
        assert!(!preferred.is_due(true, 9_999));
        assert!(!preferred.is_due(false, 10_000));
        assert!(!preferred.is_due(true, 11_000));
        assert!(preferred.is_due(true, 21_000));
        preferred.tried(21_000);
        assert!(!preferred.is_due(true, 30_999));
        assert!(preferred.is_due(true, 31_000));
    }
}
