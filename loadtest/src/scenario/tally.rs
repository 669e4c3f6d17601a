//! What a worker counts. The coordinator adds the tallies of all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names of errors come from closed sets; this only makes sure.
const ERRORS_MAX: usize = 64;

/// Counts since the beginning.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Tally {
    /// TCP connects begun.
    pub(crate) attempted: u64,
    /// CONNACKs that accepted.
    pub(crate) established: u64,
    /// Established after a storm or a loss.
    pub(crate) reconnected: u64,
    /// Established again, with the session that was left.
    pub(crate) resumed: u64,
    /// CONNACKs that refused.
    pub(crate) refused: u64,
    /// Attempts that ended without a CONNACK.
    pub(crate) failed: u64,
    /// Established, then lost unasked.
    pub(crate) lost: u64,
    /// Went on purpose.
    pub(crate) left: u64,
    /// Went where a server sent them.
    pub(crate) followed: u64,
    /// Takeovers that are not over, right now.
    pub(crate) taking_over: u64,
    /// Connections that are up and subscribed, right now.
    pub(crate) up: u64,
    /// Handshakes under way, right now.
    pub(crate) connecting: u64,
    /// PINGREQs sent.
    pub(crate) pings: u64,
    /// PINGRESPs received.
    pub(crate) pongs: u64,
    /// Messages published.
    pub(crate) published: u64,
    /// Those that are to be acknowledged.
    pub(crate) awaited: u64,
    /// Messages acknowledged.
    pub(crate) acknowledged: u64,
    /// Deliveries the published messages call for.
    pub(crate) expected: u64,
    /// Deliveries.
    pub(crate) delivered: u64,
    /// Those of them that came for the first time.
    pub(crate) arrived: u64,
    /// Publishes sent again, after a loss.
    pub(crate) resent: u64,
    /// Messages in flight that were given up with their session.
    pub(crate) given_up: u64,
    /// Messages due and not published, because of windows and full sockets.
    pub(crate) owed: u64,
    /// Bytes of MQTT sent.
    pub(crate) sent_bytes: u64,
    /// Bytes of MQTT received.
    pub(crate) received_bytes: u64,
    /// When the last connection came up.
    pub(crate) last_up: u64,
    /// Errors by name.
    pub(crate) errors: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts an error.
    pub(crate) fn error(&mut self, name: &str) {
        if let Some(count) = self.errors.get_mut(name) {
            *count += 1;
        } else if self.errors.len() < ERRORS_MAX {
            self.errors.insert(name.to_owned(), 1);
        }
    }

    /// Adds another worker's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.attempted += other.attempted;
        self.established += other.established;
        self.reconnected += other.reconnected;
        self.resumed += other.resumed;
        self.refused += other.refused;
        self.failed += other.failed;
        self.lost += other.lost;
        self.left += other.left;
        self.followed += other.followed;
        self.taking_over += other.taking_over;
        self.up += other.up;
        self.connecting += other.connecting;
        self.pings += other.pings;
        self.pongs += other.pongs;
        self.published += other.published;
        self.awaited += other.awaited;
        self.acknowledged += other.acknowledged;
        self.expected += other.expected;
        self.delivered += other.delivered;
        self.arrived += other.arrived;
        self.resent += other.resent;
        self.given_up += other.given_up;
        self.owed += other.owed;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.last_up = self.last_up.max(other.last_up);
        for (name, count) in &other.errors {
            *self.errors.entry(name.clone()).or_default() += count;
        }
    }

    /// All errors.
    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }
}
