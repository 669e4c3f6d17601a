//! What 5.0 adds.

use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, RetainForwardRule};
use rumqttc_suite::{Client, Options, PublishProperties, V5, V5Options, WillProperties, word};
use tokio::time::sleep;

fn pairs() -> Vec<(String, String)> {
    [("zeta", "1"), ("alpha", "2"), ("zeta", "1"), ("ключ", "значение")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
}

async fn clean() -> V5 {
    V5::connect(Options::clean()).await
}

fn expiring(seconds: u32) -> PublishProperties {
    PublishProperties { message_expiry_interval: Some(seconds), ..Default::default() }
}

#[tokio::test]
async fn properties_pass_unchanged_and_in_order() {
    let (mut bob, mut alice) = (clean().await, clean().await);
    for qos in 0..=2 {
        let name = word();
        bob.subscribe_with(Filter::new(&name, QoS::ExactlyOnce), 268_435_455).await;
        let sent = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some("application/json".to_owned()),
            response_topic: Some(format!("{name}/answer")),
            correlation_data: Some((0..=255).collect()),
            user_properties: pairs(),
            ..Default::default()
        };

        alice.publish_with(&name, b"{}", qos, false, sent.clone()).await;

        let expected = PublishProperties { subscription_identifiers: vec![268_435_455], ..sent };
        assert_eq!(bob.receive().await.properties, expected);
    }
}

#[tokio::test]
async fn message_expiry_is_counted_down_while_it_waits() {
    let name = word();
    let mut first = V5::connect(Options::kept(&name)).await;
    first.subscribe(&[(&name, 1)]).await;
    first.end().await;
    let mut alice = clean().await;
    alice.publish_with(&name, b"short", 1, false, expiring(1)).await;
    alice.publish_with(&name, b"long", 1, false, expiring(100)).await;
    sleep(Duration::from_millis(2_200)).await;

    let message = V5::connect(Options::kept(&name)).await.receive().await;

    assert_eq!(message.payload, b"long");
    let left = message.properties.message_expiry_interval.expect("still there");
    assert!((97..=98).contains(&left), "{left}");
}

#[tokio::test]
async fn will_waits_for_its_delay_and_keeps_its_properties() {
    let name = word();
    let mut bob = clean().await;
    bob.subscribe(&[(&name, 1)]).await;
    let since = Instant::now();
    let five = V5Options {
        session_expiry: Some(60),
        will: Some(WillProperties {
            delay_interval: Some(2),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: Some("a/b".to_owned()),
            response_topic: None,
            correlation_data: None,
            user_properties: pairs(),
        }),
        ..Default::default()
    };
    V5::connect_with(Options::clean().will(&name, "late", 1, false), five).await.cut();
    bob.publish(&name, b"before", 1, false).await;

    assert_eq!(bob.receive_texts(1).await, ["before"]);
    let message = bob.receive().await;
    assert!(since.elapsed() > Duration::from_millis(1_500));
    assert_eq!(message.payload, b"late");
    let expected = PublishProperties {
        content_type: Some("a/b".to_owned()),
        user_properties: pairs(),
        ..Default::default()
    };
    assert_eq!(message.properties, expected);
}

#[tokio::test]
async fn topic_alias_stands_for_its_topic() {
    let name = word();
    let (mut bob, mut alice) = (clean().await, clean().await);
    bob.subscribe(&[(&format!("{name}/#"), 1)]).await;
    assert!(alice.told.topic_alias_max.unwrap_or(0) >= 2);
    let alias = |n| PublishProperties { topic_alias: Some(n), ..Default::default() };
    let (one, two) = (format!("{name}/one"), format!("{name}/two"));

    for (topic, n) in [(one.as_str(), 1), (&two, 2), ("", 1), ("", 2), (&two, 1), ("", 1)] {
        alice.publish_with(topic, b"x", 1, false, alias(n)).await;
    }

    for expected in [&one, &two, &one, &two, &two, &two] {
        assert_eq!(bob.receive().await.topic, *expected);
    }
}

#[tokio::test]
async fn aliases_towards_the_client_resolve_to_their_topics() {
    let name = word();
    let five = V5Options { topic_alias_max: Some(2), ..Default::default() };
    let mut bob = V5::connect_with(Options::clean(), five).await;
    bob.subscribe(&[(&format!("{name}/#"), 1)]).await;
    let mut alice = clean().await;

    for n in 0..12 {
        alice.publish(&format!("{name}/{}", n % 3), n.to_string().as_bytes(), 1, false).await;
    }

    let mut aliases = [String::new(), String::new()];
    for n in 0..12 {
        let message = bob.receive().await;
        // rumqttc hands the message out as it came, with an empty topic.
        let topic = match message.properties.topic_alias {
            None => message.topic,
            Some(alias) => {
                let known = &mut aliases[usize::from(alias) - 1];
                if !message.topic.is_empty() {
                    *known = message.topic;
                }
                known.clone()
            }
        };
        assert_eq!(topic, format!("{name}/{}", n % 3));
        assert_eq!(message.payload, n.to_string().as_bytes());
    }
}

