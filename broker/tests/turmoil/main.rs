//! Real openraft on the real log over the simulated disk, real sessions between
//! nodes over a simulated network: several hosts under one seed (turmoil).
//!
//! Each seed is a process of its own, with random numbers of the operating system
//! that are the same each time (`getrandom.c`), so that the same seed is the same
//! run. `TIDEGATE_TURMOIL_SEEDS=100..200` runs others than those of CI.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a run tells the process that started it"
)]

mod ledger;
mod net;
mod node;
mod replay;
mod world;

use node::Plant;
use replay::{Found, Ran, all, one};
use world::Plan;

/// The seeds that are asked for, or these.
fn seeds(usual: std::ops::Range<u64>) -> Vec<u64> {
    let Ok(wanted) = std::env::var("TIDEGATE_TURMOIL_SEEDS") else { return usual.collect() };
    let (from, to) = wanted.split_once("..").expect("TIDEGATE_TURMOIL_SEEDS is FROM..TO");
    let number = |text: &str| text.parse().expect("TIDEGATE_TURMOIL_SEEDS is of numbers");
    (number(from)..number(to)).collect()
}

/// What has to have happened in all runs together, or they show nothing.
fn happened(ran: &[Ran], what: &str, least: u64) {
    let times: u64 = ran.iter().map(|ran| ran.times(what)).sum();
    assert!(times >= least, "{what}: {times} times in {} runs, expected {least}", ran.len());
}

#[test]
fn whatever_happens_nothing_acknowledged_is_lost_doubled_or_out_of_order() {
    let seeds = seeds(0..12);
    let ran = all(Plan::Chaos, &seeds, None);
    let runs = seeds.len() as u64;
    for (what, each) in [
        ("acknowledged", 150),
        ("crashes", 1),
        ("cuts", 1),
        ("cuts one way", 1),
        ("held", 1),
        ("changed", 1),
        ("handed over", 1),
        ("SnapshotChunk", 1),
        ("given up", 0),
    ] {
        happened(&ran, what, each * runs / 2);
    }
}

#[test]
fn members_change_and_leaders_move_while_a_replica_that_lags_gets_a_snapshot() {
    let seeds = seeds(1_000..1_008);
    let ran = all(Plan::Lagging, &seeds, None);
    let runs = seeds.len() as u64;
    for (what, each) in [
        ("acknowledged", 150),
        ("held back", 1),
        ("SnapshotChunk", 4),
        ("changed", 4),
        ("handed over", 1),
    ] {
        happened(&ran, what, each * runs);
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for plan in [Plan::Chaos, Plan::Lagging] {
        let first = one(plan, 7, None).expect("it holds");
        let second = one(plan, 7, None).expect("it holds");
        assert_eq!(first.trace, second.trace, "{plan:?}");
        let other = one(plan, 8, None).expect("it holds");
        assert_ne!(first.trace, other.trace, "{plan:?}: the seed changes nothing");
    }
}

#[test]
fn planted_faults_are_found() {
    for (plant, said) in [(Plant::Early, ""), (Plant::Short, "differ"), (Plant::Twice, "")] {
        let found = (0..6).find_map(|seed| match one(Plan::Chaos, seed, Some(plant)) {
            Ok(_) => None,
            Err(Found(what)) => Some(what),
        });
        let found = found.unwrap_or_else(|| panic!("{plant:?} goes unnoticed in six runs"));
        assert!(found.contains(said), "{plant:?}: {found}");
    }
}

/// One run, in the process that the others start for it.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn run_of_one_seed() {
    replay::child();
}
