//! The nodes of a run: their configs, their disks, their processes.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::network::Network;
use crate::process::{Process, Recipe};

/// Any secret of 16 bytes or more.
const SECRET: &str = "the ledger's nodes alone know this";

/// How long a node may take to stop; its drain has two seconds.
const STOP: Duration = Duration::from_secs(20);

/// The status of a process that its cluster has given up: it is to be started
/// again, as a new life of the same node.
pub(crate) const LIFE_OVER: i32 = 75;

/// How long a node may take to find that its log is damaged.
const REFUSAL: Duration = Duration::from_secs(20);

/// How long a command to a node may take.
const COMMAND: Duration = Duration::from_secs(60);

/// What the nodes of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Make {
    /// The program.
    pub(crate) binary: PathBuf,
    /// What nodes start with until they are upgraded, if not with that.
    pub(crate) older: Option<PathBuf>,
    /// Whether they speak the protocol's first version alone until then.
    pub(crate) holds_back: bool,
    /// Where everything is kept.
    pub(crate) dir: PathBuf,
    /// Whether they are nodes of one cluster.
    pub(crate) joined: bool,
    /// Replicas of a partition, if not the default.
    pub(crate) replicas: Option<u8>,
}

/// One node.
#[derive(Debug)]
struct Node {
    number: u8,
    recipe: Recipe,
    lives: u64,
    process: Option<Process>,
    paused: bool,
    holds_back: bool,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Fleet {
    make: Make,
    // Before the network, so that processes are gone before their namespaces.
    nodes: Vec<Node>,
    network: Network,
    /// Those that were started again, see [`LIFE_OVER`].
    reborn: Vec<(Instant, u8)>,
}

impl Fleet {
    /// Nodes 1 to `count`, none of which runs.
    pub(crate) fn new(make: Make, network: Network, count: u8) -> Result<Fleet> {
        let mut fleet = Fleet { make, nodes: Vec::new(), network, reborn: Vec::new() };
        (1..=count).try_for_each(|number| fleet.add(number))?;
        fleet.tell_addresses()?;
        Ok(fleet)
    }

    fn add(&mut self, number: u8) -> Result<()> {
        self.network.place(number)?;
        let dir = self.make.dir.join(format!("n{number}"));
        let binary = self.make.older.as_ref().unwrap_or(&self.make.binary).clone();
        let mut recipe = Recipe::new(binary, dir.clone(), dir.join("data"), "")?;
        recipe.through = self.network.through(number);
        let holds_back = self.make.holds_back;
        self.nodes.push(Node {
            number,
            recipe,
            lives: 0,
            process: None,
            paused: false,
            holds_back,
        });
        Ok(())
    }

    /// Writes everyone's config and the file in which they find each other.
    fn tell_addresses(&mut self) -> Result<()> {
        let peers: Vec<String> =
            self.nodes.iter().map(|node| self.network.peers(node.number).to_string()).collect();
        let file = self.make.dir.join("peers");
        // In place at once: nobody reads half of it.
        let fresh = self.make.dir.join("peers.new");
        fs::write(&fresh, peers.join("\n") + "\n").context("cannot write the list of peers")?;
        fs::rename(&fresh, &file).context("cannot replace the list of peers")?;
        for node in &mut self.nodes {
            let own = self.network.peers(node.number);
            node.recipe.listen = self.network.mqtt(node.number);
            node.recipe.admin = self.network.admin(node.number);
            let mut config = config(&self.make, node.number, own, &file);
            if node.holds_back && self.make.joined {
                config += "protocol_max = 1\n";
            }
            fs::write(node.recipe.dir.join("tidegate.toml"), config)
                .context("cannot write a config")?;
        }
        Ok(())
    }

    /// Whether the program takes the config.
    pub(crate) fn check(&self) -> Result<()> {
        for node in &self.nodes {
            let file = node.recipe.dir.join("tidegate.toml");
            let output = Command::new(&node.recipe.binary).arg("check").arg(&file).output();
            let output =
                output.with_context(|| format!("cannot start {:?}", node.recipe.binary))?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "the broker does not take {file:?}: {}", said.trim());
        }
        Ok(())
    }

    /// Where MQTT is spoken, of every node in its order.
    pub(crate) fn doors(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| self.network.mqtt(node.number)).collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Those with a process that is not paused.
    pub(crate) fn running(&self) -> Vec<u8> {
        let there = self.nodes.iter().filter(|node| node.process.is_some() && !node.paused);
        there.map(|node| node.number).collect()
    }

    fn node(&mut self, number: u8) -> Result<&mut Node> {
        let node = self.nodes.iter_mut().find(|node| node.number == number);
        node.with_context(|| format!("there is no node {number}"))
    }

