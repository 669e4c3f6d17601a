//! Retained messages: stored, replaced, removed, and sent on SUBSCRIBE.

mod conformance;

use conformance::*;

const NONE: Props = Props(Vec::new());
const AS_PUBLISHED: u8 = 0x08;

/// What a new subscriber finds on `filter`, in any order, as (topic, payload).
#[track_caller]
fn found(version: Version, filter: &str) -> Vec<(String, String)> {
    let end = unique("end");
    let mut client = join(version);
    client.subscribe(&end, 0);
    client.subscribe(filter, 2);
    client.quiet_retained(&end)
}

trait Retained {
    fn quiet_retained(&mut self, end: &str) -> Vec<(String, String)>;
}

impl Retained for Client {
    #[track_caller]
    fn quiet_retained(&mut self, end: &str) -> Vec<(String, String)> {
        // Retained messages leave before a later PINGRESP does on most brokers;
        // not on one that paces a long replay, so silence is what decides.
        let mut all = Vec::new();
        while let Some(packet) = self.within(QUIET) {
            let Packet::Publish(message) = packet else { panic!("{packet:?}") };
            self.finish(&message);
            assert!(message.retain, "sent because of a SUBSCRIBE: RETAIN is 1");
            assert_ne!(message.topic, end);
            all.push((message.topic.clone(), message.said()));
        }
        all.sort();
        all
    }
}

fn one(topic: &str, payload: &str) -> Vec<(String, String)> {
    vec![(topic.to_owned(), payload.to_owned())]
}

// [MQTT-3.3.1-5] of both standards
#[test]
fn retained_message_is_stored_and_replaces_the_one_before() {
    for v in ALL {
        let topic = unique("r");
        let mut publisher = join(v);
        for (qos, payload) in [(0, "one"), (1, "two"), (2, "three"), (0, "four")] {
            publisher.retain(&topic, qos, payload.as_bytes());
            publisher.ping();
            assert_eq!(found(v, &topic), one(&topic, payload));
        }
    }
}

// 3.1.1 [MQTT-3.3.1-6], 5.0 [MQTT-3.3.1-9]
#[test]
fn new_subscription_gets_the_last_retained_message_of_each_topic() {
    for v in ALL {
        let base = unique("r");
        let mut publisher = join(v);
        for tail in ["a", "a/b", "c", "a/b/c", "$x"] {
            publisher.retain(&format!("{base}/{tail}"), 1, b"old");
            publisher.retain(&format!("{base}/{tail}"), 1, tail.as_bytes());
        }
        publisher.retain(&base, 1, b"base");
        let at = |tails: &[&str]| {
            let mut all: Vec<_> =
                tails.iter().map(|t| (format!("{base}/{t}"), (*t).to_owned())).collect();
            all.sort();
            all
        };
        assert_eq!(found(v, &format!("{base}/+")), at(&["a", "c", "$x"]));
        assert_eq!(found(v, &format!("{base}/a/#")), at(&["a", "a/b", "a/b/c"]));
        assert_eq!(found(v, &format!("{base}/+/b")), at(&["a/b"]));
        let mut all = at(&["a", "a/b", "c", "a/b/c", "$x"]);
        all.push((base.clone(), "base".to_owned()));
        all.sort();
        assert_eq!(found(v, &format!("{base}/#")), all);
    }
}

// 3.1.1 [MQTT-3.3.1-7]
#[test]
fn retained_qos_0_message_replaces_one_of_higher_qos() {
    for v in ALL {
        let topic = unique("r");
        let mut publisher = join(v);
        publisher.retain(&topic, 2, b"two");
        publisher.retain(&topic, 0, b"zero");
        publisher.ping();
        let mut late = join(v);
        late.subscribe(&topic, 2);
        let kept = late.hears("zero");
        assert_eq!((kept.qos, kept.retain), (0, true));
    }
}

