//! Nodes of a cluster as processes, each on a loopback address of its own.

#![allow(dead_code, unreachable_pub)]

pub mod kubernetes;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// For what a cluster needs a moment for; builds in parallel make it slow.
pub const PATIENCE: Duration = Duration::from_secs(120);

static RIGS: AtomicU32 = AtomicU32::new(0);

/// The first port that a connection's own end may get on Linux, unless told otherwise
/// (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u32 = 32_768;
/// The first port for nodes.
const PORTS: u32 = 12_000;

/// A port that is free at an address just now, was not given before, and that no
/// connection takes by chance while a node is down.
pub fn free_port(host: &str) -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Not where another process of tests began, most likely.
    let begin = std::process::id().wrapping_mul(97);
    let mut ports = (0..EPHEMERAL - PORTS).map(|_| {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        (PORTS + begin.wrapping_add(taken) % (EPHEMERAL - PORTS)) as u16
    });
    let free = |port: &u16| TcpListener::bind((host, *port)).is_ok();
    ports.find(free).expect("a port is free")
}

/// Waits until `what` says so; its last word is in the failure.
pub fn until<T>(title: &str, what: impl FnMut() -> Result<T, String>) -> T {
    until_within(title, PATIENCE, what)
}

/// The same, of something that takes long.
pub fn until_within<T>(
    title: &str,
    patience: Duration,
    mut what: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match what() {
            Ok(done) => return done,
            Err(why) if Instant::now() >= deadline => panic!("{title}: {why}"),
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}

/// A directory for a test, removed in the end.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Place {
        let number = RIGS.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("tidegate-cluster-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Place(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A node, running or not.
pub struct Node {
    dir: PathBuf,
    config: String,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    pub admin: u16,
    mqtt: u16,
    drain_seconds: u32,
    host: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    /// A node at `host` with this `[cluster]` table.
    pub fn new(place: &Place, name: &str, host: &str, cluster: &str) -> Node {
        let dir = place.path().join(name);
        fs::create_dir_all(&dir).expect("a directory");
        let mut node = Node {
            dir,
            config: String::new(),
            environment: Vec::new(),
            child: None,
            admin: 0,
            mqtt: 0,
            drain_seconds: 1,
            host: host.to_owned(),
        };
        node.configure(cluster);
        node
    }

    /// Another `[cluster]` table, and new ports, from the next start on.
    pub fn configure(&mut self, cluster: &str) {
        let host = &self.host;
        self.admin = free_port(host);
        self.mqtt = free_port(host);
        let (admin, mqtt, drain) = (self.admin, self.mqtt, self.drain_seconds);
        self.config = format!(
            "[node]\nshards = 1\ndata_dir = {:?}\ndrain_seconds = {drain}\n\
             [ebpf]\nsteer = 'off'\ntcpstat = 'off'\nconntrack = 'off'\n\
             [admin]\nbind = '{host}:{admin}'\n[listener.default]\nbind = '{host}:{mqtt}'\n\
             [cluster]\n{cluster}\n",
            self.data(),
        );
    }

    /// A further line of its `[cluster]` table, from the next start on.
    pub fn add(&mut self, line: &str) {
        self.config += line;
        self.config.push('\n');
    }

    /// Another time to go down, from the next start on.
    pub fn drain_seconds(&mut self, seconds: u32) {
        let before = format!("drain_seconds = {}\n", self.drain_seconds);
        self.drain_seconds = seconds;
        self.config = self.config.replace(&before, &format!("drain_seconds = {seconds}\n"));
    }

    /// Where its clients connect.
    pub fn mqtt(&self) -> SocketAddr {
        format!("{}:{}", self.host, self.mqtt).parse().expect("an address")
    }

    pub fn with(mut self, name: &str, value: &str) -> Node {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let config = self.dir.join("tidegate.toml");
        fs::write(&config, &self.config).expect("a config");
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config"])
            .arg(&config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the binary is built");
        self.child = Some(child);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; the exit status.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(sent.expect("there is a kill").success());
        child.wait().expect("its own").code()
    }

    /// Waits until it has ended by itself; the exit status.
    pub fn ends(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let status = until("it ends", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        status.code()
    }

    /// Starts it again if it ended because its life was over, as a supervisor
    /// does: on a machine that is busy enough a lease runs out.
    pub fn supervise(&mut self) {
        let Some(child) = &mut self.child else { return };
        if let Ok(Some(status)) = child.try_wait() {
            assert_eq!(status.code(), Some(75), "{}", self.said());
            self.child = None;
            self.start();
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// All that it said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn says(&self, wanted: &str) {
        until(wanted, || {
            let said = self.said();
            if said.contains(wanted) { Ok(()) } else { Err(said) }
        });
    }

    /// Runs a command against it: whether it went well, and what it said.
    pub fn ask(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(args)
            .arg("--data-dir")
            .arg(self.data())
            .output()
            .expect("the binary is built");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    /// `cluster show --json`.
    pub fn show(&self) -> Result<Value, String> {
        let (good, said) = self.ask(&["cluster", "show", "--json"]);
        if !good {
            return Err(format!("{said}\n{}", self.said()));
        }
        serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))
    }

    /// The replicas that `replication show --json` tells of.
    pub fn replicas(&self) -> Result<Vec<Value>, String> {
        let (good, said) = self.ask(&["replication", "show", "--json"]);
        if !good {
            return Err(said);
        }
        let shown: Value =
            serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
        Ok(shown["replicas"].as_array().expect("a list").clone())
    }

    /// The body of a page of the admin port, and its status.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect((self.host.as_str(), self.admin)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Waits until this node sees `count` nodes serve, itself among them, with a
    /// lease; returns what it shows.
    pub fn sees_serving(&mut self, count: usize) -> Value {
        until("serving", || {
            self.supervise();
            let shown = self.show()?;
            let held = shown["this"]["lease"] == "held";
            if held && states(&shown, "serving").len() == count {
                Ok(shown)
            } else {
                Err(format!("{shown:#}\n{}", self.said()))
            }
        })
    }
}

/// The ids of the nodes in a state.
pub fn states(shown: &Value, state: &str) -> BTreeSet<String> {
    let nodes = shown["nodes"].as_array().expect("a list");
    let found = nodes.iter().filter(|node| node["state"] == state);
    found.map(|node| text(&node["node"])).collect()
}

/// One node of those that are shown.
pub fn node_of<'a>(shown: &'a Value, id: &str) -> &'a Value {
    let nodes = shown["nodes"].as_array().expect("a list");
    nodes.iter().find(|node| node["node"] == id).expect("it is there")
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is text")).to_owned()
}

/// Three addresses that are free now.
pub fn three_addresses() -> [String; 3] {
    ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|host| format!("{host}:{}", free_port(host)))
}

/// A `[cluster]` table of one of them.
pub fn table(mode: &str, addresses: &[String], me: usize) -> String {
    let list: Vec<_> = addresses.iter().map(|address| format!("'{address}'")).collect();
    format!(
        "name = 'test'\nbind = '{}'\ndiscovery = [{}]\nbootstrap = '{mode}'\n\
         secret = 'a secret of the test'",
        addresses[me],
        list.join(", ")
    )
}

/// Three nodes of one cluster, not started.
pub fn three(place: &Place, mode: &str, addresses: &[String; 3]) -> [Node; 3] {
    [0, 1, 2].map(|me| {
        let host = addresses[me].split(':').next().expect("a host");
        Node::new(place, &format!("node-{me}"), host, &table(mode, addresses, me))
    })
}

/// Waits until all three agree that three nodes serve; returns what each shows.
pub fn all_serve(nodes: &mut [Node; 3]) -> [Value; 3] {
    until("all three serve", || {
        nodes.iter_mut().for_each(Node::supervise);
        let mut shown = Vec::new();
        for node in nodes.iter() {
            shown.push(node.show()?);
        }
        let shown: [Value; 3] = shown.try_into().expect("three");
        let one = |one: &Value| {
            one["this"]["lease"] == "held"
                && states(one, "serving").len() == 3
                && states(one, "serving") == states(&shown[0], "serving")
                && one["cluster"] == shown[0]["cluster"]
        };
        if shown.iter().all(one) {
            return Ok(shown);
        }
        let said: Vec<_> = nodes.iter().map(Node::said).collect();
        Err(format!("{:#}\n{}", shown[0], said.join("\n---\n")))
    })
}
