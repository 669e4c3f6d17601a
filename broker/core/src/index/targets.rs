//! Whom one shard has to hand a message to.

use super::chunks::{Chunks, Iter, Keyed};
use super::remote::GENERATION;
use super::subscriber::{Options, Subscriber};
use crate::ids::{PARTITIONS, PartitionId};

/// A session that takes a message; its shard and table stand on the
/// [`RouteGroup`](super::RouteGroup) around it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target {
    /// The place in the shard's table.
    pub slot: u32,
    /// Tells this tenant of the slot from the ones before.
    pub generation: u32,
    /// Merged over all the session's filters that match.
    pub options: Options,
    ids: SubscriptionIds,
}

// A fan-out to a million walks 16 MB, not 24.
const _: () = assert!(size_of::<Target>() == 16);

/// None, one, or the number of an entry in the side table of [`Targets`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct SubscriptionIds(u32);

impl SubscriptionIds {
    /// Subscription identifiers have 28 bits.
    const MANY: u32 = 1 << 31;

    fn side_entry(self) -> Option<usize> {
        (self.0 & SubscriptionIds::MANY != 0).then_some((self.0 & !SubscriptionIds::MANY) as usize)
    }
}

impl Keyed for Target {
    type Key = (u32, u32);
    const CHUNK: usize = 256;

    fn key(&self) -> (u32, u32) {
        (self.slot, self.generation)
    }
}

/// The targets of one message on one shard, each session once, ordered by slot.
///
/// A snapshot: what is subscribed later does not change it. Any index can be
/// taken up again, so that a fan-out to a million is done in steps.
#[derive(Clone)]
pub struct Targets {
    list: Chunks<Target>,
    /// Identifiers of the sessions that have more than one.
    many: Vec<Box<[u32]>>,
}

impl Targets {
    pub(super) const fn new() -> Targets {
        Targets { list: Chunks::new(), many: Vec::new() }
    }

    /// How many sessions.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The target at `index`, in a few steps whatever the length.
    pub fn get(&self, index: usize) -> Option<&Target> {
        self.list.get(index)
    }

    /// The targets from `index` on.
    pub fn iter_from(&self, index: usize) -> TargetsIter<'_> {
        TargetsIter(self.list.iter_from(index))
    }

    /// All targets.
    pub fn iter(&self) -> TargetsIter<'_> {
        self.iter_from(0)
    }

    /// How many have a lesser slot.
    pub fn place_of(&self, slot: u32) -> usize {
        self.list.place_of((slot, 0))
    }

    /// Where those of a partition, or of one before it, end.
    pub(crate) fn end_of(&self, partition: PartitionId) -> usize {
        match partition.0.checked_add(1).filter(|&next| u16::from(next) < PARTITIONS) {
            Some(next) => self.place_of(PartitionId(next).session_slot(0)),
            None => self.len(),
        }
    }

    /// The first with this slot or a greater one.
    pub(super) fn first_from(&self, slot: u32) -> Option<&Target> {
        self.get(self.place_of(slot))
    }

    /// The targets from `index` to the end of their chunk: at least one unless
    /// `index` is past the end. The fastest way through a long list.
    pub fn run_from(&self, index: usize) -> &[Target] {
        self.list.run_from(index)
    }

    /// The subscription identifiers that the copy for `target` carries. The
    /// same one twice if two matching subscriptions have it [MQTT-3.3.4-4].
    pub fn ids<'a>(&'a self, target: &'a Target) -> &'a [u32] {
        if target.generation == GENERATION {
            return &[]; // a remote's is a mark
        }
        match target.ids.side_entry() {
            Some(entry) => self.many.get(entry).map_or(&[], |ids| ids),
            None if target.ids.0 == 0 => &[],
            None => std::slice::from_ref(&target.ids.0),
        }
    }

    /// What a list of one filter keeps as identifier, or as mark.
    pub(super) fn id(&self, target: &Target) -> u32 {
        match target.ids.side_entry() {
            Some(_) => self.ids(target).first().copied().unwrap_or(0),
            None => target.ids.0,
        }
    }

    /// The one of a session.
    pub(super) fn find(&self, slot: u32, generation: u32) -> Option<&Target> {
        self.list.find((slot, generation))
    }

    /// Adds or replaces. Returns whether the session was new.
    pub(super) fn subscribe(&mut self, subscriber: &Subscriber) -> bool {
        self.list.insert(Target::from(subscriber), |old, new| *old = new)
    }

    pub(super) fn unsubscribe(&mut self, slot: u32, generation: u32) -> bool {
        self.list.remove((slot, generation)).is_some()
    }

    pub(super) fn contains(&self, slot: u32, generation: u32) -> bool {
        self.find(slot, generation).is_some()
    }

    /// Of subscribers ordered by session, in which one may stand several times.
    pub(super) fn from_sorted(subscribers: &[Subscriber]) -> Targets {
        let mut many = Vec::new();
        let mut targets: Vec<Target> = Vec::with_capacity(subscribers.len());
        for subscriber in subscribers {
            let target = Target::from(subscriber);
            match targets.last_mut() {
                Some(last) if last.key() == target.key() => {
                    merge_into(&mut many, last, target, &[]);
                }
                Some(_) | None => targets.push(target),
            }
        }
        Targets { list: Chunks::from_sorted(targets), many }
    }

    /// Takes in another filter's subscribers, each session once. A short list
    /// leaves the long one's chunks shared; two long ones are rewritten.
    pub(super) fn merge(&mut self, other: &Targets) {
        const SHORT: usize = 32;
        if other.len().saturating_mul(SHORT) < self.len() {
            for target in other.iter() {
                let Targets { list, many } = self;
                let target = match list.find(target.key()) {
                    Some(_) => *target,
                    None => moved_in(many, *target, &other.many),
                };
                list.insert(target, |ours, theirs| merge_into(many, ours, theirs, &other.many));
            }
            return;
        }
        let mut merged: Vec<Target> = Vec::with_capacity(self.len() + other.len());
        let mut theirs = other.iter().peekable();
        for ours in self.list.iter_from(0) {
            while let Some(target) = theirs.next_if(|target| target.key() < ours.key()) {
                merged.push(moved_in(&mut self.many, *target, &other.many));
            }
            let mut ours = *ours;
            if let Some(target) = theirs.next_if(|target| target.key() == ours.key()) {
                merge_into(&mut self.many, &mut ours, *target, &other.many);
            }
            merged.push(ours);
        }
        for target in theirs {
            merged.push(moved_in(&mut self.many, *target, &other.many));
        }
        self.list = Chunks::from_sorted(merged);
    }
}

