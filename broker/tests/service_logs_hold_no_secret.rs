//! Whatever the level: no payload and no password in the log.

use testkit::Broker;
use testkit::client::{ALL, Client, Connect, Publish, Version, Will, data, prop, unique, user};

const SECRETS: [&str; 5] =
    ["s3cret-password", "s3cret-payload", "s3cret-will", "s3cret-retained", "s3cret-property"];

#[test]
fn at_trace_level_neither_payload_nor_password_is_logged() {
    for format in ["plain", "json"] {
        let config =
            format!("[log]\nlevel = \"trace\"\nformat = {format:?}\nlines_per_second = 0\n");
        let mut broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), &config);
        for version in ALL {
            talk(&broker, version);
        }
        assert_eq!(broker.get("/metrics").0, 200);
        broker.signal("-HUP");
        broker.says("config reloaded");
        assert_eq!(broker.terminate(), Some(0));
        let said = broker.said_to_the_end();
        assert!(said.contains("tidegate starts") && said.contains("stopped"), "{said}");
        for secret in SECRETS {
            // As text, as Debug shows bytes, and in hex.
            let listed = secret.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
            let hex: String = secret.bytes().map(|b| format!("{b:02x}")).collect();
            for form in [secret, &listed, &hex] {
                assert!(!said.contains(form), "{form} was logged:\n{said}");
            }
        }
    }
}

/// All that carries something of the client's own, and ends that are worth a line.
fn talk(broker: &Broker, version: Version) {
    let [password, payload, will, retained, property] = SECRETS;
    let connect = |id: &str| {
        let mut connect = Connect::new(version, id);
        connect.username = Some(b"alice".to_vec());
        connect.password = Some(password.as_bytes().to_vec());
        connect.will = Some(Will::new("wills", will.as_bytes()));
        connect
    };
    let mut alice = connect("alice").open(broker.mqtt);
    // Not what was retained in the round before.
    let (topic, kept) = (unique("t"), unique("r"));
    alice.subscribe(&topic, 2);
    alice.subscribe(&kept, 2);
    alice.publish(&topic, 1, payload.as_bytes());
    alice.hears(payload);
    alice.retain(&kept, 1, retained.as_bytes());
    alice.hears(retained);
    if version.is_5() {
        let mut publish = Publish::new(&topic, 1, payload.as_bytes());
        publish.props = [user(property, property), data(prop::CORRELATION_DATA, b"x")].into();
        alice.put(publish);
        alice.message();
    }
    // A takeover, a client that breaks the protocol, and one that is lost.
    let again = connect("alice").open(broker.mqtt);
    again.lose();
    let mut wrong = connect("wrong").open(broker.mqtt);
    let mut bytes = b"\x32\x10\x00\x01t".to_vec();
    bytes.extend_from_slice(payload.as_bytes());
    wrong.send(&bytes);
    wrong.send(b"\xff\xff\xff\xff\xff");
    let mut not_mqtt = Client::bare(broker.mqtt, version);
    not_mqtt.send(format!("GET /{password} HTTP/1.1\r\nHost: {payload:80}\r\n\r\n").as_bytes());
    not_mqtt.expect_closed();
}
