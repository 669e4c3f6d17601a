//! What the broker keeps: retained messages, wills, sessions, shares.

use std::time::Duration;

use rumqttc_suite::{Client, Message, Options, both_versions, word};
use tokio::time::sleep;

both_versions!(
    retained_is_set_replaced_and_cleared,
    will_is_sent_when_the_connection_breaks,
    disconnect_takes_the_will_back,
    retained_will_is_stored,
    shared_goes_to_one_member_and_all_take_part,
    queue_of_an_absent_client_comes_in_order,
    unacknowledged_message_comes_again_with_dup,
    clean_start_discards_the_old_session,
    takeover_closes_the_old_connection_and_keeps_the_session,
);

/// What a new subscriber is sent because it subscribes: all before the fence.
async fn retained_now<C: Client>(name: &str) -> Vec<Message> {
    let mut bob = C::connect(Options::clean()).await;
    bob.subscribe(&[(name, 2)]).await;
    bob.publish(name, b"fence", 2, false).await;
    let mut got = Vec::new();
    loop {
        let message = bob.receive().await;
        if message.payload == b"fence" {
            return got;
        }
        got.push(message);
    }
}

/// The same, once there are `count`. Nothing says when a QoS 0 publish has
/// arrived or a will is stored, so that may take a moment.
async fn retained<C: Client>(name: &str, count: usize) -> Vec<Message> {
    for _ in 0..50 {
        let got = retained_now::<C>(name).await;
        if got.len() == count {
            return got;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("{count} retained messages were to come");
}

async fn retained_is_set_replaced_and_cleared<C: Client>() {
    let mut alice = C::connect(Options::clean()).await;
    for qos in 0..=2 {
        let name = word();
        for payload in ["one", "two"] {
            alice.publish(&name, payload.as_bytes(), qos, true).await;
            let mut got = retained::<C>(&name, 1).await;
            for _ in 0..50 {
                if qos > 0 || got[0].payload == payload.as_bytes() {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
                got = retained::<C>(&name, 1).await;
            }
            assert_eq!(got[0].payload, payload.as_bytes());
            assert_eq!((got[0].qos, got[0].retain), (qos, true));
        }
        alice.publish(&name, b"", qos, true).await;
        assert_eq!(retained::<C>(&name, 0).await, []);
    }
}

async fn will_is_sent_when_the_connection_breaks<C: Client>() {
    for qos in 0..=2 {
        let name = word();
        let mut bob = C::connect(Options::clean()).await;
        bob.subscribe(&[(&name, 2)]).await;

        C::connect(Options::clean().will(&name, "last words", qos, false)).await.cut();

        let message = bob.receive().await;
        assert_eq!((message.topic, message.payload), (name, b"last words".to_vec()));
        assert_eq!((message.qos, message.retain), (qos, false));
    }
}

async fn disconnect_takes_the_will_back<C: Client>() {
    let name = word();
    let mut bob = C::connect(Options::clean()).await;
    bob.subscribe(&[(&name, 1)]).await;

    C::connect(Options::clean().will(&name, "no", 1, false)).await.end().await;
    bob.publish(&name, b"fence", 1, false).await;

    assert_eq!(bob.receive_texts(1).await, ["fence"]);
}

async fn retained_will_is_stored<C: Client>() {
    let name = word();
    let mut bob = C::connect(Options::clean()).await;
    bob.subscribe(&[(&name, 1)]).await;
    C::connect(Options::clean().will(&name, "kept", 1, true)).await.cut();
    assert!(!bob.receive().await.retain);

    let got = retained::<C>(&name, 1).await;

    assert_eq!((got[0].payload.as_slice(), got[0].retain), (b"kept".as_slice(), true));
    bob.publish(&name, b"", 1, true).await;
}

async fn shared_goes_to_one_member_and_all_take_part<C: Client>() {
    for qos in 0..=2 {
        let name = word();
        let filter = format!("$share/{name}/{name}/+");
        let mut members = Vec::new();
        for _ in 0..3 {
            let mut member = C::connect(Options::clean()).await;
            assert_eq!(member.subscribe(&[(&filter, qos)]).await, [qos]);
            members.push(member);
        }
        let mut alice = C::connect(Options::clean()).await;
        for n in 0..60 {
            alice.publish(&format!("{name}/{}", n % 5), n.to_string().as_bytes(), qos, false).await;
        }

        let mut got = vec![Vec::new(); 3];
        for _ in 0..100 {
            for (member, part) in members.iter_mut().zip(&mut got) {
                while let Some(message) = member.pending() {
                    let text = String::from_utf8(message.payload).expect("sent as text");
                    part.push(text.parse::<u32>().expect("sent as a number"));
                }
            }
            if got.iter().map(Vec::len).sum::<usize>() >= 60 {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        let mut all = got.concat();
        all.sort_unstable();
        assert_eq!(all, (0..60).collect::<Vec<_>>());
        assert!(got.iter().all(|part| !part.is_empty()), "{got:?}");
    }
}

async fn queue_of_an_absent_client_comes_in_order<C: Client>() {
    for qos in 1..=2 {
        let name = word();
        let mut first = C::connect(Options::kept(&name)).await;
        assert!(!first.link().session_present);
        first.subscribe(&[(&name, qos)]).await;
        first.end().await;
        let mut alice = C::connect(Options::clean()).await;
        let sent: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        for payload in &sent {
            alice.publish(&name, payload.as_bytes(), qos, false).await;
        }

        let mut again = C::connect(Options::kept(&name)).await;

        assert!(again.link().session_present);
        for payload in &sent {
            let message = again.receive().await;
            assert_eq!(message.payload, payload.as_bytes());
            assert_eq!((message.qos, message.retain), (qos, false));
        }
    }
}

async fn unacknowledged_message_comes_again_with_dup<C: Client>() {
    let name = word();
    let never = Options { never_acknowledge: true, ..Options::kept(&name) };
    let mut first = C::connect(never).await;
    first.subscribe(&[(&name, 1)]).await;
    let mut alice = C::connect(Options::clean()).await;
    for payload in ["one", "two"] {
        alice.publish(&name, payload.as_bytes(), 1, false).await;
    }
    let before = [first.receive().await, first.receive().await];
    first.cut();

    let mut again = C::connect(Options::kept(&name)).await;

    for was in before {
        let is = again.receive().await;
        assert_eq!((was.dup, is.dup), (false, true));
        assert_eq!((is.payload, is.pkid), (was.payload, was.pkid));
    }
}

async fn clean_start_discards_the_old_session<C: Client>() {
    let name = word();
    let mut first = C::connect(Options::kept(&name)).await;
    first.subscribe(&[(&name, 1)]).await;
    first.end().await;
    let mut alice = C::connect(Options::clean()).await;
    alice.publish(&name, b"old", 1, false).await;

    let clean = Options { client_id: name.clone(), ..Options::clean() };
    let mut clean = C::connect(clean).await;
    alice.publish(&name, b"unheard", 1, false).await;
    clean.subscribe(&[(&name, 1)]).await;
    alice.publish(&name, b"new", 1, false).await;

    assert!(!clean.link().session_present);
    assert_eq!(clean.receive_texts(1).await, ["new"]);
}

async fn takeover_closes_the_old_connection_and_keeps_the_session<C: Client>() {
    let name = word();
    let mut old = C::connect(Options::kept(&name)).await;
    old.subscribe(&[(&name, 1)]).await;

    let mut taker = C::connect(Options::kept(&name)).await;

    old.closed().await;
    assert!(taker.link().session_present);
    C::connect(Options::clean()).await.publish(&name, b"x", 1, false).await;
    assert_eq!(taker.receive_texts(1).await, ["x"]);
    assert_eq!(old.pending(), None);
}
