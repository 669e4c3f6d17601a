//! Readers, scans, pins and removal, on a simulated disk and on a real one.

mod rig;

use rig::{STORE, batch, bodies, open};
use tidegate_store::{
    Batch, Disk, DiskFile, FileDisk, Kind, Log, Options, PartitionPoint, Position, ReadError,
    Record, SimDisk,
};

/// Twenty bodies of 900 bytes over several segments, and where they are.
fn twenty(disk: &SimDisk) -> (Log<SimDisk>, Vec<Position>) {
    let (mut log, _) = open(disk).expect("new");
    let mut at = Vec::new();
    for i in 0..20u8 {
        let appended = log.append(&[&Batch::new(), &batch(&[&[i; 900]])]).expect("room");
        assert_eq!(appended.bases.len(), 2);
        at.push(appended.bases[1]);
    }
    log.sync().expect("works");
    assert!(log.segments().len() > 3);
    (log, at)
}

#[test]
fn a_record_is_read_by_its_position_before_it_is_durable() {
    let (mut log, _) = open(&SimDisk::new(1)).expect("new");
    let mut reader = log.reader();
    let mut batch = Batch::new();
    batch.push(Kind::Entry, 3, 9, 2, 40, |out| out.extend_from_slice(b"one"));
    let second =
        batch.push(Kind::Snapshot, 0, 9, 2, 41, |out| out.extend_from_slice(&[7; 100_000]));
    let appended = log.append(&[&batch]).expect("room");
    assert!(reader.durable() < appended.end);
    let one = Record {
        kind: Kind::Entry,
        flags: 3,
        partition: 9,
        term: 2,
        index: 40,
        body: bytes::Bytes::from_static(b"one"),
    };
    assert_eq!(reader.read(appended.bases[0]).expect("there"), one);
    let two = reader.read(appended.bases[0].after(second.into())).expect("there");
    assert_eq!((two.kind, two.body.len()), (Kind::Snapshot, 100_000));
    let absent = reader.read(appended.end);
    assert!(matches!(absent, Err(ReadError::Absent { .. })));
    // What follows is visible to the same reader, through what it holds already.
    let next = log.append(&[&rig::batch(&[b"next"])]).expect("room");
    assert_eq!(&reader.read(next.bases[0]).expect("there").body[..], b"next");
}

#[test]
fn a_position_that_is_no_record_is_told_from_one() {
    let (log, at) = twenty(&SimDisk::new(1));
    let mut reader = log.reader();
    for off in 1..900 {
        let wrong = reader.read(at[3].after(off));
        assert!(matches!(wrong, Err(ReadError::Record { .. })), "{off}: {wrong:?}");
    }
}

#[test]
fn many_positions_are_read_in_one_go() {
    let (log, at) = twenty(&SimDisk::new(1));
    let mut seen = Vec::new();
    let picked = at.iter().copied().step_by(3);
    log.reader().read_each(picked, |_, record| seen.push(record.body[0])).expect("all there");
    assert_eq!(seen, [0, 3, 6, 9, 12, 15, 18]);
}

#[test]
fn a_scan_starts_at_any_record_and_a_scan_a_segment_sees_the_same() {
    let (log, at) = twenty(&SimDisk::new(1));
    for (i, &from) in at.iter().enumerate() {
        let found = rig::records(&log, from);
        assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), at[i..]);

        let mut parts = Vec::new();
        for mut scan in log.scans(from).expect("there") {
            while let Some((at, record)) = scan.next_record().expect("undamaged") {
                if record.kind == Kind::Entry {
                    parts.push((at, record.body.to_vec()));
                }
            }
        }
        assert_eq!(parts, found);
    }
    assert!(log.scan(log.end()).expect("empty").next_record().expect("ends").is_none());
    assert!(matches!(log.scan(log.end().after(1)), Err(ReadError::Absent { .. })));
}

#[test]
fn a_pinned_segment_and_all_after_it_stay() {
    let disk = SimDisk::new(1);
    let (mut log, at) = twenty(&disk);
    let bases: Vec<_> = log.segments().iter().map(|segment| segment.base).collect();
    let mut reader = log.reader();
    let pin = reader.clone().pin(bases[1].after(10)).expect("there");
    assert_eq!(pin.base(), bases[1]);
    assert_eq!(log.remove_before(log.end()).expect("works").segments, 1);
    assert_eq!(log.first(), bases[1]);
    assert_eq!(log.segments()[0].pins, 1);
    assert!(reader.pin(bases[0]).is_none());
    assert!(matches!(reader.read(at[0]), Err(ReadError::Absent { .. })));

    drop(pin);
    let newest = *bases.last().expect("many");
    assert_eq!(log.remove_before(log.end()).expect("works").segments, bases.len() - 2);
    assert_eq!(log.first(), newest);
    let mut names = disk.list().expect("works");
    names.retain(|name| name.ends_with(".seg"));
    assert_eq!(names, [tidegate_store::segment::file_name(newest.0)]);
}

#[test]
fn a_scan_goes_on_through_segments_that_were_removed_meanwhile() {
    let (mut log, _) = twenty(&SimDisk::new(1));
    let mut scan = log.scan(log.first()).expect("there");
    log.remove_before(log.end()).expect("works");
    let mut seen = 0;
    while let Some((_, record)) = scan.next_record().expect("its files are open") {
        seen += u32::from(record.kind == Kind::Entry);
    }
    assert_eq!(seen, 20);
}

