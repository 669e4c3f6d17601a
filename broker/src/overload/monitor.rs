//! The thread that watches memory and tells the core how short it is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_core::pressure::Stage;
use tracing::{info, warn};

use super::memory::{Memory, Meter};
use super::trim::Trimmer;
use crate::shard::Shared;
use crate::shard::mailbox::Order;

/// The longest and the shortest time between two looks.
const CALM: Duration = Duration::from_millis(250);
const BUSY: Duration = Duration::from_millis(2);
/// Bytes a second by which what is used may grow: more than one link brings. The
/// next look is no later than this would take to the first stage.
const GROWTH: u64 = 2 << 30;

/// What was measured last, for the metrics.
#[derive(Debug, Default)]
pub struct Measured {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Measured {
    /// The last measurement.
    pub fn value(&self) -> Memory {
        Memory { used: self.used.load(Relaxed), limit: self.limit.load(Relaxed) }
    }

    fn set(&self, memory: Memory) {
        self.used.store(memory.used, Relaxed);
        self.limit.store(memory.limit, Relaxed);
    }
}

/// Starts the thread. It runs until the process ends.
///
/// # Errors
/// When there can be no thread.
pub fn start(meter: Meter, shared: Arc<Shared>) -> io::Result<()> {
    let first = meter.take();
    shared.memory.set(first);
    if first.limit > 0 {
        info!(limit_bytes = first.limit, used_bytes = first.used, "memory is limited");
    }
    thread::Builder::new().name("overload".to_owned()).spawn(move || {
        let mut trimmer = Trimmer::new();
        loop {
            let memory = meter.take();
            shared.memory.set(memory);
            judge(memory, &shared);
            let connections = shared.node.totals.connections.load(Relaxed);
            trimmer.look(Instant::now(), shared.node.pressure(), connections);
            thread::sleep(pause(memory));
        }
    })?;
    Ok(())
}

/// Until the next look.
fn pause(memory: Memory) -> Duration {
    if memory.limit == 0 {
        return CALM;
    }
    let room = Stage::Refuse.begins(memory.limit).saturating_sub(memory.used);
    Duration::from_secs_f64(room as f64 / GROWTH as f64).clamp(BUSY, CALM)
}

fn judge(memory: Memory, shared: &Shared) {
    let before = shared.node.pressure();
    let stage = match memory.limit {
        0 => Stage::Calm,
        limit => before.after(memory.used, limit),
    };
    if stage == before {
        return;
    }
    shared.node.set_pressure(stage);
    // A shard that sleeps has to hear of it.
    for mailbox in &shared.mailboxes {
        let _ = mailbox.order(Order::Ping);
    }
    let Memory { used: used_bytes, limit: limit_bytes } = memory;
    match stage {
        Stage::Calm => info!(used_bytes, limit_bytes, "memory: enough again"),
        Stage::Refuse => warn!(used_bytes, limit_bytes, "memory is short: new clients are refused"),
        Stage::Shrink => {
            warn!(used_bytes, limit_bytes, "memory is short: queues and windows are smaller");
        }
        Stage::Shed => {
            warn!(used_bytes, limit_bytes, "memory is short: the slowest readers are ended");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_limit_the_sooner_the_next_look() {
        let pause = |used, limit| pause(Memory { used, limit });
        assert_eq!(pause(7, 0), CALM);
        assert_eq!(pause(0, 64 << 30), CALM);
        let halfway = pause(128 << 20, 256 << 20);
        assert!(halfway < Duration::from_millis(50) && halfway > BUSY, "{halfway:?}");
        assert_eq!(pause(250 << 20, 256 << 20), BUSY);
        assert_eq!(pause(u64::MAX, 256 << 20), BUSY);
    }
}
