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
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "its size and seed are told and set from outside"
)]

#[path = "interleavings/crowd.rs"]
mod crowd;
mod rig;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crowd::{Crowd, Op};

const CASE_OPS: usize = 400;

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
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let ops = number("MACHINE_OPS").unwrap_or(100_000);
    let seed = number("MACHINE_SEED").unwrap_or(1);
    println!("{ops} operations, seed {seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: (2 * ops / CASE_OPS as u64).max(1) as u32,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let cases = (1..4u16, proptest::collection::vec(op(), 1..=CASE_OPS));
    let outcome = runner.run(&cases, |(shards, ops)| {
        let mut crowd = Crowd::new(shards);
        for op in &ops {
            crowd.apply(op).map_err(|fault| TestCaseError::fail(format!("{op:?}: {fault}")))?;
        }
        crowd.finish().map_err(TestCaseError::fail)
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
