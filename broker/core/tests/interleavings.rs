//! Random clients on a node whose shards have single turns, in random order,
//! with full mailboxes now and then: what the state machine, which lets the
//! shards come to rest after each step, cannot find.
//!
//! At every moment: ACK-2, windows, ids that are owed are not given again,
//! QOS-2 (each message once a session, publishers that come back send again),
//! ORD-1. At rest: OWN-1, nobody waits, the gauges agree with each other. At
//! the end: QOS-1 (what was acknowledged has reached who was subscribed).
//!
//! `MACHINE_OPS` and `MACHINE_SEED` as for the state machine.
#![allow(missing_docs, unreachable_pub)]

#[path = "interleavings/crowd.rs"]
mod crowd;
mod rig;
#[path = "rig/runner.rs"]
mod runner;

use proptest::prelude::*;

use crowd::{Crowd, Op};

fn op() -> impl Strategy<Value = Op> {
    let who = 0..crowd::CLIENTS;
    prop_oneof![
        4 => (who.clone(), 0..3usize, any::<bool>(), 0..4u8, 0..3u8)
            .prop_map(|(who, shard, ephemeral, clean, window)| Op::Connect {
                who, shard, ephemeral, clean: clean == 0, window
            }),
        1 => who.clone().prop_map(|who| Op::Abort { who }),
        1 => who.clone().prop_map(|who| Op::Disconnect { who }),
        5 => (who.clone(), 0..crowd::FILTERS.len(), 1..3u8)
            .prop_map(|(who, filter, qos)| Op::Subscribe { who, filter, qos }),
        1 => (who.clone(), 0..crowd::FILTERS.len())
            .prop_map(|(who, filter)| Op::Unsubscribe { who, filter }),
        14 => (who.clone(), 0..crowd::TOPICS.len(), 0..3u8)
            .prop_map(|(who, topic, qos)| Op::Publish { who, topic, qos }),
        6 => (who.clone(), 1..6usize).prop_map(|(who, n)| Op::Acknowledge { who, n }),
        1 => (who.clone(), 0..60usize).prop_map(|(who, room)| Op::Block { who, room }),
        2 => who.prop_map(|who| Op::Unblock { who }),
        25 => (0..3usize).prop_map(|shard| Op::Turn { shard }),
        1 => (0..3usize).prop_map(|batches| Op::Mailboxes { batches }),
        2 => Just(Op::Rest),
    ]
}

#[test]
fn random_turns_of_shards_lose_repeat_and_reorder_nothing() {
    runner::run(op(), |shards, ops| {
        let mut crowd = Crowd::new(shards);
        for op in ops {
            crowd.apply(op).map_err(|fault| format!("{op:?}: {fault}"))?;
        }
        crowd.finish()
    });
}
