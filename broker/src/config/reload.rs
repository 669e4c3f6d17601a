//! What another reading of the config changes, and what of it can be taken
//! over while the node runs.
//!
//! Keys marked `live` in [`mod@super::file`] are taken over; of any other the
//! operator is told that it needs a restart, and the old value stays in effect
//! until then. Whatever is taken over passed the same checks as a start, on the
//! config as it will be in effect. Upholds CFG-2: a reload with a fault changes
//! nothing.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context;

use super::file::{
    AdminTable, AuthTable, ClusterTable, EbpfTable, File, ListenerTable, LogTable, MqttTable,
    NodeTable, StoreTable,
};
use super::file::{LimitsTable, key_at};
use super::key::{Fallback, Setting};
use super::problem::Faults;
use super::resolve::{self, Config};
use super::{Overlay, read};

/// Where a config comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file, if there is one.
    pub path: Option<PathBuf>,
    /// What is laid over it.
    pub overlay: Overlay,
}

impl Source {
    /// Reads it as it is now.
    ///
    /// # Errors
    /// When the file cannot be read, or with all faults of the config.
    pub fn read(&self) -> anyhow::Result<(File, Config)> {
        let text = match &self.path {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?
            }
            None => String::new(),
        };
        Ok(read(&text, &self.overlay)?)
    }
}

/// A config in effect, and where to read the next one.
#[derive(Clone, Debug)]
pub struct Reload {
    source: Source,
    in_effect: File,
}

impl Reload {
    /// Of a node that started with `in_effect`.
    pub fn new(source: Source, in_effect: File) -> Reload {
        Reload { source, in_effect }
    }

    /// Reads the config again and says what would change. Changes nothing.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn plan(&self) -> anyhow::Result<Plan> {
        let (new, _) = self.source.read()?;
        Ok(plan(&self.in_effect, &new))
    }

    /// The plan was carried out: its config is in effect.
    pub fn done(&mut self, plan: &Plan) {
        self.in_effect = plan.file.clone();
    }
}

/// A key whose value is another one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    /// Its path, such as `limits.packet_bytes_max`.
    pub key: String,
    /// Its value before, as TOML or in words. Secrets are in files of their
    /// own, so a value may be shown.
    pub old: String,
    /// Its value now.
    pub new: String,
    /// Whether it is taken over; else it needs a restart.
    pub live: bool,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.live { "applied" } else { "needs a restart" };
        write!(f, "{}: {} -> {} ({outcome})", self.key, self.old, self.new)
    }
}

/// What a reload does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is not as it was.
    pub changed: Vec<Changed>,
    /// The config in effect after it: the old one with the live keys of the
    /// new one. Complete and checked. What is read by name (certificates,
    /// passwords, ACLs) is to be read again even if no key changed.
    pub config: Config,
    file: File,
}

impl Plan {
    /// Whether every change is taken over.
    pub fn is_whole(&self) -> bool {
        self.changed.iter().all(|changed| changed.live)
    }

    /// A line a change, and what became of it.
    pub fn report(&self) -> String {
        if self.changed.is_empty() {
            return "nothing changed".into();
        }
        let lines: Vec<_> = self.changed.iter().map(Changed::to_string).collect();
        lines.join("\n")
    }
}

/// What changes from `old`, which is in effect, to `new`. Both have no faults.
pub fn plan(old: &File, new: &File) -> Plan {
    let mut changed = diff(old, new);
    let mut file = old.clone();
    file.take_live(new);
    let mut faults = Faults::default();
    let config = resolve::resolve(&file, &mut faults);
    if let Ok((file, config)) = faults.into_result((file, config), &Default::default()) {
        return Plan { changed, config, file };
    }
    // The live keys only fit together with some that need a restart: with
    // `transport = "tls"`, say, come its certificates.
    changed.iter_mut().for_each(|changed| changed.live = false);
    let config = resolve::resolve(old, &mut Faults::default());
    Plan { changed, config, file: old.clone() }
}

