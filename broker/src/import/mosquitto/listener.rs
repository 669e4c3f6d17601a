//! The listeners of a mosquitto.conf.
//!
//! A listener that keeps clients out by something that we have not (a mount
//! point, a pre-shared key) is left out; one whose address we cannot tell is
//! put on loopback. Neither opens more than the original.

use std::collections::HashMap;

use super::bind::{Address, At};
use super::conf::{self, Setting};
use super::global::Globals;
use super::{Tables, is_true};
use crate::config::key::Setting as _;
use crate::import::report::{Kind, Report};

/// Keys that are about the listener above them.
const KEYS: [&str; 29] = [
    "listener",
    "port",
    "bind_address",
    "bind_interface",
    "socket_domain",
    "protocol",
    "http_dir",
    "max_connections",
    "max_qos",
    "max_topic_alias",
    "mount_point",
    "use_username_as_clientid",
    "cafile",
    "capath",
    "certfile",
    "keyfile",
    "require_certificate",
    "use_identity_as_username",
    "use_subject_as_username",
    "crlfile",
    "tls_version",
    "ciphers",
    "ciphers_tls1.3",
    "dhparamfile",
    "tls_engine",
    "tls_engine_kpass_sha1",
    "tls_keyform",
    "psk_hint",
    "enable_proxy_protocol",
];

/// Keys that are, if `per_listener_settings` is true.
const SECURITY_KEYS: [&str; 5] =
    ["password_file", "acl_file", "allow_anonymous", "allow_zero_length_clientid", "psk_file"];

/// Whether a key is about the listener above it.
pub(super) fn is_key(key: &str, per_listener: bool) -> bool {
    KEYS.contains(&key) || (per_listener && SECURITY_KEYS.contains(&key))
}

/// The files that are to be read in the end.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) passwords: Option<Setting>,
    pub(super) acl: Option<Setting>,
    /// There were rules, and they cannot be told in one file.
    pub(super) rules_are_lost: bool,
}

/// All of them; the first is mosquitto's default listener.
#[derive(Debug)]
pub(super) struct Listeners(Vec<Vec<Setting>>);

impl Default for Listeners {
    fn default() -> Listeners {
        Listeners(vec![Vec::new()])
    }
}

impl Listeners {
    pub(super) fn take(&mut self, setting: Setting) {
        // These two are about the default listener wherever they stand.
        if matches!(setting.key.as_str(), "port" | "bind_address") {
            self.0[0].push(setting);
            return;
        }
        if setting.key == "listener" {
            self.0.push(Vec::new());
        }
        self.0.last_mut().expect("it has the default listener at least").push(setting);
    }

    pub(super) fn finish(
        self,
        globals: &Globals,
        per_listener: bool,
        tables: &mut Tables,
        report: &mut Report,
    ) -> Files {
        let mut lists = self.0;
        let default_is_used = lists.len() == 1 || !lists[0].is_empty();
        // mosquitto is on loopback, for everybody, until the file says where to listen.
        let says_where = lists.len() > 1
            || lists[0].iter().any(|s| matches!(s.key.as_str(), "port" | "bind_address"));
        if !default_is_used {
            lists.remove(0);
        }
        if !says_where {
            let why = "mosquitto listens on ::1 as well, and on all addresses if its default \
                       listener has a setting of its own; here it is 127.0.0.1 alone";
            report.say(Kind::Differs, &globals.whole, why);
        }
        let mut kept: Vec<Listener> = Vec::new();
        for settings in lists {
            let mut listener = Listener::of(settings, report);
            if let Some(why) = listener.left_out() {
                let why = format!("the whole listener is left out: {why}");
                listener
                    .given
                    .drain(..)
                    .for_each(|s| report.say(Kind::Lost, &s.place, why.clone()));
                continue;
            }
            kept.push(listener);
        }
        if kept.is_empty() {
            // Without any, there would be one on loopback that takes everybody.
            tables.set("listener.default", "anonymous", false.show());
        }
        let mut names = HashMap::new();
        let files = files(&mut kept, globals, per_listener, report);
        same_for_all(&mut kept, "max_qos", "mqtt", "qos_max", 2, tables, report);
        same_for_all(
            &mut kept,
            "max_topic_alias",
            "mqtt",
            "topic_alias_in_max",
            10,
            tables,
            report,
        );
        for listener in kept {
            let anonymous = match listener.anonymous.as_ref().or(globals.anonymous.as_ref()) {
                Some(setting) => is_true(&setting.value),
                None => !says_where,
            };
            let loopback = !says_where;
            listener.write(anonymous, loopback, &mut names, tables, report);
        }
        files
    }
}

