use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_consensus::{GroupId, META, OpenError, ProposeError, ReadError, Role};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::Rig;

#[tokio::test(start_paused = true)]
async fn a_group_elects_commits_and_answers_with_what_was_applied() {
    for nodes in [1, 3, 5] {
        let rig = Rig::new(nodes, nodes, nodes, &[META]).await;
        let leader = rig.leader(META).await;
        assert_eq!(rig.propose(leader, META, "a").await, Ok(b"1".to_vec()));
        assert_eq!(rig.propose(leader, META, "b").await, Ok(b"2".to_vec()));
        let all: Vec<u64> = (1..=nodes).collect();
        rig.reaches(&all, META, "b").await;
        let status = rig.status(leader, META);
        assert_eq!((status.leader, status.role), (Some(leader), Role::Leader));
        assert_eq!(status.voters, std::slice::from_ref(&all));
        for node in all.into_iter().filter(|node| *node != leader) {
            let refused = rig.propose(node, META, "c").await;
            assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader) }));
            assert_eq!(
                rig.groups(node).read_index(META).await,
                Err(ReadError::NotLeader { leader: Some(leader) })
            );
            assert!(!rig.status(node, META).leads);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn proposals_are_taken_in_the_order_of_the_calls() {
    let rig = Rig::new(7, 3, 3, &[3]).await;
    let leader = rig.leader(3).await;
    let names: Vec<String> = (0..500).map(|i| format!("p{i}")).collect();
    // Asked for in order, and waited for in none.
    let mut answers = tokio::task::JoinSet::new();
    for name in &names {
        answers.spawn(rig.groups(leader).propose(3, name.clone().into()));
    }
    while let Some(answer) = answers.join_next().await {
        answer.expect("no panic").expect("it leads");
    }
    assert_eq!(rig.machine(leader, 3).payloads(), names);
}

