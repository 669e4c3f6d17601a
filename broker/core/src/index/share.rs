//! Shared subscriptions: each message goes to one member of the group.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::chunks::{Chunks, Keyed};
use super::subscriber::Options;
use super::subscriptions::is_of;
use crate::ids::{PartitionId, SessionKey, ShardId};

/// A session in a share group. Its owner keeps the same `Arc` and writes the
/// two atomics; whoever routes a message reads them.
#[derive(Debug)]
pub struct Member {
    /// Whose membership it is.
    pub session: SessionKey,
    /// What it asks for; `no_local` is never set [MQTT-3.8.3-4].
    pub options: Options,
    /// The subscription identifier, 0 is none.
    pub subscription_id: u32,
    /// Messages given to the member and not yet settled. [`ShareGroup::pick`]
    /// reads it; counting is for those who send and settle.
    pub outstanding: AtomicU32,
    /// Whether the session has a connection.
    pub online: AtomicBool,
    /// Of a remote: when it was said.
    pub(super) mark: AtomicU32,
}

impl Member {
    /// Online, with nothing outstanding.
    pub fn new(session: SessionKey, options: Options, subscription_id: u32) -> Member {
        Member {
            session,
            options,
            subscription_id,
            outstanding: AtomicU32::new(0),
            online: AtomicBool::new(true),
            mark: AtomicU32::new(0),
        }
    }
}

impl Keyed for Arc<Member> {
    type Key = SessionKey;
    const CHUNK: usize = 64;

    fn key(&self) -> SessionKey {
        self.session
    }
}

/// The members of `$share/NAME/FILTER`, as they were when the route was made.
pub struct ShareGroup {
    name: Arc<str>,
    filter: Arc<str>,
    members: Chunks<Arc<Member>>,
    /// Where the next pick begins to look.
    turn: AtomicU32,
}

impl ShareGroup {
    /// Members that a pick looks at before it takes the best online one: a
    /// group of thousands must not cost thousands of cache misses a message.
    pub const LOOK_MAX: usize = 128;

    /// Without members.
    pub(crate) fn new(name: &str, filter: &Arc<str>) -> ShareGroup {
        ShareGroup {
            name: name.into(),
            filter: Arc::clone(filter),
            members: Chunks::new(),
            turn: AtomicU32::new(0),
        }
    }

    /// NAME.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn name_shared(&self) -> &Arc<str> {
        &self.name
    }

    /// FILTER.
    pub fn filter(&self) -> &Arc<str> {
        &self.filter
    }

    /// How many members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether nobody is left; a route never carries such a group.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All members, ordered by session.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.iter_from(0)
    }

    /// The membership of `session`.
    pub fn member(&self, session: SessionKey) -> Option<&Arc<Member>> {
        self.members.find(session)
    }

    /// Whether members of this node are of this partition, or, without one, end
    /// with their connection. A few looks a shard, however many members there are.
    pub(super) fn has(&self, of: Option<PartitionId>) -> bool {
        let first = SessionKey { shard: ShardId(0), durable: false, slot: 0, generation: 0 };
        let begin = of.map_or(0, |partition| partition.session_slot(0));
        let mut from = first;
        loop {
            let Some(member) = self.members.get(self.members.place_of(from)) else { return false };
            let key = member.session;
            if is_of(of, key) {
                return true;
            }
            let table = (key.shard, key.durable);
            from = match (key.durable, of) {
                (false, Some(_)) => SessionKey { durable: true, slot: begin, ..first },
                (false, None) => SessionKey { durable: true, slot: u32::MAX, ..first },
                (true, Some(_)) if key.slot < begin => {
                    SessionKey { durable: true, slot: begin, ..first }
                }
                (true, Some(_) | None) => {
                    let Some(next) = key.shard.0.checked_add(1) else { return false };
                    from = SessionKey { shard: ShardId(next), ..first };
                    continue;
                }
            };
            from.shard = table.0;
        }
    }

    /// Who gets the next message: online before offline, then the one with
    /// the least outstanding, then in turn. `not` is passed over.
    pub fn pick(&self, not: Option<SessionKey>) -> Option<&Arc<Member>> {
        self.pick_where(|member| Some(member.session) != not)
    }

    /// [`pick`](ShareGroup::pick) among those that `fit`.
    pub fn pick_where(&self, mut fit: impl FnMut(&Member) -> bool) -> Option<&Arc<Member>> {
        let len = self.members.len();
        let start = (self.turn.load(Ordering::Relaxed) as usize).checked_rem(len)?;
        let mut best: Option<(bool, u32, usize, &Arc<Member>)> = None;
        let round = self.members.iter_from(start).chain(self.members.iter_from(0)).take(len);
        for (step, member) in round.enumerate() {
            if step >= ShareGroup::LOOK_MAX && best.is_some_and(|(offline, ..)| !offline) {
                break;
            }
            if !fit(member) {
                continue;
            }
            let offline = !member.online.load(Ordering::Relaxed);
            let outstanding = member.outstanding.load(Ordering::Relaxed);
            if best.is_none_or(|(o, n, ..)| (offline, outstanding) < (o, n)) {
                best = Some((offline, outstanding, start + step, member));
            }
            if !offline && outstanding == 0 {
                break;
            }
        }
        let (_, _, index, member) = best?;
        // Racing shards may take the same turn; the outstanding counts even it out.
        self.turn.store(((index + 1) % len) as u32, Ordering::Relaxed);
        Some(member)
    }

    /// The member with the greatest weight; one without has none.
    pub fn pick_heaviest(&self, weight: impl Fn(&Member) -> Option<u64>) -> Option<&Arc<Member>> {
        let weighed = self.members.iter_from(0).filter_map(|m| Some((weight(m)?, m)));
        weighed.max_by_key(|(weight, _)| *weight).map(|(_, member)| member)
    }

    /// Adds or replaces. Returns whether the session was new.
    pub(super) fn join(&mut self, member: Arc<Member>) -> bool {
        self.members.insert(member, |old, new| *old = new)
    }

    pub(super) fn leave(&mut self, session: SessionKey) -> bool {
        self.members.remove(session).is_some()
    }
}

impl Clone for ShareGroup {
    fn clone(&self) -> ShareGroup {
        ShareGroup {
            name: Arc::clone(&self.name),
            filter: Arc::clone(&self.filter),
            members: self.members.clone(),
            turn: AtomicU32::new(self.turn.load(Ordering::Relaxed)),
        }
    }
}
