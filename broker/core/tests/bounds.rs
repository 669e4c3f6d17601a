//! BND-1 and BND-2: what a client cannot make the broker keep or do.
#![allow(missing_docs)]

mod rig;

use rig::{Client, Rig, connect, subscribe};
use tidegate_codec::Version;
use tidegate_core::Refused;
use tidegate_core::counters::{DropReason, RejectReason};
use tidegate_core::limits::{Limits, OUTBOX_MAILS_MAX};
use tidegate_core::settings::Settings;

#[test]
fn a_client_that_does_not_take_its_answers_is_not_read_and_then_closed() {
    let limits = Limits { write_buffer_bytes_max: 4_096, ..Limits::default() };
    let mut rig = Rig::new(1, Settings { limits, ..Settings::default() });
    let client = rig.open(0);
    rig.send(client, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 1, b'k']);
    rig.packets(client);
    rig.set_room(client, 0);
    for _ in 0..100_000 {
        rig.give(client, &[0xC0, 0].repeat(10));
        rig.turn(0);
        if rig.is_paused(client) {
            break;
        }
    }
    assert!(rig.is_paused(client), "no more is read than there is room to answer");
    rig.give(client, &[0xC0, 0].repeat(1_000));
    // One that goes on taking bytes, however slowly, is not dead.
    for _ in 0..5 {
        rig.advance(8_000);
        rig.set_room(client, 20);
        assert!(rig.is_open(client));
    }
    rig.set_room(client, usize::MAX);
    assert!(!rig.is_paused(client), "it is read again");
    assert!(rig.unread(client) < 2);
    rig.set_room(client, 0);
    for _ in 0..100_000 {
        rig.give(client, &[0xC0, 0].repeat(10));
        rig.turn(0);
        if rig.is_paused(client) {
            break;
        }
    }
    rig.advance(20_000);
    assert!(!rig.is_open(client), "nothing came and nothing was taken for 1.5 keep alives");
    let _ = connect(&mut rig, 0, "other", true);
}

/// SUBSCRIBE to many filters at QoS 1.
fn subscribe_to(rig: &mut Rig, client: Client, filters: &[String]) {
    let mut body = vec![0, 1];
    for filter in filters {
        body.extend((filter.len() as u16).to_be_bytes());
        body.extend(filter.as_bytes());
        body.push(1);
    }
    let mut packet = vec![0x82];
    let mut left = body.len();
    while left > 127 {
        packet.push((left % 128) as u8 | 128);
        left /= 128;
    }
    packet.push(left as u8);
    packet.extend(body);
    rig.send(client, &packet);
}

/// Reads and acknowledges all that comes; the retained messages, one a packet.
fn take_all(rig: &mut Rig, client: Client) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let packets = rig.packets(client);
        if packets.is_empty() {
            return all;
        }
        for packet in packets.into_iter().filter(|p| p[0] & 0xf1 == 0x31) {
            if packet[0] & 6 != 0 {
                let at = 4 + usize::from(packet[3]);
                rig.send(client, &[0x40, 2, packet[at], packet[at + 1]]);
            }
            all.push(packet);
        }
    }
}

#[test]
fn replays_of_many_filters_do_not_overrun_the_queue_that_they_fill() {
    for (shards, clean) in [(1, true), (3, true), (1, false), (3, false)] {
        let limits = Limits { queue_messages_max: 40, ..Limits::default() };
        let mut rig = Rig::new(shards, Settings { limits, ..Settings::default() });
        let alice = connect(&mut rig, 0, "alice", true);
        for filter in 0..30 {
            for n in 0..100 {
                let topic = format!("{filter:02}/{n:02}");
                let mut packet = vec![0x33, 10, 0, 5];
                packet.extend(topic.bytes());
                packet.extend([0, 1, b'v']);
                rig.send(alice, &packet);
                rig.packets(alice);
            }
        }
        let bob = connect(&mut rig, usize::from(shards) - 1, "bob", clean);
        let filters: Vec<String> = (0..30).map(|n| format!("{n:02}/+")).collect();
        subscribe_to(&mut rig, bob, &filters);
        let got = take_all(&mut rig, bob);
        assert_eq!(got.len(), 3_000, "{shards} shards, clean {clean}");
    }
}

