//! The reader: one thread that brings back messages which are on the disk alone.

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_consensus::Body;
use tidegate_core::Fetch;
use tidegate_store::{FileDisk, Position, Reader};
use tracing::error;

use super::{EXIT_STORE_FAILED, Store};
use crate::shard::Shared;
use crate::telemetry::log;

/// How long it sleeps if nobody wakes it.
const IDLE: Duration = Duration::from_secs(1);

/// What a shard asks for.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) fetch: Fetch,
    /// The image that the partition has, if it has replicas, with its number.
    pub(crate) image: Option<(u32, Body)>,
}

/// What a shard asked for.
#[derive(Debug)]
pub struct Fetched {
    pub(crate) fetch: Fetch,
    /// The bodies of the records, in order. Empty: they lie elsewhere by now.
    pub(crate) bodies: Vec<Bytes>,
}

/// Starts the thread, which reads with `read`. It runs until the process ends.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn start(
    shared: Arc<Shared>,
    store: Arc<Store>,
    mut read: impl FnMut(&Ask) -> Vec<Bytes> + Send + 'static,
) -> io::Result<()> {
    let own = Arc::clone(&store);
    let thread = thread::Builder::new().name("store-read".to_owned()).spawn(move || {
        loop {
            let mut found = false;
            for (shard, asked) in own.asked.iter().enumerate() {
                // One of each shard, in turns.
                let Some(ask) = asked.pop() else { continue };
                found = true;
                let began = Instant::now();
                let bodies = read(&ask);
                let meters = &own.meters;
                meters.timings.read.observe(began.elapsed().as_micros() as u64, 1);
                meters.reads.add(1);
                meters.read_bytes.add(bodies.iter().map(|body| body.len() as u64).sum());
                let mailbox = &shared.mailboxes[shard];
                mailbox.bring(Fetched { fetch: ask.fetch, bodies });
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

/// Reads the log of a node that is alone.
pub(super) fn of_log(mut reader: Reader<FileDisk>) -> impl FnMut(&Ask) -> Vec<Bytes> + Send {
    move |ask| {
        let read = |&position: &u64| match reader.read(Position(position)) {
            Ok(record) => record.body,
            Err(error) => die(&error),
        };
        ask.fetch.positions.iter().map(read).collect()
    }
}

/// What is promised to a client is not there.
pub(crate) fn die(error: &dyn Display) -> ! {
    error!(
        %error,
        "a message cannot be read back, the process ends; `tidegate store check` tells what is damaged"
    );
    log::flush();
    std::process::exit(EXIT_STORE_FAILED);
}
