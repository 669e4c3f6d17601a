//! What is measured of a cluster, a table each.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tidegate_loadtest::outcome::{Outcome, Verdict};

use crate::client::Client;
use crate::nodes::Cluster;

const PAIRS: usize = 100;
/// Replicated publishes a second at most: what one core takes for five nodes.
const PERSISTENT_RATE: u32 = 1_000;
const CONNECTS: usize = 10_000;
const SUBACKS: usize = 300;
/// Distinct filters in the row of routes, and how many a client has.
const FILTERS: usize = 50_000;
const FILTERS_EACH: usize = 500;
const FILTERS_A_PACKET: usize = 100;

/// A table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Row {
    /// A cluster that nobody uses
    Idle,
    /// QoS 0 from clients at one node to clients at another
    Qos0,
    /// The same at QoS 1
    Qos1,
    /// QoS 1 to durable sessions, a replica of each
    PersistentRf1,
    /// The same with three replicas
    PersistentRf3,
    /// Connects, spread over all nodes
    Connect,
    /// How long a SUBACK takes
    Suback,
    /// Memory of a filter of another node
    Routes,
    /// Durable QoS 1 while one node is killed
    Failover,
}

/// With what and how long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The program `tidegate-loadtest`.
    pub(crate) loadtest: &'a Path,
    /// Length of a phase.
    pub(crate) seconds: u32,
    /// Publishes a second.
    pub(crate) rate: u32,
}

impl Row {
    /// Replicas of a cluster of so many nodes; none if the row is not for it.
    pub(crate) fn replicas(self, nodes: u8) -> Option<u8> {
        match self {
            Self::PersistentRf1 => Some(1),
            // A node alone has one, and is what the others are held against.
            Self::PersistentRf3 => Some(nodes.min(3)),
            Self::Failover => (nodes >= 3).then_some(3),
            Self::Idle | Self::Qos0 | Self::Qos1 | Self::Connect | Self::Suback | Self::Routes => {
                Some(nodes.min(3))
            }
        }
    }

    /// The head of its table.
    pub(crate) fn head(self) -> String {
        let messages = |kind: &str| {
            vec![
                format!("{kind}: CPU us a message, the clients' nodes together"),
                "each other node".to_owned(),
                "p50 ms".to_owned(),
                "p99 ms".to_owned(),
                "delivered, lost".to_owned(),
            ]
        };
        let own = |cells: &[&str]| cells.iter().map(|&cell| cell.to_owned()).collect();
        let cells: Vec<String> = match self {
            Self::Idle => own(&["idle: CPU of a node, % of a core", "memory of a node, MB"]),
            Self::Qos0 => messages("QoS 0"),
            Self::Qos1 => messages("QoS 1"),
            Self::PersistentRf1 => messages("QoS 1, durable, 1 replica"),
            Self::PersistentRf3 => messages("QoS 1, durable, 3 replicas"),
            Self::Connect => {
                own(&["connects a second", "CPU us a connect, all nodes", "p50 ms", "p99 ms"])
            }
            Self::Suback => own(&[
                "SUBACK, the node's first of a filter: p50 ms",
                "p99 ms",
                "a later one: p50 ms",
                "p99 ms",
            ]),
            Self::Routes => own(&["bytes a filter, the subscribers' node", "another node"]),
            Self::Failover => own(&[
                "SIGKILL to the third: longest wait for a PUBACK, ms",
                "for a delivery, ms",
                "delivered, lost",
            ]),
        };
        format!("\n| nodes | {} |\n|{}", cells.join(" | "), "---|".repeat(cells.len() + 1))
    }