#[test]
fn what_a_snapshot_of_the_manifest_needs_stays() {
    let (mut log, at) = twenty(&SimDisk::new(1));
    let point = |snapshot| vec![PartitionPoint { partition: 1, snapshot, compacted: 5 }];
    log.set_manifest(point(at[9]), b"mine".to_vec()).expect("durable");
    log.remove_before(log.end()).expect("works");
    assert!(log.first() <= at[9]);
    assert_eq!(log.manifest().replay_from(), at[9]);
    assert_eq!(log.manifest().owner, b"mine");
    assert_eq!(rig::records(&log, at[9]).len(), 11);
    assert!(log.set_manifest(point(at[0]), Vec::new()).is_err(), "gone");
    let ahead = log.append(&[&batch(&[b"not yet"])]).expect("room").end;
    assert!(log.set_manifest(point(ahead), Vec::new()).is_err(), "not durable");
}

#[test]
fn the_owner_notes_what_is_live() {
    let (mut log, _) = twenty(&SimDisk::new(1));
    let second = log.segments()[1];
    assert!(second.sealed && second.bytes() > 0);
    assert!(log.set_live(second.base, 900));
    assert_eq!(log.segments()[1].live_bytes, 900);
    assert!(!log.set_live(second.base.after(1), 900));
}

#[test]
fn a_large_append_is_whole_and_in_one_segment() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk).expect("new");
    let bodies_in: Vec<Vec<u8>> = (0..6).map(|i| vec![i; 20 << 20]).collect();
    let batches: Vec<Batch> = bodies_in.iter().map(|body| batch(&[body])).collect();
    let appended = log.append(&batches.iter().collect::<Vec<_>>()).expect("room");
    log.sync().expect("works");
    assert!(log.counters().groups > 2, "more than one group");
    drop(log);
    disk.reopen();
    let (log, _) = open(&disk).expect("intact");
    assert_eq!(log.end(), appended.end);
    assert!(bodies(&log) == bodies_in);
}

#[test]
fn the_counters_tell_what_the_disk_was_given() {
    let disk = SimDisk::new(1);
    let (log, _) = twenty(&disk);
    let counters = log.counters();
    assert_eq!(counters.written_bytes, disk.written());
    assert_eq!((counters.records, counters.record_bytes), (20, 20 * 928));
    assert_eq!(counters.segments as usize, log.segments().len());
}

/// A directory of its own, removed at the end.
struct Dir(std::path::PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_log_on_real_files_is_there_after_it_was_opened_again() {
    let dir = Dir::new("log");
    let open = || {
        let disk = FileDisk::open(&dir.0).expect("a directory");
        let options = Options::new(STORE).create().segment_bytes(64 << 10);
        Log::open(disk, options).expect("undamaged")
    };
    let (mut log, recovered) = open();
    assert!(recovered.created);
    let mut wrote = Vec::new();
    for i in 0..600u32 {
        // Many parts, more than one `pwritev` takes.
        let batches: Vec<Batch> = (0..i).map(|j| batch(&[&(i * 1000 + j).to_le_bytes()])).collect();
        log.append(&batches.iter().collect::<Vec<_>>()).expect("room");
        wrote.extend((0..i).map(|j| (i * 1000 + j).to_le_bytes().to_vec()));
        if i % 50 == 0 {
            log.sync().expect("works");
        }
    }
    log.set_manifest(Vec::new(), b"mine".to_vec()).expect("works");
    assert!(log.segments().len() > 10);
    assert!(log.space().expect("known").free > 0);
    drop(log);

    let (mut log, recovered) = open();
    assert_eq!((recovered.created, recovered.cut), (false, None));
    let mut found = Vec::new();
    let mut scan = log.scan(log.first()).expect("there");
    while let Some((_, record)) = scan.next_record().expect("undamaged") {
        found.push(record.body.to_vec());
    }
    assert!(found == wrote);
    assert_eq!(log.manifest().owner, b"mine");
    log.remove_before(log.end()).expect("works");
    drop(log);
    assert_eq!(open().0.segments().len(), 1);
}

#[test]
fn a_read_past_the_page_cache_is_the_same_at_every_offset() {
    let dir = Dir::new("direct");
    let disk = FileDisk::open(&dir.0).expect("a directory");
    let file = disk.create("file").expect("room");
    let content: Vec<u8> = (0..2_500_003u32).map(|i| (i % 251) as u8).collect();
    file.write_at(0, &[std::io::IoSlice::new(&content)]).expect("room");
    for offset in [0usize, 1, 511, 4095, 4096, 70_000, 1 << 20, 2_500_000, 2_500_003, 3_000_000] {
        for length in [0, 1, 700, 4096, 1_200_000] {
            let mut buf = vec![0xaa; length];
            let read = file.read_device_at(offset as u64, &mut buf).expect("works");
            let there = content.get(offset..).unwrap_or_default();
            assert_eq!(read, there.len().min(length), "{length} at {offset}");
            assert!(buf[..read] == there[..read], "{length} at {offset}");
        }
    }
}

#[test]
fn a_torn_tail_on_real_files_is_cut() {
    let dir = Dir::new("torn");
    let open = || {
        let disk = FileDisk::open(&dir.0).expect("a directory");
        Log::open(disk, Options::new(STORE).create()).expect("a torn tail at most")
    };
    let (mut log, _) = open();
    log.append(&[&batch(&[b"kept"])]).expect("room");
    let durable = log.sync().expect("works");
    log.append(&[&batch(&[&[5; 9000]])]).expect("room");
    drop(log);
    let path = dir.0.join("0000000000000000.seg");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("there");
    file.set_len(durable.0 + 64 + 5000).expect("cut");
    let (log, recovered) = open();
    assert_eq!(recovered.cut.map(|cut| (cut.at, cut.bytes)), Some((durable, 5000)));
    assert_eq!(log.end(), durable);
    drop(log);
    assert_eq!(std::fs::metadata(&path).expect("there").len(), durable.0 + 64);
    assert_eq!(open().1.cut, None);
}
