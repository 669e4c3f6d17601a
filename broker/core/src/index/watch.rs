//! What the other nodes have to know of this one's subscriptions: which filters
//! have their first subscriber, and which have lost the last one.
//!
//! Noted under the lock of the filter's part, so that for each filter the notes
//! come in the order of the changes. Each has a number, a ticket; a SUBACK leaves
//! when the ticket of its filter has passed, that is: when every node that might
//! acknowledge a publish knows the filter. A second subscriber of a filter waits
//! for the ticket of the first, and one of a durable session for the word of its
//! partition's new leader, which announces all filters of the partition.
//!
//! A node that is alone notes nothing: a load of a flag a change.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Remote;
use super::subscriptions::Change;
use crate::hole::{self, Hole};
use crate::ids::{PartitionId, SessionKey};
use crate::limits::ROUTE_CHANGES_MAX;
use crate::mail::is_system;

/// What has changed at this node, for those who tell the others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RouteChange {
    /// A filter has its first subscriber.
    Appeared {
        /// A partition; none: of sessions that end with their connection.
        of: Option<PartitionId>,
        /// The filter, with `$share/NAME/` in front if it is a group's.
        filter: Box<str>,
    },
    /// It has lost the last one.
    Vanished {
        /// As above.
        of: Option<PartitionId>,
        /// As above.
        filter: Box<str>,
    },
    /// This node leads the partition; all that it has was said before.
    Led {
        /// Which.
        partition: PartitionId,
        /// Grows with each leader.
        index: u64,
    },
    /// It leads it no longer; what it had may vanish after this.
    Followed(PartitionId),
}

#[derive(Default)]
pub(super) struct Watch {
    on: AtomicBool,
    /// The newest ticket, the newest that was taken, and the newest that has passed.
    newest: AtomicU64,
    taken: AtomicU64,
    passed: AtomicU64,
    notes: Mutex<Notes>,
}

type Key = (Option<PartitionId>, Box<str>);

#[derive(Default)]
struct Notes {
    /// Not taken yet.
    queue: VecDeque<(u64, RouteChange)>,
    /// What appeared and has not passed, by filter and by ticket.
    recent: BTreeMap<Key, u64>,
    by_ticket: VecDeque<(u64, Key)>,
    /// Partitions whose new leader the others may not have heard of: the ticket
    /// of its word.
    led: BTreeMap<PartitionId, u64>,
}

/// A change whose consequences are to be noted.
pub(super) struct Watched<'a> {
    pub(super) of: Option<PartitionId>,
    pub(super) group: Option<&'a str>,
}

