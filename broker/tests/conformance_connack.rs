//! CONNACK: what the broker says of itself, and keeps to.

mod conformance;

use conformance::*;

const CONNECT_CODES: [u8; 22] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97,
    0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
];

// [MQTT-3.2.0-1]
#[test]
fn connack_is_the_first_packet_of_the_server() {
    for v in ALL {
        // A session with messages that wait: they must not come first.
        let (id, topic) = (unique("first"), unique("t"));
        let mut client = open(&Connect::lasting(v, &id));
        client.subscribe(&topic, 1);
        client.leave();
        let mut publisher = join(v);
        for n in 0..5 {
            publisher.publish(&topic, 1, format!("{n}").as_bytes());
        }
        let mut client = Connect::lasting(v, &id).attempt(BROKER.address());
        assert!(matches!(client.recv(), Packet::Connack(_)), "a CONNACK first");
        for n in 0..5 {
            client.hears(&n.to_string());
        }
    }
}

// 5.0 [MQTT-3.2.0-2]
#[test]
fn connack_comes_once() {
    for v in ALL {
        let (mut publisher, mut client, topic) = pair(v, 1);
        publisher.publish(&topic, 1, b"x");
        client.hears("x");
        client.ping();
        client.send(&Connect::new(v, &client.id.clone()).bytes());
        client.expect_end(0x82);
    }
}

// 5.0 [MQTT-3.2.2-1]
#[test]
fn connack_flags_are_zero_but_session_present() {
    for v in OASIS {
        let id = unique("flags");
        assert_eq!(open(&Connect::lasting(v, &id)).connack.flags, 0);
        assert_eq!(open(&Connect::lasting(v, &id)).connack.flags, 1);
        assert_eq!(open(&Connect::new(v, &id)).connack.flags, 0);
    }
    // 3.1 has no such flag: the byte is reserved.
    let id = unique("flags");
    assert_eq!(open(&Connect::lasting(Version::V31, &id)).connack.flags, 0);
}

// 5.0 [MQTT-3.2.2-2], 3.1.1 [MQTT-3.2.2-1]
#[test]
fn session_present_is_0_after_a_clean_start() {
    for v in OASIS {
        let id = unique("clean");
        open(&Connect::lasting(v, &id)).leave();
        let again = open(&Connect::lasting(v, &id).clean());
        assert_eq!((again.connack.present(), again.connack.code), (false, 0));
    }
}

// 5.0 [MQTT-3.2.2-3], 3.1.1 [MQTT-3.2.2-2]
#[test]
fn session_present_is_1_when_a_session_was_there() {
    for v in OASIS {
        let id = unique("there");
        open(&Connect::lasting(v, &id)).leave();
        let again = open(&Connect::lasting(v, &id));
        assert_eq!((again.connack.present(), again.connack.code), (true, 0));
    }
}

// 5.0 [MQTT-3.2.2-3], 3.1.1 [MQTT-3.2.2-3]
#[test]
fn session_present_is_0_when_no_session_was_there() {
    for v in OASIS {
        let id = unique("none");
        let first = open(&Connect::new(v, &id).resume());
        assert_eq!((first.connack.present(), first.connack.code), (false, 0));
        first.leave();
        if v.is_5() {
            // Without a Session Expiry Interval it ended with its connection.
            assert!(!open(&Connect::new(v, &id).resume()).connack.present());
        }
    }
}

// 5.0 [MQTT-3.2.2-6] [MQTT-3.2.2-7], 3.1.1 [MQTT-3.2.2-4] [MQTT-3.2.2-5]
#[test]
fn refusal_has_no_session_present_and_closes() {
    // `refused` requires the flags to be 0 and the close to follow.
    let v = Version::V5;
    let id = unique("gone");
    open(&Connect::lasting(v, &id)).leave();
    let connect = Connect::lasting(v, &id).prop(text(prop::AUTH_METHOD, "x"));
    connect.refused(BROKER.address(), 0x8c);
    assert!(open(&Connect::lasting(v, &id)).connack.present(), "the session is still there");

    Connect::lasting(Version::V311, "").refused(BROKER.address(), 2);
    let v = Version::V311;
    let server = broker("[mqtt]\nkeep_alive_max_seconds = 60\nkeep_alive_strict = true\n");
    let id = unique("old");
    Connect::lasting(v, &id).keep_alive(60).open(server.mqtt).leave();
    Connect::lasting(v, &id).keep_alive(61).refused(server.mqtt, 2);
    assert!(Connect::lasting(v, &id).keep_alive(60).open(server.mqtt).connack.present());
}

