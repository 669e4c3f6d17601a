//! The broker that the tests of one file share.
#![allow(dead_code, unused_imports, unreachable_pub)]

use std::sync::LazyLock;
pub use std::time::Duration;

pub use testkit::client::*;
pub use testkit::{Broker, Got, PATIENCE, QUIET};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

/// One broker for all the tests of a file: the defaults, and reason strings, so
/// that the rules about leaving them out have something to bite on.
pub static BROKER: LazyLock<Shared> =
    LazyLock::new(|| Shared::start(BINARY, "[mqtt]\nreason_strings = true\n"));

/// A clean client at the shared broker.
#[track_caller]
pub fn join(version: Version) -> Client {
    BROKER.join(version)
}

/// Opens a session at the shared broker.
#[track_caller]
pub fn open(connect: &Connect) -> Client {
    connect.open(BROKER.address())
}

/// Two clients and a topic of their own: a publisher and a subscriber.
#[track_caller]
pub fn pair(version: Version, qos: u8) -> (Client, Client, String) {
    let topic = unique("t");
    let mut subscriber = join(version);
    subscriber.subscribe(&topic, qos);
    (join(version), subscriber, topic)
}

/// Waits until the broker has seen that this client id's connection is gone:
/// a test's only way to know it of a socket that it dropped.
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// A broker of its own with this config.
pub fn broker(config: &str) -> Broker {
    Broker::start(BINARY, config)
}
