//! The tables of a report.

use std::fmt::Write as _;

use crate::faces::figures::{self, bytes, count, cpu_us, percent, short, time};
use crate::faces::html::badge;
use crate::faces::plot::escape;
use crate::outcome::{Outcome, Quantiles};

/// What became of every message, a row each QoS that was used.
pub(super) fn ledger(run: &Outcome) -> String {
    let head = [
        "",
        "published",
        "acknowledged",
        "expected",
        "delivered",
        "repeated",
        "out of order",
        "lost",
        "never acked",
        "invented",
    ];
    let mut rows = Vec::new();
    for (qos, tally) in run.ledger.qos.iter().enumerate() {
        if tally.published + tally.expected + tally.delivered + tally.invented == 0 {
            continue;
        }
        let figures = [
            tally.published,
            tally.acknowledged,
            tally.expected,
            tally.delivered,
            tally.duplicated,
            tally.reordered,
            tally.lost,
            tally.unacknowledged,
            tally.invented,
        ];
        rows.push([format!("QoS {qos}")].into_iter().chain(figures.map(count)).collect());
    }
    let found = figures::findings(&run.ledger);
    let facts: Vec<Vec<String>> =
        found.into_iter().map(|(name, text)| vec![name.to_owned(), text]).collect();
    let facts = if facts.is_empty() { String::new() } else { table("pairs", &[], &facts) };
    if rows.is_empty() {
        return facts;
    }
    let note = "<p class=\"note\">Deliveries are told apart by the identity in each payload; \
                one message to two subscribers is two deliveries. Lost at QoS 1 and 2: acknowledged \
                to the publisher and never delivered.</p>\n";
    let strays = [
        (run.ledger.damaged, "damaged on the way"),
        (run.ledger.misrouted, "delivered to a stranger"),
        (run.ledger.foreign, "of another run or program"),
    ];
    let mut end = String::new();
    for (n, what) in strays.into_iter().filter(|stray| stray.0 > 0) {
        let _ = writeln!(end, "<p class=\"note\">Besides: {} {what}.</p>", count(n));
    }
    format!("{note}{}{end}{facts}", table("", &head, &rows))
}

/// What was run, where.
pub(super) fn run(run: &Outcome) -> String {
    let config = &run.config;
    let mut rows = vec![
        ("Target".to_owned(), config.targets.join(", ")),
        (
            "Clients".to_owned(),
            format!(
                "{}, of which {} publish and {} subscribe; keep-alive {} s, client ids of {} bytes",
                count(config.clients),
                count(config.publishers),
                count(config.subscribers),
                config.keepalive_s,
                config.client_id_bytes
            ),
        ),
    ];
    if let Some(rate) = config.connect_rate {
        rows.push(("Connects".to_owned(), format!("{} a second at most", short(rate))));
    }
    let totals = &run.totals;
    let (sent, received) = (totals.sent_bytes as f64, totals.received_bytes as f64);
    let mut traffic = format!("{} to the broker, {} from it", bytes(sent), bytes(received));
    if totals.flow_ms > 0 {
        let _ = write!(traffic, "; messages flowed for {}", time(totals.flow_ms as f64 * 1e6));
    }
    rows.push(("Traffic".to_owned(), traffic));
    for (name, latency) in [
        ("Latency", &run.latency),
        ("Acknowledgement", &run.ack_latency),
        ("CONNACK", &run.connections.latency),
    ] {
        if latency.quantiles.count > 0 {
            rows.push((name.to_owned(), quantiles(&latency.quantiles)));
        }
    }
    if let Some(memory) = &run.memory {
        let each = |n: Option<f64>| n.map_or("not read".to_owned(), bytes);
        rows.push((
            "Broker's memory".to_owned(),
            format!(
                "{} with {} connections; each takes {} of user and {} of kernel memory",
                bytes(memory.user_with_bytes as f64),
                count(memory.connections),
                each(memory.user_bytes_each()),
                each(memory.kernel_bytes_each())
            ),
        ));
    }
    let machine = &run.machine;
    let cores = |n: Option<u32>| n.map_or("unknown".to_owned(), |n| n.to_string());
    rows.push((
        "Machine".to_owned(),
        format!(
            "{} (broker {}, harness {}), {} of memory, Linux {}",
            if machine.cores == 1 { "1 core".into() } else { format!("{} cores", machine.cores) },
            cores(machine.broker_cores),
            cores(machine.harness_cores),
            bytes(machine.memory_bytes as f64),
            machine.kernel
        ),
    ));
    rows.extend(config.more.iter().map(|(key, value)| (key.clone(), value.clone())));
    pairs(&rows)
}