    /// A process for a node that has none.
    pub(crate) fn start(&mut self, number: u8) -> Result<()> {
        if self.nodes.iter().all(|node| node.number != number) {
            self.add(number)?;
            self.tell_addresses()?;
        }
        let node = self.node(number)?;
        ensure!(node.process.is_none(), "node {number} runs already");
        node.lives += 1;
        node.process = Some(node.recipe.launch(node.lives)?);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, number: u8) -> Result<()> {
        let node = self.node(number)?;
        node.paused = false;
        node.process.take().with_context(|| format!("node {number} does not run"))?.kill();
        Ok(())
    }

    /// SIGKILL to all, before any of them is waited for.
    pub(crate) fn kill_all(&mut self) {
        let processes = self.nodes.iter_mut().filter_map(|node| node.process.take());
        let mut processes: Vec<Process> = processes.collect();
        for process in &processes {
            process.signal(Signal::KILL);
        }
        processes.iter_mut().for_each(Process::kill);
    }

    /// SIGTERM; that it ends badly or too late is an error.
    pub(crate) fn stop(&mut self, number: u8) -> Result<()> {
        let node = self.node(number)?;
        let process = node.process.take().with_context(|| format!("node {number} does not run"));
        let mut process = process?;
        match process.stop(STOP) {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                bail!("node {number} ended on SIGTERM: {status}\n{}", process.last_words())
            }
            None => bail!("node {number} did not end on SIGTERM\n{}", process.last_words()),
        }
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn pause(&mut self, number: u8, paused: bool) -> Result<()> {
        let node = self.node(number)?;
        node.paused = paused;
        let process = node.process.as_ref();
        let process = process.with_context(|| format!("node {number} does not run"))?;
        let signal = if paused { Signal::STOP } else { Signal::CONT };
        process.signal(signal).with_context(|| format!("cannot signal node {number}"))
    }

    /// Those that were started again since the last time.
    pub(crate) fn reborn(&mut self) -> Vec<(Instant, u8)> {
        std::mem::take(&mut self.reborn)
    }

    /// Whether all that run stay so long; one that ended by itself is an error.
    pub(crate) fn stay(&mut self, long: Duration) -> Result<()> {
        let end = Instant::now() + long;
        loop {
            for node in &mut self.nodes {
                let Some(process) = &mut node.process else { continue };
                if let Some(status) = process.ended() {
                    if self.make.joined && status.code() == Some(LIFE_OVER) {
                        // What starts services would do the same.
                        node.lives += 1;
                        node.process = Some(node.recipe.launch(node.lives)?);
                        self.reborn.push((Instant::now(), node.number));
                        continue;
                    }
                    let (number, words) = (node.number, process.last_words());
                    node.process = None;
                    bail!("node {number} ended by itself: {status}\n{words}");
                }
            }
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            sleep((end - now).min(Duration::from_millis(20)));
        }
    }

