//! Whatever a crash takes, it takes nothing that was durable.

mod rig;

use rig::{Dice, Ended, Ledger, open, survive};
use tidegate_store::disk::Fault;
use tidegate_store::{AppendError, Batch, Kind, OpenError, SimDisk};

#[test]
fn power_cuts_at_random_moments_lose_nothing_durable() {
    for seed in 0..300 {
        if let Err(error) = survive(seed, 20, |_| {}) {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn a_power_cut_at_every_single_operation_loses_nothing_durable() {
    for seed in 0..6 {
        for nth in 1..=150 {
            let disk = SimDisk::new(seed * 1000 + nth);
            disk.plant(nth, Fault::PowerCut);
            let mut ledger = Ledger { owner: vec![Vec::new()], ..Ledger::default() };
            if let Ok((mut log, _)) = open(&disk) {
                while let Ended::Done = ledger.work(&mut log, &mut Dice(seed), 100) {}
            }
            disk.crash();
            let (log, _) = open(&disk).unwrap_or_else(|e| panic!("{seed}, {nth}: {e}"));
            ledger.check(&log).unwrap_or_else(|e| panic!("{seed}, {nth}: {e}"));
            // What recovery returned is durable itself.
            drop(log);
            disk.crash();
            let (log, recovered) = open(&disk).unwrap_or_else(|e| panic!("{seed}, {nth}: {e}"));
            assert_eq!(recovered.cut, None, "{seed}, {nth}");
            ledger.check(&log).unwrap_or_else(|e| panic!("{seed}, {nth}, again: {e}"));
        }
    }
}

/// The checker is checked: the planted defect has to be caught.
#[test]
fn a_disk_that_skips_directory_syncs_is_caught() {
    let caught = (0..50).any(|seed| survive(seed, 20, SimDisk::skip_dir_syncs).is_err());
    assert!(caught);
}

/// The same for an owner who calls durable what was only written.
#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    let caught = (0..50).any(|seed| {
        let disk = SimDisk::new(seed);
        let mut ledger = Ledger { owner: vec![Vec::new()], ..Ledger::default() };
        let (mut log, _) = open(&disk).expect("new");
        disk.plant(40, Fault::PowerCut);
        let mut dice = Dice(seed);
        let mut acknowledged = log.end();
        while let Ended::Done = ledger.work(&mut log, &mut dice, 1) {
            acknowledged = log.end();
        }
        ledger.durable = acknowledged;
        disk.crash();
        let (log, _) = open(&disk).expect("a crash is no damage");
        ledger.check(&log).is_err()
    });
    assert!(caught);
}

#[test]
fn a_failed_sync_ends_the_log_and_is_not_retried() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice(seed);
        let mut ledger = Ledger { owner: vec![Vec::new()], ..Ledger::default() };
        let (mut log, _) = open(&disk).expect("new");
        disk.plant(1 + dice.roll(80), Fault::SyncError);
        while let Ended::Done = ledger.work(&mut log, &mut dice, 100) {}

        let operations = disk.operations();
        assert!(log.sync().is_err());
        assert!(matches!(log.append(&[&rig::batch(&[b"x"])]), Err(AppendError::Fatal(_))));
        assert!(log.set_manifest(Vec::new(), Vec::new()).is_err());
        assert!(log.remove_before(log.end()).is_err());
        assert_eq!(disk.operations(), operations, "the disk is left alone");

        // The page cache still shows what the device never got.
        drop(log);
        disk.reopen();
        let (log, _) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        ledger.check(&log).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        drop(log);
        disk.crash();
        let (log, _) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        ledger.check(&log).unwrap_or_else(|e| panic!("seed {seed}, lost what it had: {e}"));
    }
}

