//! A cluster on this machine: N processes, to be tried and to be killed.

use std::collections::HashSet;
use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::fleet::{LIFE_OVER, ready};
use crate::process::{Process, Recipe};
use crate::signals::on_signals;

const USAGE: &str = "\
usage: cargo xtask cluster up N [OPTIONS]

Starts N nodes (1 to 9) at 127.0.0.1 to 127.0.0.N, and ends them on Ctrl-C.

  --port P        MQTT of every node (1883); peers come in at P + 6000, the admin port is at
                  P + 7005
  --free-ports    any ports that are free
  --data DIR      where nodes keep their data, to go on with it another time (a temporary
                  directory, which is removed)
  --binary PATH   the broker (tidegate in the debug profile, which is built)
";

const NODES_MAX: u8 = 9;

/// How long a node may take to be ready, and to end.
const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

struct Options {
    nodes: u8,
    port: u16,
    free_ports: bool,
    data: Option<PathBuf>,
    binary: PathBuf,
}

struct Node {
    number: u8,
    mqtt: SocketAddr,
    peers: SocketAddr,
    admin: SocketAddr,
    recipe: Option<Recipe>,
    lives: u64,
    process: Option<Process>,
}

/// Starts nodes and waits for Ctrl-C.
#[allow(clippy::print_stderr, clippy::print_stdout)]
pub(crate) fn up(args: &[String]) -> ExitCode {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Options> {
    let [verb, count, rest @ ..] = args else { bail!("{USAGE}") };
    ensure!(verb == "up", "there is no {verb:?}\n{USAGE}");
    let nodes = count.parse().ok().filter(|count| (1..=NODES_MAX).contains(count));
    let nodes = nodes.with_context(|| format!("{count:?} is no number of nodes\n{USAGE}"))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let binary = target.join("debug/tidegate");
    let mut options = Options { nodes, port: 1883, free_ports: false, data: None, binary };
    let mut rest = rest.iter();
    while let Some(flag) = rest.next() {
        if flag == "--free-ports" {
            options.free_ports = true;
            continue;
        }
        let value = rest.next().with_context(|| format!("{flag}: no value\n{USAGE}"))?;
        match flag.as_str() {
            "--port" => {
                let port = value.parse().ok().filter(|port| (1..=58_000).contains(port));
                options.port = port.with_context(|| format!("--port: {value:?} is no port"))?;
            }
            "--data" => options.data = Some(value.into()),
            "--binary" => options.binary = value.into(),
            _ => bail!("{flag} {value}: not known\n{USAGE}"),
        }
    }
    Ok(options)
}

#[allow(clippy::print_stdout)]
fn run(options: &Options) -> Result<()> {
    let stopping = Arc::new(AtomicBool::new(false));
    let told = stopping.clone();
    on_signals(move || told.store(true, Ordering::Relaxed))?;
    ensure!(options.binary.is_file(), "there is no broker at {:?}", options.binary);
    let temporary = env::temp_dir().join(format!("tidegate-cluster-{}", std::process::id()));
    let dir = options.data.as_ref().unwrap_or(&temporary);
    fs::create_dir_all(dir).with_context(|| format!("cannot create {dir:?}"))?;
    let mut nodes = addresses(options)?;
    let done = serve(options, dir, &mut nodes, &stopping);
    // Whatever happened: ours are ended, and nobody else's.
    end(&mut nodes);
    if options.data.is_none() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {dir:?}"))?;
        println!("ended; {} is removed", dir.display());
    } else {
        println!("ended; {} is kept", dir.display());
    }
    done
}

/// Where every node is.
fn addresses(options: &Options) -> Result<Vec<Node>> {
    let mut taken = HashSet::new();
    let mut at = |number: u8, port: u16| -> Result<SocketAddr> {
        let port = if options.free_ports { 0 } else { port };
        loop {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, number), port));
            let socket = TcpListener::bind(address).with_context(|| {
                format!("{address} is taken; --port or --free-ports for another one")
            })?;
            let found = socket.local_addr()?;
            if taken.insert(found) {
                return Ok(found);
            }
        }
    };
    (1..=options.nodes)
        .map(|number| {
            let mqtt = at(number, options.port)?;
            let (peers, admin) =
                (at(number, options.port + 6_000)?, at(number, options.port + 7_005)?);
            Ok(Node { number, mqtt, peers, admin, recipe: None, lives: 1, process: None })
        })
        .collect()
}

