//! Wills: when they are sent, when not, and what they carry.

mod conformance;

use conformance::*;

/// A watcher of a topic of its own.
fn watch(version: Version, qos: u8) -> (Client, String) {
    let topic = unique("w");
    let mut watcher = join(version);
    watcher.subscribe(&topic, qos);
    (watcher, topic)
}

fn with_will(version: Version, will: Will) -> Connect {
    Connect::new(version, &unique("willing")).will(will)
}

/// A delayed will.
fn delayed(topic: &str, seconds: u32) -> Will {
    Will::new(topic, b"will").props([four(prop::WILL_DELAY, seconds)])
}

/// Requires that no will has come: the next thing on the topic is a sentinel.
#[track_caller]
fn no_will(watcher: &mut Client, topic: &str) {
    watcher.quiet();
    join(watcher.version).publish(topic, 0, b"sentinel");
    watcher.hears("sentinel");
}

// [MQTT-3.1.2-7] [MQTT-3.1.2-8] of 5.0, [MQTT-3.1.2-8] of 3.1.1
#[test]
fn will_is_sent_when_the_connection_ends_without_disconnect() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 2);
        for qos in [0, 1, 2] {
            let client = open(&with_will(v, Will::new(&topic, b"farewell").qos(qos)));
            watcher.ping();
            client.drop_and_wait();
            let will = watcher.hears("farewell");
            assert_eq!((will.topic.as_str(), will.qos, will.retain), (&*topic, qos, false));
        }
        // Closed by the broker for a fault of the client is such an end too.
        let mut client = open(&with_will(v, Will::new(&topic, b"broken")));
        client.send(&[0x36, 0]);
        client.expect_end(0x81);
        watcher.hears("broken");
        // And one that is reset.
        open(&with_will(v, Will::new(&topic, b"lost"))).lose();
        watcher.hears("lost");
    }
}

// 5.0 [MQTT-3.14.4-3] [MQTT-3.1.2-10], 3.1.1 [MQTT-3.14.4-3] [MQTT-3.1.2-10]
#[test]
fn disconnect_discards_the_will() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 0);
        open(&with_will(v, Will::new(&topic, b"will"))).leave();
        no_will(&mut watcher, &topic);
        if v.is_5() {
            open(&with_will(v, Will::new(&topic, b"will"))).leave_with(0, Props::default());
            let lasting = with_will(v, delayed(&topic, 1)).expiry(600);
            open(&lasting).leave();
            pause(1300);
            no_will(&mut watcher, &topic);
        }
    }
}

// 5.0 [MQTT-3.1.2-8]: DISCONNECT with 0x04, or with an error, sends the will.
#[test]
fn disconnect_with_another_reason_sends_the_will() {
    let v = Version::V5;
    let (mut watcher, topic) = watch(v, 0);
    for reason in [0x04, 0x80, 0x81, 0x93, 0x99] {
        let client = open(&with_will(v, Will::new(&topic, b"will")));
        client.leave_with(reason, Props::default());
        watcher.hears("will");
    }
}

// [MQTT-3.1.2-10]: once it is published it is gone.
#[test]
fn will_is_sent_once() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 1);
        let id = unique("willing");
        let connect = Connect::lasting(v, &id);
        open(&connect.clone().will(Will::new(&topic, b"will").qos(1))).drop_and_wait();
        watcher.hears("will");
        // The next connection of the session has no will of its own.
        open(&connect).drop_and_wait();
        no_will(&mut watcher, &topic);
    }
}

// 3.1.1 [MQTT-3.1.2-12]
#[test]
fn no_will_without_a_will_flag() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 0);
        let mut client = open(&Connect::new(v, &unique("plain")));
        client.publish(&topic, 0, b"said");
        watcher.hears("said");
        client.drop_and_wait();
        no_will(&mut watcher, &topic);
    }
}

// 5.0 [MQTT-3.1.2-14], 3.1.1 [MQTT-3.1.2-16]
#[test]
fn will_without_retain_is_not_stored() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 0);
        open(&with_will(v, Will::new(&topic, b"will"))).drop_and_wait();
        assert!(!watcher.hears("will").retain);
        let mut late = join(v);
        late.subscribe(&topic, 0);
        late.ping();
    }
}

