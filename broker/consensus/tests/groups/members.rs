use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_consensus::{ChangeError, Role};
use tokio::time::sleep;

use crate::rig::Rig;

fn set<const N: usize>(nodes: [u64; N]) -> BTreeSet<u64> {
    BTreeSet::from(nodes)
}

#[tokio::test(start_paused = true)]
async fn a_learner_catches_up_votes_and_takes_anothers_place() {
    let rig = Rig::new(1, 4, 3, &[1]).await;
    for i in 0..20 {
        rig.commit(1, &format!("{i}")).await;
    }
    let leader = rig.leader(1).await;
    let groups = rig.groups(leader);
    let early = groups.change_voters(1, set([1, 2, 3, 4])).await;
    assert!(matches!(early, Err(ChangeError::NotMember { node: 4 })), "{early:?}");

    groups.add_learner(1, 4).await.expect("it leads");
    rig.reaches(&[4], 1, "19").await;
    assert_eq!(rig.status(4, 1).role, Role::Learner);
    assert_eq!(rig.status(leader, 1).learners, [4]);
    rig.until(1, "it is known to be there", || rig.status(leader, 1).lag(4) == Some(0)).await;

    // One that does not lead goes.
    let gone = 1 + leader % 3;
    let stay: BTreeSet<u64> = (1..=4).filter(|node| *node != gone).collect();
    groups.change_voters(1, stay.clone()).await.expect("all are near the end");
    let status = rig.status(leader, 1);
    assert_eq!(status.voters, [stay.iter().copied().collect::<Vec<_>>()]);
    assert!(status.learners.is_empty() && status.settled);
    rig.isolate(gone);
    rig.commit(1, "without").await;
    let stay: Vec<u64> = stay.into_iter().collect();
    rig.reaches(&stay, 1, "without").await;

    // With one more of the old ones away, the new voter's vote counts.
    let other = *stay.iter().find(|node| ![leader, 4].contains(node)).expect("three");
    rig.isolate(other);
    rig.commit_but(1, "by the new one", &[gone, other]).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_removed_steps_down_and_another_leads() {
    let rig = Rig::new(2, 3, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    let stay: BTreeSet<u64> = (1..=3).filter(|node| *node != leader).collect();
    rig.groups(leader).change_voters(1, stay.clone()).await.expect("all are in sync");
    let next = rig.commit_but(1, "b", &[leader]).await;
    assert!(stay.contains(&next));
    sleep(Duration::from_secs(3)).await;
    assert!(!rig.status(leader, 1).leads);
    assert!(!rig.status(next, 1).is_voter(leader));
}

#[tokio::test(start_paused = true)]
async fn voters_that_lag_hold_up_a_change_and_one_that_leaves_does_not() {
    let rig = Rig::new(3, 4, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    let lags = 1 + leader % 3;
    rig.groups(leader).add_learner(1, 4).await.expect("it leads");
    rig.reaches(&[4], 1, "a").await;
    rig.isolate(lags);
    let mut answers = Vec::new();
    for i in 0..1_100 {
        answers.push(rig.groups(leader).propose(1, format!("{i}").into()));
    }
    for answer in answers {
        answer.await.expect("it leads");
    }
    rig.reaches(&[4], 1, "1099").await;
    let change = rig.groups(leader).change_voters(1, set([1, 2, 3, 4])).await;
    assert!(
        matches!(change, Err(ChangeError::Lagging { node, entries: 1_100.. }) if node == lags),
        "{change:?}"
    );
    let without: BTreeSet<u64> = (1..=4).filter(|node| *node != lags).collect();
    rig.until(1, "4 has all", || rig.status(leader, 1).lag(4) == Some(0)).await;
    rig.groups(leader).change_voters(1, without).await.expect("who stays is in sync");
    rig.commit_but(1, "b", &[lags]).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_stops_half_way_goes_on_when_asked_again() {
    for seed in 0..6 {
        let mut rig = Rig::new(40 + seed, 5, 3, &[1]).await;
        let leader = rig.commit(1, "a").await;
        for node in [4, 5] {
            rig.groups(leader).add_learner(1, node).await.expect("it leads");
        }
        rig.reaches(&[4, 5], 1, "a").await;
        sleep(Duration::from_millis(500)).await;
        let groups = rig.groups(leader).clone();
        let change = tokio::spawn(async move { groups.change_voters(1, set([3, 4, 5])).await });
        sleep(Duration::from_micros(rig.below(6_000))).await;
        rig.crash(leader).await;
        // Nobody knows how far it came.
        let _ = change.await.expect("no panic");
        rig.start(leader).await;
        let done = async {
            loop {
                let leader = rig.leader(1).await;
                match rig.groups(leader).change_voters(1, set([3, 4, 5])).await {
                    Ok(()) => return,
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), done).await.expect("it goes on");
        rig.commit(1, "b").await;
        rig.reaches(&[3, 4, 5], 1, "b").await;
        let leader = rig.leader(1).await;
        assert_eq!(rig.status(leader, 1).voters, [vec![3, 4, 5]], "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_learner_is_removed_and_joins_again() {
    let rig = Rig::new(5, 4, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    for round in 0..3 {
        rig.groups(leader).add_learner(1, 4).await.expect("it leads");
        rig.groups(leader).add_learner(1, 4).await.expect("twice is once");
        let payload = format!("{round}");
        rig.commit(1, &payload).await;
        rig.reaches(&[4], 1, &payload).await;
        rig.groups(leader).remove_learner(1, 4).await.expect("it is no voter");
        assert!(rig.status(leader, 1).learners.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_was_given_up_comes_back_from_nothing() {
    let mut rig = Rig::new(6, 4, 3, &[1]).await;
    for i in 0..20 {
        rig.commit(1, &format!("{i}")).await;
    }
    let leader = rig.leader(1).await;
    let gone = 1 + leader % 3;
    rig.groups(leader).add_learner(1, 4).await.expect("it leads");
    rig.reaches(&[4], 1, "19").await;
    rig.until(1, "it is known to be there", || rig.status(leader, 1).lag(4) == Some(0)).await;
    let stay: BTreeSet<u64> = (1..=4).filter(|node| *node != gone).collect();
    rig.groups(leader).change_voters(1, stay.clone()).await.expect("all are near the end");
    let term = rig.status(gone, 1).term;

    rig.groups(gone).close(1).await;
    let index = rig.groups(gone).give_up(1).await.expect("the disk is fine");
    assert_eq!(rig.status(gone, 1).role, Role::Closed);
    assert!(index.last().is_none() && index.purged().is_none());
    assert_eq!(index.vote().map(|vote| vote.term), Some(term), "it does not vote twice");

    // A process that starts again finds nothing of it but the vote.
    rig.restart(gone).await;
    assert_eq!(rig.status(gone, 1).last, None);
    rig.commit(1, "meanwhile").await;
    let leader = rig.leader(1).await;
    rig.groups(leader).add_learner(1, gone).await.expect("it leads");
    rig.reaches(&[gone], 1, "meanwhile").await;
    let whole = rig.machine(leader, 1).payloads();
    assert_eq!(rig.machine(gone, 1).payloads(), whole, "from the first entry on");
}

/// One that was removed, and gave its replica up, has confirmed what a member that
/// was away lacks; that member believes that the old membership is in force.
#[tokio::test(start_paused = true)]
async fn a_replica_that_was_given_up_supports_nobody_who_lacks_what_it_had() {
    for seed in 0..4 {
        let mut rig = Rig::new(10 + seed, 4, 3, &[1]).await;
        let leader = rig.commit(1, "a").await;
        let (away, goes) = (1 + leader % 3, 1 + (leader + 1) % 3);
        rig.reaches(&[1, 2, 3], 1, "a").await;
        rig.groups(leader).add_learner(1, 4).await.expect("it leads");
        rig.until(1, "4 is there", || rig.status(leader, 1).lag(4) == Some(0)).await;
        rig.isolate(away);
        rig.commit_but(1, "by all but one", &[away]).await;
        let leader = rig.leader_but(1, &[away]).await;
        let stay = set([leader, away, 4]);
        rig.groups(leader).change_voters(1, stay).await.expect("all are near the end");
        rig.commit_but(1, "without who goes", &[away]).await;

        let index = rig.groups(goes).give_up(1).await.expect("it is closed");
        let machine = rig.recorder(1);
        rig.groups(goes).open(1, index, machine).await.expect("as for the first time");
        if seed % 2 == 0 {
            // The same from its log.
            rig.restart(goes).await;
        }
        rig.crash(leader).await;
        rig.crash(4).await;
        rig.heal();
        sleep(Duration::from_secs(10)).await;
        for node in [away, goes] {
            assert!(!rig.status(node, 1).leads, "seed {seed}: {node} leads without a quorum");
        }
        rig.start(leader).await;
        rig.start(4).await;
        rig.commit(1, "end").await;
        rig.reaches(&[leader, away, 4], 1, "end").await;
        assert!(rig.has(away, 1, "without who goes"), "seed {seed}");
    }
}
