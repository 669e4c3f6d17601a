//! What others have, when it was said, and the walk that drops what is void.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::ids::{Member as Node, PartitionId, SessionKey, ShardId};
use tidegate_core::index::{
    Index, Member, Options, Reach, Remote, RemoteWalk, RouteCache, Subscriber,
};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

const REMOTES: [Remote; 4] = [
    Remote::Node(Node(2)),
    Remote::Node(Node(9)),
    Remote::Partition(PartitionId(0)),
    Remote::Partition(PartitionId(63)),
];

fn local(slot: u32) -> SessionKey {
    SessionKey { shard: ShardId::of(Node(1), 0), durable: false, slot, generation: 1 }
}

fn plain(session: SessionKey, subscription_id: u32) -> Subscriber {
    Subscriber { session, options: Options::new(1, false, false), subscription_id }
}

/// Filters of each kind; those of one kind share parts of the index.
fn filter(random: &mut Random) -> String {
    let n = random.below(12);
    match random.below(6) {
        0 => format!("exact/{n}"),
        1 => format!("many/names/{n}/+"),
        2 => format!("many/+/{n}"),
        3 => format!("+/w/{n}/#"),
        4 => format!("$share/g{}/exact/{n}", n % 2),
        _ => format!("$share/g{}/many/+/{n}", n % 2),
    }
}

/// Whether a topic that only this filter matches gets to the remote.
fn has(index: &Index, remote: Remote, filter: &str) -> bool {
    let (group, filter) = match filter.strip_prefix("$share/").and_then(|f| f.split_once('/')) {
        Some((group, filter)) => (Some(group), filter),
        None => (None, filter),
    };
    let topic = filter.replace('+', "x").replace('#', "y");
    let route = index.route(&topic);
    if let Some(group) = group {
        let mut shares = route.shares.iter();
        let share = shares.find(|share| share.name() == group && &**share.filter() == filter);
        return share.is_some_and(|share| share.members().any(|m| is(remote, m.session)));
    }
    route.groups.iter().any(|group| {
        group.targets.iter().any(|target| {
            assert!(group.targets.ids(target).iter().all(|id| *id == 7), "a mark is no identifier");
            is(
                remote,
                SessionKey {
                    shard: group.shard,
                    durable: group.durable,
                    slot: target.slot,
                    generation: target.generation,
                },
            )
        })
    })
}

/// Remotes are told by what they are, not by how their keys are made.
fn is(remote: Remote, session: SessionKey) -> bool {
    let of_remote = session.generation == u32::MAX;
    of_remote
        && match remote {
            Remote::Node(node) => !session.durable && session.shard.member() == node,
            Remote::Partition(p) => session.durable && u32::from(p.0) == session.slot >> 26,
        }
}

#[test]
fn random_words_and_walks_in_small_steps_leave_what_the_plain_rule_says() {
    let mut dropped = 0;
    for seed in 0..40 {
        let mut random = Random(seed);
        let index = Index::new(seed);
        let mut cache = RouteCache::new(256, seed);
        let mut walk = RemoteWalk::default();
        // With the epoch, and the oldest epoch that holds, of each remote.
        let mut model: BTreeMap<(Remote, String), u16> = BTreeMap::new();
        let mut oldest: BTreeMap<Remote, u16> = BTreeMap::new();
        let mut newest: BTreeMap<Remote, u16> = BTreeMap::new();
        let (mut void, mut again) = (false, false);
        for _ in 0..1_500 {
            let remote = REMOTES[random.below(4) as usize];
            let text = filter(&mut random);
            let epoch = *newest.entry(remote).or_default();
            let least = oldest.get(&remote).copied().unwrap_or(0);
            match random.below(16) {
                0..=5 => {
                    let new = index.set_remote(remote, &text, Some(epoch));
                    let before = model.insert((remote, text), epoch);
                    assert!(before.is_some() || new || void, "seed {seed}: it was not there");
                }
                6..=7 => {
                    let there = index.set_remote(remote, &text, None);
                    let before = model.remove(&(remote, text));
                    assert!(before.is_none() || there, "seed {seed}: it was there");
                }
                // One of this node's own in the same places, which no walk touches.
                8 if !text.starts_with('$') => {
                    let (text, slot) = (text.into(), random.below(40) as u32);
                    index.subscribe(&text, plain(local(slot), 7));
                }
                9 if !text.starts_with('$') => {
                    index.unsubscribe(&text, local(random.below(40) as u32));
                }
                10 => _ = newest.insert(remote, epoch + 1),
                11 if least < epoch => {
                    oldest.insert(remote, epoch);
                    again |= void;
                    void = true;
                    model.retain(|(who, _), said| *who != remote || *said >= epoch);
                }
                _ if void => {
                    let is_void = |who, said| said < oldest.get(&who).copied().unwrap_or(0);
                    let before = index.remotes().0;
                    let most = 1 + random.below(900) as usize;
                    if !index.sweep_remotes(&mut walk, most, is_void) {
                        void = std::mem::take(&mut again);
                    }
                    dropped += before - index.remotes().0;
                    if !void {
                        assert_eq!(index.remotes().0, model.len(), "seed {seed}");
                    }
                }
                _ => {}
            }
            let (who, text) = (REMOTES[random.below(4) as usize], filter(&mut random));
            let known = model.contains_key(&(who, text.clone()));
            let there = has(&index, who, &text);
            assert!(there || !known, "seed {seed}: {who:?} has {text}, and it is lost");
            assert!(known || !there || void, "seed {seed}: {who:?} has lost {text}");
            let topic = text.replace('+', "x").replace('#', "y");
            let cached = cache.route(&index, &topic).groups.len();
            assert_eq!(cached, index.route(&topic).groups.len(), "seed {seed}: {topic}");
        }
        for _ in 0..2 {
            while index.sweep_remotes(&mut walk, 500, |_, _| true) {}
        }
        assert_eq!(index.remotes(), (0, 0), "seed {seed}");
        for n in 0..12 {
            let reach = index.reach(&format!("exact/{n}"));
            assert!(reach.members.is_empty() && reach.partitions.is_empty(), "seed {seed}");
        }
    }
    assert!(dropped > 1_000, "walks dropped {dropped} only");
}