// 5.0 [MQTT-3.1.2-15], 3.1.1 [MQTT-3.1.2-17]
#[test]
fn will_with_retain_is_stored() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 1);
        open(&with_will(v, Will::new(&topic, b"will").qos(1).retain())).drop_and_wait();
        assert!(!watcher.hears("will").retain, "live, so RETAIN is 0");
        let mut late = join(v);
        late.subscribe(&topic, 1);
        let kept = late.hears("will");
        assert_eq!((kept.retain, kept.qos), (true, 1));
    }
}

// 5.0 [MQTT-3.1.3-10]: and every other property of the message.
#[test]
fn will_keeps_its_properties_and_their_order() {
    let v = Version::V5;
    let (mut watcher, topic) = watch(v, 1);
    let props = [
        user("z", "1"),
        byte(prop::PAYLOAD_FORMAT, 1),
        user("a", "2"),
        text(prop::CONTENT_TYPE, "text/plain"),
        user("z", "1"),
        text(prop::RESPONSE_TOPIC, "answers"),
        data(prop::CORRELATION_DATA, &[0, 1, 255]),
    ];
    let mut with_delay = vec![four(prop::WILL_DELAY, 0)];
    with_delay.extend(props.clone());
    let mut will = Will::new(&topic, b"will").qos(1).retain();
    will.props = Props(with_delay);
    open(&with_will(v, will)).drop_and_wait();
    for got in [watcher.hears("will"), {
        let mut late = join(v);
        late.subscribe(&topic, 1);
        late.hears("will")
    }] {
        // The Will Delay is for the broker, never for the subscriber.
        assert!(!got.props.has(prop::WILL_DELAY));
        for (id, value) in props.iter().filter(|(id, _)| *id != prop::USER) {
            assert_eq!(got.props.get(*id), Some(value), "property {id:#04x}");
        }
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(got.props.users(), [pair("z", "1"), pair("a", "2"), pair("z", "1")]);
    }
}

// 5.0 [MQTT-3.1.2-8]: after the delay, not before.
#[test]
fn delayed_will_comes_after_its_delay() {
    let v = Version::V5;
    let (mut watcher, topic) = watch(v, 0);
    open(&with_will(v, delayed(&topic, 2)).expiry(600)).drop_and_wait();
    assert_eq!(watcher.within(Duration::from_millis(1200)), None);
    watcher.hears("will");
    watcher.ping();
}

// 5.0 [MQTT-3.1.2-8]: the end of the session comes first.
#[test]
fn delayed_will_comes_when_the_session_ends_first() {
    let v = Version::V5;
    let (mut watcher, topic) = watch(v, 0);
    // Expiry 0: at once.
    open(&with_will(v, delayed(&topic, 600))).drop_and_wait();
    watcher.hears("will");
    // Expiry of two seconds, delay of ten minutes.
    open(&with_will(v, delayed(&topic, 600)).expiry(2)).drop_and_wait();
    assert_eq!(watcher.within(Duration::from_millis(1200)), None);
    watcher.hears("will");
    // A clean start ends the session.
    let connect = with_will(v, delayed(&topic, 600)).expiry(600);
    open(&connect).drop_and_wait();
    watcher.ping();
    let mut plain = connect.clone();
    plain.will = None;
    let again = open(&plain.clean());
    watcher.hears("will");
    drop(again);
}

// 5.0 [MQTT-3.1.3-9]
#[test]
fn resume_within_the_delay_cancels_the_will() {
    let v = Version::V5;
    let (mut watcher, topic) = watch(v, 0);
    let mut connect = with_will(v, delayed(&topic, 2)).resume().expiry(600);
    open(&connect).drop_and_wait();
    connect.will = None;
    let client = open(&connect);
    assert!(client.connack.present());
    pause(2600);
    no_will(&mut watcher, &topic);
    // And a connection without a will leaves none behind.
    client.drop_and_wait();
    no_will(&mut watcher, &topic);
}

