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

    /// The figures of each repetition, in order.
    fn repetitions(&self, scenario: &'static str, metric: Metric, by: Column) -> &[f64] {
        self.figures.get(&(scenario, metric as usize, by)).map_or(&[], Vec::as_slice)
    }

    /// The median over the repetitions.
    pub(crate) fn median(&self, scenario: &'static str, metric: Metric, by: Column) -> Option<f64> {
        median(self.repetitions(scenario, metric, by).to_vec())
    }

    /// Tidegate as a multiple of another: the median of the repetitions' own
    /// multiples, because the two ran one after the other in the same minute.
    pub(crate) fn multiple(&self, line: &Line, by: Column) -> Option<f64> {
        let ours = self.repetitions(line.scenario, line.metric, Column::Tidegate);
        let theirs = self.repetitions(line.scenario, line.metric, by);
        let pairs = ours.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0);
        median(pairs.map(|(ours, theirs)| ours / theirs).collect())
    }

    /// The columns that have a figure.
    pub(crate) fn columns(&self) -> Vec<Column> {
        let has = |column: &Column| self.figures.keys().any(|(_, _, by)| by == column);
        Column::ALL.into_iter().filter(has).collect()
    }

    /// The peer that is best in a line.
    fn best(&self, line: &Line) -> Option<Column> {
        let of = |column: &Column| self.median(line.scenario, line.metric, *column);
        let peers = self.columns().into_iter().filter(|column| column.is_peer());
        let peers = peers.filter_map(|column| Some((of(&column)?, column)));
        let order = |a: &(f64, Column), b: &(f64, Column)| a.0.total_cmp(&b.0);
        let best = match line.metric {
            Metric::Rate => peers.max_by(order),
            Metric::Cpu
            | Metric::P99
            | Metric::Bytes
            | Metric::SubscribeCpu
            | Metric::IdlePercent => peers.min_by(order),
        };
        best.map(|(_, column)| column)
    }

    /// The table as Markdown; lines without any figure are left out.
    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from("| row |");
        let columns = self.columns();
        for column in &columns {
            let _ = write!(out, " {column} |");
        }
        out.push_str(
            " tidegate / floor | tidegate / best peer | goal | goal on this machine | met |\n|",
        );
        out.push_str(&"---|".repeat(columns.len() + 6));
        out.push('\n');
        for line in LINES {
            self.line(&mut out, line, &columns);
        }
        for ((scenario, column), why) in &self.failures {
            let _ = writeln!(out, "\n{column} failed `{scenario}`: {why}");
        }
        out
    }

    fn line(&self, out: &mut String, line: &Line, columns: &[Column]) {
        let of = |column| self.median(line.scenario, line.metric, column);
        if columns.iter().all(|column| of(*column).is_none()) {
            return;
        }
        let (floor, tidegate) = (of(Column::Floor), of(Column::Tidegate));
        let best = self.best(line).and_then(|best| self.multiple(line, best));
        let over_floor = self.multiple(line, Column::Floor);
        let limit = self.limit(line, floor);
        let met = match line.goal {
            Goal::Unset => None,
            Goal::AtMost(_) | Goal::ScaledLike(..) | Goal::Twice(_) => {
                tidegate.zip(limit).map(|(ours, limit)| ours <= limit)
            }
            Goal::Scaled(value) => {
                over_floor.zip(line.reference.0).map(|(times, floor)| times <= value / floor)
            }
            Goal::ScaledAtLeast(value) => {
                over_floor.zip(line.reference.0).map(|(times, floor)| times >= value / floor)
            }
            Goal::FloorTimes(most) => over_floor.map(|times| times <= most),
        };
        let _ = write!(out, "| {} |", line.label);
        for column in columns {
            let _ = write!(out, " {} |", cell(of(*column)));
        }
        let _ = writeln!(
            out,
            " {} | {} | {} | {} | {} |",
            cell(over_floor),
            cell(best),
            goal(line.goal),
            cell(limit),
            met.map_or("-", |met| if met { "yes" } else { "no" }),
        );
    }

    /// The goal on this machine.
    fn limit(&self, line: &Line, floor: Option<f64>) -> Option<f64> {
        match line.goal {
            Goal::Unset => None,
            Goal::AtMost(value) => Some(value),
            Goal::Scaled(value) | Goal::ScaledAtLeast(value) => {
                Some(value * floor? / line.reference.0?)
            }
            Goal::ScaledLike(value, row) => {
                let alike = LINES.iter().find(|line| line.scenario == row)?;
                let floor = self.median(row, line.metric, Column::Floor)?;
                Some(value * floor / alike.reference.0?)
            }
            Goal::FloorTimes(times) => Some(floor? * times),
            Goal::Twice(row) => Some(2.0 * self.median(row, line.metric, Column::Tidegate)?),
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
                let figures: BTreeMap<_, _> =
                    self.columns().into_iter().map(|column| (column.name(), of(column))).collect();
                json!({
                    "row": line.scenario,
                    "label": line.label,
                    "figures": figures,
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

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len(), values.len() % 2) {
        (0, _) => None,
        (_, 1) => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn goal(goal: Goal) -> String {
    match goal {
        Goal::Unset => "-".into(),
        Goal::AtMost(value) | Goal::Scaled(value) | Goal::ScaledLike(value, _) => {
            format!("<= {}", figure(value))
        }
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
    fn a_row_is_judged_by_the_median_multiple_of_the_floor_of_its_own_repetition() {
        let mut report = Report::default();
        // The machine was half as fast in the last repetition, for both.
        for (floor, tidegate) in [(0.10, 0.24), (0.11, 0.30), (0.22, 0.50)] {
            report.add("qos0-w16", Metric::Cpu, Column::Floor, floor);
            report.add("qos0-w16", Metric::Cpu, Column::Tidegate, tidegate);
        }
        // 0.55 at a floor of 0.22 allows 2.5 times the floor: 0.275 at a floor of 0.11.
        let row = "| QoS 0, W16 | 0.11 | 0.30 | 2.40 | - | <= 0.55 | 0.28 | yes |";
        assert!(report.markdown().contains(row), "{}", report.markdown());
    }

    #[test]
    fn the_best_peer_is_the_cheapest_and_of_rates_the_fastest() {
        let mut report = Report::default();
        for (column, cpu, rate) in [
            (Column::Mosquitto, 8.0, 90e3),
            (Column::Rumqttd, 4.0, 600e3),
            (Column::Tidegate, 1.0, 1_200e3),
        ] {
            report.add("qos0-w16", Metric::Cpu, column, cpu);
            report.add("both-qos0-w16", Metric::Rate, column, rate);
        }
        let table = report.markdown();
        assert!(table.contains("| row | mosquitto | rumqttd | tidegate |"), "{table}");
        assert!(table.contains("| QoS 0, W16 | 8.00 | 4.00 | 1.00 | - | 0.25 |"), "{table}");
        assert!(table.contains("| 90,000 | 600,000 | 1,200,000 | - | 2.00 |"), "{table}");
    }

    #[test]
    fn figures_keep_three_digits_and_set_thousands_apart() {
        assert_eq!(
            [0.224, 21.66, 735.0, 3_600_000.0].map(figure),
            ["0.22", "21.7", "735", "3,600,000"]
        );
    }
}
