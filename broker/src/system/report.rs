//! What `tidegate preflight`, `sockstat show` and `conntrack show` print.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use anyhow::{Context, anyhow};
use serde_json::{Map, Value, json};
use tidegate_system::inet_diag::{Info, Socket, State};
use tidegate_system::preflight::{Check, Outcome, Totals, assess};

use super::diag;
use super::files::{self, Tree};
use super::sampler::{Conntrack, Snapshot, Tcp};
use crate::config::Config;
use crate::node::cores::Cores;
use crate::steering::report::table;

/// Columns of a terminal.
const COLUMNS: usize = 100;
/// Sockets whose times are kept for a percentile.
const TIMES_MAX: usize = 1 << 20;

/// Whether this machine is fit for a config: what is printed, and whether no
/// check failed.
pub fn preflight(config: &Config, json: bool) -> (String, bool) {
    let shards = Cores::detect().shards(config.shards);
    let facts = files::facts(&Tree::default(), &config.data_dir);
    let checks = assess(&facts, &files::demand(config, shards, 0));
    let totals = Totals::of(&checks);
    let text = if json { checks_json(&checks) } else { checks_text(&checks, config) };
    (text, totals.fail == 0)
}

fn checks_json(checks: &[Check]) -> String {
    let Totals { ok, warn, fail, unknown } = Totals::of(checks);
    let each = checks.iter().map(|check| {
        json!({
            "check": check.id,
            "result": check.outcome.label(),
            "found": check.found,
            "needed": check.needed,
            "why": check.why,
            "who": check.who.label(),
            "fix": check.fix,
        })
    });
    let each: Vec<_> = each.collect();
    let totals = json!({"ok": ok, "warn": warn, "fail": fail, "unknown": unknown});
    format!("{:#}\n", json!({"checks": each, "totals": totals}))
}

fn checks_text(checks: &[Check], config: &Config) -> String {
    let rows = checks.iter().map(|check| {
        let Check { id, outcome, found, needed, who, .. } = check;
        let cells = [outcome.label(), id, found, needed, who.label()];
        cells.map(str::to_owned).to_vec()
    });
    let heads = ["RESULT", "CHECK", "FOUND", "NEEDED", "WHOSE"];
    let mut out = table(&heads, rows);
    for check in checks {
        match check.outcome {
            Outcome::Ok | Outcome::Unknown => continue,
            Outcome::Warn | Outcome::Fail => {}
        }
        let _ = writeln!(out, "\n{}: {}", check.outcome.label(), check.id);
        out.push_str(&folded(&format!("{}.", check.why), "  "));
        out.push_str(&folded(&format!("{}: {}", check.who.label(), check.fix), "  "));
    }
    let most = config.settings.limits.connections_max;
    let _ = writeln!(out, "\n{}, for {most} connections", Totals::of(checks));
    out
}

/// In lines of at most [`COLUMNS`], where there is a space to break them at.
fn folded(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_ascii_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > COLUMNS {
            out.push('\n');
            column = 0;
        }
        out.push_str(if column == 0 { indent } else { " " });
        column += width + if column == 0 { indent.len() } else { 1 };
        out.push_str(word);
    }
    out.push('\n');
    out
}

/// The sockets of these ports, and the TCP of the machine.
///
/// # Errors
/// When the kernel does not tell.
pub fn sockstat(ports: &[u16], json: bool) -> anyhow::Result<String> {
    let mut told = Told::default();
    diag::sockets(ports, &State::ALL, true, |socket| told.take(&socket))
        .context("the kernel does not tell of sockets (inet_diag)")?;
    told.listening.sort();
    let tcp = Tcp::read(&Tree::default());
    if json {
        let body = json!({
            "ports": ports,
            "sockets": told.rows.iter_mut().map(Row::json).collect::<Vec<_>>(),
            "listening": told.listening.iter().map(|(address, inode, waiting, limit)| json!({
                "address": address.to_string(),
                "inode": inode,
                "accept_queue_length": waiting,
                "accept_queue_limit": limit,
            })).collect::<Vec<_>>(),
            "node": tcp_json(&tcp),
        });
        return Ok(format!("{body:#}\n"));
    }
    let heads = ["PORT", "STATE", "SOCKETS", "RETRANSMITS", "RTT P50", "RTT P99"];
    let mut out = match told.rows.is_empty() {
        true => format!("no socket has port {}\n", shown(ports)),
        false => table(&heads, told.rows.iter_mut().map(Row::cells)),
    };
    if !told.listening.is_empty() {
        let rows = told.listening.iter().map(|(address, inode, waiting, limit)| {
            vec![address.to_string(), inode.to_string(), waiting.to_string(), limit.to_string()]
        });
        out.push('\n');
        out.push_str(&table(&["LISTENING", "INODE", "WAITING", "LIMIT"], rows));
    }
    out.push('\n');
    match &tcp {
        Ok(tcp) => {
            let rows = tcp_values(tcp).into_iter().map(|(_, what, value)| {
                vec![what.to_owned(), value.map_or_else(|| "-".to_owned(), |n| n.to_string())]
            });
            out.push_str(&table(&["TCP OF THE NODE", "COUNT"], rows));
        }
        Err(why) => {
            let _ = writeln!(out, "TCP of the node: {why}");
        }
    }
    Ok(out)
}

