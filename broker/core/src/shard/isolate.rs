//! A node that is cut off from its cluster: it can keep nothing, so its clients
//! are better off elsewhere.

use tidegate_codec::ReasonCode;

use super::Shard;
use crate::counters::CloseReason;
use crate::ids::Millis;

impl Shard {
    /// Whether the node is cut off: nobody new comes in while it is.
    pub fn isolate(&mut self, isolated: bool) {
        self.isolated = isolated;
    }

    /// Ends up to `n` connections of a node that is cut off (5.0: Use another
    /// server); how many are left.
    pub fn send_away(&mut self, now: Millis, n: usize) -> usize {
        self.transit.leave();
        self.end_some(now, n, ReasonCode::UseAnotherServer, CloseReason::Moved);
        self.settle(now);
        self.connections()
    }
}
