//! The command line: `tidegate run | check`; later commands are `NOUN VERB`.
//!
//! Results go to stdout, talk to stderr. Exit 0: fine; 1: failed; 2: misused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tidegate_core::limits::SHARDS_MAX;

use crate::config::reload::Source;
use crate::config::{self, Config, Flags, Overlay, Reload, reference};
use crate::pages;
use crate::telemetry::{log, metric};

/// Runs a node until it is told to stop.
pub type Runner = fn(Config, Reload) -> anyhow::Result<()>;

#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about = "An MQTT broker node", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until SIGTERM or SIGINT
    Run(RunArgs),
    /// Tell everything that is wrong with a config, or what it means
    Check {
        /// The config
        file: PathBuf,
    },
    /// Print completions for a shell
    Completion {
        /// Which
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one a command
    Man {
        /// Where to write them
        dir: Option<PathBuf>,
    },
    /// Print a generated page of the documentation
    #[command(hide = true)]
    Docs {
        /// Which
        page: Page,
    },
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Config in TOML; without it the defaults run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where MQTT clients connect (listener.default.bind)
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where metrics and health are served (admin.bind)
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Where the node keeps its files (node.data_dir)
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Shards, one thread each (node.shards)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=SHARDS_MAX as i64))]
    shards: Option<u16>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Page {
    Config,
    Metrics,
}

/// The whole program but for the node itself, which is `run`.
pub fn main(run: Runner) -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run_node(args, run),
        Command::Check { file } => check(&file),
        Command::Completion { shell } => {
            print(&pages::completion(Cli::command(), shell));
            Ok(())
        }
        Command::Man { dir: Some(dir) } => pages::write_manuals(Cli::command(), &dir),
        Command::Man { dir: None } => {
            pages::manual(Cli::command()).map(|page| print(&page)).context("cannot make the page")
        }
        Command::Docs { page } => {
            print(&match page {
                Page::Config => reference::markdown(),
                Page::Metrics => metric::markdown(),
            });
            Ok(())
        }
    };
    let status = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Where all lines are to be JSON, the last one is as well.
        Err(error) if log::is_json() => {
            tracing::error!(error = format!("{error:#}"), "cannot run");
            ExitCode::FAILURE
        }
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    };
    log::flush();
    status
}

fn run_node(args: RunArgs, run: Runner) -> anyhow::Result<()> {
    let flags = Flags {
        listen: args.listen,
        admin: args.admin,
        data_dir: args.data_dir,
        shards: args.shards,
    };
    let overlay = Overlay::from_environment().with_flags(flags);
    let source = Source { path: args.config, overlay };
    let (file, config) = source.read()?;
    config.log.start()?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    run(config, Reload::new(source, file))
}

fn check(path: &Path) -> anyhow::Result<()> {
    let (file, config) = config::read(&read(path)?, &Overlay::from_environment())?;
    for warning in &config.warnings {
        complain(&format!("warning: {warning}"));
    }
    print(&format!("ok\n\n{}", reference::effective(&file, &config)));
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))
}

/// To stdout. A reader that left early (`| head`) is not our failure.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[allow(clippy::print_stderr)]
fn complain(text: &str) {
    eprintln!("{text}");
}
