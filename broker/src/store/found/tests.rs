use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use tidegate_store::raft::PartitionIndex;
use tidegate_store::{DiskFile, Kind};

use super::*;
use crate::config::{self, Overlay};
use crate::store::Opened;
use crate::store::open::open;

const CLUSTER: &str = "[cluster]\nname = 'test'\nbootstrap = 'single'\nbind = '127.0.0.1:7883'\n";

/// A data directory of its own, removed in the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-found-{}-{number}", std::process::id());
        Place(std::env::temp_dir().join(name))
    }

    fn config(&self, more: &str) -> Config {
        let text = format!("[node]\ndata_dir = {:?}\n{more}", self.0);
        config::load(&text, &Overlay::default()).expect("a good config")
    }

    fn open(&self, more: &str) -> anyhow::Result<Opened> {
        Ok(open(&self.config(more), 77)?.expect("it is kept"))
    }

    /// A node that was alone and has a retained message.
    fn kept(&self) {
        let mut opened = self.open("").expect("a new one");
        let settings = self.config("").settings;
        let node = Node::kept(settings, 1, opened.seed, Box::new(Open), opened.epoch);
        let partition = u16::from(node.partition_of_topic("t").0);
        let mut batch = Batch::new();
        batch.push(Kind::Entry, 0, partition, 1, 2, retain);
        opened.log.append(&[&batch]).expect("room");
        opened.log.sync().expect("a disk");
    }

    /// How much there is for a node that is alone.
    fn keeps_alone(&self) -> Keeps {
        let opened = self.open("").expect("it was alone");
        let settings = self.config("").settings;
        let node = Node::kept(settings, 1, opened.seed, Box::new(Open), opened.epoch);
        let mut shard = Shard::new(Arc::new(node), ShardId(0), 0);
        shard.keep();
        opened.recovery().replay(0, &mut shard, ShardId(0), 1).expect("its records");
        shard.keeps_alone()
    }

    /// The log begins behind the snapshots, and the message is in one of them.
    fn is_founded(&self, opened: &Opened) {
        assert_eq!(Form::read(&opened.identity).expect("readable"), Form::Groups);
        assert_eq!(opened.keeps(), None);
        let mut indexes = vec![PartitionIndex::default(); usize::from(PARTITIONS)];
        let mut scan = opened.log.scan(opened.log.first()).expect("readable");
        while let Some((at, record)) = scan.next_record().expect("undamaged") {
            let index = &mut indexes[usize::from(record.partition)];
            index.replay(at, &record).expect("in order");
        }
        for index in indexes {
            assert_eq!(index.purged(), Some((FIRST.term, FIRST.index)));
            assert_eq!(index.range(), 2..2, "nothing of before");
            assert_eq!(index.vote().map(|vote| vote.term), Some(FIRST.term));
        }
        assert_eq!(self.snapshots().1, 1, "the message is kept once");
    }

    /// Snapshots, and those that have the message.
    fn snapshots(&self) -> (usize, usize) {
        let Ok(disk) = FileDisk::open(&self.0.join(SNAPSHOTS)) else { return (0, 0) };
        let (mut all, mut with) = (0, 0);
        for name in disk.list().expect("a directory") {
            let file = disk.open(&name).expect("it is there");
            let mut bytes = vec![0; file.bytes().expect("a file") as usize];
            file.read_at(0, &mut bytes).expect("readable");
            all += 1;
            with += usize::from(bytes.windows(9).any(|window| window == b"acknowled"));
        }
        (all, with)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A retained message at `t`, as a record of a node that is alone.
fn retain(out: &mut Vec<u8>) {
    out.push(14);
    out.extend(1_700_000_000_000u64.to_le_bytes());
    out.extend([0, 0]); // lane, clear
    out.extend(9u64.to_le_bytes()); // id
    out.push(1 | 1 << 2); // QoS and retain
    out.extend(5u64.to_le_bytes()); // origin
    out.extend(u64::MAX.to_le_bytes()); // expires
    out.extend(1u16.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    let body = b"tacknowledged";
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
}

#[test]
fn what_was_kept_alone_is_in_the_first_snapshots_wherever_the_process_ends() {
    for stop in 0..6 {
        let place = Place::new();
        place.kept();
        let alone = place.keeps_alone();
        assert_eq!(alone, Keeps { retained: 1, ..Keeps::default() });

        let opened = place.open(CLUSTER).expect("it can be brought in");
        assert_eq!(opened.keeps(), Some(opened.seed));
        assert_eq!(place.snapshots(), (64, 1));
        let seed = opened.seed;
        let identity = opened.identity();
        let log = opened.directory.log();
        let (disk, node, options) = (opened.disk.clone(), opened.node, opened.options.clone());
        match stop {
            0 => drop((opened, identity)),
            1 => {
                drop((opened, identity));
                // It may go back meanwhile, and goes on where it was.
                assert_eq!(place.keeps_alone(), alone);
                assert_eq!(place.snapshots(), (0, 0), "they take no room then");
            }
            2 => {
                Form::Founding.write(&identity).expect("a disk");
                drop((opened, identity));
            }
            3 => {
                Form::Founding.write(&identity).expect("a disk");
                drop((opened, identity));
                let first = std::fs::read_dir(&log).expect("a log").next();
                std::fs::remove_file(first.expect("a file").expect("readable").path())
                    .expect("its own");
            }
            4 => {
                Form::Founding.write(&identity).expect("a disk");
                drop((opened, identity));
                std::fs::remove_dir_all(&log).expect("its own");
            }
            _ => {
                Form::Founding.write(&identity).expect("a disk");
                drop((opened, identity));
                begin_anew(&disk, options, Some(node)).expect("a disk");
            }
        }
        if stop >= 2 {
            let refused = place.open("").map(drop).expect_err("there is no way back").to_string();
            assert!(refused.contains("that of a node of a cluster"), "{refused}");
        }
        let opened = place.open(CLUSTER).expect("it goes on");
        let opened = match stop {
            0 | 1 => {
                assert_eq!(opened.keeps(), Some(seed));
                opened.enter(seed).expect("its own cluster")
            }
            _ => opened,
        };
        place.is_founded(&opened);
        drop(opened);
        place.is_founded(&place.open(CLUSTER).expect("as any node of a cluster"));
    }
}

#[test]
fn a_cluster_of_another_seed_gets_nothing() {
    let place = Place::new();
    place.kept();
    let opened = place.open(CLUSTER).expect("it can be brought in");
    let seed = opened.seed;
    let refused = opened.enter(seed ^ 1).map(drop).expect_err("another").to_string();
    assert!(refused.contains("not placed by the seed"), "{refused}");
    assert_eq!(place.keeps_alone().retained, 1, "and it is all there");
}

#[test]
fn a_node_that_has_kept_nothing_alone_is_a_new_one() {
    for stop in [false, true] {
        let place = Place::new();
        drop(place.open("").expect("a new one"));
        if stop {
            let opened = place.open("").expect("alone");
            Form::Blank.write(&opened.identity).expect("a disk");
        }
        let opened = place.open(CLUSTER).expect("as a new one");
        assert_eq!(opened.keeps(), None);
        assert_eq!(Form::read(&opened.identity).expect("readable"), Form::Groups);
        assert!(opened.log.vote(0).is_none(), "it never voted");
        assert_eq!(place.snapshots(), (0, 0));
    }
}

#[test]
fn more_than_a_cluster_s_node_may_have_in_its_queues_is_refused_with_the_key() {
    let limits =
        Limits { queue_node_messages_max: 10, queue_node_bytes_max: 1_000, ..Limits::default() };
    let keeps = |messages, bytes| Keeps { messages, bytes, ..Keeps::default() };
    fits(&keeps(10, 1_000), &limits).expect("just so many");
    let refused = |keeps| fits(&keeps, &limits).expect_err("too much").to_string();
    let said = refused(keeps(11, 1));
    assert!(
        said.contains("11 messages") && said.contains("queue_node_messages_max to 11"),
        "{said}"
    );
    let said = refused(keeps(1, 1_001));
    assert!(said.contains("1001 bytes") && said.contains("queue_node_bytes_max to 1001"), "{said}");
}

#[test]
fn more_than_there_is_memory_for_is_refused() {
    let keeps = Keeps { messages: 1_000, ..Keeps::default() };
    fits_memory(&keeps, 4_000, 0).expect("not known");
    fits_memory(&keeps, 252_000, 400_000).expect("three quarters");
    let said = fits_memory(&keeps, 252_001, 400_000).expect_err("more").to_string();
    assert!(said.contains("300001 bytes") && said.contains("there are 400000 (limits."), "{said}");
    assert!(memory(&Limits { memory_bytes_max: 7, ..Limits::default() }) > 0);
}

#[test]
fn a_form_of_a_newer_version_is_refused() {
    let place = Place::new();
    let opened = place.open("").expect("a new one");
    opened.identity.set_value(FORM, Some(&[9])).expect("a disk");
    let refused = Form::read(&opened.identity).expect_err("unknown").to_string();
    assert!(refused.contains("[9]") && refused.contains("newer"), "{refused}");
}
