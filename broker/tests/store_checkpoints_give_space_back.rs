//! Files of the log go when nothing of them is needed, and a start reads from
//! the last checkpoint.

mod conformance;

use conformance::*;

/// A small log, so that a test fills several files.
const SMALL: &str = "[store]\nsegment_bytes = 1048576\ngroup_window_micros = 0\n";

fn metric(broker: &Broker, name: &str) -> f64 {
    let (_, text) = broker.get("/metrics");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the metric is there");
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + 3 * PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < end, "not in time: {what}");
        pause(50);
    }
}

#[test]
fn what_was_delivered_goes_and_what_waits_stays() {
    let mut broker = broker(SMALL);
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.subscribe("kept", 1);
    sleeper.leave();
    let mut reader = Connect::lasting(Version::V5, "reader").open(broker.mqtt);
    reader.subscribe("flow", 1);
    let mut publisher = Connect::new(Version::V5, "publisher").open(broker.mqtt);
    let body = vec![b'x'; 20_000];
    for n in 0..20 {
        publisher.publish("kept", 1, format!("kept {n}").as_bytes());
        publisher.retain(&format!("r/{n}"), 1, b"value");
    }
    // 16 MB through a log whose files have 1 MB.
    for _ in 0..800 {
        publisher.publish("flow", 1, &body);
        reader.message();
    }
    wait_until("a checkpoint", || metric(&broker, "tidegate_store_checkpoints_total") > 0.0);
    wait_until("old files go", || metric(&broker, "tidegate_store_log_bytes") < 8e6);

    broker.restart();
    let read = metric(&broker, "tidegate_store_recovery_records");
    assert!(read < 2_000.0, "{read} records were read: more than behind a checkpoint");
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    assert!(sleeper.connack.present());
    for n in 0..20 {
        sleeper.hears(&format!("kept {n}"));
    }
    sleeper.quiet();
    let mut anybody = Connect::new(Version::V5, "anybody").open(broker.mqtt);
    anybody.subscribe("r/+", 1);
    let mut topics: Vec<_> = (0..20).map(|_| anybody.message().topic).collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 20);
}
