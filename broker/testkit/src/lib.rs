//! Starts a `tidegate` process and talks raw bytes to it.
//!
//! Knows nothing of the broker's own codec, so that a fault which both ends
//! share cannot hide.

pub mod client;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a test waits for an answer before it fails. Generous: machines are
/// shared and slow, and a passing test never waits this long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a test listens to be sure that nothing comes.
pub const QUIET: Duration = Duration::from_millis(250);

/// A running broker. Killed when dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    /// Where MQTT is spoken.
    pub mqtt: SocketAddr,
    /// Where the admin port answers.
    pub admin: SocketAddr,
    dir: PathBuf,
    command: Vec<String>,
    variables: Vec<(String, String)>,
    said: Arc<Mutex<String>>,
    listener: Option<std::thread::JoinHandle<()>>,
}

impl Broker {
    /// Starts `binary` (in tests: `env!("CARGO_BIN_EXE_tidegate")`; the
    /// environment variable `TIDEGATE_BIN` overrides it) with two shards on
    /// free loopback ports. `config` is TOML, laid over the defaults.
    pub fn start(binary: &str, config: &str) -> Broker {
        Broker::start_with(binary, config, &["--shards", "2"])
    }

    /// As [`Broker::start`], with further arguments in place of `--shards 2`.
    pub fn start_with(binary: &str, config: &str, args: &[&str]) -> Broker {
        Broker::start_in(binary, config, args, &[])
    }

    /// As [`Broker::start_with`], with further variables of the environment.
    pub fn start_in(
        binary: &str,
        config: &str,
        args: &[&str],
        variables: &[(&str, &str)],
    ) -> Broker {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tidegate-test-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a scratch directory");
        let file = dir.join("tidegate.toml");
        std::fs::write(&file, config).expect("write the config");
        let binary = std::env::var("TIDEGATE_BIN").unwrap_or_else(|_| binary.to_owned());
        let (file, data) = (file.display().to_string(), dir.join("data").display().to_string());
        let mut command: Vec<_> = [&binary, "run", "--config", &file].map(str::to_owned).into();
        let addresses = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data-dir", &data];
        command.extend(addresses.iter().chain(args).map(|&arg| arg.to_owned()));
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Broker::spawn(dir, command, variables.iter().map(owned).collect())
    }

