//! What `tidegate bpf status` and `tidegate shard show` print.

use std::fmt::Write;

use serde_json::{Value, json};
use tidegate_kernel::program::Facts;

use super::{ListenerStatus, Status};
use crate::config::key::Setting;

impl Status {
    /// `tidegate bpf status --json`: the object `steer`.
    pub fn json(&self) -> Value {
        json!({
            "object": "steer",
            "mode": self.mode.show().trim_matches('"'),
            "on": self.why.is_none(),
            "why": self.why,
            "program": self.program,
            "tried": self.tried.iter().map(|(program, why)| json!({"program": program, "why": why}))
                .collect::<Vec<_>>(),
            "listeners": self.listeners.iter().map(listener_json).collect::<Vec<_>>(),
        })
    }

    /// What `tidegate bpf status` says of the program.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mode = self.mode.show();
        let mode = mode.trim_matches('"');
        let _ = match (&self.program, &self.why) {
            (Some(facts), _) => writeln!(out, "steer      on    ({mode})  {}", facts_line(facts)),
            (None, why) => {
                let why = why.as_deref().unwrap_or("unknown");
                writeln!(out, "steer      off   ({mode})  {why}")
            }
        };
        for (program, why) in &self.tried {
            let _ = writeln!(out, "           {program} was not taken: {why}");
        }
        out
    }

    /// What `tidegate bpf status` says of each listener.
    pub fn listeners_text(&self) -> String {
        let heads =
            ["LISTENER", "POLICY", "IN EFFECT", "CHOSEN", "OTHER", "HASH", "REFUSED", "WHY"];
        let rows = self.listeners.iter().map(|l| {
            let count = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let refused = |c: &tidegate_kernel::steering::Counts| {
                c.refused_rate + c.refused_prefix + c.refused_blocked
            };
            vec![
                l.name.clone(),
                l.policy.to_string(),
                l.effective.map_or_else(|| "kernel hash".to_owned(), |p| p.to_string()),
                count(l.counts.map(|c| c.selected)),
                count(l.counts.map(|c| c.fallback_ring)),
                count(l.counts.map(|c| c.fallback_hash)),
                count(l.counts.as_ref().map(refused)),
                l.why.clone().unwrap_or_default(),
            ]
        });
        table(&heads, rows)
    }
}

fn listener_json(l: &ListenerStatus) -> Value {
    json!({
        "listener": l.name,
        "address": l.address.map(|address| address.to_string()),
        "policy": l.policy,
        "effective": l.effective.map_or("kernel_hash", |policy| policy.label()),
        "why": l.why,
        "weights": l.weights,
        "picked": l.picked,
        "counts": l.counts,
    })
}

/// A program in a line.
pub fn facts_line(facts: &Facts) -> String {
    let mut out = format!("program {}", facts.name);
    if let Some(id) = facts.id {
        let _ = write!(out, ", id {id}");
    }
    if let Some(tag) = &facts.tag {
        let _ = write!(out, ", tag {tag}");
    }
    if let Some(n) = facts.verified_instructions {
        let _ = write!(out, ", {n} instructions verified");
    }
    match (facts.runs, facts.run_nanos) {
        (Some(runs), Some(nanos)) if runs > 0 => {
            let each = nanos as f64 / runs as f64;
            let _ = write!(out, ", {runs} runs timed, {each:.0} ns each");
        }
        _ => out.push_str(", runs not timed (sysctl kernel.bpf_stats_enabled=1)"),
    }
    out
}

/// What a shard has, for `tidegate shard show`.
#[derive(Clone, Debug)]
pub struct ShardRow {
    /// Its number.
    pub shard: usize,
    /// The core it stays on.
    pub core: Option<usize>,
    /// Open connections.
    pub connections: u64,
    /// Accepted, ever.
    pub accepted: u64,
    /// Share of the time since start that it was busy.
    pub busy: f64,
}

/// `tidegate shard show`.
pub fn shards_text(rows: &[ShardRow], status: &Status) -> String {
    let mut heads = vec!["SHARD", "CORE", "CONNECTIONS", "ACCEPTED", "BUSY", "PENDING"];
    let on: Vec<_> = status.listeners.iter().filter(|l| !l.weights.is_empty()).collect();
    let weights: Vec<String> = on.iter().map(|l| format!("WEIGHT {}", l.name)).collect();
    heads.extend(weights.iter().map(String::as_str));
    let body = rows.iter().map(|row| {
        let mut cells = vec![
            row.shard.to_string(),
            row.core.map_or_else(|| "-".to_owned(), |core| core.to_string()),
            row.connections.to_string(),
            row.accepted.to_string(),
            format!("{:.1} %", 100.0 * row.busy),
            status.loads.get(row.shard).map_or_else(|| "-".to_owned(), |l| l.pending.to_string()),
        ];
        cells.extend(on.iter().map(|l| l.weights[row.shard].to_string()));
        cells
    });
    let mut out = table(&heads, body);
    let sum: u64 = rows.iter().map(|row| row.connections).sum();
    let most = rows.iter().map(|row| row.connections).max().unwrap_or(0);
    if sum > 0 {
        let ratio = most as f64 * rows.len() as f64 / sum as f64;
        let _ = writeln!(out, "\nThe fullest has {ratio:.2} times the mean.");
    }
    if let Some(why) = &status.why {
        let _ = writeln!(out, "\nSteering is off: {why}.");
    }
    out
}

/// `tidegate shard show --json`.
pub fn shards_json(rows: &[ShardRow], status: &Status) -> Value {
    let one = |row: &ShardRow| {
        let weights: serde_json::Map<String, Value> = status
            .listeners
            .iter()
            .filter_map(|l| Some((l.name.clone(), json!(l.weights.get(row.shard)?))))
            .collect();
        json!({
            "shard": row.shard,
            "core": row.core,
            "connections": row.connections,
            "accepted": row.accepted,
            "busy_ratio": row.busy,
            "load": status.loads.get(row.shard),
            "weights": weights,
        })
    };
    json!({
        "shards": rows.iter().map(one).collect::<Vec<_>>(),
        "steering": {"on": status.why.is_none(), "why": status.why},
    })
}

/// Columns below their heads; numbers to the right.
pub fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([heads[at].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let number = |at: usize| {
        rows.iter().filter_map(|row| row.get(at)).all(|cell| {
            cell.is_empty() || cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit())
        })
    };
    let right: Vec<bool> = (0..heads.len()).map(|at| !rows.is_empty() && number(at)).collect();
    let mut out = String::new();
    let head: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let width = widths[at];
            let _ = match right[at] {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let rows = vec![vec!["a".to_owned(), "5".to_owned()], vec!["long".into(), "1234".into()]];
        assert_eq!(table(&["NAME", "N"], rows), "NAME     N\na        5\nlong  1234\n");
    }
}
