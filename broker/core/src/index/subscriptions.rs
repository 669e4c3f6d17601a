//! All that is subscribed with one filter.
//!
//! Most filters have one subscriber, so that case is held in place: a million
//! filters cost no allocation each here. Short lists are one exact allocation,
//! rewritten at each change; long ones are split by shard and shared in chunks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::marks::Mark;
use super::remote::{NOWHERE, Remote};
use super::route::RouteGroup;
use super::share::{Member, ShareGroup};
use super::subscriber::Subscriber;
use super::targets::{Target, Targets};
use super::watch::Watched;
use crate::ids::{PartitionId, SessionKey};

#[derive(Clone, Default)]
pub(super) enum Subscriptions {
    #[default]
    None,
    One(Subscriber),
    /// Ordered by session.
    Few(Arc<[Subscriber]>),
    Many(Arc<Many>),
}

const _: () = assert!(size_of::<Subscriptions>() == 24);

#[derive(Clone, Default)]
pub(super) struct Many {
    /// Ordered by table.
    pub(super) groups: Vec<RouteGroup>,
    /// Ordered by name.
    pub(super) shares: Vec<Arc<ShareGroup>>,
}

/// What happens to one filter.
pub(super) enum Change<'a> {
    Subscribe(Subscriber),
    Unsubscribe(SessionKey),
    Join { group: &'a str, filter: &'a Arc<str>, member: Arc<Member> },
    Leave { group: &'a str, session: SessionKey },
}

impl Change<'_> {
    /// Whether it can do anything only where there is something already.
    pub(super) fn removes(&self) -> bool {
        match self {
            Change::Subscribe(_) | Change::Join { .. } => false,
            Change::Unsubscribe(_) | Change::Leave { .. } => true,
        }
    }
}

/// Whether a session is of this partition, or, without one, ends with its
/// connection; and is of this node.
pub(super) fn is_of(of: Option<PartitionId>, session: SessionKey) -> bool {
    let partition = session.durable.then(|| PartitionId::split(session.slot).0);
    partition == of && Remote::of(session).is_none()
}

