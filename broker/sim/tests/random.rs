//! Seeds of all kinds, and those that once failed.
//!
//! `SIM_SECONDS` says for how long new seeds are tried (default 30).
#![allow(missing_docs, clippy::print_stdout, reason = "what was run is told")]

use std::time::{Duration, Instant};

use tidegate_sim::run;

fn holds(seed: u64) -> u64 {
    let outcome = run(seed, None);
    if let Some(failure) = outcome.failures.first() {
        let story = outcome.history.story(failure.message, failure.client).join("\n");
        panic!("seed {seed}: {failure}\n{story}");
    }
    outcome.stats.faults
}

#[test]
fn every_promise_is_kept_whatever_goes_wrong() {
    let seconds = std::env::var("SIM_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(30));
    let (mut seeds, mut faults) = (0, 0);
    while seeds < 20 || (Instant::now() < end && seeds < MAX) {
        faults += holds(seeds);
        seeds += 1;
    }
    println!("{seeds} seeds, {faults} faults");
}

/// Further seeds are for the tool.
const MAX: u64 = 240;

#[test]
fn seeds_that_once_failed_hold() {
    let mut seeds = 0;
    for line in include_str!("../seeds/failed.txt").lines() {
        let line = line.trim();
        if let Some(seed) = line.split_whitespace().next().filter(|seed| !seed.starts_with('#')) {
            holds(seed.parse().expect("a seed"));
            seeds += 1;
        }
    }
    assert!(seeds > 0);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [3, 4] {
        let tell = |seed| run(seed, None).history.iter().map(|(_, e)| e.to_string()).collect();
        let (one, two): (Vec<String>, Vec<String>) = (tell(seed), tell(seed));
        assert_eq!(one, two);
    }
}
