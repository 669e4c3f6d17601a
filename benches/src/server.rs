//! A broker as a process of its own: pinned, awaited, and ended with us.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Where a pinned broker runs.
pub const CORE_BROKER: usize = 0;
/// Where the load runs then.
pub const CORE_LOAD: usize = 1;
const PORTS: Range<u16> = 20_000..32_000;
const START_TIME_MAX: Duration = Duration::from_secs(30);
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// A file that gets what brokers print, for a look at a run that failed.
const LOG_VARIABLE: &str = "BROKER_LOG";

/// How a broker shows that it is ready.
#[derive(Clone, Debug)]
pub enum Ready {
    /// It prints the line `ready`.
    Says,
    /// All of these take connections.
    Listens(Vec<SocketAddr>),
}

/// A started broker; it is stopped when dropped, and its folder removed.
#[derive(Debug)]
pub struct Server {
    child: Child,
    folder: PathBuf,
}

impl Server {
    /// Starts `command` on the cores of `broker`, moves this thread to those of `load`, and waits
    /// until it is ready. `folder` is there already.
    pub fn start(
        mut command: Command,
        folder: PathBuf,
        broker: &[usize],
        load: &[usize],
        ready: &Ready,
    ) -> Result<Self> {
        let complaints = fs::File::create(complaints(&folder))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints);
        // A child inherits the mask of its parent.
        pin(broker)?;
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()));
        pin(load)?;
        let mut server = Self { child: child?, folder };
        server.wait(ready)?;
        Ok(server)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would: SIGKILL. Its folder goes as well.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it has not ended by itself.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn wait(&mut self, ready: &Ready) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        let said = self.listen();
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(complaints(&self.folder)).unwrap_or_default();
                bail!("the broker ended at its start: {status}: {said}");
            }
            let ready = match ready {
                Ready::Says => said.recv_timeout(Duration::from_millis(50)).is_ok(),
                Ready::Listens(doors) => doors.iter().all(|door| TcpStream::connect(door).is_ok()),
            };
            if ready {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("the broker was not ready within {START_TIME_MAX:?}")
    }

    /// Tells when the broker says that it is ready. Reads on, so that a broker that talks never
    /// blocks on the pipe.
    fn listen(&mut self) -> Receiver<()> {
        let (sender, receiver) = channel();
        if let Some(stdout) = self.child.stdout.take() {
            let log = std::env::var_os(LOG_VARIABLE).map(PathBuf::from);
            thread::spawn(move || {
                let mut log = log.and_then(|path| fs::File::create(path).ok());
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if line == "ready" {
                        let _ = sender.send(());
                    }
                    if let Some(log) = &mut log {
                        let _ = writeln!(log, "{line}");
                    }
                }
            });
        }
        receiver
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < deadline && self.alive() {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Free addresses of loopback, below the ports that the kernel gives to clients: some brokers take
/// theirs on every address, and one client's TIME_WAIT on any of them would be in their way.
pub fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut found = Vec::new();
    let mut held = Vec::new();
    let first = PORTS.start + (std::process::id() as u16).wrapping_mul(7) % (PORTS.len() as u16);
    for port in (first..PORTS.end).chain(PORTS.start..first) {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
            held.push(listener);
            found.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        if let Ok(found) = found.as_slice().try_into() {
            return Ok(found);
        }
    }
    bail!("no {N} free ports in {PORTS:?}")
}

fn complaints(folder: &Path) -> PathBuf {
    folder.join("stderr")
}

/// Pins this thread, and those it starts, to `cores`.
pub fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).context("two cores are needed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_ends_at_its_start_says_why() {
        let folder = std::env::temp_dir().join(format!("server-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable folder");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option >&2; exit 3"]);
        let started = Server::start(command, folder.clone(), &[0], &[0], &Ready::Says);
        let error = started.expect_err("it ended").to_string();
        assert!(error.contains("no such option"), "{error}");
        assert!(!folder.exists());
    }
}