impl Subscriptions {
    /// Subscribers in a short list at most.
    const FEW: usize = 32;

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Subscriptions::None => true,
            Subscriptions::One(_) | Subscriptions::Few(_) => false,
            Subscriptions::Many(many) => many.groups.is_empty() && many.shares.is_empty(),
        }
    }

    /// Whether `change` would find what it removes; true for all others.
    pub(super) fn concerns(&self, change: &Change<'_>) -> bool {
        match change {
            Change::Subscribe(_) | Change::Join { .. } => true,
            Change::Unsubscribe(session) => match self {
                Subscriptions::None => false,
                Subscriptions::One(subscriber) => subscriber.session == *session,
                Subscriptions::Few(list) => place(list, *session).is_ok(),
                Subscriptions::Many(many) => many.group(*session).is_ok_and(|at| {
                    many.groups[at].targets.contains(session.slot, session.generation)
                }),
            },
            Change::Leave { group, session } => match self {
                Subscriptions::None | Subscriptions::One(_) | Subscriptions::Few(_) => false,
                Subscriptions::Many(many) => {
                    many.share(group).is_ok_and(|at| many.shares[at].member(*session).is_some())
                }
            },
        }
    }

    /// Whether there are subscribers that the other nodes are told of under this.
    pub(super) fn has(&self, watched: &Watched<'_>) -> bool {
        let is = |session: SessionKey| is_of(watched.of, session);
        match (self, watched.group) {
            (Subscriptions::None, _) => false,
            (Subscriptions::One(only), None) => is(only.session),
            (Subscriptions::Few(list), None) => list.iter().any(|one| is(one.session)),
            (Subscriptions::One(_) | Subscriptions::Few(_), Some(_)) => false,
            (Subscriptions::Many(many), None) => many.groups.iter().any(|group| {
                let from = watched.of.map_or(0, |partition| partition.session_slot(0));
                group.targets.first_from(from).is_some_and(|target| {
                    is(SessionKey {
                        shard: group.shard,
                        durable: group.durable,
                        slot: target.slot,
                        generation: target.generation,
                    })
                })
            }),
            (Subscriptions::Many(many), Some(name)) => {
                many.share(name).is_ok_and(|at| many.shares[at].has(watched.of))
            }
        }
    }

    /// The mark of a remote, of a group if one is named.
    pub(super) fn mark(&self, group: Option<&str>, session: SessionKey) -> Option<Mark> {
        match (self, group) {
            (Subscriptions::One(only), None) => {
                (only.session == session).then_some(Mark(only.subscription_id))
            }
            (Subscriptions::Few(list), None) => {
                place(list, session).ok().map(|at| Mark(list[at].subscription_id))
            }
            (Subscriptions::Many(many), None) => {
                let targets = &many.groups[many.group(session).ok()?].targets;
                let target = targets.find(session.slot, session.generation)?;
                Some(Mark(targets.id(target)))
            }
            (Subscriptions::Many(many), Some(name)) => {
                let member = many.shares[many.share(name).ok()?].member(session)?;
                Some(Mark(member.mark.load(Ordering::Relaxed)))
            }
            (Subscriptions::None, _) | (Subscriptions::One(_) | Subscriptions::Few(_), Some(_)) => {
                None
            }
        }
    }

    /// Gives a group's member another mark, where it is; whether there is one.
    pub(super) fn remark(
        &self,
        group: Option<&str>,
        session: SessionKey,
        mark: Option<Mark>,
    ) -> bool {
        let (Subscriptions::Many(many), Some((name, mark))) = (self, group.zip(mark)) else {
            return false;
        };
        let share = many.share(name).ok().map(|at| &many.shares[at]);
        let member = share.and_then(|share| share.member(session));
        member.is_some_and(|member| {
            member.mark.store(mark.0, Ordering::Relaxed);
            true
        })
    }

    /// Calls `visit` with the group's name, if it is of one, the key and the mark
    /// of each remote.
    pub(super) fn each_remote(&self, mut visit: impl FnMut(Option<&Arc<str>>, SessionKey, Mark)) {
        let mut one = |subscriber: &Subscriber| {
            if Remote::of(subscriber.session).is_some() {
                visit(None, subscriber.session, Mark(subscriber.subscription_id));
            }
        };
        match self {
            Subscriptions::None => {}
            Subscriptions::One(only) => one(only),
            Subscriptions::Few(list) => list.iter().for_each(one),
            Subscriptions::Many(many) => {
                many.remotes().for_each(|subscriber| one(&subscriber));
                for share in &many.shares {
                    for member in share.members() {
                        if Remote::of(member.session).is_some() {
                            let mark = Mark(member.mark.load(Ordering::Relaxed));
                            visit(Some(share.name_shared()), member.session, mark);
                        }
                    }
                }
            }
        }
    }

    /// Whether something was added that was new, or removed that was there.
    pub(super) fn apply(&mut self, change: Change<'_>) -> bool {
        match change {
            Change::Subscribe(subscriber) => self.subscribe(subscriber),
            Change::Unsubscribe(session) => self.unsubscribe(session),
            Change::Join { group, filter, member } => {
                Arc::make_mut(self.many()).join(group, filter, member)
            }
            Change::Leave { group, session } => match self {
                Subscriptions::None | Subscriptions::One(_) | Subscriptions::Few(_) => false,
                Subscriptions::Many(many) => {
                    let left = Arc::make_mut(many).leave(group, session);
                    self.shorten();
                    left
                }
            },
        }
    }

    fn subscribe(&mut self, subscriber: Subscriber) -> bool {
        match self {
            Subscriptions::None => {
                *self = Subscriptions::One(subscriber);
                true
            }
            Subscriptions::One(only) if only.session == subscriber.session => {
                *only = subscriber;
                false
            }
            Subscriptions::One(only) => {
                let mut two = [*only, subscriber];
                two.sort_unstable_by_key(|subscriber| subscriber.session);
                *self = Subscriptions::Few(two.into());
                true
            }
            Subscriptions::Few(list) => match place(list, subscriber.session) {
                Ok(at) => {
                    Arc::make_mut(list)[at] = subscriber;
                    false
                }
                Err(_) if list.len() >= Subscriptions::FEW => {
                    Arc::make_mut(self.many()).subscribe(&subscriber)
                }
                Err(at) => {
                    let added = std::iter::once(&subscriber);
                    *list = list[..at].iter().chain(added).chain(&list[at..]).copied().collect();
                    true
                }
            },
            Subscriptions::Many(many) => Arc::make_mut(many).subscribe(&subscriber),
        }
    }

    fn unsubscribe(&mut self, session: SessionKey) -> bool {
        match self {
            Subscriptions::None => false,
            Subscriptions::One(only) if only.session == session => {
                *self = Subscriptions::None;
                true
            }
            Subscriptions::One(_) => false,
            Subscriptions::Few(list) => {
                let Ok(at) = place(list, session) else { return false };
                *self = Subscriptions::short(list[..at].iter().chain(&list[at + 1..]));
                true
            }
            Subscriptions::Many(many) => {
                let removed = Arc::make_mut(many).unsubscribe(session);
                self.shorten();
                removed
            }
        }
    }

    fn short<'a>(list: impl Iterator<Item = &'a Subscriber>) -> Subscriptions {
        let list: Arc<[Subscriber]> = list.copied().collect();
        match *list {
            [] => Subscriptions::None,
            [only] => Subscriptions::One(only),
            [_, _, ..] => Subscriptions::Few(list),
        }
    }

    /// The long form.
    fn many(&mut self) -> &mut Arc<Many> {
        let mut many = Many::default();
        match self {
            Subscriptions::None | Subscriptions::Many(_) => {}
            Subscriptions::One(only) => {
                many.subscribe(only);
            }
            Subscriptions::Few(list) => {
                for subscriber in list.iter() {
                    many.subscribe(subscriber);
                }
            }
        }
        if !matches!(self, Subscriptions::Many(_)) {
            *self = Subscriptions::Many(Arc::new(many));
        }
        match self {
            Subscriptions::Many(many) => many,
            Subscriptions::None | Subscriptions::One(_) | Subscriptions::Few(_) => {
                unreachable!("made long two lines up")
            }
        }
    }

    /// Back to the short form, well below the length at which it was left.
    fn shorten(&mut self) {
        let Subscriptions::Many(many) = self else { return };
        let len: usize = many.groups.iter().map(|group| group.targets.len()).sum();
        if !many.shares.is_empty() || len > Subscriptions::FEW / 2 {
            return;
        }
        let list: Vec<Subscriber> = many.subscribers().collect();
        *self = Subscriptions::short(list.iter());
    }
}

