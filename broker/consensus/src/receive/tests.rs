use openraft::StoredMembership;
use tidegate_store::{Disk, SimDisk};

use super::*;
use crate::log_id::LogId;
use crate::raft_types::{Members, raft_id};
use crate::snapshot::SnapshotFile;

type File = <SimDisk as Disk>::File;

const BODY: [u8; 3_000] = [7; 3_000];

fn offer(transfer: u64, body: &[u8]) -> Offer {
    let members = Members::new_with_defaults(vec![[1, 2, 3].into()], []);
    let last_log_id = Some(raft_id(LogId { term: 4, index: 100 }));
    let crc = crc32c::crc32c(body);
    Offer {
        transfer,
        vote: Vote::new_committed(4, 2),
        meta: Meta { last_log_id, last_membership: StoredMembership::new(last_log_id, members) },
        name: format!("4-64-{crc:08x}-{:x}", body.len()),
        bytes: body.len() as u64,
    }
}

fn chunk(transfer: u64, body: &[u8], range: std::ops::Range<usize>) -> SnapshotChunk {
    SnapshotChunk {
        transfer,
        offset: range.start as u64,
        last: range.end == body.len(),
        data: Bytes::copy_from_slice(&body[range]),
    }
}

fn take(receiving: &mut Receiving<File>, chunk: &SnapshotChunk) -> Taken<File> {
    match receiving.fit(chunk) {
        Fit::Next(file, at) => {
            write(&*file, at, &chunk.data).expect("room");
            receiving.wrote(chunk)
        }
        Fit::Elsewhere(through) => Taken::Through(through),
        Fit::Damaged => Taken::Damaged,
    }
}

fn begun(disk: &SimDisk, body: &[u8]) -> (SnapshotFile<SimDisk>, Receiving<File>) {
    let file = SnapshotFile::open(disk.clone(), 7).expect("empty");
    let receiving = Receiving::begin(None, 2, offer(1, body), || file.spool()).expect("room");
    (file, receiving)
}

fn whole(taken: Taken<File>) -> (Meta, Spool<File>) {
    match taken {
        Taken::Whole(_, meta, spool) => (meta, spool),
        Taken::Through(through) => panic!("more is wanted behind {through}"),
        Taken::Damaged => panic!("damaged"),
    }
}

#[test]
fn what_broke_off_goes_on_where_it_was_and_lies_under_no_name() {
    let disk = SimDisk::new(1);
    let (file, mut receiving) = begun(&disk, &BODY);
    assert!(matches!(take(&mut receiving, &chunk(1, &BODY, 0..1_000)), Taken::Through(1_000)));
    // Of the same bytes by another transfer, of another node.
    let again = offer(9, &BODY);
    let no_file = || panic!("it has one");
    let mut receiving = Receiving::begin(Some(receiving), 3, again, no_file).expect("it goes on");
    assert_eq!(receiving.through(), 1_000);
    assert!(receiving.is_of(3, &chunk(9, &BODY, 1_000..2_000)));
    assert!(!receiving.is_of(2, &chunk(1, &BODY, 1_000..2_000)));
    // One that came before, and one that skips some.
    for range in [0..1_000, 2_000..3_000] {
        let taken = take(&mut receiving, &chunk(9, &BODY, range));
        assert!(matches!(taken, Taken::Through(1_000)));
    }
    assert!(matches!(take(&mut receiving, &chunk(9, &BODY, 1_000..2_000)), Taken::Through(2_000)));
    let (meta, spool) = whole(take(&mut receiving, &chunk(9, &BODY, 2_000..3_000)));
    assert_eq!(disk.list().expect("on"), Vec::<String>::new());

    let (stored, is_new) = file.write_from(&meta, &mut spool.clone()).expect("room");
    assert!(is_new);
    assert_eq!(stored.read(0, usize::MAX).expect("whole"), &BODY[..]);
    assert_eq!(spool.read(2_999, 10).expect("its end"), &BODY[..1]);
    assert_eq!(spool.read(3_001, 10).expect("behind it"), &[][..]);
}

#[test]
fn another_snapshot_begins_in_a_file_of_its_own() {
    let disk = SimDisk::new(1);
    let (file, mut receiving) = begun(&disk, &BODY);
    take(&mut receiving, &chunk(1, &BODY, 0..1_000));
    let other = [8; 500];
    let before = Some(receiving);
    let mut receiving =
        Receiving::begin(before, 2, offer(2, &other), || file.spool()).expect("room");
    assert_eq!(receiving.through(), 0);
    let (_, spool) = whole(take(&mut receiving, &chunk(2, &other, 0..500)));
    assert_eq!(spool.read(0, usize::MAX).expect("whole"), &other[..]);
}

#[test]
fn other_bytes_than_were_announced_are_refused() {
    let disk = SimDisk::new(1);
    // More of them; an end that comes early; none at the end; and others.
    let long = SnapshotChunk { last: true, ..chunk(1, &[7; 3_001], 0..3_001) };
    let early = SnapshotChunk { last: true, ..chunk(1, &BODY, 0..10) };
    let endless = SnapshotChunk { last: false, ..chunk(1, &BODY, 0..3_000) };
    let others = chunk(1, &[8; 3_000], 0..3_000);
    for wrong in [long, early, endless, others] {
        let (_, mut receiving) = begun(&disk, &BODY);
        assert!(matches!(take(&mut receiving, &wrong), Taken::Damaged), "{:?}", wrong.offset);
    }
}

#[test]
fn what_the_disk_gives_back_otherwise_takes_no_place() {
    let disk = SimDisk::new(1);
    let (file, mut receiving) = begun(&disk, &BODY);
    let Fit::Next(spooled, _) = receiving.fit(&chunk(1, &BODY, 0..3_000)) else {
        panic!("it fits");
    };
    let (meta, mut spool) = whole(take(&mut receiving, &chunk(1, &BODY, 0..3_000)));
    write(&*spooled, 17, &Bytes::from_static(b"!")).expect("room");
    let refused = file.write_from(&meta, &mut spool).expect_err("it was changed");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    assert!(file.current().is_none());
}

#[test]
fn what_a_crash_left_behind_is_removed() {
    let disk = SimDisk::new(1);
    drop(disk.create("group-0007.incoming").expect("room"));
    SnapshotFile::open(disk.clone(), 7).expect("empty");
    assert_eq!(disk.list().expect("on"), Vec::<String>::new());
}
