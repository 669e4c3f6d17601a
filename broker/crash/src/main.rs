//! Kills broker processes and holds them to what they acknowledged.
//!
//! A process and its disk are put under a load that both sides of every
//! promise keep book of: clients with persistent sessions that do what MQTT
//! asks of them, and a judge that reads the book afterwards and knows nothing
//! of the broker. Of a cluster the clients are spread over its nodes, and go to
//! the next one when theirs is gone. `kill -9` tests what a process keeps in its memory alone; it
//! doesn't lose the page cache, so the sync itself is tested by making it fail.

mod cast;
mod cluster;
mod dice;
mod faults;
mod history;
mod judge;
mod killer;
mod line;
mod lives;
mod options;
mod process;
mod report;
mod role;
mod scenario;
mod session;
mod signals;
mod stage;
mod volume;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use history::line;
use options::{Options, Scenario, USAGE};
use scenario::Outcome;

#[allow(clippy::print_stderr, clippy::print_stdout)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match args.split_first() {
        Some((first, rest)) if first == "cluster-test" => return cluster::test(rest),
        Some((first, rest)) if first == "cluster" => return cluster::up(rest),
        Some(_) | None => {}
    }
    let options = match Options::parse(&args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = signals::end_on_signals() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let mut good = true;
    for &scenario in &options.scenarios {
        match perform(&options, scenario) {
            Ok(passed) => good &= passed,
            Err(error) => {
                eprintln!("{}: {error:#}", scenario.name());
                good = false;
            }
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every event, for whoever looks for the cause of a breach.
fn write_history(outcome: &Outcome, file: &Path) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(file)?);
    outcome.events.iter().try_for_each(|event| writeln!(out, "{}", line(&outcome.cast, event)))?;
    out.flush()
}

/// Runs a scenario and says how it went; whether it is as it should be.
#[allow(clippy::print_stderr, clippy::print_stdout)]
fn perform(options: &Options, scenario: Scenario) -> Result<bool> {
    eprintln!("{}: seed {}", scenario.name(), options.seed);
    match scenario::run(options, scenario)? {
        Ok(outcome) => conclude(&outcome, options.seed, options.plant, options.keep),
        Err(why) => {
            println!("{}: SKIPPED, {why}", scenario.name());
            Ok(!options.no_skip)
        }
    }
}

/// Says and records how a run went; whether it is as it should be.
#[allow(clippy::print_stdout)]
pub(crate) fn conclude(outcome: &Outcome, seed: u64, plant: bool, keep: bool) -> Result<bool> {
    let breaches = outcome.verdict.breaches();
    let broken = breaches > 0;
    let passed = broken == plant;
    print!("{}", report::text(outcome, seed));
    let file = outcome.dir.with_extension("json");
    let json = report::json(outcome, seed, plant, passed);
    fs::write(&file, format!("{json:#}\n")).with_context(|| format!("cannot write {file:?}"))?;
    println!("\nrecorded in {}", file.display());
    if broken && !plant {
        let whole = outcome.dir.join("history.txt");
        write_history(outcome, &whole).with_context(|| format!("cannot write {whole:?}"))?;
        println!("all that happened is in {}", whole.display());
    }
    let name = outcome.name;
    match (plant, broken) {
        (false, false) => println!("{name}: PASSED"),
        (false, true) => println!("{name}: FAILED, {breaches} breaches"),
        (true, true) => println!("{name}: PASSED, the plant was found"),
        (true, false) => println!("{name}: FAILED, the plant was NOT found"),
    }
    if passed && !keep {
        fs::remove_dir_all(&outcome.dir)
            .with_context(|| format!("cannot remove {:?}", outcome.dir))?;
    }
    Ok(passed)
}
