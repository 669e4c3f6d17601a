//! QoS 0, 1 and 2, towards the broker and from it, also across a resume.

mod conformance;

use conformance::*;

/// A session that outlives its connections, and a publisher to it.
struct Lasting {
    version: Version,
    id: String,
    topic: String,
    publisher: Client,
}

impl Lasting {
    fn new(version: Version, qos: u8) -> (Lasting, Client) {
        let (id, topic) = (unique("last"), unique("t"));
        let mut client = open(&Connect::lasting(version, &id));
        client.subscribe(&topic, qos);
        (Lasting { version, id, topic, publisher: join(version) }, client)
    }

    #[track_caller]
    fn say(&mut self, qos: u8, payload: &str) {
        let topic = self.topic.clone();
        self.publisher.publish(&topic, qos, payload.as_bytes());
    }

    #[track_caller]
    fn resume(&self) -> Client {
        let client = open(&Connect::lasting(self.version, &self.id));
        // 3.1 has no Session Present.
        assert!(client.connack.present() || self.version == Version::V31);
        client
    }
}

/// The socket is closed before the session's shard has heard of it; a message that
/// comes in between counts as tried on the old connection, and would have DUP.
fn settle() {
    pause(150);
}

// [MQTT-4.3.1-1]
#[test]
fn qos_0_is_sent_once_without_dup() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        for n in 0..10 {
            publisher.publish(&topic, 0, format!("{n}").as_bytes());
        }
        for n in 0..10 {
            let message = subscriber.hears(&n.to_string());
            assert_eq!((message.qos, message.dup), (0, false));
        }
        subscriber.ping();
    }
}

// 5.0 [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-2.2.1-4], 3.1.1 [MQTT-4.3.2-1]
#[test]
fn qos_1_goes_out_with_an_unused_id_and_without_dup() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 1);
        for n in 0..50 {
            publisher.publish(&topic, 1, format!("{n}").as_bytes());
        }
        let mut ids = Vec::new();
        for n in 0..50 {
            let message = subscriber.message();
            assert_eq!((message.said(), message.qos, message.dup), (n.to_string(), 1, false));
            assert!(message.id != 0 && !ids.contains(&message.id), "id {} again", message.id);
            ids.push(message.id);
        }
    }
}

// 5.0 [MQTT-4.3.2-3]
#[test]
fn qos_1_is_owed_until_its_puback() {
    for v in ALL {
        let (mut story, mut client) = Lasting::new(v, 1);
        story.say(1, "one");
        story.say(1, "two");
        let one = client.message();
        let two = client.message();
        client.send(&ack(PUBACK, one.id));
        client.ping();
        client.leave();
        let mut client = story.resume();
        let again = client.hears("two");
        assert_eq!((again.id, again.dup), (two.id, true));
        client.ping();
        client.leave();
        story.resume().ping();
    }
}

// 5.0 [MQTT-4.3.2-4], 3.1.1 [MQTT-4.3.2-2]
#[test]
fn qos_1_is_acknowledged_and_then_the_brokers_to_deliver() {
    for v in ALL {
        let (mut story, client) = Lasting::new(v, 1);
        client.leave();
        let topic = story.topic.clone();
        story.publisher.send(&Publish::new(&topic, 1, b"mine now").id(77).bytes(v));
        story.publisher.expect_ack(PUBACK, 77);
        story.resume().hears("mine now");
    }
}

// 5.0 [MQTT-4.3.2-5]
#[test]
fn same_id_after_the_puback_is_a_new_message() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 1);
        for (payload, dup) in [("one", false), ("two", false), ("three", true)] {
            let mut publish = Publish::new(&topic, 1, payload.as_bytes()).id(5);
            publish.dup = dup;
            publisher.send(&publish.bytes(v));
            publisher.expect_ack(PUBACK, 5);
            subscriber.hears(payload);
        }
    }
}

// 5.0 [MQTT-4.3.3-1] [MQTT-4.3.3-2], 3.1.1 [MQTT-4.3.3-1]
#[test]
fn qos_2_goes_out_with_an_unused_id_and_without_dup() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        for n in 0..50 {
            publisher.publish(&topic, 2, format!("{n}").as_bytes());
        }
        let mut ids = Vec::new();
        for n in 0..50 {
            let message = subscriber.message();
            assert_eq!((message.said(), message.qos, message.dup), (n.to_string(), 2, false));
            assert!(message.id != 0 && !ids.contains(&message.id), "id {} again", message.id);
            ids.push(message.id);
        }
        // An id comes free at PUBCOMP, not at PUBREC.
        for id in &ids[..10] {
            subscriber.send(&ack(PUBREC, *id));
            subscriber.expect_ack(PUBREL, *id);
        }
        publisher.publish(&topic, 2, b"late");
        let late = subscriber.message();
        assert!(!ids.contains(&late.id), "id {} is still owed", late.id);
    }
}

