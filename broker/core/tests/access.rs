//! What becomes of what a client may not do.
#![allow(missing_docs)]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rig::{Client, Rig, connect, publish, subscribe};
use tidegate_codec::ReasonCode;
use tidegate_core::access::{Access, Who};
use tidegate_core::counters::{CloseReason, Counters, DropReason, RejectReason};
use tidegate_core::settings::Settings;

/// Nothing below `no/` may be published or subscribed to.
#[derive(Debug)]
struct Rules;

impl Access for Rules {
    fn publish(&self, who: Who<'_>, topic: &str) -> Result<(), ReasonCode> {
        assert!(!who.client.is_empty(), "the rules are told who asks");
        if topic.starts_with("no/") { Err(ReasonCode::NotAuthorized) } else { Ok(()) }
    }

    fn subscribe(&self, who: Who<'_>, filter: &str) -> Result<(), ReasonCode> {
        self.publish(who, filter)
    }
}

/// Level bytes of the three versions.
const V3_1: u8 = 3;
const V3_1_1: u8 = 4;
const V5: u8 = 5;

fn rig(settings: Settings) -> Rig {
    Rig::with_access(2, settings, Box::new(Rules))
}

/// A CONNECT, with a durable session if wanted, and a will to this topic.
fn connect_packet(level: u8, id: &str, durable: bool, will: Option<&str>) -> Vec<u8> {
    let mut packet = vec![0x10, 0, 0];
    packet.extend(if level == V3_1 { &b"\x06MQIsdp"[..] } else { b"\x04MQTT" });
    let flags = if durable { 0 } else { 2 } | if will.is_some() { 4 } else { 0 };
    packet.extend([level, flags, 0, 0]);
    if level == V5 {
        packet.extend([5, 0x11, 0, 0, 0, if durable { 60 } else { 0 }]);
    }
    packet.extend([0, id.len() as u8]);
    packet.extend(id.as_bytes());
    if let Some(topic) = will {
        packet.extend(if level == V5 { &[0, 0][..] } else { &[0] });
        packet.push(topic.len() as u8);
        packet.extend(topic.as_bytes());
        packet.extend(b"\x00\x01w");
    }
    packet[1] = packet.len() as u8 - 2;
    packet
}

fn join(rig: &mut Rig, level: u8, id: &str, durable: bool) -> Client {
    let client = rig.open(0);
    rig.send(client, &connect_packet(level, id, durable, None));
    let connack = rig.packets(client).remove(0);
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    client
}

/// PUBLISH to `no/x` with packet id 7, and what is answered.
fn try_publish(rig: &mut Rig, client: Client, level: u8, qos: u8) -> Vec<Vec<u8>> {
    let mut packet = vec![0x30 | qos << 1, 0, 0, 4, b'n', b'o', b'/', b'x'];
    if qos > 0 {
        packet.extend([0, 7]);
    }
    if level == V5 {
        packet.push(0);
    }
    packet.push(b'!');
    packet[1] = packet.len() as u8 - 2;
    rig.send(client, &packet);
    rig.packets(client)
}

fn refused_by_rules(rig: &Rig) -> u64 {
    rig.node.counters[0].messages_dropped[DropReason::Acl as usize].value()
}

/// One who hears all that is published, on another shard.
fn watcher(rig: &mut Rig) -> Client {
    let watcher = connect(rig, 1, "watcher", true);
    subscribe(rig, watcher, "#", 2);
    rig.packets(watcher);
    watcher
}

