//! What the kernel counts of our connections and of connection tracking, by
//! eBPF, where it may be asked. What may not be had is absent from the metrics,
//! and `tidegate bpf status` says why.

use std::net::SocketAddr;

use anyhow::bail;
use serde_json::{Value, json};
use tidegate_kernel::conntrack::{self, Conntrack};
use tidegate_kernel::program::Facts;
use tidegate_kernel::tcpstat::{Stats, Tcpstat};
use tracing::info;

use crate::config::key::Setting;
use crate::config::{Bind, Config, Mode};
use crate::net::listener::Bound;
use crate::steering::report::facts_line;

/// The objects that observe.
#[derive(Debug)]
pub struct Observers {
    tcpstat: Object<Tcpstat>,
    conntrack: Object<Conntrack>,
    /// The network namespace that this process is in.
    namespace: Option<u32>,
}

/// What there is to say of an object.
struct Row<'a> {
    name: &'static str,
    mode: Mode,
    why: Option<&'a str>,
    facts: Vec<Facts>,
    /// Programs that are not attached, and why.
    missing: &'a [(String, String)],
}

/// An object: loaded, or why not.
#[derive(Debug)]
struct Object<T> {
    mode: Mode,
    loaded: Result<T, String>,
}

impl<T> Object<T> {
    fn start(
        name: &'static str,
        mode: Mode,
        load: impl FnOnce() -> Result<T, String>,
    ) -> anyhow::Result<Object<T>> {
        let loaded = match mode {
            Mode::Off => Err(format!("ebpf.{name} = \"off\"")),
            Mode::Auto | Mode::Require => load(),
        };
        if let (Mode::Require, Err(why)) = (mode, &loaded) {
            bail!("ebpf.{name} = \"require\": {why}; use \"auto\" to run without it");
        }
        Ok(Object { mode, loaded })
    }
}

impl Observers {
    /// Of a node that does not ask the kernel.
    pub fn off() -> Observers {
        let why = || "it was not asked for".to_owned();
        Observers {
            tcpstat: Object { mode: Mode::Off, loaded: Err(why()) },
            conntrack: Object { mode: Mode::Off, loaded: Err(why()) },
            namespace: None,
        }
    }

    /// Loads what the config asks for.
    ///
    /// # Errors
    /// When something is required that cannot be had.
    pub fn start(config: &Config, bound: &[Bound]) -> anyhow::Result<Observers> {
        let ports: Vec<(u16, usize)> = bound
            .iter()
            .enumerate()
            .filter_map(|(index, bound)| match &bound.address {
                Bind::Tcp(address) => Some((SocketAddr::port(address), index)),
                Bind::Unix(_) => None,
            })
            .collect();
        let tcpstat = Object::start("tcpstat", config.ebpf.tcpstat, || Tcpstat::start(&ports))?;
        let conntrack = Object::start("conntrack", config.ebpf.conntrack, Conntrack::start)?;
        Ok(Observers { tcpstat, conntrack, namespace: conntrack::own_namespace() })
    }

    /// Says in a line each what is not in effect though it might be.
    pub fn announce(&self) {
        let objects = [
            ("tcpstat", self.tcpstat.mode, self.tcpstat.loaded.as_ref().err()),
            ("conntrack", self.conntrack.mode, self.conntrack.loaded.as_ref().err()),
        ];
        for (object, mode, why) in objects {
            match (mode, why) {
                (Mode::Off, _) | (_, None) => {}
                (Mode::Auto | Mode::Require, Some(why)) => {
                    info!(object, why, "eBPF: the node runs without this object");
                }
            }
        }
    }

    /// What was counted of each listener; none where nothing is.
    pub fn connections(&self, listeners: usize) -> Option<Vec<Stats>> {
        let tcpstat = self.tcpstat.loaded.as_ref().ok()?;
        (0..listeners).map(|listener| tcpstat.stats(listener).ok()).collect()
    }

    /// Whether resets are among it.
    pub fn has_resets(&self) -> bool {
        let receives = tidegate_kernel::tcpstat::PROGRAM_RECEIVE_RESET;
        self.tcpstat.loaded.as_ref().is_ok_and(|tcpstat| tcpstat.has(receives))
    }

    /// Events of connection tracking in our network namespace, by name; of
    /// which there are none is absent.
    pub fn tracking(&self) -> Vec<(&'static str, u64)> {
        let Ok(tracking) = &self.conntrack.loaded else { return Vec::new() };
        let Some(counts) = self.namespace.and_then(|inode| tracking.counts(inode).ok()) else {
            return Vec::new();
        };
        [
            ("new", "allocate", counts.new),
            ("confirmed", "confirm", counts.confirmed),
            ("confirm_dropped", "confirm_return", counts.confirm_dropped),
            ("destroyed", "destroy", counts.destroyed),
            ("early_drop", "early_drop", counts.early_drops),
        ]
        .into_iter()
        .filter_map(|(event, program, count)| tracking.has(program).then_some((event, count)))
        .collect()
    }

    /// Whether each object is loaded, with its programs.
    pub fn programs(&self) -> [(&'static str, Option<Vec<Facts>>); 2] {
        [
            ("tcpstat", self.tcpstat.loaded.as_ref().ok().map(Tcpstat::facts)),
            ("conntrack", self.conntrack.loaded.as_ref().ok().map(Conntrack::facts)),
        ]
    }

    fn each(&self) -> [Row<'_>; 2] {
        let (tcpstat, conntrack) = (self.tcpstat.loaded.as_ref(), self.conntrack.loaded.as_ref());
        [
            Row {
                name: "tcpstat",
                mode: self.tcpstat.mode,
                why: tcpstat.err().map(String::as_str),
                facts: tcpstat.map_or_else(|_| Vec::new(), Tcpstat::facts),
                missing: tcpstat.map_or(&[], Tcpstat::missing),
            },
            Row {
                name: "conntrack",
                mode: self.conntrack.mode,
                why: conntrack.err().map(String::as_str),
                facts: conntrack.map_or_else(|_| Vec::new(), Conntrack::facts),
                missing: conntrack.map_or(&[], Conntrack::missing),
            },
        ]
    }

    /// For `tidegate bpf status`.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for Row { name, mode, why, facts, missing } in self.each() {
            let mode = mode.show();
            let mode = mode.trim_matches('"');
            match why {
                Some(why) => out += &format!("{name:<10} off   ({mode})  {why}\n"),
                None => out += &format!("{name:<10} on    ({mode})\n"),
            }
            for facts in facts {
                out += &format!("           {}\n", facts_line(&facts));
            }
            for (program, why) in missing {
                out += &format!("           {program} is not attached: {why}\n");
            }
        }
        out
    }

    /// The same for machines.
    pub fn json(&self) -> Vec<Value> {
        let one = |Row { name, mode, why, facts, missing }: Row<'_>| {
            let missing =
                missing.iter().map(|(program, why)| json!({"program": program, "why": why}));
            json!({
                "object": name,
                "mode": mode.show().trim_matches('"'),
                "on": why.is_none(),
                "why": why,
                "programs": facts,
                "missing": missing.collect::<Vec<_>>(),
            })
        };
        self.each().into_iter().map(one).collect()
    }
}