// 5.0 [MQTT-4.3.3-3]
#[test]
fn qos_2_is_owed_until_its_pubrec() {
    for v in ALL {
        let (mut story, mut client) = Lasting::new(v, 2);
        story.say(2, "one");
        story.say(2, "two");
        let one = client.message();
        let two = client.message();
        client.send(&ack(PUBREC, one.id));
        client.expect_ack(PUBREL, one.id);
        client.leave();
        let mut client = story.resume();
        assert_eq!(client.expect_ack(PUBREL, one.id), 0);
        let again = client.message();
        assert_eq!(
            (again.said().as_str(), again.id, again.dup, again.qos),
            ("two", two.id, true, 2)
        );
        client.ping();
    }
}

// 5.0 [MQTT-4.3.3-4]
#[test]
fn pubrec_is_answered_with_pubrel_of_the_same_id() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        for n in 0..3 {
            publisher.publish(&topic, 2, format!("{n}").as_bytes());
        }
        let ids: Vec<u16> = (0..3).map(|_| subscriber.message().id).collect();
        for id in [ids[1], ids[0], ids[2]] {
            subscriber.send(&ack(PUBREC, id));
            subscriber.expect_ack(PUBREL, id);
        }
        if v.is_5() {
            // A PUBREC that is an error ends the exchange instead.
            publisher.publish(&topic, 2, b"unwanted");
            let unwanted = subscriber.message();
            subscriber.send(&ack_reason(PUBREC, unwanted.id, 0x80));
            subscriber.ping();
            // A PUBREC with 0x10 is none.
            publisher.publish(&topic, 2, b"fine");
            let fine = subscriber.message();
            subscriber.send(&ack_reason(PUBREC, fine.id, 0x10));
            subscriber.expect_ack(PUBREL, fine.id);
        }
    }
}

// 5.0 [MQTT-4.3.3-5] [MQTT-4.3.3-6]
#[test]
fn pubrel_is_owed_until_its_pubcomp_and_the_publish_is_not_sent_again() {
    for v in ALL {
        let (mut story, mut client) = Lasting::new(v, 2);
        story.say(2, "x");
        let id = client.message().id;
        client.send(&ack(PUBREC, id));
        client.expect_ack(PUBREL, id);
        for _ in 0..2 {
            client.leave();
            client = story.resume();
            assert_eq!(client.expect_ack(PUBREL, id), 0);
            client.ping();
        }
        client.send(&ack(PUBCOMP, id));
        client.ping();
        client.leave();
        story.resume().ping();
    }
}

// 5.0 [MQTT-4.3.3-7]
#[test]
fn message_expiry_does_not_stop_what_is_in_flight() {
    let v = Version::V5;
    for qos in [1, 2] {
        let (mut story, mut client) = Lasting::new(v, qos);
        let publish = Publish::new(&story.topic, qos, b"x");
        story.publisher.put(publish.props([four(prop::MESSAGE_EXPIRY, 2)]));
        let first = client.message();
        client.leave();
        pause(2600);
        let mut client = story.resume();
        let again = client.hears("x");
        assert_eq!((again.id, again.dup), (first.id, true));
    }
}

// 5.0 [MQTT-4.3.3-13]
#[test]
fn qos_2_handshake_goes_on_after_the_message_expired() {
    let v = Version::V5;
    let (mut publisher, mut subscriber, topic) = pair(v, 2);
    let publish = Publish::new(&topic, 2, b"x").id(9).props([four(prop::MESSAGE_EXPIRY, 2)]);
    publisher.send(&publish.bytes(v));
    publisher.expect_ack(PUBREC, 9);
    let message = subscriber.message();
    pause(2600);
    publisher.send(&ack(PUBREL, 9));
    assert_eq!(publisher.expect_ack(PUBCOMP, 9), 0);
    subscriber.send(&ack(PUBREC, message.id));
    assert_eq!(subscriber.expect_ack(PUBREL, message.id), 0);
    subscriber.send(&ack(PUBCOMP, message.id));
    subscriber.ping();
}

// 5.0 [MQTT-4.3.3-8], 3.1.1 [MQTT-4.3.3-2]
#[test]
fn qos_2_is_taken_at_its_publish() {
    for v in ALL {
        let (mut story, client) = Lasting::new(v, 2);
        client.leave();
        let topic = story.topic.clone();
        story.publisher.send(&Publish::new(&topic, 2, b"mine now").id(300).bytes(v));
        story.publisher.expect_ack(PUBREC, 300);
        story.resume().hears("mine now");
    }
}

