//! The links between the nodes: network namespaces on a bridge, which can be
//! cut and slowed, or addresses of loopback, which cannot.
//!
//! The whole program runs in namespaces of its own (mounts, processes, network;
//! `unshare` makes them), so that nothing of a run is seen outside of it, and
//! nothing is left when its first process is gone, however it went.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// MQTT, the peers and the admin port of every node.
const MQTT: u16 = 21883;
const PEERS: u16 = 27883;
const ADMIN: u16 = 28888;

/// As many nodes a run has at most.
const NODES_MAX: u8 = 9;

/// Says that we are inside already.
const INSIDE: &str = "TIDEGATE_CLUSTER_TEST_INSIDE";

/// What is called, and the Debian package that has it.
const TOOLS: [(&str, &str); 4] =
    [("unshare", "util-linux"), ("ip", "iproute2"), ("tc", "iproute2"), ("iptables", "iptables")];

/// The links.
#[derive(Debug)]
pub(crate) struct Network {
    namespaces: bool,
    /// Counts the addresses that every node has had.
    generation: u8,
    nodes: Vec<u8>,
}

impl Network {
    /// No links but loopback.
    pub(crate) fn loopback() -> Network {
        Network { namespaces: false, generation: 1, nodes: Vec::new() }
    }

    /// A bridge, to be used by one run after the other.
    pub(crate) fn bridge() -> Result<Network> {
        // A namespace that is deleted takes its end of a link along only later.
        for link in (1..=NODES_MAX).map(|node| format!("v{node}")).chain(["br0".to_owned()]) {
            let _ = run(&format!("ip link del {link}"));
        }
        run("ip link add br0 type bridge")?;
        run("ip addr add 10.77.0.1/16 dev br0")?;
        run("ip link set br0 up")?;
        Ok(Network { namespaces: true, generation: 1, nodes: Vec::new() })
    }

    /// Gives a node its place, once.
    pub(crate) fn place(&mut self, node: u8) -> Result<()> {
        if self.nodes.contains(&node) {
            return Ok(());
        }
        ensure!(node <= NODES_MAX, "there is no place for node {node}");
        self.nodes.push(node);
        if !self.namespaces {
            return Ok(());
        }
        run(&format!("ip netns add n{node}"))?;
        run(&format!("ip link add v{node} type veth peer name eth0 netns n{node}"))?;
        run(&format!("ip link set v{node} master br0 up"))?;
        run(&format!("ip -n n{node} link set lo up"))?;
        run(&format!("ip -n n{node} link set eth0 up"))?;
        self.assign(node)
    }

    fn assign(&self, node: u8) -> Result<()> {
        run(&format!("ip -n n{node} addr flush dev eth0"))?;
        run(&format!("ip -n n{node} addr add {}/16 dev eth0", self.address(node)))
    }

    /// Where a node is now.
    fn address(&self, node: u8) -> Ipv4Addr {
        match self.namespaces {
            true => Ipv4Addr::new(10, 77, self.generation, node),
            false => Ipv4Addr::new(127, 77, self.generation, node),
        }
    }

    /// Where it speaks MQTT.
    pub(crate) fn mqtt(&self, node: u8) -> SocketAddr {
        (self.address(node), MQTT).into()
    }

    /// Where its peers come in.
    pub(crate) fn peers(&self, node: u8) -> SocketAddr {
        (self.address(node), PEERS).into()
    }

    /// Its admin port.
    pub(crate) fn admin(&self, node: u8) -> SocketAddr {
        (self.address(node), ADMIN).into()
    }

    /// What a process of the node is started through.
    pub(crate) fn through(&self, node: u8) -> Vec<String> {
        match self.namespaces {
            true => ["ip", "netns", "exec", &format!("n{node}")].map(str::to_owned).to_vec(),
            false => Vec::new(),
        }
    }

    /// Everyone gets another address.
    pub(crate) fn readdress(&mut self) -> Result<()> {
        self.generation += 1;
        if self.namespaces {
            self.nodes.iter().try_for_each(|&node| self.assign(node))?;
            run("ip neigh flush all")?;
        }
        Ok(())
    }

    /// What one node sends to another no longer comes.
    pub(crate) fn cut(&self, from: u8, to: u8) -> Result<()> {
        ensure!(self.namespaces, "loopback cannot be cut");
        let (source, target) = (self.address(from), self.address(to));
        run(&format!("ip netns exec n{from} iptables -w 5 -A OUTPUT -d {target} -j DROP"))?;
        run(&format!("ip netns exec n{to} iptables -w 5 -A INPUT -s {source} -j DROP"))
    }

    /// What a node sends is limited.
    pub(crate) fn slow(&self, node: u8, kbit: u32) -> Result<()> {
        ensure!(self.namespaces, "loopback cannot be slowed");
        let limit = format!("tbf rate {kbit}kbit burst 16kbit latency 2000ms");
        run(&format!("ip netns exec n{node} tc qdisc replace dev eth0 root {limit}"))
    }

    /// Every link is whole and fast.
    pub(crate) fn heal(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|_| self.namespaces) {
            run(&format!("ip netns exec n{node} iptables -w 5 -F"))?;
            // There may be none.
            let _ = run(&format!("ip netns exec n{node} tc qdisc del dev eth0 root"));
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in self.nodes.iter().filter(|_| self.namespaces) {
            // Whatever is left goes with the namespace that we are in.
            let _ = run(&format!("ip netns del n{node}"));
        }
    }
}

/// Goes on inside of namespaces of its own. Returns only there.
pub(crate) fn enter() -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        // What `ip netns` keeps is seen here alone.
        run("mount -t tmpfs tmpfs /run")?;
        fs::create_dir_all("/run/netns").context("cannot make /run/netns")?;
        return run("ip link set lo up");
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "network namespaces want root; as anybody else --loopback runs the scenarios that \
             leave the links alone"
        );
    }
    for (tool, package) in TOOLS {
        ensure!(there(tool), "{tool} is not there: install Debian's package {package}");
    }
    let own = env::current_exe().context("where this program is")?;
    let error = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(own)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error).context("cannot run unshare")
}

fn there(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir: std::path::PathBuf| Path::new(&dir).join(tool).is_file())
}

/// Runs a command, whose words have no spaces in them.
fn run(line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("cannot run {line:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line:?}: {}", said.trim());
    Ok(())
}
