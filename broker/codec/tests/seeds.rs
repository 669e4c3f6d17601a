//! The fuzz targets' seed corpus: one file a shape, written by
//! `TIDEGATE_WRITE_SEEDS=1 cargo test -p tidegate-codec --test seeds`, checked by
//! a plain run, so that the committed files never rot.
#![allow(clippy::disallowed_methods, reason = "a test may touch files and the environment")]

use std::path::Path;

use tidegate_codec::{
    ConnackOut, ConnectOut, PacketType, PropertyWriter, PublishOut, QoS, ReasonCode,
    SubscribeOptions, Version, WillOut, encode_ack, encode_auth, encode_connack, encode_connect,
    encode_disconnect, encode_pingreq, encode_publish, encode_suback, encode_subscribe,
    encode_unsuback, encode_unsubscribe,
};

type Seed = (String, Vec<u8>);

#[test]
fn the_committed_seeds_are_the_ones_that_the_encoders_make() {
    for target in ["frame", "decode", "round_trip"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        for (name, bytes) in seeds() {
            let file = folder.join(name);
            if std::env::var("TIDEGATE_WRITE_SEEDS").is_ok() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&file, &bytes).unwrap();
            }
            let found = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert_eq!(found, bytes, "{}", file.display());
        }
    }
}

fn seeds() -> Vec<Seed> {
    let mut all = vec![
        seed("reserved-type", |out| out.extend([0, 0])),
        seed("length-too-long", |out| out.extend([0x30, 0x80, 0x80, 0x80, 0x80, 1])),
        seed("length-not-minimal", |out| out.extend([0xC0, 0x80, 0])),
        seed("publish-cut-property", |out| out.extend(*b"\x30\x06\0\x01a\x02\x01")),
        seed("publish-alias-0", |out| out.extend(*b"\x30\x07\0\x01a\x03\x23\0\0")),
        seed("subscribe-bad-filter", |out| out.extend(*b"\x82\x08\0\x01\0\0\x02a#\0")),
        seed("pingreq", encode_pingreq),
        seed("disconnect", |out| encode_disconnect(out, ReasonCode::Success, Some(9), None, None)),
        seed("auth", |out| encode_auth(out, ReasonCode::ContinueAuthentication, "m", Some(b"d"))),
    ];
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        all.extend(of(version));
    }
    all
}

fn seed(name: &str, write: impl FnOnce(&mut Vec<u8>)) -> Seed {
    let mut out = Vec::new();
    write(&mut out);
    (name.to_owned(), out)
}

fn of(version: Version) -> Vec<Seed> {
    let name = |what: &str| format!("{what}-v{}", version as u8);
    let mut list = PropertyWriter::new();
    list.payload_format_indicator(1).response_topic("r").correlation_data(b"c");
    list.content_type("t").user_property("k", "v").user_property("k", "w");
    let mut options = PropertyWriter::new();
    options.session_expiry_interval(9).receive_maximum(3).topic_alias_maximum(2);
    let will =
        WillOut { topic: "w", payload: b"x", properties: list.bytes(), ..Default::default() };
    let connect = ConnectOut {
        client_id: "c",
        will: Some(will),
        username: Some("u"),
        password: Some(b"p"),
        properties: options.bytes(),
        ..Default::default()
    };
    let publish = PublishOut {
        qos: QoS::ExactlyOnce,
        topic: "site/line/é",
        packet_id: 7,
        topic_alias: Some(1),
        message_expiry: Some(60),
        subscription_ids: &[1, 200],
        forward: list.bytes(),
        payload_len: 2,
        ..Default::default()
    };
    let filters =
        [("a/+/#", SubscribeOptions::at(QoS::AtLeastOnce)), ("$share/g/a", Default::default())];
    let error = ReasonCode::NotAuthorized;
    let mut identifier = PropertyWriter::new();
    identifier.subscription_identifier(5);
    vec![
        seed(&name("connect"), |out| encode_connect(out, version, &connect)),
        seed(&name("connack"), |out| {
            let connack = ConnackOut { receive_maximum: Some(10), ..Default::default() };
            encode_connack(out, version, &connack);
        }),
        seed(&name("publish"), |out| encode_publish(out, version, &publish, b"hi")),
        seed(&name("puback"), |out| {
            encode_ack(out, version, PacketType::Puback, 7, error, Some("no"));
        }),
        seed(&name("pubrel"), |out| {
            encode_ack(out, version, PacketType::Pubrel, 7, ReasonCode::Success, None);
        }),
        seed(&name("subscribe"), |out| {
            encode_subscribe(out, version, 7, &filters, identifier.bytes());
        }),
        seed(&name("suback"), |out| encode_suback(out, version, 7, &[error], None)),
        seed(&name("unsubscribe"), |out| {
            encode_unsubscribe(out, version, 7, &["a/+/#", "$share/g/a"], b"");
        }),
        seed(&name("unsuback"), |out| encode_unsuback(out, version, 7, &[error])),
    ]
}
