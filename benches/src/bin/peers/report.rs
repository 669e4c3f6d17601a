//! The table, as Markdown and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::broker::Column;
use crate::scenario::{Goal, LINES, Line, Metric};

const BEGIN: &str = "<!-- peers:begin -->";
const END: &str = "<!-- peers:end -->";

/// All figures of a run, one a repetition.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: BTreeMap<(&'static str, usize, Column), Vec<f64>>,
    failures: BTreeMap<(&'static str, Column), String>,
}

impl Report {
    /// Adds a figure of one repetition.
    pub(crate) fn add(&mut self, scenario: &'static str, metric: Metric, by: Column, value: f64) {
        self.figures.entry((scenario, metric as usize, by)).or_default().push(value);
    }

    /// Notes that a broker failed a scenario.
    pub(crate) fn fail(&mut self, scenario: &'static str, by: Column, why: String) {
        self.failures.insert((scenario, by), why);
    }

    /// Whether a broker failed a scenario in an earlier repetition.
    pub(crate) fn failed(&self, scenario: &'static str, by: Column) -> bool {
        self.failures.contains_key(&(scenario, by))
    }

    /// The median over the repetitions.
    pub(crate) fn median(&self, scenario: &str, metric: Metric, by: Column) -> Option<f64> {
        let key = self
            .figures
            .keys()
            .find(|(name, number, column)| {
                *name == scenario && *number == metric as usize && *column == by
            })
            .copied()?;
        let mut sorted = self.figures[&key].clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        Some(match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        })
    }

    /// The table as Markdown; lines without any figure are left out.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from(
            "| row | floor | mosquitto | tidegate | tidegate / floor | tidegate / mosquitto \
             | goal | goal on this machine | met |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        for line in LINES {
            self.line(&mut out, line);
        }
        for ((scenario, column), why) in &self.failures {
            let _ = writeln!(out, "\n{column} failed `{scenario}`: {why}");
        }
        out
    }

    fn line(&self, out: &mut String, line: &Line) {
        let of = |column| self.median(line.scenario, line.metric, column);
        let (floor, mosquitto, tidegate) =
            (of(Column::Floor), of(Column::Mosquitto), of(Column::Tidegate));
        if floor.is_none() && mosquitto.is_none() && tidegate.is_none() {
            return;
        }
        let ratio = |by: Option<f64>| match (tidegate, by) {
            (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.2}", ours / theirs),
            _ => "-".into(),
        };
        let limit = self.limit(line, floor);
        let met = match (tidegate, limit) {
            (Some(ours), Some((limit, true))) => verdict(ours >= limit),
            (Some(ours), Some((limit, false))) => verdict(ours <= limit),
            _ => "-",
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {met} |",
            line.label,
            cell(floor),
            cell(mosquitto),
            cell(tidegate),
            ratio(floor),
            ratio(mosquitto),
            goal(line.goal),
            cell(limit.map(|(limit, _)| limit)),
        );
    }

    /// The goal on this machine, and whether more is better.
    fn limit(&self, line: &Line, floor: Option<f64>) -> Option<(f64, bool)> {
        let scale = || Some(floor? / line.reference.0?);
        match line.goal {
            Goal::Unset => None,
            Goal::AtMost(value) => Some((value, false)),
            Goal::Scaled(value) => Some((value * scale()?, false)),
            Goal::ScaledAtLeast(value) => Some((value * scale()?, true)),
            Goal::FloorTimes(times) => Some((floor? * times, false)),
            Goal::Twice(scenario) => {
                Some((2.0 * self.median(scenario, line.metric, Column::Tidegate)?, false))
            }
        }
    }

    /// Everything, each repetition's figures included.
    pub(crate) fn json(&self, setting: &BTreeMap<&'static str, String>) -> Value {
        let lines: Vec<Value> = LINES
            .iter()
            .map(|line| {
                let of = |column| {
                    let key = (line.scenario, line.metric as usize, column);
                    json!({
                        "median": self.median(line.scenario, line.metric, column),
                        "repetitions": self.figures.get(&key),
                        "failure": self.failures.get(&(line.scenario, column)),
                    })
                };
                json!({
                    "row": line.scenario,
                    "label": line.label,
                    "floor": of(Column::Floor),
                    "mosquitto": of(Column::Mosquitto),
                    "tidegate": of(Column::Tidegate),
                    "reference_floor": line.reference.0,
                    "reference_mosquitto": line.reference.1,
                    "goal": goal(line.goal),
                })
            })
            .collect();
        json!({ "setting": setting, "lines": lines })
    }
}

/// Replaces what stands between the markers of a page.
pub(crate) fn write_between_markers(path: &Path, text: &str) -> Result<()> {
    let page = match fs::read_to_string(path) {
        Ok(page) => page,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("# Benchmarks\n\n{BEGIN}\n{END}\n")
        }
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let begin = page.find(BEGIN).with_context(|| format!("no {BEGIN} in {}", path.display()))?;
    let end = page.find(END).with_context(|| format!("no {END} in {}", path.display()))?;
    ensure!(begin < end, "the markers of {} stand the wrong way round", path.display());
    let head = &page[..begin + BEGIN.len()];
    fs::write(path, format!("{head}\n\n{}\n\n{}", text.trim(), &page[end..]))?;
    Ok(())
}

fn verdict(met: bool) -> &'static str {
    if met { "yes" } else { "no" }
}

fn goal(goal: Goal) -> String {
    match goal {
        Goal::Unset => "-".into(),
        Goal::AtMost(value) | Goal::Scaled(value) => format!("<= {}", figure(value)),
        Goal::ScaledAtLeast(value) => format!(">= {}", figure(value)),
        Goal::FloorTimes(times) => format!("<= {times} x floor"),
        Goal::Twice(scenario) => format!("<= 2 x `{scenario}`"),
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), figure)
}

/// Three significant digits or so, thousands set apart.
fn figure(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_a_row_is_set_against_a_goal_scaled_by_the_floor() {
        let mut report = Report::default();
        for value in [0.9, 0.11, 0.10] {
            report.add("qos0-w16", Metric::Cpu, Column::Floor, value);
        }
        report.add("qos0-w16", Metric::Cpu, Column::Tidegate, 0.30);
        // The floor is half the reference's 0.22, so the goal of 0.55 becomes 0.275.
        let table = report.markdown();
        assert!(
            table.contains("| QoS 0, W16 | 0.11 | - | 0.30 | 2.73 | - | <= 0.55 | 0.28 | no |"),
            "{table}"
        );
    }

    #[test]
    fn figures_keep_three_digits_and_set_thousands_apart() {
        assert_eq!(
            [0.224, 21.66, 735.0, 3_600_000.0].map(figure),
            ["0.22", "21.7", "735", "3,600,000"]
        );
    }
}
