//! The last stage of a memory shortage: who takes the least of what waits for
//! it goes first.
//!
//! In steps of bounded work. Clients for which little waits are never touched.

use tidegate_codec::{ReasonCode, Version};

use super::Shard;
use crate::conn::{Conn, Phase};
use crate::counters::CloseReason;
use crate::ids::Millis;
use crate::pressure::{SHED_BYTES_MIN, Stage, tight};

/// Between two steps.
const STEP_MS: Millis = 10;
/// Connections, and sessions of a partition, looked at in one step.
const LOOKS_MAX: usize = 4_096;
/// Connections ended in one step, the worst of those looked at.
const ENDS_MAX: usize = 64;

impl Shard {
    /// When the next step is due; none while memory is not that short.
    pub(super) fn shed_due(&self) -> Option<Millis> {
        (self.node.pressure() == Stage::Shed).then_some(self.shed_due)
    }

    /// One step, if it is due.
    pub(super) fn shed(&mut self, now: Millis) {
        if self.shed_due().is_none_or(|due| due > now) {
            return;
        }
        self.shed_due = now + STEP_MS;
        let mut worst: Vec<(u64, u32)> = Vec::new();
        let slots = self.conns.slots();
        for _ in 0..LOOKS_MAX.min(slots as usize) {
            let slot = self.shed_next % slots;
            self.shed_next = (slot + 1) % slots;
            let Some(conn) = self.conns.at(slot).filter(|conn| conn.phase == Phase::Live) else {
                continue;
            };
            let waits = waits_for(conn);
            if waits > SHED_BYTES_MIN {
                worst.push((waits, slot));
            }
        }
        worst.sort_unstable_by(|a, b| b.cmp(a));
        for (_, slot) in worst.into_iter().take(ENDS_MAX) {
            let Some(conn) = self.conns.at_mut(slot) else { continue };
            // What it did not take is what memory is short of.
            if conn.blocked {
                conn.output = None;
            }
            if conn.version == Version::V5 {
                self.say_disconnect(slot, ReasonCode::QuotaExceeded);
            }
            self.end(now, slot, CloseReason::Overload, true);
        }
        self.trim_sessions(now);
    }

    /// Durable sessions keep the newest of what waits for them.
    fn trim_sessions(&mut self, now: Millis) {
        let bytes = tight(&self.node.settings.limits).queue_bytes_max;
        for at in 0..self.partitions.len() {
            self.with_partition(now, at, |partition, cx| {
                partition.trim(now, LOOKS_MAX, bytes, cx);
            });
        }
    }
}

/// Bytes that wait for one client.
fn waits_for(conn: &Conn) -> u64 {
    let output = conn.output.as_ref().map_or(0, |output| output.len() as u64);
    let active = conn.active.as_ref().map_or(0, |active| {
        active.held_bytes as u64 + active.outgoing.load().1 + active.catchup.deferred_bytes()
    });
    output + active
}
