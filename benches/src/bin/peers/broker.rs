//! Starting and stopping the brokers.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::scenario::Cores;

const CORE_BROKER: usize = 0;
const CORE_LOAD: usize = 1;
const START_TIME_MAX: Duration = Duration::from_secs(15);
const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// A broker that can be measured.
#[derive(Clone, Debug)]
pub(crate) enum Broker {
    /// Our relay that parses nothing.
    Floor,
    /// mosquitto, from Debian.
    Mosquitto(PathBuf),
    /// Tidegate, and a configuration file if not ours.
    Tidegate(PathBuf, Option<PathBuf>),
}

/// Which column a figure belongs to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Column {
    /// The relay.
    Floor,
    /// mosquitto.
    Mosquitto,
    /// Tidegate.
    Tidegate,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Floor => "floor",
            Self::Mosquitto => "mosquitto",
            Self::Tidegate => "tidegate",
        })
    }
}

/// A started broker; it is stopped when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    folder: PathBuf,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

impl Broker {
    /// Its column of the table.
    pub(crate) fn column(&self) -> Column {
        match self {
            Self::Floor => Column::Floor,
            Self::Mosquitto(_) => Column::Mosquitto,
            Self::Tidegate(..) => Column::Tidegate,
        }
    }

    /// Starts it on a free port of loopback and pins broker and load.
    pub(crate) fn start(&self, cores: Cores) -> Result<Running> {
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let folder =
            std::env::temp_dir().join(format!("peers-{}-{}", std::process::id(), addr.port()));
        fs::create_dir_all(&folder)?;
        let mut command = self.command(addr, &folder, cores)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A child inherits the mask of its parent.
        let (broker, load) = match cores {
            Cores::Apart => (vec![CORE_BROKER], vec![CORE_LOAD]),
            Cores::Both => (vec![CORE_BROKER, CORE_LOAD], vec![CORE_BROKER, CORE_LOAD]),
        };
        pin(&broker)?;
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()));
        pin(&load)?;
        let mut running = Running { child: child?, folder, addr };
        running.wait_ready(matches!(self, Self::Tidegate(..)))?;
        Ok(running)
    }

    fn command(&self, addr: SocketAddr, folder: &Path, cores: Cores) -> Result<Command> {
        let shards = match cores {
            Cores::Apart => "1",
            Cores::Both => "2",
        };
        Ok(match self {
            Self::Floor => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["floor-server", "--listen", &addr.to_string()]);
                command.args(["--threads", shards]);
                command
            }
            Self::Mosquitto(program) => {
                let config = folder.join("mosquitto.conf");
                fs::write(&config, mosquitto_config(addr))?;
                let mut command = Command::new(program);
                command.arg("-c").arg(config);
                command
            }
            Self::Tidegate(program, config) => {
                let default = folder.join("tidegate.toml");
                fs::write(&default, TIDEGATE_CONFIG)?;
                let mut command = Command::new(program);
                command.args(["run", "--config"]).arg(config.as_ref().unwrap_or(&default));
                command.args(["--listen", &addr.to_string(), "--admin", "127.0.0.1:0"]);
                command.arg("--data-dir").arg(folder).args(["--shards", shards]);
                command
            }
        })
    }
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_ready(&mut self, says_ready: bool) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        let (sender, receiver) = channel();
        if let Some(stdout) = self.child.stdout.take() {
            // Reads on, so that a broker that talks never blocks on the pipe.
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if line == "ready" {
                        let _ = sender.send(());
                    }
                }
            });
        }
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the broker ended at its start: {status}");
            }
            let ready = match says_ready {
                true => receiver.recv_timeout(Duration::from_millis(50)).is_ok(),
                false => TcpStream::connect(self.addr).is_ok(),
            };
            if ready {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("the broker was not ready within {START_TIME_MAX:?}")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIME_MAX;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Pins this process to `cores`, as far as the machine has them.
fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).context("two cores are needed")
}

/// All defaults, but for the row whose connections hold 10,000 filters each.
const TIDEGATE_CONFIG: &str = "[limits]\nsubscriptions_max = 10_000\n";

fn mosquitto_config(addr: SocketAddr) -> String {
    format!(
        "listener {} {}\n\
         allow_anonymous true\n\
         persistence false\n\
         max_inflight_messages 1000\n\
         max_queued_messages 0\n\
         set_tcp_nodelay true\n\
         sys_interval 0\n\
         log_type none\n\
         user root\n",
        addr.port(),
        addr.ip()
    )
}