    /// Measures; the row's cells behind the number of nodes.
    pub(crate) fn measure(self, cluster: &mut Cluster, subject: Subject<'_>) -> Result<String> {
        match self {
            Self::Idle => idle(cluster, subject),
            Self::Qos0 => messages(cluster, subject, 0, subject.rate, &[]),
            Self::Qos1 => messages(cluster, subject, 1, subject.rate, &[]),
            Self::PersistentRf1 | Self::PersistentRf3 => {
                messages(cluster, subject, 1, subject.rate.min(PERSISTENT_RATE), &["--persistent"])
            }
            Self::Connect => connects(cluster, subject),
            Self::Suback => subacks(cluster),
            Self::Routes => routes(cluster),
            Self::Failover => failover(cluster, subject),
        }
    }
}

fn idle(cluster: &Cluster, subject: Subject<'_>) -> Result<String> {
    let before = cluster.cpu()?;
    let began = Instant::now();
    thread::sleep(Duration::from_secs(subject.seconds.into()));
    let (after, span) = (cluster.cpu()?, began.elapsed().as_nanos() as f64);
    let used: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    let memory: u64 = cluster.memory()?.iter().sum();
    let nodes = cluster.len() as f64;
    Ok(format!("{:.2} | {:.1}", 100.0 * used as f64 / span / nodes, memory as f64 / 1e6 / nodes))
}

fn messages(
    cluster: &Cluster,
    subject: Subject<'_>,
    qos: u8,
    rate: u32,
    more: &[&str],
) -> Result<String> {
    let before = cluster.cpu()?;
    let arguments = pairs(subject, qos, rate);
    // The harness gives the two of a pair to two neighbours: half of the
    // publishers are at the first node, half at the second, their subscribers at the other.
    let outcome = load(cluster, subject, 2, &arguments, more, || Ok(()))?;
    let after = cluster.cpu()?;
    let us: Vec<f64> = after.iter().zip(&before).map(|(a, b)| (a - b) as f64 / 1e3).collect();
    let tally = outcome.ledger.qos[usize::from(qos)];
    let each = |us: f64| format!("{:.1}", us / tally.delivered as f64);
    let (clients, others) = us.split_at(us.len().min(2));
    let other = match others.len() {
        0 => "-".to_owned(),
        many => each(others.iter().sum::<f64>() / many as f64),
    };
    let latency = outcome.latency.quantiles;
    Ok(format!(
        "{} | {other} | {} | {} | {}, {}",
        each(clients.iter().sum()),
        ms(latency.p50_ns),
        ms(latency.p99_ns),
        tally.delivered,
        tally.lost,
    ))
}

fn pairs(subject: Subject<'_>, qos: u8, rate: u32) -> Vec<String> {
    let duration = subject.seconds * 1_000;
    format!("pairs --pairs {PAIRS} --qos {qos} --rate {rate} --duration-ms {duration}")
        .split(' ')
        .map(str::to_owned)
        .collect()
}

fn connects(cluster: &Cluster, subject: Subject<'_>) -> Result<String> {
    let before: u64 = cluster.cpu()?.iter().sum();
    let arguments = format!("connect --clients {CONNECTS} --hold-ms 100");
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let outcome = load(cluster, subject, cluster.len(), &arguments, &[], || Ok(()))?;
    let used = cluster.cpu()?.iter().sum::<u64>() - before;
    let connections = &outcome.connections;
    ensure!(connections.established == CONNECTS as u64, "{} came up", connections.established);
    let latency = connections.latency.quantiles;
    Ok(format!(
        "{:.0} | {:.0} | {} | {}",
        connections.rate().unwrap_or_default(),
        used as f64 / 1e3 / CONNECTS as f64,
        ms(latency.p50_ns),
        ms(latency.p99_ns),
    ))
}

fn subacks(cluster: &Cluster) -> Result<String> {
    let mut first = Client::connect(cluster.mqtt(0), "suback-first")?;
    let mut second = Client::connect(cluster.mqtt(0), "suback-second")?;
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for number in 0..SUBACKS {
        let filter = format!("suback/{number}/+");
        new.push(first.subscribe([filter.as_str()].into_iter())?);
        known.push(second.subscribe([filter.as_str()].into_iter())?);
    }
    let cells: Vec<String> = [new, known].map(quantiles).into();
    Ok(cells.join(" | "))
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| ms(times[(times.len() as f64 * part) as usize].as_nanos() as u64);
    format!("{} | {}", at(0.5), at(0.99))
}

