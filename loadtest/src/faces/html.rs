//! The report: one file, no scripts, nothing fetched.
//!
//! The first outcome is the subject; with more, each plot shows all runs and a
//! table sets them side by side. The verdict and an invalid run stand at the
//! top: nobody should admire a curve before knowing whether it counts.

mod charts;
mod tables;

use std::fmt::Write as _;

use crate::faces::figures::{self, bytes, cpu_us, short, time};
use crate::faces::plot::escape;
use crate::outcome::{Outcome, Verdict};

/// Runs in one report at most; further ones are left out, and the page says so.
pub const RUNS_MAX: usize = 6;

/// The page for one run, or for several beside one another.
pub fn html(outcomes: &[Outcome]) -> String {
    let left_out = outcomes.len().saturating_sub(RUNS_MAX);
    let runs = &outcomes[..outcomes.len().min(RUNS_MAX)];
    let Some(subject) = runs.first() else {
        return page("No run", "<h1>No run to report</h1>\n");
    };
    let mut body = head(subject);
    for run in runs {
        banner(&mut body, run, runs.len() > 1);
    }
    tiles(&mut body, subject);
    if left_out > 0 {
        let _ = writeln!(body, "<p class=\"note\">{left_out} more runs are left out.</p>");
    }
    if runs.len() > 1 {
        section(&mut body, "Runs side by side", tables::comparison(runs));
    }
    charts::all(&mut body, runs);
    section(&mut body, "Ledger", tables::ledger(subject));
    section(&mut body, "The run", tables::run(subject));
    section(&mut body, "The harness itself", tables::harness(subject));
    if !subject.errors.is_empty() {
        section(&mut body, "Errors", tables::errors(subject));
    }
    let _ = writeln!(
        body,
        "<footer>tidegate-loadtest {} · <code>{}</code></footer>",
        escape(&subject.tool),
        escape(&subject.command)
    );
    page(&format!("{}: {}", subject.config.scenario, subject.label), &body)
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n\
         <style>\n{}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title),
        include_str!("html/style.css")
    )
}

fn section(body: &mut String, title: &str, content: String) {
    if !content.is_empty() {
        let _ = writeln!(body, "<section>\n<h2>{}</h2>\n{content}</section>", escape(title));
    }
}

fn head(run: &Outcome) -> String {
    let config = &run.config;
    let flow = match (config.rate, config.window) {
        (Some(rate), _) => Some(format!("{} messages/s, open loop", short(rate))),
        (None, Some(window)) => Some(format!("{window} in flight a publisher, closed loop")),
        (None, None) => None,
    };
    let load = flow.map_or("no messages".to_owned(), |flow| match config.scenario.as_str() {
        // Each class has its own.
        "mixed" => flow,
        _ => {
            format!("QoS {} · {} payload · {flow}", config.qos, bytes(config.payload_bytes as f64))
        }
    });
    let (class, word) = badge(run);
    format!(
        "<header><div><h1>{} <span class=\"soft\">against</span> {}</h1>\n\
         <p>MQTT {} over {} · {} clients · {load}<br>{}, {} long</p></div>\n\
         <span class=\"badge {class}\">{word}</span></header>\n",
        escape(&config.scenario),
        escape(&run.label),
        escape(&config.version),
        escape(&config.transport),
        figures::count(config.clients),
        figures::moment(run.started_unix_ms),
        time(run.duration_ms as f64 * 1e6),
    )
}

/// The judgement in a word, and the colour it has.
fn badge(run: &Outcome) -> (&'static str, &'static str) {
    if run.invalid.is_some() {
        return ("doubt", "Invalid run");
    }
    match &run.ledger.verdict {
        Verdict::Bad(_) => ("bad", "Promises broken"),
        Verdict::Inconclusive { .. } => ("doubt", "Inconclusive"),
        Verdict::Good | Verdict::Unjudged if run.connections.lost > 0 && !run.config.reconnect => {
            ("bad", "Connections lost")
        }
        Verdict::Good | Verdict::Unjudged if !run.passed() => ("bad", "Clients missing"),
        Verdict::Good => ("good", "Every promise kept"),
        Verdict::Unjudged => ("good", "All connected"),
    }
}

