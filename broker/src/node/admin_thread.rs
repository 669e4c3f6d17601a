//! The node's own thread: the admin port and the `$SYS` topics.
//!
//! Ordinary tokio, away from the shards: a slow scrape costs no message a
//! microsecond.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::sys::Publisher;
use crate::config::Config;
use crate::shard::Shared;

/// What the rest of the node tells the admin thread.
pub(super) struct AdminThread {}

impl AdminThread {
    /// Whether clients should be sent here.
    pub(super) fn ready(&self, _ready: bool) {}
}

/// Starts the thread.
pub(super) fn start(
    listener: TcpListener,
    config: &Config,
    shared: Arc<Shared>,
) -> io::Result<AdminThread> {
    listener.set_nonblocking(true)?;
    let sys_interval = Duration::from_secs(config.settings.sys_interval_seconds.into());
    std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let _listener = tokio::net::TcpListener::from_std(listener);
            publish_system(shared, sys_interval).await;
        });
    })?;
    Ok(AdminThread {})
}

/// Publishes the `$SYS` topics at start and then every `every`.
async fn publish_system(shared: Arc<Shared>, every: Duration) {
    if every.is_zero() {
        return std::future::pending().await;
    }
    let started = Instant::now();
    let mut publisher = Publisher::default();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        publisher.publish(&shared, started.elapsed());
    }
}
