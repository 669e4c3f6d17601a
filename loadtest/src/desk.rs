//! What needs no broker: comparing runs, reports of several, and planning.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use tidegate_loadtest::compare::compare;
use tidegate_loadtest::faces::html::html;
use tidegate_loadtest::outcome::Outcome;
use tidegate_loadtest::plan::{Demand, Way, plan};

const GIB: f64 = (1u64 << 30) as f64;

/// Two runs.
#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// The run to measure by
    a: PathBuf,
    /// The run to judge
    b: PathBuf,
    /// Difference that is taken for noise, as a share
    #[arg(long, default_value_t = 0.1)]
    noise: f64,
    /// Writes a report of both as one HTML file
    #[arg(long)]
    html: Option<PathBuf>,
}

/// Any runs.
#[derive(Args, Debug)]
pub(crate) struct Report {
    /// What `--json` wrote
    #[arg(required = true)]
    outcomes: Vec<PathBuf>,
    /// The HTML file to write
    #[arg(long)]
    html: PathBuf,
}

/// What is asked of a cluster.
#[derive(Args, Debug)]
pub(crate) struct Ask {
    /// Connections at one time
    #[arg(long)]
    clients: u64,
    /// Messages published a second, by all together
    #[arg(long)]
    rate: f64,
    /// Bytes of a payload
    #[arg(long)]
    size: u64,
    /// Subscribers of a message
    #[arg(long, default_value_t = 1.0)]
    fan_out: f64,
    /// QoS of publishing and delivering
    #[arg(long, default_value_t = 1)]
    qos: u8,
    /// How clients come in
    #[arg(long, value_enum, default_value_t)]
    way: AskedWay,
    /// Keep-alive in seconds
    #[arg(long, default_value_t = 60)]
    keepalive_s: u32,
    /// Share of the subscribers that are away with a durable session
    #[arg(long, default_value_t = 0.02)]
    away: f64,
    /// Seconds for which their messages are kept
    #[arg(long, default_value_t = 3_600)]
    away_s: u64,
    /// Cores of a node
    #[arg(long, default_value_t = 8)]
    cores: u32,
    /// Memory of a node in GiB
    #[arg(long, default_value_t = 32.0)]
    memory_gib: f64,
    /// Nodes that may be missing
    #[arg(long, default_value_t = 1)]
    spare: u32,
}

/// How clients come in.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum AskedWay {
    #[default]
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Compare {
    /// The text, and whether nothing is worse and the comparison counts.
    pub(crate) fn answer(&self) -> Result<(String, bool)> {
        ensure!((0.0..1.0).contains(&self.noise), "--noise must be from 0 to below 1");
        let runs = [read(&self.a)?, read(&self.b)?];
        if let Some(path) = &self.html {
            write(path, &html(&runs))?;
        }
        let [a, b] = &runs;
        let comparison = compare(a, b, self.noise);
        Ok((comparison.text(), comparison.counts() && !comparison.worse()))
    }
}

impl Report {
    /// Writes it.
    pub(crate) fn make(&self) -> Result<()> {
        let runs = self.outcomes.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
        write(&self.html, &html(&runs))
    }
}

impl Ask {
    /// The plan, in words and figures.
    pub(crate) fn answer(&self) -> Result<String> {
        let demand = Demand {
            clients: self.clients,
            rate: self.rate,
            size: self.size,
            fan_out: self.fan_out,
            qos: self.qos,
            way: match self.way {
                AskedWay::Tcp => Way::Tcp,
                AskedWay::Tls => Way::Tls,
                AskedWay::Ws => Way::Ws,
                AskedWay::Wss => Way::Wss,
            },
            keepalive_s: self.keepalive_s,
            away: self.away,
            away_s: self.away_s,
            cores: self.cores,
            memory_bytes: (self.memory_gib * GIB) as u64,
            spare: self.spare,
        };
        Ok(plan(&demand)?.text())
    }
}

fn read(path: &Path) -> Result<Outcome> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Outcome::parse(&text).with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
