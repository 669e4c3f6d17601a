//! Damage to what was durable is refused; a torn tail is cut.

mod rig;

use rig::{STORE, batch, bodies, open, options};
use tidegate_store::segment::{SEGMENT_HEADER_BYTES, file_name};
use tidegate_store::{Log, OpenError, Options, PartitionPoint, Position, ReadError, SimDisk};

const FIRST: &str = "0000000000000000.seg";

/// Four durable groups of which the fourth is not proven, and one only written.
/// With the position up to which all is proven.
fn five_groups() -> (SimDisk, Vec<Vec<u8>>, Position) {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).expect("new");
    let mut proven = log.durable();
    for i in 0..5u8 {
        proven = log.durable();
        log.append(&[&batch(&[&[i; 20], &[i; 31]])]).expect("room");
        if i < 4 {
            log.sync().expect("works");
        }
    }
    let kept = bodies(&log);
    drop(log);
    disk.reopen();
    (disk, kept, proven)
}

#[test]
fn every_flipped_bit_below_the_proven_position_is_refused() {
    let (disk, kept, proven) = five_groups();
    let content = disk.content(FIRST).expect("there");
    let proven_offset = proven.0 as usize + SEGMENT_HEADER_BYTES;
    let mut cuts = 0;
    for offset in 0..content.len() {
        for mask in [1, 0x80, 0xff] {
            let disk = disk.fork(7);
            disk.damage(FIRST, offset as u64, mask);
            match open(&disk) {
                Err(OpenError::Corrupt { proven: said, .. }) => {
                    assert!(offset < proven_offset, "offset {offset} was not proven");
                    assert_eq!(said, proven);
                }
                Err(OpenError::Header { .. }) => assert!(offset < SEGMENT_HEADER_BYTES),
                Err(error) => panic!("offset {offset}: {error}"),
                Ok((log, recovered)) => {
                    assert!(offset >= proven_offset, "offset {offset} was durable");
                    assert_eq!(recovered.cut.expect("something is wrong").at, log.end());
                    let found = bodies(&log);
                    assert_eq!(found, kept[..found.len()]);
                    assert_eq!(log.end(), proven, "the damaged group is the last");
                    cuts += 1;
                }
            }
        }
    }
    assert_eq!(cuts, 3 * (content.len() - proven_offset), "each byte of the tail");
}

