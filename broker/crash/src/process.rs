//! One broker process: started as an operator starts it, ended with SIGKILL.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long a start may take.
const START: Duration = Duration::from_secs(60);

/// As much of a line is told.
const LINE_CHARS_MAX: usize = 240;

/// How often we look at what a process has said.
const LOOK: Duration = Duration::from_millis(2);

/// What every life of the broker has in common.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The program.
    pub(crate) binary: PathBuf,
    /// Config and logs.
    pub(crate) dir: PathBuf,
    /// The data directory, which outlives the processes.
    pub(crate) data: PathBuf,
    /// Further variables of the environment.
    pub(crate) variables: Vec<(String, String)>,
    /// What starts the program, if it is not started directly: the last of it
    /// becomes the program, so that their process is one.
    pub(crate) through: Vec<String>,
    /// Where MQTT is spoken; port 0: anywhere.
    pub(crate) listen: SocketAddr,
    /// Where the admin port is.
    pub(crate) admin: SocketAddr,
}

/// A broker process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// How a start ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// MQTT is spoken here.
    Ready(SocketAddr),
    /// The process ended.
    Ended(ExitStatus),
    /// Neither, for a minute.
    Silent,
}

impl Recipe {
    /// A recipe with its config written down.
    pub(crate) fn new(
        binary: PathBuf,
        dir: PathBuf,
        data: PathBuf,
        config: &str,
    ) -> Result<Recipe> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {dir:?}"))?;
        fs::write(dir.join("tidegate.toml"), config).context("cannot write the config")?;
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (variables, through) = (Vec::new(), Vec::new());
        Ok(Recipe { binary, dir, data, variables, through, listen: anywhere, admin: anywhere })
    }

    /// Starts life `number` and does not wait for it.
    pub(crate) fn launch(&self, number: u64) -> Result<Process> {
        let log = self.dir.join(format!("broker-{number}.log"));
        let out = File::create(&log).with_context(|| format!("cannot create {log:?}"))?;
        let err = out.try_clone().context("a second handle of the log")?;
        let mut command = match self.through.split_first() {
            None => Command::new(&self.binary),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&self.binary);
                command
            }
        };
        let child = command
            .args(["run", "--config"])
            .arg(self.dir.join("tidegate.toml"))
            .args(["--listen", &self.listen.to_string(), "--admin", &self.admin.to_string()])
            .args(["--shards", "2"])
            .arg("--data-dir")
            .arg(&self.data)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            // Ctrl-C is ours to hand on.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.binary))?;
        children().insert(child.id());
        Ok(Process { child, log })
    }
}

impl Process {
    /// Waits until it is ready, or is not going to be.
    pub(crate) fn wait_ready(&mut self) -> Result<Start> {
        let end = Instant::now() + START;
        loop {
            if let Some(address) = ready(&self.said()) {
                return Ok(Start::Ready(address));
            }
            if let Some(status) = self.ended() {
                return Ok(Start::Ended(status));
            }
            if Instant::now() > end {
                return Ok(Start::Silent);
            }
            sleep(LOOK);
        }
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().ok().flatten()?;
        children().remove(&self.child.id());
        Some(ended)
    }

    /// Waits for its end, at most so long.
    pub(crate) fn ended_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            sleep(LOOK);
        }
    }

    /// SIGTERM, as an operator stops it; how it ended, if it did in time.
    pub(crate) fn stop(&mut self, patience: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended_within(patience)
    }

    /// Sends a signal; none if it could not be sent.
    pub(crate) fn signal(&self, signal: Signal) -> Option<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)?;
        kill_process(id, signal).ok()
    }

    /// SIGKILL, and the wait until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        children().remove(&self.child.id());
    }

    /// All it has said.
    pub(crate) fn said(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines it said, and where it panicked.
    pub(crate) fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        let rest = lines.len().saturating_sub(12);
        // A backtrace is longer than what is told.
        let panic = lines[..rest].iter().rposition(|line| line.contains("' panicked at "));
        let panic = panic.map_or(&[][..], |at| &lines[at..rest.min(at + 2)]);
        let short = panic
            .iter()
            .chain(&lines[rest..])
            .map(|line| line.chars().take(LINE_CHARS_MAX).collect::<String>());
        short.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The processes that were started and not yet seen to end, for whoever has to
/// end them all.
fn children() -> MutexGuard<'static, BTreeSet<u32>> {
    static CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SIGKILL to every process that we started and that has not ended.
pub(crate) fn kill_all() {
    for &child in children().iter() {
        if let Some(id) = i32::try_from(child).ok().and_then(Pid::from_raw) {
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

/// Where MQTT is spoken, once the process says that it is ready.
fn ready(said: &str) -> Option<SocketAddr> {
    let mut address = None;
    for line in said.lines() {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["listening", "mqtt", _, at] => address = at.parse().ok(),
            ["ready"] => return address,
            _ => {}
        }
    }
    None
}