/// The files, where one for all listeners means the same.
fn files(
    kept: &mut [Listener],
    globals: &Globals,
    per_listener: bool,
    report: &mut Report,
) -> Files {
    if !per_listener {
        return Files {
            passwords: globals.password_file.clone(),
            acl: globals.acl_file.clone(),
            rules_are_lost: false,
        };
    }
    let mut one = |key: &str, why: &str| {
        let mut given: Vec<_> = kept.iter_mut().map(|listener| listener.last(key)).collect();
        let path = |setting: &Option<Setting>| setting.as_ref().map(|s| s.value.clone());
        let first = given.first().map(path);
        let same = given.iter().all(|setting| Some(path(setting)) == first);
        let mut given = given.drain(..).flatten();
        match (same, given.next()) {
            (_, None) => (None, false),
            (true, Some(setting)) => {
                report.carried += given.count();
                (Some(setting), false)
            }
            (false, Some(setting)) => {
                for setting in std::iter::once(setting).chain(given) {
                    report.say(Kind::Lost, &setting.place, why);
                }
                (None, true)
            }
        }
    };
    let (passwords, _) = one(
        "password_file",
        "one file is for all listeners here; merge the listeners' files and set \
         auth.password_file",
    );
    let (acl, rules_are_lost) = one(
        "acl_file",
        "one file is for all listeners here; merge the listeners' rules into the new file, which \
         denies everything until then",
    );
    Files { passwords, acl, rules_are_lost }
}

/// What is a setting of the whole node here.
fn same_for_all(
    kept: &mut [Listener],
    key: &str,
    table: &str,
    ours: &'static str,
    default: u16,
    tables: &mut Tables,
    report: &mut Report,
) {
    let given: Vec<_> = kept.iter_mut().map(|listener| listener.last(key)).collect();
    let value = |setting: &Option<Setting>| match setting {
        Some(setting) => setting.value.parse().ok(),
        None => Some(default),
    };
    let first = given.first().and_then(value);
    let same = given.iter().all(|setting| value(setting) == first);
    for setting in given.into_iter().flatten() {
        match first.filter(|_| same) {
            Some(value) => {
                report.carried += 1;
                tables.set(table, ours, value.show());
            }
            None => {
                let why = format!("{table}.{ours} is for all listeners, and they differ in it");
                report.say(Kind::Lost, &setting.place, why);
            }
        }
    }
}

/// One listener's lines, each key once.
#[derive(Debug)]
pub(super) struct Listener {
    given: Vec<Setting>,
    anonymous: Option<Setting>,
}

impl Listener {
    fn of(settings: Vec<Setting>, report: &mut Report) -> Listener {
        let mut given: Vec<Setting> = Vec::new();
        for setting in settings {
            if let Some(old) = given.iter_mut().find(|old| old.key == setting.key) {
                report.say(Kind::Unneeded, &old.place, "it is set again below");
                *old = setting;
            } else {
                given.push(setting);
            }
        }
        let mut listener = Listener { given, anonymous: None };
        listener.anonymous = listener.last("allow_anonymous");
        if listener.anonymous.is_some() {
            report.carried += 1;
        }
        listener
    }

