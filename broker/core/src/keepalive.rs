//! Keep alive without a timer a packet.
//!
//! A connection is in one slot of a wheel. When the slot is due the shard looks
//! when it last heard of the connection, and puts it into the slot where it
//! would be due next; a packet only writes a number. Costs eight bytes a
//! connection in the wheel.

use crate::ids::Millis;

/// Milliseconds a tick.
pub(crate) const TICK_MS: Millis = 250;
const SLOTS: usize = 512;

/// The tick of a time.
#[inline]
pub(crate) fn tick_of(now: Millis) -> u32 {
    (now / TICK_MS) as u32
}

/// Which connections to look at in which tick.
#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Box<[Vec<Watched>]>,
    /// The next tick to look at.
    next: u32,
    /// No slot before this tick holds anything.
    soonest: u32,
    entries: usize,
}

/// A connection's slot and generation: an entry outlives its connection, and
/// must not be taken for the slot's next tenant.
pub(crate) type Watched = (u32, u32);

impl Wheel {
    pub(crate) fn new(now: Millis) -> Wheel {
        Wheel {
            slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            next: tick_of(now) + 1,
            soonest: 0,
            entries: 0,
        }
    }

    /// Looks at `connection` at `due` or, when that is beyond the wheel, at its rim.
    pub(crate) fn insert(&mut self, connection: Watched, due: u32) {
        let ahead = (due.saturating_sub(self.next) as usize).min(SLOTS - 1);
        let slot = (self.next as usize + ahead) % SLOTS;
        self.slots[slot].push(connection);
        let tick = self.next + ahead as u32;
        self.soonest = if self.entries == 0 { tick } else { self.soonest.min(tick) };
        self.entries += 1;
    }

    /// The connections of the next tick, if it has come.
    pub(crate) fn due(&mut self, now: Millis) -> Option<Vec<Watched>> {
        if self.next > tick_of(now) {
            return None;
        }
        if self.entries == 0 || self.soonest > tick_of(now) {
            self.next = tick_of(now) + 1;
            return None;
        }
        self.next = self.next.max(self.soonest);
        let slot = self.next as usize % SLOTS;
        self.next += 1;
        let due = std::mem::take(&mut self.slots[slot]);
        self.entries -= due.len();
        self.soonest = (0..SLOTS as u32)
            .map(|ahead| self.next + ahead)
            .find(|&tick| !self.slots[tick as usize % SLOTS].is_empty())
            .unwrap_or(self.next);
        Some(due)
    }

    /// When to look next; `None` while the wheel is empty.
    #[inline]
    pub(crate) fn next_due(&self) -> Option<Millis> {
        (self.entries > 0).then(|| Millis::from(self.soonest.max(self.next)) * TICK_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_looked_at_when_due_and_never_early() {
        let mut wheel = Wheel::new(0);
        wheel.insert((7, 0), 40);
        wheel.insert((8, 0), 100_000);
        assert_eq!(wheel.next_due(), Some(40 * TICK_MS));
        let mut seen = Vec::new();
        for now in (0..=41 * TICK_MS).step_by(50) {
            while let Some(due) = wheel.due(now) {
                seen.extend(due.into_iter().map(|c| (c.0, tick_of(now))));
            }
        }
        assert_eq!(seen, [(7, 40)]);
        assert!(wheel.next_due().is_some(), "8 waits at the rim");
    }
}
