//! The histograms of a running node hold each connection and each delivery.

use testkit::{Broker, Got, Raw};

const MESSAGES: usize = 100;

fn connected(broker: &Broker, id: u8) -> Raw {
    let mut raw = broker.raw();
    raw.send(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, id]);
    assert_eq!(raw.recv(), Got::Packet(vec![0x20, 2, 0, 0]));
    raw
}

/// The sum of a metric's samples whose labels have all of `with`.
fn sum(text: &str, name: &str, with: &[&str]) -> f64 {
    let samples = text.lines().filter_map(|line| line.split_once('{'));
    let ours = samples.filter(|(known, labels)| {
        *known == name && with.iter().all(|label| labels.contains(label))
    });
    ours.filter_map(|(_, rest)| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn every_connection_and_every_delivery_is_in_a_histogram() {
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let mut publisher = connected(&broker, b'p');
    // Of eight subscribers some are on the publisher's shard, some on the other.
    let mut subscribers: Vec<_> = (b'a'..=b'h').map(|id| connected(&broker, id)).collect();
    for subscriber in &mut subscribers {
        subscriber.send(&[0x82, 0x06, 0x00, 0x01, 0x00, 0x01, b't', 0x01]);
        assert!(matches!(subscriber.recv(), Got::Packet(suback) if suback[4] == 1));
    }
    // What comes before the retained messages of a new subscription waits for
    // them, and what waits is not timed. This message has waited.
    publisher.send(&[0x30, 4, 0, 1, b't', 0]);
    for subscriber in &mut subscribers {
        assert!(matches!(subscriber.recv(), Got::Packet(packet) if packet[0] == 0x30));
    }
    for n in 1..=MESSAGES as u8 {
        publisher.send(&[0x30, 4, 0, 1, b't', n, 0x32, 6, 0, 1, b't', 0, n, n]);
        assert_eq!(publisher.recv(), Got::Packet(vec![0x40, 2, 0, n]));
        for subscriber in &mut subscribers {
            assert!(matches!(subscriber.recv(), Got::Packet(packet) if packet[0] == 0x30));
            let Got::Packet(packet) = subscriber.recv() else { panic!("message {n} missing") };
            subscriber.send(&[0x40, 2, packet[5], packet[6]]);
        }
    }

    // A delivery arrives before the turn that wrote it has ended and counts it.
    let end = std::time::Instant::now() + testkit::PATIENCE;
    let latency = "tidegate_publish_latency_seconds_count";
    let all = (subscribers.len() * MESSAGES) as f64;
    let (qos0, qos1) = ("qos=\"0\"", "qos=\"1\"");
    let text = loop {
        let (status, text) = broker.get("/metrics");
        assert_eq!(status, 200);
        let whole = [qos0, qos1].iter().all(|qos| sum(&text, latency, &[qos]) >= all);
        if whole || std::time::Instant::now() > end {
            break text;
        }
    };
    assert_eq!(sum(&text, latency, &[qos1]), all);
    let first = subscribers.len() as f64;
    let timed = sum(&text, latency, &[qos0]);
    assert!((all..=all + first).contains(&timed), "{timed} of {all} and the first {first}");
    for qos in [qos0, qos1] {
        let within = sum(&text, "tidegate_publish_latency_seconds_bucket", &[qos, "le=\"1.0\""]);
        assert_eq!(within, sum(&text, latency, &[qos]), "all within a second");
        assert!(sum(&text, "tidegate_publish_latency_seconds_sum", &[qos]) > 0.0);
    }
    for stage in ["stage=\"connect\"", "stage=\"connack\""] {
        let connections = sum(&text, "tidegate_connect_duration_seconds_count", &[stage]);
        assert_eq!(connections, 1.0 + subscribers.len() as f64, "{stage}");
    }
    for shard in ["shard=\"0\"", "shard=\"1\""] {
        assert!(sum(&text, "tidegate_shard_loop_lag_seconds_count", &[shard]) > 0.0);
    }
    let unwanted = ["reason=\"no_subscriber\""];
    assert_eq!(sum(&text, "tidegate_messages_dropped_total", &unwanted), 0.0, "not even $SYS");
}
