//! Sessions: how long they live, what belongs to them, takeover and resume.

mod conformance;

use conformance::*;

const NONE: Props = Props(Vec::new());

/// Opens a lasting session that subscribes to `topic`, and leaves it.
fn asleep(version: Version, topic: &str, qos: u8) -> Connect {
    let connect = Connect::lasting(version, &unique("s"));
    let mut client = open(&connect);
    client.subscribe(topic, qos);
    client.leave();
    connect
}

// 5.0 [MQTT-3.1.2-4] [MQTT-3.1.4-4], 3.1.1 [MQTT-3.1.2-6] [MQTT-3.1.4-3]
#[test]
fn clean_start_begins_a_new_session() {
    for v in ALL {
        let topic = unique("t");
        let connect = Connect::lasting(v, &unique("s"));
        let mut client = open(&connect);
        client.subscribe(&topic, 2);
        let mut publisher = join(v);
        publisher.publish(&topic, 1, b"in flight");
        client.message();
        // An incoming QoS 2 exchange that is half done belongs to the session as well.
        client.send(&Publish::new(&topic, 2, b"half").id(9).bytes(v));
        client.expect_ack(PUBREC, 9);
        client.message();
        client.drop_and_wait();
        publisher.publish(&topic, 1, b"queued");
        let mut client = open(&connect.clone().clean());
        assert!(!client.connack.present());
        // Neither queue nor in-flight messages nor subscriptions are left.
        publisher.publish(&topic, 1, b"new");
        client.ping();
        client.send(&ack(PUBREL, 9));
        assert_eq!(client.expect_answer(PUBCOMP, 9), if v.is_5() { 0x92 } else { 0 });
        client.subscribe(&topic, 2);
        client.send(&Publish::new(&topic, 2, b"whole").id(9).bytes(v));
        client.expect_ack(PUBREC, 9);
        client.hears("whole");
    }
}

// 5.0 [MQTT-3.1.2-5], 3.1.1 [MQTT-3.1.2-4]
#[test]
fn clean_start_0_resumes_the_session() {
    for v in ALL {
        let topic = unique("t");
        let connect = asleep(v, &topic, 1);
        let mut publisher = join(v);
        publisher.publish(&topic, 1, b"queued");
        let mut client = open(&connect);
        client.hears("queued");
        publisher.publish(&topic, 1, b"live");
        client.hears("live");
    }
}

// 5.0 [MQTT-3.1.2-6], 3.1.1 [MQTT-3.1.2-4]
#[test]
fn clean_start_0_without_a_session_creates_one() {
    for v in ALL {
        let (topic, connect) = (unique("t"), Connect::lasting(v, &unique("s")));
        let mut client = open(&connect);
        assert!(!client.connack.present());
        client.subscribe(&topic, 1);
        client.leave();
        join(v).publish(&topic, 1, b"kept");
        open(&connect).hears("kept");
    }
}

// 5.0 [MQTT-3.1.2-23], 3.1.1 [MQTT-3.1.2-5]
#[test]
fn session_collects_messages_while_its_client_is_away() {
    for v in ALL {
        let topic = unique("t");
        let connect = asleep(v, &topic, 2);
        let mut publisher = join(v);
        for n in 0..20 {
            publisher.publish(&topic, 1 + n % 2, format!("{n}").as_bytes());
        }
        let mut client = open(&connect);
        for n in 0..20 {
            let message = client.hears(&n.to_string());
            assert_eq!((message.qos, message.dup), (1 + n % 2, false));
        }
        client.ping();
        // Also when the connection was lost.
        client.drop_and_wait();
        publisher.publish(&topic, 1, b"after the loss");
        open(&connect).hears("after the loss");
    }
}

// 3.1.1 [MQTT-3.1.2-6]: what a clean session leaves is not used again.
#[test]
fn session_with_clean_session_1_ends_with_its_connection() {
    for v in ALL {
        let (id, topic) = (unique("s"), unique("t"));
        let mut client = open(&Connect::new(v, &id));
        client.subscribe(&topic, 1);
        client.leave();
        let mut publisher = join(v);
        publisher.publish(&topic, 1, b"nobody there");
        let mut client = open(&Connect::new(v, &id).resume());
        assert!(!client.connack.present());
        publisher.publish(&topic, 1, b"still nobody");
        client.ping();
    }
}

