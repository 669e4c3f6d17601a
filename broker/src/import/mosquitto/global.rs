//! The settings of a mosquitto.conf that are about the whole broker.

use std::path::Path;

use super::conf::Setting;
use super::{Tables, is_true};
use crate::config::file::key_at;
use crate::config::key::Setting as _;
use crate::import::report::{Kind, Place, Report};

/// Beside its payload a PUBLISH has a header, a topic and properties.
const AROUND_A_PAYLOAD: u64 = 128 * 1_024;

/// What is needed when all lines are read.
#[derive(Debug)]
pub(super) struct Globals {
    /// The file as a whole.
    pub(super) whole: Place,
    pub(super) password_file: Option<Setting>,
    pub(super) acl_file: Option<Setting>,
    pub(super) anonymous: Option<Setting>,
    message_size_limit: Option<Setting>,
    /// The least severe level that is wanted.
    log: Option<Log>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Log {
    Error,
    Warn,
    Info,
    Debug,
}

/// What became of a line.
enum Became {
    Carried,
    Differs(String),
    Lost(String),
    Unneeded(String),
    /// Whoever uses it says so.
    Kept,
}

use Became::{Carried, Differs};

fn lost(why: &str) -> Became {
    Became::Lost(why.into())
}

fn unneeded(why: &str) -> Became {
    Became::Unneeded(why.into())
}

/// `false` asks for what happens anyway; else it is lost.
fn lost_if_true(value: &str, why: &str) -> Became {
    if is_true(value) { lost(why) } else { unneeded("it is so anyway") }
}

impl Globals {
    pub(super) fn new(file: &Path) -> Globals {
        Globals {
            whole: Place::whole(file),
            password_file: None,
            acl_file: None,
            anonymous: None,
            message_size_limit: None,
            log: None,
        }
    }

    pub(super) fn take(&mut self, setting: Setting, tables: &mut Tables, report: &mut Report) {
        let place = setting.place.clone();
        match self.became(setting, tables, report) {
            Carried => report.carried += 1,
            Differs(why) => {
                report.carried += 1;
                report.say(Kind::Differs, &place, why);
            }
            Became::Lost(why) => report.say(Kind::Lost, &place, why),
            Became::Unneeded(why) => report.say(Kind::Unneeded, &place, why),
            Became::Kept => {}
        }
    }

    fn became(&mut self, setting: Setting, tables: &mut Tables, report: &mut Report) -> Became {
        let value = setting.value.clone();
        let value = value.as_str();
        match setting.key.as_str() {
            // The line counts when its file was read.
            "password_file" => keep(&mut self.password_file, setting, report),
            "acl_file" => keep(&mut self.acl_file, setting, report),
            "allow_anonymous" => keep(&mut self.anonymous, setting, report),
            "message_size_limit" if value == "0" => unneeded("there is no such limit anyway"),
            "message_size_limit" => keep(&mut self.message_size_limit, setting, report),
            "per_listener_settings" => Carried,
            "psk_file" => lost("there are no pre-shared keys"),
            "max_packet_size" => number(tables, "limits", "packet_bytes_max", value),
            "max_keepalive" => number(tables, "mqtt", "keep_alive_max_seconds", value),
            "sys_interval" => number(tables, "mqtt", "sys_interval_seconds", value),
            "retain_available" => {
                tables.set("mqtt", "retain_available", is_true(value).show());
                Carried
            }
            "max_inflight_messages" => {
                let value = if value == "0" { "65535" } else { value };
                let _ = number(tables, "limits", "inflight_in_max", value);
                number(tables, "limits", "inflight_out_max", value)
            }
            "max_queued_messages" | "max_queued_bytes" if value == "0" => {
                lost("a queue always has a limit; the default stands")
            }
            "max_queued_messages" => {
                tables.set("limits", "queue_policy", "drop_new".to_owned().show());
                number(tables, "limits", "queue_messages_max", value)
            }
            "max_queued_bytes" => {
                tables.set("limits", "queue_policy", "drop_new".to_owned().show());
                number(tables, "limits", "queue_bytes_max", value)
            }
            "memory_limit" if value == "0" => unneeded("there is no such limit anyway"),
            "memory_limit" => match number(tables, "limits", "memory_bytes_max", value) {
                Carried => Differs(
                    "it counts all memory of the node, and clients are refused from 85 % on".into(),
                ),
                other => other,
            },
            "global_max_clients" | "global_max_connections" => {
                number(tables, "limits", "connections_max", value)
            }
            "persistent_client_expiration" => match seconds(value) {
                Some(seconds) => {
                    number(tables, "limits", "session_expiry_max_seconds", &seconds.to_string())
                }
                None => lost("is not a number followed by h, d, w, m or y"),
            },
            "max_inflight_bytes" if value == "0" => unneeded("there is no such limit anyway"),
            "max_inflight_bytes" => lost("messages in flight are counted, not their bytes"),
            "persistence" => lost_if_true(value, "sessions and messages are kept in memory"),
            "persistence_file"
            | "persistence_location"
            | "autosave_interval"
            | "autosave_on_changes" => lost("sessions and messages are kept in memory"),
            "queue_qos0_messages" => {
                lost_if_true(value, "messages of QoS 0 do not wait for a client that is away")
            }
            "check_retain_source" => lost_if_true(
                value,
                "a retained message is not checked again for what its publisher may do now",
            ),
            "upgrade_outgoing_qos" => lost_if_true(value, "the QoS is never raised"),
            "allow_duplicate_messages" => unneeded(
                "mosquitto has it no more; subscriptions that overlap are handled as MQTT says",
            ),
            "allow_zero_length_clientid" if is_true(value) => unneeded("it is so anyway"),
            "allow_zero_length_clientid" => lost("a client without a client id is given one"),
            "auto_id_prefix" => lost("the client ids that are given have no prefix"),
            "clientid_prefixes" => lost(
                "client ids are not checked; deny by rules what others should not do (docs/acl.md)",
            ),
            "set_tcp_nodelay" if is_true(value) => unneeded("it is so anyway"),
            "set_tcp_nodelay" => lost("TCP_NODELAY is always set"),
            "log_type" => self.log_types(value),
            "log_dest" if matches!(value, "stderr" | "stdout") => {
                unneeded("the log goes to stderr")
            }
            "log_dest" => lost("the log goes to stderr, and whoever starts the node keeps it"),
            "log_timestamp" if is_true(value) => unneeded("it is so anyway"),
            "log_timestamp" | "log_timestamp_format" | "log_facility" => {
                lost("the log has one form; see log.format")
            }
            "connection_messages" => {
                lost("clients that come and go are logged from log.level = \"debug\" on")
            }
            "websockets_log_level" => lost("see log.filter"),
            "websockets_headers_size" => lost("the HTTP head of a WebSocket has 8 KiB at most"),
            "pid_file" => lost("there is no such file; systemd knows the process"),
            "user" => lost("who starts the node says as whom, such as the unit of systemd"),
            "plugin"
            | "auth_plugin"
            | "global_plugin"
            | "plugin_load"
            | "plugin_use"
            | "auth_plugin_deny_special_chars" => lost(
                "there are no plugins; whom it let in, and what it allowed, has to be said by \
                 auth.password_file and auth.acl_file",
            ),
            key if key.starts_with("auth_opt_") || key.starts_with("plugin_opt_") => {
                lost("there are no plugins")
            }
            key if is_bridge(key) => lost("there are no bridges"),
            _ => lost("it is not a key of mosquitto.conf(5) that is known here"),
        }
    }

