//! Where a listener of a mosquitto.conf listens.

use std::net::{IpAddr, SocketAddr};

use super::Tables;
use super::listener::Listener;
use crate::config::key::Setting as _;
use crate::import::report::{Kind, Report};

const DEFAULT_PORT: u16 = 1883;

/// Where a listener is.
pub(super) struct Address {
    pub(super) at: At,
    ipv6_only: Option<bool>,
}

pub(super) enum At {
    Unix(String),
    Tcp(IpAddr, u16),
}

impl Address {
    /// Takes the lines that say where: `listener`, or those of the default
    /// listener. If they do not say it in a way that we can, it is loopback.
    pub(super) fn of(listener: &mut Listener, loopback: bool, report: &mut Report) -> Address {
        let main = listener.last("listener");
        let port = main.is_none().then(|| listener.last("port")).flatten();
        let address = main.is_none().then(|| listener.last("bind_address")).flatten();
        let domain = listener.last("socket_domain");
        let interface = listener.last("bind_interface");
        let (number, host) = match &main {
            Some(main) => {
                let split = main.value.split_once([' ', '\t']);
                let (number, host) = split.unwrap_or((main.value.as_str(), ""));
                (Some(number), Some(host.trim()))
            }
            None => (
                port.as_ref().map(|setting| setting.value.as_str()),
                address.as_ref().map(|setting| setting.value.as_str()),
            ),
        };
        let host = host.filter(|host| !host.is_empty());
        let number = number.map(str::parse::<u16>);
        let port_is_bad = matches!(number, Some(Err(_)));
        let number = number.and_then(Result::ok).unwrap_or(DEFAULT_PORT);
        let family = domain.as_ref().map(|setting| setting.value.as_str());
        let local = At::Tcp(IpAddr::from([127, 0, 0, 1]), number);
        let (mut at, mut ipv6_only) = match host {
            Some(path) if number == 0 && path.starts_with('/') => {
                (Some(At::Unix(path.into())), None)
            }
            Some("localhost") => (Some(local), None),
            Some(host) => {
                let address = host.trim_matches(['[', ']']).parse();
                (address.ok().map(|address| At::Tcp(address, number)), None)
            }
            None if loopback => (Some(local), None),
            None if family == Some("ipv4") => (Some(At::Tcp([0; 4].into(), number)), None),
            None => (Some(At::Tcp([0_u16; 8].into(), number)), Some(family == Some("ipv6"))),
        };
        let host_is_bad = at.is_none();
        if let Some(domain) = domain {
            match host.is_none() && !loopback {
                true => report.carried += 1,
                false => report.say(Kind::Unneeded, &domain.place, "the address says it"),
            }
        }
        if let Some(interface) = &interface
            && !matches!(at, Some(At::Unix(_)))
        {
            at = None;
            report.say(Kind::Lost, &interface.place, instead("an interface"));
        } else if let Some(interface) = &interface {
            report.say(Kind::Unneeded, &interface.place, "it is a Unix socket");
        }
        for (setting, bad) in
            [(&main, port_is_bad || host_is_bad), (&port, port_is_bad), (&address, host_is_bad)]
        {
            match setting {
                Some(setting) if bad => {
                    let what = if port_is_bad { "that as a port" } else { "the name of a host" };
                    report.say(Kind::Lost, &setting.place, instead(what));
                }
                Some(_) => report.carried += 1,
                None => {}
            }
        }
        if port_is_bad {
            at = None;
        }
        let at = at.unwrap_or_else(|| {
            ipv6_only = None;
            At::Tcp(IpAddr::from([127, 0, 0, 1]), number)
        });
        Address { at, ipv6_only }
    }

    pub(super) fn write(&self, table: &str, tables: &mut Tables) {
        let bind = match &self.at {
            At::Unix(path) => format!("unix:{path}"),
            At::Tcp(address, port) => SocketAddr::new(*address, *port).to_string(),
        };
        tables.set(table, "bind", bind.show());
        if let Some(ipv6_only) = self.ipv6_only {
            tables.set(table, "ipv6_only", ipv6_only.show());
        }
    }
}

fn instead(of: &str) -> String {
    format!("bind takes an address and a port, not {of}; the listener is put on 127.0.0.1")
}
