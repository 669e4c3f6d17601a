//! A disk that fills up. Needs root, for a small file system of its own.

mod conformance;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use conformance::*;

/// A small tmpfs, gone with the test.
struct Volume(PathBuf);

impl Volume {
    /// None without the privilege to mount.
    fn new(megabytes: u32) -> Option<Volume> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidegate-volume-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a mount point");
        let size = format!("size={megabytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status();
        match mounted {
            Ok(status) if status.success() => Some(Volume(path)),
            Ok(_) | Err(_) => {
                let _ = std::fs::remove_dir(&path);
                None
            }
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Takes room until so much is left.
    fn fill(&self, left: u64) {
        let free = || {
            let space = rustix::fs::statvfs(&self.0).expect("a mounted file system");
            space.f_bavail * space.f_frsize
        };
        let ballast = vec![0; free().saturating_sub(left) as usize];
        std::fs::write(self.0.join("ballast"), ballast).expect("there is room");
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("it is there");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A volume for a test; none, and a word about it: no privilege.
fn volume(megabytes: u32) -> Option<Volume> {
    let volume = Volume::new(megabytes);
    if volume.is_none() {
        // Told, not silent: CI runs it as root.
        let mut out = std::io::stderr();
        let _ = std::io::Write::write_all(&mut out, b"not run: no privilege to mount a tmpfs\n");
    }
    volume
}

fn stage(broker: &Broker) -> u32 {
    let (_, text) = broker.get("/metrics");
    let line = text.lines().find(|line| line.starts_with("tidegate_storage_stage")).expect("told");
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

fn until_stage(broker: &Broker, wanted: u32) {
    let end = std::time::Instant::now() + PATIENCE;
    while stage(broker) != wanted {
        assert!(std::time::Instant::now() < end, "stage {} and not {wanted}", stage(broker));
        pause(50);
    }
}

#[test]
fn a_full_disk_refuses_what_it_cannot_keep_and_goes_on_when_there_is_room() {
    let Some(volume) = volume(32) else { return };
    let config = "[store]\nsegment_bytes = 1048576\n";
    let broker = Broker::start_at(BINARY, config, &volume.path().join("data"));
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.subscribe("t", 1);
    sleeper.leave();
    let mut publisher = Connect::new(Version::V5, "publisher").open(broker.mqtt);
    publisher.publish("t", 1, b"before");

    volume.fill(3 << 20); // 90 % of 32 MB
    until_stage(&broker, 1);
    publisher.send(&Publish::new("t", 1, b"refused").id(9).bytes(Version::V5));
    assert_eq!(publisher.expect_answer(PUBACK, 9), 0x97);
    let mut older = Connect::new(Version::V311, "older").open(broker.mqtt);
    older.send(&Publish::new("t", 1, b"refused").id(9).bytes(Version::V311));
    older.expect_closed();
    // QoS 0 and sessions go on.
    let mut reader = Connect::new(Version::V5, "reader").open(broker.mqtt);
    reader.subscribe("live", 0);
    publisher.publish("live", 0, b"on");
    reader.hears("on");
    Connect::lasting(Version::V5, "another").open(broker.mqtt).leave();

    volume.clear();
    volume.fill(1 << 20);
    until_stage(&broker, 2);
    Connect::lasting(Version::V5, "late").refused(broker.mqtt, 0x97);
    publisher.publish("live", 0, b"still on");
    reader.hears("still on");
    // Who comes back fetches what waits: so queues become shorter.
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    assert!(sleeper.connack.present());
    sleeper.hears("before");
    sleeper.leave();

    volume.clear();
    until_stage(&broker, 0);
    publisher.publish("t", 1, b"after");
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.hears("after");
    sleeper.quiet();
}

#[test]
fn a_node_starts_without_a_byte_of_room_and_serves_what_writes_nothing() {
    let Some(volume) = volume(32) else { return };
    // The marks are out of the way: the disk itself says no.
    let config = "[store]\nsegment_bytes = 1048576\ndisk_refuse_percent = 100\n\
                  disk_stop_percent = 100\n";
    let mut broker = Broker::start_at(BINARY, config, &volume.path().join("data"));
    for name in ["sleeper", "another"] {
        let mut sleeper = Connect::lasting(Version::V5, name).open(broker.mqtt);
        sleeper.subscribe("t", 1);
        sleeper.leave();
    }
    let mut publisher = Connect::lasting(Version::V5, "publisher").open(broker.mqtt);
    publisher.publish("t", 1, b"kept");
    publisher.retain("r", 1, b"value");
    volume.fill(0);
    for name in ["sleeper", "another"] {
        broker.restart();
        until_stage(&broker, 2);
        let mut reader = Connect::new(Version::V5, "reader").open(broker.mqtt);
        reader.subscribe("r", 0);
        reader.hears("value");
        reader.subscribe("live", 0);
        let mut publisher = Connect::new(Version::V5, "loose").open(broker.mqtt);
        publisher.publish("live", 0, b"on");
        reader.hears("on");
        publisher.send(&Publish::new("t", 1, b"refused").id(9).bytes(Version::V5));
        assert_eq!(publisher.expect_answer(PUBACK, 9), 0x97);
        Connect::lasting(Version::V5, "new").refused(broker.mqtt, 0x97);
        let mut sleeper = Connect::lasting(Version::V5, name).open(broker.mqtt);
        assert!(sleeper.connack.present());
        sleeper.hears("kept");
        sleeper.leave();
        pause(300); // its acknowledgement is written within 50 ms
    }
    volume.clear();
    until_stage(&broker, 0);
    let mut publisher = Connect::lasting(Version::V5, "publisher").open(broker.mqtt);
    assert!(publisher.connack.present());
    publisher.publish("t", 1, b"after");
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.hears("after");
    sleeper.quiet();
}
