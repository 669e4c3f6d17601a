//! One place where clients come in.

use std::net::SocketAddr;

use super::key::choice;

/// A listener, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Its name in the config, in logs and in metrics.
    pub name: String,
    /// Address and port. Port 0: the kernel chooses one.
    pub bind: SocketAddr,
    /// What carries MQTT.
    pub transport: Transport,
    /// Whether clients may connect without credentials. Always true so far.
    pub anonymous: bool,
    /// Length of the accept queue of each shard's socket.
    pub backlog: u32,
}

/// What carries MQTT between a client and us.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    /// TCP, not encrypted.
    #[default]
    Tcp,
}

impl Transport {
    /// The label's text in a metric.
    pub fn label(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
        }
    }
}

choice!(Transport { Transport::Tcp => "tcp" });
