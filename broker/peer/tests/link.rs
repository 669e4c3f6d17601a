//! An open connection: what gets through, in which order, and what ends it.

mod samples;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use samples::hello;
use tidegate_peer::frame::{Flags, whole};
use tidegate_peer::limits::{HEADER_BYTES, LANE_CREDIT_BYTES_MIN, PARTIALS_MAX};
use tidegate_peer::*;

fn established(kind: ConnectionKind, lane_credit: u32) -> Established {
    Established {
        peer: Hello { kind, lane_credit, ..hello(2, 0xBB) },
        proto: 1,
        features: 0,
        is_caller: true,
        config_differs: false,
        lane_credit,
        link_credit: 32 << 20,
        lanes_max: 64,
    }
}

fn link(kind: ConnectionKind) -> Link {
    Link::new(&established(kind, 1 << 20))
}

fn lane(number: u32) -> Lane {
    Lane::new(LaneClass::Enqueue, number)
}

fn enqueue(number: u64, payload: Bytes) -> Message {
    Message::Enqueue(Enqueue {
        target: Target::Partition(1),
        origin: Origin::Node { node: NodeId(1), incarnation: 1 },
        number,
        predecessor: number - 1,
        stamp_ms: 0,
        expiry_s: None,
        qos: Qos::AtLeastOnce,
        retain: false,
        will: false,
        publisher: Bytes::new(),
        topic: Bytes::from_static(b"t"),
        properties: Bytes::new(),
        payload,
    })
}

/// All that `from` has to say, as bytes.
fn pulled(from: &mut Link) -> BytesMut {
    let mut out = Vec::new();
    while from.pull(FRAME_BYTES_MAX, &mut out) > 0 {}
    BytesMut::from(&out.concat()[..])
}

/// All messages in `bytes`.
fn taken(link: &mut Link, bytes: &mut BytesMut) -> Vec<(Lane, Message, usize)> {
    let mut messages = Vec::new();
    loop {
        match link.receive(bytes).expect("no fault") {
            Received::NeedMore(_) => return messages,
            Received::Message { lane, message, charge } => messages.push((lane, message, charge)),
            Received::Goodbye(goodbye) => panic!("{goodbye:?}"),
        }
    }
}

#[test]
fn every_message_gets_through_where_it_belongs_and_nowhere_else() {
    for (name, lane, message) in samples::all() {
        let kind = message.message_type();
        let mut places = 0;
        for place in [ConnectionKind::Control, ConnectionKind::Data, ConnectionKind::Bulk] {
            let (mut from, mut to) = (link(place), link(place));
            let sent = from.send(lane, &message);
            if !kind.is_allowed_on(place) {
                assert_eq!(sent, Err(SendError::Misplaced), "{name}");
                let mut bytes = BytesMut::from(&samples::frame_of(lane, &message)[..]);
                let said = to.receive(&mut bytes);
                assert_eq!(said, Err(LinkError::WrongConnection(kind)), "{name}");
                continue;
            }
            places += 1;
            sent.unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut bytes = pulled(&mut from);
            let said = to.receive(&mut bytes).expect("no fault");
            match &message {
                Message::Goodbye(goodbye) => assert_eq!(said, Received::Goodbye(goodbye.clone())),
                Message::Ping(_) => {
                    assert!(matches!(said, Received::NeedMore(_)), "{name} {said:?}");
                    let pong = taken(&mut from, &mut pulled(&mut to));
                    assert!(matches!(pong[..], [(_, Message::Pong(_), _)]), "{pong:?}");
                }
                Message::Credit(_) => assert!(matches!(said, Received::NeedMore(_)), "{said:?}"),
                other => {
                    let Received::Message { lane: at, message, .. } = said else {
                        panic!("{name} {said:?}");
                    };
                    assert_eq!((at, &message), (lane, other), "{name}");
                }
            }
            let elsewhere = if lane == Lane::LINK { self::lane(1) } else { Lane::LINK };
            for elsewhere in [elsewhere, Lane::ALL] {
                let mut bytes = BytesMut::from(&samples::frame_of(elsewhere, &message)[..]);
                let said = link(place).receive(&mut bytes);
                assert_eq!(
                    said,
                    Err(LinkError::WrongLane { code: kind.code(), lane: elsewhere }),
                    "{name}"
                );
            }
        }
        let is_handshake = matches!(message, Message::Hello(_) | Message::Proof(_))
            || matches!(message, Message::Welcome(_));
        assert_eq!(places == 0, is_handshake, "{name}");
    }
}

