//! What an index notes for other nodes, and what it is told of them.
#![allow(missing_docs)]

use std::sync::Arc;

use tidegate_core::ids::{Member as Node, PartitionId, SessionKey, ShardId};
use tidegate_core::index::{Index, Member, Options, Remote, RouteCache, RouteChange, Subscriber};

fn live(slot: u32) -> SessionKey {
    let shard = ShardId::of(Node(1), (slot % 3) as u16);
    SessionKey { shard, durable: false, slot, generation: 1 }
}

fn kept(partition: u8, slot: u32) -> SessionKey {
    let slot = u32::from(partition) << 26 | slot;
    SessionKey { shard: ShardId::of(Node(1), 0), durable: true, slot, generation: 1 }
}

fn subscribe(index: &Index, filter: &str, session: SessionKey) {
    let options = Options::new(1, false, false);
    index.subscribe(&filter.into(), Subscriber { session, options, subscription_id: 0 });
}

fn join(index: &Index, filter: &str, session: SessionKey) {
    let member = Member::new(session, Options::new(1, false, false), 0);
    index.subscribe_shared("g", &filter.into(), Arc::new(member));
}

/// `+` or `-`, the partition if there is one, and the filter.
fn noted(index: &Index) -> Vec<String> {
    let say = |sign, of: Option<PartitionId>, filter: &str| match of {
        None => format!("{sign}{filter}"),
        Some(p) => format!("{sign}{} {filter}", p.0),
    };
    let changes = index.take_changes(usize::MAX).into_iter();
    let text = |(_, change)| match change {
        RouteChange::Appeared { of, filter } => say('+', of, &filter),
        RouteChange::Vanished { of, filter } => say('-', of, &filter),
        RouteChange::Led { partition, index } => format!("led {} {index}", partition.0),
        RouteChange::Followed(p) => format!("followed {}", p.0),
    };
    changes.map(text).collect()
}

#[test]
fn the_first_subscriber_of_a_kind_and_the_last_one_gone_are_noted() {
    let index = Index::new(1);
    subscribe(&index, "before", live(0));
    assert_eq!(noted(&index), [""; 0], "a node that is alone notes nothing");
    index.watch();
    for filter in ["a/b", "a/+", "#"] {
        // Through all forms of a list, and back.
        for n in 0..100 {
            subscribe(&index, filter, live(n));
            subscribe(&index, filter, kept((n % 2) as u8 * 5, n));
        }
        let first = [format!("+{filter}"), format!("+0 {filter}"), format!("+5 {filter}")];
        assert_eq!(noted(&index), first);
        for n in 0..100 {
            index.unsubscribe(filter, kept((n % 2) as u8 * 5, n));
            index.unsubscribe(filter, live(n));
        }
        let last = [format!("-0 {filter}"), format!("-5 {filter}"), format!("-{filter}")];
        assert_eq!(noted(&index), last);
    }
    assert_eq!(index.len(), 1);
}

#[test]
fn share_groups_are_noted_by_name_and_filter() {
    let index = Index::new(1);
    index.watch();
    for n in 0..300 {
        join(&index, "a/+", live(n));
        join(&index, "a/+", kept(7, n));
        join(&index, "a/+", kept(63, n));
    }
    let all = ["+$share/g/a/+", "+7 $share/g/a/+", "+63 $share/g/a/+"];
    assert_eq!(noted(&index), all);
    index.set_remote(Remote::Node(Node(9)), "$share/g/a/+", Some(0));
    index.set_remote(Remote::Partition(PartitionId(7)), "$share/g/a/+", Some(0));
    for n in 0..300 {
        index.unsubscribe_shared("g", "a/+", kept(7, n));
        index.unsubscribe_shared("g", "a/+", live(n));
    }
    assert_eq!(noted(&index), ["-7 $share/g/a/+", "-$share/g/a/+"], "remotes do not count");
    assert_eq!(index.route("a/b").shares[0].len(), 302);
}

#[test]
fn others_are_sessions_of_the_index_and_a_cache_sees_them_come_and_go() {
    let index = Index::new(1);
    index.watch();
    let mut cache = RouteCache::new(64, 2);
    assert!(cache.route(&index, "a/b").is_empty());
    let node = Remote::Node(Node(2));
    for filter in ["a/b", "a/+", "#"] {
        assert!(index.set_remote(node, filter, Some(0)));
        assert!(!index.set_remote(node, filter, Some(0)), "it has it");
    }
    for partition in [3, 60] {
        index.set_remote(Remote::Partition(PartitionId(partition)), "a/#", Some(0));
    }
    subscribe(&index, "a/b", live(1));
    let route = Arc::clone(cache.route(&index, "a/b"));
    let tables: Vec<_> = route.groups.iter().map(|g| (g.durable, g.targets.len())).collect();
    assert_eq!(tables, [(false, 1), (false, 1), (true, 2)], "each once, whatever matches");
    assert_eq!(noted(&index), ["+a/b"], "what others have is not told to others");
    for filter in ["a/b", "a/+", "#"] {
        assert!(index.set_remote(node, filter, None));
    }
    assert_eq!(cache.route(&index, "a/b").groups.len(), 2);
    assert!(!index.set_remote(node, "a/#/b", Some(0)), "that is no filter");
}

#[test]
fn what_a_node_says_of_itself_is_not_noted() {
    let index = Index::new(1);
    index.watch();
    for filter in ["$SYS/#", "$SYS", "$SYS/broker/uptime"] {
        subscribe(&index, filter, live(1));
        join(&index, filter, live(2));
    }
    subscribe(&index, "$other/#", live(1));
    assert_eq!(noted(&index), ["+$other/#"]);
}
