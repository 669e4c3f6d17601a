use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_consensus::{CallKind, ChangeError, OpenError, Role, SnapshotError};
use tidegate_store::Disk;
use tidegate_store::disk::Fault;
use tokio::time::sleep;

use crate::rig::Rig;

/// Commits some, writes a snapshot at the leader and lets its log forget.
async fn compact(rig: &Rig, payloads: std::ops::Range<usize>, not: &[u64]) -> u64 {
    for i in payloads {
        // Large enough that a snapshot takes several chunks.
        rig.commit_but(1, &format!("{i}-{}", "x".repeat(20_000)), not).await;
    }
    let leader = rig.leader_but(1, not).await;
    let last = rig.groups(leader).snapshot(1).await.expect("room").expect("something");
    assert_eq!(rig.status(leader, 1).snapshot, Some(last));
    rig.groups(leader).purge(1, last.index).await.expect("open");
    rig.until(1, "forgotten", || rig.status(leader, 1).purged == Some(last)).await;
    leader
}

#[tokio::test(start_paused = true)]
async fn what_the_log_forgot_comes_back_from_the_snapshot_after_a_crash() {
    let mut rig = Rig::new(1, 3, 3, &[1]).await;
    let leader = compact(&rig, 0..20, &[]).await;
    rig.commit(1, "behind").await;
    for node in 1..=3 {
        rig.restart(node).await;
    }
    rig.commit(1, "end").await;
    rig.reaches(&[1, 2, 3], 1, "end").await;
    assert_eq!(rig.machine(leader, 1).installs(), 1);
    for node in 1..=3 {
        assert_eq!(rig.machine(node, 1).payloads().len(), 22);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lags_behind_the_log_is_sent_a_snapshot() {
    let mut rig = Rig::new(2, 3, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    let lags = 1 + leader % 3;
    rig.crash(lags).await;
    compact(&rig, 0..30, &[lags]).await;
    rig.commit(1, "behind").await;
    rig.start(lags).await;
    rig.reaches(&[lags], 1, "behind").await;
    assert_eq!(rig.machine(lags, 1).installs(), 1);
    assert!(rig.calls(CallKind::SnapshotChunk) >= 3, "in several pieces");
    // It is durable there: it needs no other to come back.
    rig.restart(lags).await;
    assert!(rig.machine(lags, 1).payloads().len() >= 31);
    rig.commit(1, "end").await;
    rig.reaches(&[lags], 1, "end").await;
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let mut rig = Rig::new(3, 3, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    let lags = 1 + leader % 3;
    rig.crash(lags).await;
    compact(&rig, 0..60, &[lags]).await;
    rig.faults(|faults| {
        faults.slow.insert(CallKind::SnapshotChunk, Duration::from_millis(100));
    });
    rig.start(lags).await;
    // About two of five chunks.
    rig.until(1, "under way", || rig.calls(CallKind::SnapshotChunk) >= 3).await;
    for _ in 0..3 {
        rig.isolate(lags);
        sleep(Duration::from_millis(500)).await;
        rig.heal();
        rig.faults(|faults| {
            faults.slow.insert(CallKind::SnapshotChunk, Duration::from_millis(100));
        });
        sleep(Duration::from_millis(300)).await;
    }
    rig.commit(1, "end").await;
    rig.reaches(&[lags], 1, "end").await;
    assert_eq!(rig.machine(lags, 1).installs(), 1);
    let chunks = rig.calls(CallKind::SnapshotChunk);
    assert!(chunks <= 5 + 4, "{chunks} chunks for five and what was lost on the way");
}

#[tokio::test(start_paused = true)]
async fn members_change_while_a_lagging_replica_gets_a_snapshot() {
    for seed in 0..6 {
        let mut rig = Rig::new(50 + seed, 5, 3, &[1]).await;
        let leader = rig.commit(1, "a").await;
        let lags = 1 + leader % 3;
        rig.crash(lags).await;
        compact(&rig, 0..30, &[lags]).await;
        rig.faults(|faults| {
            faults.slow.insert(CallKind::SnapshotChunk, Duration::from_millis(300));
        });
        rig.start(lags).await;
        rig.until(1, "under way", || rig.calls(CallKind::SnapshotChunk) >= 1).await;

        // A newcomer, which needs a snapshot too, comes in meanwhile.
        let leader = rig.leader_but(1, &[lags]).await;
        rig.groups(leader).add_learner(1, 4).await.expect("it leads");
        // Voters stay as they are while one that is to stay has not caught up.
        let with_it: BTreeSet<u64> = [1, 2, 3, 4].into();
        let change = rig.groups(leader).change_voters(1, with_it.clone()).await;
        assert!(matches!(change, Err(ChangeError::Lagging { .. })), "{change:?}");
        rig.commit(1, "meanwhile").await;

        if seed % 2 == 0 {
            // The receiver crashes on the way, at any point.
            sleep(Duration::from_millis(rig.below(1_500))).await;
            rig.restart(lags).await;
        }
        rig.heal();
        rig.reaches(&[lags, 4], 1, "meanwhile").await;
        assert!(rig.machine(4, 1).installs() >= 1);
        let done = async {
            loop {
                let leader = rig.leader(1).await;
                match rig.groups(leader).change_voters(1, with_it.clone()).await {
                    Ok(()) => return leader,
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        };
        let leader = tokio::time::timeout(Duration::from_secs(60), done).await.expect("in sync");
        assert_eq!(rig.status(leader, 1).voters, [vec![1, 2, 3, 4]]);
        rig.commit(1, "end").await;
        rig.reaches(&[1, 2, 3, 4], 1, "end").await;
        assert_eq!(rig.machine(lags, 1).payloads(), rig.machine(4, 1).payloads());
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_is_replaced_while_it_gets_a_snapshot() {
    let mut rig = Rig::new(60, 4, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    let lags = 1 + leader % 3;
    rig.groups(leader).add_learner(1, 4).await.expect("it leads");
    rig.crash(lags).await;
    compact(&rig, 0..30, &[lags, 4]).await;
    rig.faults(|faults| {
        faults.slow.insert(CallKind::SnapshotChunk, Duration::from_millis(500));
    });
    rig.start(lags).await;
    rig.until(1, "under way", || rig.calls(CallKind::SnapshotChunk) >= 1).await;
    let leader = rig.leader_but(1, &[lags]).await;
    rig.until(1, "4 is there", || rig.status(leader, 1).lag(4) == Some(0)).await;
    let without: BTreeSet<u64> = (1..=4).filter(|node| *node != lags).collect();
    rig.groups(leader).change_voters(1, without).await.expect("who stays is in sync");
    sleep(Duration::from_secs(10)).await;
    rig.heal();
    rig.commit_but(1, "end", &[lags]).await;
    let stay: Vec<u64> = (1..=4).filter(|node| *node != lags).collect();
    rig.reaches(&stay, 1, "end").await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_made_or_written_leaves_the_group_as_it_was() {
    let rig = Rig::new(4, 3, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    rig.machine(leader, 1).fail(true);
    let failed = rig.groups(leader).snapshot(1).await;
    assert!(matches!(failed, Err(ChangeError::Snapshot(_))), "{failed:?}");
    rig.machine(leader, 1).fail(false);
    for nth in 1..4 {
        rig.snapshot_disk(leader).plant(nth, Fault::WriteError);
        let failed = rig.groups(leader).snapshot(1).await;
        assert!(matches!(failed, Err(ChangeError::Snapshot(_))), "{nth}: {failed:?}");
    }
    rig.propose(leader, 1, "b").await.expect("it leads as before");
    assert_eq!(rig.status(leader, 1).snapshot, None);
    let last = rig.groups(leader).snapshot(1).await.expect("room").expect("something");
    assert_eq!(rig.status(leader, 1).applied, Some(last));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_snapshot_is_not_taken_for_one() {
    let mut rig = Rig::new(5, 3, 3, &[1]).await;
    let leader = compact(&rig, 0..5, &[]).await;
    let disk = rig.snapshot_disk(leader).clone();
    let name = disk.list().expect("works").pop().expect("one file");
    rig.crash(leader).await;
    disk.damage(&name, 30, 1);
    let refused = rig.try_start(leader).await.expect_err("its state is lost");
    assert!(matches!(refused, OpenError::Snapshot(SnapshotError::Damaged { .. })), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn snapshots_and_reopening_go_together() {
    let rig = Rig::new(6, 3, 3, &[1]).await;
    let leader = compact(&rig, 0..10, &[]).await;
    rig.commit(1, "behind").await;
    let machine = rig.recorder(1);
    rig.groups(leader).reopen(1, machine.clone()).await.expect("closed in order");
    rig.until(1, "caught up", || machine.payloads().len() == 11).await;
    assert_eq!(machine.installs(), 1);
    rig.until(1, "in the group", || rig.status(leader, 1).role != Role::Closed).await;
    assert!(rig.groups(leader).oldest().is_some());
}
