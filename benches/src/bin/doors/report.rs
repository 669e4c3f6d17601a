//! What a scenario found: a table for people, a line of JSON for machines, and
//! the bounds that it broke.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// The findings of one scenario.
#[derive(Debug)]
pub(crate) struct Report {
    scenario: String,
    table: Vec<Vec<String>>,
    facts: Map<String, Value>,
    broken: Vec<String>,
    missed: Vec<String>,
}

impl Report {
    /// With the heads of the table's columns.
    pub(crate) fn new(scenario: impl Into<String>, heads: &[&str]) -> Self {
        let heads = heads.iter().map(|head| (*head).to_owned()).collect();
        Self {
            scenario: scenario.into(),
            table: vec![heads],
            facts: Map::new(),
            broken: Vec::new(),
            missed: Vec::new(),
        }
    }

    /// A line of the table.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.table.push(cells.into_iter().collect());
    }

    /// A figure by its name.
    pub(crate) fn fact(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.facts.insert(name.into(), value.into());
    }

    /// A goal that depends on the machine and on what else it does, in words, and
    /// whether it is met. `--check` says nothing about it.
    pub(crate) fn goal(&mut self, words: impl Into<String>, met: bool) {
        if !met {
            self.missed.push(words.into());
        }
    }

    /// A bound, in words, and whether it holds.
    pub(crate) fn bound(&mut self, words: impl Into<String>, holds: bool) {
        if !holds {
            self.broken.push(words.into());
        }
    }

    /// The bounds that do not hold.
    pub(crate) fn broken(&self) -> &[String] {
        &self.broken
    }

    /// The table in Markdown, the broken bounds, and the JSON.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (index, row) in self.table.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "|{}", "---|".repeat(row.len()));
            }
        }
        let not_met: Vec<_> = self.broken.iter().chain(&self.missed).collect();
        for words in &not_met {
            let _ = writeln!(text, "\nNOT MET: {words}");
        }
        let line = json!({
            "scenario": self.scenario,
            "facts": self.facts,
            "not_met": not_met,
        });
        let _ = write!(text, "\n{line}");
        text
    }
}

/// Three digits that mean something.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        big if big >= 1_000.0 => grouped(value.round() as i64),
        big if big >= 100.0 => format!("{value:.0}"),
        big if big >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::new();
    if value < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Mebibytes.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(1_234_567.8), "1,234,568");
        assert_eq!(short(123.4), "123");
        assert_eq!(short(0.123), "0.12");
    }

    #[test]
    fn a_broken_bound_is_in_the_text_and_in_the_json() {
        let mut report = Report::new("idle", &["a", "b"]);
        report.row(["1".to_owned(), "2".to_owned()]);
        report.bound("fine", true);
        report.bound("too much", false);
        report.goal("fast", true);
        report.goal("slow", false);
        assert_eq!(report.broken(), ["too much"]);
        let text = report.text();
        assert!(text.contains("| 1 | 2 |\n\nNOT MET: too much\n\nNOT MET: slow\n"));
        assert!(text.ends_with(r#""not_met":["too much","slow"],"scenario":"idle"}"#), "{text}");
        assert_eq!(report.broken(), ["too much"]);
    }
}
