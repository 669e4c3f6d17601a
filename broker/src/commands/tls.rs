//! `tidegate tls`: which certificates are in effect, and whether files would do.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::net::tls::{Loaded, show, show_json};
use crate::node::doors;

/// What each listener shows, as a table or as JSON.
pub fn report<'a>(listeners: impl Iterator<Item = (&'a str, Arc<Loaded>)>, json: bool) -> String {
    let now = unix_now();
    let mut out = String::new();
    if json {
        let all: serde_json::Map<_, _> = listeners
            .map(|(name, loaded)| {
                let shown = serde_json::from_str(&show_json(&loaded, now)).unwrap_or_default();
                (name.to_owned(), shown)
            })
            .collect();
        let _ = writeln!(out, "{}", serde_json::Value::Object(all));
        return out;
    }
    for (name, loaded) in listeners {
        let _ = writeln!(out, "listener.{name}\n{}", show(&loaded, now).trim_end());
    }
    if out.is_empty() {
        out.push_str("no listener has TLS\n");
    }
    out
}

/// What the files of a config hold, read now.
///
/// # Errors
/// With every fault of every file.
pub fn show_files(config: &Config, json: bool) -> anyhow::Result<String> {
    let doors = doors::open(config)?;
    let stores =
        doors.iter().filter_map(|door| Some((door.listener.name.as_str(), door.tls.as_ref()?)));
    Ok(report(stores.map(|(name, store)| (name, store.loaded())), json))
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