// 5.0 [MQTT-3.2.2-8]
#[test]
fn connack_codes_are_connect_reason_codes() {
    let bad = [
        Connect::new(Version::V5, &unique("c")).prop(text(prop::AUTH_METHOD, "x")),
        Connect::new(Version::V5, &unique("c")).prop(data(prop::AUTH_DATA, b"x")),
        Connect::new(Version::V5, &unique("c")).prop(two(prop::RECEIVE_MAXIMUM, 0)),
        Connect::new(Version::V5, &unique("c")).flip(1),
        Connect::new(Version::V5, &"x".repeat(60_000)),
        Connect::new(Version::V5, &unique("c")).will(Will::new("a/#", b"x")),
        Connect::new(Version::V5, &unique("c")).will(Will::new("", b"x")),
        Connect::new(Version::V5, &unique("c")).prop(byte(prop::PAYLOAD_FORMAT, 1)),
    ];
    for connect in bad {
        let mut client = connect.attempt(BROKER.address());
        let Packet::Connack(connack) = client.recv() else { panic!("no CONNACK") };
        assert!(connack.code >= 0x80, "{connect:?} was accepted");
        assert!(CONNECT_CODES.contains(&connack.code), "CONNACK {:#04x}", connack.code);
        client.expect_closed();
    }
}

// 3.1.1 [MQTT-3.2.2-6]: no code of the table says "malformed".
#[test]
fn refusal_without_a_return_code_of_its_own_is_a_bare_close() {
    for v in OLD {
        let connect = Connect::new(v, &unique("m")).will(Will::new("w", b"x").qos(3));
        connect.attempt(BROKER.address()).expect_closed();
        let connect = Connect::new(v, &unique("m")).will(Will::new("a/#", b"x"));
        connect.attempt(BROKER.address()).expect_closed();
    }
}

// 5.0 3.2.2.3: a capability is listed when it differs from the default.
#[test]
fn connack_lists_only_what_differs_from_the_default() {
    let props = open(&Connect::new(Version::V5, &unique("d"))).connack.props;
    for absent in [
        prop::MAXIMUM_QOS,
        prop::RETAIN_AVAILABLE,
        prop::WILDCARD_AVAILABLE,
        prop::SUBSCRIPTION_IDS_AVAILABLE,
        prop::SHARED_AVAILABLE,
        prop::SERVER_KEEP_ALIVE,
        prop::ASSIGNED_CLIENT_ID,
        prop::RESPONSE_INFORMATION,
        prop::AUTH_METHOD,
        prop::AUTH_DATA,
        prop::SESSION_EXPIRY,
    ] {
        assert!(!props.has(absent), "property {absent:#04x} in {props:?}");
    }
    assert_ne!(props.number(prop::RECEIVE_MAXIMUM), Some(0));
    assert!(props.number(prop::MAXIMUM_PACKET_SIZE).is_none_or(|n| n > 0));

    let server = broker(
        "[mqtt]\nqos_max = 1\nretain_available = false\nwildcard_subscription_available = false\n\
         subscription_identifier_available = false\nshared_subscription_available = false\n",
    );
    let props = Connect::new(Version::V5, &unique("d")).open(server.mqtt).connack.props;
    assert_eq!(props.number(prop::MAXIMUM_QOS), Some(1));
    for unavailable in [
        prop::RETAIN_AVAILABLE,
        prop::WILDCARD_AVAILABLE,
        prop::SUBSCRIPTION_IDS_AVAILABLE,
        prop::SHARED_AVAILABLE,
    ] {
        assert_eq!(props.number(unavailable), Some(0), "property {unavailable:#04x}");
    }
}

