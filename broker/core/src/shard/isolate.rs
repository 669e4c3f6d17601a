//! A node that sends its clients away: it is cut off from its cluster and can
//! keep nothing, or it drains and others are to serve them.

use std::sync::Arc;

use tidegate_codec::ReasonCode;

use super::Shard;
use crate::counters::CloseReason;
use crate::ids::Millis;

/// Where a node that drains sends its clients.
#[derive(Clone, Debug)]
pub struct Away {
    for_good: bool,
    /// Whose turn it is.
    next: usize,
    references: Arc<[Arc<str>]>,
}

impl Away {
    /// To these addresses in turn, which clients of 5.0 are told as Server
    /// Reference; empty: they are told none. `for_good`: this node does not come
    /// back (0x9D, else 0x9C).
    pub fn new(for_good: bool, references: Arc<[Arc<str>]>) -> Away {
        Away { for_good, next: 0, references }
    }

    /// What clients of 5.0 are told.
    pub(super) fn reason(&self) -> ReasonCode {
        match self.for_good {
            true => ReasonCode::ServerMoved,
            false => ReasonCode::UseAnotherServer,
        }
    }

    fn take_turn(&mut self) -> Option<Arc<str>> {
        let reference = self.references.get(self.next % self.references.len().max(1))?;
        self.next = self.next.wrapping_add(1);
        Some(Arc::clone(reference))
    }
}

impl Shard {
    /// Whether the node is cut off: nobody new comes in while it is.
    pub fn isolate(&mut self, isolated: bool) {
        self.isolated = isolated;
    }

    /// Ends up to `n` connections of a node that is cut off (5.0: Use another
    /// server); how many are left.
    pub fn send_away(&mut self, now: Millis, n: usize) -> usize {
        self.transit.leave();
        self.end_some(now, n, ReasonCode::UseAnotherServer, CloseReason::Moved, false);
        self.settle(now);
        self.connections()
    }

    /// Refuses new connections from now on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Ends up to `n` connections for a shutdown; how many are left. Clients that
    /// are sent away are told where to.
    pub fn disconnect_some(&mut self, now: Millis, n: usize) -> usize {
        self.transit.leave();
        let (why, close) = match &self.away {
            Some(away) => (away.reason(), CloseReason::Moved),
            None => (ReasonCode::ServerShuttingDown, CloseReason::Drain),
        };
        self.end_some(now, n, why, close, false);
        self.settle(now);
        self.connections()
    }

    /// From now on new clients are sent away, 5.0 with where to; none: they are
    /// welcome again.
    pub fn turn_away(&mut self, away: Option<Away>) {
        self.away = away;
    }

    /// Hands up to `n` clients over to where [`Shard::turn_away`] said. Their
    /// wills wait for them as if the node had died: who comes back in time has
    /// none published [MQTT-3.1.2-8].
    pub fn hand_over(&mut self, now: Millis, n: usize) {
        let Some(reason) = self.away.as_ref().map(Away::reason) else { return };
        self.transit.leave();
        // Who has not said CONNECT yet is told when it has.
        self.end_some(now, n, reason, CloseReason::Moved, true);
        self.settle(now);
    }

    /// The Server Reference that goes with this reason, if one does.
    pub(super) fn reference_for(&mut self, reason: ReasonCode) -> Option<Arc<str>> {
        match reason {
            ReasonCode::UseAnotherServer | ReasonCode::ServerMoved => {
                self.away.as_mut().and_then(Away::take_turn)
            }
            _every_other_has_none => None,
        }
    }
}
