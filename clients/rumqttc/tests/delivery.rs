//! What is published arrives: every QoS, every size, both versions.

use rumqttc_suite::{Client, Options, V4, V5, both_versions, word};

both_versions!(
    qos_is_the_lower_of_sent_and_granted,
    order_of_a_publisher_is_kept,
    large_payload_arrives_whole,
    empty_payload_and_every_byte_value_arrive,
    filters_match_until_unsubscribed,
);

async fn qos_is_the_lower_of_sent_and_granted<C: Client>() {
    let mut alice = C::connect(Options::clean()).await;
    for sent in 0..=2 {
        for granted in 0..=2 {
            let name = word();
            let mut bob = C::connect(Options::clean()).await;
            assert_eq!(bob.subscribe(&[(&name, granted)]).await, [granted]);

            alice.publish(&name, "héllo".as_bytes(), sent, false).await;

            let message = bob.receive().await;
            assert_eq!((message.topic, message.payload), (name, "héllo".into()));
            assert_eq!(message.qos, sent.min(granted));
            assert!(!message.retain && !message.dup);
        }
    }
}

async fn order_of_a_publisher_is_kept<C: Client>() {
    for qos in 0..=2 {
        let name = word();
        let mut bob = C::connect(Options::clean()).await;
        bob.subscribe(&[(&name, qos)]).await;
        let mut alice = C::connect(Options::clean()).await;
        let sent: Vec<String> = (0..200).map(|n| n.to_string()).collect();

        for payload in &sent {
            alice.send_publish(&name, payload.as_bytes(), qos, false).await;
        }

        for _ in &sent {
            alice.published().await;
        }
        assert_eq!(bob.receive_texts(200).await, sent);
    }
}

async fn large_payload_arrives_whole<C: Client>() {
    let payload: Vec<u8> =
        (0..200 * 1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for qos in 0..=2 {
        let name = word();
        let mut bob = C::connect(Options::clean()).await;
        bob.subscribe(&[(&name, qos)]).await;

        C::connect(Options::clean()).await.publish(&name, &payload, qos, false).await;

        assert!(bob.receive().await.payload == payload, "the payload changed on its way");
    }
}

async fn empty_payload_and_every_byte_value_arrive<C: Client>() {
    let name = word();
    let all: Vec<u8> = (0..=255).collect();
    let mut peer = C::connect(Options::clean()).await;
    peer.subscribe(&[(&name, 1)]).await;

    peer.publish(&name, b"", 1, false).await;
    peer.publish(&name, &all, 1, false).await;

    assert_eq!(peer.receive().await.payload, b"");
    assert_eq!(peer.receive().await.payload, all);
}

async fn filters_match_until_unsubscribed<C: Client>() {
    let name = word();
    let (plus, deep) = (format!("{name}/+/x"), format!("{name}/deep/#"));
    let mut bob = C::connect(Options::clean()).await;
    let mut alice = C::connect(Options::clean()).await;
    assert_eq!(bob.subscribe(&[(&plus, 1), (&deep, 2), (&name, 1)]).await, [1, 2, 1]);

    for level in ["", "/a/x", "/a/y", "/deep", "/deep/a/b", "/a/b/x", "/other", "//x"] {
        alice.publish(&format!("{name}{level}"), level.as_bytes(), 1, false).await;
    }
    alice.publish(&name, b"fence", 1, false).await;
    let got = bob.receive_texts(6).await;
    assert_eq!(got, ["", "/a/x", "/deep", "/deep/a/b", "//x", "fence"]);

    bob.unsubscribe(&deep).await;
    alice.publish(&format!("{name}/deep/a"), b"no", 1, false).await;
    alice.publish(&format!("{name}/a/x"), b"yes", 1, false).await;
    assert_eq!(bob.receive_texts(1).await, ["yes"]);
}

#[tokio::test]
async fn v4_and_v5_understand_each_other() {
    let (old_name, new_name) = (word(), word());
    let mut old = V4::connect(Options::clean()).await;
    let mut new = V5::connect(Options::clean()).await;
    for qos in 0..=2 {
        old.subscribe(&[(&new_name, qos)]).await;
        new.subscribe(&[(&old_name, qos)]).await;

        old.publish(&old_name, b"from old", qos, false).await;
        let message = new.receive().await;
        assert_eq!((message.payload, message.qos), (b"from old".to_vec(), qos));
        assert_eq!(message.properties, Default::default());

        let properties = rumqttc_suite::PublishProperties {
            content_type: Some("a/b".to_owned()),
            user_properties: vec![("k".to_owned(), "v".to_owned())],
            ..Default::default()
        };
        new.publish_with(&new_name, b"from new", qos, false, properties).await;
        let message = old.receive().await;
        assert_eq!((message.payload, message.qos), (b"from new".to_vec(), qos));
    }
}
