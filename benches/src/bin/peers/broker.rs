//! The brokers and how each is started.
//!
//! All run with their defaults but for what the rows need: anonymous clients,
//! no persistence, TCP_NODELAY where that is a setting, and bounds that 15,000
//! connections and payloads of 64 KiB do not meet.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use benches::server::{CORE_BROKER, CORE_LOAD, Ready, Server, free_addresses};
use benches::wire::Version;

use crate::scenario::Cores;

/// Which broker, and so which column of the table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Column {
    /// Our relay that parses nothing.
    Floor,
    /// mosquitto, from Debian.
    Mosquitto,
    /// rumqttd, from crates.io.
    Rumqttd,
    /// FlashMQ, where its path is given.
    FlashMq,
    /// NanoMQ, where its path is given.
    NanoMq,
    /// EMQX, where the path of its `bin/emqx` is given.
    Emqx,
    /// Tidegate.
    Tidegate,
}

impl Column {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 7] = [
        Self::Floor,
        Self::Mosquitto,
        Self::Rumqttd,
        Self::FlashMq,
        Self::NanoMq,
        Self::Emqx,
        Self::Tidegate,
    ];

    /// Whether it is a broker of others.
    pub(crate) fn is_peer(self) -> bool {
        !matches!(self, Self::Floor | Self::Tidegate)
    }

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Mosquitto => "mosquitto",
            Self::Rumqttd => "rumqttd",
            Self::FlashMq => "FlashMQ",
            Self::NanoMq => "NanoMQ",
            Self::Emqx => "EMQX",
            Self::Tidegate => "tidegate",
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A broker that can be measured.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    /// Which.
    pub(crate) column: Column,
    /// The program; the floor is this one.
    pub(crate) program: PathBuf,
    /// A configuration file of the caller's, for Tidegate.
    pub(crate) config: Option<PathBuf>,
}

/// A started broker.
#[derive(Debug)]
pub(crate) struct Running {
    server: Server,
    /// Where it listens.
    pub(crate) addr: SocketAddr,
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }
}

impl Broker {
    /// Starts it on a free port of loopback, for clients of `version`, and pins broker and load.
    pub(crate) fn start(&self, cores: Cores, version: Version) -> Result<Running> {
        let [addr, admin] = free_addresses()?;
        let folder =
            std::env::temp_dir().join(format!("peers-{}-{}", std::process::id(), addr.port()));
        fs::create_dir_all(&folder)?;
        let command = self.command(addr, admin, &folder, cores, version)?;
        let (broker, load): (&[usize], &[usize]) = match cores {
            Cores::Apart => (&[CORE_BROKER], &[CORE_LOAD]),
            Cores::Both => (&[CORE_BROKER, CORE_LOAD], &[CORE_BROKER, CORE_LOAD]),
        };
        let ready = match self.column {
            Column::Tidegate => Ready::Says,
            Column::Floor
            | Column::Mosquitto
            | Column::Rumqttd
            | Column::FlashMq
            | Column::NanoMq
            | Column::Emqx => Ready::Listens(vec![addr]),
        };
        let server = Server::start(command, folder, broker, load, &ready)?;
        Ok(Running { server, addr })
    }

    fn command(
        &self,
        addr: SocketAddr,
        admin: SocketAddr,
        folder: &Path,
        cores: Cores,
        version: Version,
    ) -> Result<Command> {
        let threads = match cores {
            Cores::Apart => "1",
            Cores::Both => "2",
        };
        let mut command = Command::new(&self.program);
        let config = folder.join("config");
        let text = match self.column {
            Column::Floor => {
                command.args(["floor-server", "--listen", &addr.to_string()]);
                command.args(["--threads", threads]);
                return Ok(command);
            }
            Column::Tidegate => {
                command.args(["run", "--config"]).arg(self.config.as_ref().unwrap_or(&config));
                command.args(["--listen", &addr.to_string(), "--admin", &admin.to_string()]);
                command.arg("--data-dir").arg(folder).args(["--shards", threads]);
                TIDEGATE_CONFIG.to_owned()
            }
            Column::Mosquitto => {
                command.arg("-c").arg(&config);
                mosquitto_config(addr)
            }
            Column::Rumqttd => {
                command.arg("--quiet").arg("--config").arg(folder.join("config.toml"));
                fs::write(folder.join("config.toml"), rumqttd_config(addr, version))?;
                return Ok(command);
            }
            Column::FlashMq => {
                command.arg("--config-file").arg(&config);
                flashmq_config(addr, threads, folder)
            }
            Column::NanoMq => {
                command.args(["start", "--conf"]).arg(&config);
                nanomq_config(addr)
            }
            Column::Emqx => {
                command.arg("foreground");
                command.envs([
                    ("EMQX_LISTENERS__TCP__DEFAULT__BIND", addr.to_string()),
                    ("EMQX_LISTENERS__SSL__DEFAULT__ENABLED", "false".into()),
                    ("EMQX_LISTENERS__WS__DEFAULT__ENABLED", "false".into()),
                    ("EMQX_LISTENERS__WSS__DEFAULT__ENABLED", "false".into()),
                    ("EMQX_DASHBOARD__LISTENERS__HTTP__BIND", "0".into()),
                    ("EMQX_MQTT__MAX_PACKET_SIZE", "2MB".into()),
                ]);
                return Ok(command);
            }
        };
        fs::write(&config, text)?;
        Ok(command)
    }
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

/// It has a listener for each version, and by default waits a millisecond after each accept.
fn rumqttd_config(addr: SocketAddr, version: Version) -> String {
    let table = match version {
        Version::V311 => "v4",
        Version::V5 => "v5",
    };
    format!(
        "id = 0\n\
         [router]\n\
         id = 0\n\
         max_connections = 40000\n\
         max_outgoing_packet_count = 200\n\
         max_segment_size = 104857600\n\
         max_segment_count = 10\n\
         [{table}.1]\n\
         name = \"{table}-1\"\n\
         listen = \"{addr}\"\n\
         next_connection_delay_ms = 0\n\
         [{table}.1.connections]\n\
         connection_timeout_ms = 60000\n\
         max_payload_size = 1048576\n\
         max_inflight_count = 1000\n\
         dynamic_filters = true\n"
    )
}

fn flashmq_config(addr: SocketAddr, threads: &str, folder: &Path) -> String {
    format!(
        "allow_anonymous true\n\
         thread_count {threads}\n\
         quiet true\n\
         log_level error\n\
         rlimit_nofile 65536\n\
         storage_dir {}\n\
         listen {{\n  protocol mqtt\n  inet_protocol ip4\n  inet4_bind_address {}\n  port {}\n}}\n",
        folder.display(),
        addr.ip(),
        addr.port()
    )
}

fn nanomq_config(addr: SocketAddr) -> String {
    format!(
        "mqtt {{ max_packet_size = 2MB, max_inflight_window = 1000 }}\n\
         listeners.tcp {{ bind = \"{addr}\" }}\n\
         auth {{ allow_anonymous = true }}\n\
         log {{ to = [console], level = error }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broker_is_told_where_to_listen() {
        let addr: SocketAddr = "127.0.0.1:1234".parse().expect("an address");
        let folder = Path::new("folder");
        for text in [
            mosquitto_config(addr),
            rumqttd_config(addr, Version::V311),
            flashmq_config(addr, "1", folder),
            nanomq_config(addr),
        ] {
            assert!(text.contains("127.0.0.1") && text.contains("1234"), "{text}");
        }
        assert!(rumqttd_config(addr, Version::V5).contains("[v5.1.connections]"));
    }
}