#[test]
fn what_is_urgent_does_not_wait_for_a_rate_cap() {
    let (mut from, mut to) = (link(ConnectionKind::Bulk), link(ConnectionKind::Bulk));
    let call =
        Call { request: 1, group: 1, what: 1, timeout_ms: 1, body: Bytes::from(vec![7; 200_000]) };
    let lane = Lane::new(LaneClass::Call, 1);
    from.send(lane, &Message::Call(call.clone())).expect("room");
    from.send(Lane::LINK, &Message::Ping(Ping { sent_ns: 1 })).expect("room");
    let mut out = Vec::new();
    assert_eq!(from.pull_urgent(FRAME_BYTES_MAX, &mut out), HEADER_BYTES + 12);
    assert_eq!(from.pull_urgent(FRAME_BYTES_MAX, &mut out), 0, "the call waits");
    let mut bytes = BytesMut::from(&out.concat()[..]);
    assert_eq!(taken(&mut to, &mut bytes), []);
    let pong = taken(&mut from, &mut pulled(&mut to));
    assert!(matches!(pong[..], [(Lane::LINK, Message::Pong(_), _)]), "{pong:?}");
    let rest = taken(&mut to, &mut pulled(&mut from));
    assert!(matches!(&rest[..], [(at, Message::Call(it), _)] if *at == lane && *it == call));
}

#[test]
fn payloads_are_not_copied_on_their_way() {
    let payload = Bytes::from(vec![7; 40_000]);
    let (mut from, mut to) = (link(ConnectionKind::Data), link(ConnectionKind::Data));
    from.send(lane(1), &enqueue(1, payload.clone())).expect("room");
    let mut out = Vec::new();
    from.pull(FRAME_BYTES_MAX, &mut out);
    assert!(out.iter().any(|part| part.as_ptr() == payload.as_ptr()), "out");

    let mut bytes = BytesMut::from(&out.concat()[..]);
    let buffer = bytes.as_ptr_range();
    let Ok(Received::Message { message: Message::Enqueue(taken), .. }) = to.receive(&mut bytes)
    else {
        panic!("an Enqueue");
    };
    assert_eq!(taken.payload, payload);
    assert!(buffer.contains(&taken.payload.as_ptr()), "in");
}

#[test]
fn a_slow_lane_holds_up_no_other_and_goes_on_with_its_credit() {
    let credit = LANE_CREDIT_BYTES_MIN;
    let mut from = Link::new(&established(ConnectionKind::Data, credit));
    let mut to = Link::new(&established(ConnectionKind::Data, credit));
    let payload = Bytes::from(vec![7; 30_000]);
    for number in 1..=10 {
        from.send(lane(1), &enqueue(number, payload.clone())).expect("room");
    }
    let slow = taken(&mut to, &mut pulled(&mut from));
    assert_eq!(slow.len(), 3, "64 KiB, and the one that overdraws");
    assert!(to.waiting_on(lane(1)) <= u64::from(credit) + 40_000);
    assert!(from.queued_on(lane(1)) > 200_000 && !from.is_ready());

    from.send(lane(2), &enqueue(1, payload)).expect("room");
    assert_eq!(taken(&mut to, &mut pulled(&mut from)).len(), 1, "the other lane");

    let mut through = slow.len();
    let mut waiting = slow;
    while let Some((lane, _, charge)) = waiting.pop() {
        to.release(lane, charge);
        assert!(taken(&mut from, &mut pulled(&mut to)).is_empty(), "grants are the link's own");
        let more = taken(&mut to, &mut pulled(&mut from));
        through += more.len();
        waiting.extend(more);
    }
    assert_eq!((through, from.queued_bytes(), to.waiting_on(lane(1))), (10, 0, 0));
}

