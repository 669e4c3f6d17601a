//! In which phase of its life a node is.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// The phases, in the order in which a node passes through them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Not all listeners are open yet.
    Starting,
    /// Clients are welcome.
    Ready,
    /// Asked to stop: no new clients, and those that are here are asked to go.
    Draining,
    /// No client is left.
    Drained,
}

impl Phase {
    /// The phase in a word.
    pub fn label(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Drained => "drained",
        }
    }
}

/// The phase that the runtime sets and the admin port tells.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    phase: AtomicU8,
}

impl Default for Health {
    fn default() -> Health {
        Health { started: Instant::now(), phase: AtomicU8::new(Phase::Starting as u8) }
    }
}

impl Health {
    /// The present phase.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            2 => Phase::Draining,
            _ => Phase::Drained,
        }
    }

    /// Enters a phase. There is no way back: an earlier one changes nothing, so
    /// that 'ready' cannot overtake a drain that began during the start.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// Time since the node began to start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_not_undone_by_a_late_ready() {
        let health = Health::default();
        assert_eq!(health.phase(), Phase::Starting);
        health.enter(Phase::Draining);
        health.enter(Phase::Ready);
        assert_eq!(health.phase(), Phase::Draining);
        health.enter(Phase::Drained);
        assert_eq!(health.phase(), Phase::Drained);
    }
}