// PROTOCOL: takeover. Sent with delay 0 or when the session ends there; dropped
// when the session goes on inside the delay.
#[test]
fn will_at_takeover_depends_on_delay_and_session() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 0);
        for clean in [true, false] {
            let id = unique("willing");
            let mut connect = Connect::lasting(v, &id).will(Will::new(&topic, b"will"));
            let mut old = open(&connect);
            connect.will = None;
            connect.clean = clean;
            let new = open(&connect);
            old.expect_end(0x8e);
            watcher.hears("will");
            drop(new);
        }
    }
    let v = Version::V5;
    let (mut watcher, topic) = watch(v, 0);
    for (clean, sent) in [(true, true), (false, false)] {
        let id = unique("willing");
        let mut connect = Connect::lasting(v, &id).will(delayed(&topic, 600));
        let mut old = open(&connect);
        connect.will = None;
        connect.clean = clean;
        let new = open(&connect);
        old.expect_end(0x8e);
        if sent {
            watcher.hears("will");
        } else {
            no_will(&mut watcher, &topic);
        }
        drop(new);
    }
}

// 3.1.3.2.4, and PROTOCOL "Expiry": a delayed will waits before it is published,
// the time in which it is nobody's message yet does not count against it.
#[test]
fn will_carries_its_message_expiry() {
    let v = Version::V5;
    let (mut watcher, topic) = watch(v, 0);
    let will = Will::new(&topic, b"will").props([four(prop::MESSAGE_EXPIRY, 60)]);
    open(&with_will(v, will)).drop_and_wait();
    let left = watcher.hears("will").props.number(prop::MESSAGE_EXPIRY).expect("it is forwarded");
    assert!((58..=60).contains(&left), "{left}");
    open(&with_will(v, Will::new(&topic, b"none"))).drop_and_wait();
    assert!(!watcher.hears("none").props.has(prop::MESSAGE_EXPIRY));
}

// PROTOCOL: zero-length payload is legal, an empty topic is not.
#[test]
fn will_may_be_empty_but_needs_a_topic() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 0);
        open(&with_will(v, Will::new(&topic, b""))).drop_and_wait();
        assert_eq!(watcher.take().payload, b"");
        let mut client = with_will(v, Will::new("", b"x")).attempt(BROKER.address());
        if v.is_5() {
            let Packet::Connack(connack) = client.recv() else { panic!("no CONNACK") };
            assert!(matches!(connack.code, 0x81 | 0x82 | 0x90), "{:#04x}", connack.code);
        }
        client.expect_closed();
    }
}

// PROTOCOL: no will for a refused CONNECT.
#[test]
fn refused_connect_leaves_no_will() {
    for v in ALL {
        let (mut watcher, topic) = watch(v, 0);
        let will = Will::new(&topic, b"will");
        if v.is_5() {
            let connect = with_will(v, will).prop(text(prop::AUTH_METHOD, "x"));
            connect.refused(BROKER.address(), 0x8c);
        } else {
            Connect::lasting(v, "").will(will).refused(BROKER.address(), 2);
        }
        no_will(&mut watcher, &topic);
    }
}

// PROTOCOL: a will beyond the size limit is refused at CONNECT.
#[test]
fn will_beyond_the_packet_limit_is_refused_at_connect() {
    let server = broker("[limits]\npacket_bytes_max = 2000\n");
    for v in ALL {
        let connect = Connect::new(v, &unique("w")).will(Will::new("t", &[0; 2000]));
        connect.attempt(server.mqtt).expect_connect_end(0x95);
    }
}

// The broker owns `$SYS`, for wills as well.
#[test]
fn will_on_a_topic_that_is_not_allowed_is_never_published() {
    for v in ALL {
        let topic = format!("$SYS/{}", unique("forged"));
        let mut watcher = join(v);
        watcher.subscribe(&topic, 0);
        let mut client = with_will(v, Will::new(&topic, b"forged")).attempt(BROKER.address());
        if let Packet::Connack(Connack { code: 0, .. }) = client.recv() {
            client.drop_and_wait();
        }
        watcher.quiet();
    }
}

// 3.1.1 [MQTT-3.1.2-8]: a protocol error is an end without DISCONNECT.
#[test]
fn malformed_packet_sends_the_will_of_an_old_client() {
    for v in OLD {
        let (mut watcher, topic) = watch(v, 1);
        let mut client = open(&with_will(v, Will::new(&topic, b"will").qos(1)));
        client.send(&Connect::new(v, "again").bytes());
        client.expect_closed();
        watcher.hears("will");
    }
}
