//! A CONNECT that somebody outside has to admit.
#![allow(missing_docs)]

mod rig;

use rig::{Client, Rig};
use tidegate_codec::ReasonCode;
use tidegate_core::access::{Access, Who};
use tidegate_core::counters::{CloseReason, RejectReason};
use tidegate_core::settings::Settings;
use tidegate_core::{Opening, Verdict};

const GUARDED: Opening =
    Opening { guarded: true, messages_per_second: 0, bytes_per_second: 0, local_barrier: false };
/// 3.1.1, clean, no keep alive, client id `a`; then SUBSCRIBE to `t`.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a";
const SUBSCRIBE: &[u8] = b"\x82\x06\x00\x01\x00\x01t\x00";

fn admit(user: &str) -> Verdict {
    Verdict::Admit { user: Some(user.into()) }
}

fn refuse() -> Verdict {
    Verdict::Refuse { code: ReasonCode::NotAuthorized, reason: RejectReason::Auth }
}

/// A client whose CONNECT, with what it sent behind it, waits at the door.
fn at_the_door(rig: &mut Rig, behind: &[u8]) -> Client {
    let client = rig.open_as(0, GUARDED);
    rig.send(client, &[CONNECT, behind].concat());
    assert_eq!(rig.asked.len(), 1);
    assert!(rig.is_paused(client));
    assert!(rig.packets(client).is_empty(), "not a word before the verdict");
    client
}

#[test]
fn an_admitted_client_gets_its_connack_and_then_what_it_sent_behind() {
    let mut rig = Rig::new(2, Settings::default());
    let client = at_the_door(&mut rig, SUBSCRIBE);
    rig.answer(admit("alice"));
    let packets = rig.packets(client);
    assert_eq!(packets, [&b"\x20\x02\x00\x00"[..], b"\x90\x03\x00\x01\x00"]);
    assert!(!rig.is_paused(client));
    let received = &rig.node.counters[0].packets_received[1][1];
    assert_eq!(received.value(), 1, "a CONNECT that is read twice counts once");
}

#[test]
fn a_refused_client_is_told_why_and_leaves_nothing() {
    let mut rig = Rig::new(1, Settings::default());
    let client = at_the_door(&mut rig, SUBSCRIBE);
    rig.answer(refuse());
    assert_eq!(rig.packets(client), [b"\x20\x02\x00\x05"]);
    assert!(!rig.is_open(client));
    let counters = &rig.node.counters[0];
    assert_eq!(counters.connections_rejected[RejectReason::Auth as usize].value(), 1);
    assert_eq!(counters.half_open.value(), 0);
    assert_eq!(counters.auth[1].value(), 1);
}

#[test]
fn a_verdict_for_an_earlier_tenant_of_the_slot_does_not_let_the_next_one_in() {
    let mut rig = Rig::new(1, Settings::default());
    let first = at_the_door(&mut rig, b"");
    let asked = rig.asked.remove(0);
    rig.abort(first);
    let second = at_the_door(&mut rig, b"");
    assert_eq!(first.slot, second.slot);
    rig.shards[0].admit(rig.now, asked.1, admit("mallory"));
    rig.run();
    assert!(rig.is_paused(second));
    assert!(rig.packets(second).is_empty());
}

#[test]
fn waiting_for_a_verdict_does_not_prolong_the_time_to_connect() {
    let mut settings = Settings::default();
    settings.limits.connect_timeout_ms = 1_000;
    let mut rig = Rig::new(1, settings);
    let client = rig.open_as(0, GUARDED);
    rig.advance(800);
    rig.send(client, CONNECT);
    rig.advance(500);
    assert!(!rig.is_open(client), "1.3 s after the accept");
    let closed = &rig.node.counters[0].connections_closed;
    assert_eq!(closed[CloseReason::ConnectTimeout as usize].value(), 1);
}

/// Only the user `alice` may do anything.
#[derive(Debug)]
struct OnlyAlice;

impl Access for OnlyAlice {
    fn publish(&self, who: Who<'_>, _topic: &str) -> Result<(), ReasonCode> {
        if who.user == Some("alice") { Ok(()) } else { Err(ReasonCode::NotAuthorized) }
    }
    fn subscribe(&self, who: Who<'_>, filter: &str) -> Result<(), ReasonCode> {
        self.publish(who, filter)
    }
}

#[test]
fn the_rules_are_told_the_user_that_was_vouched_for() {
    let mut rig = Rig::with_access(1, Settings::default(), Box::new(OnlyAlice));
    for (user, code) in [("alice", 0), ("bob", 0x80)] {
        let client = at_the_door(&mut rig, SUBSCRIBE);
        rig.answer(admit(user));
        assert_eq!(rig.packets(client)[1], [0x90, 3, 0, 1, code], "{user}");
        rig.abort(client);
    }
}

#[test]
fn a_will_is_held_against_the_rules_once_the_user_is_known() {
    // With the will `w` to topic `t`.
    let connect = b"\x10\x13\x00\x04MQTT\x04\x06\x00\x00\x00\x01a\x00\x01t\x00\x01w";
    for (user, code) in [("alice", 0), ("bob", 5)] {
        let mut rig = Rig::with_access(1, Settings::default(), Box::new(OnlyAlice));
        let client = rig.open_as(0, GUARDED);
        rig.send(client, connect);
        rig.answer(admit(user));
        assert_eq!(rig.packets(client), [[0x20, 2, 0, code]], "{user}");
    }
}
