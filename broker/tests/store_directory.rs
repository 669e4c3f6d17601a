//! A data directory: one process, whole, of a format that is known.

mod conformance;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use conformance::*;

/// A broker with something kept, killed.
fn killed() -> Broker {
    let mut broker = broker("");
    fill(&broker, "kept");
    broker.kill();
    broker
}

fn fill(broker: &Broker, payload: &str) {
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.subscribe("t", 1);
    sleeper.leave();
    let mut publisher = Connect::new(Version::V5, "publisher").open(broker.mqtt);
    publisher.publish("t", 1, payload.as_bytes());
    publisher.retain("r", 1, payload.as_bytes());
    publisher.leave();
}

fn holds(broker: &Broker, payload: &str) {
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    assert!(sleeper.connack.present());
    sleeper.hears(payload);
    let mut reader = Connect::new(Version::V5, "reader").open(broker.mqtt);
    reader.subscribe("r", 1);
    reader.hears(payload);
}

fn segment(broker: &Broker) -> PathBuf {
    let log = std::fs::read_dir(broker.dir().join("data/log")).expect("the log is there");
    let paths = log.map(|entry| entry.expect("an entry").path());
    let mut segments: Vec<_> = paths.filter(|path| path.extension().is_some()).collect();
    segments.retain(|path| path.to_string_lossy().ends_with(".seg"));
    segments.sort();
    segments.pop().expect("a segment")
}

fn tidegate(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().expect("run the command")
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn data(broker: &Broker) -> String {
    broker.dir().join("data").display().to_string()
}

/// Changes a byte of a file.
fn damage(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("the file is there");
    bytes[at] ^= 0x40;
    std::fs::write(path, bytes).expect("write it");
}

#[test]
fn a_second_process_is_refused_and_told_who_has_it() {
    let broker = broker("");
    let (status, said) = broker.refuses_to_start();
    assert_eq!(status, Some(1));
    assert!(said.contains(&format!("in use by process {}", broker.pid())), "{said}");
    fill(&broker, "undisturbed");
    let check = tidegate(&["store", "check", "--data-dir", &data(&broker)]);
    assert_eq!(check.status.code(), Some(1), "nor may anyone look meanwhile");
}

#[test]
fn damage_to_what_was_durable_is_refused_with_its_place() {
    let mut broker = broker("");
    fill(&broker, "kept");
    // A second start and end prove what the first one wrote.
    broker.terminate();
    damage(&segment(&broker), 200);
    let (status, said) = broker.refuses_to_start();
    assert_eq!(status, Some(1));
    assert!(said.contains(".seg, offset "), "{said}");
    assert!(said.contains("restore a backup"), "{said}");
    let check = tidegate(&["store", "check", "--data-dir", &data(&broker)]);
    assert_eq!(check.status.code(), Some(1));
    assert!(words(&check).contains(".seg, offset "), "{}", words(&check));
}

#[test]
fn a_torn_tail_is_cut_and_the_rest_is_there() {
    let mut broker = killed();
    let path = segment(&broker);
    let mut bytes = std::fs::read(&path).expect("the segment");
    bytes.extend_from_slice(&[0xA5; 700]);
    std::fs::write(&path, bytes).expect("write it");
    broker.restart();
    assert!(broker.says("was cut off").contains("700"));
    holds(&broker, "kept");
}

#[test]
fn a_newer_format_is_refused() {
    let broker = killed();
    let path = segment(&broker);
    let mut bytes = std::fs::read(&path).expect("the segment");
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).expect("write it");
    let (status, said) = broker.refuses_to_start();
    assert_eq!(status, Some(1));
    assert!(said.contains("newer"), "{said}");
}

#[test]
fn a_log_that_is_gone_is_missed() {
    let broker = killed();
    std::fs::remove_dir_all(broker.dir().join("data/log")).expect("our own");
    let (status, said) = broker.refuses_to_start();
    assert_eq!(status, Some(1));
    assert!(said.contains("lost"), "{said}");
}

#[test]
fn store_check_and_show_tell_what_is_kept() {
    let broker = killed();
    let check = tidegate(&["store", "check", "--data-dir", &data(&broker)]);
    assert_eq!(check.status.code(), Some(0), "{}", words(&check));
    assert!(words(&check).starts_with("ok\n"), "{}", words(&check));
    let show = tidegate(&["store", "show", "--json", "--data-dir", &data(&broker)]);
    let told: serde_json::Value = serde_json::from_slice(&show.stdout).expect("JSON");
    assert!(told["entries"].as_u64() >= Some(4), "{told}");
    assert_eq!(told["segments"].as_array().map(Vec::len), Some(1));
}

