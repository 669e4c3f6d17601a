//! What the environment and the flags change in a config.
//!
//! `TIDEGATE__LISTENER__DEFAULT__BIND=127.0.0.1:1884` is `listener.default.bind`:
//! two underscores nest, case does not matter. A single underscore after the
//! prefix is not ours (Kubernetes sets `TIDEGATE_PORT` for a Service of that
//! name). Flags come last, and are keys as well.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::{Table, Value};

use super::file::{is_table, key_at};
use super::key::Shape;
use super::problem::{Faults, Origins, Problem};

const PREFIX: &str = "TIDEGATE__";

/// The flags of `tidegate run` that are keys of the config.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--listen`: `listener.default.bind`.
    pub listen: Option<SocketAddr>,
    /// `--admin`: `admin.bind`.
    pub admin: Option<SocketAddr>,
    /// `--data-dir`: `node.data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `--shards`: `node.shards`.
    pub shards: Option<u16>,
}

/// All that is laid over the file.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// Variables of the environment; only those with our prefix are looked at.
    pub variables: Vec<(OsString, OsString)>,
    /// Flags.
    pub flags: Flags,
}

impl Overlay {
    /// Of this process, without flags.
    pub fn from_environment() -> Overlay {
        Overlay { variables: std::env::vars_os().collect(), flags: Flags::default() }
    }

    /// With these flags.
    pub fn with_flags(self, flags: Flags) -> Overlay {
        Overlay { flags, ..self }
    }

    /// Writes into `table`; says for each key written where it came from.
    pub(super) fn apply(&self, table: &mut Table, faults: &mut Faults) -> Origins {
        let mut origins = Origins::new();
        // Sorted, so that the same environment gives the same messages.
        let variables: BTreeMap<_, _> = self.variables.iter().cloned().collect();
        for (variable, value) in variables {
            // A name that is not UTF-8 cannot be one of ours.
            let Some(variable) = variable.to_str() else { continue };
            let Some(path) = path_of(variable) else { continue };
            let Some(value) = value.to_str() else {
                faults.push(Problem::NotUtf8 { variable: variable.into() });
                continue;
            };
            set(table, &path, typed(&path, value), variable, &mut origins, faults);
        }
        self.apply_flags(table, &mut origins);
        origins
    }

    fn apply_flags(&self, table: &mut Table, origins: &mut Origins) {
        let Flags { listen, admin, data_dir, shards } = &self.flags;
        let text = |text: String| Value::String(text);
        let flags = [
            ("--listen", "listener.default.bind", listen.map(|addr| text(addr.to_string()))),
            ("--admin", "admin.bind", admin.map(|addr| text(addr.to_string()))),
            (
                "--data-dir",
                "node.data_dir",
                data_dir.as_ref().map(|dir| text(dir.to_string_lossy().into_owned())),
            ),
            ("--shards", "node.shards", shards.map(|n| Value::Integer(n.into()))),
        ];
        for (flag, key, value) in flags {
            let Some(value) = value else { continue };
            let path: Vec<String> = key.split('.').map(str::to_owned).collect();
            put(table, &path, value);
            origins.insert(key.into(), flag.into());
        }
    }
}

fn path_of(variable: &str) -> Option<Vec<String>> {
    let prefix = variable.get(..PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let rest = variable[PREFIX.len()..].to_ascii_lowercase();
    Some(rest.split("__").map(str::to_owned).collect())
}

/// Text as the key takes it. What does not fit stays text, and is refused with
/// the key's own message.
fn typed(path: &[String], value: &str) -> Value {
    let text = || Value::String(value.to_owned());
    match key_at(path).map(|key| key.shape) {
        Some(Shape::Number) => value.trim().parse().map_or_else(|_| text(), Value::Integer),
        Some(Shape::Switch) => value.trim().parse().map_or_else(|_| text(), Value::Boolean),
        Some(
            Shape::Text
            | Shape::Choice(_)
            | Shape::Address
            | Shape::Path
            | Shape::Networks
            | Shape::Discovery
            | Shape::Weights,
        )
        | None => text(),
    }
}

fn set(
    table: &mut Table,
    path: &[String],
    value: Value,
    variable: &str,
    origins: &mut Origins,
    faults: &mut Faults,
) {
    let listener_alone = path.len() == 2 && path[0] == "listener";
    if (path.len() == 1 && is_table(&path[0])) || listener_alone {
        let key = path.join(".");
        let hint = format!("it is a table; name a key below it, as in {variable}__KEY");
        origins.insert(key.clone(), variable.into());
        faults.push(Problem::Unknown { key, hint });
        return;
    }
    let depth = if path[0] == "listener" { 3 } else { 2 };
    let known_part = path[..path.len().min(depth)].join(".");
    if let Some(other) = origins.get(&known_part) {
        let (variable, other) = (variable.to_owned(), other.clone());
        faults.push(Problem::SetTwice { variable, key: known_part, other });
        return;
    }
    origins.insert(known_part, variable.into());
    put(table, path, value);
}

fn put(table: &mut Table, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut table = table;
    for name in parents {
        let child = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        // Where the file has a plain value instead of a table, the file's own
        // fault is told.
        let Some(child) = child.as_table_mut() else { return };
        table = child;
    }
    table.insert(last.clone(), value);
}
