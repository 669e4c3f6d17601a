//! The verdict for people and for machines.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::history::story;
use crate::judge::{Row, Rule};
use crate::scenario::Outcome;

/// Breaches whose whole history is told; the rest is in the JSON.
const TOLD_MAX: usize = 6;

/// The table, and the history of what was breached.
pub(crate) fn text(outcome: &Outcome, seed: u64) -> String {
    let verdict = &outcome.verdict;
    let mut text = format!("\n{}, seed {}\n\n", outcome.name, seed);
    let _ = writeln!(text, "{:<56} {:>10} {:>9}  verdict", "rule", "checked", "breaches");
    for rule in Rule::ALL {
        let Row { checked, breaches } = verdict.row(rule);
        let word = match (checked, breaches) {
            (0, 0) => "nothing to check",
            (_, 0) => "kept",
            _ => "BROKEN",
        };
        let _ = writeln!(text, "{:<56} {checked:>10} {breaches:>9}  {word}", rule.asks());
    }
    let tally = verdict.tally;
    let _ = writeln!(
        text,
        "\npublished {}, acknowledged {}, rejected {}, sent again {}; delivered {}, of them \
         repeated {}, kept from the application {}; lives {}",
        tally.published,
        tally.acknowledged,
        tally.rejected,
        tally.resent,
        tally.delivered,
        tally.repeated,
        tally.suppressed,
        tally.lives,
    );
    for (name, value) in &outcome.told {
        let _ = writeln!(text, "{name}: {value}");
    }
    // The first of each rule, then others.
    let mut told = Vec::new();
    for breach in &verdict.breaches {
        if told.len() < TOLD_MAX && !told.contains(&breach.rule) {
            told.push(breach.rule);
            let _ = writeln!(text, "\n{}: {}", breach.rule.name(), breach.what);
            for line in story(&outcome.cast, &outcome.events, breach.concern) {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
    text
}

/// The same as JSON, with all breaches that were kept.
pub(crate) fn json(outcome: &Outcome, seed: u64, plant: bool, passed: bool) -> Value {
    let verdict = &outcome.verdict;
    let rules: serde_json::Map<String, Value> = Rule::ALL
        .into_iter()
        .map(|rule| {
            let row = verdict.row(rule);
            (rule.name().to_owned(), json!({ "checked": row.checked, "breaches": row.breaches }))
        })
        .collect();
    let breaches: Vec<Value> = verdict
        .breaches
        .iter()
        .map(|breach| {
            let lines = story(&outcome.cast, &outcome.events, breach.concern);
            json!({ "rule": breach.rule.name(), "what": breach.what, "history": lines })
        })
        .collect();
    let tally = verdict.tally;
    json!({
        "scenario": outcome.name,
        "seed": seed,
        "plant": plant,
        "passed": passed,
        "rules": rules,
        "tally": {
            "published": tally.published,
            "acknowledged": tally.acknowledged,
            "rejected": tally.rejected,
            "resent": tally.resent,
            "delivered": tally.delivered,
            "repeated": tally.repeated,
            "suppressed": tally.suppressed,
            "lives": tally.lives,
        },
        "told": outcome.told,
        "breaches": breaches,
    })
}
