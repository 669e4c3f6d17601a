//! Topic aliases, both ways (5.0).

mod conformance;

use conformance::*;

const V5: Version = Version::V5;

fn aliased(topic: &str, alias: u16, payload: &str) -> Publish {
    Publish::new(topic, 0, payload.as_bytes()).props([two(prop::TOPIC_ALIAS, alias)])
}

/// The highest alias the shared broker takes.
fn alias_max() -> u16 {
    let told =
        open(&Connect::new(V5, &unique("a"))).connack.props.number(prop::TOPIC_ALIAS_MAXIMUM);
    u16::try_from(told.unwrap_or(0)).expect("a two byte integer")
}

/// A subscriber that takes aliases up to `max`.
fn takes_aliases(max: u16) -> Connect {
    Connect::new(V5, &unique("a")).prop(two(prop::TOPIC_ALIAS_MAXIMUM, max))
}

// 5.0 [MQTT-3.3.2-12]
#[test]
fn every_alias_up_to_the_announced_maximum_is_taken() {
    let max = alias_max();
    assert!(max > 0);
    let base = unique("t");
    let mut watcher = join(V5);
    watcher.subscribe(&format!("{base}/#"), 0);
    let mut client = join(V5);
    for alias in 1..=max {
        client.put(aliased(&format!("{base}/{alias}"), alias, "set"));
        assert_eq!(watcher.hears("set").topic, format!("{base}/{alias}"));
    }
    for alias in (1..=max).rev() {
        client.put(aliased("", alias, "used"));
        let used = watcher.hears("used");
        assert_eq!(used.topic, format!("{base}/{alias}"));
        // The publisher's alias is its own affair.
        assert!(!used.props.has(prop::TOPIC_ALIAS));
    }
    // A topic with a known alias maps it anew.
    client.put(aliased(&format!("{base}/new"), 1, "remapped"));
    watcher.hears("remapped");
    client.put(aliased("", 1, "used"));
    assert_eq!(watcher.hears("used").topic, format!("{base}/new"));
}

// The same at QoS 1 and 2, and for a QoS 2 message that is sent again.
#[test]
fn aliases_work_at_every_qos() {
    let topic = unique("t");
    let mut watcher = join(V5);
    watcher.subscribe(&topic, 2);
    let mut client = join(V5);
    for qos in [0, 1, 2] {
        let mut publish = aliased(&topic, 3, "set");
        publish.qos = qos;
        client.put(publish);
        watcher.hears("set");
        let mut publish = aliased("", 3, "used");
        publish.qos = qos;
        client.put(publish);
        let used = watcher.hears("used");
        assert_eq!((used.topic.as_str(), used.qos), (&*topic, qos));
    }
}

// 5.0 [MQTT-3.3.2-8]: what happens to a client that sends 0; and 3.3.2.3.4.
#[test]
fn alias_0_is_invalid() {
    for topic in ["t", ""] {
        let mut client = join(V5);
        client.send(&aliased(topic, 0, "x").bytes(V5));
        client.expect_end(0x94);
    }
}

// 5.0 [MQTT-3.3.2-9]: what happens to a client that sends more than it may.
#[test]
fn alias_above_the_announced_maximum_is_invalid() {
    for alias in [alias_max() + 1, u16::MAX] {
        for topic in ["t", ""] {
            let mut client = join(V5);
            client.send(&aliased(topic, alias, "x").bytes(V5));
            client.expect_end(0x94);
        }
    }
}

// PROTOCOL: in range but never set, with an empty topic.
#[test]
fn alias_that_was_never_set_is_a_protocol_error() {
    let mut client = join(V5);
    client.put(aliased("t", 1, "x"));
    client.send(&aliased("", 2, "x").bytes(V5));
    client.expect_end(0x82);
}

// 5.0 [MQTT-3.3.2-7]
#[test]
fn aliases_end_with_their_connection() {
    // The publisher's.
    let topic = unique("t");
    let connect = Connect::lasting(V5, &unique("a"));
    let mut client = open(&connect);
    client.put(aliased(&topic, 1, "x"));
    client.ping();
    client.drop_and_wait();
    let mut client = open(&connect);
    assert!(client.connack.present());
    client.send(&aliased("", 1, "x").bytes(V5));
    client.expect_end(0x82);
    // The subscriber's: on the next connection the topic comes in full again.
    let connect = connect.prop(two(prop::TOPIC_ALIAS_MAXIMUM, 10));
    let mut subscriber = open(&connect);
    subscriber.subscribe(&topic, 0);
    let mut publisher = join(V5);
    for _ in 0..5 {
        publisher.publish(&topic, 0, b"x");
        subscriber.hears("x");
    }
    subscriber.drop_and_wait();
    let mut subscriber = open(&connect);
    publisher.publish(&topic, 0, b"x");
    assert_eq!(subscriber.hears("x").topic, topic);
}

