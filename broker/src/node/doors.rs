//! The listeners of a node with the certificates that they show.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use tracing::{error, info, warn};

use crate::config::{Config, Transport};
use crate::net::admission::{Admission, Sources};
use crate::net::door::Door;
use crate::net::tls::{Alpn, Change, TlsFault, TlsStore};
use crate::shard::Shared;

/// Reads what the listeners of a config need.
///
/// # Errors
/// With every fault of every file, by the key that names it.
pub fn open(config: &Config) -> anyhow::Result<Vec<Arc<Door>>> {
    let (mut doors, mut faults) = (Vec::new(), Vec::new());
    let seed = RandomState::new().build_hasher().finish();
    let sources = Arc::new(Sources::new(seed, &config.settings.limits));
    for (index, listener) in config.listeners.iter().enumerate() {
        let alpn = match listener.transport {
            Transport::Wss => Alpn::WebSocket,
            Transport::Tls | Transport::Tcp | Transport::Ws => Alpn::Mqtt,
        };
        let store = match &listener.tls {
            None => None,
            Some(files) => match TlsStore::open(files.clone(), alpn) {
                Ok(store) => Some(Arc::new(store)),
                Err(found) => {
                    faults.extend(named(&listener.name, &found));
                    continue;
                }
            },
        };
        let admission = Admission::new(index, listener, Arc::clone(&sources));
        doors.push(Arc::new(Door::new(listener.clone(), store, admission)));
    }
    if !faults.is_empty() {
        bail!(faults.join("\n"));
    }
    Ok(doors)
}

fn named(listener: &str, faults: &[TlsFault]) -> Vec<String> {
    faults.iter().map(|fault| format!("listener.{listener}.{fault}")).collect()
}

/// Says what works today and needs attention.
pub(super) fn warn_of(doors: &[Arc<Door>]) {
    for door in doors {
        for warning in door.tls.iter().flat_map(|store| store.loaded().warnings.clone()) {
            warn!("listener.{}.{warning}", door.listener.name);
        }
    }
}

/// Tells the doors what the kernel sees to before them.
pub(super) fn tell_in_kernel(shared: &Shared) {
    for (index, door) in shared.doors.iter().enumerate() {
        door.admission.set_in_kernel(shared.steer.in_kernel(index));
    }
}

/// The files and directories that doors are made of.
pub(super) fn paths(doors: &[Arc<Door>]) -> Vec<PathBuf> {
    doors.iter().filter_map(|door| door.tls.as_ref()).flat_map(|tls| tls.files().paths()).collect()
}

/// Reads the certificates again, for new handshakes; `config` names them, if
/// it was read again as well. One with a fault stays as it is. Returns what
/// there is to say.
pub(super) fn reload(doors: &[Arc<Door>], config: Option<&Config>) -> Vec<String> {
    let mut said = Vec::new();
    for door in doors {
        let name = door.listener.name.as_str();
        let named_now = config.and_then(|config| config.listeners.iter().find(|l| l.name == name));
        if let Some(listener) = named_now {
            door.admission.set(listener);
        }
        let Some(store) = &door.tls else { continue };
        let changed = match named_now.and_then(|listener| listener.tls.clone()) {
            Some(files) => store.reload_from(files),
            None => store.reload(),
        };
        match changed {
            Ok(Change::Same) => {}
            Ok(Change::Changed) => {
                let expires = store.expires();
                info!(listener = name, expires, "TLS files are in effect for new handshakes");
                said.push(format!("listener.{name}: TLS files changed, in effect"));
            }
            Err(faults) => {
                for fault in named(name, &faults) {
                    error!("{fault}; the old files stay in effect");
                    said.push(format!("{fault}; the old files stay in effect"));
                }
            }
        }
    }
    warn_of(doors);
    said
}
