//! One message of every type, the same today as in every release to come.
#![allow(dead_code, reason = "each test uses some of it")]

use bytes::Bytes;
use tidegate_peer::proto::*;
use tidegate_peer::*;

pub(crate) const SECRET: &[u8] = b"correct horse battery staple";

pub(crate) fn hello(node: u64, nonce: u8) -> Hello {
    Hello {
        role: Role::Member,
        proto_min: 1,
        proto_max: 1,
        features: 0b101,
        cluster: ClusterId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
        generation: 2,
        node: NodeId(node),
        store: StoreId(u128::from(node) << 64 | 7),
        incarnation: 5,
        config_hash: [0xCC; 32],
        nonce: Nonce([nonce; 32]),
        kind: ConnectionKind::Data,
        stripe: 1,
        stripes: 2,
        session: 0x5E55,
        auth: AuthMethod::Secret,
        lane_credit: 1 << 20,
        link_credit: 32 << 20,
        lanes_max: 2_048,
        name: "plant".into(),
        address: format!("10.0.0.{node}:7883"),
    }
}

pub(crate) fn secret() -> Auth {
    Auth::Secret(Secret::new(SECRET).expect("long enough"))
}

fn vote(term: u64, committed: bool) -> Vote {
    Vote { term, node: 0xA1, committed }
}

