use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_consensus::StateMachine;
use tokio::time::sleep;

use crate::rig::Rig;

#[tokio::test(start_paused = true)]
async fn the_last_of_three_goes_on_alone_when_it_is_told_to() {
    for seed in 0..4 {
        let mut rig = Rig::new(400 + seed, 4, 3, &[1]).await;
        for i in 0..20 {
            rig.commit(1, &format!("{i}")).await;
        }
        rig.reaches(&[1, 2, 3], 1, "19").await;
        let left = 1 + rig.leader(1).await % 3;
        for gone in (1..=3).filter(|node| *node != left) {
            rig.crash(gone).await;
        }
        sleep(Duration::from_secs(5)).await;
        assert!(!rig.status(left, 1).leads, "one of three is no majority");

        let (term, machine) = (rig.status(left, 1).term, rig.recorder(1));
        let forced = rig.groups(left).force(1, None, machine.clone()).await;
        assert!(forced.expect("the disk is fine").term > term);
        rig.nodes.get_mut(&left).expect("it runs").machines.insert(1, machine);
        assert_eq!(rig.commit(1, "alone").await, left);
        assert_eq!(rig.status(left, 1).voters, [[left]]);
        rig.restart(left).await;
        rig.commit(1, "again").await;

        // From here on it is a group like any other.
        rig.groups(left).add_learner(1, 4).await.expect("it leads");
        rig.reaches(&[4], 1, "again").await;
        rig.until(1, "it is known to be there", || rig.status(left, 1).lag(4) == Some(0)).await;
        let both = BTreeSet::from([left, 4]);
        rig.groups(left).change_voters(1, both).await.expect("it is near the end");
        rig.commit(1, "two").await;
        rig.reaches(&[left, 4], 1, "two").await;
        let whole = rig.machine(left, 1).payloads();
        assert_eq!(whole.len(), 23, "all that was acknowledged");
        assert_eq!(rig.machine(4, 1).payloads(), whole);
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_begins_again_from_what_a_node_without_a_vote_knows() {
    let mut rig = Rig::new(410, 4, 3, &[1]).await;
    for i in 0..20 {
        rig.commit(1, &format!("{i}")).await;
    }
    rig.reaches(&[1, 2, 3], 1, "19").await;
    let applied = rig.status(1, 1).applied.expect("20 entries");
    let entries = rig.groups(1).entries(1).expect("it is known");
    let mut source = rig.machine(1, 1).clone().snapshot(entries).await.expect("it does not fail");
    let mut state = Vec::new();
    let put = &mut |piece: &[u8]| {
        state.extend_from_slice(piece);
        Ok(())
    };
    source.write(put).expect("all of it is there");
    for gone in 1..=3 {
        rig.crash(gone).await;
    }
    let machine = rig.recorder(1);
    let forced = rig.groups(4).force(1, Some((applied, state.into())), machine.clone()).await;
    assert_eq!(forced.expect("the disk is fine").index, applied.index + 1);
    rig.nodes.get_mut(&4).expect("it runs").machines.insert(1, machine);
    rig.commit(1, "alone").await;
    rig.restart(4).await;
    rig.commit(1, "again").await;
    assert_eq!(rig.machine(4, 1).payloads().len(), 22);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_has_nothing_is_not_made_the_only_one() {
    let rig = Rig::new(420, 4, 3, &[1]).await;
    rig.commit(1, "a").await;
    let forced = rig.groups(4).force(1, None, rig.recorder(1)).await;
    assert!(forced.is_err_and(|error| error.to_string().contains("has no entry")));
}
