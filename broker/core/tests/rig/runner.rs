//! Random operations on a node, in cases that proptest shrinks.
//!
//! `MACHINE_OPS` sets how many operations are run (default 100,000), and
//! `MACHINE_SEED` the seed; both are printed.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "its size and seed are told and set from outside"
)]

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Operations in one case, at most; half of it on average.
const CASE_OPS: usize = 400;

/// Runs cases of `op` on one to three shards, and panics with the smallest
/// case that `run` finds a fault in.
pub fn run<Op: Debug>(
    op: impl Strategy<Value = Op>,
    run: impl Fn(u16, &[Op]) -> Result<(), String>,
) {
    run_cases(op, CASE_OPS, 100_000, run);
}

/// The same with cases of another length, and another number of operations
/// unless it is told from outside.
pub fn run_cases<Op: Debug>(
    op: impl Strategy<Value = Op>,
    case_ops: usize,
    ops: u64,
    run: impl Fn(u16, &[Op]) -> Result<(), String>,
) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let ops = number("MACHINE_OPS").unwrap_or(ops);
    let seed = number("MACHINE_SEED").unwrap_or(1);
    println!("{ops} operations, seed {seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: (2 * ops / case_ops as u64).max(1) as u32,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let cases = (1..4u16, proptest::collection::vec(op, 1..=case_ops));
    let outcome =
        runner.run(&cases, |(shards, ops)| run(shards, &ops).map_err(TestCaseError::fail));
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
