//! The access rules have changed: subscriptions that they no longer allow go.
//!
//! Publishing is held against the rules each time. A subscription is held
//! against them when it is made, when they change, and when its durable session
//! is resumed; in between, what was allowed flows.

use std::sync::Arc;

use super::Shard;
use crate::access::Who;
use crate::conn::{Conn, Phase};
use crate::ids::{Millis, PartitionId, SessionKey};
use crate::mail::{Kind, RecheckRequest};

/// Connections looked at in one step.
const LOOKS_MAX: u32 = 256;

impl Shard {
    /// The rules are others now. Goes on in [`Shard::work`].
    pub fn recheck(&mut self) {
        self.recheck_next = Some(0);
    }

    /// A step of it.
    pub(super) fn recheck_some(&mut self, now: Millis) {
        let Some(from) = self.recheck_next else { return };
        let slots = self.conns.slots();
        let to = from.saturating_add(LOOKS_MAX).min(slots);
        for slot in from..to {
            self.recheck_one(now, slot);
        }
        self.recheck_next = (to < slots).then_some(to);
    }

    /// Holds the subscriptions of one client against the rules.
    pub(super) fn recheck_one(&mut self, now: Millis, slot: u32) {
        let node = Arc::clone(&self.node);
        let id = self.id;
        let Some(conn) = self.conns.at_mut(slot).filter(|conn| conn.phase == Phase::Live) else {
            return;
        };
        let partition = PartitionId::of(conn.hash);
        let home = node.home(partition).unwrap_or(id);
        let session = conn.session_key(id, home, slot);
        if conn.session_durable {
            let Who { client, user } = conn.who();
            let (client, user) = (client.into(), user.map(Into::into));
            let request = RecheckRequest { session, client, user };
            return self.send_home(partition, Kind::Recheck(Box::new(request)));
        }
        let mut denied: Vec<Arc<str>> = Vec::new();
        conn.subscriptions.each(|text, _| {
            if node.denies(conn.who(), text) {
                denied.push(Arc::clone(text));
            }
        });
        if denied.is_empty() {
            return;
        }
        let counters = &node.counters[id.index()];
        counters.subscriptions_revoked.add(denied.len() as u64);
        let Conn { active, subscriptions, .. } = conn;
        for text in denied {
            if let Some(active) = active {
                active.catchup.forget(&text);
            }
            subscriptions.unsubscribe(session, &text, Some(&node.index), counters);
        }
        self.release_deferred(now, slot);
    }

    /// The same for a durable session of this shard.
    pub(super) fn recheck_session(&mut self, now: Millis, request: &RecheckRequest) {
        let RecheckRequest { session, client, user } = request;
        let who = Who { client, user: user.as_deref() };
        let SessionKey { slot, .. } = *session;
        let at = self.local_number(PartitionId::split(slot).0);
        self.with_partition(now, at, |partition, cx| partition.recheck(now, *session, who, cx));
    }
}
