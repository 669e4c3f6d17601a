//! The reader: one thread that brings back messages which are on the disk alone.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tidegate_core::Fetch;
use tidegate_store::{FileDisk, Position, ReadError, Reader};
use tracing::error;

use super::{EXIT_STORE_FAILED, Store};
use crate::shard::Shared;
use crate::telemetry::log;

/// How long it sleeps if nobody wakes it.
const IDLE: Duration = Duration::from_secs(1);

/// What a shard asked for.
#[derive(Debug)]
pub struct Fetched {
    pub(super) fetch: Fetch,
    /// The bodies of the records, in order.
    pub(super) bodies: Vec<bytes::Bytes>,
}

/// Starts the thread. It runs until the process ends.
///
/// # Errors
/// When there can be no thread.
pub(super) fn start(
    mut reader: Reader<FileDisk>,
    shared: Arc<Shared>,
    store: Arc<Store>,
) -> io::Result<()> {
    let own = Arc::clone(&store);
    let thread = thread::Builder::new().name("store-read".to_owned()).spawn(move || {
        loop {
            let mut found = false;
            for (shard, asked) in own.asked.iter().enumerate() {
                // One of each shard, in turns.
                let Some(fetch) = asked.pop() else { continue };
                found = true;
                let fetched = read(&mut reader, fetch, &own);
                let mailbox = &shared.mailboxes[shard];
                mailbox.bring(fetched);
                mailbox.wake();
                own.fetch_done();
            }
            if !found {
                thread::park_timeout(IDLE);
            }
        }
    })?;
    let _ = store.reader.set(thread.thread().clone());
    thread.thread().unpark();
    Ok(())
}

fn read(reader: &mut Reader<FileDisk>, fetch: Fetch, store: &Store) -> Fetched {
    let began = Instant::now();
    let mut bodies = Vec::with_capacity(fetch.positions.len());
    let mut bytes = 0;
    for &position in &fetch.positions {
        match reader.read(Position(position)) {
            Ok(record) => {
                bytes += record.body.len() as u64;
                bodies.push(record.body);
            }
            Err(error) => die(&error),
        }
    }
    let meters = &store.meters;
    meters.timings.read.observe(began.elapsed().as_micros() as u64, 1);
    meters.reads.add(1);
    meters.read_bytes.add(bytes);
    Fetched { fetch, bodies }
}

/// What is promised to a client is not there.
fn die(error: &ReadError) -> ! {
    error!(
        %error,
        "a message cannot be read back, the process ends; `tidegate store check` tells what is damaged"
    );
    log::flush();
    std::process::exit(EXIT_STORE_FAILED);
}
