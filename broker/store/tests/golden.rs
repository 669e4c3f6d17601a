//! What format 1 looks like on disk, byte by byte. If a test here fails, data
//! of released versions can no longer be read, or older versions can no longer
//! read ours: that takes a new format number, not a new golden file.

use tidegate_store::backup::{LIST_NAME, verify};
use tidegate_store::{
    Batch, Disk, Kind, Log, Manifest, Options, PartitionPoint, Position, SimDisk, push_sole_voter,
};

const STORE: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
const FIRST: &str = "0000000000000000.seg";

const SEGMENT: &[u8] = include_bytes!("../golden/segment-1-first.seg");
const SEGMENT_NEXT: &[u8] = include_bytes!("../golden/segment-1-next.seg");
const MANIFEST: &[u8] = include_bytes!("../golden/manifest-1");
const LIST: &[u8] = include_bytes!("../golden/checksums-1");

/// One record of every kind, some twice, in two segments.
fn written() -> (SimDisk, Log<SimDisk>) {
    let disk = SimDisk::new(1);
    let options = Options::new(STORE).create().segment_bytes(4096);
    let (mut log, _) = Log::open(disk.clone(), options).expect("new");
    let mut batch = Batch::new();
    push_sole_voter(&mut batch, 3, 0xfeed);
    let body = |text: &'static [u8]| move |out: &mut Vec<u8>| out.extend_from_slice(text);
    batch.push(Kind::Entry, 0x21, 3, 1, 2, body(b"the first entry"));
    batch.push(Kind::Snapshot, 0, 63, 1, 2, body(b"state"));
    let mut second = Batch::new();
    second.push(Kind::Truncate, 0, 3, 0, 2, |_| {});
    second.push(Kind::Compacted, 0, 3, 1, 1, |_| {});
    second.push(Kind::Committed, 0, 3, 1, 1, |_| {});
    log.append(&[&batch, &second]).expect("room");
    log.sync().expect("works");
    let mut large = Batch::new();
    large.push(Kind::Entry, 0, 4, 1, 0, |out| out.extend_from_slice(&[b'x'; 3600]));
    let at = log.append(&[&large]).expect("room").bases[0];
    log.prove().expect("works");
    let mut next = Batch::new();
    next.push(Kind::Entry, 0, 3, 2, u64::MAX, body(b"in the next segment"));
    log.append(&[&next]).expect("room");
    log.sync().expect("works");
    let points = vec![
        PartitionPoint { partition: 4, snapshot: at, compacted: 1 << 33 },
        PartitionPoint { partition: 3, snapshot: Position(44), compacted: 1 },
    ];
    log.set_manifest(points, b"the owner's".to_vec()).expect("durable");
    (disk, log)
}

fn next_name() -> String {
    let (_, log) = written();
    let segments = log.segments();
    assert_eq!(segments.len(), 2);
    tidegate_store::segment::file_name(segments[1].base.0)
}

#[test]
fn what_is_written_is_the_golden_bytes() {
    let (disk, log) = written();
    assert!(disk.content(FIRST).expect("there") == SEGMENT);
    assert!(disk.content(&next_name()).expect("there") == SEGMENT_NEXT);
    assert!(disk.content("manifest").expect("there") == MANIFEST);
    let copy = SimDisk::new(2);
    log.backup().copy_to(&copy, |_| {}).expect("room");
    assert!(copy.content(LIST_NAME).expect("there") == LIST);
}

#[test]
fn the_golden_log_reads_as_it_was_written() {
    let disk = SimDisk::new(1);
    disk.put(FIRST, SEGMENT);
    disk.put(&next_name(), SEGMENT_NEXT);
    disk.put("manifest", MANIFEST);
    let (log, recovered) = Log::open(disk, Options::new(STORE)).expect("format 1");
    assert_eq!(recovered.cut, None);
    let mut scan = log.scan(log.first()).expect("there");
    let mut seen = Vec::new();
    while let Some((at, record)) = scan.next_record().expect("undamaged") {
        let body = if record.body.len() < 100 { record.body.to_vec() } else { b"large".to_vec() };
        let body = body.escape_ascii().to_string();
        let (kind, flags, partition) = (record.kind, record.flags, record.partition);
        seen.push(format!(
            "{at} {kind:?} {flags:#x} {partition} {} {} {body}",
            record.term, record.index
        ));
    }
    assert_eq!(
        seen,
        [
            "0x58 Membership 0x0 3 0 0 \\x01\\x00\\x01\\x00\\xed\\xfe\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00",
            "0x82 Vote 0x1 3 1 0 \\xed\\xfe\\x00\\x00\\x00\\x00\\x00\\x00",
            "0xa6 Blank 0x0 3 1 1 ",
            "0xc2 Entry 0x21 3 1 2 the first entry",
            "0xed Snapshot 0x0 63 1 2 state",
            "0x10e Truncate 0x0 3 0 2 ",
            "0x12a Compacted 0x0 3 1 1 ",
            "0x146 Committed 0x0 3 1 1 ",
            "0x18e Entry 0x0 4 1 0 large",
            "0x1012 Vote 0x81 3 1 0 \\xed\\xfe\\x00\\x00\\x00\\x00\\x00\\x00",
            "0x1036 Compacted 0x80 3 1 1 ",
            "0x107e Entry 0x0 3 2 18446744073709551615 in the next segment",
        ]
    );
    assert_eq!(log.vote(3).expect("carried").flags, 1);
}

#[test]
fn the_golden_manifest_and_list_read_as_they_were_written() {
    let (manifest, store) = Manifest::decode(MANIFEST).expect("format 1");
    assert_eq!(store, STORE);
    assert_eq!((manifest.first, manifest.owner), (Position(0), b"the owner's".to_vec()));
    let points: Vec<_> = manifest.partitions.iter().map(|point| point.partition).collect();
    assert_eq!(points, [3, 4]);
    assert_eq!(manifest.partitions[1].compacted, 1 << 33);

    let copy = SimDisk::new(1);
    copy.put(FIRST, SEGMENT);
    copy.put(&next_name(), SEGMENT_NEXT);
    copy.put("manifest", MANIFEST);
    copy.put(LIST_NAME, LIST);
    assert_eq!(copy.list().expect("works").len(), 4);
    assert_eq!(verify(&copy).expect("format 1").store, STORE);
}

/// Writes the golden files; for a new format only.
#[test]
#[ignore = "rewrites the golden files"]
#[allow(clippy::disallowed_methods, reason = "files beside the sources")]
fn write_golden_files() {
    let (disk, log) = written();
    let copy = SimDisk::new(2);
    log.backup().copy_to(&copy, |_| {}).expect("room");
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let put = |name: &str, bytes: Option<Vec<u8>>| {
        std::fs::write(dir.join(name), bytes.expect("written")).expect("a writable checkout");
    };
    put("segment-1-first.seg", disk.content(FIRST));
    put("segment-1-next.seg", disk.content(&next_name()));
    put("manifest-1", disk.content("manifest"));
    put("checksums-1", copy.content(LIST_NAME));
}