fn routes(cluster: &Cluster) -> Result<String> {
    let mut clients = Vec::new();
    for number in 0..FILTERS / FILTERS_EACH {
        clients.push(Client::connect(cluster.mqtt(0), &format!("routes-{number:04}"))?);
    }
    // What only the first filters cost is no part of the slope.
    let warm = clients.len() / 10;
    let mut before = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        if number == warm {
            thread::sleep(Duration::from_secs(2));
            before = cluster.memory()?;
        }
        for packet in 0..FILTERS_EACH / FILTERS_A_PACKET {
            let name = |one: usize| {
                let filter = number * FILTERS_EACH + packet * FILTERS_A_PACKET + one;
                format!("site/{:03}/dev/{filter:07}/v", filter % 100)
            };
            let filters: Vec<String> = (0..FILTERS_A_PACKET).map(name).collect();
            client.subscribe(filters.iter().map(String::as_str))?;
        }
    }
    thread::sleep(Duration::from_secs(2));
    let after = cluster.memory()?;
    let filters = ((clients.len() - warm) * FILTERS_EACH) as f64;
    let slope = |index: usize| -> Option<f64> {
        Some((*after.get(index)? as f64 - *before.get(index)? as f64) / filters)
    };
    let cell = |index| slope(index).map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}"));
    Ok(format!("{} | {}", cell(0), cell(1)))
}

fn failover(cluster: &mut Cluster, subject: Subject<'_>) -> Result<String> {
    let arguments = pairs(subject, 1, subject.rate.min(PERSISTENT_RATE));
    let half = Duration::from_millis(u64::from(subject.seconds) * 500);
    let more = ["--persistent", "--reconnect", "--drain-ms", "20000"];
    let addresses = [cluster.mqtt(0), cluster.mqtt(1)];
    let outcome = load_at(subject, &addresses, &arguments, &more, || {
        thread::sleep(half);
        cluster.kill(2)
    })?;
    let tally = outcome.ledger.qos[1];
    Ok(format!(
        "{} | {} | {}, {}",
        ms(outcome.ack_latency.quantiles.max_ns),
        ms(outcome.latency.quantiles.max_ns),
        tally.delivered,
        tally.lost,
    ))
}

/// Lets the harness load the first `targets` nodes.
fn load(
    cluster: &Cluster,
    subject: Subject<'_>,
    targets: usize,
    arguments: &[String],
    more: &[&str],
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Outcome> {
    let targets = targets.min(cluster.len());
    let addresses: Vec<_> = (0..targets).map(|index| cluster.mqtt(index)).collect();
    load_at(subject, &addresses, arguments, more, meanwhile)
}

fn load_at(
    subject: Subject<'_>,
    addresses: &[SocketAddr],
    arguments: &[String],
    more: &[&str],
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Outcome> {
    let file = std::env::temp_dir().join(format!("bench-cluster-{}.json", std::process::id()));
    let mut command = Command::new(subject.loadtest);
    command.args(arguments).args(more).args(["--workers", "1", "--live", "off", "--json"]);
    command.arg(&file).args(addresses.iter().map(ToString::to_string));
    // Its verdict is in the file, and its exit code says that latencies are not exact.
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("tidegate-loadtest")?;
    let done = meanwhile();
    let status = child.wait()?;
    done?;
    let text =
        fs::read_to_string(&file).with_context(|| format!("{command:?} ended with {status}"))?;
    let _ = fs::remove_file(&file);
    let outcome = Outcome::parse(&text).with_context(|| format!("{command:?}: its outcome"))?;
    if let Verdict::Bad(breaches) = &outcome.ledger.verdict {
        bail!("{command:?}: promises were broken: {breaches:?}");
    }
    Ok(outcome)
}

fn ms(nanoseconds: u64) -> String {
    format!("{:.2}", nanoseconds as f64 / 1e6)
}
