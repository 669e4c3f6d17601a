//! The checkers are checked: each bug that can be switched on is caught.
#![allow(missing_docs)]

use tidegate_sim::{Plant, run};

/// Seeds within which a bug has to show.
const SEEDS: u64 = 120;

fn caught_by(plant: Plant) -> Vec<&'static str> {
    let failures = (0..SEEDS).map(|seed| run(seed, Some(plant)).failures);
    failures.filter_map(|failures| failures.first().map(|failure| failure.check)).take(5).collect()
}

fn is_caught(plant: Plant, by: &[&str]) {
    let caught = caught_by(plant);
    assert!(caught.iter().any(|check| by.contains(check)), "{plant:?} was caught by {caught:?}");
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    is_caught(Plant::AckBeforeSync, &["C1", "C2", "C8"]);
}

#[test]
fn a_directory_that_is_not_synced_is_caught() {
    is_caught(Plant::SkipDirSync, &["start", "C1", "C8"]);
}

#[test]
fn records_that_are_not_written_are_caught() {
    is_caught(Plant::LoseRecords, &["C1", "C2", "C8", "start", "store", "panic"]);
}

#[test]
fn a_start_that_forgets_who_was_connected_is_caught() {
    is_caught(Plant::SkipResume, &["alive", "C9"]);
}

#[test]
fn a_store_that_goes_on_after_a_failed_sync_is_caught() {
    is_caught(Plant::IgnoreSyncError, &["C1", "C2", "C8", "store"]);
}

#[test]
fn mail_that_overtakes_is_caught() {
    is_caught(Plant::ReorderMail, &["C4"]);
}

#[test]
fn mail_that_is_lost_is_caught() {
    is_caught(Plant::LoseMail, &["C1", "alive"]);
}

#[test]
fn a_state_without_what_came_after_it_is_caught() {
    is_caught(Plant::StateWithoutTail, &["C1", "C2", "C8", "panic"]);
}

#[test]
fn segments_that_go_too_early_are_caught() {
    is_caught(Plant::RemoveTooMuch, &["C1", "store"]);
}