#[test]
fn a_replay_ends_with_its_subscription() {
    for (shards, clean) in [(1, true), (3, true), (1, false), (3, false)] {
        let mut rig = Rig::new(shards, Settings::default());
        let alice = connect(&mut rig, 0, "alice", true);
        let bob = connect(&mut rig, usize::from(shards) - 1, "bob", clean);
        rig.packets(bob);
        rig.set_room(bob, 0);
        rig.send(bob, &[0xC0, 0]);
        subscribe(&mut rig, bob, "a/+", 1);
        rig.send(bob, &[0xA2, 7, 0, 2, 0, 3, b'a', b'/', b'+']);
        // Not known when bob was subscribed [MQTT-3.10.4-2].
        rig.send(alice, &[0x31, 6, 0, 3, b'a', b'/', b'b', b'v']);
        rig.set_room(bob, usize::MAX);
        let got = rig.packets(bob);
        assert!(got.iter().all(|p| p[0] >> 4 != 3), "{shards} shards, clean {clean}: {got:?}");
    }
}

#[test]
fn a_walk_over_what_does_not_match_leaves_turns_to_others() {
    let mut rig = Rig::new(1, Settings::default());
    let alice = connect(&mut rig, 0, "alice", true);
    for n in 0..20_000u32 {
        let mut packet = vec![0x31, 8, 0, 5];
        packet.extend(format!("{n:05}").bytes());
        packet.push(b'v');
        rig.send(alice, &packet);
    }
    let bob = connect(&mut rig, 0, "bob", true);
    rig.give(bob, &[0x82, 8, 0, 1, 0, 3, b'+', b'/', b'x', 0]);
    assert!(rig.shards[0].next_tick().is_some_and(|at| at <= rig.now), "it has to go on");
    let mut turns = 0;
    while rig.turn(0) {
        turns += 1;
    }
    assert!(turns >= 10, "20,000 topics were walked in {turns} turns");
    assert_eq!(rig.packets(bob).len(), 2);
}

#[test]
fn publishers_of_retained_messages_wait_for_a_shard_that_does_not_keep_up() {
    let mut rig = Rig::new(2, Settings::default());
    let publishers: Vec<Client> =
        (0..3).map(|qos| connect(&mut rig, 0, &format!("alice-{qos}"), true)).collect();
    rig.mailbox_max = 0;
    for (qos, alice) in (0..3u8).zip(publishers) {
        assert!(rig.is_open(alice) && !rig.is_paused(alice));
        // Nobody subscribes: the retained message itself goes to shard 1 or stays.
        let mut n = 0u32;
        while !rig.is_paused(alice) && n < 100_000 {
            n += 1;
            let mut packet = vec![0x31 | qos << 1, 8 + 2 * u8::from(qos > 0), 0, 5];
            packet.extend(format!("{:05}", n % 100).bytes());
            if qos > 0 {
                packet.extend(((n % 60_000 + 1) as u16).to_be_bytes());
            }
            packet.push(b'v');
            rig.give(alice, &packet);
            if qos == 2 {
                let id = ((n % 60_000 + 1) as u16).to_be_bytes();
                rig.give(alice, &[0x62, 2, id[0], id[1]]);
            }
        }
        assert!(rig.is_paused(alice), "QoS {qos}");
        assert!(rig.shards[0].outbox_depth() <= OUTBOX_MAILS_MAX + 4);
    }
}

#[test]
fn acknowledgements_of_a_durable_session_do_not_fill_an_outbox() {
    let mut rig = Rig::new(2, Settings::default());
    // One whose partition is on the other shard.
    let clients: Vec<Client> =
        (0..20).map(|n| connect(&mut rig, 0, &format!("durable-{n}"), false)).collect();
    rig.mailbox_max = 0;
    let mut paused = 0;
    for client in clients {
        for _ in 0..300 {
            rig.give(client, &[0x40, 2, 0, 9].repeat(100));
        }
        paused += usize::from(rig.is_paused(client));
    }
    assert!(paused >= 5, "{paused} were paused");
    assert!(rig.shards[0].outbox_depth() <= OUTBOX_MAILS_MAX + 20);
}

#[test]
fn a_session_that_comes_and_goes_leaves_no_timers_behind() {
    let mut rig = Rig::new(2, Settings::default());
    for n in 0..200 {
        let client = rig.open(n % 2);
        rig.speaks(client, Version::V5);
        // Session Expiry 1 day, a will with a delay of an hour.
        let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 5, 0x04, 0, 0];
        packet.extend([5, 0x11, 0, 1, 0x51, 0x80, 0, 1, b'c']);
        packet.extend([5, 0x18, 0, 0, 0x0e, 0x10, 0, 1, b'w', 0, 1, b'x']);
        packet[1] = packet.len() as u8 - 2;
        rig.send(client, &packet);
        assert!(rig.is_open(client));
        rig.advance(10);
        rig.abort(client);
        rig.advance(1_000);
    }
    let timers: usize = rig.shards.iter().map(|shard| shard.session_timers()).sum();
    assert_eq!(timers, 2, "its will and its end");
}