#[test]
fn a_failed_write_ends_the_log() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice(seed);
        let mut ledger = Ledger { owner: vec![Vec::new()], ..Ledger::default() };
        let (mut log, _) = open(&disk).expect("new");
        disk.plant(1 + dice.roll(80), Fault::WriteError);
        while let Ended::Done = ledger.work(&mut log, &mut dice, 100) {}
        assert!(log.sync().is_err());
        drop(log);
        disk.reopen();
        let (log, _) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        ledger.check(&log).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn a_full_disk_refuses_an_append_whole_and_goes_on_when_there_is_room() {
    for capacity in 600..1400 {
        let disk = SimDisk::new(capacity);
        let (mut log, _) = open(&disk).expect("new");
        let first = log.append(&[&rig::batch(&[&[1; 200]])]).expect("room").end;
        log.sync().expect("works");
        disk.set_capacity(capacity);
        let mut kept = vec![vec![1; 200]];
        let refused = loop {
            match log.append(&[&rig::batch(&[&[2; 90]]), &rig::batch(&[&[3; 40]])]) {
                Ok(_) => kept.extend([vec![2; 90], vec![3; 40]]),
                Err(AppendError::Full { bytes }) => break bytes,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(refused, 90 + 40 + 2 * 28);
        assert_eq!(log.sync().expect("nothing is wrong"), log.end());
        assert!(log.end() >= first);

        disk.set_capacity(u64::MAX);
        log.append(&[&rig::batch(&[b"after"])]).expect("there is room again");
        kept.push(b"after".to_vec());
        log.sync().expect("works");
        assert_eq!(rig::bodies(&log), kept);
        drop(log);
        disk.crash();
        assert_eq!(rig::bodies(&open(&disk).expect("intact").0), kept);
    }
}

#[test]
fn a_segment_that_found_no_room_leaves_no_trace() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).expect("new");
    let mut kept = 0;
    while log.end().0 + 500 < 4096 {
        log.append(&[&rig::batch(&[&[7; 400]])]).expect("room");
        kept += 1;
    }
    // Room for some of the next segment's head, not for all of it.
    let used = disk.content("0000000000000000.seg").expect("there").len() as u64;
    disk.set_capacity(used + 80);
    let big = rig::batch(&[&[8; 3000]]);
    assert!(matches!(log.append(&[&big]), Err(AppendError::Full { .. })));
    assert!(matches!(log.append(&[&big]), Err(AppendError::Full { .. })));
    disk.set_capacity(u64::MAX);
    log.append(&[&big]).expect("room");
    log.sync().expect("works");
    assert_eq!(log.segments().len(), 2);
    drop(log);
    disk.crash();
    let (log, recovered) = open(&disk).expect("intact");
    assert_eq!(recovered.cut, None);
    assert_eq!(rig::bodies(&log).len(), kept + 1);
}

#[test]
fn what_a_cut_tail_held_never_comes_back() {
    // Two groups unsynced, the first of them torn: both are cut. Then a group of
    // the first one's size is written. Were the second still there, it would fit.
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let (mut log, _) = open(&disk).expect("new");
        let at = log.end().0 + 64;
        log.append(&[&rig::batch(&[b"first"])]).expect("room");
        log.append(&[&rig::batch(&[b"second"])]).expect("room");
        drop(log);
        disk.reopen();
        disk.damage("0000000000000000.seg", at + 50, 1);
        let (mut log, recovered) = open(&disk).expect("a torn tail");
        assert!(recovered.cut.is_some());
        log.append(&[&rig::batch(&[b"fresh"])]).expect("room");
        log.sync().expect("works");
        drop(log);
        disk.crash();
        let (log, _) = open(&disk).expect("intact");
        assert_eq!(rig::bodies(&log), [b"fresh".to_vec()], "seed {seed}");
    }
}

#[test]
fn the_newest_vote_outlives_its_segment() {
    let disk = SimDisk::new(3);
    let (mut log, _) = open(&disk).expect("new");
    let mut votes = Batch::new();
    for partition in 0..64 {
        votes.push(Kind::Vote, 0, partition, 5, 0, |out| out.extend_from_slice(b"me"));
        votes.push(Kind::Compacted, 0, partition, 4, 100, |_| {});
    }
    log.append(&[&votes]).expect("room");
    for _ in 0..40 {
        log.append(&[&rig::batch(&[&[1; 1000]])]).expect("room");
    }
    log.sync().expect("works");
    let removed = log.remove_before(log.end()).expect("works");
    assert!(removed.segments > 5);
    drop(log);
    disk.crash();
    let (log, _) = open(&disk).expect("intact");
    assert!(log.first().0 > 20_000);
    for partition in 0..64 {
        let vote = log.vote(partition).expect("carried");
        assert_eq!((vote.term, &vote.body[..]), (5, &b"me"[..]));
        let point = log.compacted(partition).expect("carried");
        assert_eq!((point.term, point.index), (4, 100));
    }
}

#[test]
fn an_opened_log_that_lost_power_at_once_opens_again() {
    let disk = SimDisk::new(4);
    for nth in 1..10 {
        disk.plant(nth, Fault::PowerCut);
        match open(&disk) {
            Ok(_) | Err(OpenError::Io { .. }) => {}
            Err(error) => panic!("{nth}: {error}"),
        }
        disk.crash();
    }
    open(&disk).expect("nothing was ever wrong");
}
