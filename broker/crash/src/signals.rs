//! SIGINT and SIGTERM: what was started is to be ended first.

use std::process::exit;
use std::thread;

use anyhow::{Context, Result};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::process::kill_all;

/// Ends every process that we started when we are told to end, and then us.
pub(crate) fn end_on_signals() -> Result<()> {
    on_signals(|| {
        kill_all();
        exit(130);
    })
}

/// Does something, on a thread of its own, each time that we are told to end.
pub(crate) fn on_signals(what: impl Fn() + Send + 'static) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("cannot wait for signals")?;
    let (mut interrupt, mut terminate) = runtime
        .block_on(async {
            std::io::Result::Ok((
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            ))
        })
        .context("cannot wait for signals")?;
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => what(),
                    _ = terminate.recv() => what(),
                }
            }
        });
    });
    Ok(())
}