#[test]
fn releases_of_what_is_not_yet_received_do_not_pile_up() {
    let limits = Limits { inflight_in_max: 10, ..Limits::default() };
    let mut rig = Rig::new(2, Settings { limits, ..Settings::default() });
    for n in 0..8 {
        let client = connect(&mut rig, n % 2, &format!("durable-{n}"), false);
        subscribe(&mut rig, client, "t", 2);
    }
    for (id, five) in [("three", false), ("five", true)] {
        let alice = rig.open(0);
        let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4 + u8::from(five), 2, 0, 0];
        packet.extend(vec![0; usize::from(five)]);
        packet.extend([0, id.len() as u8]);
        packet.extend(id.bytes());
        packet[1] = packet.len() as u8 - 2;
        rig.send(alice, &packet);
        for n in 0..1_000u16 {
            let [high, low] = (n + 1).to_be_bytes();
            match five {
                false => rig.give(alice, &[0x34, 6, 0, 1, b't', high, low, b'x']),
                true => rig.give(alice, &[0x34, 7, 0, 1, b't', high, low, 0, b'x']),
            }
            rig.give(alice, &[0x62, 2, high, low]);
            if rig.is_paused(alice) {
                break;
            }
        }
        assert!(rig.is_paused(alice), "{id}");
        rig.run();
        assert!(!rig.is_paused(alice) && rig.is_open(alice), "{id} goes on");
        assert_eq!(rig.unread(alice), 0);
    }
}

#[test]
fn a_subscribe_to_more_filters_than_a_session_may_have_is_refused_from_there_on() {
    for clean in [true, false] {
        let limits = Limits { subscriptions_max: 10, ..Limits::default() };
        let mut rig = Rig::new(1, Settings { limits, ..Settings::default() });
        let client = connect(&mut rig, 0, "c", clean);
        rig.packets(client);
        let filters: Vec<String> = (0..1_002).map(|_| "a".to_owned()).collect();
        subscribe_to(&mut rig, client, &filters);
        let suback = rig.packets(client).remove(0);
        let codes = &suback[5..]; // the length takes two bytes
        assert_eq!(codes.len(), 1_002);
        assert!(codes[..1_000].iter().all(|&code| code == 1), "the same filter needs no room");
        assert_eq!(codes[1_000..], [0x80, 0x80], "but there is an end to it");
    }
}

#[test]
fn at_the_limit_a_retained_message_can_be_replaced_and_no_other_one_is_kept() {
    for shards in [1, 3] {
        let limits = Limits { retained_messages_max: 1, ..Limits::default() };
        let mut rig = Rig::new(shards, Settings { limits, ..Settings::default() });
        let alice = rig.open(0);
        rig.send(alice, &[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 1, b'a']);
        let bob = connect(&mut rig, 0, "bob", true);
        subscribe(&mut rig, bob, "live", 0);
        rig.packets(alice);
        rig.packets(bob);
        rig.send(alice, &[0x33, 7, 0, 1, b'a', 0, 1, 0, b'1']);
        rig.send(alice, &[0x33, 7, 0, 1, b'a', 0, 2, 0, b'2']);
        rig.send(alice, &[0x33, 10, 0, 4, b'l', b'i', b'v', b'e', 0, 3, 0, b'3']);
        let full: u64 = rig.node.counters.iter().map(|c| c.messages_dropped[8].value()).sum();
        assert_eq!(DropReason::ALL[8], DropReason::RetainedFull);
        assert_eq!(full, 1);
        let got = rig.packets(alice);
        assert_eq!(got[0][..4], [0x40, 3, 0, 1], "nobody subscribed: {got:?}");
        assert_eq!(got[1][..4], [0x40, 3, 0, 2]);
        assert_ne!(got[1].get(4), Some(&0x97), "it replaces: {got:?}");
        assert_eq!(got[2], [0x40, 3, 0, 3, 0x97]);
        assert_eq!(rig.packets(bob).len(), 1, "it is delivered all the same");
        subscribe(&mut rig, bob, "#", 0);
        assert_eq!(rig.packets(bob).pop().and_then(|p| p.last().copied()), Some(b'2'));
    }
}