#[test]
fn refusing_changes_nothing() {
    let (disk, ..) = five_groups();
    disk.damage(FIRST, 150, 4);
    let before = disk.content(FIRST);
    let operations = disk.operations();
    let error = open(&disk).expect_err("damaged");
    assert_eq!(disk.operations(), operations);
    assert_eq!(disk.content(FIRST), before);
    let said = error.to_string();
    for part in [FIRST, "offset", "had been durable", "restore a backup"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn every_torn_length_of_the_tail_is_cut_and_no_more() {
    let (disk, kept, proven) = five_groups();
    let content = disk.content(FIRST).expect("there");
    for length in 0..=content.len() {
        let torn = SimDisk::new(1);
        torn.put(FIRST, &content[..length]);
        match open(&torn) {
            Ok((log, recovered)) if recovered.created => {
                // Shorter than the head of the first segment: nothing was there.
                assert!(length < SEGMENT_HEADER_BYTES + 44);
                assert!(bodies(&log).is_empty());
            }
            Ok((log, recovered)) => {
                let end = log.end().0 as usize + SEGMENT_HEADER_BYTES;
                assert_eq!(length - end, recovered.cut.map_or(0, |cut| cut.bytes as usize));
                let found = bodies(&log);
                assert_eq!(found, kept[..found.len()]);
                // A cut file proves less, so it may be shorter; with the header
                // of the last group all that it proves has to be there.
                if length >= proven.0 as usize + SEGMENT_HEADER_BYTES + 44 {
                    assert!(log.end() >= proven);
                }
            }
            Err(error) => panic!("length {length}: {error}"),
        }
    }
}

#[test]
fn every_zeroed_or_stale_sector_of_the_tail_is_cut() {
    // A durable part, then a long unsynced one over many sectors.
    let disk = SimDisk::new(1);
    let (mut log, _) = Log::open(disk.clone(), Options::new(STORE).create()).expect("new");
    log.append(&[&batch(&[b"durable"])]).expect("room");
    let durable = log.sync().expect("works");
    for i in 0..30u8 {
        log.append(&[&batch(&[&vec![i; 40 * i as usize]])]).expect("room");
    }
    let kept = bodies(&log);
    drop(log);
    let content = disk.content(FIRST).expect("there");
    let durable = durable.0 as usize + SEGMENT_HEADER_BYTES;
    for sector in 0..content.len() / 512 {
        for fill in [0, 0xff, b'T'] {
            let mut torn = content.clone();
            let start = (sector * 512).max(durable);
            torn[start..(sector + 1) * 512].fill(fill);
            let disk = SimDisk::new(1);
            disk.put(FIRST, &torn);
            let (log, recovered) = open(&disk).expect("only the tail is torn");
            assert!(recovered.cut.is_some());
            let found = bodies(&log);
            assert_eq!(found, kept[..found.len()]);
            assert!(!found.is_empty(), "the durable one stays");
            assert!(log.end().0 as usize + SEGMENT_HEADER_BYTES <= start.max(durable));
        }
    }
}

#[test]
fn a_proven_end_makes_damage_to_the_last_group_corruption() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).expect("new");
    log.append(&[&batch(&[b"last words"])]).expect("room");
    log.prove().expect("works");
    drop(log);
    disk.reopen();
    disk.damage(FIRST, 150, 1);
    assert!(matches!(open(&disk), Err(OpenError::Corrupt { .. })));
}

#[test]
fn a_group_inside_a_payload_proves_nothing() {
    // A client publishes the very bytes of a group that proves a later position,
    // and the group with its message is torn.
    let donor = SimDisk::new(1);
    let (mut log, _) = open(&donor).expect("new");
    for _ in 0..3 {
        log.append(&[&batch(&[&[1; 500]])]).expect("room");
        log.prove().expect("works");
    }
    let evil = donor.content(FIRST).expect("there");
    drop(log);

    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).expect("new");
    let at = log.end().0 + SEGMENT_HEADER_BYTES as u64;
    log.append(&[&batch(&[&evil])]).expect("room");
    drop(log);
    disk.reopen();
    disk.damage(FIRST, at, 1);
    let (log, recovered) = open(&disk).expect("a torn tail");
    assert!(recovered.cut.is_some());
    assert!(bodies(&log).is_empty());
}

/// A log of several segments, all durable.
fn many_segments() -> (SimDisk, Vec<u64>) {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).expect("new");
    for i in 0..20u8 {
        log.append(&[&batch(&[&[i; 900]])]).expect("room");
    }
    log.sync().expect("works");
    let bases = log.segments().iter().map(|segment| segment.base.0).collect();
    drop(log);
    disk.reopen();
    (disk, bases)
}

#[test]
fn damage_in_an_older_segment_is_found_by_the_scan_and_by_the_reader() {
    let (disk, bases) = many_segments();
    let victim = file_name(bases[1]);
    let length = disk.content(&victim).expect("there").len();
    for offset in SEGMENT_HEADER_BYTES..length {
        let disk = disk.fork(1);
        disk.damage(&victim, offset as u64, 0x10);
        let (log, _) = open(&disk).expect("older segments are read later");
        let mut scan = log.scan(log.first()).expect("there");
        let error = loop {
            match scan.next_record() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("offset {offset} went unnoticed"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ReadError::Damage { .. }), "offset {offset}: {error}");
        assert!(scan.next_record().expect("ended").is_none());
    }
    for offset in 0..SEGMENT_HEADER_BYTES {
        let disk = disk.fork(1);
        disk.damage(&victim, offset as u64, 0x10);
        assert!(matches!(open(&disk), Err(OpenError::Header { .. })), "offset {offset}");
    }
}