#[tokio::test]
async fn receive_maximum_bounds_what_is_unacknowledged() {
    let name = word();
    let never = Options { never_acknowledge: true, ..Options::clean() };
    let five = V5Options { receive_maximum: Some(2), ..Default::default() };
    let mut bob = V5::connect_with(never, five).await;
    bob.subscribe(&[(&name, 1)]).await;
    let mut alice = clean().await;
    for n in 0..5 {
        alice.publish(&name, n.to_string().as_bytes(), 1, false).await;
    }
    alice.publish(&name, b"meanwhile", 0, false).await;

    let mut got = bob.receive_texts(3).await;
    got.sort();
    assert_eq!(got, ["0", "1", "meanwhile"]);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(bob.pending(), None);
}

#[tokio::test]
async fn packet_beyond_the_clients_maximum_is_left_out() {
    let name = word();
    let five = V5Options { max_packet_size: Some(200), ..Default::default() };
    let mut bob = V5::connect_with(Options::clean(), five).await;
    bob.subscribe(&[(&name, 1)]).await;
    let mut alice = clean().await;

    alice.publish(&name, &[b'x'; 300], 1, false).await;
    alice.publish(&name, b"small", 1, false).await;

    assert_eq!(bob.receive_texts(1).await, ["small"]);
}

#[tokio::test]
async fn empty_client_id_is_assigned_one() {
    let nameless = || Options { client_id: String::new(), ..Options::clean() };
    let one = V5::connect(nameless()).await;
    let other = V5::connect(nameless()).await;

    let id = |peer: &V5| peer.told.assigned_client_identifier.clone().expect("assigned");
    assert!(!id(&one).is_empty());
    assert_ne!(id(&one), id(&other));
}

#[tokio::test]
async fn subscription_options_are_heeded() {
    let name = word();
    let (mut bob, mut alice) = (clean().await, clean().await);
    alice.publish(&name, b"kept", 1, true).await;
    let mut filter = Filter::new(&name, QoS::AtLeastOnce);
    filter.nolocal = true;
    filter.preserve_retain = true;
    filter.retain_forward_rule = RetainForwardRule::Never;
    bob.subscribe_with(filter, 0).await;

    bob.publish(&name, b"own", 1, false).await;
    alice.publish(&name, b"flagged", 1, true).await;
    alice.publish(&name, b"", 1, true).await;

    let flagged = bob.receive().await;
    assert_eq!((flagged.payload.as_slice(), flagged.retain), (b"flagged".as_slice(), true));
    assert_eq!(bob.receive().await.payload, b"");
}

#[tokio::test]
async fn reason_codes_of_puback_pubcomp_and_unsuback() {
    let name = word();
    let mut peer = clean().await;

    for qos in 1..=2 {
        let unheard = peer.publish(&name, b"x", qos, false).await;
        assert!(["Success", "NoMatchingSubscribers"].contains(&unheard.as_str()), "{unheard}");
    }
    peer.subscribe(&[(&name, 1)]).await;
    assert_eq!(peer.publish(&name, b"x", 1, false).await, "Success");
    assert_eq!(peer.unsubscribe(&name).await, ["Success"]);
    assert_eq!(peer.unsubscribe(&name).await, ["NoSubscriptionExisted"]);
}

#[tokio::test]
async fn server_keep_alive_is_told_when_the_client_asks_for_more() {
    // Told by clients/run when it starts the broker; nothing to hold against without.
    let Ok(limit) = std::env::var("MQTT_KEEP_ALIVE_MAX") else { return };
    let limit: u16 = limit.parse().expect("seconds");
    let asking = |seconds: u16| Options {
        keep_alive: Duration::from_secs(seconds.into()),
        ..Options::clean()
    };

    let above = V5::connect(asking(limit + 1)).await;
    let within = V5::connect(asking(limit)).await;

    assert_eq!(above.told.server_keep_alive, Some(limit));
    assert_eq!(within.told.server_keep_alive, None);
}

#[tokio::test]
async fn request_is_answered_on_its_response_topic() {
    let name = word();
    let (ask, answer) = (format!("{name}/request"), format!("{name}/answer"));
    let (mut server, mut client) = (clean().await, clean().await);
    server.subscribe(&[(&ask, 1)]).await;
    client.subscribe(&[(&answer, 1)]).await;

    let properties = PublishProperties {
        response_topic: Some(answer.clone()),
        correlation_data: Some(vec![7, 0, 7].into()),
        ..Default::default()
    };
    client.publish_with(&ask, b"6*7", 1, false, properties).await;
    let asked = server.receive().await.properties;
    let to = asked.response_topic.expect("passed on");
    let back = PublishProperties { correlation_data: asked.correlation_data, ..Default::default() };
    server.publish_with(&to, b"42", 1, false, back).await;

    let got = client.receive().await;
    assert_eq!((got.topic, got.payload), (answer, b"42".to_vec()));
    assert_eq!(got.properties.correlation_data.as_deref(), Some([7, 0, 7].as_slice()));
}