fn place(list: &[Subscriber], session: SessionKey) -> Result<usize, usize> {
    list.binary_search_by_key(&session, |subscriber| subscriber.session)
}

impl Many {
    fn group(&self, session: SessionKey) -> Result<usize, usize> {
        let table = (session.shard, session.durable);
        self.groups.binary_search_by_key(&table, RouteGroup::table)
    }

    fn share(&self, name: &str) -> Result<usize, usize> {
        self.shares.binary_search_by(|share| share.name().cmp(name))
    }

    fn subscribe(&mut self, subscriber: &Subscriber) -> bool {
        let SessionKey { shard, durable, .. } = subscriber.session;
        let at = self.group(subscriber.session).unwrap_or_else(|at| {
            let targets = Arc::new(Targets::new());
            self.groups.insert(at, RouteGroup { shard, durable, targets });
            at
        });
        Arc::make_mut(&mut self.groups[at].targets).subscribe(subscriber)
    }

    fn unsubscribe(&mut self, session: SessionKey) -> bool {
        let Ok(at) = self.group(session) else { return false };
        let targets = Arc::make_mut(&mut self.groups[at].targets);
        let removed = targets.unsubscribe(session.slot, session.generation);
        if targets.is_empty() {
            self.groups.remove(at);
        }
        removed
    }

    fn join(&mut self, name: &str, filter: &Arc<str>, member: Arc<Member>) -> bool {
        let at = self.share(name).unwrap_or_else(|at| {
            self.shares.insert(at, Arc::new(ShareGroup::new(name, filter)));
            at
        });
        Arc::make_mut(&mut self.shares[at]).join(member)
    }

    fn leave(&mut self, name: &str, session: SessionKey) -> bool {
        let Ok(at) = self.share(name) else { return false };
        let share = Arc::make_mut(&mut self.shares[at]);
        let left = share.leave(session);
        if share.is_empty() {
            self.shares.remove(at);
        }
        left
    }

    /// Ordered by session.
    fn subscribers(&self) -> impl Iterator<Item = Subscriber> {
        self.groups.iter().flat_map(|group| group.targets.iter().map(|target| group.one(target)))
    }

    /// Of others: a node's is the last of its table, partitions have one of their own.
    fn remotes(&self) -> impl Iterator<Item = Subscriber> {
        self.groups.iter().flat_map(|group| {
            let from = match group.shard == NOWHERE {
                true => 0,
                false => group.targets.len().saturating_sub(1),
            };
            group.targets.iter_from(from).map(|target| group.one(target))
        })
    }
}

impl RouteGroup {
    fn one(&self, target: &Target) -> Subscriber {
        Subscriber {
            session: SessionKey {
                shard: self.shard,
                durable: self.durable,
                slot: target.slot,
                generation: target.generation,
            },
            options: target.options,
            subscription_id: self.targets.id(target),
        }
    }
}
