//! Load for any MQTT broker, from the command line.
//!
//! Exit codes: 0 the verdict is good, 1 it is bad or the run is invalid, 2
//! misuse.

mod cli;
mod coordinator;
mod engine;
mod procfs;
mod protocol;
mod scenario;
mod worker;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_loadtest::faces::html::html;
use tidegate_loadtest::faces::json::json;
use tidegate_loadtest::faces::prometheus::prometheus;
use tidegate_loadtest::faces::terminal::{Moment, Terminal};
use tidegate_loadtest::outcome::{Outcome, Quantiles, Verdict};

use cli::{Cli, Live, Verb};

const MISUSE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Verb::Worker) {
        return match worker::work(std::io::stdin(), std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let request = match cli.command.request() {
        Ok(Some(request)) => request,
        Ok(None) => return ExitCode::from(MISUSE),
        Err(error) => return complain(&error, ExitCode::from(MISUSE)),
    };
    let (request, common) = request;
    let mut watch = watcher(common.live);
    let result = coordinator::run(&request, &mut *watch).and_then(|outcome| {
        if let Some(path) = &common.json {
            save(path, &json(&outcome))?;
        }
        if let Some(path) = &common.prometheus {
            save(path, &prometheus(&outcome))?;
        }
        if let Some(path) = &common.html {
            save(path, &html(std::slice::from_ref(&outcome)))?;
        }
        write!(std::io::stderr(), "{}", summary(&outcome))?;
        Ok(outcome)
    });
    match result {
        Ok(outcome) if outcome.passed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => complain(&error, ExitCode::FAILURE),
    }
}

fn complain(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "tidegate-loadtest: {error:#}");
    code
}

fn save(path: &Path, text: &str) -> Result<()> {
    if path.as_os_str() == "-" {
        return Ok(writeln!(std::io::stdout(), "{text}")?);
    }
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// What a closed terminal swallows is no reason to end a run.
fn watcher(live: Live) -> Box<dyn FnMut(&Moment<'_>)> {
    let terminal = std::io::stderr().is_terminal();
    match live {
        Live::View => Box::new(view(terminal)),
        Live::Auto if terminal => Box::new(view(true)),
        Live::Lines => Box::new(|moment| {
            if moment.sample.at_ms.is_multiple_of(1_000) {
                let _ = writeln!(std::io::stderr(), "{}", Terminal::line(moment));
            }
        }),
        Live::Auto | Live::Off => Box::new(|_| {}),
    }
}

fn view(colours: bool) -> impl FnMut(&Moment<'_>) {
    let mut terminal = Terminal::new(colours);
    move |moment| {
        let _ = write!(std::io::stderr(), "{}", terminal.frame(moment));
    }
}

fn summary(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    let connections = &outcome.connections;
    lines.push(format!(
        "connections  {} up of {} in {} ms ({:.0}/s), {} failed, {} refused, {} lost",
        connections.peak,
        outcome.config.clients,
        connections.ramp_ms,
        connections.rate().unwrap_or(0.0),
        connections.failed,
        connections.refused,
        connections.lost,
    ));
    lines.push(format!("  from due   {}", quantiles(&connections.latency.quantiles)));
    for (name, value) in &outcome.config.more {
        lines.push(format!("  {name}: {value}"));
    }
    let totals = &outcome.totals;
    if totals.published > 0 {
        lines.push(format!(
            "messages     {} published ({:.0}/s), {} acknowledged, {} delivered ({:.0}/s)",
            totals.published,
            totals.publish_rate().unwrap_or(0.0),
            totals.acknowledged,
            totals.delivered,
            totals.delivery_rate().unwrap_or(0.0),
        ));
        lines.push(format!("  delivery   {}", quantiles(&outcome.latency.quantiles)));
        lines.push(format!("  ack        {}", quantiles(&outcome.ack_latency.quantiles)));
    }
    for cost in &outcome.costs {
        lines.push(format!(
            "broker CPU   {:.2} us a {} ({:.2} user, {:.2} kernel)",
            cost.us_each().unwrap_or(0.0),
            cost.event.name(),
            cost.user_us_each().unwrap_or(0.0),
            cost.kernel_us_each().unwrap_or(0.0),
        ));
    }
    if let Some(memory) = &outcome.memory {
        lines.push(format!(
            "broker bytes {:.0} user, {:.0} kernel (both ends) a connection",
            memory.user_bytes_each().unwrap_or(0.0),
            memory.kernel_bytes_each().unwrap_or(0.0),
        ));
    }
    let harness = &outcome.harness;
    lines.push(format!(
        "harness      {:.0} % of a core at its busiest, {:.0} bytes a connection, {} unsent",
        harness.busiest * 100.0,
        harness.bytes_each.unwrap_or(0.0),
        harness.unsent,
    ));
    lines.push(format!("  lateness   {}", quantiles(&harness.lateness)));
    for (name, count) in &outcome.errors {
        lines.push(format!("error        {count} x {name}"));
    }
    for (qos, tally) in outcome.ledger.qos.iter().enumerate() {
        if tally.published + tally.expected > 0 {
            lines.push(format!(
                "ledger QoS {qos} {} expected, {} delivered, {} duplicated, {} reordered, {} lost, \
                 {} unacknowledged",
                tally.expected,
                tally.delivered,
                tally.duplicated,
                tally.reordered,
                tally.lost,
                tally.unacknowledged,
            ));
        }
    }
    let verdict = match &outcome.ledger.verdict {
        Verdict::Unjudged => "no message was looked at".to_owned(),
        Verdict::Good => "every promise was kept".to_owned(),
        Verdict::Bad(breaches) => format!("promises were broken: {breaches:?}"),
        Verdict::Inconclusive { unrecorded } => format!("{unrecorded} deliveries unrecorded"),
    };
    lines.push(format!("verdict      {verdict}"));
    if let Some(invalid) = &outcome.invalid {
        lines.push(format!("INVALID      {invalid}"));
    }
    lines.join("\n") + "\n"
}

fn quantiles(of: &Quantiles) -> String {
    let ms = |ns: u64| ns as f64 / 1e6;
    format!(
        "p50 {:.3} p99 {:.3} p99.9 {:.3} max {:.3} ms ({})",
        ms(of.p50_ns),
        ms(of.p99_ns),
        ms(of.p999_ns),
        ms(of.max_ns),
        of.count
    )
}
