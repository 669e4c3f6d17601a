//! The comparison with other brokers.
//!
//! Runs a lean load against one broker at a time and says what each event cost
//! the broker in CPU time, beside the floor: a relay that moves the same bytes
//! and parses nothing. CPU time an event holds on a noisy machine where
//! messages a second do not, and the multiple of the floor holds across
//! machines.
//!
//! `peers run` starts the brokers itself; `peers load` measures one that is
//! running already (for `perf` and `strace`); `peers floor-server` is the floor.

mod broker;
mod dial;
mod flow;
mod measure;
mod net;
mod plot;
mod report;
mod scenario;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::broker::{Broker, Column};
use crate::measure::{Subject, measure};
use crate::plot::plot;
use crate::report::Report;
use crate::scenario::{LINES, SCENARIOS, Scenario};

/// Compares Tidegate with other brokers and with the cost of the kernel alone.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start each broker, measure the rows, print a Markdown table
    Run(Run),
    /// Measure one row of a broker that is running already
    Load {
        /// The row, by its name
        #[arg(long)]
        row: String,
        /// Where the broker listens
        #[arg(long)]
        addr: SocketAddr,
        /// Its process id
        #[arg(long)]
        pid: u32,
        /// Seconds of a measured phase
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Serve the floor until killed
    FloorServer {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddr,
        /// Threads
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// List the rows
    Rows,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Rows to measure, by name; all if none is named
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// The tidegate binary; its column stays empty without
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// Configuration file for tidegate
    #[arg(long)]
    tidegate_config: Option<PathBuf>,
    /// The mosquitto binary
    #[arg(long, default_value = "/usr/sbin/mosquitto")]
    mosquitto: PathBuf,
    /// Leave mosquitto out
    #[arg(long)]
    no_mosquitto: bool,
    /// The rumqttd binary
    #[arg(long)]
    rumqttd: Option<PathBuf>,
    /// The FlashMQ binary
    #[arg(long)]
    flashmq: Option<PathBuf>,
    /// The NanoMQ binary
    #[arg(long)]
    nanomq: Option<PathBuf>,
    /// The script bin/emqx of EMQX
    #[arg(long)]
    emqx: Option<PathBuf>,
    /// Repetitions, of which the median counts
    #[arg(long, default_value_t = 3)]
    reps: usize,
    /// Seconds of a measured phase
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Priority of load and brokers, -20 to 19: below 0 on a machine that has other work
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    nice: i32,
    /// Print JSON instead of Markdown
    #[arg(long)]
    json: bool,
    /// Also write the table between the markers of this page
    #[arg(long)]
    write: Option<PathBuf>,
    /// Also draw the CPU figures into this SVG file
    #[arg(long)]
    plot: Option<PathBuf>,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Verb::Run(run) => compare(&run),
        Verb::Load { row, addr, pid, seconds } => {
            prepare()?;
            let span = Duration::from_secs_f64(seconds);
            for (metric, value) in measure(scenario(&row)?, Subject { addr, pid, span })? {
                say(&format!("{row} {metric:?} {value:.3}"));
            }
            Ok(())
        }
        Verb::FloorServer { listen, threads } => {
            prepare()?;
            tidegate_loadtest::floor::serve(listen, threads, Arc::new(dial::seat))
        }
        Verb::Rows => {
            for scenario in SCENARIOS {
                let labels: Vec<_> = LINES
                    .iter()
                    .filter(|line| line.scenario == scenario.name)
                    .map(|line| line.label)
                    .collect();
                say(&format!("{:16}{}", scenario.name, labels.join("; ")));
            }
            Ok(())
        }
    }
}

fn compare(run: &Run) -> Result<()> {
    ensure!(run.reps > 0 && run.seconds > 0.0, "nothing to measure");
    prepare()?;
    if run.nice != 0 {
        rustix::process::setpriority_process(None, run.nice)?;
    }
    let brokers = brokers(run)?;
    let rows: Vec<&Scenario> = match run.rows.is_empty() {
        true => SCENARIOS.iter().collect(),
        false => run.rows.iter().map(|name| scenario(name)).collect::<Result<_>>()?,
    };
    let span = Duration::from_secs_f64(run.seconds);
    let mut report = Report::default();
    for row in rows {
        // Brokers alternate, so that a noisy minute falls on all of them.
        for repetition in 0..run.reps.max(row.repetitions_min) {
            for broker in &brokers {
                if able(row, broker) && !report.failed(row.name, broker.column) {
                    repeat(row, broker, span, repetition, &mut report);
                }
            }
        }
    }
    let setting = setting(run);
    let table = format!("{}\n\n{}", sentence(&setting), report.markdown());
    if let Some(path) = &run.plot {
        fs::write(path, plot(&report))?;
    }
    match run.json {
        true => say(&serde_json::to_string_pretty(&report.json(&setting))?),
        false => say(&table),
    }
    if let Some(path) = &run.write {
        report::write_between_markers(path, &table)?;
    }
    Ok(())
}