/// Reads messages as a client with an alias table does; returns the topics.
#[track_caller]
fn resolve(client: &mut Client, max: u16, count: usize) -> (Vec<String>, usize) {
    let mut table = std::collections::HashMap::new();
    let (mut topics, mut short) = (Vec::new(), 0);
    for _ in 0..count {
        let message = client.take();
        let alias = message.props.number(prop::TOPIC_ALIAS);
        if let Some(alias) = alias {
            assert!((1..=u32::from(max)).contains(&alias), "alias {alias} above {max}");
        }
        let topic = if message.topic.is_empty() {
            short += 1;
            let alias = alias.expect("an empty topic has an alias");
            table.get(&alias).cloned().expect("the alias was set before it is used alone")
        } else {
            if let Some(alias) = alias {
                table.insert(alias, message.topic.clone());
            }
            message.topic
        };
        topics.push(topic);
    }
    (topics, short)
}

// 5.0 [MQTT-3.1.2-26] [MQTT-3.3.2-11], and [MQTT-3.3.2-10] from the other side:
// the client has to take every alias it allowed, and the broker does use them.
#[test]
fn outgoing_aliases_stay_within_the_clients_maximum() {
    for max in [1u16, 2, 5] {
        let base = unique("t");
        let mut client = open(&takes_aliases(max));
        client.subscribe(&format!("{base}/#"), 1);
        let mut publisher = join(V5);
        let mut sent = Vec::new();
        for n in 0..40 {
            let topic = format!("{base}/{}", n % 8);
            publisher.publish(&topic, (n % 2) as u8, b"x");
            sent.push(topic);
        }
        // One topic often: its alias must pay.
        for _ in 0..10 {
            publisher.publish(&sent[0].clone(), 1, b"x");
            sent.push(sent[0].clone());
        }
        let (mut got, short) = resolve(&mut client, max, 50);
        // QoS 0 and QoS 1 may overtake each other.
        got.sort();
        sent.sort();
        assert_eq!(got, sent);
        assert!(short > 0, "the client allows aliases, and none was used alone");
    }
}

// 5.0 [MQTT-3.1.2-27]
#[test]
fn no_alias_to_a_client_that_allows_none() {
    for connect in [Connect::new(V5, &unique("a")), takes_aliases(0)] {
        let topic = unique("t");
        let mut client = open(&connect);
        client.subscribe(&topic, 1);
        let mut publisher = join(V5);
        for qos in [0, 1, 1, 0, 1] {
            publisher.publish(&topic, qos, b"x");
            let message = client.hears("x");
            assert_eq!(message.topic, topic);
            assert!(!message.props.has(prop::TOPIC_ALIAS));
        }
    }
}

// PROTOCOL: a message dropped for its size must not be the one that set the alias.
#[test]
fn dropped_message_does_not_set_an_alias() {
    let topic = unique("t");
    let connect = takes_aliases(5).prop(four(prop::MAXIMUM_PACKET_SIZE, 200));
    let mut client = open(&connect);
    client.subscribe(&topic, 1);
    let mut publisher = join(V5);
    for qos in [0, 1] {
        publisher.publish(&topic, qos, &[b'x'; 400]);
    }
    for _ in 0..3 {
        publisher.publish(&topic, 1, b"x");
    }
    let (topics, _) = resolve(&mut client, 5, 3);
    assert_eq!(topics, vec![topic; 3]);
}

// An alias is no part of the message: what waits in a session is complete.
#[test]
fn message_published_by_alias_is_queued_and_retained_with_its_topic() {
    let topic = unique("t");
    let connect = Connect::lasting(V5, &unique("a"));
    let mut sleeper = open(&connect);
    sleeper.subscribe(&topic, 1);
    sleeper.leave();
    let mut client = join(V5);
    client.put(aliased(&topic, 1, "set"));
    let mut publish = aliased("", 1, "used").retain();
    publish.qos = 1;
    client.put(publish);
    assert_eq!(open(&connect).hears("used").topic, topic);
    let mut late = join(V5);
    late.subscribe(&topic, 1);
    assert_eq!(late.hears("used").topic, topic);
}
