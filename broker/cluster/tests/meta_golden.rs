//! The bytes of the metadata's log and snapshots, as release 1 writes them.
//!
//! They are in logs and on the wire between versions. A test that goes red here
//! means that an upgrade would not read what it finds: make a new version.

use tidegate_cluster::ids::{ClusterId, Incarnation, Life, NodeId, PartitionId, StoreId};
use tidegate_cluster::meta::{ClusterConfig, Command, Entry, Meta, MoveStep, NodeSpec, Wish};

fn spec() -> NodeSpec {
    NodeSpec {
        id: NodeId(0x11),
        incarnation: Incarnation(2),
        store: StoreId(0x33),
        zone: "z".into(),
        address: "a:1".into(),
        name: "n".into(),
        weight: 100,
        level_min: 1,
        level_max: 2,
    }
}

fn commands() -> Vec<Command> {
    let life = Life { node: NodeId(0x11), incarnation: Incarnation(2) };
    let partition = PartitionId(3);
    let config = ClusterConfig::default();
    let cluster = ClusterId(7);
    vec![
        Command::Found { cluster, partitions: 64, level: 1, config, node: spec() },
        Command::Register { cluster, node: spec() },
        Command::Sync(life),
        Command::Ready { life, seen: 9 },
        Command::Down(life),
        Command::Drain { node: life.node, wish: Wish::Leave },
        Command::Undrain(life.node),
        Command::Leave(life),
        Command::Forget { node: life.node, accept_data_loss: true },
        Command::SetLevel(2),
        Command::Place(vec![(partition, vec![NodeId(1), NodeId(2)])]),
        Command::Prefer(vec![(partition, NodeId(2))]),
        Command::MoveStart { partition, add: Some(NodeId(4)), remove: None },
        Command::MoveOn { partition, step: MoveStep::Joint },
        Command::MoveDone(partition),
        Command::MoveAbort(partition),
        Command::SetConfig { base: 1, config },
        Command::Recover { lost: vec![NodeId(1)], accept_data_loss: true },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim().as_bytes().chunks(2);
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).expect("hex"), 16);
    digits.map(|two| byte(two).expect("hex")).collect()
}

/// Three entries of a small cluster.
fn snapshot() -> Vec<u8> {
    let mut meta = Meta::new();
    let life = Life { node: NodeId(0x11), incarnation: Incarnation(2) };
    let config = ClusterConfig::default();
    let cluster = ClusterId(7);
    let story = [
        Command::Found { cluster, partitions: 2, level: 1, config, node: spec() },
        Command::Sync(life),
        Command::Place(vec![(PartitionId(1), vec![NodeId(0x11)])]),
    ];
    for (at, command) in story.into_iter().enumerate() {
        meta.apply(at as u64 + 1, &Entry { at: 5, command }).expect("not refused");
    }
    meta.snapshot()
}

#[test]
fn every_entry_has_the_bytes_of_release_1() {
    let golden = include_str!("golden/entries.hex").lines();
    let written: Vec<_> =
        commands().into_iter().map(|command| hex(&Entry { at: 5, command }.encode())).collect();
    assert_eq!(written, golden.collect::<Vec<_>>(), "\n{}\n", written.join("\n"));
}

#[test]
fn every_entry_of_release_1_is_read() {
    let golden = include_str!("golden/entries.hex").lines();
    for (line, command) in golden.zip(commands()) {
        assert_eq!(Entry::decode(&unhex(line)), Ok(Entry { at: 5, command }));
    }
}

#[test]
fn a_snapshot_has_the_bytes_of_release_1() {
    let written = hex(&snapshot());
    assert_eq!(written, include_str!("golden/snapshot.hex").trim(), "\n{written}\n");
    let restored = Meta::restore(&unhex(include_str!("golden/snapshot.hex")));
    assert_eq!(restored.expect("our own bytes").snapshot(), snapshot());
}