// 5.0 [MQTT-3.2.2-9]: and what goes beyond it is refused (0x9B), wherever a
// client that broke [MQTT-3.2.2-11] would send it.
#[test]
fn maximum_qos_is_announced_and_enforced() {
    for max in [0u8, 1] {
        let server = broker(&format!("[mqtt]\nqos_max = {max}\n"));
        let connect = || Connect::new(Version::V5, &unique("q"));
        let mut client = connect().open(server.mqtt);
        assert_eq!(client.connack.props.number(prop::MAXIMUM_QOS), Some(u32::from(max)));
        client.publish("t", max, b"x");
        client.send(&Publish::new("t", max + 1, b"x").bytes(Version::V5));
        client.expect_end(0x9b);
    }
    assert!(!open(&Connect::new(Version::V5, &unique("q"))).connack.props.has(prop::MAXIMUM_QOS));
}

// 5.0 [MQTT-3.2.2-10]
#[test]
fn subscriptions_above_the_maximum_qos_are_still_accepted() {
    let server = broker("[mqtt]\nqos_max = 0\n");
    for v in OASIS {
        let mut client = Connect::new(v, &unique("q")).open(server.mqtt);
        for qos in [0, 1, 2] {
            let topic = unique("t");
            let codes = client.subscribe_all(&Props::default(), &[(&topic, qos)]);
            assert!(codes == [qos] || codes == [0], "{codes:02x?} for QoS {qos}");
            client.publish(&topic, 0, b"x");
            client.hears("x");
        }
    }
}

// 5.0 [MQTT-3.2.2-12]
#[test]
fn will_above_the_maximum_qos_is_refused() {
    let server = broker("[mqtt]\nqos_max = 1\n");
    let connect = |qos| Connect::new(Version::V5, &unique("q")).will(Will::new("w", b"").qos(qos));
    connect(2).refused(server.mqtt, 0x9b);
    connect(1).open(server.mqtt).leave();
}

// 5.0 [MQTT-3.2.2-13]; a client that broke [MQTT-3.2.2-14] is disconnected.
#[test]
fn retain_is_refused_when_it_is_not_available() {
    let server = broker("[mqtt]\nretain_available = false\n");
    let connect = || Connect::new(Version::V5, &unique("q"));
    let mut client = connect().open(server.mqtt);
    assert_eq!(client.connack.props.number(prop::RETAIN_AVAILABLE), Some(0));
    client.send(&Publish::new("t", 0, b"x").retain().bytes(Version::V5));
    client.expect_end(0x9a);
    connect().will(Will::new("w", b"").retain()).refused(server.mqtt, 0x9a);
    connect().will(Will::new("w", b"")).open(server.mqtt).leave();
}

// 5.0 [MQTT-3.2.2-15]: what happens to a client that sends more.
#[test]
fn packet_over_the_announced_maximum_is_refused() {
    let server = broker("[limits]\npacket_bytes_max = 2000\n");
    for v in ALL {
        let mut client = Connect::new(v, &unique("s")).open(server.mqtt);
        if v.is_5() {
            assert_eq!(client.connack.props.number(prop::MAXIMUM_PACKET_SIZE), Some(2000));
        }
        let overhead = Publish::new("t", 1, b"").bytes(v).len() + 1;
        let fits = vec![b'x'; 2000 - overhead];
        client.publish("t", 1, &fits);
        let over = vec![b'x'; 2000 - overhead + 1];
        client.send(&Publish::new("t", 1, &over).bytes(v));
        client.expect_end(0x95);
    }
}