    /// Takes the line of a key.
    pub(super) fn last(&mut self, key: &str) -> Option<Setting> {
        let at = self.given.iter().position(|setting| setting.key == key)?;
        Some(self.given.remove(at))
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.given.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str())
    }

    fn left_out(&self) -> Option<&'static str> {
        if self.value("mount_point").is_some() {
            return Some("there is no mount point, and its clients would see the topics of all");
        }
        if self.value("psk_hint").is_some() {
            return Some("there are no pre-shared keys, and it would not be encrypted");
        }
        if self.value("use_username_as_clientid").is_some_and(is_true) {
            return Some(
                "user names do not become client ids, and its clients could take over each other",
            );
        }
        if self.value("certfile").is_some() != self.value("keyfile").is_some() {
            return Some("TLS needs certfile and keyfile, and it would not be encrypted");
        }
        None
    }

    fn write(
        mut self,
        mut anonymous: bool,
        loopback: bool,
        names: &mut HashMap<String, u32>,
        tables: &mut Tables,
        report: &mut Report,
    ) {
        let tls = self.value("certfile").is_some();
        let websocket = self.value("protocol") == Some("websockets");
        let require = self.value("require_certificate").is_some_and(is_true);
        let identity = require && self.value("use_identity_as_username").is_some_and(is_true);
        // The user name is the certificate's: nobody comes without one.
        anonymous &= !identity;
        let (transport, base) = match (tls, websocket) {
            (false, false) => ("tcp", "mqtt"),
            (true, false) => ("tls", "mqtts"),
            (false, true) => ("ws", "ws"),
            (true, true) => ("wss", "wss"),
        };
        let bind = Address::of(&mut self, loopback, report);
        let name = match &bind.at {
            At::Unix(_) => "unix".into(),
            At::Tcp(_, port) => format!("{base}_{port}"),
        };
        let count = names.entry(name.clone()).or_default();
        *count += 1;
        let name = if *count == 1 { name } else { format!("{name}_{count}") };
        let table = format!("listener.{name}");
        bind.write(&table, tables);
        if transport != "tcp" {
            tables.set(&table, "transport", transport.to_owned().show());
        }
        tables.set(&table, "anonymous", anonymous.show());
        for setting in std::mem::take(&mut self.given) {
            let value = setting.value.as_str();
            let (kind, why) = match setting.key.as_str() {
                "protocol" if websocket => (
                    Some(Kind::Differs),
                    "mosquitto takes any path; here it is ws_path, /mqtt if not set",
                ),
                "protocol" if value == "mqtt" => (None, ""),
                "protocol" => (Some(Kind::Lost), "mosquitto knows mqtt and websockets"),
                "certfile" | "keyfile" => {
                    let key = if setting.key == "certfile" { "tls_certificate" } else { "tls_key" };
                    tables.set(&table, key, path(&setting));
                    (None, "")
                }
                "cafile" | "crlfile" if tls && require => {
                    let key = if setting.key == "cafile" { "tls_client_ca" } else { "tls_crl" };
                    tables.set(&table, key, path(&setting));
                    (None, "")
                }
                "cafile" | "capath" | "crlfile" if !require => {
                    (Some(Kind::Unneeded), "clients are not asked for certificates")
                }
                "capath" => (
                    Some(Kind::Lost),
                    "put the authorities into one file and name it in tls_client_ca",
                ),
                "require_certificate" if !require => (Some(Kind::Unneeded), "it is so anyway"),
                "require_certificate" if tls => {
                    tables.set(&table, "tls_client_auth", "required".to_owned().show());
                    (None, "")
                }
                "require_certificate" => (Some(Kind::Lost), "the listener has no TLS"),
                "use_identity_as_username" if identity => {
                    tables.set(&table, "user_from", "certificate_cn".to_owned().show());
                    (None, "")
                }
                "use_identity_as_username" | "use_subject_as_username"
                    if !require || !is_true(value) =>
                {
                    (Some(Kind::Unneeded), "it has no effect without require_certificate")
                }
                "use_subject_as_username" => {
                    // Whoever has a certificate had a name by it.
                    tables.set(&table, "anonymous", false.show());
                    (
                        Some(Kind::Lost),
                        "user_from takes the CN or a SAN of the subject, not all of it",
                    )
                }
                "tls_version" if value == "tlsv1.3" || value == "tlsv1.2" => {
                    tables.set(&table, "tls_version_min", value[4..].to_owned().show());
                    (None, "")
                }
                "tls_version" => (Some(Kind::Lost), "TLS 1.2 is the lowest version here"),
                "max_connections" => match value.parse::<i64>() {
                    Ok(..=0) => (Some(Kind::Unneeded), "there is no limit anyway"),
                    Ok(count @ 1..=100_000_000) => {
                        tables.set(&table, "connections_max", count.to_string());
                        (None, "")
                    }
                    Ok(_) => (Some(Kind::Lost), "connections_max goes to 100000000"),
                    Err(_) => (Some(Kind::Lost), "is not a number"),
                },
                "ciphers" | "ciphers_tls1.3" | "dhparamfile" => {
                    (Some(Kind::Lost), "the cipher suites are fixed, and safe")
                }
                "tls_engine" | "tls_engine_kpass_sha1" | "tls_keyform" => {
                    (Some(Kind::Lost), "there are no engines; the key is a file in PEM")
                }
                "http_dir" => (Some(Kind::Lost), "no files are served"),
                "use_username_as_clientid" => (Some(Kind::Unneeded), "it is so anyway"),
                "allow_zero_length_clientid" if is_true(value) => {
                    (Some(Kind::Unneeded), "it is so anyway")
                }
                "allow_zero_length_clientid" => {
                    (Some(Kind::Lost), "a client without a client id is given one")
                }
                "psk_file" => (Some(Kind::Lost), "there are no pre-shared keys"),
                "enable_proxy_protocol" => (
                    Some(Kind::Lost),
                    "set proxy_protocol, and trusted_sources to the proxies' addresses",
                ),
                "cafile" | "crlfile" => (Some(Kind::Lost), "the listener has no TLS"),
                _ => (Some(Kind::Lost), "it is not known what it means for this listener"),
            };
            if kind != Some(Kind::Lost) && kind != Some(Kind::Unneeded) {
                report.carried += 1;
            }
            if let Some(kind) = kind {
                report.say(kind, &setting.place, why);
            }
        }
    }
}

fn path(setting: &Setting) -> String {
    conf::beside(&setting.place.file, &setting.value).show()
}
