//! What has to survive: how surely it is kept, and on how much of the disk.

use std::time::Duration;

use super::file::StoreTable;
use super::key::choice;
use super::problem::{Faults, Problem};

/// What an acknowledgement of something that is kept means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// It is on the device: it survives the loss of power.
    #[default]
    Fsync,
    /// The kernel has it: it survives the end of the process, not of the machine.
    Os,
    /// Nothing is written: it does not survive the process.
    Memory,
}

choice!(Durability {
    Durability::Fsync => "fsync",
    Durability::Os => "os",
    Durability::Memory => "memory",
});

impl Durability {
    /// As it is typed.
    pub fn label(self) -> &'static str {
        match self {
            Durability::Fsync => "fsync",
            Durability::Os => "os",
            Durability::Memory => "memory",
        }
    }
}

/// How what has to survive is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Store {
    /// How surely.
    pub durability: Durability,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// How long a commit group waits for company at most.
    pub group_window: Duration,
    /// From this use of the disk on, in percent, new durable messages are refused.
    pub disk_refuse_percent: u8,
    /// From this one on durable sessions and subscriptions are refused as well.
    pub disk_stop_percent: u8,
}

/// Checks what was typed.
pub(super) fn resolve(typed: &StoreTable, faults: &mut Faults) -> Store {
    let store = Store {
        durability: typed.durability(),
        segment_bytes: typed.segment_bytes(),
        group_window: Duration::from_micros(typed.group_window_micros().into()),
        disk_refuse_percent: typed.disk_refuse_percent(),
        disk_stop_percent: typed.disk_stop_percent(),
    };
    if store.disk_stop_percent < store.disk_refuse_percent {
        faults.push(Problem::BelowOther {
            key: "store.disk_stop_percent".into(),
            value: store.disk_stop_percent.into(),
            than: "store.disk_refuse_percent",
            least: store.disk_refuse_percent.into(),
            why: "so sessions would be refused before messages are",
        });
    }
    store
}