// 5.0 [MQTT-3.2.2-17] [MQTT-3.2.2-18]: what happens to a client that sends more.
#[test]
fn topic_alias_above_the_announced_maximum_is_refused() {
    for max in [0u16, 3] {
        let server = broker(&format!("[mqtt]\ntopic_alias_in_max = {max}\n"));
        let mut client = Connect::new(Version::V5, &unique("a")).open(server.mqtt);
        let told = client.connack.props.number(prop::TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
        assert_eq!(told, u32::from(max));
        let alias = |n| Publish::new("t", 0, b"x").props([two(prop::TOPIC_ALIAS, n)]);
        if max > 0 {
            client.put(alias(max));
            client.ping();
        }
        client.send(&alias(max + 1).bytes(Version::V5));
        client.expect_end(0x94);
    }
}

/// The sizes of all that came until the close.
fn sizes(client: &mut Client) -> Vec<usize> {
    let mut all = Vec::new();
    loop {
        match client.raw().recv() {
            Got::Packet(bytes) => all.push(bytes.len()),
            Got::Closed => return all,
            Got::Silence => panic!("neither packet nor close"),
        }
    }
}

// 5.0 [MQTT-3.2.2-19] [MQTT-3.2.2-20]: a CONNACK has to fit the client's limit
// with whatever it tells, and is left out when it cannot.
#[test]
fn connack_fits_the_clients_maximum_packet_size() {
    for max in 1..30 {
        let small = Connect::new(Version::V5, "").prop(four(prop::MAXIMUM_PACKET_SIZE, max));
        let mut refused =
            small.clone().prop(text(prop::AUTH_METHOD, "x")).attempt(BROKER.address());
        for size in sizes(&mut refused) {
            assert!(size <= max as usize, "{size} bytes to a client that takes {max}");
        }
        let mut asked = small.attempt(BROKER.address());
        let _ = asked.raw().stream().shutdown(std::net::Shutdown::Write);
        for size in sizes(&mut asked) {
            assert!(size <= max as usize, "{size} bytes to a client that takes {max}");
        }
    }
}

// 5.0 [MQTT-3.2.2-22] and the Server Keep Alive that [MQTT-3.2.2-21] binds clients to.
#[test]
fn server_keep_alive_is_told_and_enforced() {
    let server = broker("[mqtt]\nkeep_alive_max_seconds = 3\n");
    let connect = |v, seconds| Connect::new(v, &unique("k")).keep_alive(seconds);
    for seconds in [0, 4, 65535] {
        let client = connect(Version::V5, seconds).open(server.mqtt);
        assert_eq!(client.connack.props.number(prop::SERVER_KEEP_ALIVE), Some(3));
    }
    for seconds in [1, 3] {
        let client = connect(Version::V5, seconds).open(server.mqtt);
        assert!(!client.connack.props.has(prop::SERVER_KEEP_ALIVE));
    }
    let started = std::time::Instant::now();
    let mut told = connect(Version::V5, 60).open(server.mqtt);
    let mut own = connect(Version::V5, 1).open(server.mqtt);
    let mut old = connect(Version::V311, 60).open(server.mqtt);
    own.expect_end(0x8d);
    assert!(started.elapsed() < Duration::from_millis(4200), "the client's own value holds");
    told.expect_end(0x8d);
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(4400), "closed after {waited:?}");
    assert!(waited < Duration::from_millis(9000), "closed after {waited:?}");
    // Before 5.0 the client cannot be told, so its own value is honoured.
    old.ping();
}

// PROTOCOL: under `keepalive_strict` a 3.x client above the limit is refused.
#[test]
fn strict_keep_alive_refuses_old_clients_above_the_limit() {
    let server = broker("[mqtt]\nkeep_alive_max_seconds = 60\nkeep_alive_strict = true\n");
    for v in OLD {
        Connect::new(v, &unique("k")).keep_alive(61).refused(server.mqtt, 2);
        Connect::new(v, &unique("k")).keep_alive(0).refused(server.mqtt, 2);
        Connect::new(v, &unique("k")).keep_alive(60).open(server.mqtt).leave();
    }
    Connect::new(Version::V5, &unique("k")).keep_alive(61).open(server.mqtt).leave();
}

// PROTOCOL: all sessions end under `session_expiry_max`, and 5.0 clients are told.
#[test]
fn session_expiry_above_the_limit_is_cut_and_told() {
    let server = broker("[limits]\nsession_expiry_max_seconds = 100\n");
    let expiry = |seconds| {
        let connect = Connect::new(Version::V5, &unique("e")).expiry(seconds);
        connect.open(server.mqtt).connack.props.number(prop::SESSION_EXPIRY)
    };
    assert_eq!(expiry(101), Some(100));
    assert_eq!(expiry(u32::MAX), Some(100));
    assert_eq!(expiry(100), None);
    assert_eq!(expiry(0), None);
}

// PROTOCOL: refusals map to 0x97 in 5.0 and 0x03 before.
#[test]
fn refusal_for_a_full_house_has_the_code_of_the_version() {
    let server = broker("[limits]\nsessions_max = 1\n");
    let keeper = Connect::lasting(Version::V311, &unique("s")).open(server.mqtt);
    for v in ALL {
        let code = if v.is_5() { 0x97 } else { 3 };
        Connect::lasting(v, &unique("s")).refused(server.mqtt, code);
        // A session that ends with its connection takes no place.
        Connect::new(v, &unique("s")).open(server.mqtt).leave();
    }
    drop(keeper);
}
