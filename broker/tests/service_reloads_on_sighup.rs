//! SIGHUP takes over what is live, names what is not, and ends nobody's connection.

use testkit::Broker;
use testkit::client::{Connect, Version};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

#[test]
fn the_log_says_what_was_applied_and_what_needs_a_restart() {
    let mut broker = Broker::start(BINARY, "[log]\nlevel = \"error\"\n");
    let mut client = Connect::new(Version::V5, "c").open(broker.mqtt);
    broker.reload("[log]\nlevel = \"info\"\n[limits]\npacket_bytes_max = 2048\n");
    // At the old level none of it would be seen.
    let reloaded = broker.says("config reloaded");
    assert!(reloaded.contains("changed=2 whole=false"), "{reloaded}");
    let applied = broker.says("config: applied");
    assert!(applied.ends_with(r#"key="log.level" old="\"error\"" new="\"info\"""#), "{applied}");
    let restart = broker.says("config: needs a restart");
    assert!(
        restart.contains(r#"key="limits.packet_bytes_max" old="1048576" new="2048""#),
        "{restart}"
    );
    client.ping();
    assert_eq!(broker.terminate(), Some(0));
}

#[test]
fn a_config_with_a_fault_changes_nothing() {
    let broker = Broker::start(BINARY, "");
    broker.reload("[log]\nlevel = \"error\"\nlines = 1\n");
    let refused = broker.says("the config is not reloaded");
    assert!(refused.contains("ERROR") && refused.contains("log.lines"), "{refused}");
    broker.reload("");
    broker.says("config reloaded changed=0 whole=true");
}

#[test]
fn the_hash_of_the_settings_is_of_those_in_effect() {
    let broker = Broker::start(BINARY, "[log]\nlevel = \"error\"\n");
    let hash = || {
        let (_, text) = broker.get("/metrics");
        let line = text.lines().find(|line| line.starts_with("tidegate_config_hash_info{"));
        line.expect("it is there").to_owned()
    };
    let first = hash();
    assert!(first.contains("hash=\"") && !first.contains("\"00000000\""), "{first}");
    broker.reload("[log]\nlevel = \"info\"\n");
    broker.says("config reloaded changed=1 whole=true");
    let second = hash();
    assert_ne!(first, second);
    // What needs a restart is not in effect.
    broker.reload("[log]\nlevel = \"info\"\n[limits]\npacket_bytes_max = 2048\n");
    broker.says("config reloaded changed=1 whole=false");
    assert_eq!(hash(), second);
}