// 3.1.1 [MQTT-3.3.1-8]
#[test]
fn retain_is_1_on_what_a_subscribe_brings() {
    for v in ALL {
        let topic = unique("r");
        join(v).retain(&topic, 1, b"x");
        let mut late = join(v);
        late.subscribe(&topic, 1);
        assert!(late.hears("x").retain);
        // Whatever Retain As Published says.
        if v.is_5() {
            late.subscribe_all(&NONE, &[(&topic, AS_PUBLISHED)]);
            assert!(late.hears("x").retain);
        }
    }
}

// 3.1.1 [MQTT-3.3.1-9], 5.0 [MQTT-3.3.1-12]
#[test]
fn retain_is_0_on_live_messages() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 1);
        publisher.retain(&topic, 1, b"x");
        assert!(!subscriber.hears("x").retain);
        publisher.publish(&topic, 1, b"y");
        assert!(!subscriber.hears("y").retain);
    }
}

// 5.0 [MQTT-3.3.1-13]
#[test]
fn retain_is_as_published_when_so_subscribed() {
    let v = Version::V5;
    let topic = unique("r");
    let mut subscriber = join(v);
    subscriber.subscribe(&topic, 1 | AS_PUBLISHED);
    for publisher_version in ALL {
        let mut publisher = join(publisher_version);
        publisher.retain(&topic, 1, b"x");
        assert!(subscriber.hears("x").retain);
        publisher.publish(&topic, 1, b"y");
        assert!(!subscriber.hears("y").retain);
    }
}

// 5.0 [MQTT-3.3.1-6], 3.1.1 [MQTT-3.3.1-10]
#[test]
fn empty_retained_message_removes_and_is_still_delivered() {
    for v in ALL {
        for qos in [0, 1, 2] {
            let (mut publisher, mut subscriber, topic) = pair(v, 2);
            publisher.retain(&topic, 1, b"kept");
            subscriber.hears("kept");
            publisher.retain(&topic, qos, b"");
            let empty = subscriber.hears("");
            assert_eq!((empty.retain, empty.qos), (false, qos));
            assert_eq!(found(v, &topic), []);
        }
    }
}

// 5.0 [MQTT-3.3.1-7], 3.1.1 [MQTT-3.3.1-11]
#[test]
fn empty_retained_message_is_not_stored() {
    for v in ALL {
        let topic = unique("r");
        let mut publisher = join(v);
        publisher.retain(&topic, 1, b"");
        assert_eq!(found(v, &topic), []);
        publisher.retain(&topic, 1, b"x");
        assert_eq!(found(v, &topic), one(&topic, "x"));
    }
}

// 5.0 [MQTT-3.3.1-8], 3.1.1 [MQTT-3.3.1-12]
#[test]
fn message_without_retain_neither_stores_nor_replaces() {
    for v in ALL {
        let topic = unique("r");
        let mut publisher = join(v);
        publisher.publish(&topic, 1, b"passing");
        assert_eq!(found(v, &topic), []);
        publisher.retain(&topic, 1, b"kept");
        publisher.publish(&topic, 1, b"passing");
        publisher.publish(&topic, 1, b"");
        assert_eq!(found(v, &topic), one(&topic, "kept"));
    }
}

// 5.0 [MQTT-3.3.1-9]
#[test]
fn retain_handling_0_sends_at_every_subscribe() {
    let v = Version::V5;
    let topic = unique("r");
    join(v).retain(&topic, 1, b"x");
    let mut client = join(v);
    for _ in 0..3 {
        client.subscribe(&topic, 1);
        assert!(client.hears("x").retain);
    }
}

// 5.0 [MQTT-3.3.1-10]
#[test]
fn retain_handling_1_sends_to_new_subscriptions_only() {
    let v = Version::V5;
    let topic = unique("r");
    join(v).retain(&topic, 1, b"x");
    let mut client = join(v);
    client.subscribe(&topic, 1 | 0x10);
    assert!(client.hears("x").retain);
    client.subscribe(&topic, 1 | 0x10);
    client.quiet();
    client.unsubscribe(&[&topic]);
    client.subscribe(&topic, 1 | 0x10);
    assert!(client.hears("x").retain);
}

