//! What is encoded is what is decoded, at any node; what is not mail is an error.

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use tidegate_codec::QoS;

use super::*;
use crate::access::Open;
use crate::ids::Millis;
use crate::mail::LaneSource;
use crate::message::{Draft, Message};
use crate::outgoing::{Acked, SubscriptionIds};
use crate::settings::Settings;
use crate::will::Will;

const HERE: ShardId = ShardId(3 << 6 | 1);

/// Nodes with three clocks.
static NODES: LazyLock<[Node; 3]> = LazyLock::new(|| {
    [0, 1_599_000_000_000, 1_700_000_000_000]
        .map(|epoch| Node::kept(Settings::default(), 2, 7, Box::new(Open), epoch))
        .map(|node| node.in_cluster(Member(3)))
});

fn encoded(mail: &Mail, node: &Node) -> Vec<u8> {
    encoded_in(MailFormat::default(), mail, node)
}

fn encoded_in(format: MailFormat, mail: &Mail, node: &Node) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(mail.encode(HERE, format, node, &mut bytes), "{mail:?}");
    bytes
}

fn mail(kind: Kind) -> Mail {
    Mail { kind, read_at: None }
}

fn shard() -> impl Strategy<Value = ShardId> {
    (1..1_024u16, 0..64u16).prop_map(|(member, shard)| ShardId::of(Member(member), shard))
}

fn conn() -> impl Strategy<Value = ConnRef> {
    (shard(), 0..1_000_000u32, any::<u32>()).prop_map(|(shard, slot, generation)| ConnRef {
        shard,
        slot,
        generation,
    })
}

fn key(durable: bool) -> impl Strategy<Value = SessionKey> {
    (shard(), any::<u32>(), any::<u32>()).prop_map(move |(shard, slot, generation)| SessionKey {
        shard,
        durable,
        slot,
        generation,
    })
}

fn claim() -> impl Strategy<Value = ClaimRef> {
    any::<(u32, u32)>().prop_map(|(slot, generation)| ClaimRef { slot, generation })
}

fn confirm() -> impl Strategy<Value = Confirm> {
    (conn(), any::<u32>()).prop_map(|(conn, token)| Confirm { conn, token })
}

fn partition() -> impl Strategy<Value = PartitionId> {
    (0..64u8).prop_map(PartitionId)
}

fn lane() -> impl Strategy<Value = Option<crate::mail::Lane>> {
    of((0..64u8, any::<u64>(), any::<u64>(), any::<u32>())).prop_map(|lane| {
        let (partition, number, low, part) = lane?;
        let source = match number % 2 {
            0 => LaneSource::Partition(partition),
            _one => LaneSource::Shard(ShardId(partition.into())),
        };
        Some(crate::mail::Lane { source, number, low, part })
    })
}

fn cross() -> impl Strategy<Value = Kind> {
    let to = || {
        prop_oneof![
            (0..1_024u16).prop_map(|member| Remote::Node(Member(member))),
            partition().prop_map(Remote::Partition),
        ]
    };
    let whatever = prop_oneof![
        Just(What::Everybody),
        any::<bool>().prop_map(|clear| What::Retain { clear }),
        (text(), text(), any::<u8>()).prop_map(|(name, filter, hops)| {
            let (name, filter) = (name.as_str().into(), filter.as_str().into());
            What::Member { name, filter, hops }
        }),
    ];
    let errand = prop_oneof![Just(What::Errand), Just(What::Settled)];
    let target = prop_oneof![(to(), whatever), (partition().prop_map(Remote::Partition), errand),];
    (target, message(), conn(), lane(), of(confirm()), any::<u64>()).prop_map(
        |((to, what), message, publisher, lane, confirm, after)| {
            Kind::Cross(Box::new(Cross { to, what, message, publisher, lane, confirm, after }))
        },
    )
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..3u8).prop_map(|qos| QoS::try_from(qos).unwrap_or_default())
}

fn text() -> impl Strategy<Value = String> {
    "[a-z+#/é]{0,12}"
}

fn message() -> impl Strategy<Value = Arc<Message>> {
    let bytes = || vec(any::<u8>(), 0..40);
    let expires = prop_oneof![Just(Millis::MAX), 0..1_000_000_000u64];
    (text(), bytes(), bytes(), qos(), any::<(bool, u64, u64)>(), expires).prop_map(
        |(topic, forward, payload, qos, (retain, origin, id), expires)| {
            let mut draft = Draft {
                topic: &topic,
                forward: &forward,
                payload: &payload,
                qos,
                retain,
                origin,
                expires,
                id,
                shared: None,
            };
            Arc::clone(draft.share())
        },
    )
}