/// Whether the harness was up to it.
pub(super) fn harness(run: &Outcome) -> String {
    let harness = &run.harness;
    let mut rows = vec![
        ("Busiest worker".to_owned(), format!("{} of its core", percent(harness.busiest))),
        (
            "CPU".to_owned(),
            format!(
                "{} user, {} kernel, {} workers, codec {}",
                time(harness.user_us as f64 * 1e3),
                time(harness.kernel_us as f64 * 1e3),
                run.config.workers,
                run.config.codec
            ),
        ),
        ("Memory".to_owned(), bytes(harness.rss_bytes as f64)),
    ];
    if let Some(each) = harness.bytes_each {
        rows.push(("Own memory a connection".to_owned(), bytes(each)));
    }
    if harness.lateness.count > 0 {
        rows.push(("Late against schedule".to_owned(), quantiles(&harness.lateness)));
    }
    rows.push(("Due and never sent".to_owned(), count(harness.unsent)));
    pairs(&rows)
}

/// Errors by name, the most frequent first.
pub(super) fn errors(run: &Outcome) -> String {
    let mut errors: Vec<_> = run.errors.iter().collect();
    errors.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    pairs(&errors.into_iter().map(|(name, n)| (name.clone(), count(*n))).collect::<Vec<_>>())
}

/// All runs, a column each.
pub(super) fn comparison(runs: &[Outcome]) -> String {
    let head: Vec<&str> =
        std::iter::once("").chain(runs.iter().map(|run| run.label.as_str())).collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, figure: &dyn Fn(&Outcome) -> Option<String>| {
        let figures: Vec<_> = runs.iter().map(figure).collect();
        if figures.iter().any(Option::is_some) {
            let dashed = figures.into_iter().map(|figure| figure.unwrap_or_else(|| "-".into()));
            rows.push(std::iter::once(name.to_owned()).chain(dashed).collect());
        }
    };
    row("verdict", &|run| Some(badge(run).1.to_owned()));
    let latency = |run: &Outcome, of: fn(&Quantiles) -> u64| {
        let quantiles = &run.latency.quantiles;
        (quantiles.count > 0).then(|| time(of(quantiles) as f64))
    };
    row("latency, median", &|run| latency(run, |q| q.p50_ns));
    row("latency, 99 %", &|run| latency(run, |q| q.p99_ns));
    row("latency, 99.9 %", &|run| latency(run, |q| q.p999_ns));
    row("latency, slowest", &|run| latency(run, |q| q.max_ns));
    row("deliveries a second", &|run| {
        run.totals.delivery_rate().filter(|&rate| rate > 0.0).map(short)
    });
    row("connects a second", &|run| run.connections.rate().map(short));
    let mut events: Vec<_> = runs.iter().flat_map(|run| &run.costs).map(|c| c.event).collect();
    events.sort_unstable();
    events.dedup();
    for event in events {
        let cost = |run: &Outcome| run.costs.iter().find(|cost| cost.event == event).copied();
        row(&format!("CPU a {}", event.name()), &|run| cost(run)?.us_each().map(cpu_us));
        row("the same, × floor", &|run| cost(run)?.floors().map(figures::digits));
    }
    row("user memory a connection", &|run| run.memory?.user_bytes_each().map(bytes));
    row("kernel memory a connection", &|run| run.memory?.kernel_bytes_each().map(bytes));
    row("harness, busiest worker", &|run| Some(percent(run.harness.busiest)));
    table("", &head, &rows)
}

fn quantiles(of: &Quantiles) -> String {
    let time = |ns: u64| time(ns as f64);
    format!(
        "median {}, 90 % {}, 99 % {}, 99.9 % {}, 99.99 % {}, slowest {} (of {})",
        time(of.p50_ns),
        time(of.p90_ns),
        time(of.p99_ns),
        time(of.p999_ns),
        time(of.p9999_ns),
        time(of.max_ns),
        count(of.count)
    )
}

fn pairs(rows: &[(String, String)]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    table("pairs", &[], &rows)
}

fn table(class: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = format!("<table class=\"{class}\">\n");
    if !head.is_empty() {
        let cells: String = head.iter().map(|cell| format!("<th>{}</th>", escape(cell))).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    for row in rows {
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    html.push_str("</table>\n");
    html
}
