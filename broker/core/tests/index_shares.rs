//! Who of a share group is picked.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_core::ids::{SessionKey, ShardId};
use tidegate_core::index::{Index, Member, Options, ShareGroup};

fn session(slot: u32) -> SessionKey {
    SessionKey { shard: ShardId((slot % 2) as u16), durable: false, slot, generation: 1 }
}

struct Rig {
    index: Index,
    members: Vec<Arc<Member>>,
}

impl Rig {
    fn new(members: u32) -> Rig {
        let mut rig = Rig { index: Index::new(3), members: Vec::new() };
        for slot in 0..members {
            rig.join(slot);
        }
        rig
    }

    fn join(&mut self, slot: u32) {
        let member = Arc::new(Member::new(session(slot), Options::new(1, false, false), slot));
        self.index.subscribe_shared("g", &"jobs/#".into(), Arc::clone(&member));
        self.members.push(member);
    }

    fn group(&self) -> Arc<ShareGroup> {
        Arc::clone(&self.index.route("jobs/1").shares[0])
    }
}

fn picked(group: &ShareGroup, not: Option<u32>) -> Option<u32> {
    group.pick(not.map(session)).map(|member| member.session.slot)
}

#[test]
fn equals_take_turns() {
    let rig = Rig::new(5);
    let group = rig.group();
    let mut counts = [0; 5];
    for _ in 0..50 {
        counts[picked(&group, None).unwrap() as usize] += 1;
    }
    assert_eq!(counts, [10; 5]);
}

#[test]
fn equals_take_turns_also_when_others_are_busy() {
    let rig = Rig::new(5);
    for busy in [1, 2] {
        rig.members[busy].outstanding.store(9, Relaxed);
    }
    let group = rig.group();
    let mut counts = [0; 5];
    for _ in 0..30 {
        counts[picked(&group, None).unwrap() as usize] += 1;
    }
    assert_eq!(counts, [10, 0, 0, 10, 10]);
}

#[test]
fn the_least_outstanding_is_picked() {
    let rig = Rig::new(4);
    for (member, outstanding) in rig.members.iter().zip([3, 2, 1, 2]) {
        member.outstanding.store(outstanding, Relaxed);
    }
    let group = rig.group();
    assert_eq!([picked(&group, None), picked(&group, None)], [Some(2), Some(2)]);
}

#[test]
fn a_busy_member_online_comes_before_an_idle_one_offline() {
    let rig = Rig::new(3);
    for member in &rig.members[..2] {
        member.online.store(false, Relaxed);
    }
    rig.members[2].outstanding.store(1000, Relaxed);
    let group = rig.group();
    assert_eq!(picked(&group, None), Some(2));

    rig.members[2].online.store(false, Relaxed);
    rig.members[0].outstanding.store(1, Relaxed);
    assert_eq!(picked(&group, None), Some(1), "all offline: the least outstanding");
}

#[test]
fn the_excluded_member_is_never_picked() {
    let rig = Rig::new(2);
    let group = rig.group();
    for _ in 0..4 {
        assert_eq!(picked(&group, Some(1)), Some(0));
    }
    let alone = Rig::new(1).group();
    assert_eq!(picked(&alone, Some(0)), None);
    assert_eq!(picked(&alone, Some(7)), Some(0));
}

#[test]
fn a_large_group_is_not_searched_whole_but_finds_its_only_one_online() {
    let rig = Rig::new(1000);
    for member in &rig.members {
        member.online.store(member.session.slot == 777, Relaxed);
        member.outstanding.store(5, Relaxed);
    }
    let group = rig.group();
    assert_eq!(picked(&group, None), Some(777));

    let mut looked = 0;
    rig.members.iter().for_each(|member| member.online.store(true, Relaxed));
    group.pick_where(|_| {
        looked += 1;
        true
    });
    assert_eq!(looked, ShareGroup::LOOK_MAX);
}

#[test]
fn a_new_membership_replaces_the_sessions_old_one() {
    let mut rig = Rig::new(3);
    rig.join(1);
    let group = rig.group();
    assert_eq!((group.len(), rig.index.len()), (3, 3));
    assert!(Arc::ptr_eq(group.member(session(1)).unwrap(), &rig.members[3]));
}

#[test]
fn groups_of_one_filter_are_apart_and_end_with_their_last_member() {
    let rig = Rig::new(1);
    let other = Arc::new(Member::new(session(9), Options::default(), 0));
    rig.index.subscribe_shared("h", &"jobs/#".into(), other);
    let names = || {
        let route = rig.index.route("jobs");
        route.shares.iter().map(|share| share.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["g", "h"]);
    assert!(!rig.index.unsubscribe_shared("h", "jobs/#", session(0)));
    assert!(rig.index.unsubscribe_shared("g", "jobs/#", session(0)));
    assert_eq!(names(), ["h"]);
    assert!(rig.index.unsubscribe_shared("h", "jobs/#", session(9)));
    assert_eq!((names(), rig.index.node_count()), (vec![], 0));
}