/// The keys whose value in effect differs, in the order of the reference.
pub fn diff(old: &File, new: &File) -> Vec<Changed> {
    let mut all = Vec::new();
    let mut table = |name: &str, old: Vec<(&str, Fallback)>, new: Vec<(&str, Fallback)>| {
        for ((key, old), (_, new)) in old.into_iter().zip(new) {
            if old != new {
                let path = [name.split('.').map(str::to_owned).collect(), vec![key.to_owned()]];
                let live = key_at(&path.concat()).is_some_and(|key| key.live);
                let key = format!("{name}.{key}");
                all.push(Changed { key, old: shown(old), new: shown(new), live });
            }
        }
    };
    // Named one by one, so that a table more does not compile without its line.
    let File { node, mqtt, limits, store, cluster, auth, admin, log, ebpf, listeners } = old;
    table("node", NodeTable::effective(node), new.node.effective());
    for (name, old) in listeners {
        if let Some(new) = new.listeners.get(name) {
            table(&format!("listener.{name}"), ListenerTable::effective(old), new.effective());
        }
    }
    table("mqtt", MqttTable::effective(mqtt), new.mqtt.effective());
    table("limits", LimitsTable::effective(limits), new.limits.effective());
    table("store", StoreTable::effective(store), new.store.effective());
    table("cluster", ClusterTable::effective(cluster), new.cluster.effective());
    table("auth", AuthTable::effective(auth), new.auth.effective());
    table("admin", AdminTable::effective(admin), new.admin.effective());
    table("log", LogTable::effective(log), new.log.effective());
    table("ebpf", EbpfTable::effective(ebpf), new.ebpf.effective());
    // Both are shown alike, so they look the same above.
    if let (Some(old), Some(new)) = (&cluster.secret, &new.cluster.secret)
        && old != new
    {
        let (key, hidden) = ("cluster.secret".to_owned(), old.show());
        all.push(Changed { key, old: hidden, new: "another".into(), live: false });
    }
    let listener = |name: &String, old: &str, new: &str| Changed {
        key: format!("listener.{name}"),
        old: old.into(),
        new: new.into(),
        live: false,
    };
    let gone = listeners.keys().filter(|name| !new.listeners.contains_key(*name));
    all.extend(gone.map(|name| listener(name, "there", "removed")));
    let come = new.listeners.keys().filter(|name| !listeners.contains_key(*name));
    all.extend(come.map(|name| listener(name, "not there", "added")));
    all
}

fn shown(value: Fallback) -> String {
    match value {
        Fallback::Value(value) => value,
        Fallback::Text(text) => format!("not set ({text})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::LogLevel;

    fn file(text: &str) -> File {
        read(text, &Overlay::default()).expect("a good config").0
    }

    fn keys(plan: &Plan) -> Vec<(&str, bool)> {
        plan.changed.iter().map(|changed| (changed.key.as_str(), changed.live)).collect()
    }

    #[test]
    fn a_live_key_is_taken_over_and_another_keeps_its_value() {
        let old = file("");
        let new = file("[log]\nlevel = 'debug'\n[node]\nshards = 3");
        let plan = plan(&old, &new);
        assert_eq!(keys(&plan), [("node.shards", false), ("log.level", true)]);
        assert_eq!((plan.config.log.level, plan.config.shards), (LogLevel::Debug, None));
        assert!(!plan.is_whole());
        assert_eq!(
            plan.report(),
            "node.shards: not set (one a core, within the CPU quota) -> 3 (needs a restart)\n\
             log.level: \"info\" -> \"debug\" (applied)"
        );
    }

    #[test]
    fn what_needs_a_restart_is_told_at_every_reload_until_then() {
        let source = Source::default();
        let mut reload = Reload::new(source, file("[node]\nshards = 3\n[log]\nlevel = 'debug'"));
        let first = reload.plan().expect("the defaults");
        assert_eq!(keys(&first), [("node.shards", false), ("log.level", true)]);
        reload.done(&first);
        assert_eq!(keys(&reload.plan().expect("the defaults")), [("node.shards", false)]);
    }

    #[test]
    fn a_default_that_is_spelled_out_is_no_change() {
        let plan = plan(&file(""), &file("[log]\nlevel = 'info'\n[mqtt]\nqos_max = 2"));
        assert_eq!(plan.report(), "nothing changed");
        assert!(plan.is_whole());
    }

    #[test]
    fn live_keys_that_lean_on_a_restart_wait_for_it() {
        let listener = "[listener.a]\nbind = '127.0.0.1:1'\n";
        let tls = "transport = 'tls'\ntls_certificate = 'c'\ntls_key = 'k'\n";
        let new = file(&format!("{listener}{tls}[log]\nlevel = 'debug'"));
        let plan = plan(&file(listener), &new);
        assert_eq!(
            keys(&plan),
            [
                ("listener.a.transport", false),
                ("listener.a.tls_certificate", false),
                ("listener.a.tls_key", false),
                ("log.level", false),
            ]
        );
        assert_eq!(plan.config.log.level, LogLevel::Info);
    }

    #[test]
    fn listeners_come_and_go_with_a_restart() {
        let old = file("[listener.a]\nbind = '127.0.0.1:1'");
        let new = file("[listener.b]\nbind = '127.0.0.1:1'");
        let plan = plan(&old, &new);
        assert_eq!(keys(&plan), [("listener.a", false), ("listener.b", false)]);
        assert_eq!(plan.changed[1].to_string(), "listener.b: not there -> added (needs a restart)");
        assert_eq!(plan.config.listeners[0].name, "a");
    }

    #[test]
    fn a_rate_of_a_listener_is_live() {
        let listener = "[listener.a]\nbind = '127.0.0.1:1'\n";
        let new = file(&format!("{listener}connects_per_second = 5"));
        let plan = plan(&file(listener), &new);
        assert_eq!(keys(&plan), [("listener.a.connects_per_second", true)]);
        assert_eq!(plan.config.listeners[0].connects.map(|rate| rate.per_second), Some(5));
    }
}
