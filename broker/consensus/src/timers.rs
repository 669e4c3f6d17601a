use std::time::Duration;

/// How often a leader says that it is there, and how long it may be silent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timers {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// A follower that has heard nothing for a random time from here…
    pub election_min: Duration,
    /// …to here asks whether it may lead.
    pub election_max: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1_000),
        }
    }
}