#[test]
fn the_receive_maximum_begins_anew_with_each_connection() {
    let limits = Limits { inflight_in_max: 3, ..Limits::default() };
    for shards in [1, 3] {
        let mut rig = Rig::new(shards, Settings { limits: limits.clone(), ..Settings::default() });
        let mut connect = vec![0x10, 19, 0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0];
        connect.extend([5, 0x11, 0, 0, 1, 0, 0, 1, b'a']);
        let alice = rig.open(0);
        rig.send(alice, &connect);
        let send = |rig: &mut Rig, at, id| rig.send(at, &[0x34, 7, 0, 1, b't', 0, id, 0, b'x']);
        (1..=3).for_each(|id| send(&mut rig, alice, id));
        rig.abort(alice);
        let alice = rig.open(usize::from(shards) - 1);
        rig.send(alice, &connect);
        (4..=6).for_each(|id| send(&mut rig, alice, id));
        assert!(rig.is_open(alice), "three of this connection");
        send(&mut rig, alice, 7);
        assert!(!rig.is_open(alice), "and no more [MQTT-3.3.4-9]");
    }
}

#[test]
fn an_assigned_client_id_cannot_be_told_from_the_one_before() {
    let mut rig = Rig::new(1, Settings::default());
    let mut assigned = || {
        let client = rig.open(0);
        rig.send(client, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0]);
        let connack = rig.packets(client).remove(0);
        let at = connack.windows(3).position(|w| w == b"tg-").expect("Assigned Client Identifier");
        let length = usize::from(connack[at - 1]);
        String::from_utf8(connack[at..at + length].to_vec()).expect("text")
    };
    let (one, two) = (assigned(), assigned());
    let tail = |id: &str| id.rsplit('-').next().map(str::to_owned);
    assert_ne!(tail(&one), tail(&two), "{one} {two}");
    assert!(tail(&one).is_some_and(|tail| tail.len() == 16));
}

/// Connections that a shard has turned away.
fn rejected(rig: &Rig, shard: usize, reason: RejectReason) -> u64 {
    rig.node.counters[shard].connections_rejected[reason as usize].value()
}

#[test]
fn connections_are_bounded_over_all_shards() {
    let limits = Limits { connections_max: 3, ..Limits::default() };
    let mut rig = Rig::new(2, Settings { limits, ..Settings::default() });
    let first = connect(&mut rig, 0, "a", true);
    connect(&mut rig, 1, "b", true);
    rig.open(1); // has said nothing, and counts as well
    for shard in 0..2 {
        let now = rig.now;
        assert_eq!(rig.shards[shard].open(now).err(), Some(Refused::Connections));
        assert_eq!(rejected(&rig, shard, RejectReason::Limit), 1);
        assert_eq!(rejected(&rig, shard, RejectReason::HalfOpen), 0);
    }
    let gauge = |rig: &Rig| rig.node.counters.iter().map(|c| c.connections.value()).sum::<u64>();
    assert_eq!(gauge(&rig), 3, "what is turned away is not counted as open");
    rig.abort(first);
    connect(&mut rig, 1, "c", true);
    assert_eq!(gauge(&rig), 3, "a place came back, whichever shard had it");
}

#[test]
fn connections_that_have_said_nothing_have_a_bound_of_their_own() {
    let limits = Limits { half_open_max: 2, connections_max: 4, ..Limits::default() };
    let mut rig = Rig::new(2, Settings { limits, ..Settings::default() });
    let silent = rig.open(0);
    rig.open(1);
    for (shard, times) in [(0, 1), (1, 1), (1, 2)] {
        let now = rig.now;
        assert_eq!(rig.shards[shard].open(now).err(), Some(Refused::HalfOpen));
        assert_eq!(rejected(&rig, shard, RejectReason::HalfOpen), times);
        assert_eq!(rejected(&rig, shard, RejectReason::Limit), 0);
    }
    // One that completes its CONNECT makes room, and so does one that leaves;
    // those turned away have not used up connections_max.
    rig.send(silent, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a");
    let another = rig.open(0);
    rig.abort(another);
    connect(&mut rig, 0, "b", true);
    connect(&mut rig, 1, "c", true);
    let half_open = |shard: usize| rig.node.counters[shard].half_open.value();
    assert_eq!((half_open(0), half_open(1)), (0, 1));
}