    /// Waits until all that run say that they are ready.
    pub(crate) fn ready_within(&mut self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            self.stay(Duration::from_millis(100))?;
            let mut unready = self.running();
            unready.retain(|&number| !ready(self.network.admin(number)));
            if unready.is_empty() {
                return Ok(());
            }
            if Instant::now() > end {
                let mut words = String::new();
                for &number in &unready {
                    let process = self.node(number)?.process.as_ref();
                    let said = process.map(Process::last_words).unwrap_or_default();
                    words += &format!("\nnode {number}:\n{said}");
                }
                bail!("not ready after {} s: nodes {unready:?}{words}", patience.as_secs());
            }
        }
    }

    /// Runs `tidegate WORDS --data-dir DIR` for a node, again until it works.
    pub(crate) fn command(&mut self, number: u8, words: &[&str]) -> Result<String> {
        let recipe = self.node(number)?.recipe.clone();
        let end = Instant::now() + COMMAND;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match command(&recipe, words, left) {
                Ok(said) => return Ok(said),
                // It may not listen yet; but a command that is misused stays so.
                Err(Failure::Failed(_)) if Instant::now() < end => {
                    self.stay(Duration::from_millis(500))?;
                }
                Err(Failure::Failed(why) | Failure::Misused(why)) => {
                    bail!("node {number}: {}: {why}", words.join(" "));
                }
            }
        }
    }

    /// Removes the data directory.
    pub(crate) fn wipe(&mut self, number: u8) -> Result<()> {
        let node = self.node(number)?;
        ensure!(node.process.is_none(), "node {number} runs");
        fs::remove_dir_all(&node.recipe.data).context("cannot remove the data directory")
    }

    /// Changes bytes in the middle of the largest file of the data directory.
    pub(crate) fn corrupt(&mut self, number: u8) -> Result<()> {
        let node = self.node(number)?;
        ensure!(node.process.is_none(), "node {number} runs");
        let mut files = Vec::new();
        files_below(&node.recipe.data, &mut files)?;
        let largest = files.into_iter().max_by_key(|(bytes, _)| *bytes);
        let (_, file) = largest.context("a node without a file")?;
        let mut bytes = fs::read(&file).with_context(|| format!("cannot read {file:?}"))?;
        // A file that was made larger in advance ends with zeros.
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let middle = written / 2;
        bytes[middle..written.min(middle + 64)].iter_mut().for_each(|byte| *byte ^= 0xa5);
        fs::write(&file, bytes).with_context(|| format!("cannot write {file:?}"))
    }

    /// Whether a node that was started refuses its log as damaged. It may not:
    /// nothing may be asked of what was damaged any more.
    pub(crate) fn refuses(&mut self, number: u8) -> Result<bool> {
        let admin = self.network.admin(number);
        let node = self.node(number)?;
        let process = node.process.as_mut();
        let process = process.with_context(|| format!("node {number} does not run"))?;
        let end = Instant::now() + REFUSAL;
        loop {
            if let Some(status) = process.ended() {
                let damaged = process.said().contains("damaged");
                let words = process.last_words();
                node.process = None;
                ensure!(
                    damaged && !status.success(),
                    "node {number} ended, and not for its damaged log: {status}\n{words}"
                );
                return Ok(true);
            }
            if Instant::now() > end || ready(admin) {
                return Ok(false);
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Every node gets another address.
    pub(crate) fn readdress(&mut self) -> Result<()> {
        let running = self.nodes.iter().any(|node| node.process.is_some());
        ensure!(!running, "addresses change while nobody runs");
        self.network.readdress()?;
        self.tell_addresses()
    }

    /// Forgets a node that has left: nobody finds it any more.
    pub(crate) fn forget(&mut self, number: u8) -> Result<()> {
        self.nodes.retain(|node| node.number != number);
        self.tell_addresses()
    }

    /// From now on a node starts with the newer program, and speaks what that speaks.
    pub(crate) fn upgrade(&mut self, number: u8) -> Result<()> {
        let binary = self.make.binary.clone();
        let node = self.node(number)?;
        node.recipe.binary = binary;
        node.holds_back = false;
        self.tell_addresses()
    }

    /// The links between them.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// What every node says of the cluster, for whoever looks for a cause.
    pub(crate) fn tell(&mut self) -> String {
        let mut told = String::new();
        for number in self.running() {
            let Ok(node) = self.node(number) else { continue };
            let recipe = node.recipe.clone();
            let said = command(&recipe, &["cluster", "show"], Duration::from_secs(5));
            let said = said.unwrap_or_else(|error| format!("{error:?}"));
            told += &format!("node {number}: {}\n", said.trim());
        }
        told
    }
}

/// A node's config.
fn config(make: &Make, number: u8, own: SocketAddr, peers: &Path) -> String {
    let mut config = format!("{}[store]\nsegment_bytes = 4194304\n", crate::scenario::config());
    config = config.replacen("[node]\n", &format!("[node]\nname = \"n{number}\"\n"), 1);
    // A listener off loopback must say who may come in.
    config += "[listener.default]\nanonymous = true\n";
    // Each step of each group would drown what is to be read.
    config += "[log]\nfilter = \"openraft=warn\"\n";
    if !make.joined {
        return config;
    }
    config += &format!(
        "[cluster]\nname = \"ledger\"\nbind = \"{own}\"\nadvertise = \"{own}\"\n\
         discovery = \"file:{}\"\nbootstrap = \"init\"\nsecret = \"{SECRET}\"\n",
        peers.display()
    );
    if let Some(replicas) = make.replicas {
        config += &format!("replication_factor = {replicas}\n");
    }
    config
}

/// Why a command did not do what it should.
#[derive(Debug)]
enum Failure {
    /// It may do it another time.
    Failed(String),
    /// The program does not know it.
    Misused(String),
}

/// Runs a command to its end, or for so long.
fn command(recipe: &Recipe, words: &[&str], patience: Duration) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(error.to_string());
    let mut child = Command::new(&recipe.binary)
        .args(words)
        .arg("--data-dir")
        .arg(&recipe.data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let end = Instant::now() + patience;
    while child.try_wait().map_err(failed)?.is_none() {
        if Instant::now() > end {
            child.kill().map_err(failed)?;
            break;
        }
        sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().map_err(failed)?;
    let why = || format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(2) => Err(Failure::Misused(why())),
        Some(_) | None => Err(Failure::Failed(why())),
    }
}

/// Whether `/readyz` says 200.
pub(crate) fn ready(admin: SocketAddr) -> bool {
    let patience = Duration::from_millis(500);
    let ask = || -> std::io::Result<bool> {
        let mut socket = TcpStream::connect_timeout(&admin, patience)?;
        socket.set_read_timeout(Some(patience))?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 64];
        let length = socket.read(&mut answer)?;
        Ok(answer[..length].starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

fn files_below(dir: &Path, found: &mut Vec<(u64, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {dir:?}"))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files_below(&entry.path(), found)?;
        } else if kind.is_file() {
            found.push((entry.metadata()?.len(), entry.path()));
        }
    }
    Ok(())
}
