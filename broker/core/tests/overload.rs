//! A client's own rate, a client id that flaps, and memory that runs short.
#![allow(missing_docs)]

mod rig;

use rig::{Client, Rig, connect, publish, subscribe};
use tidegate_core::Opening;
use tidegate_core::counters::{CloseReason, DropReason, RejectReason};
use tidegate_core::pressure::Stage;
use tidegate_core::settings::Settings;

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
const CONNECT_V5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a";

fn limited(messages_per_second: u32, bytes_per_second: u32) -> Opening {
    Opening { messages_per_second, bytes_per_second, ..Opening::default() }
}

/// `count` QoS 0 messages to `t` with their number as payload.
fn numbered(count: u16) -> Vec<u8> {
    (0..count).flat_map(|n| [&[0x30, 5, 0, 1, b't'][..], &n.to_be_bytes()].concat()).collect()
}

/// The numbers that a subscriber of `t` got.
fn numbers(rig: &mut Rig, client: Client) -> Vec<u16> {
    let packets = rig.packets(client);
    packets.iter().map(|p| u16::from_be_bytes([p[p.len() - 2], p[p.len() - 1]])).collect()
}

#[test]
fn a_client_above_its_message_rate_is_read_at_that_rate_and_loses_nothing() {
    let mut rig = Rig::new(2, Settings::default());
    let reader = connect(&mut rig, 1, "reader", true);
    subscribe(&mut rig, reader, "t", 0);
    rig.packets(reader);
    let fast = rig.open_as(0, limited(100, 0));
    rig.send(fast, CONNECT);
    rig.packets(fast);
    rig.send(fast, &numbered(1_000));
    let mut got = numbers(&mut rig, reader);
    assert!((100..=101).contains(&got.len()), "a burst of one second's worth: {}", got.len());
    for _ in 0..40 {
        rig.advance(250);
        got.extend(numbers(&mut rig, reader));
    }
    assert_eq!(got, (0..1_000).collect::<Vec<_>>(), "after 10 seconds, in order");
    assert!(rig.node.counters[0].rate_pauses.value() > 10);
}

#[test]
fn over_time_the_rate_is_exact() {
    let mut rig = Rig::new(1, Settings::default());
    let reader = connect(&mut rig, 0, "reader", true);
    subscribe(&mut rig, reader, "t", 0);
    rig.packets(reader);
    let fast = rig.open_as(0, limited(50, 0));
    rig.send(fast, CONNECT);
    rig.packets(fast);
    rig.send(fast, &numbered(5_000));
    let mut got = 0;
    for _ in 0..240 {
        rig.advance(250);
        got += numbers(&mut rig, reader).len();
    }
    assert!((3_000..=3_060).contains(&got), "60 s at 50 a second, and a burst: {got}");
}

#[test]
fn bytes_are_counted_too_and_a_packet_above_the_burst_is_paid_for() {
    let mut rig = Rig::new(1, Settings::default());
    let fast = rig.open_as(0, limited(0, 2_000));
    rig.send(fast, CONNECT);
    rig.packets(fast);
    let mut large = vec![0x30, 0xA0, 0x1F, 0, 1, b't']; // 4,000 bytes
    large.resize(4_003, 0);
    rig.send(fast, &large);
    rig.send(fast, b"\xc0\x00");
    assert!(rig.is_paused(fast) && rig.packets(fast).is_empty());
    rig.advance(750);
    assert!(rig.packets(fast).is_empty(), "a second is owed");
    rig.advance(750);
    assert_eq!(rig.packets(fast), [b"\xd0\x00"]);
}

