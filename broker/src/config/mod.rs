//! The configuration of a node: TOML, then the environment, then flags.
//!
//! [`mod@file`] holds the keys as typed: all optional, each defined once with its
//! doc, unit, range and default. [`resolve`] turns them into a [`Config`]:
//! complete, checked, typed. Upholds CFG-1: a config that parses is runnable;
//! and every fault of a config is told at once, with what would do.

pub mod cluster;
mod digest;
mod door;
pub mod ebpf;
pub mod file;
pub mod keepalive;
pub mod key;
pub mod listener;
pub mod nearest;
pub mod overlay;
pub mod problem;
pub mod reference;
pub mod reload;
pub mod resolve;
pub mod store;

pub use cluster::{Bootstrap, Cluster, Discovery, Isolated, SubscribeBarrier, Trust};
pub use ebpf::{Ebpf, Mode, Policy, Weights};
pub use keepalive::TcpKeepalive;
pub use listener::{
    Bind, ClientAuth, Listener, ProxyProtocol, Rate, TlsFiles, TlsVersion, Transport, UserFrom,
};
pub use overlay::{Flags, Overlay};
pub use problem::{ConfigError, Problem};
pub use reload::Reload;
pub use resolve::{Auth, Config, Warning};
pub use store::{Durability, Store};

use file::File;
use problem::Faults;

/// Reads a config: the text of a file, overlaid with the environment and flags.
///
/// All faults of all three are in the error.
pub fn load(text: &str, overlay: &Overlay) -> Result<Config, ConfigError> {
    read(text, overlay).map(|(_, config)| config)
}

/// As [`load`], with what was typed, for the summary.
pub fn read(text: &str, overlay: &Overlay) -> Result<(File, Config), ConfigError> {
    let mut faults = Faults::default();
    let mut table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            faults.push(Problem::syntax(text, &error));
            toml::Table::new()
        }
    };
    let origins = overlay.apply(&mut table, &mut faults);
    let file = File::read(&table, &mut faults);
    let config = resolve::resolve(&file, &mut faults);
    faults.into_result((file, config), &origins)
}
