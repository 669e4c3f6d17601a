//! What MQTT promises each client, without windows, sockets or shards.

use std::collections::{BTreeMap, BTreeSet};

/// A message: a number that nobody else has.
pub type Id = u32;

/// One client id.
#[derive(Debug, Default)]
pub struct Person {
    pub online: bool,
    pub session: Option<Session>,
    /// The will of the present connection.
    pub will: Option<Will>,
}

#[derive(Clone, Copy, Debug)]
pub struct Will {
    pub id: Id,
    pub qos: u8,
    /// Seconds.
    pub delay: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subscription {
    pub qos: u8,
    pub no_local: bool,
}

/// A session, and what its client has seen of what it is owed.
#[derive(Debug, Default)]
pub struct Session {
    /// Seconds it outlives the connection; `u32::MAX` for ever.
    pub expiry: u32,
    /// Whether it was one that outlives connections when it began: such a one is
    /// written, though a later connection may say that it ends with it.
    pub written: bool,
    pub ends: Option<u64>,
    pub pending_will: Option<(u64, Will)>,
    pub subscriptions: BTreeMap<&'static str, Subscription>,
    /// QoS 1 and 2, live, in order.
    pub owed: Vec<(Id, u8)>,
    pub got: Vec<(Id, u8)>,
    /// Wills of others, in any order.
    pub wills: Vec<(Id, u8)>,
    /// QoS 0 of the present connection.
    pub owed0: Vec<Id>,
    pub got0: Vec<Id>,
    /// Retained messages for new subscriptions.
    pub retained: Vec<(Id, u8)>,
    /// Whether replays may wait: for the socket, the window, a connection.
    pub held_up: bool,
    /// Unsubscribed while a replay waited: if the filter comes back in time,
    /// so may a copy with the old options.
    pub loose: bool,
    /// Those that may still come, or not.
    pub maybe_retained: Vec<(Id, u8)>,
    /// Packet ids whose exchange the client has not finished, with their message.
    pub open: BTreeMap<u16, (Id, u8)>,
    /// QoS 2 ids that the client has taken.
    pub taken: BTreeSet<u16>,
}

/// All clients, and the retained messages.
#[derive(Debug, Default)]
pub struct Model {
    pub people: Vec<Person>,
    pub retained: BTreeMap<&'static str, (Id, u8, usize)>,
    /// Messages given to the group: how often they may be delivered at most.
    pub shared: BTreeMap<Id, u32>,
    pub wills_fired: u64,
    pub will_ids: BTreeSet<Id>,
}

pub const GROUP: &str = "$share/g/s/#";
const WILL_TOPIC: &str = "a/b";

impl Model {
    /// A publish reaches every session that is there.
    pub fn publish(&mut self, from: usize, topic: &'static str, id: Id, qos: u8, retain: bool) {
        let replaced = match retain {
            true => self.retained.insert(topic, (id, qos, from)).map(|(old, _, _)| old),
            false => None,
        };
        let mut members = 0;
        for (who, person) in self.people.iter_mut().enumerate() {
            let Some(session) = &mut person.session else { continue };
            if session.subscriptions.contains_key(GROUP) && topic.starts_with("s/") {
                members += 1;
            }
            let matching: Vec<Subscription> = session
                .subscriptions
                .iter()
                .filter(|(filter, _)| tidegate_codec::matches(filter, topic))
                .map(|(_, s)| *s)
                .collect();
            if retain && session.held_up {
                // A replay that waits may find the new value instead of an old one.
                // It has the options of its own SUBSCRIBE, which may have been replaced.
                let found = matching.first().map_or(0..0, |_| 0..qos + 1).map(|qos| (id, qos));
                session.maybe_retained.extend(found);
                // And an old value that it has not found yet is gone.
                let gone = session.retained.extract_if(.., |(old, _)| Some(*old) == replaced);
                session.maybe_retained.extend(gone);
            }
            // One copy for overlapping filters, withheld only if all say No Local.
            if who == from && matching.iter().all(|s| s.no_local) {
                continue;
            }
            let Some(best) = matching.iter().map(|s| s.qos.min(qos)).max() else { continue };
            if self.will_ids.contains(&id) {
                // Two wills that are due at once come in any order.
                if best > 0 || person.online {
                    session.wills.push((id, best));
                }
            } else if best > 0 {
                session.owed.push((id, best));
            } else if person.online {
                session.owed0.push(id);
            }
        }
        if members > 0 {
            self.shared.insert(id, 1);
        }
    }