fn shown(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

fn tcp_values(tcp: &Tcp) -> [(&'static str, &'static str, Option<u64>); 6] {
    [
        ("listen_overflows", "accept queue overflows", tcp.listen_overflows),
        ("listen_drops", "connects dropped", tcp.listen_drops),
        ("retransmits", "segments sent again", tcp.retransmits),
        ("resets_sent", "resets sent", tcp.resets_sent),
        ("memory_pages", "pages in buffers", tcp.memory_pages),
        ("memory_limit_pages", "pages at most", tcp.memory_limit_pages),
    ]
}

/// What is not known is left out.
fn tcp_json(tcp: &Result<Tcp, String>) -> Value {
    match tcp {
        Ok(tcp) => {
            let known = tcp_values(tcp).into_iter();
            let known = known.filter_map(|(name, _, n)| Some((name.to_owned(), json!(n?))));
            Value::Object(known.collect::<Map<_, _>>())
        }
        Err(why) => json!({"unavailable": why}),
    }
}

#[derive(Default)]
struct Told {
    /// By port and state.
    rows: Rows,
    /// Address, inode, waiting, limit.
    listening: Vec<(SocketAddr, u32, u32, u32)>,
}

#[derive(Default)]
struct Rows(BTreeMap<(u16, State), Row>);

impl Rows {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.0.values_mut()
    }
}

impl Told {
    fn take(&mut self, socket: &Socket) {
        let Socket { state, local, receive_queue, send_queue, inode, info, .. } = *socket;
        if state == State::Listen {
            self.listening.push((local, inode, receive_queue, send_queue));
        }
        let key = (local.port(), state);
        let row = self.rows.0.entry(key).or_insert_with(|| Row::new(local.port(), state));
        row.sockets += 1;
        let Some(Info { rtt_micros, retransmits }) = info else { return };
        row.retransmits = Some(row.retransmits.unwrap_or(0) + u64::from(retransmits));
        // A listening socket has none.
        if rtt_micros > 0 && state != State::Listen && row.times.len() < TIMES_MAX {
            row.times.push(rtt_micros);
        }
    }
}

struct Row {
    port: u16,
    state: State,
    sockets: u64,
    retransmits: Option<u64>,
    times: Vec<u32>,
}

impl Row {
    fn new(port: u16, state: State) -> Row {
        Row { port, state, sockets: 0, retransmits: None, times: Vec::new() }
    }

    fn percentile(&mut self, percent: usize) -> Option<u32> {
        let last = self.times.len().checked_sub(1)?;
        let at = last * percent / 100;
        Some(*self.times.select_nth_unstable(at).1)
    }

    fn cells(&mut self) -> Vec<String> {
        let time = |micros: Option<u32>| match micros {
            Some(micros) => format!("{:.2} ms", f64::from(micros) / 1e3),
            None => "-".into(),
        };
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        let again = self.retransmits.filter(|_| self.state != State::Listen);
        vec![
            self.port.to_string(),
            self.state.label().to_owned(),
            self.sockets.to_string(),
            again.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            time(p50),
            time(p99),
        ]
    }

    fn json(&mut self) -> Value {
        let (p50, p99) = (self.percentile(50), self.percentile(99));
        let seconds = |micros: Option<u32>| micros.map(|micros| f64::from(micros) / 1e6);
        json!({
            "port": self.port,
            "state": self.state.label(),
            "sockets": self.sockets,
            "retransmits": self.retransmits,
            "rtt_p50_seconds": seconds(p50),
            "rtt_p99_seconds": seconds(p99),
        })
    }
}

/// Connection tracking, and how full it would be with `connections` more.
///
/// # Errors
/// When it is not there, or not for us.
pub fn conntrack(connections: Option<u64>, json: bool) -> anyhow::Result<String> {
    conntrack_at(&Tree::default(), connections, json)
}

