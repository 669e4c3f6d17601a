use proptest::prelude::*;
use tidegate_store::SimDisk;
use tidegate_store::disk::Fault;

use super::*;
use crate::raft_types::Members;

fn meta(term: u64, index: u64) -> Meta {
    let members = Members::new_with_defaults(vec![[1, 2, 3].into()], [9]);
    let place = raft_id(LogId { term: 2, index: 5 });
    Meta {
        last_log_id: Some(raft_id(LogId { term, index })),
        last_membership: StoredMembership::new(Some(place), members),
    }
}

/// The format, frozen: a file written by any release is read by all later ones.
const GOLDEN: &[u8] = &[
    // magic, crc
    b'T', b'G', b'S', b'N', b'A', b'P', b'\r', b'\n', 0, 0, 0, 0, //
    // version 1, group 7, flags 1
    1, 0, 7, 0, 1, 0, 0, 0, //
    // last 4/100
    4, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, //
    // membership at 2/5
    2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, //
    // membership of 38 bytes, crc of the body, 5 bytes of it
    38, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, //
    // one set of 3 voters, one learner
    1, 0, 3, 0, //
    1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, //
    1, 0, 9, 0, 0, 0, 0, 0, 0, 0,
];

impl<D: Disk> SnapshotFile<D> {
    fn write(&self, meta: &Meta, body: &[u8]) -> io::Result<Stored<D::File>> {
        self.write_with(meta, |put| put(body)).map(|(stored, _)| stored)
    }
}

impl<F: DiskFile> Stored<F> {
    fn read_all(&self) -> io::Result<Bytes> {
        self.check()?;
        self.read(0, usize::MAX)
    }
}

fn golden() -> Vec<u8> {
    let mut golden = GOLDEN.to_vec();
    golden[56..60].copy_from_slice(&crc32c::crc32c(b"state").to_le_bytes());
    let crc = crc32c::crc32c(&golden[12..]);
    golden[8..12].copy_from_slice(&crc.to_le_bytes());
    golden
}

#[test]
fn the_header_is_as_it_always_was() {
    let crc = crc32c::crc32c(b"state");
    assert_eq!(encode(7, &meta(4, 100), crc, 5), golden());
    let header = decode(7, &golden()).expect("ours");
    assert_eq!((header.meta, header.body_crc, header.body_bytes), (meta(4, 100), crc, 5));
    assert_eq!(header.body_at, golden().len() as u64);
    assert_eq!(decode(8, &golden()), Err(HeaderError::Damaged("it is of another group")));
    let mut newer = golden();
    newer[12] = 2;
    assert_eq!(decode(7, &newer), Err(HeaderError::Version(2)));
}

#[test]
fn every_changed_bit_and_every_cut_of_a_header_is_noticed() {
    let bytes = golden();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(7, &bad).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(decode(7, &bytes[..len]).is_err(), "cut to {len}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(7, &bytes);
        if bytes.len() > 12 {
            // Past the checksum, too.
            bytes[..8].copy_from_slice(&MAGIC);
            let crc = crc32c::crc32c(&bytes[12..]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            let _ = decode(7, &bytes);
        }
    }
}

#[test]
fn the_newest_stays_and_the_open_one_stays_readable() {
    let disk = SimDisk::new(1);
    let file = SnapshotFile::open(disk.clone(), 7).expect("empty");
    assert!(file.current().is_none());
    let old = file.write(&meta(4, 100), b"old").expect("room");
    let new = file.write(&meta(4, 200), b"new one").expect("room");
    assert_eq!(old.read_all().expect("open"), "old");
    let kept = file.write(&meta(4, 150), b"late").expect("room");
    assert_eq!(kept.header, new.header);
    disk.crash();
    let file = SnapshotFile::open(disk, 7).expect("durable");
    assert_eq!(file.current().expect("there").read_all().expect("whole"), "new one");
}

#[test]
fn whenever_the_power_fails_there_is_the_old_one_or_the_new_one_whole() {
    for nth in 1..8 {
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            let file = SnapshotFile::open(disk.clone(), 7).expect("empty");
            file.write(&meta(4, 100), b"old").expect("room");
            disk.plant(nth, Fault::PowerCut);
            let written = file.write(&meta(4, 200), &[7; 5_000]);
            disk.crash();
            let file = SnapshotFile::open(disk, 7).expect("one of both");
            let now = file.current().expect("there");
            match now.read_all().expect("whole").as_ref() {
                b"old" => assert!(written.is_err(), "seed {seed}, {nth}: it was durable"),
                new => assert_eq!(new, &[7; 5_000]),
            }
        }
    }
}

#[test]
fn a_body_that_is_damaged_is_noticed_when_it_is_read() {
    let disk = SimDisk::new(1);
    let file = SnapshotFile::open(disk.clone(), 7).expect("empty");
    let stored = file.write(&meta(4, 100), b"state").expect("room");
    disk.damage(&name(7), stored.header.body_at + 2, 1);
    let file = SnapshotFile::open(disk, 7).expect("its head is good");
    assert!(file.current().expect("there").read_all().is_err());
}

#[test]
fn a_group_that_begins_with_a_state_has_the_last_one_and_one_voter() {
    let disk = SimDisk::new(3);
    let last = LogId { term: 1, index: 1 };
    for state in [b"first", b"again"] {
        let state = |put: Put<'_>| state.chunks(2).try_for_each(put);
        assert_eq!(begin_with(&disk, 7, 5, last, state).expect("a disk"), 5);
    }
    disk.crash();
    let stored =
        SnapshotFile::open(disk.clone(), 7).expect("whole").current().expect("it is there");
    assert_eq!(stored.read_all().expect("readable"), &b"again"[..]);
    assert_eq!(stored.header.last(), last);
    let one = Members::new_with_defaults(vec![BTreeSet::from([5])], Vec::<u64>::new());
    assert_eq!(stored.header.meta.last_membership.membership(), &one);
    begin_without(&disk, 7).expect("a disk");
    begin_without(&disk, 7).expect("nothing is there to remove");
    disk.crash();
    assert!(SnapshotFile::open(disk, 7).expect("readable").current().is_none());
}