// 5.0 [MQTT-4.1.0-2]
#[test]
fn session_ends_when_its_expiry_has_passed() {
    let v = Version::V5;
    let (id, topic) = (unique("s"), unique("t"));
    let connect = Connect::new(v, &id).resume().expiry(2);
    let mut client = open(&connect);
    client.subscribe(&topic, 1);
    client.leave();
    // In time: still there, and the clock starts again at the next drop.
    pause(700);
    let client = open(&connect);
    assert!(client.connack.present());
    pause(2500);
    client.leave();
    pause(700);
    let client = open(&connect);
    assert!(client.connack.present(), "the clock ran while connected");
    client.leave();
    pause(3300);
    let mut client = open(&connect);
    assert!(!client.connack.present());
    join(v).publish(&topic, 1, b"x");
    client.ping();
}

// 5.0 [MQTT-4.1.0-1], 3.1.1 [MQTT-4.1.0-1] [MQTT-4.1.0-2]
#[test]
fn session_lasts_at_least_as_long_as_its_connection() {
    for v in ALL {
        let topic = unique("t");
        let mut client = open(&Connect::new(v, &unique("s")));
        client.subscribe(&topic, 1);
        pause(1200);
        let mut publisher = join(v);
        publisher.publish(&topic, 1, b"x");
        client.hears("x");
    }
    // Expiry counts from the drop, so a connection older than it keeps its session.
    let connect = Connect::new(Version::V5, &unique("s")).resume().expiry(1);
    let topic = unique("t");
    let mut client = open(&connect);
    client.subscribe(&topic, 1);
    pause(2200);
    client.publish(&topic, 1, b"still");
    client.hears("still");
    client.leave();
    assert!(open(&connect).connack.present());
}

// 3.1.2.11.2: absent is 0; 0xFFFFFFFF never expires (as far as a test can wait).
#[test]
fn session_expiry_absent_is_0_and_the_largest_is_never() {
    let v = Version::V5;
    let id = unique("s");
    open(&Connect::new(v, &id).resume()).leave();
    assert!(!open(&Connect::new(v, &id).resume().expiry(u32::MAX)).connack.present());
    assert!(open(&Connect::new(v, &id).resume().expiry(0)).connack.present());
    // The last connection set 0, so it ended there. (Its socket closed unseen.)
    pause(100);
    assert!(!open(&Connect::new(v, &id).resume()).connack.present());
}

// PROTOCOL: DISCONNECT may change the expiry: shorter, longer, 0.
#[test]
fn disconnect_may_change_the_session_expiry() {
    let v = Version::V5;
    let change = |from: u32, to: u32, wait: u64| {
        let connect = Connect::new(v, &unique("s")).resume().expiry(from);
        open(&connect).leave_with(0, [four(prop::SESSION_EXPIRY, to)]);
        pause(wait);
        open(&connect).connack.present()
    };
    assert!(!change(600, 0, 0), "0 ends the session at once");
    assert!(change(1, 600, 1800), "longer");
    assert!(!change(600, 1, 2300), "shorter");
}

// 3.14.2.2.2: from 0 to something is a protocol error, ignored, and the will is sent.
#[test]
fn disconnect_may_not_revive_a_session_of_expiry_0() {
    let v = Version::V5;
    for explicit in [true, false] {
        let (id, topic) = (unique("s"), unique("w"));
        let mut watcher = join(v);
        watcher.subscribe(&topic, 0);
        let mut connect = Connect::new(v, &id).will(Will::new(&topic, b"will"));
        if explicit {
            connect = connect.expiry(0);
        }
        let mut client = open(&connect);
        client.send(&disconnect(0, [four(prop::SESSION_EXPIRY, 60)]));
        client.expect_end(0x82);
        watcher.hears("will");
        assert!(!open(&Connect::lasting(v, &id)).connack.present());
    }
}

