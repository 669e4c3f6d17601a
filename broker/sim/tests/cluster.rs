//! Clusters of all kinds, the seeds that once failed, and the checkers checked:
//! each hole that can be opened is seen.
//!
//! `SIM_CLUSTER_SEEDS` says how many seeds are tried (default 100); the long run
//! is for the tool (docs/testing.md).
#![allow(missing_docs, clippy::print_stdout, reason = "what was run is told")]

use tidegate_sim::Outcome;
use tidegate_sim::cluster::{Hole, Options, run};

/// Checks that some seeds with faults still fail, each with a finding that is not
/// mended (docs/testing.md). Without faults nothing may fail.
const OPEN: [&str; 7] = ["C2", "C3", "C4", "C8", "C9", "C12", "alive"];
/// Of a hundred seeds, so many may.
const OPEN_PERCENT: u64 = 20;
/// Seeds within which a hole has to show.
const HOLE_SEEDS: u64 = 300;

fn told(seed: u64, outcome: &Outcome) -> String {
    let failure = &outcome.failures[0];
    let story = outcome.history.story(failure.message, failure.client).join("\n");
    format!("seed {seed}: {failure}\n{story}")
}

/// Whether a seed holds; one that fails in a way that is not known is told.
fn holds(seed: u64) -> bool {
    let outcome = run(seed, Options::default());
    let known = |check: &str| !outcome.history.calm && OPEN.contains(&check);
    assert!(outcome.failures.iter().all(|f| known(f.check)), "{}", told(seed, &outcome));
    outcome.failures.is_empty()
}

#[test]
fn every_promise_is_kept_by_a_cluster_whatever_goes_wrong() {
    let seeds = std::env::var("SIM_CLUSTER_SEEDS").ok().and_then(|text| text.parse().ok());
    let seeds = seeds.unwrap_or(100);
    let failed = (0..seeds).filter(|&seed| !holds(seed)).count() as u64;
    println!("{seeds} seeds, {failed} with findings that are known");
    assert!(failed * 100 <= seeds * OPEN_PERCENT, "{failed} of {seeds} seeds fail");
}

#[test]
fn seeds_that_once_failed_hold() {
    let mut seeds = 0;
    for line in include_str!("../seeds/cluster.txt").lines() {
        let line = line.trim();
        if let Some(seed) = line.split_whitespace().next().filter(|seed| !seed.starts_with('#')) {
            assert!(holds(seed.parse().expect("a seed")), "seed {seed}");
            seeds += 1;
        }
    }
    assert!(seeds > 0);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 4] {
        let tell = |seed| {
            let outcome = run(seed, Options::default());
            outcome.history.iter().map(|(_, e)| e.to_string()).collect::<Vec<String>>()
        };
        assert_eq!(tell(seed), tell(seed));
    }
}

/// A seed that holds, and does not when the hole is open.
fn is_seen(hole: Hole, by: &[&str]) {
    let favour = Some(hole);
    let mut seen = Vec::new();
    for seed in 0..HOLE_SEEDS {
        let open = run(seed, Options { hole: Some(hole), favour, trace: false });
        let Some(failure) = open.failures.first() else { continue };
        if !by.contains(&failure.check) {
            seen.push(failure.check);
            continue;
        }
        let closed = run(seed, Options { hole: None, favour, trace: false });
        if closed.failures.is_empty() {
            return;
        }
    }
    panic!("{hole:?} was not seen by {by:?}, but {seen:?}");
}

#[test]
fn an_acknowledgement_before_the_commit_is_seen() {
    is_seen(Hole::AckBeforeCommit, &["C1", "C2", "C8"]);
}

#[test]
fn the_last_writer_that_wins_is_seen() {
    is_seen(Hole::RetainedLastWriter, &["C6"]);
}

#[test]
fn qos_2_that_one_node_alone_knows_is_seen() {
    is_seen(Hole::LocalQos2, &["C2"]);
}

#[test]
fn a_packet_id_that_is_used_again_too_early_is_seen() {
    is_seen(Hole::EarlyPacketId, &["C1", "C2"]);
}

#[test]
fn lanes_of_an_incarnation_are_seen() {
    is_seen(Hole::LanesByIncarnation, &["C2"]);
}

#[test]
fn routes_without_a_lease_are_seen() {
    is_seen(Hole::RoutesWithoutLease, &["C1"]);
}

#[test]
#[ignore = "seen once in some hundred seeds: too rare for every run"]
fn a_time_from_before_the_read_is_seen() {
    is_seen(Hole::CachedNow, &["C1"]);
}

#[test]
fn votes_outside_the_log_are_seen() {
    is_seen(Hole::VotesOutside, &["C1", "C2", "C8", "C6", "panic"]);
}

#[test]
fn a_node_that_goes_unnoticed_is_seen() {
    is_seen(Hole::NoNodeGone, &["alive", "C9", "C12"]);
}

#[test]
fn a_wiped_replica_that_votes_is_seen() {
    is_seen(Hole::WipedVotes, &["C1", "C8", "panic"]);
}

#[test]
#[ignore = "seen once in some hundred seeds: too rare for every run"]
fn a_second_subscriber_that_does_not_wait_is_seen() {
    is_seen(Hole::SecondSubscriber, &["C1", "C6"]);
}