impl Watch {
    pub(super) fn begin(&self) {
        self.on.store(true, Ordering::SeqCst);
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a change of this filter concerns the others.
    pub(super) fn watched<'a>(&self, filter: &str, change: &Change<'a>) -> Option<Watched<'a>> {
        if !self.on.load(Ordering::Relaxed) {
            return None;
        }
        let (session, group) = match change {
            Change::Subscribe(subscriber) => (subscriber.session, None),
            Change::Unsubscribe(session) => (*session, None),
            Change::Join { group, member, .. } => (member.session, Some(*group)),
            Change::Leave { group, session } => (*session, Some(*group)),
        };
        // What a node says of itself stays there.
        let own = Remote::of(session).is_none() && !is_system(filter);
        own.then(|| Watched { of: partition_of(session), group })
    }

    /// A filter had, and has now, subscribers of this kind.
    pub(super) fn note(&self, watched: &Watched<'_>, filter: &str, had: bool, has: bool) {
        if had == has {
            return;
        }
        let filter: Box<str> = match watched.group {
            Some(group) => format!("$share/{group}/{filter}").into(),
            None => filter.into(),
        };
        let of = watched.of;
        let mut notes = self.notes();
        let change = match has {
            true => RouteChange::Appeared { of, filter: filter.clone() },
            false => RouteChange::Vanished { of, filter: filter.clone() },
        };
        let ticket = self.push(&mut notes, change);
        let key = (of, filter);
        if has {
            notes.recent.insert(key.clone(), ticket);
            notes.by_ticket.push_back((ticket, key));
        } else {
            notes.recent.remove(&key);
        }
    }

    pub(super) fn say(&self, change: RouteChange) {
        let mut notes = self.notes();
        let led = match change {
            RouteChange::Led { partition, .. } => Some((partition, true)),
            RouteChange::Followed(partition) => Some((partition, false)),
            RouteChange::Appeared { .. } | RouteChange::Vanished { .. } => None,
        };
        let ticket = self.push(&mut notes, change);
        match led {
            Some((partition, true)) => _ = notes.led.insert(partition, ticket),
            Some((partition, false)) => _ = notes.led.remove(&partition),
            None => {}
        }
    }

    fn push(&self, notes: &mut Notes, change: RouteChange) -> u64 {
        let ticket = self.newest.fetch_add(1, Ordering::SeqCst) + 1;
        notes.queue.push_back((ticket, change));
        ticket
    }

    pub(super) fn take(&self, most: usize) -> Vec<(u64, RouteChange)> {
        let mut notes = self.notes();
        let n = notes.queue.len().min(most);
        let taken: Vec<_> = notes.queue.drain(..n).collect();
        if let Some((ticket, _)) = taken.last() {
            self.taken.store(*ticket, Ordering::SeqCst);
        }
        taken
    }

    /// Whether there is something to take.
    #[inline]
    pub(super) fn has_changes(&self) -> bool {
        self.newest.load(Ordering::SeqCst) > self.taken.load(Ordering::SeqCst)
    }

    pub(super) fn pass(&self, ticket: u64) {
        self.passed.fetch_max(ticket, Ordering::SeqCst);
        let mut notes = self.notes();
        notes.led.retain(|_, led| *led > ticket);
        while notes.by_ticket.front().is_some_and(|(number, _)| *number <= ticket) {
            let Some((passed, key)) = notes.by_ticket.pop_front() else { break };
            // Unless it went and came again since.
            if notes.recent.get(&key) == Some(&passed) {
                notes.recent.remove(&key);
            }
        }
    }

    #[inline]
    pub(super) fn has_passed(&self, ticket: u64) -> bool {
        ticket <= self.passed.load(Ordering::SeqCst)
    }

    /// The ticket that a subscriber of this filter has to wait for; 0: none.
    pub(super) fn ticket(&self, session: SessionKey, text: &str) -> u64 {
        if !self.on.load(Ordering::Relaxed) || self.has_passed(self.newest.load(Ordering::SeqCst)) {
            return 0;
        }
        let key = (partition_of(session), Box::from(text));
        if hole::on(Hole::SecondSubscriber) {
            return self.notes().recent.remove(&key).unwrap_or(0);
        }
        let notes = self.notes();
        let first = notes.recent.get(&key).copied().unwrap_or(0);
        // What a leader finds in its partition is announced when it says that it
        // leads: who had not known of it before knows it by then.
        let led = key.0.and_then(|partition| notes.led.get(&partition)).copied().unwrap_or(0);
        first.max(led)
    }

    /// Whether so much waits for the others that no more is taken on.
    pub(super) fn is_over(&self) -> bool {
        let newest = self.newest.load(Ordering::Relaxed);
        newest.saturating_sub(self.passed.load(Ordering::Relaxed)) >= ROUTE_CHANGES_MAX
    }
}

fn partition_of(session: SessionKey) -> Option<PartitionId> {
    session.durable.then(|| PartitionId::split(session.slot).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    #[test]
    fn a_filter_that_a_new_leader_finds_is_known_when_its_word_is() {
        let watch = Watch::default();
        watch.begin();
        let partition = PartitionId(3);
        let session = SessionKey {
            shard: ShardId(0),
            durable: true,
            slot: partition.session_slot(0),
            generation: 1,
        };
        let found = Watched { of: Some(partition), group: None };
        watch.note(&found, "a/#", false, true);
        // Nothing is announced for it while its partition is not led.
        watch.pass(1);
        watch.say(RouteChange::Led { partition, index: 2 });
        let ticket = watch.ticket(session, "a/#");
        assert!(ticket > 0 && !watch.has_passed(ticket), "the others know the last leader's");
        watch.pass(ticket);
        watch.note(&Watched { of: None, group: None }, "b", false, true);
        assert_eq!(watch.ticket(session, "a/#"), 0);
    }
}