    fn log_types(&mut self, value: &str) -> Became {
        for word in value.split_whitespace() {
            let level = match word {
                "error" => Log::Error,
                "warning" => Log::Warn,
                "notice" | "information" => Log::Info,
                "debug" | "all" | "subscribe" | "unsubscribe" | "websockets" => Log::Debug,
                "none" => return lost("errors are always logged"),
                _ => return lost("the type is not known"),
            };
            self.log = self.log.max(Some(level));
        }
        match value {
            "subscribe" | "unsubscribe" | "websockets" => {
                Differs("it became log.level = \"debug\", which says more than that".into())
            }
            _ => Carried,
        }
    }

    pub(super) fn finish(self, tables: &mut Tables, report: &mut Report) {
        if let Some(level) = self.log {
            let level = match level {
                Log::Error => "error",
                Log::Warn => "warn",
                Log::Info => "info",
                Log::Debug => "debug",
            };
            tables.set("log", "level", level.to_owned().show());
        }
        report.carried += usize::from(self.anonymous.is_some());
        let Some(setting) = self.message_size_limit else { return };
        let payload = setting.value.parse::<u64>().ok();
        match payload {
            None => report.say(Kind::Lost, &setting.place, "is not a number"),
            Some(_) if tables.has("limits", "packet_bytes_max") => {
                let why = "limits.packet_bytes_max is set, by max_packet_size";
                report.say(Kind::Lost, &setting.place, why);
            }
            Some(payload) => {
                report.carried += 1;
                let packet = payload.saturating_add(AROUND_A_PAYLOAD).to_string();
                let _ = number(tables, "limits", "packet_bytes_max", &packet);
                let why = "it became limits.packet_bytes_max, 128 KiB more for what is around a \
                           payload; a larger packet closes the connection";
                report.say(Kind::Differs, &setting.place, why);
            }
        }
    }
}

/// Remembers a line; a later one of its key overrides it.
fn keep(place: &mut Option<Setting>, setting: Setting, report: &mut Report) -> Became {
    if let Some(old) = place.replace(setting) {
        report.say(Kind::Unneeded, &old.place, "it is set again below");
    }
    Became::Kept
}

/// Sets a number, cut to what our key takes.
fn number(tables: &mut Tables, table: &str, key: &'static str, value: &str) -> Became {
    let Ok(wanted) = value.parse::<u64>() else { return lost("is not a number") };
    let known = key_at(&[table.to_owned(), key.to_owned()]);
    let (min, max) = known.and_then(|key| key.range).unwrap_or((0, u64::MAX));
    let taken = wanted.clamp(min, max);
    tables.set(table, key, taken.to_string());
    match taken == wanted {
        true => Carried,
        false => {
            Differs(format!("it became {table}.{key} = {taken}, which goes from {min} to {max}"))
        }
    }
}

/// Of a number with one of h, d, w, m and y.
fn seconds(value: &str) -> Option<u64> {
    let unit = value.chars().last()?;
    let count: u64 = value.strip_suffix(unit)?.trim().parse().ok()?;
    let hours = match unit {
        'h' => 1,
        'd' => 24,
        'w' => 24 * 7,
        'm' => 24 * 30,
        'y' => 24 * 365,
        _ => return None,
    };
    count.checked_mul(hours * 3_600)
}

fn is_bridge(key: &str) -> bool {
    key.starts_with("bridge_")
        || key.starts_with("local_")
        || key.starts_with("remote_")
        || key.starts_with("notification")
        || matches!(
            key,
            "connection"
                | "address"
                | "addresses"
                | "topic"
                | "cleansession"
                | "clientid"
                | "username"
                | "password"
                | "keepalive_interval"
                | "idle_timeout"
                | "start_type"
                | "threshold"
                | "restart_timeout"
                | "round_robin"
                | "try_private"
        )
}
