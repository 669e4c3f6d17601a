//! Shared subscriptions, for clients of every version.

mod conformance;

use conformance::*;

const NONE: Props = Props(Vec::new());

/// A group of two with a topic of their own, and a publisher.
fn group(version: Version, qos: u8) -> (Client, Client, Client, String) {
    let topic = unique("s");
    let filter = format!("$share/{}/{topic}", unique("g"));
    let (mut one, mut two) = (join(version), join(version));
    one.subscribe(&filter, qos);
    two.subscribe(&filter, qos);
    (join(version), one, two, topic)
}

/// What the members got, until each was silent for a moment.
#[track_caller]
fn all_of(members: &mut [&mut Client]) -> Vec<Vec<Publish>> {
    members
        .iter_mut()
        .map(|member| {
            let mut got = Vec::new();
            while let Some(packet) = member.within(QUIET) {
                let Packet::Publish(message) = packet else { panic!("{packet:?}") };
                member.finish(&message);
                got.push(message);
            }
            got
        })
        .collect()
}

// 5.0 [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[test]
fn share_filters_have_a_name_and_a_filter() {
    for v in OASIS {
        for filter in [
            "$share/",
            "$share//t",
            "$share/g",
            "$share/g/",
            "$share/g+/t",
            "$share/+/t",
            "$share/#/t",
            "$share/g#/t",
            "$share/g/a/#/b",
            "$share/g/a+",
            "$share/#",
        ] {
            let mut client = join(v);
            client.id = filter.to_owned();
            client.send(&subscribe(v, 1, &NONE, &[(filter, 0)]));
            client.expect_end(0x81);
        }
        let topic = unique("s");
        let mut client = join(v);
        // The name ends at the first slash; what follows is a filter like any other.
        for filter in [&*format!("$share/g/{topic}/#"), "$share/g//", "$share/ü/+/+"] {
            client.subscribe(filter, 0);
        }
        client.publish(&topic, 0, b"x");
        assert_eq!(client.hears("x").topic, topic);
        // `$share` without a slash is no shared subscription but a topic.
        client.subscribe("$shared/g/t", 0);
    }
}

// 5.0 [MQTT-4.8.2-1]: each message to one member.
#[test]
fn each_message_goes_to_one_member() {
    for v in ALL {
        for qos in [0, 1, 2] {
            let (mut publisher, mut one, mut two, topic) = group(v, qos);
            for n in 0..20 {
                publisher.publish(&topic, qos, format!("{n}").as_bytes());
            }
            let got = all_of(&mut [&mut one, &mut two]);
            let mut said: Vec<u32> = got
                .iter()
                .flatten()
                .map(|m| m.said().parse().expect("the payloads are numbers"))
                .collect();
            said.sort_unstable();
            assert_eq!(said, (0..20).collect::<Vec<_>>());
            assert!(got.iter().flatten().all(|m| m.qos == qos && !m.retain));
        }
    }
}

// Other groups, and plain subscriptions of the same client, get copies of their own.
#[test]
fn plain_subscriptions_get_their_copy_beside_the_group() {
    for v in ALL {
        let topic = unique("s");
        let mut client = join(v);
        client.subscribe(&format!("$share/g/{topic}"), 1);
        client.subscribe(&format!("$share/h/{topic}"), 1);
        client.subscribe(&topic, 1);
        let mut publisher = join(v);
        publisher.publish(&topic, 1, b"x");
        for _ in 0..3 {
            client.hears("x");
        }
        client.quiet();
    }
}

// 5.0 [MQTT-4.8.2-3]
#[test]
fn member_gets_its_own_granted_qos() {
    for v in ALL {
        let topic = unique("s");
        let filter = format!("$share/g/{topic}");
        let (mut low, mut high) = (join(v), join(v));
        low.subscribe(&filter, 0);
        high.subscribe(&filter, 1);
        let mut publisher = join(v);
        for n in 0..30 {
            publisher.publish(&topic, 2, format!("{n}").as_bytes());
        }
        let got = all_of(&mut [&mut low, &mut high]);
        assert!(got[0].iter().all(|m| m.qos == 0));
        assert!(got[1].iter().all(|m| m.qos == 1));
        assert_eq!(got[0].len() + got[1].len(), 30);
        assert!(!got[0].is_empty() && !got[1].is_empty(), "one member got all");
    }
}

