use std::time::Duration;

use tidegate_store::disk::Fault;
use tokio::time::sleep;

use crate::rig::Rig;

#[tokio::test(start_paused = true)]
async fn power_loss_of_all_nodes_loses_nothing_that_was_acknowledged() {
    for seed in 0..6 {
        let mut rig = Rig::new(100 + seed, 3, 3, &[1, 2]).await;
        let mut acknowledged: Vec<(u16, String)> = Vec::new();
        for round in 0..4 {
            for i in 0..1 + rig.below(20) {
                let (group, payload) = (1 + (i % 2) as u16, format!("{round}-{i}"));
                rig.commit(group, &payload).await;
                acknowledged.push((group, payload));
            }
            // Some more are on their way when the lights go out.
            for i in 0..rig.below(10) {
                let leader = rig.leader(1).await;
                drop(rig.groups(leader).propose(1, format!("{round}-lost-{i}").into()));
            }
            sleep(Duration::from_micros(rig.below(3_000))).await;
            for node in 1..=3 {
                rig.crash(node).await;
            }
            for node in 1..=3 {
                rig.start(node).await;
            }
            for (group, payload) in &acknowledged {
                let leader = rig.leader(*group).await;
                assert!(rig.has(leader, *group, payload), "seed {seed}: {payload} of {group}");
            }
        }
        rig.commit(1, "end").await;
        rig.reaches(&[1, 2, 3], 1, "end").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_restarts_within_the_second_leads_in_a_new_term_or_not_at_all() {
    for seed in 0..4 {
        let mut rig = Rig::new(200 + seed, 3, 3, &[1]).await;
        for round in 0..5 {
            let leader = rig.commit(1, &format!("a{round}")).await;
            let term = rig.status(leader, 1).term;
            drop(rig.groups(leader).propose(1, format!("b{round}").into()));
            sleep(Duration::from_micros(rig.below(5_000))).await;
            rig.crash(leader).await;
            sleep(Duration::from_millis(rig.below(900))).await;
            rig.start(leader).await;
            let next = rig.commit(1, &format!("c{round}")).await;
            assert!(rig.status(next, 1).term > term, "a term has one leadership");
            rig.reaches(&[1, 2, 3], 1, &format!("c{round}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_restart_one_after_the_other_lose_nothing() {
    let mut rig = Rig::new(300, 3, 3, &[1]).await;
    for round in 0..9 {
        rig.commit(1, &format!("{round}")).await;
        rig.restart(1 + round % 3).await;
    }
    rig.commit(1, "end").await;
    rig.reaches(&[1, 2, 3], 1, "end").await;
    assert_eq!(rig.machine(1, 1).payloads().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_ends_the_groups_and_says_so() {
    let mut rig = Rig::new(301, 3, 3, &[1]).await;
    let leader = rig.commit(1, "a").await;
    rig.disk(leader).plant(1, Fault::SyncError);
    drop(rig.groups(leader).propose(1, "b".into()));
    rig.until(1, "it has ended", || rig.status(leader, 1).failed.is_some()).await;
    assert!(!rig.status(leader, 1).leads);
    rig.commit_but(1, "c", &[leader]).await;
    rig.restart(leader).await;
    rig.reaches(&[leader], 1, "c").await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_reopened_while_the_log_still_writes_acknowledges_nothing_too_early() {
    // A demotion: the machine is thrown away, and a fresh one takes its place,
    // while entries are on their way to the disk; then the power fails.
    for seed in 0..6 {
        let mut rig = Rig::new(400 + seed, 3, 3, &[1]).await;
        let mut acknowledged = Vec::new();
        for round in 0..6 {
            let payload = format!("{round}");
            rig.commit(1, &payload).await;
            acknowledged.push(payload);
            let node = 1 + rig.below(3);
            for i in 0..3 {
                let leader = rig.leader(1).await;
                drop(rig.groups(leader).propose(1, format!("{round}-{i}").into()));
            }
            let before = rig.machine(node, 1).clone();
            let machine = rig.recorder(1);
            rig.groups(node).reopen(1, machine.clone()).await.expect("its log is good");
            before.close();
            rig.nodes.get_mut(&node).expect("runs").machines.insert(1, machine);
            if rig.below(2) == 0 {
                for node in 1..=3 {
                    rig.restart(node).await;
                }
            }
        }
        rig.commit(1, "end").await;
        rig.reaches(&[1, 2, 3], 1, "end").await;
        for payload in acknowledged {
            assert!((1..=3).all(|node| rig.has(node, 1, &payload)), "seed {seed}: {payload}");
        }
    }
}