// 5.0 [MQTT-3.3.1-11]
#[test]
fn retain_handling_2_sends_none() {
    let v = Version::V5;
    let topic = unique("r");
    let mut publisher = join(v);
    publisher.retain(&topic, 1, b"x");
    let mut client = join(v);
    client.subscribe(&topic, 1 | 0x20);
    client.subscribe(&topic, 1 | 0x20);
    client.quiet();
    publisher.publish(&topic, 1, b"live");
    client.hears("live");
}

// PROTOCOL: QoS of a retained message is the lower of stored and granted.
#[test]
fn retained_qos_is_the_lower_of_stored_and_granted() {
    for v in ALL {
        for stored in [0, 1, 2] {
            let topic = unique("r");
            let mut publisher = join(v);
            publisher.retain(&topic, stored, b"x");
            publisher.ping();
            for granted in [0, 1, 2] {
                let mut late = join(v);
                late.subscribe(&topic, granted);
                assert_eq!(late.hears("x").qos, stored.min(granted));
            }
        }
    }
}

// PROTOCOL: retained messages come after the SUBACK.
#[test]
fn retained_messages_come_after_the_suback() {
    for v in ALL {
        let base = unique("r");
        let mut publisher = join(v);
        for n in 0..10 {
            publisher.retain(&format!("{base}/{n}"), 1, b"x");
        }
        let mut client = join(v);
        client.send(&subscribe(v, 1, &NONE, &[(&format!("{base}/+"), 1), (&base, 0)]));
        assert!(matches!(client.recv(), Packet::Suback { .. }));
        for _ in 0..10 {
            client.hears("x");
        }
    }
}

// The subscription identifier of the SUBSCRIBE that brings it.
#[test]
fn retained_messages_carry_the_subscription_id() {
    let v = Version::V5;
    let topic = unique("r");
    join(v).retain(&topic, 1, b"x");
    let mut client = join(v);
    client.subscribe_id(&topic, 1, 9);
    assert_eq!(client.hears("x").props.numbers(prop::SUBSCRIPTION_ID), [9]);
}

// PROTOCOL: clear many while subscribed.
#[test]
fn many_retained_messages_are_cleared_under_a_subscriber() {
    for v in OASIS {
        let base = unique("r");
        let mut publisher = join(v);
        for n in 0..300 {
            publisher.retain(&format!("{base}/{n}"), 1, b"x");
        }
        let mut client = join(v);
        client.subscribe(&format!("{base}/#"), 1);
        for _ in 0..300 {
            assert!(client.hears("x").retain);
        }
        for n in 0..300 {
            publisher.retain(&format!("{base}/{n}"), 1, b"");
        }
        for _ in 0..300 {
            assert!(!client.hears("").retain);
        }
        assert_eq!(found(v, &format!("{base}/#")), []);
    }
}

// BND-1: retained messages over the limit are not stored, and the publisher is told.
#[test]
fn retained_message_over_the_limit_is_not_stored() {
    let server = broker("[limits]\nretained_messages_max = 2\n[mqtt]\nsys_interval_seconds = 0\n");
    for v in ALL {
        let base = unique("r");
        let mut publisher = Connect::new(v, &unique("p")).open(server.mqtt);
        publisher.retain(&format!("{base}/1"), 1, b"x");
        publisher.retain(&format!("{base}/2"), 1, b"x");
        let third = Publish::new(&format!("{base}/3"), 1, b"x").retain().id(500);
        publisher.send(&third.bytes(v));
        assert_eq!(publisher.expect_answer(PUBACK, 500), if v.is_5() { 0x97 } else { 0 });
        // Replacing one that is there takes no more room.
        publisher.retain(&format!("{base}/2"), 1, b"y");
        let mut late = Connect::new(v, &unique("l")).open(server.mqtt);
        late.subscribe(&format!("{base}/#"), 0);
        assert_eq!(
            late.quiet_retained(""),
            [(format!("{base}/1"), "x".to_owned()), (format!("{base}/2"), "y".to_owned())]
        );
        publisher.retain(&format!("{base}/1"), 1, b"");
        publisher.retain(&format!("{base}/2"), 1, b"");
    }
}