#[test]
fn a_heartbeat_comes_before_the_rest_of_a_long_message() {
    let (mut from, mut to) = (link(ConnectionKind::Data), link(ConnectionKind::Data));
    from.send(lane(1), &enqueue(1, Bytes::from(vec![7; 8 << 20]))).expect("room");
    let mut out = Vec::new();
    from.pull(FRAME_BYTES_MAX, &mut out);
    let beat = Message::Heartbeats(Heartbeats::default());
    from.send(Lane::LINK, &beat).expect("room");
    let mut bytes = BytesMut::from(&out.concat()[..]);
    bytes.extend_from_slice(&pulled(&mut from));
    let order: Vec<_> =
        taken(&mut to, &mut bytes).into_iter().map(|(_, message, _)| message).collect();
    assert!(matches!(order[..], [Message::Heartbeats(_), Message::Enqueue(_)]));
}

#[test]
fn unknown_types_are_skipped_if_optional_and_give_their_credit_back() {
    let credit = LANE_CREDIT_BYTES_MIN;
    let mut from = Link::new(&established(ConnectionKind::Data, credit));
    let mut to = Link::new(&established(ConnectionKind::Data, credit));
    for _ in 0..20 {
        from.send_optional(lane(1), 0x7777, Bytes::from(vec![1; 100_000]).into()).expect("room");
    }
    from.send(lane(1), &enqueue(1, Bytes::new())).expect("room");
    let mut through = Vec::new();
    for _ in 0..40 {
        through.extend(taken(&mut to, &mut pulled(&mut from)));
        assert!(taken(&mut from, &mut pulled(&mut to)).is_empty());
    }
    assert_eq!(through.len(), 1, "the one behind them");
    let (skipped, types) = to.skipped();
    assert_eq!((skipped, types.collect::<Vec<_>>()), (20, vec![0x7777]));

    let mut bytes = BytesMut::from(&whole(0x7777, Flags::NONE, lane(1), b"x")[..]);
    let said = to.receive(&mut bytes).expect_err("not optional");
    assert_eq!(said.reason(), Reason::UnknownType);
}

