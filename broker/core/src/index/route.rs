//! Where a message goes: the answer of the index for one topic.

use std::sync::Arc;

use super::share::ShareGroup;
use super::subscriber::Subscriber;
use super::subscriptions::Subscriptions;
use super::targets::Targets;
use crate::ids::{SessionKey, ShardId};

/// Everybody who takes messages of one topic, as of one moment.
#[derive(Clone, Default)]
pub struct Route {
    /// The plain subscribers, by shard and table, in that order.
    pub groups: Box<[RouteGroup]>,
    /// The share groups; one member of each takes the message.
    pub shares: Box<[Arc<ShareGroup>]>,
}

/// The subscribers that live in one table of one shard.
#[derive(Clone)]
pub struct RouteGroup {
    /// The shard that owns them.
    pub shard: ShardId,
    /// Which of its tables the slots count in.
    pub durable: bool,
    /// The sessions, each once.
    pub targets: Arc<Targets>,
}

impl RouteGroup {
    pub(super) fn table(&self) -> (ShardId, bool) {
        (self.shard, self.durable)
    }
}

impl Route {
    /// Whether nobody takes messages of the topic.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.shares.is_empty()
    }

    /// Merges what the matching filters hold: each session once.
    pub(super) fn of(matches: &[Subscriptions]) -> Route {
        if let [Subscriptions::One(only)] = matches {
            let SessionKey { shard, durable, .. } = only.session;
            let targets = Arc::new(Targets::from_sorted(std::slice::from_ref(only)));
            return Route {
                groups: Box::new([RouteGroup { shard, durable, targets }]),
                shares: Box::default(),
            };
        }
        let mut shares = Vec::new();
        // From short lists, by value; long ones are shared chunk by chunk.
        let mut singles: Vec<Subscriber> = Vec::new();
        let mut long: Vec<&RouteGroup> = Vec::new();
        for subscriptions in matches {
            match subscriptions {
                Subscriptions::None => {}
                Subscriptions::One(subscriber) => singles.push(*subscriber),
                Subscriptions::Few(subscribers) => singles.extend_from_slice(subscribers),
                Subscriptions::Many(many) => {
                    shares.extend(many.shares.iter().cloned());
                    long.extend(&many.groups);
                }
            }
        }
        let one_long = matches.len() == 1 && singles.is_empty();
        singles.sort_unstable_by_key(|subscriber| subscriber.session);
        if !one_long {
            // The longest of each table first: the others are merged into it.
            long.sort_by_key(|group| (group.table(), std::cmp::Reverse(group.targets.len())));
        }
        Route { groups: merged(&singles, &long), shares: shares.into() }
    }
}

/// Both are ordered by table.
fn merged(mut singles: &[Subscriber], mut long: &[&RouteGroup]) -> Box<[RouteGroup]> {
    let table_of = |subscriber: &Subscriber| (subscriber.session.shard, subscriber.session.durable);
    let mut groups = Vec::with_capacity(long.len().max(usize::from(!singles.is_empty())));
    loop {
        let next_single = singles.first().map(table_of);
        let next_long = long.first().map(|group| group.table());
        let (shard, durable) = match (next_single, next_long) {
            (Some(single), Some(long)) => single.min(long),
            (Some(table), None) | (None, Some(table)) => table,
            (None, None) => return groups.into(),
        };
        let here = |table: (ShardId, bool)| table == (shard, durable);
        let (few, rest) = singles.split_at(singles.partition_point(|s| here(table_of(s))));
        let (lists, others) = long.split_at(long.partition_point(|group| here(group.table())));
        (singles, long) = (rest, others);
        let few = (!few.is_empty()).then(|| Targets::from_sorted(few));
        let targets = match (lists.split_first(), few) {
            (None, few) => Arc::new(few.unwrap_or(Targets::new())),
            (Some((longest, shorter)), few) => {
                let mut targets = Arc::clone(&longest.targets);
                for list in shorter.iter().map(|group| &*group.targets).chain(few.as_ref()) {
                    Arc::make_mut(&mut targets).merge(list);
                }
                targets
            }
        };
        groups.push(RouteGroup { shard, durable, targets });
    }
}
