//! The thread that watches memory and tells the core how short it is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use tidegate_core::pressure::Stage;
use tracing::{info, warn};

use super::memory::{Memory, Meter};
use crate::shard::Shared;
use crate::shard::mailbox::Order;

/// Between two looks while there is enough.
const CALM: Duration = Duration::from_millis(250);
/// The same from four fifths of the limit on.
const BUSY: Duration = Duration::from_millis(50);

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
        loop {
            let memory = meter.take();
            shared.memory.set(memory);
            let busy = memory.limit > 0 && memory.used / 4 > memory.limit / 5;
            judge(memory, &shared);
            thread::sleep(if busy { BUSY } else { CALM });
        }
    })?;
    Ok(())
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
