//! What the partitions of a cluster write, byte by byte: if a test here fails, the
//! nodes of a cluster no longer read what another version has written, or what
//! they had. That takes another kind of record and a feature level, and not a new
//! golden file.

use std::collections::BTreeSet;
use std::fmt::Write;

use tidegate_core::ids::{Member, PARTITIONS, PartitionId};
use tidegate_core::settings::Settings;
use tidegate_core::{Applied, Shard};

use super::rig::Rig;
use super::world::World;

const GOLDEN: &str = include_str!("../../golden/cluster-1.txt");

/// Kinds of records that no node that is alone writes: a claim with its owner, what
/// was dropped, claims of a node that is gone, an errand.
const OF_CLUSTERS: [u8; 4] = [18, 19, 20, 21];

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.limits.queue_messages_max = 4;
    settings
}

/// Something of everything: durable and other sessions, a will, a queue that drops,
/// a publish that its node cannot route, a node that is gone.
fn written() -> String {
    let mut world = World::replicated_as(3, 0, settings());
    for rig in &world.rigs {
        rig.node.set_feature_level(2);
    }
    let queued = world.connect(1, "queued", false);
    world.subscribe(queued, "t", 1);
    let live = world.connect(2, "live", true);
    world.subscribe(live, "#", 2);
    world.connect_with_will(1, "dies", "will", "gone");
    world.settle(2_000);
    world.abort(queued);
    let publisher = world.connect(2, "publisher", true);
    for n in 0..10 {
        world.publish(publisher, "t", 1 + n % 2, &format!("{n}"));
        world.settle(500);
    }
    world.publish_as(publisher, "kept", 1, true, "retained");
    world.settle(2_000);
    world.cut(0, 1);
    world.settle(4_000);
    let me = world.connect(0, "errands", true);
    world.publish(me, "t", 1, "an errand");
    world.settle(4_000);
    world.join(0, 1);
    world.settle(4_000);
    world.kill(1);
    for p in (0..PARTITIONS as u8).filter(|p| p % 3 == 1) {
        world.elect(PartitionId(p), 2);
    }
    world.bury(1);
    world.settle(60_000);
    let mut lines = String::new();
    for (partition, entry) in world.committed() {
        let _ = write!(lines, "{partition} ");
        for byte in entry {
            let _ = write!(lines, "{byte:02x}");
        }
        lines.push('\n');
    }
    lines
}

/// The entries of a file, by partition.
fn entries(file: &str) -> impl Iterator<Item = (PartitionId, Vec<u8>)> {
    file.lines().map(|line| {
        let (partition, hex) = line.split_once(' ').expect("two words");
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        let entry = (0..hex.len()).step_by(2).map(byte).collect();
        (PartitionId(partition.parse().expect("a partition")), entry)
    })
}

/// The first byte of each record of an entry.
fn kinds(entry: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut rest = &entry[18..];
    while let Some((head, behind)) = rest.split_first_chunk::<12>() {
        let bytes = u32::from_le_bytes(head[8..].try_into().expect("four")) as usize;
        kinds.push(behind[0]);
        rest = &behind[bytes..];
    }
    kinds
}

#[test]
fn what_partitions_of_a_cluster_write_is_the_golden_entries() {
    let written = written();
    for (nth, (now, golden)) in written.lines().zip(GOLDEN.lines()).enumerate() {
        assert_eq!(now, golden, "entry {nth}");
    }
    assert_eq!(written.lines().count(), GOLDEN.lines().count());
}

#[test]
fn the_golden_entries_have_every_kind_that_only_a_cluster_writes() {
    let all: BTreeSet<u8> = entries(GOLDEN).flat_map(|(_, entry)| kinds(&entry)).collect();
    for kind in OF_CLUSTERS {
        assert!(all.contains(&kind), "no record of kind {kind}: {all:?}");
    }
}

#[test]
fn the_golden_entries_are_read_as_what_they_were() {
    let mut rig = Rig::member(1, settings(), Member(9), 0);
    rig.shards.iter_mut().for_each(Shard::replicate);
    for (partition, entry) in entries(GOLDEN) {
        let applied = rig.shards[0].committed(rig.now, partition, 0, &entry).expect("it is known");
        assert_eq!(applied, Applied::Followed(kinds(&entry).len()), "partition {}", partition.0);
    }
    for p in 0..PARTITIONS as u8 {
        rig.shards[0].promote(rig.now, PartitionId(p));
        let home = rig.node.place(PartitionId(p));
        rig.node.set_home(PartitionId(p), Some(home));
    }
    // The claims of node 1 (the second member) ended with it.
    let members = (0..PARTITIONS as u8).flat_map(|p| rig.shards[0].members_of(PartitionId(p)));
    let members: BTreeSet<Member> = members.collect();
    assert!(members.contains(&Member(3)) && !members.contains(&Member(2)), "{members:?}");
    // Of ten messages the queue has kept the newest four, the errand among them.
    assert_eq!(rig.node.counters[0].queued_messages.value(), 4);
}
