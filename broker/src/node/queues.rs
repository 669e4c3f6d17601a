//! How much may wait in all queues of a node, where the config does not say it.

use tidegate_core::limits::Limits;
use tidegate_store::{Disk, FileDisk};

use crate::config::{Config, Durability};
use crate::overload::memory::Meter;

/// Memory that a message takes that waits on the disk alone, at most.
const ENTRY_BYTES: u64 = 48;
/// Of the memory, for these.
const MEMORY_PART: u64 = 4;
/// Where the memory has no limit.
const MESSAGES: u64 = 10_000_000;
/// Where neither the volume nor the memory's limit is known.
const BYTES: u64 = 64 << 30;

/// What is there.
#[derive(Clone, Copy, Debug, Default)]
struct There {
    /// The limit of the memory; 0: none.
    memory: u64,
    /// The size of the volume, if bodies are on it alone; 0: not known.
    volume: u64,
}

/// Fills in what is 0.
pub(crate) fn derive(limits: &mut Limits, config: &Config) {
    // A state of a cluster's partition is in memory while it is sent.
    let on_disk = config.store.durability != Durability::Memory && config.cluster.is_none();
    let volume = || FileDisk::open(&config.data_dir).and_then(|disk| disk.space());
    let volume = on_disk.then(volume).and_then(Result::ok).map_or(0, |space| space.total);
    let memory = Meter::new(limits.memory_bytes_max).take().limit;
    fill_in(limits, There { memory, volume });
}

fn fill_in(limits: &mut Limits, there: There) {
    let or = |typed: &mut u64, derived: u64| {
        if *typed == 0 {
            *typed = derived.max(1);
        }
    };
    let messages = match there.memory {
        0 => MESSAGES,
        memory => memory / MEMORY_PART / ENTRY_BYTES,
    };
    or(&mut limits.queue_node_messages_max, messages);
    let bytes = match there {
        There { memory: 0, volume: 0 } => BYTES,
        There { memory, volume: 0 } => memory / 2,
        There { volume, .. } => volume / 2,
    };
    or(&mut limits.queue_node_bytes_max, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(messages: u64, bytes: u64, memory: u64, volume: u64) -> (u64, u64) {
        let (queue_node_messages_max, queue_node_bytes_max) = (messages, bytes);
        let mut limits =
            Limits { queue_node_messages_max, queue_node_bytes_max, ..Limits::default() };
        fill_in(&mut limits, There { memory, volume });
        (limits.queue_node_messages_max, limits.queue_node_bytes_max)
    }

    #[test]
    fn what_the_config_says_counts_and_the_rest_follows_from_memory_and_volume() {
        assert_eq!(filled(7, 9, 1 << 30, 1 << 40), (7, 9));
        assert_eq!(filled(0, 0, 48 * 4 * 1_000, 2_000_000), (1_000, 1_000_000));
        assert_eq!(filled(0, 0, 48 * 4 * 1_000, 0), (1_000, 96_000));
        assert_eq!(filled(0, 0, 0, 0), (MESSAGES, BYTES));
        assert_eq!(filled(0, 0, 0, 10), (MESSAGES, 5));
    }
}