    fn spawn(dir: PathBuf, command: Vec<String>, variables: Vec<(String, String)>) -> Broker {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(if std::env::var_os("TIDEGATE_TEST_LOG").is_some() {
                Stdio::inherit()
            } else {
                Stdio::null()
            })
            .spawn()
            .expect("start the broker");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let (mut mqtt, mut admin) = (None, None);
        let said = Arc::<Mutex<String>>::default();
        for line in &mut lines {
            let line = line.expect("the broker's stdout");
            hear(&said, &line);
            match announcement(&line).as_slice() {
                // `listening mqtt NAME ADDRESS`, `listening admin ADDRESS`, `ready`
                ["listening", "mqtt", _, address] if mqtt.is_none() => mqtt = address.parse().ok(),
                ["listening", "admin", address] => admin = address.parse().ok(),
                ["ready"] => break,
                _ => {}
            }
        }
        let hearer = said.clone();
        // Reads on to the end, as a collector of logs does.
        let listener = std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| hear(&hearer, &line));
        });
        Broker {
            mqtt: mqtt.expect("the broker did not print `listening mqtt NAME ADDRESS`; is TIDEGATE_TEST_LOG=1 of help?"),
            admin: admin.expect("the broker did not print `listening admin ADDRESS`"),
            child,
            dir,
            command,
            variables,
            said,
            listener: Some(listener),
        }
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on the same data and on new ports; what ran is killed.
    pub fn restart(&mut self) {
        self.kill();
        let (dir, command) = (std::mem::take(&mut self.dir), self.command.clone());
        *self = Broker::spawn(dir, command, self.variables.clone());
    }

    /// As [`Broker::restart`], with another config.
    pub fn restart_with(&mut self, config: &str) {
        std::fs::write(self.dir.join("tidegate.toml"), config).expect("write the config");
        self.restart();
    }

    /// Starts it where it cannot run: the exit status, and all that it says.
    pub fn refuses_to_start(&self) -> (Option<i32>, String) {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).envs(self.variables.iter().cloned());
        let output = command.stdin(Stdio::null()).output().expect("start the broker");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Waits until the process has ended by itself; its exit status.
    pub fn ends(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the broker did not end within {PATIENCE:?}");
    }

    /// Writes another config over the one it was started with, and sends SIGHUP.
    pub fn reload(&self, config: &str) {
        std::fs::write(self.dir.join("tidegate.toml"), config).expect("write the config");
        self.signal("-HUP");
    }

    /// Sends a signal, such as `-HUP`.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.pid().to_string()).status();
        assert!(status.expect("run kill").success());
    }

    /// Waits for a line on stdout that has this in it, for at most [`PATIENCE`].
    #[track_caller]
    pub fn says(&self, wanted: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.said();
            if let Some(line) = said.lines().find(|line| line.contains(wanted)) {
                return line.to_owned();
            }
            assert!(Instant::now() < end, "the broker did not say {wanted:?}, but:\n{said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All lines on stdout so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// All lines on stdout. The broker must have ended, or end soon.
    pub fn said_to_the_end(&mut self) -> String {
        if let Some(listener) = self.listener.take() {
            listener.join().expect("the thread only reads");
        }
        self.said()
    }

    /// A raw connection, nothing sent yet.
    pub fn raw(&self) -> Raw {
        Raw::open(self.mqtt)
    }

    /// The scratch directory of this broker.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends SIGTERM and waits for the end; the exit code, `None` on a signal.
    pub fn terminate(&mut self) -> Option<i32> {
        let _ = Command::new("kill").arg("-TERM").arg(self.pid().to_string()).status();
        let end = Instant::now() + 3 * PATIENCE;
        while Instant::now() < end {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the broker did not end within {:?} of SIGTERM", 3 * PATIENCE);
    }

    /// `GET path` at the admin port: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut s = TcpStream::connect(self.admin).expect("connect to the admin port");
        s.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        write!(s, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").expect("ask");
        let mut text = String::new();
        s.read_to_string(&mut text).expect("an HTTP answer");
        let status = text.split(' ').nth(1).and_then(|w| w.parse().ok()).expect("an HTTP status");
        let body = text.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default();
        (status, body)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Empty: another one goes on there.
        if self.dir != Path::new("") {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Keeps what the broker says, up to a size that no test reaches.
fn hear(said: &Mutex<String>, line: &str) {
    if std::env::var_os("TIDEGATE_TEST_LOG").is_some() {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    let mut said = said.lock().expect("nobody panics with it");
    if said.len() < 64 << 20 {
        said.push_str(line);
        said.push('\n');
    }
}

/// The words of a line; of a JSON line, those of its message, then listener
/// and address if it has them.
fn announcement(line: &str) -> Vec<&str> {
    if !line.starts_with('{') {
        return line.split_whitespace().collect();
    }
    let field = |name: &str| {
        let (_, rest) = line.split_once(&format!("\"{name}\":\""))?;
        rest.split('"').next()
    };
    let mut words: Vec<&str> = field("message").unwrap_or_default().split_whitespace().collect();
    words.extend(["listener", "address"].iter().filter_map(|name| field(name)));
    words
}

/// What came from the socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Got {
    /// One whole packet, fixed header included.
    Packet(Vec<u8>),
    /// The broker closed the connection.
    Closed,
    /// Nothing within the time given.
    Silence,
}

/// A raw TCP connection that frames what it receives and interprets nothing.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects to `address`.
    pub fn open(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connect");
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        Raw { stream, buffer: Vec::new() }
    }

    /// Sends bytes. A peer that closed already is no error: the next `recv` says so.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet, waiting for at most [`PATIENCE`].
    pub fn recv(&mut self) -> Got {
        self.recv_within(PATIENCE)
    }

    /// The next packet, waiting for at most `patience`.
    pub fn recv_within(&mut self, patience: Duration) -> Got {
        let end = Instant::now() + patience;
        loop {
            if let Some(packet) = self.split() {
                return Got::Packet(packet);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Got::Silence;
            }
            self.stream.set_read_timeout(Some(left)).expect("set a timeout");
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Got::Closed,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    return Got::Silence;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Got::Closed,
            }
        }
    }

    /// Closes without a word, as a lost client does.
    pub fn abort(self) {
        drop(self);
    }

    /// The socket, for tests that need one.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn split(&mut self) -> Option<Vec<u8>> {
        let (mut length, mut shift, mut at) = (0usize, 0, 1);
        loop {
            let byte = *self.buffer.get(at)?;
            length |= usize::from(byte & 0x7f) << shift;
            at += 1;
            shift += 7;
            if byte & 0x80 == 0 || shift > 21 {
                break;
            }
        }
        let end = at + length;
        if self.buffer.len() < end {
            return None;
        }
        Some(self.buffer.drain(..end).collect())
    }
}