// 5.0 [MQTT-4.3.3-9]
#[test]
fn id_is_new_again_after_a_pubrec_with_an_error() {
    let v = Version::V5;
    let (mut publisher, mut subscriber, topic) = pair(v, 2);
    publisher.send(&Publish::new("$SYS/x", 2, b"refused").id(4).bytes(v));
    assert_eq!(publisher.expect_answer(PUBREC, 4), 0x87);
    publisher.send(&Publish::new(&topic, 2, b"new").id(4).bytes(v));
    publisher.expect_ack(PUBREC, 4);
    subscriber.hears("new");
    publisher.send(&ack(PUBREL, 4));
    assert_eq!(publisher.expect_ack(PUBCOMP, 4), 0);
}

// 5.0 [MQTT-4.3.3-10], 3.1.1 [MQTT-4.3.3-2]
#[test]
fn qos_2_sent_again_before_its_pubrel_is_delivered_once() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        let publish = Publish::new(&topic, 2, b"once").id(6);
        publisher.send(&publish.bytes(v));
        publisher.expect_ack(PUBREC, 6);
        for _ in 0..3 {
            publisher.send(&publish.clone().dup().bytes(v));
            publisher.expect_ack(PUBREC, 6);
        }
        publisher.send(&publish.bytes(v));
        publisher.expect_ack(PUBREC, 6);
        publisher.send(&ack(PUBREL, 6));
        publisher.expect_ack(PUBCOMP, 6);
        subscriber.hears("once");
        publisher.publish(&topic, 2, b"next");
        subscriber.hears("next");
    }
}

// The same across a resume of the publisher's session.
#[test]
fn qos_2_sent_again_after_a_resume_is_delivered_once() {
    for v in ALL {
        let (id, topic) = (unique("p"), unique("t"));
        let mut subscriber = join(v);
        subscriber.subscribe(&topic, 2);
        let mut publisher = open(&Connect::lasting(v, &id));
        let publish = Publish::new(&topic, 2, b"once").id(6);
        publisher.send(&publish.bytes(v));
        publisher.expect_ack(PUBREC, 6);
        publisher.drop_and_wait();
        let mut publisher = open(&Connect::lasting(v, &id));
        publisher.send(&publish.dup().bytes(v));
        publisher.expect_ack(PUBREC, 6);
        publisher.drop_and_wait();
        let mut publisher = open(&Connect::lasting(v, &id));
        publisher.send(&ack(PUBREL, 6));
        assert_eq!(publisher.expect_ack(PUBCOMP, 6), 0);
        publisher.send(&Publish::new(&topic, 2, b"next").id(6).bytes(v));
        publisher.expect_ack(PUBREC, 6);
        subscriber.hears("once");
        subscriber.hears("next");
    }
}

// 5.0 [MQTT-4.3.3-11], 3.1.1 [MQTT-4.3.3-2]
#[test]
fn pubrel_is_answered_with_pubcomp_of_the_same_id() {
    for v in ALL {
        let mut client = join(v);
        let topic = unique("t");
        for id in [10, 11, 12] {
            client.send(&Publish::new(&topic, 2, b"x").id(id).bytes(v));
            client.expect_ack(PUBREC, id);
        }
        for id in [11, 10, 12] {
            client.send(&ack(PUBREL, id));
            assert_eq!(client.expect_ack(PUBCOMP, id), 0);
        }
    }
}

// 5.0 [MQTT-4.3.3-12], 3.1.1 [MQTT-4.3.3-2]
#[test]
fn id_is_new_again_after_the_pubcomp() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        for (payload, dup) in [("one", false), ("two", false), ("three", true)] {
            let mut publish = Publish::new(&topic, 2, payload.as_bytes()).id(5);
            publish.dup = dup;
            publisher.send(&publish.bytes(v));
            publisher.expect_ack(PUBREC, 5);
            publisher.send(&ack(PUBREL, 5));
            publisher.expect_ack(PUBCOMP, 5);
            subscriber.hears(payload);
        }
    }
}

// [MQTT-3.3.1-1] [MQTT-4.4.0-1], 3.1.1 [MQTT-2.3.1-4]
#[test]
fn resume_sends_unacknowledged_publishes_again_with_dup_and_the_same_id() {
    for v in ALL {
        let (mut story, mut client) = Lasting::new(v, 2);
        let said = [(1, "a"), (2, "b"), (1, "c"), (2, "d")];
        for (qos, payload) in said {
            story.say(qos, payload);
        }
        let first: Vec<Publish> = said.iter().map(|_| client.message()).collect();
        client.drop_and_wait();
        settle();
        story.say(1, "new");
        let mut client = story.resume();
        for sent in first {
            let again = client.message();
            assert_eq!(again, sent.dup());
        }
        let new = client.hears("new");
        assert!(!new.dup);
    }
}