#[test]
fn whatever_is_wrong_ends_the_connection_with_its_reason() {
    let raw = |kind: MessageType, flags, at: Lane, body: &[u8]| whole(kind.code(), flags, at, body);
    let kind = MessageType::Enqueue;
    let good = enqueue(1, Bytes::from(vec![7; 60_000])).encode().to_bytes();
    let mut newer = good.to_vec();
    newer[0] = 2;
    let mut flipped = raw(kind, Flags::NONE, lane(1), &good).to_vec();
    flipped[100] ^= 1;
    let mut reserved = raw(kind, Flags::NONE, lane(1), &good).to_vec();
    reserved[7] = 0x80;
    let overdrawn = raw(kind, Flags::NONE, lane(1), &good).repeat(19);
    let lanes: Vec<u8> = (0..65)
        .flat_map(|number| raw(kind, Flags::NONE, lane(number), &good[..]).to_vec())
        .collect();
    let partials: Vec<u8> = (0..=PARTIALS_MAX as u32)
        .flat_map(|number| raw(kind, Flags::MORE, lane(number), &[9, 0, 0, 0, 1]).to_vec())
        .collect();
    let cases: Vec<(Reason, Vec<u8>)> = vec![
        (Reason::TooLarge, vec![1, 0, 1, 0]),
        (Reason::TooLarge, raw(kind, Flags::MORE, lane(1), &[0, 0, 0, 2, 1]).to_vec()),
        (Reason::BadChecksum, flipped),
        (Reason::ReservedFlags, reserved),
        (Reason::UnknownType, whole(0x7777, Flags::NONE, lane(1), b"").to_vec()),
        (Reason::BadFragment, raw(kind, Flags::CONTINUED, lane(1), b"x").to_vec()),
        (Reason::BadFragment, raw(MessageType::Ping, Flags::MORE, Lane::LINK, b"abcde").to_vec()),
        (Reason::TooManyPartials, partials),
        (Reason::BadBody, raw(kind, Flags::NONE, lane(1), b"").to_vec()),
        (Reason::BadBody, raw(MessageType::Claim, Flags::NONE, lane(1), &[0x07]).to_vec()),
        (Reason::UnknownLayout, raw(kind, Flags::NONE, lane(1), &newer).to_vec()),
        (Reason::WrongConnection, raw(MessageType::Hello, Flags::NONE, Lane::LINK, b"").to_vec()),
        (Reason::WrongLane, whole(0x7777, Flags::OPTIONAL, Lane::ALL, b"").to_vec()),
        (Reason::WrongLane, raw(kind, Flags::NONE, Lane::LINK, b"").to_vec()),
        (Reason::NoCredit, overdrawn),
        (Reason::TooManyLanes, lanes),
    ];
    for (reason, bytes) in cases {
        let mut to = link(ConnectionKind::Data);
        to.send(lane(1), &enqueue(1, Bytes::new())).expect("room");
        let mut bytes = BytesMut::from(&bytes[..]);
        let error = loop {
            match to.receive(&mut bytes) {
                Ok(Received::NeedMore(_)) => panic!("{reason:?} is taken"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), reason, "{error}");
        assert!(to.is_ending());
        assert_eq!(to.send(lane(1), &enqueue(2, Bytes::new())), Err(SendError::Ending));
        let mut last = pulled(&mut to);
        let said = link(ConnectionKind::Data).receive(&mut last);
        let Ok(Received::Goodbye(goodbye)) = said else { panic!("{said:?}") };
        assert_eq!((goodbye.reason(), last.len()), (Some(reason), 0), "alone, and the last");
    }
}

#[test]
fn whoever_pings_and_does_not_read_gets_one_answer() {
    let mut to = link(ConnectionKind::Control);
    for sent_ns in 0..100_000 {
        let ping = Message::Ping(Ping { sent_ns });
        let mut bytes = BytesMut::from(&samples::frame_of(Lane::LINK, &ping)[..]);
        assert!(matches!(to.receive(&mut bytes), Ok(Received::NeedMore(_))));
    }
    let pongs = taken(&mut link(ConnectionKind::Control), &mut pulled(&mut to));
    let newest = Message::Pong(Ping { sent_ns: 99_999 });
    assert_eq!(pongs, [(Lane::LINK, newest, 12)]);
}

#[test]
fn what_waits_on_all_lanes_together_is_bounded() {
    let mut established = established(ConnectionKind::Data, 1 << 20);
    (established.link_credit, established.peer.link_credit) = (1 << 20, 1 << 20);
    let (mut from, mut to) = (Link::new(&established), Link::new(&established));
    for number in 0..60 {
        from.send(lane(number), &enqueue(1, Bytes::from(vec![7; 50_000]))).expect("room");
    }
    let came = taken(&mut to, &mut pulled(&mut from));
    assert_eq!(came.len(), 21, "1 MiB, and the one that overdraws");
    assert!(to.waiting() <= (1 << 20) + 60_000 && !from.is_ready());
    let mut through = came.len();
    let mut waiting = came;
    while let Some((lane, _, charge)) = waiting.pop() {
        to.release(lane, charge);
        taken(&mut from, &mut pulled(&mut to));
        let more = taken(&mut to, &mut pulled(&mut from));
        through += more.len();
        waiting.extend(more);
    }
    assert_eq!((through, to.waiting()), (60, 0));

    // Whoever does not keep to it is refused, though each lane has credit.
    let mut to = Link::new(&established);
    let frame = |number| samples::frame_of(lane(number), &enqueue(1, Bytes::from(vec![7; 50_000])));
    let mut bytes = BytesMut::from(&(0..22).map(frame).collect::<Vec<_>>().concat()[..]);
    let error = std::iter::from_fn(|| Some(to.receive(&mut bytes))).find_map(Result::err);
    assert_eq!(error.map(|error| error.reason()), Some(Reason::NoCredit));
}

#[test]
fn grants_for_every_lane_fit() {
    let mut established = established(ConnectionKind::Data, LANE_CREDIT_BYTES_MIN);
    (established.lanes_max, established.peer.lanes_max) = (2_048, 2_048);
    (established.link_credit, established.peer.link_credit) = (1 << 30, 1 << 30);
    let (mut from, mut to) = (Link::new(&established), Link::new(&established));
    let payload = Bytes::from(vec![7; 40_000]);
    for round in 1..=3 {
        for number in 0..2_048 {
            // As many as the queue takes at a time.
            from.send(lane(number), &enqueue(round, payload.slice(..33_000))).expect("room");
            if number % 512 == 511 {
                for (lane, _, charge) in taken(&mut to, &mut pulled(&mut from)) {
                    to.release(lane, charge);
                }
            }
        }
        assert!(taken(&mut from, &mut pulled(&mut to)).is_empty());
    }
    assert_eq!(from.queued_bytes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Messages of any sizes on several lanes, cut anywhere: each lane's come
    /// whole and in order, and all of them in the end.
    #[test]
    fn lanes_keep_their_order_and_lose_nothing(
        sends in prop::collection::vec((0_u32..4, prop_oneof![0_usize..200, 60_000_usize..70_000, 100_000_usize..400_000]), 1..30),
        cuts in prop::collection::vec(1_usize..100_000, 1..20),
        budget in FRAME_BYTES_MAX..FRAME_BYTES_MAX * 3,
    ) {
        let credit = LANE_CREDIT_BYTES_MIN;
        let mut from = Link::new(&established(ConnectionKind::Data, credit));
        let mut to = Link::new(&established(ConnectionKind::Data, credit));
        let mut sent = [0_u64; 4];
        let mut came = [0_u64; 4];
        let mut wire = BytesMut::new();
        let mut buffer = BytesMut::new();
        let mut cuts = cuts.iter().cycle();
        let mut sends = sends.iter().peekable();
        let mut idle = 0;
        while idle < 3 {
            idle += 1;
            if let Some(&(at, len)) = sends.next() {
                idle = 0;
                let number = sent[at as usize] + 1;
                let payload = Bytes::from(vec![number as u8; len]);
                if from.send(lane(at), &enqueue(number, payload)).is_ok() {
                    sent[at as usize] = number;
                }
            }
            let mut out = Vec::new();
            let pulled_bytes = from.pull(budget, &mut out);
            let all = out.concat();
            prop_assert_eq!(all.len(), pulled_bytes);
            prop_assert!(pulled_bytes <= budget);
            wire.extend_from_slice(&all);
            while !wire.is_empty() {
                idle = 0;
                let cut = wire.len().min(*cuts.next().expect("endless"));
                buffer.extend_from_slice(&wire.split_to(cut));
                for (at, message, charge) in taken(&mut to, &mut buffer) {
                    let Message::Enqueue(message) = message else { panic!("an Enqueue") };
                    let index = (0..4).find(|&index| lane(index) == at).expect("a lane") as usize;
                    prop_assert_eq!(message.number, came[index] + 1);
                    prop_assert!(message.payload.iter().all(|&byte| byte == message.number as u8));
                    came[index] += 1;
                    to.release(at, charge);
                }
            }
            taken(&mut from, &mut pulled(&mut to));
        }
        prop_assert_eq!(came, sent);
        prop_assert_eq!(from.queued_bytes(), 0);
    }

    /// Nothing that arrives makes it panic, and what it takes is bounded.
    #[test]
    fn garbage_behind_a_good_header_is_refused_or_understood(
        code in prop::sample::select(MessageType::ALL),
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(message) = Message::decode(code, &body.clone().into()) {
            let again = message.encode().to_bytes();
            prop_assert_eq!(Message::decode(code, &again), Ok(message));
        }
        let frame = whole(code.code(), Flags::NONE, lane(1), &body);
        prop_assert_eq!(frame.len(), HEADER_BYTES + body.len());
        let _ = link(ConnectionKind::Data).receive(&mut BytesMut::from(&frame[..]));
    }
}