// The subscription id of the chosen member's own subscription.
#[test]
fn member_gets_its_own_subscription_id() {
    let v = Version::V5;
    let topic = unique("s");
    let filter = format!("$share/g/{topic}");
    let (mut one, mut two) = (join(v), join(v));
    one.subscribe_id(&filter, 0, 11);
    two.subscribe_id(&filter, 0, 22);
    let mut publisher = join(v);
    for _ in 0..20 {
        publisher.publish(&topic, 0, b"x");
    }
    let got = all_of(&mut [&mut one, &mut two]);
    assert!(got[0].iter().all(|m| m.props.numbers(prop::SUBSCRIPTION_ID) == [11]));
    assert!(got[1].iter().all(|m| m.props.numbers(prop::SUBSCRIPTION_ID) == [22]));
    assert_eq!(got[0].len() + got[1].len(), 20);
}

// 4.8.2: no retained messages on a shared SUBSCRIBE.
#[test]
fn shared_subscribe_brings_no_retained_messages() {
    for v in ALL {
        let topic = unique("s");
        let mut publisher = join(v);
        publisher.retain(&topic, 1, b"kept");
        let mut client = join(v);
        client.subscribe(&format!("$share/g/{topic}"), 1);
        publisher.publish(&topic, 1, b"live");
        client.hears("live");
    }
}

// 5.0 [MQTT-4.8.2-4]
#[test]
fn qos_2_begun_with_a_member_is_completed_with_it() {
    for v in ALL {
        let (id, topic) = (unique("m"), unique("s"));
        let filter = format!("$share/g/{topic}");
        let mut one = open(&Connect::lasting(v, &id));
        one.subscribe(&filter, 2);
        let mut publisher = join(v);
        publisher.publish(&topic, 2, b"begun");
        let begun = one.message();
        let mut two = join(v);
        two.subscribe(&filter, 2);
        one.drop_and_wait();
        publisher.publish(&topic, 2, b"next");
        two.hears("next");
        two.quiet();
        let mut one = open(&Connect::lasting(v, &id));
        let again = one.hears("begun");
        assert_eq!((again.id, again.dup), (begun.id, true));
    }
}

// 5.0 [MQTT-4.8.2-5]
#[test]
fn qos_2_begun_with_a_member_ends_with_its_session() {
    for v in ALL {
        let (mut publisher, mut one, mut two, topic) = group(v, 2);
        publisher.publish(&topic, 2, b"first");
        let (mut has, mut other) = match one.within(QUIET) {
            Some(Packet::Publish(_)) => (one, two),
            None => {
                assert!(matches!(two.message().qos, 2));
                (two, one)
            }
            Some(packet) => panic!("{packet:?}"),
        };
        has.ping();
        has.drop_and_wait();
        publisher.publish(&topic, 2, b"second");
        other.hears("second");
        other.quiet();
    }
}

// PROTOCOL: QoS 1 goes to another member when the session ends, as a new PUBLISH.
#[test]
fn unacknowledged_qos_1_goes_to_another_member_when_the_session_ends() {
    for v in ALL {
        let (mut publisher, mut one, mut two, topic) = group(v, 1);
        publisher.publish(&topic, 1, b"x");
        let (has, mut other) = match one.within(QUIET) {
            Some(Packet::Publish(_)) => (one, two),
            None => {
                assert_eq!(two.message().said(), "x");
                (two, one)
            }
            Some(packet) => panic!("{packet:?}"),
        };
        has.drop_and_wait();
        let moved = other.hears("x");
        assert_eq!((moved.qos, moved.dup), (1, false));
        other.quiet();
    }
}