#[test]
fn a_refused_publish_is_told_its_reason_in_5_0_and_dropped() {
    let mut rig = rig(Settings::default());
    let watcher = watcher(&mut rig);
    let alice = join(&mut rig, V5, "alice", false);
    assert!(try_publish(&mut rig, alice, V5, 0).is_empty(), "nothing can be said of QoS 0");
    assert_eq!(try_publish(&mut rig, alice, V5, 1), [[0x40, 3, 0, 7, 0x87]]);
    assert_eq!(try_publish(&mut rig, alice, V5, 2), [[0x50, 3, 0, 7, 0x87]]);
    assert_eq!(refused_by_rules(&rig), 3);
    assert!(rig.packets(watcher).is_empty());
    // A PUBREC with an error ends the exchange: the id is free [MQTT-4.3.3-4].
    rig.send(alice, b"\x34\x08\x00\x02ok\x00\x07\x00!");
    assert_eq!(rig.packets(alice), [[0x50, 2, 0, 7]]);
    assert_eq!(rig.packets(watcher).len(), 1);
}

#[test]
fn a_refused_publish_before_5_0_is_acknowledged_and_dropped() {
    for level in [V3_1, V3_1_1] {
        let mut rig = rig(Settings::default());
        let watcher = watcher(&mut rig);
        let alice = join(&mut rig, level, "alice", false);
        assert!(try_publish(&mut rig, alice, level, 0).is_empty());
        assert_eq!(try_publish(&mut rig, alice, level, 1), [[0x40, 2, 0, 7]]);
        assert_eq!(try_publish(&mut rig, alice, level, 2), [[0x50, 2, 0, 7]]);
        rig.send(alice, &[0x62, 2, 0, 7]);
        assert_eq!(rig.packets(alice), [[0x70, 2, 0, 7]]);
        assert_eq!(refused_by_rules(&rig), 3);
        assert!(rig.packets(watcher).is_empty());
        publish(&mut rig, alice, "ok", 0, 0, b"!");
        assert_eq!(rig.packets(watcher).len(), 1, "the connection goes on");
    }
}

#[test]
fn a_refused_publish_closes_a_connection_before_5_0_if_the_config_says_so() {
    for level in [V3_1, V3_1_1, V5] {
        for qos in 0..3 {
            let mut rig = rig(Settings { refused_publish_closes: true, ..Settings::default() });
            let watcher = watcher(&mut rig);
            let alice = join(&mut rig, level, "alice", false);
            let answer = try_publish(&mut rig, alice, level, qos);
            assert_eq!(refused_by_rules(&rig), 1);
            assert!(rig.packets(watcher).is_empty());
            let closed =
                rig.node.counters[0].connections_closed[CloseReason::Auth as usize].value();
            if level == V5 {
                assert_eq!((rig.is_open(alice), closed), (true, 0), "5.0 has a word for it");
                assert_eq!(answer.len(), usize::from(qos > 0));
            } else {
                assert_eq!((rig.is_open(alice), closed), (false, 1), "level {level}, QoS {qos}");
                assert!(answer.is_empty());
            }
        }
    }
}

#[test]
fn a_refused_filter_gets_its_code_and_the_others_their_qos() {
    for level in [V3_1, V3_1_1, V5] {
        for durable in [false, true] {
            let mut rig = rig(Settings::default());
            let alice = join(&mut rig, level, "alice", durable);
            let mut packet = vec![0x82, 0, 0, 9];
            if level == V5 {
                packet.push(0);
            }
            // The rules see a shared filter without its prefix.
            for filter in ["ok/#", "no/#", "$share/g/no/x", "ok"] {
                packet.extend([0, filter.len() as u8]);
                packet.extend(filter.as_bytes());
                packet.push(1);
            }
            packet[1] = packet.len() as u8 - 2;
            rig.send(alice, &packet);
            let suback = rig.packets(alice).remove(0);
            let told = match level {
                V5 => vec![0x90, 7, 0, 9, 0, 1, 0x87, 0x87, 1],
                _ => vec![0x90, 6, 0, 9, 1, 0x80, 0x80, 1],
            };
            assert_eq!(suback, told, "level {level}, durable {durable}");
            let kept = rig.node.counters.iter().flat_map(|shard| &shard.subscriptions);
            assert_eq!(kept.map(|kind| kind.value()).sum::<u64>(), 2);
        }
    }
}

