//! A state machine of whole nodes: random clients do random things, and after
//! each step everything that was sent is held against a plain model of what
//! MQTT promises.
//!
//! Checked after every step: OWN-1 (one connection a client id, Session Present
//! right), ACK-1 and ACK-2 (each publish acknowledged once, in order), QOS-1 and
//! QOS-2 (what a session got is exactly what it is owed, once, in order: ORD-1),
//! windows, packet ids that are owed are not given again, wills exactly once,
//! retained messages, gauges that agree with the model, no message dropped.
//!
//! `MACHINE_OPS` sets how many operations are run (default 100,000), and
//! `MACHINE_SEED` the seed; both are printed. A failure is shrunk.
#![allow(missing_docs, unreachable_pub)]

#[path = "machine/model.rs"]
mod model;
mod rig;
#[path = "rig/runner.rs"]
mod runner;
#[path = "machine/world.rs"]
mod world;

use proptest::prelude::*;

use world::{Op, World};

fn op() -> impl Strategy<Value = Op> {
    let who = 0..world::CLIENTS;
    prop_oneof![
        4 => (who.clone(), 0..3usize, any::<bool>(), any::<bool>(), 0..4u32, any::<Option<u8>>(), 0..3u8)
            .prop_map(|(who, shard, v5, clean, expiry, will, window)| Op::Connect {
                who, shard, v5, clean, expiry, will, window
            }),
        1 => who.clone().prop_map(|who| Op::Abort { who }),
        1 => who.clone().prop_map(|who| Op::Disconnect { who }),
        4 => (who.clone(), 0..world::FILTERS.len(), 0..3u8, any::<bool>())
            .prop_map(|(who, filter, qos, no_local)| Op::Subscribe { who, filter, qos, no_local }),
        1 => (who.clone(), 0..world::FILTERS.len())
            .prop_map(|(who, filter)| Op::Unsubscribe { who, filter }),
        12 => (who.clone(), 0..world::TOPICS.len(), 0..3u8, 0..8u8)
            .prop_map(|(who, topic, qos, retain)| Op::Publish { who, topic, qos, retain }),
        8 => (who.clone(), 1..6usize).prop_map(|(who, n)| Op::Acknowledge { who, n }),
        1 => (who.clone(), prop_oneof![Just(0usize), 1..40usize])
            .prop_map(|(who, room)| Op::Block { who, room }),
        2 => who.prop_map(|who| Op::Unblock { who }),
        1 => (1..4_000u64).prop_map(|ms| Op::Advance { ms }),
    ]
}

#[test]
fn random_clients_get_what_mqtt_promises() {
    runner::run(op(), |shards, ops| {
        let mut world = World::new(shards);
        for op in ops {
            world.apply(op).map_err(|fault| format!("{op:?}: {fault}"))?;
        }
        world.finish()
    });
}

/// The same, where now and then the node ends without a word and starts again
/// with what it has written, on another number of shards.
#[test]
fn what_was_promised_outlives_the_node() {
    let op = prop_oneof![
        120 => op(),
        2 => (0..64u8).prop_map(|partition| Op::Write { partition }),
        1 => Just(Op::Compact),
        1 => (1..4u16).prop_map(|shards| Op::Crash { shards }),
    ];
    runner::run(op, |shards, ops| {
        let mut world = World::kept(shards);
        for op in ops {
            world.apply(op).map_err(|fault| format!("{op:?}: {fault}"))?;
        }
        world.apply(&Op::Crash { shards })?;
        world.finish()
    });
}