/// Those that are there, in the order of the table.
fn brokers(run: &Run) -> Result<Vec<Broker>> {
    let own = std::env::current_exe()?;
    let mosquitto = (!run.no_mosquitto).then_some(&run.mosquitto);
    let programs = Column::ALL.map(|column| {
        let program = match column {
            Column::Floor => Some(&own),
            Column::Mosquitto => mosquitto,
            Column::Rumqttd => run.rumqttd.as_ref(),
            Column::FlashMq => run.flashmq.as_ref(),
            Column::NanoMq => run.nanomq.as_ref(),
            Column::Emqx => run.emqx.as_ref(),
            Column::Tidegate => run.tidegate.as_ref(),
        };
        let config = match column {
            Column::Tidegate => run.tidegate_config.clone(),
            Column::Floor
            | Column::Mosquitto
            | Column::Rumqttd
            | Column::FlashMq
            | Column::NanoMq
            | Column::Emqx => None,
        };
        program.map(|program| Broker { column, program: program.clone(), config })
    });
    Ok(programs.into_iter().flatten().collect())
}

fn able(row: &Scenario, broker: &Broker) -> bool {
    match broker.column {
        Column::Floor => row.floor,
        Column::Tidegate => true,
        // It compares each topic with each filter: a million would take hours.
        Column::Rumqttd => !row.placed && row.filters() < 1_000_000,
        Column::Mosquitto | Column::FlashMq | Column::NanoMq | Column::Emqx => !row.placed,
    }
}

/// One repetition against a broker started for it.
fn repeat(row: &Scenario, broker: &Broker, span: Duration, repetition: usize, report: &mut Report) {
    let column = broker.column;
    let result = broker
        .start(row.cores, row.version())
        .and_then(|running| measure(row, Subject { addr: running.addr, pid: running.pid(), span }));
    match result {
        Ok(sample) => {
            tell(&format!("{} {column} #{repetition}: {sample:.2?}", row.name));
            for (metric, value) in sample {
                report.add(row.name, metric, column, value);
            }
        }
        Err(error) => {
            tell(&format!("{} {column} #{repetition}: {error:#}", row.name));
            report.fail(row.name, column, format!("{error:#}"));
        }
    }
}

fn scenario(name: &str) -> Result<&'static Scenario> {
    match SCENARIOS.iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(scenario),
        None => bail!("no row {name}; `peers rows` lists them"),
    }
}

/// Sockets enough for 15,000 connections, and timers that do not dawdle.
fn prepare() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    Ok(())
}

/// What the figures were measured with.
fn setting(run: &Run) -> BTreeMap<&'static str, String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let first = |text: String, mark: &str| {
        let line = text.lines().find(|line| line.contains(mark)).unwrap_or_default();
        line.rsplit(':').next().unwrap_or_default().trim().to_owned()
    };
    let mosquitto = Command::new(&run.mosquitto).arg("-h").output();
    let mosquitto = mosquitto.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    BTreeMap::from([
        ("cpu", first(read("/proc/cpuinfo"), "model name")),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("brokers", brokers_of(run)),
        ("mosquitto", first(mosquitto.unwrap_or_default(), "mosquitto version")),
        // It runs inside the broker's system calls: BBR paces, CUBIC does not.
        ("tcp", read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned()),
        ("load average", first_word(&read("/proc/loadavg"))),
        ("repetitions", run.reps.to_string()),
        ("seconds", run.seconds.to_string()),
    ])
}

/// What other brokers say that they are.
fn brokers_of(run: &Run) -> String {
    let programs = [&run.rumqttd, &run.flashmq, &run.nanomq];
    let mut said = String::new();
    for program in programs.into_iter().flatten() {
        let Ok(out) = Command::new(program).arg("--version").output() else { continue };
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        said.push_str(", ");
        said.push_str(text.lines().next().unwrap_or_default().trim());
    }
    if run.emqx.is_some() {
        said.push_str(", EMQX");
    }
    said
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

fn sentence(setting: &BTreeMap<&'static str, String>) -> String {
    format!(
        "Measured on 2 cores of {} (Linux {}, TCP with {}), {}{}, medians of {} runs of {} s; CPU is the broker's \
         own, in microseconds an event. Client ids of 16 characters, keep-alive 60 s, payload 64 \
         bytes unless stated, 100 publishers and subscribers in the 1:1 rows. Load average before \
         the run: {}; rates and latencies mean something only when that is near 0. The multiples \
         are medians over repetitions in which the two ran one after the other.",
        setting["cpu"],
        setting["kernel"],
        setting["tcp"],
        setting["mosquitto"],
        setting["brokers"],
        setting["repetitions"],
        setting["seconds"],
        setting["load average"],
    )
}

#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr)]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Cores;

    #[test]
    fn every_line_names_a_scenario_and_every_scenario_fills_a_line() {
        for line in LINES {
            assert!(scenario(line.scenario).is_ok(), "{}", line.label);
        }
        for scenario in SCENARIOS {
            assert!(LINES.iter().any(|line| line.scenario == scenario.name), "{}", scenario.name);
        }
    }

    #[test]
    fn only_rows_on_both_cores_leave_the_broker_unpinned() {
        let both: Vec<_> =
            SCENARIOS.iter().filter(|s| s.cores == Cores::Both).map(|s| s.name).collect();
        assert_eq!(both, ["both-qos0-w16", "both-fanout-w4", "same-shard", "cross-shard"]);
    }
}
