//! The doors under load: what connections, handshakes and messages cost over
//! TCP, TLS and WebSocket, and what storms and floods do to those who are in.
//!
//! Starts each broker on core 0 with the load on core 1. Every scenario prints
//! a table and a line of JSON; with `--check` it fails when a bound is broken.

mod cgroup;
mod crowd;
mod flood;
mod handshakes;
mod idle;
mod messages;
mod net;
mod report;
mod server;
mod siege;
mod storm;
mod traffic;

use std::fs;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::report::Report;
use crate::server::Broker;
use tidegate_loadtest::transport::Transport;

/// Measures Tidegate's transports, and how it takes storms.
#[derive(Debug, Parser)]
struct Arguments {
    /// The tidegate binary; beside this one if not named
    #[arg(long, global = true)]
    tidegate: Option<PathBuf>,
    /// The mosquitto binary
    #[arg(long, global = true, default_value = "/usr/sbin/mosquitto")]
    mosquitto: PathBuf,
    /// Leave mosquitto out
    #[arg(long, global = true)]
    no_mosquitto: bool,
    /// Exit with 1 when a bound is broken
    #[arg(long, global = true)]
    check: bool,
    /// Priority of load and brokers, -20 to 19: below 0 on a machine that has other work
    #[arg(long, global = true, default_value_t = 0, allow_negative_numbers = true)]
    nice: i32,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Memory and CPU of idle connections
    Idle {
        /// tcp, tls, ws, wss; all if none is named
        #[arg(value_enum)]
        transport: Option<Transport>,
        /// Connections
        #[arg(default_value_t = 10_000)]
        count: usize,
        /// Seconds over which CPU is measured
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// CPU of a connect, with TLS and without
    Handshakes {
        /// How many are measured
        #[arg(default_value_t = 3_000)]
        count: usize,
        /// Repetitions, of which the median counts
        #[arg(long, default_value_t = 3)]
        reps: usize,
    },
    /// CPU of a message over each transport
    Messages {
        /// tcp, tls, ws, wss; all if none is named
        #[arg(value_enum)]
        transport: Option<Transport>,
        /// Seconds of a measurement
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Repetitions, of which the median counts
        #[arg(long, default_value_t = 3)]
        reps: usize,
    },
    /// Clients that reconnect at once beside clients that stay
    Storm {
        /// tcp, tls, ws, wss
        #[arg(value_enum)]
        transport: Transport,
        /// Clients that come back at once
        #[arg(default_value_t = 15_000)]
        count: usize,
        /// Clients that stay, half of them publishers
        #[arg(long, default_value_t = 1_000)]
        established: usize,
        /// Their messages a second, in sum
        #[arg(long, default_value_t = 2_000.0)]
        rate: f64,
        /// Seconds of calm
        #[arg(long, default_value_t = 10.0)]
        calm: f64,
        /// Seconds without the crowd before the last look at memory
        #[arg(long, default_value_t = 60.0)]
        rest: f64,
        /// Who takes it; the floor over tcp only
        #[arg(long, value_enum, default_value = "tidegate")]
        broker: Taker,
    },
    /// Ten times the connects that a listener takes, refused in the kernel and by the broker
    Siege {
        /// Connects a second that the listener takes
        #[arg(default_value_t = 1_000)]
        allowed: u32,
        /// Connects a second that are tried
        #[arg(default_value_t = 10_000)]
        tried: u32,
        /// Seconds of calm, and of the siege
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// A flood to clients that never read, in 256 MiB
    Flood {
        /// tcp, tls, ws, wss
        #[arg(value_enum, default_value = "tcp")]
        transport: Transport,
        /// Clients that never read
        #[arg(default_value_t = 1_000)]
        count: usize,
        /// Seconds of calm
        #[arg(long, default_value_t = 5.0)]
        calm: f64,
        /// Seconds of the flood
        #[arg(long, default_value_t = 30.0)]
        seconds: f64,
        /// Folder of the cgroup below which ours is made, if not our own one
        #[arg(long)]
        cgroup: Option<PathBuf>,
    },
}

/// Who takes a storm.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Taker {
    /// Tidegate
    Tidegate,
    /// mosquitto
    Mosquitto,
    /// The relay of `peers` that parses nothing
    Floor,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    prepare()?;
    if arguments.nice != 0 {
        rustix::process::setpriority_process(None, arguments.nice)?;
    }
    let report = measure(&arguments)?;
    say(&format!("load average {}\n\n{}", load_average(), report.text()));
    let failed = arguments.check && !report.broken().is_empty();
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure(arguments: &Arguments) -> Result<Report> {
    let tidegate = match &arguments.tidegate {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("tidegate"),
    };
    let ours = Broker::Tidegate(tidegate);
    let theirs = Broker::Mosquitto(arguments.mosquitto.clone());
    let mut brokers = vec![ours.clone()];
    if !arguments.no_mosquitto {
        brokers.push(theirs.clone());
    }
    let seconds = Duration::from_secs_f64;
    let chosen = |one: Option<Transport>| one.map_or(Transport::ALL.to_vec(), |one| vec![one]);
    match &arguments.scenario {
        Scenario::Idle { transport, count, seconds: span } => {
            idle::run(&brokers, &chosen(*transport), *count, seconds(*span))
        }
        Scenario::Handshakes { count, reps } => handshakes::run(&brokers, *count, *reps),
        Scenario::Messages { transport, seconds: span, reps } => {
            messages::run(&brokers, &chosen(*transport), seconds(*span), *reps)
        }
        &Scenario::Storm { transport, count, established, rate, calm, rest, broker } => {
            let broker = match broker {
                Taker::Tidegate => ours,
                Taker::Mosquitto => theirs,
                Taker::Floor => Broker::Floor(std::env::current_exe()?.with_file_name("peers")),
            };
            let storm = storm::Storm {
                established,
                crowd: count,
                rate,
                calm: seconds(calm),
                rest: seconds(rest),
            };
            storm::run(&broker, transport, storm)
        }
        &Scenario::Siege { allowed, tried, seconds: span } => {
            siege::run(&ours, siege::Siege { allowed, tried, span: seconds(span) })
        }
        Scenario::Flood { transport, count, calm, seconds: span, cgroup } => {
            let flood = flood::Flood {
                readers: *count,
                calm: seconds(*calm),
                span: seconds(*span),
                cgroup: cgroup.as_deref(),
            };
            flood::run(&ours, *transport, flood)
        }
    }
}

/// Sockets enough for 19,000 connections, and timers that do not dawdle.
fn prepare() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raise the limit of open files")?;
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    Ok(())
}

fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}