fn log_id(index: u64) -> LogId {
    LogId { term: 3, node: 0xA1, index }
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Name, lane, message.
pub(crate) fn all() -> Vec<(&'static str, Lane, Message)> {
    let mut all = hot();
    all.extend(control());
    all
}

fn hot() -> Vec<(&'static str, Lane, Message)> {
    let (link, raft) = (Lane::LINK, Lane::new(LaneClass::Raft, 17));
    let (enqueue, deliver) = (Lane::new(LaneClass::Enqueue, 17), Lane::new(LaneClass::Deliver, 17));
    let lead = Lead {
        group: Group(17),
        request: 99,
        vote: vote(4, true),
        prev: Some(log_id(40)),
        commit: Some(log_id(39)),
    };
    let entries = vec![
        Entry { term: 4, node: 0xA1, kind: EntryKind::Blank, data: Bytes::new() },
        Entry { term: 4, node: 0xA1, kind: EntryKind::Normal, data: text("a batch") },
    ];
    let ack = AppendAck {
        group: Group(17),
        request: 99,
        vote: vote(4, true),
        matched: Some(log_id(42)),
        outcome: AppendOutcome::Taken,
    };
    let meta = Lead { group: Group::META, request: 7, prev: None, commit: None, ..lead };
    let higher = AppendAck {
        group: Group::META,
        matched: None,
        outcome: AppendOutcome::HigherVote,
        vote: vote(9, false),
        ..ack
    };
    let to_partition = Enqueue {
        target: Target::Partition(17),
        origin: Origin::Node { node: NodeId(0xA1), incarnation: 5 },
        number: 1_001,
        predecessor: 1_000,
        stamp_ms: 1_700_000_000_000,
        expiry_s: Some(3_600),
        qos: Qos::AtLeastOnce,
        retain: true,
        will: false,
        publisher: text("meter-7"),
        topic: text("plant/7/temp"),
        properties: Bytes::from_static(&[0x03, 0, 1, b'x']),
        payload: text("21.5"),
    };
    let outbox = Enqueue {
        origin: Origin::Outbox { partition: 3 },
        qos: Qos::ExactlyOnce,
        retain: false,
        will: true,
        expiry_s: None,
        ..to_partition.clone()
    };
    let to_node = Enqueue {
        target: Target::Node,
        origin: Origin::OutboxToNode { partition: 3, node: NodeId(0xB2), incarnation: 6 },
        properties: Bytes::new(),
        payload: Bytes::new(),
        ..outbox.clone()
    };
    let enqueue_ack = EnqueueAck {
        target: Target::Partition(17),
        origin: to_partition.origin,
        number: 1_001,
        through: 1_001,
        outcome: EnqueueOutcome::Taken,
        leader: None,
    };
    let not_leader = EnqueueAck {
        origin: outbox.origin,
        through: 0,
        outcome: EnqueueOutcome::NotLeader,
        leader: Some(NodeId(0xC3)),
        ..enqueue_ack
    };
    let receiver = Receiver {
        session: 11,
        generation: 2,
        sequence: 70_000,
        packet_id: 4_466,
        qos: Qos::AtLeastOnce,
        dup: true,
        retain: false,
        ids_at: 0,
        ids_len: 2,
    };
    let at_most_once = Receiver {
        session: 12,
        packet_id: 0,
        qos: Qos::AtMostOnce,
        dup: false,
        retain: true,
        ids_at: 1,
        ids_len: 1,
        ..receiver
    };
    let delivery = Deliver {
        partition: 17,
        stamp_ms: 1_700_000_000_000,
        expiry_s: Some(60),
        receivers: vec![receiver, at_most_once],
        subscription_ids: vec![5, 268_435_455],
        topic: text("plant/7/temp"),
        properties: Bytes::from_static(&[0x01, 1]),
        payload: text("21.5"),
    };
    let acked = Acked {
        session: 11,
        generation: 2,
        sequence: 70_000,
        kind: AckKind::Puback,
        reason: 0x10,
        packet_id: 4_466,
    };
    let acks = Ack {
        partition: 17,
        batch: 8,
        acks: vec![acked, Acked { kind: AckKind::Pubrec, session: 13, ..acked }],
    };
    let shard = MailClass::Shard(3);
    let answer =
        Answer { request: 9, outcome: AnswerOutcome::Done, code: 0, body: text("what was asked") };
    let grant = Grant { lane: enqueue, limit: 3_145_728 };
    vec![
        ("hello", link, Message::Hello(hello(1, 0xAA))),
        ("proof", link, Message::Proof(Proof { auth: AuthMethod::Secret, proof: [0xEE; 32] })),
        (
            "welcome",
            link,
            Message::Welcome(Welcome {
                auth: AuthMethod::Tls,
                proto: 1,
                features: 4,
                proof: [0; 32],
            }),
        ),
        (
            "goodbye",
            link,
            Message::Goodbye(Goodbye::new(Reason::WrongCluster, (1, 1), "another id")),
        ),
        ("ping", link, Message::Ping(Ping { sent_ns: 123_456_789 })),
        ("pong", link, Message::Pong(Ping { sent_ns: 123_456_789 })),
        (
            "credit",
            link,
            Message::Credit(Credit { grants: vec![grant, Grant { lane: raft, ..grant }] }),
        ),
        (
            "heartbeats",
            link,
            Message::Heartbeats(Heartbeats { sent_ns: 77, beats: vec![lead, meta] }),
        ),
        (
            "heartbeat_acks",
            link,
            Message::HeartbeatAcks(HeartbeatAcks { sent_ns: 77, acks: vec![ack, higher] }),
        ),
        ("append", raft, Message::Append(Append { lead, entries })),
        ("append_empty", raft, Message::Append(Append { lead: meta, entries: vec![] })),
        ("append_ack", raft, Message::AppendAck(ack)),
        ("append_ack_higher", raft, Message::AppendAck(higher)),
        ("enqueue", enqueue, Message::Enqueue(to_partition)),
        ("enqueue_outbox", enqueue, Message::Enqueue(outbox)),
        ("enqueue_to_node", enqueue, Message::Enqueue(to_node)),
        ("enqueue_ack", enqueue, Message::EnqueueAck(enqueue_ack)),
        ("enqueue_ack_not_leader", enqueue, Message::EnqueueAck(not_leader)),
        ("deliver", deliver, Message::Deliver(delivery)),
        ("ack", deliver, Message::Ack(acks)),
        (
            "call",
            Lane::new(LaneClass::Call, 17),
            Message::Call(Call {
                request: 9,
                group: 17,
                what: 3,
                timeout_ms: 1_500,
                body: text("a question"),
            }),
        ),
        ("answer", Lane::new(LaneClass::Answer, 17), Message::Answer(answer.clone())),
        (
            "answer_refused",
            Lane::new(LaneClass::Answer, 17),
            Message::Answer(Answer { outcome: AnswerOutcome::Refused, code: 7, ..answer }),
        ),
        ("mail", shard.lane(), Message::Mail(Mail { class: shard, body: text("to a shard") })),
        (
            "mail_routes",
            MailClass::Routes.lane(),
            Message::Mail(Mail { class: MailClass::Routes, body: text("a route") }),
        ),
        (
            "mail_meta",
            MailClass::Meta.lane(),
            Message::Mail(Mail { class: MailClass::Meta, body: Bytes::new() }),
        ),
    ]
}

fn control() -> Vec<(&'static str, Lane, Message)> {
    let raft = Lane::new(LaneClass::Raft, 17);
    let routes = Lane::new(LaneClass::Routes, 0);
    let ask = Lane::new(LaneClass::Ask, 17);
    let bulk = Lane::new(LaneClass::Bulk, 1);
    let meta = Lane::new(LaneClass::Raft, Group::META.0);
    let change = RouteChange {
        filter: "plant/+/temp".into(),
        partition: Some(0),
        version: 41,
        removed: false,
        share: "readers".into(),
    };
    let gone = RouteChange { filter: "a/#".into(), removed: true, ..Default::default() };
    let will = Will {
        topic: "plant/7/state".into(),
        payload: text("gone"),
        properties: Bytes::from_static(&[0x01, 1]),
        qos: 1,
        retain: true,
        delay_s: 5,
        expiry_s: Some(60),
    };
    let retained = RetainedMessage {
        topic: "plant/7/state".into(),
        payload: text("on"),
        properties: Bytes::new(),
        qos: 1,
        stamp_ms: 1_700_000_000_000,
        expiry_s: None,
        index: 40,
        publisher: "meter-7".into(),
    };
    let done = Status::Done.into();
    let (node, incarnation, partition) = (0xA1, 5, 17);
    vec![
        (
            "vote_request",
            raft,
            VoteRequest {
                group: 17,
                request: 1,
                vote: Some(vote(5, false)),
                last: Some(log_id(42)),
                pre: true,
                transfer: false,
            }
            .into(),
        ),
        (
            "vote_reply",
            raft,
            VoteReply {
                group: 17,
                request: 1,
                vote: Some(vote(5, false)),
                last: None,
                granted: true,
            }
            .into(),
        ),
        (
            "transfer_leader",
            raft,
            TransferLeader {
                group: 17,
                from: Some(vote(4, true)),
                to: 0xB2,
                last: Some(log_id(42)),
            }
            .into(),
        ),
        (
            "lease_request",
            meta,
            LeaseRequest {
                node,
                incarnation,
                sent_ns: 55,
                state: NodeState::Serving.into(),
                leads: 21,
                sessions: 100_000,
                feature_level_max: 1,
            }
            .into(),
        ),
        (
            "lease_grant",
            meta,
            LeaseGrant {
                node,
                incarnation,
                sent_ns: 55,
                lease_ms: 2_000,
                term: 3,
                state: NodeState::Serving.into(),
                feature_level: 1,
                meta_index: 900,
            }
            .into(),
        ),
        (
            "route_snapshot",
            routes,
            RouteSnapshot {
                incarnation,
                through: 12,
                changes: vec![change.clone()],
                after: "a".into(),
                last: true,
            }
            .into(),
        ),
        (
            "route_increment",
            routes,
            RouteIncrement { incarnation, first: 13, changes: vec![change, gone] }.into(),
        ),
        ("route_ack", routes, RouteAck { incarnation, through: 14, sent_ns: 66 }.into()),
        (
            "route_ping",
            routes,
            RoutePing { incarnation, newest: 14, sent_ns: 66, lease_ms: 3_000 }.into(),
        ),
        ("route_resume", routes, RouteResume { incarnation, from: 13, sent_ns: 65 }.into()),
        (
            "claim",
            ask,
            Claim {
                request: 2,
                partition,
                client_id: "meter-7".into(),
                node,
                incarnation,
                clean_start: false,
                session_expiry_s: 3_600,
                will: Some(will),
                receive_maximum: 20,
            }
            .into(),
        ),
        (
            "claim_reply",
            ask,
            ClaimReply {
                request: 2,
                status: done,
                generation: 3,
                session: 11,
                session_present: true,
                leader: 0,
            }
            .into(),
        ),
        (
            "evict",
            ask,
            Evict {
                partition,
                session: 11,
                generation: 2,
                client_id: "meter-7".into(),
                reason: 0x8E,
            }
            .into(),
        ),
        (
            "evicted",
            ask,
            Evicted { partition, session: 11, generation: 2, node, incarnation }.into(),
        ),
        (
            "command",
            ask,
            Command { request: 4, group: 17, generation: 3, record: text("a record") }.into(),
        ),
        (
            "command_reply",
            ask,
            CommandReply {
                request: 4,
                status: done,
                index: 43,
                outcome: text("its outcome"),
                leader: 0,
            }
            .into(),
        ),
        ("ack_confirm", ask, AckConfirm { partition, through: 8 }.into()),
        (
            "lane_query",
            ask,
            LaneQuery { request: 5, target: Some(17), source: Some(3), node: 0, incarnation: 0 }
                .into(),
        ),
        (
            "lane_position",
            ask,
            LanePosition { request: 5, status: Status::NotLeader.into(), through: 0, leader: 0xC3 }
                .into(),
        ),
        (
            "retained_query",
            ask,
            RetainedQuery {
                query: 6,
                partition,
                filters: vec!["plant/#".into(), "b".into()],
                cursor: Bytes::new(),
                bytes_max: 65_536,
            }
            .into(),
        ),
        (
            "retained_answer",
            ask,
            RetainedAnswer {
                query: 6,
                status: done,
                messages: vec![retained],
                cursor: text("plant/7/state"),
                index: 43,
                leader: 0,
            }
            .into(),
        ),
        ("drain", meta, Drain { node, incarnation, on: true, reconnects_per_second: 500 }.into()),
        (
            "drain_progress",
            meta,
            DrainProgress { node, incarnation, sessions: 4_000, leads: 1, replicas: 2 }.into(),
        ),
        (
            "snapshot_offer",
            bulk,
            SnapshotOffer {
                transfer: 1,
                group: 17,
                vote: Some(vote(4, true)),
                last: Some(log_id(42)),
                name: "17-42".into(),
                bytes: 10,
                membership: text("members"),
                membership_at: Some(log_id(0)),
            }
            .into(),
        ),
        (
            "snapshot_chunk",
            bulk,
            SnapshotChunk { transfer: 1, offset: 4, data: text("chunk."), last: true }.into(),
        ),
        (
            "snapshot_ack",
            bulk,
            SnapshotAck { transfer: 1, through: 10, status: done, vote: Some(vote(4, true)) }
                .into(),
        ),
        (
            "register",
            meta,
            Register {
                request: 8,
                node: 0xD4,
                store: Bytes::from(vec![9; 16]),
                incarnation: 1,
                address: "10.0.0.4:7883".into(),
                zone: "b".into(),
                feature_level_max: 1,
                feature_level_min: 1,
            }
            .into(),
        ),
        (
            "register_reply",
            meta,
            RegisterReply {
                request: 8,
                status: done,
                cluster: Bytes::from(vec![1; 16]),
                addresses: vec!["10.0.0.1:7883".into(), "10.0.0.2:7883".into()],
                detail: String::new(),
                leader: 0xA1,
            }
            .into(),
        ),
        ("meta_watch", meta, MetaWatch { from: 900 }.into()),
        (
            "meta_delta",
            meta,
            MetaDelta { first: 900, records: vec![text("one"), text("two")], state: Bytes::new() }
                .into(),
        ),
    ]
}

/// The message as one frame.
pub(crate) fn frame_of(lane: Lane, message: &Message) -> Bytes {
    let body = message.encode().to_bytes();
    frame::whole(message.message_type().code(), frame::Flags::NONE, lane, &body)
}