// PROTOCOL: by configuration already when the member disconnects.
#[test]
fn unacknowledged_qos_1_moves_at_the_disconnect_when_configured() {
    for (moves, config) in [(true, "[mqtt]\nshare_redispatch_on_disconnect = true\n"), (false, "")]
    {
        let server = broker(config);
        for v in ALL {
            let (id, topic) = (unique("m"), unique("s"));
            let filter = format!("$share/g/{topic}");
            let mut one = Connect::lasting(v, &id).open(server.mqtt);
            one.subscribe(&filter, 1);
            let mut publisher = Connect::new(v, &unique("p")).open(server.mqtt);
            publisher.publish(&topic, 1, b"x");
            assert_eq!(one.message().said(), "x");
            let mut two = Connect::new(v, &unique("m")).open(server.mqtt);
            two.subscribe(&filter, 1);
            one.drop_and_wait();
            if moves {
                assert!(!two.hears("x").dup);
            } else {
                two.quiet();
                let mut one = Connect::lasting(v, &id).open(server.mqtt);
                assert!(one.hears("x").dup);
            }
        }
    }
}

// 5.0 [MQTT-4.8.2-6]
#[test]
fn message_that_a_member_rejects_is_discarded() {
    let v = Version::V5;
    for qos in [1, 2] {
        let (mut publisher, mut one, mut two, topic) = group(v, qos);
        publisher.publish(&topic, qos, b"unwanted");
        let (mut has, mut other) = match one.within(QUIET) {
            Some(Packet::Publish(m)) => {
                let kind = if qos == 1 { PUBACK } else { PUBREC };
                one.send(&ack_reason(kind, m.id, 0x97));
                (one, two)
            }
            None => {
                let m = two.message();
                let kind = if qos == 1 { PUBACK } else { PUBREC };
                two.send(&ack_reason(kind, m.id, 0x97));
                (two, one)
            }
            Some(packet) => panic!("{packet:?}"),
        };
        has.quiet();
        other.quiet();
        has.drop_and_wait();
        other.quiet();
    }
}

// PROTOCOL: offline members are not chosen while one is online.
#[test]
fn offline_member_is_not_chosen_while_one_is_online() {
    for v in ALL {
        let (id, topic) = (unique("m"), unique("s"));
        let filter = format!("$share/g/{topic}");
        let mut one = open(&Connect::lasting(v, &id));
        one.subscribe(&filter, 1);
        let mut two = join(v);
        two.subscribe(&filter, 1);
        one.leave();
        let mut publisher = join(v);
        for n in 0..10 {
            publisher.publish(&topic, 1, format!("{n}").as_bytes());
        }
        for n in 0..10 {
            two.hears(&n.to_string());
        }
        // With nobody online it waits for the session that stays.
        two.drop_and_wait();
        publisher.publish(&topic, 1, b"kept");
        open(&Connect::lasting(v, &id)).hears("kept");
    }
}

// An UNSUBSCRIBE takes the member out of the group, and only it.
#[test]
fn unsubscribed_member_gets_no_more() {
    for v in ALL {
        let (mut publisher, mut one, mut two, topic) = group(v, 1);
        // The filter as it was subscribed, name included; another name is another group.
        let filter = format!("$share/{}/{topic}", "other");
        one.unsubscribe(&[&filter, &topic]);
        for n in 0..10 {
            publisher.publish(&topic, 1, format!("{n}").as_bytes());
        }
        let got = all_of(&mut [&mut one, &mut two]);
        assert_eq!(got[0].len() + got[1].len(), 10);
        assert!(!got[0].is_empty(), "the wrong filter unsubscribed the member");

        let topic = unique("s");
        let filter = format!("$share/g/{topic}");
        one.subscribe(&filter, 1);
        two.subscribe(&filter, 1);
        one.unsubscribe(&[&filter]);
        for n in 0..10 {
            publisher.publish(&topic, 1, format!("{n}").as_bytes());
        }
        for n in 0..10 {
            two.hears(&n.to_string());
        }
        one.ping();
    }
}