#[tokio::test(start_paused = true)]
async fn commits_survive_the_loss_of_the_leader() {
    for (seed, nodes) in [(1, 3), (2, 5)] {
        let mut rig = Rig::new(seed, nodes, nodes, &[1]).await;
        let leader = rig.commit(1, "before").await;
        let lost = Instant::now();
        rig.crash(leader).await;
        let next = rig.leader(1).await;
        let failover = lost.elapsed();
        assert!(failover < Duration::from_millis(2_300), "{failover:?}");
        assert!(rig.has(next, 1, "before"), "it leads with all that was committed");
        rig.commit(1, "after").await;
        rig.start(leader).await;
        rig.reaches(&[leader], 1, "after").await;
        assert_eq!(rig.machine(leader, 1).payloads(), ["before", "after"]);
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_closed_connection_an_election_begins_when_the_lease_is_over() {
    const GROUPS: [GroupId; 4] = [META, 1, 2, 3];
    let mut late = Vec::new();
    for (seed, nodes) in [(11, 3), (12, 3), (13, 5)] {
        let mut rig = Rig::new(seed, nodes, nodes, &GROUPS).await;
        for group in GROUPS {
            rig.commit(group, "before").await;
        }
        let dead = rig.leader(META).await;
        let led = GROUPS.map(|group| (group, rig.status(dead, group)));
        let lost = Instant::now();
        rig.crash(dead).await;
        rig.nodes.values().for_each(|node| node.groups.lost(dead));
        for (group, _) in led.iter().filter(|(_, status)| status.leads) {
            rig.leader(*group).await;
            let failover = lost.elapsed();
            late.extend((failover >= Duration::from_millis(1_300)).then_some(failover));
            rig.commit(*group, "after").await;
        }
        for (group, before) in led.iter().filter(|(_, status)| !status.leads) {
            let now = rig.status(rig.leader(*group).await, *group);
            assert_eq!((now.term, now.leader), (before.term, before.leader), "{group}");
        }
    }
    // A vote that is split costs another round, and is rare.
    assert!(late.len() <= 1, "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_others_hear_stays_whoever_has_lost_it() {
    let rig = Rig::new(14, 3, 3, &[1]).await;
    let leader = rig.commit(1, "before").await;
    let other = 1 + leader % 3;
    let term = rig.status(leader, 1).term;
    // It comes back to all of them.
    rig.nodes.values().for_each(|node| node.groups.lost(leader));
    sleep(Duration::from_secs(3)).await;
    rig.commit(1, "between").await;
    assert_eq!(rig.status(leader, 1).term, term);
    // It does not come back to one, for longer than a lease.
    rig.faults(|faults| faults.cut.extend([(leader, other), (other, leader)]));
    rig.groups(other).lost(leader);
    sleep(Duration::from_secs(3)).await;
    assert_eq!((rig.status(leader, 1).term, rig.leader(1).await), (term, leader));
    rig.heal();
    rig.commit(1, "after").await;
    rig.reaches(&[1, 2, 3], 1, "after").await;
    assert_eq!(rig.status(leader, 1).term, term);
}

#[tokio::test(start_paused = true)]
async fn silence_is_that_of_all_leaders_before_the_present_one() {
    let mut rig = Rig::new(15, 3, 3, &[META]).await;
    let old = rig.commit(META, "before").await;
    let (of_old, third) = (rig.status(old, META).term, 1 + old % 3);
    sleep(Duration::from_secs(5)).await;
    let silence = rig.groups(third).silence(META, old, of_old).await.expect("its term");
    assert!(silence >= Duration::from_secs(5), "nobody led before: {silence:?}");
    assert_eq!(rig.groups(third).silence(META, old, of_old + 1).await, None, "not yet");
    let now = Instant::now();
    rig.crash(old).await;
    let new = rig.leader_but(META, &[old]).await;
    let of_new = rig.status(new, META).term;
    sleep(Duration::from_secs(1)).await;
    for node in (1..=3).filter(|node| *node != old) {
        let silence = rig.groups(node).silence(META, new, of_new).await.expect("its term");
        assert!(silence >= Instant::now() - now, "{node}: {silence:?}");
        // Not what the present leader says.
        assert!(silence < Instant::now() - now + Duration::from_millis(250), "{silence:?}");
    }
    // A new process does not know what the one before it has confirmed.
    let again = (1..=3).find(|node| ![old, new].contains(node)).expect("three");
    let began = Instant::now();
    rig.restart(again).await;
    rig.until(META, "it follows", || rig.status(again, META).term >= of_new).await;
    let silence = rig.groups(again).silence(META, new, of_new).await.expect("its term");
    assert!(silence <= Instant::now() - began, "{silence:?}");
}

#[tokio::test(start_paused = true)]
async fn a_minority_commits_nothing_and_reads_nothing() {
    let rig = Rig::new(3, 5, 5, &[1]).await;
    let old = rig.commit(1, "before").await;
    let with = 1 + old % 5;
    // The leader and one more on this side, three on the other.
    rig.faults(|faults| {
        for here in [old, with] {
            for there in (1..=5).filter(|node| ![old, with].contains(node)) {
                faults.cut.extend([(here, there), (there, here)]);
            }
        }
    });
    let lost = rig.groups(old).propose(1, "minority".into());
    let lost = tokio::spawn(lost);
    assert!(rig.groups(old).read_index(1).await.is_err());
    let new = rig.commit_but(1, "majority", &[old, with]).await;
    assert_ne!(new, old);
    sleep(Duration::from_secs(5)).await;
    assert!((1..=5).all(|node| !rig.has(node, 1, "minority")));
    assert!(!lost.is_finished(), "nobody knows what will become of it");
    // Its lease is over: it takes nothing more.
    let late = rig.propose(old, 1, "late").await;
    assert_eq!(late, Err(ProposeError::NotLeader { leader: None }));

    rig.heal();
    rig.reaches(&[1, 2, 3, 4, 5], 1, "majority").await;
    assert_eq!(lost.await.expect("no panic"), Err(ProposeError::Lost));
    assert!((1..=5).all(|node| !rig.has(node, 1, "minority") && !rig.has(node, 1, "late")));
    assert!(!rig.status(old, 1).leads);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_cut_off_does_not_depose_the_leader_when_it_is_back() {
    let rig = Rig::new(4, 3, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    let term = rig.status(leader, 1).term;
    let cut = 1 + leader % 3;
    rig.isolate(cut);
    for i in 0..5 {
        rig.commit_but(1, &format!("b{i}"), &[cut]).await;
        sleep(Duration::from_secs(2)).await;
    }
    rig.heal();
    rig.reaches(&[cut], 1, "b4").await;
    sleep(Duration::from_secs(2)).await;
    let status = rig.status(leader, 1);
    assert_eq!((status.leads, status.term), (true, term), "pre-votes cost nothing");
}

#[tokio::test(start_paused = true)]
async fn who_hears_only_one_way_does_not_stop_the_group() {
    // A follower that hears nothing but is heard; then one that hears all and
    // is not heard.
    for deaf in [true, false] {
        let rig = Rig::new(5, 3, 3, &[1]).await;
        let leader = rig.commit(1, "a").await;
        let term = rig.status(leader, 1).term;
        let odd = 1 + leader % 3;
        rig.faults(|faults| {
            for other in (1..=3).filter(|node| *node != odd) {
                faults.cut.insert(if deaf { (other, odd) } else { (odd, other) });
            }
        });
        for i in 0..10 {
            rig.commit_but(1, &format!("b{i}"), &[odd]).await;
            sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(rig.status(leader, 1).term, term, "deaf: {deaf}");
        rig.heal();
        rig.reaches(&[odd], 1, "b9").await;
    }
}

#[tokio::test(start_paused = true)]
async fn leads_is_true_only_after_the_first_entry_of_the_own_term() {
    let mut rig = Rig::new(6, 3, 3, &[1]).await;
    for round in 0..5 {
        let leader = rig.commit(1, &format!("r{round}")).await;
        let mut watches: Vec<_> = (1..=3)
            .filter(|node| *node != leader)
            .map(|node| (node, rig.groups(node).watch(1).expect("open")))
            .collect();
        rig.crash(leader).await;
        let seen = async {
            loop {
                for (node, watch) in &mut watches {
                    let status = watch.borrow_and_update().clone();
                    if status.leads {
                        assert_eq!(status.applied.expect("applied").term, status.term);
                        assert!(rig.has(*node, 1, &format!("r{round}")));
                        return;
                    }
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), seen).await.expect("a leader");
        rig.start(leader).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_sees_what_was_committed_anywhere_before_it() {
    let rig = Rig::new(8, 3, 3, &[1]).await;
    let old = rig.commit(1, "a").await;
    rig.isolate(old);
    let new = rig.commit_but(1, "b", &[old]).await;
    // Both think that they lead; one alone may answer.
    assert!(rig.status(old, 1).leads || rig.status(old, 1).role != Role::Leader);
    assert!(rig.groups(old).read_index(1).await.is_err());
    let read = rig.groups(new).read_index(1).await.expect("a quorum");
    assert!(rig.status(new, 1).applied >= Some(read));
    assert!(rig.has(new, 1, "b"));
}

#[tokio::test(start_paused = true)]
async fn a_group_is_opened_once_and_reopened_afterwards() {
    let rig = Rig::new(9, 3, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    let again = rig.groups(leader).open(1, Default::default(), rig.recorder(1)).await;
    assert!(matches!(again, Err(OpenError::Known(1))));
    let other = rig.groups(leader).reopen(2, rig.recorder(2)).await;
    assert!(matches!(other, Err(OpenError::Unknown(2))));
    assert_eq!(rig.propose(leader, 2, "x").await, Err(ProposeError::Closed));
    // A group with a past is not given another one.
    let voters = BTreeSet::from([1, 2, 3]);
    assert!(!rig.groups(leader).initialize(1, voters).await.expect("open"));

    rig.groups(leader).close(1).await;
    assert_eq!(rig.status(leader, 1).role, Role::Closed);
    assert_eq!(rig.propose(leader, 1, "x").await, Err(ProposeError::Closed));
    rig.commit_but(1, "b", &[leader]).await;
    let machine = rig.recorder(1);
    rig.groups(leader).reopen(1, machine.clone()).await.expect("closed in order");
    rig.until(1, "caught up", || machine.payloads() == ["a", "b"]).await;
}