impl From<&Subscriber> for Target {
    fn from(subscriber: &Subscriber) -> Target {
        Target {
            slot: subscriber.session.slot,
            generation: subscriber.session.generation,
            options: subscriber.options,
            ids: SubscriptionIds(subscriber.subscription_id & !SubscriptionIds::MANY),
        }
    }
}

/// A target with its entry of a foreign side table carried over to `many`.
fn moved_in(many: &mut Vec<Box<[u32]>>, mut target: Target, foreign: &[Box<[u32]>]) -> Target {
    if let Some(entry) = target.ids.side_entry() {
        target.ids = side(many, foreign.get(entry).cloned().unwrap_or_default());
    }
    target
}

/// Merges `other`, whose side table is `foreign`, into `target` of `many`.
fn merge_into(
    many: &mut Vec<Box<[u32]>>,
    target: &mut Target,
    other: Target,
    foreign: &[Box<[u32]>],
) {
    target.options = target.options.merge(other.options);
    if target.generation == GENERATION {
        return;
    }
    let theirs: &[u32] = match other.ids.side_entry() {
        Some(entry) => foreign.get(entry).map_or(&[], |ids| ids),
        None if other.ids.0 == 0 => return,
        None => std::slice::from_ref(&other.ids.0),
    };
    if let Some(entry) = target.ids.side_entry() {
        if let Some(ours) = many.get_mut(entry) {
            *ours = ours.iter().chain(theirs).copied().collect();
        }
        return;
    }
    target.ids = match (target.ids.0, theirs) {
        (0, [one]) => SubscriptionIds(*one),
        (0, theirs) => side(many, theirs.into()),
        (one, theirs) => side(many, std::iter::once(&one).chain(theirs).copied().collect()),
    };
}

fn side(many: &mut Vec<Box<[u32]>>, ids: Box<[u32]>) -> SubscriptionIds {
    many.push(ids);
    SubscriptionIds(SubscriptionIds::MANY | (many.len() - 1) as u32)
}

/// A walk over [`Targets`].
pub struct TargetsIter<'a>(Iter<'a, Target>);

impl<'a> Iterator for TargetsIter<'a> {
    type Item = &'a Target;

    fn next(&mut self) -> Option<&'a Target> {
        self.0.next()
    }
}