fn conntrack_at(tree: &Tree, connections: Option<u64>, json: bool) -> anyhow::Result<String> {
    let told = Conntrack::read(tree, 0, connections.unwrap_or(0))
        .map_err(|why| anyhow!("connection tracking is not there: {why}"))?;
    let Conntrack { entries, limit, predicted, operations } = told;
    if json {
        let mut body = json!({"entries": entries, "limit": limit, "fill_ratio": told.fill()});
        if let Some(operations) = operations {
            let counted = operations.counted().map(|(name, n)| (name.to_owned(), json!(n)));
            body["operations"] = Value::Object(counted.collect());
        }
        if let Some(connections) = connections {
            body["predicted"] = json!({
                "connections": connections,
                "entries": predicted,
                "fill_ratio": told.predicted_fill(),
            });
        }
        return Ok(format!("{body:#}\n"));
    }
    let percent = |ratio: Option<f64>| match ratio {
        Some(ratio) => format!("{:.1} %", 100.0 * ratio),
        None => "-".into(),
    };
    let mut rows =
        vec![vec!["now".into(), entries.to_string(), limit.to_string(), percent(told.fill())]];
    if let Some(connections) = connections {
        let what = format!("with {connections} connections more");
        let fill = percent(told.predicted_fill());
        rows.push(vec![what, predicted.to_string(), limit.to_string(), fill]);
    }
    let mut out = table(&["CONNTRACK", "ENTRIES", "LIMIT", "FILL"], rows);
    out.push('\n');
    match operations {
        Some(operations) => {
            let rows = operations.counted().map(|(name, n)| vec![name.to_owned(), n.to_string()]);
            out.push_str(&table(&["OPERATION", "COUNT"], rows));
        }
        None => out.push_str("Its operations are not told (no /proc/net/stat/nf_conntrack).\n"),
    }
    Ok(out)
}

/// The sources of a running node's metrics, for `tidegate bpf status`.
pub fn collectors_text(snapshot: &Snapshot) -> String {
    let rows = snapshot.collectors().into_iter().map(|(name, why)| {
        let up = if why.is_none() { "up" } else { "down" };
        vec![name.to_owned(), up.to_owned(), why.unwrap_or_default().to_owned()]
    });
    table(&["COLLECTOR", "STATE", "WHY"], rows)
}

/// The same as JSON.
pub fn collectors_json(snapshot: &Snapshot) -> Value {
    let each = snapshot.collectors().into_iter();
    each.map(|(name, why)| json!({"collector": name, "up": why.is_none(), "why": why})).collect()
}

/// The ports of a config's listeners.
///
/// # Errors
/// When the kernel would choose one of them.
pub fn ports_of(config: &Config) -> anyhow::Result<Vec<u16>> {
    let ports: Vec<u16> = config.listeners.iter().filter_map(|l| l.bind.port()).collect();
    anyhow::ensure!(!ports.contains(&0), "a listener's port is 0: give the real one with --port");
    anyhow::ensure!(!ports.is_empty(), "no listener has a port: give one with --port");
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_between_words() {
        let text = "word ".repeat(60);
        let folded = folded(&text, "  ");
        assert!(folded.lines().all(|line| line.starts_with("  word") && line.len() <= COLUMNS));
        assert_eq!(folded.split_ascii_whitespace().count(), 60);
    }

    #[test]
    fn conntrack_tells_what_a_limit_of_connections_would_need() {
        let root = std::env::temp_dir().join(format!("tidegate-report-{}", std::process::id()));
        let dir = root.join("proc/sys/net/netfilter");
        std::fs::create_dir_all(&dir).expect("mkdir");
        std::fs::write(dir.join("nf_conntrack_count"), "300\n").expect("write");
        std::fs::write(dir.join("nf_conntrack_max"), "262144\n").expect("write");
        let tree = Tree::at(&root);
        let told = conntrack_at(&tree, Some(1_200_000), false).expect("it is there");
        assert!(told.contains("with 1200000 connections more  1200300  262144  457.9 %"), "{told}");
        let told = conntrack_at(&tree, None, true).expect("it is there");
        let told: Value = serde_json::from_str(&told).expect("JSON");
        assert_eq!((&told["entries"], told.get("predicted")), (&json!(300), None));
        assert_eq!(told.get("operations"), None);
        std::fs::remove_dir_all(&root).expect("clean up");
        let error = conntrack_at(&Tree::at(std::path::Path::new("/nonexistent")), None, false);
        assert!(error.is_err_and(|error| error.to_string().contains("nf_conntrack_count")));
    }
}