#[allow(clippy::print_stdout)]
fn serve(options: &Options, dir: &Path, nodes: &mut [Node], stopping: &AtomicBool) -> Result<()> {
    let secret = secret(&dir.join("secret"))?;
    let list: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", node.peers)).collect();
    for node in nodes.iter_mut() {
        let home = dir.join(format!("node-{}", node.number));
        let mut config = format!("[node]\nname = \"node-{}\"\ndrain_seconds = 2\n", node.number);
        config += "[log]\nfilter = \"openraft=warn\"\n";
        // One is alone: there is nobody to be a cluster with.
        if options.nodes > 1 {
            config += &format!(
                "[cluster]\nname = \"local\"\nbind = \"{at}\"\nadvertise = \"{at}\"\n\
                 bootstrap = \"static\"\ndiscovery = [{}]\nsecret_file = \"{}\"\n",
                list.join(", "),
                secret.display(),
                at = node.peers,
            );
        }
        let mut recipe =
            Recipe::new(options.binary.clone(), home.clone(), home.join("data"), &config)?;
        (recipe.listen, recipe.admin) = (node.mqtt, node.admin);
        check(&options.binary, &home.join("tidegate.toml"))?;
        node.process = Some(recipe.launch(node.lives)?);
        node.recipe = Some(recipe);
    }
    let end = Instant::now() + READY;
    while !nodes.iter().all(|node| ready(node.admin)) {
        tell_ended(nodes);
        if stopping.load(Ordering::Relaxed) {
            return Ok(());
        }
        if Instant::now() > end || nodes.iter().all(|node| node.process.is_none()) {
            let last = |node: &Node| node.process.as_ref().map(Process::last_words);
            let words: Vec<String> = nodes.iter().filter_map(last).collect();
            bail!("not ready after {} s\n{}", READY.as_secs(), words.join("\n\n"));
        }
        sleep(Duration::from_millis(100));
    }
    for node in nodes.iter() {
        let pid = node.process.as_ref().map_or(0, Process::id);
        println!(
            "node {}: pid {pid}, MQTT {}, http://{}/health, log {}",
            node.number,
            node.mqtt,
            node.admin,
            dir.join(format!("node-{}/broker-1.log", node.number)).display()
        );
    }
    let (first, last) = (&nodes[0].mqtt, &nodes[nodes.len() - 1].mqtt);
    println!(
        "\n  mosquitto_sub -h {} -p {} -t 'plant/#' -v &\n  mosquitto_pub -h {} -p {} -t \
         plant/1/temp -q 1 -m 21.5",
        first.ip(),
        first.port(),
        last.ip(),
        last.port()
    );
    if options.nodes > 1 {
        let data = dir.join("node-1/data");
        let (program, data) = (options.binary.display(), data.display());
        println!("  {program} cluster show --data-dir {data}");
    }
    println!("\nready; Ctrl-C ends the nodes");
    while !stopping.load(Ordering::Relaxed) {
        tell_ended(nodes);
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Whether the program takes the config.
fn check(binary: &Path, config: &Path) -> Result<()> {
    let output = Command::new(binary).arg("check").arg(config).output();
    let output = output.with_context(|| format!("cannot start {binary:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{binary:?} does not take {config:?}: {}", said.trim());
    Ok(())
}

/// The secret that all nodes have: made once, and read by its owner alone.
fn secret(file: &Path) -> Result<PathBuf> {
    if !file.exists() {
        let mut random = [0; 32];
        File::open("/dev/urandom").and_then(|mut from| from.read_exact(&mut random))?;
        let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o600).open(file);
        made.and_then(|mut made| made.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {file:?}"))?;
    }
    // Nodes start elsewhere than we do.
    file.canonicalize().with_context(|| format!("cannot find {file:?}"))
}

#[allow(clippy::print_stdout)]
fn tell_ended(nodes: &mut [Node]) {
    for node in nodes {
        let Some(process) = &mut node.process else { continue };
        let Some(status) = process.ended() else { continue };
        println!("node {} has ended: {status}\n{}", node.number, process.last_words());
        node.process = None;
        let Some(recipe) = node.recipe.as_ref().filter(|_| status.code() == Some(LIFE_OVER)) else {
            continue;
        };
        node.lives += 1;
        match recipe.launch(node.lives) {
            Ok(process) => {
                println!("node {} is started again: pid {}", node.number, process.id());
                node.process = Some(process);
            }
            Err(error) => println!("node {} cannot be started again: {error:#}", node.number),
        }
    }
}

/// SIGTERM to all, SIGKILL to those that do not follow.
#[allow(clippy::print_stdout)]
fn end(nodes: &mut [Node]) {
    for process in nodes.iter().filter_map(|node| node.process.as_ref()) {
        process.signal(Signal::TERM);
    }
    let end = Instant::now() + STOP;
    for node in nodes {
        let Some(mut process) = node.process.take() else { continue };
        let left = end.saturating_duration_since(Instant::now());
        if process.ended_within(left).is_none() {
            println!("node {} does not end by itself: SIGKILL", node.number);
        }
        // Dropped, it is killed.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_number_of_nodes_has_to_be_one() {
        assert_eq!(parse(&words("up 3")).map(|options| options.nodes).ok(), Some(3));
        for bad in ["up", "up 0", "up 10", "up three", "down 3", "up 3 --port 0", "up 3 --what 1"] {
            assert!(parse(&words(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_two_doors_are_the_same() {
        let options = parse(&words("up 3 --free-ports")).expect("they are arguments");
        let nodes = addresses(&options).expect("there are free ports");
        let all: HashSet<_> = nodes.iter().flat_map(|n| [n.mqtt, n.peers, n.admin]).collect();
        assert_eq!((nodes.len(), all.len()), (3, 9));
        assert_eq!(nodes[2].mqtt.ip().to_string(), "127.0.0.3");
    }
}