    /// A session is over: what the group had given to it may go to another.
    pub fn end_session(&mut self, who: usize) -> Option<Will> {
        let session = self.people[who].session.take()?;
        if session.subscriptions.contains_key(GROUP) {
            self.member_left();
        }
        session.pending_will.map(|(_, will)| will)
    }

    /// What was with a member may be lost (QoS 2, or no member is left) or be
    /// delivered once more (QoS 1).
    pub fn member_left(&mut self) {
        for most in self.shared.values_mut() {
            *most += 1;
        }
    }

    pub fn fire(&mut self, who: usize, will: Will) {
        self.wills_fired += 1;
        self.will_ids.insert(will.id);
        self.publish(who, WILL_TOPIC, will.id, will.qos, false);
    }

    /// The connection of a client is over. `clean` drops the will; `next` says
    /// how the client that takes over starts.
    pub fn disconnect(&mut self, who: usize, now: u64, clean: bool, next: Option<bool>) {
        let person = &mut self.people[who];
        if !person.online {
            return;
        }
        person.online = false;
        let will = person.will.take().filter(|_| !clean);
        let Some(session) = &mut person.session else { return };
        session.owed0.clear();
        session.got0.clear();
        // QoS 0 on its way is lost, or what was not read yet comes later.
        session.wills.retain(|(_, qos)| *qos > 0);
        let lost = session.retained.iter().copied().filter(|(_, qos)| *qos == 0);
        session.maybe_retained.extend(lost);
        session.retained.retain(|(_, qos)| *qos > 0);
        let expiry = session.expiry;
        if expiry == 0 {
            self.end_session(who);
            if let Some(will) = will {
                self.fire(who, will);
            }
            return;
        }
        if expiry != u32::MAX {
            session.ends = Some(now + u64::from(expiry) * 1000);
        }
        match (will, next) {
            (Some(will), Some(true)) => {
                self.end_session(who);
                self.fire(who, will);
            }
            (Some(will), None) if will.delay > 0 => {
                let due = now + u64::from(will.delay.min(expiry)) * 1000;
                session.pending_will = Some((due, will));
            }
            (Some(will), Some(false)) if will.delay > 0 => {}
            (Some(will), Some(false)) => {
                // The session goes on at once: its new connection gets it too.
                self.people[who].online = true;
                self.fire(who, will);
            }
            (Some(will), None) => self.fire(who, will),
            (None, _) => {}
        }
    }

    /// The node ends: sessions that end with their connection are gone and
    /// leave nothing; of the others the connection ends without a word.
    pub fn crash(&mut self, now: u64) {
        self.wills_fired = 0; // a counter of the node's, which is new
        let mut online = Vec::new();
        for (who, person) in self.people.iter_mut().enumerate() {
            if std::mem::replace(&mut person.online, false) {
                online.push(who);
            }
            if let Some(session) = &mut person.session
                && session.held_up
            {
                // A replay that had not ended begins again from its beginning.
                session.loose = true;
            }
        }
        for &who in &online {
            if self.people[who].session.as_ref().is_some_and(|session| !session.written) {
                self.people[who].will = None;
                self.end_session(who);
            }
        }
        for who in online {
            if self.people[who].session.is_some() {
                self.people[who].online = true;
                self.disconnect(who, now, false, None);
            }
        }
    }

    /// A client is connected; whether its session was there.
    pub fn connect(&mut self, who: usize, now: u64, clean: bool, expiry: u32) -> bool {
        self.disconnect(who, now, false, Some(clean));
        if clean && let Some(will) = self.end_session(who) {
            self.fire(who, will);
        }
        let person = &mut self.people[who];
        let present = person.session.is_some();
        let session = person.session.get_or_insert_default();
        session.written |= !present && expiry > 0;
        session.expiry = expiry;
        session.ends = None;
        session.pending_will = None;
        person.online = true;
        present
    }

    /// Time passes up to `now`: wills and sessions whose time has come.
    pub fn advance(&mut self, now: u64) {
        loop {
            let next = self
                .people
                .iter()
                .enumerate()
                .filter(|(_, person)| !person.online)
                .filter_map(|(who, person)| {
                    let session = person.session.as_ref()?;
                    let will = session.pending_will.map(|(due, _)| (due, 0, who));
                    let end = session.ends.map(|due| (due, 1, who));
                    will.into_iter().chain(end).min()
                })
                .filter(|(due, _, _)| *due <= now)
                .min();
            let Some((_, what, who)) = next else { return };
            let pending = match what {
                0 => self.people[who].session.as_mut().and_then(|s| s.pending_will.take()),
                _ => self.end_session(who).map(|will| (0, will)),
            };
            if let Some((_, will)) = pending {
                self.fire(who, will);
            }
        }
    }
}
