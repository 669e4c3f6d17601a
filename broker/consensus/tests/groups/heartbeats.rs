use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_consensus::{CallKind, META};
use tokio::time::sleep;

use crate::rig::Rig;

fn groups() -> Vec<u16> {
    (0..64).chain([META]).collect()
}

#[tokio::test(start_paused = true)]
async fn sixty_four_groups_elect_spread_and_beat_in_one_message_a_peer() {
    let rig = Rig::new(1, 3, 3, &groups()).await;
    let mut leaders = BTreeSet::new();
    for group in groups() {
        leaders.insert(rig.commit(group, "a").await);
    }
    assert_eq!(leaders.len(), 3, "who gives a group its voters leads it first");
    for group in groups() {
        rig.reaches(&[1, 2, 3], group, "a").await;
    }
    sleep(Duration::from_secs(1)).await;
    let terms: Vec<u64> = groups().iter().map(|group| rig.status(1, *group).term).collect();
    let before = (rig.calls(CallKind::Heartbeats), rig.calls(CallKind::Append));

    sleep(Duration::from_secs(4)).await;
    let beats = rig.calls(CallKind::Heartbeats) - before.0;
    // 20 ticks, three nodes, two peers each.
    assert!((114..=126).contains(&beats), "{beats} messages");
    assert_eq!(rig.calls(CallKind::Append), before.1, "nothing else is said");
    let now: Vec<u64> = groups().iter().map(|group| rig.status(1, *group).term).collect();
    assert_eq!(terms, now, "and nobody thinks of an election");
}

#[tokio::test(start_paused = true)]
async fn one_group_that_is_not_there_holds_up_no_other() {
    let rig = Rig::new(2, 3, 3, &[1, 2, 3]).await;
    for group in [1, 2, 3] {
        rig.commit(group, "a").await;
    }
    rig.groups(2).close(2).await;
    sleep(Duration::from_secs(5)).await;
    let terms = [1, 3].map(|group| rig.status(1, group).term);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(terms, [1, 3].map(|group| rig.status(1, group).term));
    rig.commit_but(2, "b", &[2]).await;
}

#[tokio::test(start_paused = true)]
async fn all_leaders_of_a_node_that_dies_are_replaced_within_the_time() {
    let mut rig = Rig::new(3, 3, 3, &groups()).await;
    for group in groups() {
        rig.commit(group, "a").await;
    }
    rig.crash(1).await;
    sleep(Duration::from_millis(2_300)).await;
    let late = groups().into_iter().filter(|group| rig.leader_now(*group, &[]).is_none());
    let late: Vec<u16> = late.collect();
    assert!(late.len() <= 4, "votes are split now and then, not so often: {late:?}");
    for group in groups() {
        rig.leader(group).await;
    }
    rig.start(1).await;
    for group in groups() {
        rig.commit(group, "b").await;
        rig.reaches(&[1, 2, 3], group, "b").await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_is_told_with_the_next_entry_or_heartbeat() {
    let rig = Rig::new(4, 3, 3, &[1]).await;
    rig.commit(1, "first").await;
    rig.reaches(&[1, 2, 3], 1, "first").await;
    sleep(Duration::from_secs(1)).await;
    let before = rig.calls(CallKind::Append);
    for n in 0..20 {
        rig.commit(1, &format!("{n}")).await;
    }
    assert_eq!(rig.calls(CallKind::Append) - before, 40, "an entry is one call to each of two");
    // One heartbeat later they know of the last, and nothing more was said.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(rig.calls(CallKind::Append) - before, 40);
    let applied = [1, 2, 3].map(|node| rig.status(node, 1).applied);
    assert_eq!(applied[0], rig.status(1, 1).last);
    assert!(applied.iter().all(|at| *at == applied[0]), "{applied:?}");
}