#[test]
fn a_missing_or_shortened_segment_is_refused() {
    let (disk, bases) = many_segments();
    let names: Vec<_> = bases.iter().map(|&base| file_name(base)).collect();
    let rebuild = |change: &dyn Fn(usize, &[u8]) -> Option<Vec<u8>>| {
        let copy = SimDisk::new(1);
        for (i, name) in names.iter().enumerate() {
            if let Some(bytes) = change(i, &disk.content(name).expect("there")) {
                copy.put(name, &bytes);
            }
        }
        open(&copy)
    };
    rebuild(&|_, bytes| Some(bytes.to_vec())).expect("a copy is as good");
    let error = rebuild(&|i, bytes| (i != 0).then(|| bytes.to_vec())).expect_err("no first");
    assert!(matches!(error, OpenError::Lost { .. }), "{error}");
    let error = rebuild(&|i, bytes| (i != 1).then(|| bytes.to_vec())).expect_err("a gap");
    assert!(matches!(error, OpenError::Gap { .. }), "{error}");
    let shorter =
        |i: usize, bytes: &[u8]| Some(bytes[..bytes.len() - usize::from(i == 1)].to_vec());
    let error = rebuild(&shorter).expect_err("a byte short");
    assert!(matches!(error, OpenError::Gap { .. }), "{error}");
    let longer = |i: usize, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.extend_from_slice(&[0; 3][..if i == 1 { 3 } else { 0 }]);
        Some(bytes)
    };
    let error = rebuild(&longer).expect_err("bytes too many");
    assert!(matches!(error, OpenError::Gap { .. }), "{error}");
}

#[test]
fn a_newest_segment_that_vanished_is_missed_by_the_manifest() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).expect("new");
    for i in 0..20u8 {
        log.append(&[&batch(&[&[i; 900]])]).expect("room");
    }
    log.sync().expect("works");
    log.set_manifest(Vec::new(), b"owner".to_vec()).expect("works");
    let newest = file_name(log.segments().last().expect("many").base.0);
    drop(log);
    disk.reopen();
    tidegate_store::Disk::remove(&disk, &newest).expect("there");
    assert!(matches!(open(&disk), Err(OpenError::Lost { .. })));
}

#[test]
fn a_damaged_manifest_is_refused_bit_by_bit() {
    let (disk, _) = many_segments();
    let (mut log, _) = open(&disk).expect("intact");
    let point = PartitionPoint { partition: 1, snapshot: Position(100), compacted: 1 };
    log.set_manifest(vec![point], b"owner".to_vec()).expect("works");
    drop(log);
    for offset in 0..disk.content("manifest").expect("there").len() {
        let disk = disk.fork(1);
        disk.damage("manifest", offset as u64, 2);
        assert!(matches!(open(&disk), Err(OpenError::Header { .. })), "offset {offset}");
    }
}

#[test]
fn another_stores_log_and_a_lost_log_are_refused() {
    let (disk, _) = many_segments();
    let other = Log::open(disk, Options::new(STORE + 1));
    assert!(matches!(other, Err(OpenError::OtherStore { found: STORE, .. })));
    let absent = Log::open(SimDisk::new(1), Options::new(STORE));
    assert!(matches!(absent, Err(OpenError::Absent)));
    let empty = SimDisk::new(1);
    empty.put(FIRST, b"");
    let lost = Log::open(empty, Options::new(STORE));
    assert!(matches!(lost, Err(OpenError::Header { .. })));
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let (disk, bases) = many_segments();
    for base in [bases[0], bases[1], *bases.last().expect("many")] {
        let mut bytes = disk.content(&file_name(base)).expect("there");
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        let disk = disk.fork(1);
        disk.put(&file_name(base), &bytes);
        let error = Log::open(disk, options()).expect_err("newer");
        assert!(matches!(error, OpenError::Newer { .. }), "{error}");
        assert!(error.to_string().contains("format 2 is newer than 1"), "{error}");
    }
}
