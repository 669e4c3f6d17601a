//! Starting and stopping a broker with its four doors open.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::cgroup::Cgroup;
use tidegate_loadtest::layers::WS_PATH;
use tidegate_loadtest::transport::Transport;

const CORE_BROKER: usize = 0;
const CORE_LOAD: usize = 1;
const PORTS: Range<u16> = 20_000..32_000;
const START_TIME_MAX: Duration = Duration::from_secs(15);
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// A broker that can be measured.
#[derive(Clone, Debug)]
pub(crate) enum Broker {
    /// The relay of `peers`, which parses nothing: what kernel and load alone bring about. Plain
    /// TCP only.
    Floor(PathBuf),
    /// mosquitto, from Debian.
    Mosquitto(PathBuf),
    /// Tidegate.
    Tidegate(PathBuf),
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Floor(_) => "floor",
            Self::Mosquitto(_) => "mosquitto",
            Self::Tidegate(_) => "tidegate",
        })
    }
}

/// A started broker; it is stopped when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    folder: PathBuf,
    doors: [SocketAddr; 4],
    admin: SocketAddr,
    /// What it may not use more memory than, if anything.
    pub(crate) cgroup: Option<Cgroup>,
}

impl Broker {
    /// Starts it on free ports of loopback, and pins broker and load to a core each.
    pub(crate) fn start(&self) -> Result<Running> {
        self.start_in(None)
    }

    /// The same within a cgroup.
    pub(crate) fn start_in(&self, cgroup: Option<Cgroup>) -> Result<Running> {
        self.start_with(cgroup, &[])
    }

    /// The same with variables of the environment.
    pub(crate) fn start_with(
        &self,
        cgroup: Option<Cgroup>,
        variables: &[(&str, String)],
    ) -> Result<Running> {
        let [tcp, tls, ws, wss, admin] = free_addresses()?;
        let doors = [tcp, tls, ws, wss];
        let folder =
            std::env::temp_dir().join(format!("doors-{}-{}", std::process::id(), tcp.port()));
        fs::create_dir_all(&folder)?;
        certificate(&folder)?;
        let arguments = match self {
            Self::Floor(program) => {
                vec![
                    program.clone(),
                    "floor-server".into(),
                    "--listen".into(),
                    tcp.to_string().into(),
                ]
            }
            Self::Mosquitto(program) => {
                let config = folder.join("mosquitto.conf");
                fs::write(&config, mosquitto_config(doors, &folder))?;
                vec![program.clone(), "-c".into(), config]
            }
            Self::Tidegate(program) => {
                let config = folder.join("tidegate.toml");
                fs::write(&config, tidegate_config(doors, admin, &folder))?;
                vec![program.clone(), "run".into(), "--config".into(), config]
            }
        };
        let mut command = match &cgroup {
            None => Command::new(&arguments[0]),
            // It has to be inside before its first look at its limit.
            Some(cgroup) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]);
                shell.arg(cgroup.processes()).arg(&arguments[0]);
                shell
            }
        };
        command.args(&arguments[1..]);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let complaints = fs::File::create(folder.join("stderr"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(complaints);
        // A child inherits the mask of its parent.
        pin(CORE_BROKER)?;
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()));
        pin(CORE_LOAD)?;
        let mut running = Running { child: child?, folder, doors, admin, cgroup };
        running.wait_ready(self)?;
        Ok(running)
    }
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub(crate) fn addr(&self, transport: Transport) -> SocketAddr {
        self.doors[transport as usize]
    }

    /// Whether it has not ended by itself.
    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What its admin port says, of Tidegate.
    pub(crate) fn metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: doors\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    fn wait_ready(&mut self, broker: &Broker) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        let (sender, receiver) = channel();
        if let Some(stdout) = self.child.stdout.take() {
            // Reads on, so that a broker that talks never blocks on the pipe.
            let log = std::env::var_os("DOORS_LOG").map(PathBuf::from);
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
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
                bail!("the broker ended at its start: {status}: {said}");
            }
            let ready = match broker {
                Broker::Tidegate(_) => receiver.recv_timeout(Duration::from_millis(50)).is_ok(),
                Broker::Mosquitto(_) => self.doors.iter().all(listens),
                Broker::Floor(_) => listens(&self.doors[0]),
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

/// Pins this thread, and those it starts, to a core.
fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).context("two cores are needed")
}

fn listens(door: &SocketAddr) -> bool {
    TcpStream::connect(door).is_ok()
}

/// Below the ports that the kernel gives to clients: mosquitto's WebSocket listeners take theirs
/// on every address, and one client's TIME_WAIT on any of them would be in their way.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
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

/// A self-signed ECDSA P-256 certificate, the same kind for every broker.
fn certificate(folder: &Path) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    fs::write(folder.join("tls.crt"), made.cert.pem())?;
    fs::write(folder.join("tls.key"), made.signing_key.serialize_pem())?;
    Ok(())
}

/// Defaults but for the doors.
fn tidegate_config(doors: [SocketAddr; 4], admin: SocketAddr, folder: &Path) -> String {
    let mut text = format!(
        "[node]\nshards = 1\ndata_dir = \"{}\"\ndrain_seconds = 5\n[admin]\nbind = \"{admin}\"\n",
        folder.join("data").display()
    );
    for (transport, addr) in Transport::ALL.into_iter().zip(doors) {
        let _ = write!(
            text,
            "[listener.{transport}]\nbind = \"{addr}\"\ntransport = \"{transport}\"\n"
        );
        if transport.websocket() {
            let _ = writeln!(text, "ws_path = \"{WS_PATH}\"");
        }
        if transport.tls() {
            let _ = writeln!(
                text,
                "tls_certificate = \"{0}/tls.crt\"\ntls_key = \"{0}/tls.key\"",
                folder.display()
            );
        }
    }
    text
}

fn mosquitto_config(doors: [SocketAddr; 4], folder: &Path) -> String {
    let mut text = "allow_anonymous true\npersistence false\nmax_inflight_messages 1000\n\
                    max_queued_messages 0\nset_tcp_nodelay true\nsys_interval 0\nlog_type error\nlog_dest stderr\n\
                    user root\n"
        .to_owned();
    for (transport, addr) in Transport::ALL.into_iter().zip(doors) {
        let _ = writeln!(text, "listener {} {}", addr.port(), addr.ip());
        if transport.websocket() {
            text.push_str("protocol websockets\n");
        }
        if transport.tls() {
            let _ = writeln!(text, "certfile {0}/tls.crt\nkeyfile {0}/tls.key", folder.display());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broker_gets_all_four_doors() {
        let doors = free_addresses().expect("four free ports");
        let folder = Path::new("folder");
        let ours = tidegate_config(doors, doors[0], folder);
        let theirs = mosquitto_config(doors, folder);
        for (transport, addr) in Transport::ALL.into_iter().zip(doors) {
            assert!(ours.contains(&format!("[listener.{transport}]\nbind = \"{addr}\"")));
            assert!(theirs.contains(&format!("listener {}", addr.port())));
        }
        assert_eq!(ours.matches("tls_certificate").count(), 2);
        assert_eq!(theirs.matches("protocol websockets").count(), 2);
    }
}