// 5.0 [MQTT-4.4.0-1]
#[test]
fn nothing_is_sent_again_while_connected() {
    for v in ALL {
        let (mut story, mut client) = Lasting::new(v, 2);
        story.say(1, "a");
        story.say(2, "b");
        let a = client.message();
        let b = client.message();
        client.send(&ack(PUBREC, b.id));
        client.expect_ack(PUBREL, b.id);
        client.quiet();
        pause(1000);
        client.ping();
        story.say(1, "c");
        let c = client.message();
        assert!(!c.dup && c.id != a.id && c.id != b.id, "{c:?}");
    }
}

// PROTOCOL: owed PUBRELs and PUBLISHes in the first order, before anything new,
// which never takes an id that is still owed.
#[test]
fn resume_keeps_the_first_order_and_the_owed_ids() {
    for v in ALL {
        let (mut story, mut client) = Lasting::new(v, 2);
        for payload in ["a", "b", "c", "d"] {
            story.say(2, payload);
        }
        let sent: Vec<Publish> = (0..4).map(|_| client.message()).collect();
        for n in [0, 2] {
            client.send(&ack(PUBREC, sent[n].id));
            client.expect_ack(PUBREL, sent[n].id);
        }
        client.drop_and_wait();
        settle();
        for n in 0..10 {
            story.say(2, &format!("new {n}"));
        }
        let mut client = story.resume();
        let mut seen = Vec::new();
        for _ in 0..4 {
            match client.recv() {
                Packet::Publish(p) => {
                    assert!(p.dup, "{p:?}");
                    seen.push((p.id, "publish"));
                }
                Packet::Ack { kind: PUBREL, id, .. } => seen.push((id, "pubrel")),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            seen,
            [
                (sent[0].id, "pubrel"),
                (sent[1].id, "publish"),
                (sent[2].id, "pubrel"),
                (sent[3].id, "publish"),
            ]
        );
        for n in 0..10 {
            let new = client.message();
            assert_eq!((new.said(), new.dup), (format!("new {n}"), false));
            assert!(sent.iter().all(|p| p.id != new.id), "id {} is still owed", new.id);
        }
    }
}

// 5.0 [MQTT-4.4.0-2]
#[test]
fn error_in_puback_or_pubrec_ends_the_delivery() {
    let v = Version::V5;
    let (mut story, mut client) = Lasting::new(v, 2);
    story.say(1, "one");
    story.say(2, "two");
    let one = client.message();
    let two = client.message();
    client.send(&ack_reason(PUBACK, one.id, 0x83));
    client.send(&ack_reason(PUBREC, two.id, 0x97));
    client.ping();
    client.leave();
    let mut client = story.resume();
    client.ping();
    story.say(1, "three");
    client.hears("three");
}

// 3.1.1 [MQTT-2.3.1-3]: the id that a client sends again means the same message
// until its exchange ends; afterwards another.
#[test]
fn packet_id_is_the_messages_until_its_exchange_ends() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        publisher.send(&Publish::new(&topic, 2, b"one").id(1).bytes(v));
        publisher.expect_ack(PUBREC, 1);
        publisher.send(&Publish::new(&topic, 2, b"one").id(1).dup().bytes(v));
        publisher.expect_ack(PUBREC, 1);
        publisher.send(&ack(PUBREL, 1));
        publisher.expect_ack(PUBCOMP, 1);
        publisher.send(&Publish::new(&topic, 2, b"two").id(1).bytes(v));
        publisher.expect_ack(PUBREC, 1);
        subscriber.hears("one");
        subscriber.hears("two");
    }
}

// The ids of the two directions have nothing to do with each other (2.2.1).
#[test]
fn both_directions_may_use_the_same_packet_id() {
    for v in ALL {
        let topic = unique("t");
        let mut client = join(v);
        client.subscribe(&topic, 2);
        // The broker's first id is very likely one of these.
        for id in 1..=5 {
            client.send(&Publish::new(&topic, 2, b"x").id(id).bytes(v));
            client.expect_ack(PUBREC, id);
        }
        let ids: Vec<u16> = (0..5).map(|_| client.message().id).collect();
        for id in &ids {
            client.send(&ack(PUBREC, *id));
            client.expect_ack(PUBREL, *id);
        }
        for id in 1..=5 {
            client.send(&ack(PUBREL, id));
            client.expect_ack(PUBCOMP, id);
        }
        for id in &ids {
            client.send(&ack(PUBCOMP, *id));
        }
        client.ping();
    }
}