#[test]
fn what_is_said_again_keeps_its_routes_and_what_a_cache_has_of_them() {
    let index = Index::new(1);
    let node = REMOTES[0];
    let texts = ["a/b", "a/+", "$share/g/a/b", "$share/g/a/+"];
    for text in texts {
        assert!(index.set_remote(node, text, Some(3)));
    }
    let member = |index: &Index| Arc::clone(index.route("a/b").shares[0].members().next().unwrap());
    let (before, held) = (index.version("a/b"), member(&index));
    for text in texts {
        assert!(!index.set_remote(node, text, Some(4)), "it has it");
    }
    assert_eq!(index.version("a/b"), before, "no route has changed");
    assert!(Arc::ptr_eq(&member(&index), &held), "what it has outstanding is still counted");
    let mut walk = RemoteWalk::default();
    while index.sweep_remotes(&mut walk, 10, |_, epoch| epoch != 4) {}
    assert_eq!(index.remotes(), (4, 12), "the newest word counts");
}

#[test]
fn a_list_that_gets_long_and_short_again_keeps_the_marks() {
    let index = Index::new(1);
    for text in ["a/b", "a/+"] {
        let filter: Arc<str> = text.into();
        for remote in REMOTES {
            index.set_remote(remote, text, Some(5));
        }
        for slot in 0..100 {
            index.subscribe(&filter, plain(local(slot), 7));
        }
        index.set_remote(REMOTES[1], text, Some(6));
        for slot in 0..100 {
            index.unsubscribe(text, local(slot));
        }
    }
    let mut walk = RemoteWalk::default();
    while index.sweep_remotes(&mut walk, 10, |_, epoch| epoch < 6) {}
    assert_eq!(index.reach("a/b"), Reach { members: vec![Node(9)], ..Reach::default() });
}

#[test]
fn a_long_list_of_the_own_node_hides_no_remote_from_the_walk() {
    let index = Index::new(1);
    let filter: Arc<str> = "a/#".into();
    for slot in 0..5_000 {
        index.subscribe(&filter, plain(local(slot), 0));
        let member = Member::new(local(slot), Options::new(1, false, false), 0);
        index.subscribe_shared("g", &filter, Arc::new(member));
    }
    for remote in REMOTES {
        index.set_remote(remote, "a/#", Some(0));
        index.set_remote(remote, "$share/g/a/#", Some(0));
    }
    assert_eq!(index.remotes().0, 8);
    let mut walk = RemoteWalk::default();
    while index.sweep_remotes(&mut walk, 100, |_, _| true) {}
    assert_eq!((index.remotes(), index.len()), ((0, 0), 10_000));
}

#[test]
fn what_is_settled_stays_only_under_an_epoch_that_holds() {
    let index = Index::new(1);
    let partition = REMOTES[2];
    for text in ["a", "b/+", "$share/g/c"] {
        index.settle_remote(partition, text, Some(4), |_| true);
        assert!(has(&index, partition, text), "nobody else speaks for it");
        index.settle_remote(partition, text, None, |epoch| epoch != 4);
        assert!(has(&index, partition, text), "the other leader said it");
        index.settle_remote(partition, text, None, |epoch| epoch == 4);
        assert!(!has(&index, partition, text), "nobody said it again");
    }
    assert_eq!(index.remotes(), (0, 0));
}
