//! The subscriptions of one session.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::counters::{Counters, SubscriptionKind};
use crate::ids::SessionKey;
use crate::index::{Index, Member, Options, Subscriber};
use tidegate_codec::Filter;

/// What a session holds of one of its subscriptions.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// What it asks for; the index has them too.
    pub(crate) options: Options,
    pub(crate) id: u32,
    /// Set for a shared subscription.
    pub(crate) member: Option<Arc<Member>>,
}

/// Filters, as the client gave them, with their options. One needs no map.
#[derive(Debug, Default)]
pub(crate) enum Subscriptions {
    #[default]
    None,
    One(Box<(Arc<str>, Subscription)>),
    // Boxed: the enum is part of every connection.
    #[allow(clippy::box_collection)]
    Many(Box<BTreeMap<Arc<str>, Subscription>>),
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        match self {
            Subscriptions::None => 0,
            Subscriptions::One(_) => 1,
            Subscriptions::Many(map) => map.len(),
        }
    }

    pub(crate) fn holds(&self, text: &str) -> bool {
        match self {
            Subscriptions::None => false,
            Subscriptions::One(one) => &*one.0 == text,
            Subscriptions::Many(map) => map.contains_key(text),
        }
    }

    /// Adds or replaces, here and in the index, if there is one; whether it was new.
    pub(crate) fn add(
        &mut self,
        filter: &Filter<'_>,
        options: Options,
        id: u32,
        session: SessionKey,
        index: Option<&Index>,
        counters: &Counters,
    ) -> bool {
        let text: Arc<str> = filter.text().into();
        let mut subscription = Subscription { options, id, member: None };
        match filter.share() {
            None => {
                if let Some(index) = index {
                    index.subscribe(&text, Subscriber { session, options, subscription_id: id });
                }
            }
            Some(group) => {
                let member = Arc::new(Member::new(session, options, id));
                subscription.member = Some(Arc::clone(&member));
                if let Some(index) = index {
                    index.subscribe_shared(group, &filter.filter().into(), member);
                }
            }
        }
        let new = self.insert(text, subscription);
        if new {
            counters.subscriptions[kind(filter) as usize].add(1);
        }
        new
    }

    /// Puts all of them into the index, where they have not been.
    pub(crate) fn enter(&self, session: SessionKey, index: &Index) {
        self.each(|text, Subscription { options, id, member }| {
            // Stored filters were parsed when they came.
            let Ok(filter) = Filter::parse(text) else { return };
            match (filter.share(), member) {
                (Some(group), Some(member)) => {
                    let member = Arc::clone(member);
                    index.subscribe_shared(group, &filter.filter().into(), member);
                }
                (None, _) | (Some(_), None) => {
                    let (options, subscription_id) = (*options, *id);
                    index.subscribe(text, Subscriber { session, options, subscription_id });
                }
            }
        });
    }

    /// The membership of a share group.
    pub(crate) fn member(&self, name: &str, filter: &str) -> Option<Arc<Member>> {
        let text = format!("$share/{name}/{filter}");
        match self {
            Subscriptions::None => None,
            Subscriptions::One(one) if *one.0 == *text => one.1.member.clone(),
            Subscriptions::One(_) => None,
            Subscriptions::Many(map) => map.get(&*text)?.member.clone(),
        }
    }

    /// Removes, here and from the index; whether there was one.
    pub(crate) fn remove(
        &mut self,
        filter: &Filter<'_>,
        session: SessionKey,
        index: Option<&Index>,
        counters: &Counters,
    ) -> bool {
        let found = match self {
            Subscriptions::None => false,
            Subscriptions::One(one) if &*one.0 == filter.text() => {
                *self = Subscriptions::None;
                true
            }
            Subscriptions::One(_) => false,
            Subscriptions::Many(map) => map.remove(filter.text()).is_some(),
        };
        if found {
            leave(filter, session, index, counters);
        }
        found
    }

    /// Removes all, here and from the index.
    pub(crate) fn clear(
        &mut self,
        session: SessionKey,
        index: Option<&Index>,
        counters: &Counters,
    ) {
        let gone = std::mem::take(self);
        gone.each(|text, _| {
            // Stored filters were parsed when they came.
            if let Ok(filter) = Filter::parse(text) {
                leave(&filter, session, index, counters);
            }
        });
    }

    pub(crate) fn each(&self, mut visit: impl FnMut(&Arc<str>, &Subscription)) {
        match self {
            Subscriptions::None => {}
            Subscriptions::One(one) => visit(&one.0, &one.1),
            Subscriptions::Many(map) => map.iter().for_each(|(text, s)| visit(text, s)),
        }
    }

    fn insert(&mut self, text: Arc<str>, subscription: Subscription) -> bool {
        match self {
            Subscriptions::None => {
                *self = Subscriptions::One(Box::new((text, subscription)));
                true
            }
            Subscriptions::One(one) if one.0 == text => {
                one.1 = subscription;
                false
            }
            Subscriptions::One(_) => {
                let Subscriptions::One(one) = std::mem::take(self) else {
                    return false;
                };
                let map = BTreeMap::from([*one, (text, subscription)]);
                *self = Subscriptions::Many(Box::new(map));
                true
            }
            Subscriptions::Many(map) => map.insert(text, subscription).is_none(),
        }
    }
}

fn leave(filter: &Filter<'_>, session: SessionKey, index: Option<&Index>, counters: &Counters) {
    if let Some(index) = index {
        match filter.share() {
            None => index.unsubscribe(filter.text(), session),
            Some(group) => index.unsubscribe_shared(group, filter.filter(), session),
        };
    }
    counters.subscriptions[kind(filter) as usize].sub(1);
}

fn kind(filter: &Filter<'_>) -> SubscriptionKind {
    if filter.share().is_some() {
        SubscriptionKind::Shared
    } else if filter.is_wildcard() {
        SubscriptionKind::Wildcard
    } else {
        SubscriptionKind::Exact
    }
}
