//! Load for any MQTT broker, from the command line.
//!
//! Exit codes: 0 the verdict is good, 1 it is bad or the run is invalid, 2
//! misuse.

mod agent;
mod cli;
mod coordinator;
mod desk;
mod engine;
mod interrupt;
mod oracle;
mod procfs;
mod protocol;
mod scenario;
mod summary;
mod worker;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_loadtest::faces::html::html;
use tidegate_loadtest::faces::json::json;
use tidegate_loadtest::faces::prometheus::prometheus;
use tidegate_loadtest::faces::terminal::{Moment, Terminal};
use tidegate_loadtest::floor;

use cli::{Cli, Live, Verb};
use summary::summary;

const MISUSE: u8 = 2;

fn main() -> ExitCode {
    let verb = Cli::parse().command;
    match &verb {
        Verb::Worker => match worker::work(std::io::stdin(), std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            // It told its coordinator.
            Err(_) => ExitCode::FAILURE,
        },
        Verb::Agent { listen } => {
            let said = |line: &str| {
                // Whoever started it may have gone.
                let _ = writeln!(std::io::stdout(), "{line}");
            };
            match agent::serve(*listen, said) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => complain(&error, ExitCode::FAILURE),
            }
        }
        Verb::Floor { listen, groups, threads } => {
            let groups = *groups;
            let seat = move |id: &str| floor::seat_of_loadtest(id, groups);
            worker::lift_file_limit();
            match floor::serve(*listen, *threads, Arc::new(seat)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => complain(&error, ExitCode::FAILURE),
            }
        }
        Verb::Compare(compare) => tell(compare.answer()),
        Verb::Report(report) => tell(report.make().map(|()| (String::new(), true))),
        Verb::Plan(ask) => tell(ask.answer().map(|text| (text, true))),
        Verb::Connect { .. }
        | Verb::Census { .. }
        | Verb::Storm { .. }
        | Verb::FanIn { .. }
        | Verb::FanOut { .. }
        | Verb::Pairs { .. }
        | Verb::Shared { .. }
        | Verb::Wildcard { .. }
        | Verb::Retained { .. }
        | Verb::Takeover { .. }
        | Verb::Mixed { .. }
        | Verb::Drain { .. }
        | Verb::Upgrade { .. } => run(&verb),
    }
}

/// Prints an answer; a question that could not be answered is misuse.
fn tell(answer: Result<(String, bool)>) -> ExitCode {
    let printed = answer.and_then(|(text, good)| {
        write!(std::io::stdout(), "{text}")?;
        Ok(good)
    });
    match printed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => complain(&error, ExitCode::from(MISUSE)),
    }
}

fn run(verb: &Verb) -> ExitCode {
    let (request, common) = match verb.request() {
        Ok(Some(request)) => request,
        Ok(None) => return ExitCode::from(MISUSE),
        Err(error) => return complain(&error, ExitCode::from(MISUSE)),
    };
    let mut watch = watcher(common.live);
    let found = interrupt::listen().and_then(|stop| {
        let floor = match common.floor {
            true => Some(coordinator::floor::run(&request, &mut *watch, stop)?),
            false => None,
        };
        let mut outcome = coordinator::run(&request, &mut *watch, stop)?;
        if let Some(floor) = &floor {
            coordinator::floor::enter(&mut outcome, floor);
        }
        Ok(outcome)
    });
    let result = found.and_then(|outcome| {
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
