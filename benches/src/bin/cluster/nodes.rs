//! Nodes of one cluster as processes, all on one core.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::process::{anonymous_bytes, cpu_nanoseconds};
use benches::server::{CORE_BROKER, CORE_LOAD, Ready, Server};

const READY_TIME_MAX: Duration = Duration::from_secs(60);
/// Below the ports that the kernel gives to clients.
const PORT_FIRST: u16 = 20_000;
const PORT_LAST: u16 = 31_000;
/// A cluster settles after its forming: leaderships go to where they belong.
const SETTLE: Duration = Duration::from_secs(12);

/// A running cluster; its processes end, and its folder goes, when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    folder: PathBuf,
}

#[derive(Debug)]
struct Node {
    mqtt: SocketAddr,
    admin: SocketAddr,
    server: Option<Server>,
}

impl Cluster {
    /// Starts `count` nodes (one is no cluster) and waits until all are ready.
    pub(crate) fn start(program: &Path, count: u8, replicas: u8) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("bench-cluster-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let secret = folder.join("secret");
        fs::write(&secret, "a secret of this bench, 32 bytes")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        let [mqtt, peers, admin] = free_ports(count)?;
        let at = |number: u8, port: u16| SocketAddr::from((Ipv4Addr::new(127, 0, 0, number), port));
        let list: Vec<String> = (1..=count).map(|n| format!("\"{}\"", at(n, peers))).collect();
        let mut cluster = Self { nodes: Vec::new(), folder: folder.clone() };
        for number in 1..=count {
            let home = folder.join(format!("node-{number}"));
            fs::create_dir_all(&home)?;
            let mut config = format!(
                "[node]\nname = \"node-{number}\"\ndrain_seconds = 2\n[log]\nfilter = \"warn\"\n\
                 [limits]\nsubscriptions_max = 100000\n"
            );
            if count > 1 {
                config += &format!(
                    "[cluster]\nname = \"bench\"\nbind = \"{own}\"\nadvertise = \"{own}\"\n\
                     bootstrap = \"static\"\ndiscovery = [{list}]\nreplication_factor = \
                     {replicas}\nsecret_file = \"{secret}\"\n",
                    own = at(number, peers),
                    list = list.join(", "),
                    secret = secret.display(),
                );
            }
            let file = home.join("tidegate.toml");
            fs::write(&file, config)?;
            let mut command = Command::new(program);
            let (mqtt, admin) = (at(number, mqtt), at(number, admin));
            command.args(["run", "--shards", "1", "--config"]).arg(&file);
            command.args(["--listen", &mqtt.to_string(), "--admin", &admin.to_string()]);
            command.arg("--data-dir").arg(home.join("data"));
            // It listens before it is one of a cluster.
            let ready = Ready::Listens(vec![admin]);
            let server = Server::start(command, home, &[CORE_BROKER], &[CORE_LOAD], &ready)?;
            cluster.nodes.push(Node { mqtt, admin, server: Some(server) });
        }
        let end = Instant::now() + READY_TIME_MAX;
        while !cluster.nodes.iter().all(|node| ready(node.admin)) {
            ensure!(Instant::now() < end, "not ready after {READY_TIME_MAX:?}");
            thread::sleep(Duration::from_millis(50));
        }
        if count > 1 {
            thread::sleep(SETTLE);
        }
        Ok(cluster)
    }

    /// How many nodes it has.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Where node `index`, from 0, speaks MQTT; the last one for those beyond.
    pub(crate) fn mqtt(&self, index: usize) -> SocketAddr {
        self.nodes[index.min(self.nodes.len() - 1)].mqtt
    }

    /// SIGKILL to node `index`.
    pub(crate) fn kill(&mut self, index: usize) -> Result<()> {
        let server = self.nodes[index].server.take().context("it is dead already")?;
        server.kill();
        Ok(())
    }

    /// CPU of each node so far, in nanoseconds.
    pub(crate) fn cpu(&self) -> Result<Vec<u64>> {
        self.each(cpu_nanoseconds)
    }

    /// Anonymous memory of each node in bytes.
    pub(crate) fn memory(&self) -> Result<Vec<u64>> {
        self.each(anonymous_bytes)
    }

    fn each(&self, ask: impl Fn(u32) -> Result<u64>) -> Result<Vec<u64>> {
        let pid = |node: &Node| node.server.as_ref().map(Server::pid);
        self.nodes.iter().map(|node| pid(node).map_or(Ok(0), &ask)).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Three ports that are free at each of the nodes' addresses.
fn free_ports(count: u8) -> Result<[u16; 3]> {
    let first = PORT_FIRST + (std::process::id() % 5_000) as u16;
    let is_free = |port: &u16| {
        (1..=count).all(|n| TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), *port)).is_ok())
    };
    let found: Vec<u16> = (first..PORT_LAST).filter(is_free).take(3).collect();
    match found.try_into() {
        Ok(found) => Ok(found),
        Err(found) => bail!("only the ports {found:?} are free from {first} on"),
    }
}

fn ready(admin: SocketAddr) -> bool {
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