fn code() -> impl Strategy<Value = ReasonCode> {
    any::<u8>().prop_filter_map("a reason code", |code| ReasonCode::try_from(code).ok())
}

fn options() -> impl Strategy<Value = Options> {
    (0..3u8, any::<bool>(), any::<bool>())
        .prop_map(|(qos, no_local, as_published)| Options::new(qos, no_local, as_published))
}

fn will() -> impl Strategy<Value = Arc<Will>> {
    let bytes = || vec(any::<u8>(), 0..20);
    (text(), bytes(), bytes(), qos(), any::<bool>(), of(any::<u32>()), any::<u32>()).prop_map(
        |(topic, payload, forward, qos, retain, expiry, delay)| {
            let (topic, payload, forward) = (topic.into(), payload.into(), forward.into());
            Arc::new(Will { topic, payload, forward, qos, retain, expiry, delay })
        },
    )
}

fn replay(durable: bool) -> impl Strategy<Value = Box<Replay>> {
    let sets = any::<(u64, u64)>();
    let cursor = of((0..3u8, text()));
    (key(durable), text(), sets, shard(), cursor, options(), any::<(u32, u64, u64, u32)>())
        .prop_map(
            |(owner, filter, (left, asked), keeper, cursor, options, (id, client, serial, leg))| {
                let filter: Arc<str> = filter.into();
                let cursor =
                    cursor.and_then(|(kind, at)| Cursor::at(Arc::clone(&filter), kind, &at));
                Box::new(Replay {
                    owner,
                    filter,
                    left,
                    asked,
                    keeper,
                    cursor,
                    options,
                    id,
                    client,
                    serial,
                    leg,
                    late: 0,
                })
            },
        )
}

fn to_a_partition() -> impl Strategy<Value = Kind> {
    let asked = (conn(), text(), any::<(bool, u32, u16)>(), of(will()));
    let wanted = (text(), options(), 0..3u8, code()).prop_map(|(text, options, handling, code)| {
        let retain_handling = match handling {
            0 => RetainHandling::SendAlways,
            1 => RetainHandling::SendIfNew,
            _two => RetainHandling::Never,
        };
        Wanted { text: text.into(), options, retain_handling, code }
    });
    let acked = prop_oneof![
        Just(Acked::Puback),
        Just(Acked::Pubrec),
        Just(Acked::PubrecRefused),
        Just(Acked::Pubcomp)
    ];
    prop_oneof![
        asked.prop_map(|(conn, client, (clean_start, expiry, window), will)| {
            let (client, hash): (Arc<str>, _) =
                (client.as_str().into(), NODES[0].client_hash(&client));
            let counted = false;
            Kind::Claim(Box::new(ClaimRequest {
                conn,
                client,
                hash,
                clean_start,
                expiry,
                window,
                will,
                counted,
                came: 0,
                order: 0,
            }))
        }),
        (conn(), text(), any::<u64>()).prop_map(|(conn, client, since)| {
            let hash = NODES[0].client_hash(&client);
            Kind::Reclaim(Box::new(Reclaim { conn, client: client.into(), hash, since }))
        }),
        (partition(), conn(), claim(), of(any::<u32>()), any::<(bool, bool)>()).prop_map(
            |(partition, conn, claim, expiry, (will, moved))| {
                let request = ReleaseRequest { partition, conn, claim, expiry, will, moved };
                Kind::Release(Box::new(request))
            }
        ),
        (key(true), conn(), any::<(u16, u32, bool)>(), vec(wanted, 0..4)).prop_map(
            |(session, conn, (packet_id, id, barrier), filters)| {
                let request = SubscribeRequest { session, conn, packet_id, id, filters, barrier };
                Kind::Subscribe(Box::new(request))
            }
        ),
        (key(true), conn(), any::<u16>(), vec(text(), 0..4)).prop_map(
            |(session, conn, packet_id, filters)| {
                let filters = filters.into_iter().map(Into::into).collect();
                let request = UnsubscribeRequest { session, conn, packet_id, filters };
                Kind::Unsubscribe(Box::new(request))
            }
        ),
        (key(true), text(), of(text())).prop_map(|(session, client, user)| {
            let (client, user) = (client.into(), user.map(Into::into));
            Kind::Recheck(Box::new(RecheckRequest { session, client, user }))
        }),
        (key(true), conn(), any::<u16>(), acked).prop_map(|(session, conn, packet_id, acked)| {
            Kind::Acknowledge { session, conn, packet_id, acked }
        }),
        (key(true), conn(), any::<(u16, bool)>(), of(message()), of(confirm())).prop_map(
            |(session, conn, (packet_id, held), message, confirm)| {
                Kind::Incoming { session, conn, packet_id, held, message, confirm }
            }
        ),
    ]
}

