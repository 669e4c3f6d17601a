//! Starting and stopping a broker with its four doors open.

use std::fmt::{self, Write as _};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use benches::server::{CORE_BROKER, CORE_LOAD, Ready, Server, free_addresses};

use crate::cgroup::Cgroup;
use tidegate_loadtest::layers::WS_PATH;
use tidegate_loadtest::transport::Transport;

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
    server: Server,
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
        let ready = match self {
            Self::Tidegate(_) => Ready::Says,
            Self::Mosquitto(_) => Ready::Listens(doors.to_vec()),
            Self::Floor(_) => Ready::Listens(vec![tcp]),
        };
        let server = Server::start(command, folder, &[CORE_BROKER], &[CORE_LOAD], &ready)?;
        Ok(Running { server, doors, admin, cgroup })
    }
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Where it listens.
    pub(crate) fn addr(&self, transport: Transport) -> SocketAddr {
        self.doors[transport as usize]
    }

    /// Whether it has not ended by itself.
    pub(crate) fn alive(&mut self) -> bool {
        self.server.alive()
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