#[test]
fn a_connect_whose_will_may_not_be_published_is_refused() {
    for (level, code) in [(V3_1, 5), (V3_1_1, 5), (V5, 0x87)] {
        let mut rig = rig(Settings::default());
        let watcher = watcher(&mut rig);
        let alice = rig.open(0);
        rig.send(alice, &connect_packet(level, "alice", false, Some("no/x")));
        let connack = rig.packets(alice).remove(0);
        assert_eq!((connack[0], connack[2], connack[3]), (0x20, 0, code), "level {level}");
        assert!(!rig.is_open(alice));
        let rejected = &rig.node.counters[0].connections_rejected;
        assert_eq!(rejected[RejectReason::Auth as usize].value(), 1);
        assert!(rig.packets(watcher).is_empty(), "and the will is not sent");
    }
}

/// Once the flag is set, nothing below `later/` may be subscribed to.
#[derive(Debug)]
struct Changing(Arc<AtomicBool>);

impl Access for Changing {
    fn publish(&self, _who: Who<'_>, _topic: &str) -> Result<(), ReasonCode> {
        Ok(())
    }

    fn subscribe(&self, _who: Who<'_>, filter: &str) -> Result<(), ReasonCode> {
        let denied = self.0.load(Ordering::Relaxed) && filter.starts_with("later/");
        if denied { Err(ReasonCode::NotAuthorized) } else { Ok(()) }
    }
}

fn gets(rig: &mut Rig, publisher: Client, client: Client, topic: &str) -> bool {
    publish(rig, publisher, topic, 0, 0, b"x");
    rig.packets(client).iter().any(|packet| packet[0] >> 4 == 3)
}

#[test]
fn subscriptions_that_changed_rules_no_longer_allow_go_and_the_others_stay() {
    for durable in [false, true] {
        let strict = Arc::new(AtomicBool::new(false));
        let mut rig =
            Rig::with_access(2, Settings::default(), Box::new(Changing(Arc::clone(&strict))));
        let publisher = connect(&mut rig, 1, "publisher", true);
        let client = join(&mut rig, V3_1_1, "client", durable);
        for filter in ["later/a", "later/#", "$share/g/later/s", "fine/#"] {
            subscribe(&mut rig, client, filter, 1);
        }
        rig.packets(client);
        assert!(gets(&mut rig, publisher, client, "later/a"));
        strict.store(true, Ordering::Relaxed);
        for shard in 0..2 {
            rig.shards[shard].recheck();
        }
        rig.run();
        assert!(!gets(&mut rig, publisher, client, "later/a"), "durable: {durable}");
        assert!(!gets(&mut rig, publisher, client, "later/s"));
        assert!(gets(&mut rig, publisher, client, "fine/a"));
        assert!(rig.is_open(client));
        let counted = |pick: &dyn Fn(&Counters) -> u64| rig.node.counters.iter().map(pick).sum();
        let revoked: u64 = counted(&|c| c.subscriptions_revoked.value());
        assert_eq!(revoked, 3);
        let left: u64 = counted(&|c| c.subscriptions.iter().map(|n| n.value()).sum());
        assert_eq!(left, 1, "the gauges follow");
    }
}

#[test]
fn a_session_that_is_resumed_is_held_against_the_rules_of_now() {
    let strict = Arc::new(AtomicBool::new(false));
    let mut rig = Rig::with_access(2, Settings::default(), Box::new(Changing(strict.clone())));
    let publisher = connect(&mut rig, 1, "publisher", true);
    let client = join(&mut rig, V3_1_1, "client", true);
    subscribe(&mut rig, client, "later/a", 1);
    subscribe(&mut rig, client, "fine/a", 1);
    rig.abort(client);
    strict.store(true, Ordering::Relaxed);
    let client = rig.open(0);
    rig.send(client, &connect_packet(V3_1_1, "client", true, None));
    assert_eq!(rig.packets(client)[0], [0x20, 2, 1, 0], "the session is there");
    assert!(!gets(&mut rig, publisher, client, "later/a"));
    assert!(gets(&mut rig, publisher, client, "fine/a"));
}