/// Why the badge is not green, if so.
fn banner(body: &mut String, run: &Outcome, named: bool) {
    let mut lines = Vec::new();
    let class = badge(run).0;
    if let Some(invalid) = &run.invalid {
        lines.push(format!("{invalid}. The figures below say nothing about the broker."));
    }
    match &run.ledger.verdict {
        Verdict::Bad(breaches) => lines.extend(breaches.iter().map(|breach| {
            let qos = breach.qos.map_or(String::new(), |qos| format!("QoS {qos}: "));
            format!("{qos}{} {}", figures::count(breach.count), breach.promise.breach())
        })),
        Verdict::Inconclusive { unrecorded } => lines.push(format!(
            "{} deliveries were too scattered to tell loss from repetition",
            figures::count(*unrecorded)
        )),
        Verdict::Good | Verdict::Unjudged => {}
    }
    let connections = &run.connections;
    let missing = (connections.missing, "clients had no connection at the end");
    let lost = if run.config.reconnect { 0 } else { connections.lost };
    for (n, what) in [missing, (lost, "connections were lost")] {
        if n > 0 {
            lines.push(format!("{} {what}", figures::count(n)));
        }
    }
    if lines.is_empty() {
        return;
    }
    let name = if named { format!("{}: ", escape(&run.label)) } else { String::new() };
    let _ = writeln!(body, "<div class=\"banner {class}\"><strong>{name}{}</strong>", badge(run).1);
    for line in lines {
        let _ = writeln!(body, "<span>{}</span>", escape(&line));
    }
    body.push_str("</div>\n");
}

fn tiles(body: &mut String, run: &Outcome) {
    let mut tiles: Vec<(String, String)> = Vec::new();
    let latency = &run.latency.quantiles;
    if latency.count > 0 {
        tiles.push((time(latency.p50_ns as f64), "latency, median".into()));
        tiles.push((time(latency.p99_ns as f64), "latency, 99 %".into()));
        tiles.push((time(latency.p999_ns as f64), "latency, 99.9 %".into()));
    }
    let gap = &run.connections.gap.quantiles;
    if gap.count > 0 {
        tiles.push((time(gap.p50_ns as f64), "without service, median".into()));
        tiles.push((time(gap.max_ns as f64), "without service, longest".into()));
    }
    let connects = &run.connections.latency.quantiles;
    if latency.count == 0 && connects.count > 0 {
        tiles.push((time(connects.p50_ns as f64), "until CONNACK, median".into()));
        tiles.push((time(connects.p99_ns as f64), "until CONNACK, 99 %".into()));
        tiles.push((time(connects.max_ns as f64), "until CONNACK, slowest".into()));
    }
    if let Some(rate) = run.totals.delivery_rate().filter(|&rate| rate > 0.0) {
        tiles.push((short(rate), "deliveries a second".into()));
    }
    if let Some(rate) = run.connections.rate() {
        tiles.push((short(rate), "connects a second".into()));
    }
    for cost in &run.costs {
        if let Some(us) = cost.us_each() {
            let floors = cost
                .floors()
                .map_or(String::new(), |n| format!(", {} × floor", figures::digits(n)));
            tiles.push((cpu_us(us), format!("broker CPU a {}{floors}", cost.event.name())));
        }
    }
    if let Some(each) = run.memory.and_then(|memory| memory.user_bytes_each()) {
        tiles.push((bytes(each), "broker memory a connection".into()));
    }
    tiles.push((figures::count(run.connections.peak), "connections at most".into()));
    body.push_str("<div class=\"tiles\">\n");
    for (figure, what) in tiles.iter().take(8) {
        let (figure, what) = (escape(figure), escape(what));
        let _ = writeln!(body, "<div class=\"tile\"><b>{figure}</b><span>{what}</span></div>");
    }
    body.push_str("</div>\n");
}

#[cfg(test)]
pub(crate) mod tests;
