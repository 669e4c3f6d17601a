//! Copies are taken while the log goes on, and every damaged one is refused.

mod rig;

use rig::{STORE, batch, bodies, open, options};
use tidegate_store::backup::{BackupError, LIST_NAME, restore, verify};
use tidegate_store::{Disk, Kind, Log, SimDisk};

/// A log of several segments with an unsynced tail, and what is durable of it.
fn source() -> (Log<SimDisk>, Vec<Vec<u8>>) {
    let (mut log, _) = open(&SimDisk::new(1)).expect("new");
    for i in 0..20u8 {
        log.append(&[&batch(&[&[i; 900]])]).expect("room");
    }
    log.sync().expect("works");
    log.set_manifest(Vec::new(), b"mine".to_vec()).expect("works");
    let durable = bodies(&log);
    log.append(&[&batch(&[b"not durable"])]).expect("room");
    (log, durable)
}

#[test]
fn a_copy_holds_what_was_durable_when_it_was_asked_for() {
    let (mut log, durable) = source();
    let backup = log.backup();
    for i in 0..20u8 {
        log.append(&[&batch(&[&[i; 900]])]).expect("room");
    }
    log.sync().expect("works");
    // Nothing of it goes while it waits.
    assert_eq!(log.remove_before(log.end()).expect("works").segments, 0);
    let (to, mut told) = (SimDisk::new(2), 0);
    let bytes = backup.bytes();
    let listing = backup.copy_to(&to, |bytes| told += bytes).expect("room");
    assert_eq!((listing.store, told), (STORE, bytes));
    assert!(log.remove_before(log.end()).expect("works").segments > 0);
    to.crash();
    assert_eq!(verify(&to).expect("whole"), listing);

    let place = SimDisk::new(3);
    restore(&to, &place).expect("whole");
    place.crash();
    let (mut back, recovered) = open(&place).expect("a log");
    assert_eq!(recovered.cut, None);
    assert_eq!(bodies(&back), durable);
    assert_eq!(back.manifest().owner, b"mine");
    back.append(&[&batch(&[b"life goes on"])]).expect("room");
    back.sync().expect("works");
}

#[test]
fn every_damaged_byte_of_a_copy_is_found() {
    let (log, _) = source();
    let to = SimDisk::new(2);
    let listing = log.backup().copy_to(&to, |_| {}).expect("room");
    let mut names: Vec<_> = listing.files.iter().map(|file| file.name.clone()).collect();
    names.push(LIST_NAME.into());
    for name in names {
        for offset in (0..to.content(&name).expect("there").len()).step_by(7) {
            let bad = to.fork(1);
            bad.damage(&name, offset as u64, 0x20);
            let error = restore(&bad, &SimDisk::new(9)).expect_err("damaged");
            match error {
                BackupError::Damaged { name: said, .. } => assert_eq!(said, name),
                BackupError::Unfinished(_) => assert_eq!(name, LIST_NAME),
                error => panic!("{error}"),
            }
        }
    }
}

#[test]
fn an_unfinished_copy_and_an_occupied_place_are_refused() {
    let (log, _) = source();
    let to = SimDisk::new(2);
    log.backup().copy_to(&to, |_| {}).expect("room");
    assert!(matches!(log.backup().copy_to(&to, |_| {}), Err(BackupError::NotEmpty(_))));
    assert!(matches!(restore(&to, &to.fork(1)), Err(BackupError::NotEmpty(_))));
    to.remove(LIST_NAME).expect("there");
    assert!(matches!(verify(&to), Err(BackupError::Unfinished(_))));
}

#[test]
fn an_inspection_sees_all_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let (mut log, _) = Log::open(disk.clone(), options()).expect("new");
    for i in 0..20u8 {
        log.append(&[&batch(&[&[i; 900]])]).expect("room");
    }
    log.sync().expect("works");
    log.append(&[&batch(&[&[9; 300]])]).expect("room");
    let end = log.durable();
    let newest = tidegate_store::segment::file_name(log.segments().last().expect("many").base.0);
    drop(log);
    disk.reopen();
    let torn = disk.content(&newest).expect("there").len() as u64 - 1;
    disk.damage(&newest, torn, 1);
    let operations = disk.operations();

    let seen = Log::inspect(disk.clone(), STORE).expect("a log");
    assert_eq!(seen.recovered.end, end);
    assert!(seen.recovered.cut.is_some());
    let mut scan = seen.reader.scan(seen.recovered.first).expect("there");
    let mut entries = 0;
    while let Some((_, record)) = scan.next_record().expect("undamaged") {
        entries += usize::from(record.kind == Kind::Entry);
    }
    assert_eq!(entries, 20);
    assert!(seen.segments.len() > 3);
    assert_eq!(disk.operations(), operations);
}

#[test]
fn a_copy_put_back_in_part_is_no_log() {
    let (log, durable) = source();
    let to = SimDisk::new(2);
    log.backup().copy_to(&to, |_| {}).expect("room");
    for nth in 1.. {
        let place = SimDisk::new(nth);
        place.plant(nth, tidegate_store::disk::Fault::PowerCut);
        let whole = restore(&to, &place).is_ok();
        place.crash();
        match open(&place) {
            Ok((log, recovered)) if recovered.created => assert!(log.end().0 < 100 && !whole),
            Ok((log, _)) => assert_eq!(bodies(&log), durable),
            Err(_) => assert!(!whole),
        }
        if whole {
            return;
        }
    }
}
