//! What a cluster costs: messages across nodes, connects with claims, routes,
//! the SUBACK's barrier and a failover, with one, three and five nodes.
//!
//! All nodes of a cluster run on core 0 with one shard each, and the load on
//! core 1. Messages and connects are `tidegate-loadtest`'s, with its ledger; the
//! CPU is read for each process. Prints a table a row, in Markdown.

mod client;
mod nodes;
mod rows;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use benches::server::{CORE_LOAD, pin};
use clap::{Parser, ValueEnum};

use crate::nodes::Cluster;
use crate::rows::{Row, Subject};

/// Measures clusters of Tidegate on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// The tidegate binary; beside this one if not named
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// The tidegate-loadtest binary; beside this one if not named
    #[arg(long)]
    loadtest: Option<PathBuf>,
    /// Sizes of clusters, 1 to 9 nodes
    #[arg(long, value_delimiter = ',', default_value = "1,3,5",
          value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: Vec<u8>,
    /// Some rows only
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// Seconds of a measured phase
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Publishes a second in the rows of messages
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("cluster: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)]
fn run(arguments: &Arguments) -> Result<()> {
    let beside = |name: &str| -> Result<PathBuf> {
        Ok(std::env::current_exe().context("this program's path")?.with_file_name(name))
    };
    let tidegate = arguments.tidegate.clone().map_or_else(|| beside("tidegate"), Ok)?;
    let loadtest = arguments.loadtest.clone().map_or_else(|| beside("tidegate-loadtest"), Ok)?;
    for program in [&tidegate, &loadtest] {
        ensure!(program.is_file(), "there is no program at {program:?}");
    }
    // What this program starts inherits its core.
    pin(&[CORE_LOAD])?;
    let all = Row::value_variants();
    let rows = if arguments.rows.is_empty() { all } else { &arguments.rows[..] };
    for row in rows {
        println!("{}", row.head());
        for &nodes in &arguments.nodes {
            let Some(replicas) = row.replicas(nodes) else { continue };
            let mut cluster = Cluster::start(&tidegate, nodes, replicas)?;
            let subject =
                Subject { loadtest: &loadtest, seconds: arguments.seconds, rate: arguments.rate };
            let line = row
                .measure(&mut cluster, subject)
                .with_context(|| format!("row {row:?} with {nodes} nodes"))?;
            println!("| {nodes} | {line} |");
        }
    }
    Ok(())
}
