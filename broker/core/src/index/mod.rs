//! Who takes messages of a topic: one index a node, shared by its shards.
//!
//! Filters without a wildcard stand in a hash by their text, those with one in
//! tries that readers walk without a lock. Both are spread over parts with a
//! version each, so that a shard's [`RouteCache`] knows from four loads whether
//! what it found last time still holds, and a hot topic takes no lock.
//!
//! Upholds LOCK-1 together with the cache. Topics and filters are taken to be
//! well formed and within `topic_levels_max`: the codec has parsed them.

mod cache;
mod chunks;
mod exact;
mod marks;
mod place;
mod reach;
mod remote;
mod route;
mod share;
mod subscriber;
mod subscriptions;
mod targets;
mod trie;
mod watch;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwapOption;

pub use cache::RouteCache;
pub use marks::RemoteWalk;
pub use place::Place;
pub use reach::Reach;
pub use remote::Remote;
pub use route::{Route, RouteGroup};
pub use share::{Member, ShareGroup};
pub use subscriber::{Options, Subscriber};
pub use targets::{Target, Targets, TargetsIter};
pub use watch::RouteChange;

use crate::ids::{PartitionId, SessionKey};
use exact::Exact;
use place::{Seed, Versions};
use subscriptions::Change;
use trie::Node;
use watch::Watch;

/// All subscriptions of a node.
pub struct Index {
    seed: Seed,
    versions: Versions,
    exact: Box<[RwLock<Exact>]>,
    tries: Box<[Trie]>,
    len: AtomicUsize,
    /// Filters of remotes, and their bytes.
    remotes: [AtomicUsize; 2],
    /// What the other nodes are told.
    watch: Watch,
}

#[derive(Default)]
struct Trie {
    root: ArcSwapOption<Node>,
    /// One writer at a time; readers do not look at it.
    writer: Mutex<()>,
}

impl Index {
    /// `seed` should be secret and random; a client that knew it could choose
    /// topics that collide.
    pub fn new(seed: u64) -> Index {
        Index {
            seed: Seed::new(seed),
            versions: Versions::new(),
            exact: (0..place::EXACT).map(|_| RwLock::default()).collect(),
            tries: (0..place::TRIES).map(|_| Trie::default()).collect(),
            len: AtomicUsize::new(0),
            remotes: Default::default(),
            watch: Watch::default(),
        }
    }

    /// Adds the subscription, or replaces the session's earlier one to the same
    /// filter. When it returns, every later call on any thread sees it. Returns
    /// whether it was new.
    pub fn subscribe(&self, filter: &Arc<str>, subscriber: Subscriber) -> bool {
        self.add(filter, Change::Subscribe(subscriber))
    }

    /// Whether there was such a subscription.
    pub fn unsubscribe(&self, filter: &str, session: SessionKey) -> bool {
        self.remove(filter, Change::Unsubscribe(session))
    }

    /// Adds to the group of `$share/GROUP/FILTER`, or replaces the session's
    /// earlier membership. `member` is shared with the session's owner. Returns
    /// whether it was new.
    pub fn subscribe_shared(&self, group: &str, filter: &Arc<str>, member: Arc<Member>) -> bool {
        self.add(filter, Change::Join { group, filter, member })
    }

    /// Whether the session was a member.
    pub fn unsubscribe_shared(&self, group: &str, filter: &str, session: SessionKey) -> bool {
        self.remove(filter, Change::Leave { group, session })
    }

    /// Differs from an earlier answer if the routes of `topic` may have changed
    /// since. A caller that keeps a route takes the version first.
    pub fn version(&self, topic: &str) -> u64 {
        self.version_at(self.place(topic))
    }

    /// Where `topic` stands, for [`version_at`](Index::version_at).
    pub fn place(&self, topic: &str) -> Place {
        Place::of_topic(&self.seed, topic).0
    }

    /// [`version`](Index::version) without hashing: four loads.
    pub fn version_at(&self, place: Place) -> u64 {
        self.versions.of(place)
    }

    /// Matches `topic` against all filters; takes one lock that is rarely
    /// written to. A session with several matching filters is one target: the
    /// highest QoS and all their subscription identifiers.
    pub fn route(&self, topic: &str) -> Route {
        let (place, hash) = Place::of_topic(&self.seed, topic);
        self.route_at(place, hash, topic)
    }

    /// How many subscriptions there are, memberships included.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether nobody has subscribed to anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Filters and trie nodes held. Walks everything: for tests and diagnosis.
    pub fn node_count(&self) -> usize {
        let read = |part: &RwLock<Exact>| part.read().unwrap_or_else(PoisonError::into_inner).len();
        let exact: usize = self.exact.iter().map(read).sum();
        let count = |trie: &Trie| trie.root.load().as_ref().map_or(0, |root| root.count());
        exact + self.tries.iter().map(count).sum::<usize>()
    }

    /// From now on what appears and vanishes is noted for
    /// [`take_changes`](Index::take_changes): the node is in a cluster. To be
    /// said before anybody subscribes.
    pub fn watch(&self) {
        self.watch.begin();
    }