fn to_a_connection() -> impl Strategy<Value = Kind> {
    let codes = || (conn(), any::<u16>(), vec(code(), 0..5));
    let grant = (conn(), partition(), claim(), of(key(true)), any::<(bool, bool, bool)>());
    let ids = vec(any::<u32>(), 0..4);
    prop_oneof![
        (grant, vec(any::<u16>(), 0..5), of(shard())).prop_map(|(grant, incoming, taken_from)| {
            let (conn, partition, claim, session, (present, again, behind)) = grant;
            Kind::Granted(Box::new(Granted {
                conn,
                partition,
                claim,
                session,
                present,
                again,
                incoming,
                taken_from,
                behind,
            }))
        }),
        (conn(), code()).prop_map(|(conn, reason)| Kind::Refused { conn, reason }),
        (conn(), partition(), claim()).prop_map(|(conn, partition, claim)| Kind::Evict {
            conn,
            partition,
            claim
        }),
        conn().prop_map(|conn| Kind::Released { conn }),
        codes().prop_map(|(conn, packet_id, codes)| {
            Kind::Subscribed { conn, packet_id, codes: codes.into(), ticket: 0 }
        }),
        codes().prop_map(|(conn, packet_id, codes)| {
            Kind::Unsubscribed { conn, packet_id, codes: codes.into() }
        }),
        (conn(), any::<(u16, bool, bool)>(), qos(), ids, message()).prop_map(
            |(conn, (packet_id, dup, retain), qos, ids, message)| {
                let ids = SubscriptionIds::from_slice(&ids);
                let delivery = Delivery { message, qos, retain, ids, position: None, ticket: None };
                Kind::Push { conn, packet_id, dup, delivery }
            }
        ),
        (conn(), any::<u16>(), code()).prop_map(|(conn, packet_id, reason)| Kind::Owe {
            conn,
            packet_id,
            reason
        }),
        conn().prop_map(|conn| Kind::Mismatch { conn }),
        conn().prop_map(|conn| Kind::Lost { conn }),
        confirm().prop_map(Kind::Confirmed),
        confirm().prop_map(Kind::NotRetained),
        (conn(), replay(true)).prop_map(|(conn, replay)| Kind::Pace { conn, replay }),
    ]
}

