//! Bodies that a newer node sends, and bodies that nobody should.

mod samples;

use bytes::Bytes;
use samples::hello;
use tidegate_peer::limits::DETAIL_BYTES_MAX;
use tidegate_peer::*;

/// The body of a sample.
fn body(name: &str) -> (MessageType, Vec<u8>) {
    let (_, _, message) =
        samples::all().into_iter().find(|(of, ..)| *of == name).expect("a sample");
    (message.message_type(), message.encode().to_bytes().to_vec())
}

fn decode(kind: MessageType, body: &[u8]) -> Result<Message, BodyError> {
    Message::decode(kind, &Bytes::copy_from_slice(body))
}

#[test]
fn fields_that_a_newer_node_added_to_a_header_are_stepped_over() {
    for (name, _, message) in samples::all() {
        let kind = message.message_type();
        if kind.form() == Form::Proto {
            continue;
        }
        let body = message.encode().to_bytes();
        let header_len = u16::from_le_bytes([body[1], body[2]]);
        let longer = (header_len + 6).to_le_bytes();
        let mut newer = body.to_vec();
        newer.splice(usize::from(header_len)..usize::from(header_len), [0xFF; 6]);
        newer[1..3].copy_from_slice(&longer);
        assert_eq!(decode(kind, &newer), Ok(message), "{name}");
    }
}

#[test]
fn a_layout_of_a_newer_version_is_refused_as_such() {
    for (name, _, message) in samples::all() {
        let kind = message.message_type();
        let mut body = message.encode().to_bytes().to_vec();
        for ver in [0, 2, 255] {
            body[0] = ver;
            if kind.form() == Form::Hand {
                let said = decode(kind, &body);
                assert_eq!(said, Err(BodyError::Layout { got: ver, known: 1 }), "{name}");
            }
        }
    }
}

#[test]
fn bytes_behind_the_end_are_refused() {
    // What ends with a payload has none.
    let open_ended = ["enqueue", "deliver", "call", "answer", "mail"];
    for (name, _, message) in samples::all() {
        let kind = message.message_type();
        let is_open = open_ended.iter().any(|open| name.starts_with(open));
        if kind.form() == Form::Hand && !is_open {
            let mut body = message.encode().to_bytes().to_vec();
            body.push(0);
            assert_eq!(decode(kind, &body), Err(BodyError::Trailing(1)), "{name}");
        }
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    type Case = (&'static str, usize, &'static [u8], &'static str);
    let cases: [Case; 15] = [
        ("enqueue", 40, &[0xE9, 3, 0, 0, 0, 0, 0, 0], "a predecessor that is the number itself"),
        ("enqueue", 3, &[0x08], "a flag that is not defined"),
        ("enqueue", 4, &[3], "a kind of lane"),
        ("enqueue", 5, &[3], "a QoS"),
        ("enqueue", 72, &[0xFF], "a client id that is not UTF-8"),
        ("enqueue", 60, &[0xFF, 0xFF, 0xFF, 0xFF], "properties that are not there"),
        ("deliver", 40 + 24, &[0, 0], "no packet id with QoS 1"),
        ("deliver", 40 + 32 + 24, &[1, 0], "a packet id with QoS 0"),
        ("deliver", 40 + 28, &[1, 0], "subscription ids behind the table"),
        ("deliver", 8, &[1, 4], "more receivers than allowed"),
        ("ack", 24 + 24, &[4], "a kind of acknowledgement"),
        ("append", 88 + 20, &[3], "a kind of entry"),
        ("answer", 3, &[3], "an outcome"),
        ("mail", 3, &[3], "a class of mail"),
        ("mail_routes", 4, &[1, 0], "routes of one shard"),
    ];
    for (name, at, bytes, what) in cases {
        let (kind, mut body) = body(name);
        assert!(decode(kind, &body).is_ok());
        body[at..at + bytes.len()].copy_from_slice(bytes);
        let error = decode(kind, &body).expect_err(what);
        assert_eq!(error.reason(), Reason::BadBody, "{what}: {error}");
    }
}

#[test]
fn a_hello_that_contradicts_itself_is_refused() {
    type Case = (&'static str, fn(&mut Hello));
    let cases: [Case; 12] = [
        ("no version", |hello| hello.proto_min = 0),
        ("versions the wrong way round", |hello| hello.proto_min = 2),
        ("node 0", |hello| hello.node = NodeId(0)),
        ("a member of no cluster", |hello| hello.cluster = ClusterId(0)),
        ("fresh, and of a cluster", |hello| hello.role = Role::Fresh),
        ("fresh, for data", |hello| {
            (hello.role, hello.cluster) = (Role::Fresh, ClusterId(0));
        }),
        ("too little credit of a lane", |hello| hello.lane_credit = 65_535),
        ("too little credit of all", |hello| hello.link_credit = (1 << 20) - 1),
        ("too few lanes", |hello| hello.lanes_max = 15),
        ("too many data connections", |hello| hello.stripes = 17),
        ("a stripe that is not among them", |hello| hello.stripe = 2),
        ("data of no session", |hello| hello.session = 0),
    ];
    assert!(Hello::decode(&hello(1, 1).encode()).is_ok());
    for (what, spoil) in cases {
        let mut hello = hello(1, 1);
        spoil(&mut hello);
        let error = Hello::decode(&hello.encode()).expect_err(what);
        assert!(matches!(error, BodyError::Value { .. }), "{what}: {error}");
    }
}

#[test]
fn the_text_of_a_goodbye_is_cut_between_letters() {
    let goodbye = Goodbye::new(Reason::Leaving, (1, 1), "ä".repeat(200) + "x");
    assert_eq!(goodbye.detail, "ä".repeat(DETAIL_BYTES_MAX / 2));
    let goodbye = Goodbye::new(Reason::Leaving, (1, 1), "x".to_owned() + &"ä".repeat(200));
    assert_eq!(goodbye.detail.len(), DETAIL_BYTES_MAX - 1);
    assert_eq!(Goodbye::decode(&goodbye.encode()), Ok(goodbye));
}

#[test]
fn a_reason_of_a_newer_version_is_an_end_like_any_other() {
    let goodbye = Goodbye { code: 999, ..Goodbye::new(Reason::Leaving, (1, 3), "new") };
    let taken = Goodbye::decode(&goodbye.encode()).expect("a Goodbye");
    assert_eq!((taken.reason(), taken.code, taken.proto_max), (None, 999, 3));
}

#[test]
fn a_snapshot_comes_in_chunks_of_a_mebibyte_at_most() {
    let data = Bytes::from(vec![0; limits::SNAPSHOT_CHUNK_BYTES_MAX + 1]);
    let chunk = |data| Message::from(proto::SnapshotChunk { data, ..Default::default() });
    let most = chunk(data.slice(1..));
    let kind = MessageType::SnapshotChunk;
    assert_eq!(Message::decode(kind, &most.encode().to_bytes()), Ok(most));
    let said = Message::decode(kind, &chunk(data).encode().to_bytes());
    assert!(matches!(said, Err(BodyError::TooMany { .. })), "{said:?}");
}
