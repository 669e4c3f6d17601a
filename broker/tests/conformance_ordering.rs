//! Order: per publisher, topic and QoS, live, queued and resent.

mod conformance;

use conformance::*;

// 5.0 [MQTT-4.6.0-5], 3.1.1 [MQTT-4.6.0-5]
#[test]
fn messages_of_a_topic_and_qos_arrive_in_order() {
    for v in ALL {
        for qos in [0, 1, 2] {
            let topic = unique("o");
            let mut subscribers: Vec<Client> = (0..4).map(|_| join(v)).collect();
            for subscriber in &mut subscribers {
                subscriber.subscribe(&topic, qos);
            }
            let mut publisher = join(v);
            let mut burst = Vec::new();
            for n in 0..200u16 {
                let publish = Publish::new(&topic, qos, n.to_string().as_bytes());
                let id = if qos > 0 { n + 1 } else { 0 };
                burst.extend(publish.id(id).bytes(v));
            }
            publisher.send(&burst);
            for subscriber in &mut subscribers {
                for n in 0..200 {
                    subscriber.hears(&n.to_string());
                }
            }
        }
    }
}

// [MQTT-4.6.0-6]: every topic is ordered, whatever filter brought it.
#[test]
fn every_topic_is_ordered_by_default() {
    for v in ALL {
        let base = unique("o");
        let mut subscriber = join(v);
        subscriber.subscribe(&format!("{base}/#"), 1);
        let mut publishers: Vec<Client> = (0..3).map(|_| join(v)).collect();
        for n in 0..60 {
            for (p, publisher) in publishers.iter_mut().enumerate() {
                let topic = format!("{base}/{}", n % 3);
                publisher.publish(&topic, 1, format!("{p} {n}").as_bytes());
            }
        }
        let mut last = std::collections::HashMap::new();
        for _ in 0..180 {
            let message = subscriber.take();
            let said = message.said();
            let (publisher, n) = said.split_once(' ').expect("two numbers");
            let n: i32 = n.parse().expect("a number");
            let before = last.insert((publisher.to_owned(), message.topic.clone()), n);
            assert!(before.is_none_or(|b| b < n), "{message:?} after {before:?}");
        }
    }
}

// The same for what waited in a session, and across the change to live messages.
#[test]
fn queued_messages_come_before_live_ones_in_order() {
    for v in ALL {
        let topic = unique("o");
        let connect = Connect::lasting(v, &unique("o"));
        let mut client = open(&connect);
        client.subscribe(&topic, 1);
        client.leave();
        let mut publisher = join(v);
        for n in 0..300 {
            publisher.publish(&topic, 1, n.to_string().as_bytes());
        }
        let mut client = open(&connect);
        for n in 300..400 {
            publisher.publish(&topic, 1, n.to_string().as_bytes());
        }
        for n in 0..400 {
            client.hears(&n.to_string());
        }
    }
}

// [MQTT-4.6.0-1]: whoever sends again does it in the first order.
#[test]
fn messages_are_sent_again_in_the_first_order() {
    for v in ALL {
        let topic = unique("o");
        let connect = Connect::lasting(v, &unique("o"));
        let mut client = open(&connect);
        client.subscribe(&topic, 2);
        let mut publisher = join(v);
        for n in 0..30 {
            publisher.publish(&topic, 1 + n % 2, n.to_string().as_bytes());
        }
        let first: Vec<Publish> = (0..30).map(|_| client.message()).collect();
        // Some in the middle are done; the rest keeps its order.
        for n in [3, 4, 17] {
            client.finish(&first[n]);
        }
        client.ping();
        client.drop_and_wait();
        let mut client = open(&connect);
        for (n, sent) in first.iter().enumerate() {
            if ![3, 4, 17].contains(&n) {
                let again = client.message();
                assert_eq!((again.said(), again.id, again.dup), (n.to_string(), sent.id, true));
            }
        }
        client.ping();
    }
}

// [MQTT-4.6.0-2] [MQTT-4.6.0-3] bind the client; the broker keeps them too (ACK-2).
#[test]
fn acknowledgements_come_in_the_order_of_the_publishes() {
    for v in ALL {
        let topic = unique("o");
        let mut subscriber = join(v);
        subscriber.subscribe(&topic, 0);
        let mut client = join(v);
        let mut burst = Vec::new();
        for n in 1..=100u16 {
            let qos = 1 + (n % 2) as u8;
            burst.extend(Publish::new(&topic, qos, b"x").id(n).bytes(v));
        }
        client.send(&burst);
        for n in 1..=100u16 {
            client.expect_ack(if n % 2 == 0 { PUBACK } else { PUBREC }, n);
        }
    }
}

// [MQTT-4.6.0-4] binds the client; the broker keeps it too.
#[test]
fn pubrels_come_in_the_order_of_the_pubrecs() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        for _ in 0..20 {
            publisher.publish(&topic, 2, b"x");
        }
        let mut ids: Vec<u16> = (0..20).map(|_| subscriber.message().id).collect();
        ids.reverse();
        let burst: Vec<u8> = ids.iter().flat_map(|id| ack(PUBREC, *id)).collect();
        subscriber.send(&burst);
        for id in ids {
            subscriber.expect_ack(PUBREL, id);
        }
    }
}