fn about_retained() -> impl Strategy<Value = Kind> {
    let any_replay = || any::<bool>().prop_flat_map(replay);
    prop_oneof![
        (message(), any::<bool>(), lane(), of(confirm())).prop_map(
            |(message, clear, lane, confirm)| Kind::Retain { message, clear, lane, confirm }
        ),
        any_replay().prop_map(Kind::Query),
        (conn(), replay(true)).prop_map(|(conn, replay)| Kind::Returned { conn, replay }),
        (any_replay(), vec(message(), 0..4), any::<bool>())
            .prop_map(|(replay, messages, more)| Kind::Answer { replay, messages, more }),
    ]
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![to_a_partition(), to_a_connection(), about_retained(), cross()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_what_is_decoded(kind in any_kind()) {
        let (node, mail) = (&NODES[2], mail(kind));
        let bytes = encoded(&mail, node);
        let back = Mail::decode(&bytes, HERE, node).expect("what was encoded");
        prop_assert_eq!(format!("{mail:?}"), format!("{back:?}"));
        prop_assert!(Mail::decode(&bytes, ShardId(HERE.0 - 1), node).is_err(), "another shard");
    }

    #[test]
    fn a_mail_means_the_same_under_another_clock(kind in any_kind()) {
        let (early, late) = (&NODES[2], &NODES[1]);
        let bytes = encoded(&mail(kind), early);
        let there = Mail::decode(&bytes, HERE, late).expect("what was encoded");
        prop_assert_eq!(encoded(&there, late), bytes);
    }

    #[test]
    fn a_mail_that_is_cut_is_an_error(kind in any_kind(), cut in any::<prop::sample::Index>()) {
        let node = &NODES[0];
        let bytes = encoded(&mail(kind), node);
        let cut = cut.index(bytes.len());
        prop_assert!(Mail::decode(&bytes[..cut], HERE, node).is_err());
        if cut > 0 {
            prop_assert_eq!(parcels(&bytes[..cut]).next(), Some(Err(MailError::Cut(cut))));
        }
    }

    #[test]
    fn a_changed_byte_makes_another_mail_or_an_error(
        kind in any_kind(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let node = &NODES[0];
        let mut bytes = encoded(&mail(kind), node);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(other) = Mail::decode(&bytes, HERE, node) {
            encoded(&other, node);
        }
    }

    #[test]
    fn any_bytes_are_mail_or_an_error(
        format in 1..=2u8,
        kind in any::<u8>(),
        body in vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = vec![HERE.index() as u8];
        bytes.extend((body.len() as u32 + 2).to_le_bytes());
        bytes.extend([format, kind]);
        bytes.extend(&body);
        let _ = Mail::decode(&bytes, HERE, &NODES[0]);
        for parcel in parcels(&body) {
            let _ = parcel;
        }
    }
}

#[test]
fn a_list_that_claims_to_be_long_takes_no_more_room_than_it_has_bytes() {
    let node = &NODES[0];
    let nobody = ConnRef { shard: HERE, slot: 1, generation: 1 };
    let codes = Box::new([ReasonCode::Success]);
    let kind = Kind::Subscribed { conn: nobody, packet_id: 1, codes, ticket: 0 };
    let mut bytes = encoded(&mail(kind), node);
    let count = bytes.len() - 5;
    bytes[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = Mail::decode(&bytes, HERE, node).expect_err("no four billion codes");
    assert_eq!(
        error,
        MailError::Body { kind: tag::SUBSCRIBED, error: RecordError::Short("reason code") }
    );
}

#[test]
fn a_place_of_a_node_that_is_alone_is_refused() {
    let node = &NODES[0];
    let conn = ConnRef { shard: ShardId(1), slot: 1, generation: 1 };
    let bytes = encoded(&mail(Kind::Mismatch { conn }), node);
    let error = Mail::decode(&bytes, HERE, node).expect_err("a shard of no member");
    assert_eq!(error, MailError::Place { what: "shard", value: 1 });
}

/// One of each kind, always the same.
fn samples() -> Vec<(&'static str, Kind)> {
    let conn = ConnRef { shard: ShardId::of(Member(2), 1), slot: 77, generation: 5 };
    let session = SessionKey { shard: HERE, durable: true, slot: 9 << 26 | 4, generation: 6 };
    let claim = ClaimRef { slot: 4, generation: 3 };
    let partition = PartitionId(9);
    let confirm = Confirm { conn, token: 8 };
    let source = LaneSource::Partition(9);
    let of = crate::mail::Lane { source, number: 70, low: 60, part: 1 };
    let lane = Some(of);
    let client: Arc<str> = "client".into();
    let hash = NODES[0].client_hash(&client);
    let body = Bytes::from_static(b"a/b\x01\x00payload");
    let draft = Draft {
        topic: "",
        forward: &[],
        payload: &[],
        qos: QoS::AtLeastOnce,
        retain: true,
        origin: 0x1122_3344_5566_7788,
        expires: 90_000,
        id: 12,
        shared: None,
    };
    let message = Arc::new(Message::from_parts(body, 3, 2, &draft));
    let will = Arc::new(Will {
        topic: "w".into(),
        payload: (*b"gone").into(),
        forward: Box::default(),
        qos: QoS::ExactlyOnce,
        retain: false,
        expiry: Some(60),
        delay: 5,
    });
    let filter: Arc<str> = "a/#".into();
    let replay = || {
        Box::new(Replay {
            owner: session,
            filter: Arc::clone(&filter),
            left: 0xf0,
            asked: 0x30,
            keeper: HERE,
            cursor: Cursor::at(Arc::clone(&filter), 1, "a/b"),
            options: Options::new(1, true, false),
            id: 268_435_455,
            client: hash,
            serial: 2,
            leg: 3,
            late: 0,
        })
    };
    let packet_id = 10;
    let codes = || Box::new([ReasonCode::GrantedQoS1, ReasonCode::QuotaExceeded]);
    let wanted = Wanted {
        text: "a/+".into(),
        options: Options::new(2, false, true),
        retain_handling: RetainHandling::SendIfNew,
        code: ReasonCode::GrantedQoS2,
    };
    let delivery = Delivery {
        message: Arc::clone(&message),
        qos: QoS::AtLeastOnce,
        retain: false,
        ids: SubscriptionIds::from_slice(&[1, 2]),
        position: None,
        ticket: None,
    };
    let request = ClaimRequest {
        conn,
        client: Arc::clone(&client),
        hash,
        clean_start: true,
        expiry: 300,
        window: 20,
        will: Some(will),
        counted: false,
        came: 0,
        order: 0,
    };
    let granted = Granted {
        conn,
        partition,
        claim,
        session: Some(session),
        present: true,
        again: false,
        incoming: vec![1, 500],
        taken_from: Some(HERE),
        behind: true,
    };
    let (expiry, will, moved) = (Some(30), true, true);
    let release = ReleaseRequest { partition, conn, claim, expiry, will, moved };
    let (filters, barrier) = (vec![wanted], true);
    let subscribe = SubscribeRequest { session, conn, packet_id, id: 7, filters, barrier };
    let crossed = Cross {
        to: Remote::Partition(partition),
        what: What::Member { name: "g".into(), filter: "a/+".into(), hops: 1 },
        message: Arc::clone(&message),
        publisher: conn,
        lane: Some(crate::mail::Lane { source: LaneSource::Shard(conn.shard), ..of }),
        confirm: Some(confirm),
        after: 6,
    };
    let unsubscribe = UnsubscribeRequest { session, conn, packet_id, filters: vec!["a/+".into()] };
    let user = Some("user".into());
    let recheck = RecheckRequest { session, client: Arc::clone(&client), user };
    let held = Some(Arc::clone(&message));
    vec![
        ("claim", Kind::Claim(Box::new(request))),
        ("reclaim", Kind::Reclaim(Box::new(Reclaim { conn, client, hash, since: 99 }))),
        ("release", Kind::Release(Box::new(release))),
        ("subscribe", Kind::Subscribe(Box::new(subscribe))),
        ("unsubscribe", Kind::Unsubscribe(Box::new(unsubscribe))),
        ("recheck", Kind::Recheck(Box::new(recheck))),
        ("acknowledge", Kind::Acknowledge { session, conn, packet_id, acked: Acked::Pubrec }),
        (
            "incoming",
            Kind::Incoming {
                session,
                conn,
                packet_id,
                held: true,
                message: held,
                confirm: Some(confirm),
            },
        ),
        ("granted", Kind::Granted(Box::new(granted))),
        ("refused", Kind::Refused { conn, reason: ReasonCode::ServerBusy }),
        ("evict", Kind::Evict { conn, partition, claim }),
        ("released", Kind::Released { conn }),
        ("subscribed", Kind::Subscribed { conn, packet_id, codes: codes(), ticket: 0 }),
        ("unsubscribed", Kind::Unsubscribed { conn, packet_id, codes: codes() }),
        ("push", Kind::Push { conn, packet_id, dup: true, delivery }),
        ("owe", Kind::Owe { conn, packet_id, reason: ReasonCode::Success }),
        ("mismatch", Kind::Mismatch { conn }),
        ("lost", Kind::Lost { conn }),
        ("confirmed", Kind::Confirmed(confirm)),
        ("not_retained", Kind::NotRetained(confirm)),
        ("pace", Kind::Pace { conn, replay: replay() }),
        (
            "retain",
            Kind::Retain {
                message: Arc::clone(&message),
                clear: false,
                lane,
                confirm: Some(confirm),
            },
        ),
        ("query", Kind::Query(replay())),
        ("returned", Kind::Returned { conn, replay: replay() }),
        ("answer", Kind::Answer { replay: replay(), messages: vec![message], more: true }),
        ("cross", Kind::Cross(Box::new(crossed))),
    ]
}

/// What other builds send: never to be changed but by a new format.
#[test]
fn the_bytes_of_each_kind_are_those_of_before() {
    let node = &NODES[2];
    for (version, golden) in [
        (1, include_str!("../../../tests/golden/mail-1.txt")),
        (2, include_str!("../../../tests/golden/mail-2.txt")),
    ] {
        let format = MailFormat::of_protocol(version);
        let mut text = String::new();
        for (name, kind) in samples() {
            let bytes = encoded_in(format, &mail(kind), node);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!("{name} {hex}\n"));
            let back = Mail::decode(&bytes, HERE, node).expect("what was encoded");
            assert_eq!(encoded_in(format, &back, node), bytes);
        }
        assert!(text == golden, "format {version} has become:\n{text}");
    }
}

#[test]
fn a_format_that_is_not_known_is_an_error() {
    let node = &NODES[0];
    let [shard, kind] = [HERE.index() as u8, tag::QUERY];
    for format in [0, 3, 255] {
        let error = Mail::decode(&[shard, 2, 0, 0, 0, format, kind], HERE, node);
        assert_eq!(error.expect_err("no such format"), MailError::Version(format));
    }
}
