//! One broker process: started as an operator starts it, ended with SIGKILL.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long a start may take.
const START: Duration = Duration::from_secs(60);

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
        Ok(Recipe { binary, dir, data, variables: Vec::new() })
    }

    /// Starts life `number` and does not wait for it.
    pub(crate) fn launch(&self, number: u64) -> Result<Process> {
        let log = self.dir.join(format!("broker-{number}.log"));
        let out = File::create(&log).with_context(|| format!("cannot create {log:?}"))?;
        let err = out.try_clone().context("a second handle of the log")?;
        let child = Command::new(&self.binary)
            .args(["run", "--config"])
            .arg(self.dir.join("tidegate.toml"))
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "2"])
            .arg("--data-dir")
            .arg(&self.data)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.binary))?;
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
            if let Some(status) = self.child.try_wait().context("ask for the process")? {
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
        self.child.try_wait().ok().flatten()
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
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)?;
        kill_process(id, Signal::TERM).ok()?;
        self.ended_within(patience)
    }

    /// SIGKILL, and the wait until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// All it has said.
    pub(crate) fn said(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines it said.
    pub(crate) fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
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