#[test]
fn store_check_of_a_directory_without_a_store_fails() {
    let dir = std::env::temp_dir().join(format!("tidegate-empty-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let check = tidegate(&["store", "check", "--data-dir", &dir.display().to_string()]);
    assert_eq!(check.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(&dir).expect("still there").count(), 0, "it is left as it was");
    std::fs::remove_dir_all(&dir).expect("our own");
}

#[test]
fn a_backup_of_a_running_node_brings_everything_back() {
    let mut broker = broker("");
    fill(&broker, "before");
    let to = broker.dir().join("a backup").display().to_string();
    let create = tidegate(&["backup", "create", &to, "--data-dir", &data(&broker)]);
    assert_eq!(create.status.code(), Some(0), "{}", words(&create));
    // Not what comes after.
    Connect::new(Version::V5, "late").open(broker.mqtt).publish("t", 1, b"after");
    let again = tidegate(&["backup", "create", &to, "--data-dir", &data(&broker)]);
    assert_eq!(again.status.code(), Some(1), "a directory that is not empty");
    let verify = tidegate(&["backup", "verify", &to]);
    assert_eq!(verify.status.code(), Some(0), "{}", words(&verify));

    broker.kill();
    let refused = tidegate(&["backup", "restore", &to, "--data-dir", &data(&broker)]);
    assert_eq!(refused.status.code(), Some(1), "there is something already");
    assert!(words(&refused).contains("empty directory"), "{}", words(&refused));
    std::fs::remove_dir_all(broker.dir().join("data")).expect("our own");
    let restore = tidegate(&["backup", "restore", &to, "--data-dir", &data(&broker)]);
    assert_eq!(restore.status.code(), Some(0), "{}", words(&restore));
    broker.restart();
    holds(&broker, "before");
}

#[test]
fn a_damaged_backup_is_neither_verified_nor_restored() {
    let broker = broker("");
    fill(&broker, "kept");
    let to = broker.dir().join("backup");
    let path = to.display().to_string();
    let create = tidegate(&["backup", "create", &path, "--data-dir", &data(&broker)]);
    assert_eq!(create.status.code(), Some(0), "{}", words(&create));
    let segment = std::fs::read_dir(to.join("log"))
        .expect("the copy")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.to_string_lossy().ends_with(".seg"))
        .expect("a segment");
    damage(&segment, 150);
    let verify = tidegate(&["backup", "verify", &path]);
    assert_eq!(verify.status.code(), Some(1));
    assert!(words(&verify).contains("damaged"), "{}", words(&verify));
    let other = broker.dir().join("other").display().to_string();
    let restore = tidegate(&["backup", "restore", &path, "--data-dir", &other]);
    assert_eq!(restore.status.code(), Some(1));
}

#[test]
fn a_node_that_keeps_nothing_has_nothing_to_back_up() {
    let broker = broker("[store]\ndurability = \"memory\"\n");
    let to = broker.dir().join("backup").display().to_string();
    let create = tidegate(&["backup", "create", &to, "--data-dir", &data(&broker)]);
    assert_eq!(create.status.code(), Some(1));
    assert!(words(&create).contains("keeps nothing"), "{}", words(&create));
}

#[test]
fn what_a_node_alone_has_kept_stays_if_it_does_not_fit_and_else_goes_into_its_cluster() {
    let mut broker = killed();
    let path = broker.dir().join("tidegate.toml");
    let alone = std::fs::read_to_string(&path).expect("the config");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr();
    let bind = port.expect("it is bound");
    let cluster =
        format!("{alone}\n[cluster]\nname = 'test'\nbootstrap = 'single'\nbind = '{bind}'\n");
    let tight = format!("{cluster}[limits]\nqueue_node_bytes_max = 1\n");
    std::fs::write(&path, tight).expect("a config");
    let (status, said) = broker.refuses_to_start();
    assert_eq!(status, Some(1), "{said}");
    let wanted = ["wait in the queues of this node", "Set limits.queue_node_bytes_max to"];
    for wanted in [&data(&broker), wanted[0], wanted[1], "leave cluster.name out"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    broker.restart_with(&alone);
    holds(&broker, "kept");
    fill(&broker, "more");
    broker.restart_with(&cluster);
    // It lets clients in a moment after it is ready.
    let end = std::time::Instant::now() + PATIENCE;
    let is_let_in = || {
        let mut raw = testkit::Raw::open(broker.mqtt);
        raw.send(&Connect::new(Version::V5, "first").bytes());
        matches!(raw.recv(), Got::Packet(_))
    };
    while !is_let_in() {
        assert!(std::time::Instant::now() < end, "{}", broker.said());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    holds(&broker, "more");
    std::fs::write(&path, &alone).expect("a config");
    broker.kill();
    let (status, said) = broker.refuses_to_start();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("that of a node of a cluster"), "{said}");
}
