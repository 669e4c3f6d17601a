//! What a coordinator and its workers say to each other: JSON, a line each.
//!
//! Times are nanoseconds of the coordinator's CLOCK_MONOTONIC, which all
//! processes of its machine share. A worker elsewhere is told how far its own is
//! off, and translates.

use std::io::{self, BufRead, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_loadtest::ledger::LedgerPart;
use tidegate_loadtest::outcome::Latency;

use crate::procfs::Usage;
use crate::scenario::plan::Plan;
use crate::scenario::tally::Tally;

/// Time between two ticks.
pub(crate) const TICK_MS: u64 = 100;
/// A longer line is none of ours.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// To a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// What it is to do, once.
    Job {
        /// The whole run.
        plan: Box<Plan>,
        /// Its share: its number,
        worker: u32,
        /// of so many.
        workers: u32,
    },
    /// What time is it there?
    Clock {
        /// The coordinator's time.
        sent: u64,
    },
    /// The worker's clock is ahead by so much; it may be behind.
    Shift {
        /// Nanoseconds.
        ahead: i64,
    },
    /// The ramp begins; ticks and due times count from here.
    Open {
        /// When.
        epoch: u64,
    },
    /// All connections break.
    Storm,
    /// Messages are due.
    Traffic {
        /// From when on.
        start: u64,
    },
    /// Every connection is asked for a sign of life.
    Ping,
    /// Nothing new from now on.
    Stop,
    /// Farewell; the part is expected.
    Finish,
}

/// From a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// It has its job.
    Hello {
        /// Its process.
        pid: u32,
        /// Its anonymous memory, all slots of the slab in it and empty.
        anonymous_bytes: u64,
    },
    /// An answer to [`Order::Clock`].
    Clock {
        /// What was asked with.
        sent: u64,
        /// The worker's time.
        here: u64,
    },
    /// A tenth of a second went by.
    Tick(Box<Tick>),
    /// The end of its work.
    Part(Box<Part>),
    /// It can't go on.
    Broken {
        /// Why.
        why: String,
    },
}

/// The state of a worker.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Tick {
    /// Ticks since the epoch.
    pub(crate) number: u64,
    /// Counts since the beginning.
    pub(crate) tally: Tally,
    /// Latencies since the last tick.
    pub(crate) latency: Latency,
    /// Its own CPU and memory.
    pub(crate) usage: Usage,
    /// Its anonymous memory.
    pub(crate) anonymous_bytes: u64,
}

/// All that a worker found.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Part {
    /// Counts.
    pub(crate) tally: Tally,
    /// Its side of the ledger.
    pub(crate) ledger: LedgerPart,
    /// From due to delivery.
    pub(crate) latency: Latency,
    /// From due to the last acknowledgement.
    pub(crate) ack_latency: Latency,
    /// From due to up.
    pub(crate) connect_latency: Latency,
    /// From the loss of a connection to its return.
    pub(crate) gap: Latency,
    /// From due to the socket.
    pub(crate) lateness: Latency,
    /// What the harness itself lacked.
    pub(crate) lacking: Option<String>,
}

/// Writes a line.
pub(crate) fn say(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads a line; none at the end.
pub(crate) fn hear<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let got = io::Read::take(&mut *from, LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if got == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