    /// The oldest changes that were not taken yet, with their tickets, at most
    /// so many: for the other nodes.
    pub fn take_changes(&self, most: usize) -> Vec<(u64, RouteChange)> {
        self.watch.take(most)
    }

    /// Whether [`take_changes`](Index::take_changes) has something.
    #[inline]
    pub fn has_changes(&self) -> bool {
        self.watch.has_changes()
    }

    /// This node leads a partition whose sessions are all in the index; `index`
    /// grows with each leader, as that of the first entry of its term does. To be
    /// said by the shell right after
    /// [`Shard::promote`](crate::Shard::promote), before that shard does anything
    /// else: a SUBACK that left in between would promise too much.
    pub fn lead(&self, partition: PartitionId, index: u64) {
        self.watch.say(RouteChange::Led { partition, index });
    }

    /// This node leads it no longer; its sessions leave the index after this.
    pub(crate) fn follow(&self, partition: PartitionId) {
        self.watch.say(RouteChange::Followed(partition));
    }

    /// Every node that might acknowledge a publish knows the changes up to this
    /// ticket. Every shard is to be told with
    /// [`Shard::routes_moved`](crate::Shard::routes_moved) then.
    pub fn pass(&self, ticket: u64) {
        self.watch.pass(ticket);
    }

    /// Whether it has.
    #[inline]
    pub(crate) fn has_passed(&self, ticket: u64) -> bool {
        self.watch.has_passed(ticket)
    }

    /// The ticket that a session has to wait for that has subscribed to this,
    /// `$share/NAME/` included; 0: none.
    pub(crate) fn ticket(&self, session: SessionKey, text: &str) -> u64 {
        self.watch.ticket(session, text)
    }

    /// Whether so much waits for the other nodes that no more is taken on.
    pub(crate) fn is_over(&self) -> bool {
        self.watch.is_over()
    }

    fn route_at(&self, place: Place, hash: u64, topic: &str) -> Route {
        let mut found = Vec::new();
        {
            let part = &self.exact[place::partition(hash)];
            let part = part.read().unwrap_or_else(PoisonError::into_inner);
            found.extend(part.find(hash, topic).cloned());
        }
        for trie in place.tries(topic) {
            if let Some(root) = &*self.tries[trie].root.load() {
                root.matches(&self.seed, topic, &mut found);
            }
        }
        Route::of(&found)
    }

    fn add(&self, filter: &Arc<str>, change: Change<'_>) -> bool {
        let new = if has_wildcard(filter) {
            self.change_trie(filter, filter, change)
        } else {
            self.change_exact(filter, || Arc::clone(filter), change)
        };
        if new {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        new
    }

    fn remove(&self, filter: &str, change: Change<'_>) -> bool {
        let removed = if has_wildcard(filter) {
            self.change_trie(filter, &Arc::from(filter), change)
        } else {
            self.change_exact(filter, || Arc::from(filter), change)
        };
        if removed {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    fn change_exact(
        &self,
        text: &str,
        filter: impl FnOnce() -> Arc<str>,
        change: Change<'_>,
    ) -> bool {
        let hash = self.seed.hash(text);
        let removes = change.removes();
        let partition = place::partition(hash);
        let mut part = self.exact[partition].write().unwrap_or_else(PoisonError::into_inner);
        let watched = self.watch.watched(text, &change);
        let has = |part: &Exact| {
            watched.as_ref().is_some_and(|w| part.find(hash, text).is_some_and(|s| s.has(w)))
        };
        let had = has(&part);
        let changed = part.apply(hash, text, filter, change);
        if let Some(watched) = &watched {
            self.watch.note(watched, text, had, has(&part));
        }
        // Under the lock: nobody may see the change and the version before it.
        if changed || !removes {
            self.versions.partition_changed(partition);
        }
        changed
    }

    fn change_trie(&self, text: &str, filter: &Arc<str>, change: Change<'_>) -> bool {
        let number = place::trie_of(&self.seed, text);
        let trie = &self.tries[number];
        let writer = trie.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let old = trie.root.load_full();
        if change.removes() {
            let found = old.as_deref().and_then(|root| root.find(&self.seed, text));
            if !found.is_some_and(|subscriptions| subscriptions.concerns(&change)) {
                return false;
            }
        }
        let watched = self.watch.watched(text, &change);
        let has = |root: &Node| {
            let watched = watched.as_ref();
            watched.is_some_and(|w| root.find(&self.seed, text).is_some_and(|s| s.has(w)))
        };
        let had = old.as_deref().is_some_and(has);
        let mut root = old.as_deref().map_or_else(Node::root, Node::clone);
        let changed = root.apply(&self.seed, filter, change);
        let has = has(&root);
        trie.root.store((!root.is_empty()).then(|| Arc::new(root)));
        self.versions.trie_changed(number);
        if let Some(watched) = &watched {
            self.watch.note(watched, text, had, has);
        }
        drop(writer);
        // What the new root no longer shares is freed here, after the lock.
        drop(old);
        changed
    }
}

/// Whether it is a filter of more than its own text.
fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}