#[test]
fn a_client_that_is_not_read_is_not_silent() {
    let mut rig = Rig::new(1, Settings::default());
    let fast = rig.open_as(0, limited(1, 0));
    // Keep alive of one second.
    rig.send(fast, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x01\x00\x01a");
    rig.send(fast, &numbered(10));
    for _ in 0..16 {
        rig.advance(250);
    }
    assert!(rig.is_open(fast), "after four seconds of not being read");
}

fn flapping(per_minute: u32) -> Rig {
    let mut settings = Settings::default();
    settings.limits.client_connects_per_minute = per_minute;
    Rig::new(1, settings)
}

/// Connects as `a`, as 3.1.1; the CONNACK, if there is one at once.
fn come(rig: &mut Rig) -> (Client, Option<Vec<u8>>) {
    let client = rig.open(0);
    rig.send(client, CONNECT);
    let connack = rig.packets(client).into_iter().next();
    (client, connack)
}

#[test]
fn a_client_id_that_flaps_waits_for_its_turn_and_others_do_not() {
    let mut rig = flapping(12);
    for _ in 0..3 {
        let (client, connack) = come(&mut rig);
        assert_eq!(connack.as_deref(), Some(&b"\x20\x02\x00\x00"[..]));
        rig.abort(client);
    }
    let (late, connack) = come(&mut rig);
    assert_eq!(connack, None, "12 a minute are one in five seconds");
    assert!(rig.is_paused(late));
    let other = connect(&mut rig, 0, "other", true);
    assert!(rig.is_open(other));
    rig.advance(4_000);
    assert!(rig.packets(late).is_empty());
    rig.advance(2_000);
    assert_eq!(rig.packets(late), [b"\x20\x02\x00\x00"]);
    assert_eq!(rig.node.counters[0].connects_delayed.value(), 1);
}

#[test]
fn one_whose_turn_would_come_too_late_is_told_so() {
    let mut rig = flapping(1);
    for _ in 0..3 {
        let (client, _) = come(&mut rig);
        rig.abort(client);
    }
    let (late, connack) = come(&mut rig);
    assert_eq!(connack.as_deref(), Some(&b"\x20\x02\x00\x03"[..]), "server unavailable");
    assert!(!rig.is_open(late));
    let late = rig.open(0);
    rig.send(late, CONNECT_V5);
    rig.speaks(late, tidegate_codec::Version::V5);
    assert_eq!(rig.packets(late)[0][3], 0x9F);
    let rejected = &rig.node.counters[0].connections_rejected;
    assert_eq!(rejected[RejectReason::Flapping as usize].value(), 2);
}

#[test]
fn while_memory_is_short_nobody_new_comes_in_and_who_is_there_stays() {
    let mut rig = Rig::new(1, Settings::default());
    let there = connect(&mut rig, 0, "there", true);
    rig.packets(there);
    rig.node.set_pressure(Stage::Refuse);
    let (_, connack) = come(&mut rig);
    assert_eq!(connack.as_deref(), Some(&b"\x20\x02\x00\x03"[..]));
    let late = rig.open(0);
    rig.send(late, CONNECT_V5);
    assert_eq!(rig.packets(late)[0][3], 0x97);
    rig.send(there, b"\xc0\x00");
    assert_eq!(rig.packets(there), [b"\xd0\x00"]);
    rig.node.set_pressure(Stage::Calm);
    assert_eq!(come(&mut rig).1.as_deref(), Some(&b"\x20\x02\x00\x00"[..]));
    let rejected = &rig.node.counters[0].connections_rejected;
    assert_eq!(rejected[RejectReason::Memory as usize].value(), 2);
}

/// A PUBLISH to `t` of 10,000 bytes, all of them `fill`.
fn large(qos: u8, id: u8, fill: u8) -> Vec<u8> {
    let mut body = vec![0, 1, b't'];
    if qos > 0 {
        body.extend([0, id]);
    }
    body.resize(10_000, fill);
    [&[0x30 | qos << 1, 0x90, 0x4E][..], &body].concat()
}

/// A subscriber of `t` whose socket takes nothing.
fn stuck(rig: &mut Rig, id: &str, clean: bool, qos: u8) -> Client {
    let client = connect(rig, 0, id, clean);
    subscribe(rig, client, "t", qos);
    rig.packets(client);
    rig.set_room(client, 0);
    client
}

#[test]
fn queues_take_less_while_memory_is_short_and_keep_what_they_have() {
    let mut rig = Rig::new(1, Settings::default());
    let slow = stuck(&mut rig, "slow", true, 1);
    let publisher = connect(&mut rig, 0, "publisher", true);
    let queued = |rig: &Rig| rig.node.counters[0].queued_messages.value();
    for n in 0..528 {
        publish(&mut rig, publisher, "t", 1, (n % 250 + 1) as u8, b"x");
        rig.packets(publisher);
    }
    assert_eq!(queued(&rig), 527, "one is on its way");
    rig.node.set_pressure(Stage::Shrink);
    for n in 0..200 {
        publish(&mut rig, publisher, "t", 1, (n % 250 + 1) as u8, b"x");
        rig.packets(publisher);
    }
    assert_eq!(queued(&rig), 527);
    let dropped = &rig.node.counters[0].messages_dropped[DropReason::QueueFull as usize];
    assert_eq!(dropped.value(), 200);
    assert!(rig.is_open(slow));
}

#[test]
fn at_last_those_go_who_do_not_read_and_nobody_else() {
    let mut rig = Rig::new(1, Settings::default());
    let slow: Vec<_> = (0..40).map(|n| stuck(&mut rig, &format!("slow{n}"), true, 0)).collect();
    let good = connect(&mut rig, 0, "good", true);
    subscribe(&mut rig, good, "t", 0);
    let publisher = connect(&mut rig, 0, "publisher", true);
    for _ in 0..20 {
        rig.send(publisher, &large(0, 0, 7));
        rig.packets(good);
    }
    rig.node.set_pressure(Stage::Shed);
    for _ in 0..8 {
        rig.advance(50);
    }
    assert!(slow.iter().all(|slow| !rig.is_open(*slow)), "each holds 200 kB");
    assert!(rig.is_open(good) && rig.is_open(publisher));
    let closed = &rig.node.counters[0].connections_closed;
    assert_eq!(closed[CloseReason::Overload as usize].value(), 40);
}

#[test]
fn a_durable_session_keeps_the_newest_of_its_queue() {
    let mut rig = Rig::new(1, Settings::default());
    let away = connect(&mut rig, 0, "away", false);
    subscribe(&mut rig, away, "t", 1);
    rig.abort(away);
    let publisher = connect(&mut rig, 0, "publisher", true);
    for n in 0..200u8 {
        rig.send(publisher, &large(1, n + 1, n));
        rig.packets(publisher);
    }
    let bytes = |rig: &Rig| rig.node.counters[0].queued_bytes.value();
    assert!(bytes(&rig) > 2_000_000);
    rig.node.set_pressure(Stage::Shed);
    rig.advance(100);
    assert!(bytes(&rig) <= 1 << 20, "a sixteenth of 16 MiB");
    let dropped = &rig.node.counters[0].messages_dropped[DropReason::Overload as usize];
    assert!((90..=100).contains(&dropped.value()), "{}", dropped.value());
    rig.node.set_pressure(Stage::Calm);
    let back = connect(&mut rig, 0, "away", false);
    let first = rig.packets(back).into_iter().find(|packet| packet[0] >> 4 == 3);
    let first = first.expect("what was kept");
    assert!(*first.last().expect("a payload") >= 90, "the oldest went");
}
