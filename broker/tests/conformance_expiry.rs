//! Message expiry (5.0): counted down, and what has expired is not delivered.

mod conformance;

use conformance::*;

const V5: Version = Version::V5;

fn expires(topic: &str, qos: u8, payload: &str, seconds: u32) -> Publish {
    Publish::new(topic, qos, payload.as_bytes()).props([four(prop::MESSAGE_EXPIRY, seconds)])
}

/// A session that waits for messages on a topic of its own.
fn asleep(qos: u8) -> (Connect, String) {
    let topic = unique("e");
    let connect = Connect::lasting(V5, &unique("e"));
    let mut client = open(&connect);
    client.subscribe(&topic, qos);
    client.leave();
    (connect, topic)
}

// 5.0 [MQTT-3.3.2-5]
#[test]
fn expired_message_is_not_delivered() {
    for qos in [1, 2] {
        let (connect, topic) = asleep(qos);
        let mut publisher = join(V5);
        publisher.put(expires(&topic, qos, "short", 1));
        publisher.put(expires(&topic, qos, "long", 600));
        publisher.publish(&topic, qos, b"for ever");
        pause(2100);
        let mut client = open(&connect);
        client.hears("long");
        client.hears("for ever");
        client.ping();
    }
}

// 5.0 [MQTT-3.3.2-6]
#[test]
fn expiry_goes_out_reduced_by_the_time_waited() {
    let (connect, topic) = asleep(1);
    let mut publisher = join(V5);
    let sent = std::time::Instant::now();
    publisher.put(expires(&topic, 1, "waited", 100).retain());
    pause(2200);
    // Whole seconds waited: at least those of the pause, at most those until now.
    let near = |message: Publish, sent: std::time::Instant, full: u32, least: u32| {
        let left = message.props.number(prop::MESSAGE_EXPIRY).expect("it is forwarded");
        let most = u32::try_from(sent.elapsed().as_secs()).expect("not for ever");
        assert!((full - most..=full - least).contains(&left), "{left} of {full} after {most} s");
    };
    let mut client = open(&connect);
    near(client.hears("waited"), sent, 100, 2);
    // The retained copy counts down as well.
    let mut late = join(V5);
    late.subscribe(&topic, 0);
    near(late.hears("waited"), sent, 100, 2);
    // Live, nothing was waited.
    let sent = std::time::Instant::now();
    publisher.put(expires(&topic, 1, "live", 100));
    near(client.hears("live"), sent, 100, 0);
    publisher.put(expires(&topic, 1, "huge", u32::MAX));
    near(client.hears("huge"), sent, u32::MAX, 0);
}

// PROTOCOL: absent stays absent.
#[test]
fn absent_expiry_stays_absent() {
    let (connect, topic) = asleep(1);
    join(V5).publish(&topic, 1, b"x");
    assert!(!open(&connect).hears("x").props.has(prop::MESSAGE_EXPIRY));
}

// PROTOCOL: 0 means at once, not never.
#[test]
fn expiry_0_does_not_wait_for_anyone() {
    let (connect, topic) = asleep(1);
    let mut publisher = join(V5);
    publisher.put(expires(&topic, 1, "gone", 0).retain());
    publisher.publish(&topic, 1, b"here");
    let mut client = open(&connect);
    client.hears("here");
    let mut late = join(V5);
    late.subscribe(&topic, 1);
    late.quiet();
    // Nor is it delivered to someone who is there: its time has passed already.
    for qos in [0, 1, 2] {
        publisher.put(expires(&topic, qos, "gone", 0));
        publisher.publish(&topic, qos, b"here");
        client.hears("here");
    }
}

// PROTOCOL: retained messages expire too.
#[test]
fn expired_retained_message_is_not_delivered() {
    let topic = unique("e");
    let mut publisher = join(V5);
    publisher.put(expires(&topic, 1, "short", 2).retain());
    let mut early = join(V5);
    early.subscribe(&topic, 1);
    early.hears("short");
    pause(3100);
    for v in ALL {
        let mut late = join(v);
        late.subscribe(&topic, 1);
        late.quiet();
    }
}

// PROTOCOL: a queued message that expires while it waits for a slot is not sent.
#[test]
fn message_that_expires_while_it_waits_for_a_slot_is_not_sent() {
    let topic = unique("e");
    let connect = Connect::new(V5, &unique("e")).prop(two(prop::RECEIVE_MAXIMUM, 1));
    let mut client = open(&connect);
    client.subscribe(&topic, 1);
    let mut publisher = join(V5);
    publisher.publish(&topic, 1, b"first");
    publisher.put(expires(&topic, 1, "short", 1));
    publisher.put(expires(&topic, 1, "long", 600));
    let first = client.message();
    pause(2100);
    client.finish(&first);
    let long = client.hears("long");
    let left = long.props.number(prop::MESSAGE_EXPIRY).expect("it is forwarded");
    assert!((595..=598).contains(&left), "{left}");
}

// PROTOCOL: an expiry that ended never goes out as 0.
#[test]
fn no_message_goes_out_with_expiry_0() {
    let (connect, topic) = asleep(1);
    let mut publisher = join(V5);
    for n in 1..=4 {
        publisher.put(expires(&topic, 1, "x", n));
    }
    pause(1500);
    let mut client = open(&connect);
    while let Some(packet) = client.within(QUIET) {
        let Packet::Publish(message) = packet else { panic!("{packet:?}") };
        let left = message.props.number(prop::MESSAGE_EXPIRY).expect("it is forwarded");
        assert!(left > 0);
    }
}

// PROTOCOL: wills too.
#[test]
fn will_expires_in_the_queue() {
    let (connect, topic) = asleep(1);
    let will = Will::new(&topic, b"will").qos(1).props([four(prop::MESSAGE_EXPIRY, 1)]);
    open(&Connect::new(V5, &unique("w")).will(will)).drop_and_wait();
    pause(2100);
    open(&connect).ping();
}

// Old clients get what has not expired, and nothing that has.
#[test]
fn expiry_holds_for_subscribers_of_every_version() {
    for v in OLD {
        let topic = unique("e");
        let connect = Connect::lasting(v, &unique("e"));
        let mut client = open(&connect);
        client.subscribe(&topic, 1);
        client.leave();
        let mut publisher = join(V5);
        publisher.put(expires(&topic, 1, "short", 1));
        publisher.put(expires(&topic, 1, "long", 600));
        pause(2100);
        open(&connect).hears("long");
    }
}
