use std::time::Duration;

use tidegate_consensus::{ProposeError, TransferError};
use tokio::time::{Instant, sleep};

use crate::rig::Rig;

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_fast_and_without_loss() {
    let rig = Rig::new(1, 3, 3, &[1]).await;
    rig.commit(1, "0").await;
    for round in 1..10 {
        let from = rig.leader(1).await;
        let to = 1 + from % 3;
        rig.commit(1, &format!("{round}")).await;
        let begun = Instant::now();
        rig.groups(from).transfer_leadership(1, to).await.expect("it is in sync");
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
        rig.until(1, "it serves", || rig.status(to, 1).leads).await;
        assert_eq!(rig.leader(1).await, to);
    }
    rig.reaches(&[1, 2, 3], 1, "9").await;
    assert_eq!(rig.machine(1, 1).payloads().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn proposals_under_way_are_answered_and_new_ones_wait_for_the_successor() {
    let rig = Rig::new(2, 3, 3, &[1]).await;
    let from = rig.commit(1, "first").await;
    let to = 1 + from % 3;
    let before: Vec<_> = (0..50)
        .map(|i| tokio::spawn(rig.groups(from).propose(1, format!("a{i}").into())))
        .collect();
    let groups = rig.groups(from).clone();
    let handover = tokio::spawn(async move { groups.transfer_leadership(1, to).await });
    tokio::task::yield_now().await;
    let held = rig.propose(from, 1, "held").await;
    assert_eq!(held, Err(ProposeError::HandingOver));
    handover.await.expect("no panic").expect("in sync soon");
    for answer in before {
        answer.await.expect("no panic").expect("it was taken in before");
    }
    rig.until(1, "it serves", || rig.status(to, 1).leads).await;
    rig.propose(to, 1, "after").await.expect("it leads");
    rig.reaches(&[1, 2, 3], 1, "after").await;
    assert!(!rig.has(1, 1, "held"));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_behind_does_not_get_it_and_nothing_changes() {
    let rig = Rig::new(3, 3, 3, &[1]).await;
    let from = rig.commit(1, "a").await;
    let to = 1 + from % 3;
    let term = rig.status(from, 1).term;
    rig.isolate(to);
    rig.commit_but(1, "b", &[to]).await;
    let begun = Instant::now();
    let refused = rig.groups(from).transfer_leadership(1, to).await;
    assert_eq!(refused, Err(TransferError::Lagging));
    assert!(begun.elapsed() <= Duration::from_millis(60), "{:?}", begun.elapsed());
    rig.propose(from, 1, "c").await.expect("it leads as before");
    assert_eq!(rig.status(from, 1).term, term);
    assert_eq!(rig.groups(from).transfer_leadership(1, 9).await, Err(TransferError::NotVoter(9)));
    let other = (1..=3).find(|node| ![from, to].contains(node)).expect("three");
    assert_eq!(
        rig.groups(other).transfer_leadership(1, from).await,
        Err(TransferError::NotLeader { leader: Some(from) })
    );
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_dies_costs_an_election_and_no_more() {
    let mut rig = Rig::new(4, 3, 3, &[1]).await;
    let from = rig.commit(1, "a").await;
    let to = 1 + from % 3;
    sleep(Duration::from_millis(300)).await;
    let groups = rig.groups(from).clone();
    let handover = tokio::spawn(async move { groups.transfer_leadership(1, to).await });
    rig.crash(to).await;
    let result = handover.await.expect("no panic");
    assert!(matches!(result, Err(TransferError::NotTaken)), "{result:?}");
    rig.commit_but(1, "b", &[to]).await;
    rig.start(to).await;
    rig.reaches(&[1, 2, 3], 1, "b").await;
}