// 5.0 [MQTT-4.5.0-1], 3.1.1 [MQTT-4.5.0-1]
#[test]
fn message_is_added_to_every_session_that_subscribed() {
    for v in ALL {
        let topic = unique("t");
        let away: Vec<Connect> = (0..3).map(|_| asleep(v, &topic, 1)).collect();
        let mut here: Vec<Client> = (0..3).map(|_| join(v)).collect();
        for client in &mut here {
            client.subscribe(&topic, 1);
        }
        join(v).publish(&topic, 1, b"x");
        for client in &mut here {
            client.hears("x");
        }
        for connect in &away {
            open(connect).hears("x");
        }
    }
}

// 3.1.1 [MQTT-3.1.2-7]
#[test]
fn retained_messages_outlive_the_session_that_published_them() {
    for v in ALL {
        let topic = unique("t");
        let mut client = join(v);
        client.retain(&topic, 1, b"kept");
        client.leave();
        let mut late = join(v);
        late.subscribe(&topic, 0);
        late.hears("kept");
    }
}

// PROTOCOL: takeover hands the whole session on, wherever the new connection lands.
#[test]
fn takeover_hands_over_queue_flight_and_subscriptions() {
    for v in ALL {
        let topic = unique("t");
        let connect = Connect::lasting(v, &unique("s"));
        let mut client = open(&connect);
        client.subscribe(&topic, 1);
        let mut publisher = join(v);
        // Several times over: connections land on several shards.
        for round in 0..6 {
            publisher.publish(&topic, 1, format!("owed {round}").as_bytes());
            let owed = client.message();
            let mut next = open(&connect);
            assert!(next.connack.present() || v == Version::V31);
            client.expect_end(0x8e);
            let again = next.hears(&format!("owed {round}"));
            assert_eq!((again.id, again.dup), (owed.id, true));
            publisher.publish(&topic, 1, format!("live {round}").as_bytes());
            next.hears(&format!("live {round}"));
            client = next;
        }
    }
}

// Messages published during a storm of takeovers arrive in order and none is lost.
#[test]
fn takeover_under_load_loses_nothing() {
    for v in OASIS {
        let topic = unique("t");
        let connect = Connect::lasting(v, &unique("s"));
        let mut client = open(&connect);
        client.subscribe(&topic, 1);
        let mut publisher = join(v);
        let mut heard = std::collections::BTreeSet::new();
        let take = |client: &mut Client, heard: &mut std::collections::BTreeSet<u32>| {
            while let Some(packet) = client.within(Duration::from_millis(20)) {
                if let Packet::Publish(message) = packet {
                    client.finish(&message);
                    heard.insert(message.said().parse().expect("a number"));
                }
            }
        };
        for round in 0..10 {
            for n in 0..20 {
                publisher.publish(&topic, 1, format!("{}", round * 20 + n).as_bytes());
            }
            take(&mut client, &mut heard);
            let next = open(&connect);
            client = next;
        }
        while heard.len() < 200 {
            let message = client.take();
            heard.insert(message.said().parse().expect("a number"));
        }
    }
}

// PROTOCOL: 3.1.1 clean=0 does not expire with its connection; and versions share ids.
#[test]
fn session_may_be_resumed_by_another_version() {
    let topic = unique("t");
    let connect = asleep(Version::V311, &topic, 1);
    join(Version::V5).publish(&topic, 1, b"x");
    let id = String::from_utf8(connect.id.clone()).expect("a test's id is text");
    let mut client = open(&Connect::lasting(Version::V5, &id));
    assert!(client.connack.present());
    client.hears("x");
}

// [MQTT-3.1.2-23]: options and subscription identifiers belong to the session.
#[test]
fn subscription_options_and_ids_survive_the_resume() {
    let v = Version::V5;
    let (id, topic) = (unique("s"), unique("t"));
    let connect = Connect::lasting(v, &id);
    let mut client = open(&connect);
    client.subscribe_id(&topic, 1 | 0x08, 42);
    client.leave();
    let mut client = open(&connect);
    join(v).retain(&topic, 1, b"x");
    let message = client.hears("x");
    assert!(message.retain, "Retain As Published");
    assert_eq!(message.props.numbers(prop::SUBSCRIPTION_ID), [42]);
    // Retain handling 1: the subscription is not new after a resume.
    client.leave();
    let mut client = open(&connect);
    client.subscribe_all(&NONE, &[(&topic, 0x10)]);
    client.ping();
}
