//! The node's own thread: the admin port, the `$SYS` topics, and the pulse for
//! the service manager.
//!
//! Ordinary tokio, away from the shards: a slow scrape costs no message a
//! microsecond.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use super::notify::Notify;
use super::sys::Publisher;
use crate::admin::{self, AdminState};
use crate::config::Config;
use crate::shard::Shared;
use crate::telemetry::health::Health;

/// Starts the thread. It runs until the process ends.
///
/// # Errors
/// When there can be no thread or no runtime for it.
pub(super) fn start(
    listener: TcpListener,
    config: &Config,
    shared: Arc<Shared>,
    health: Arc<Health>,
    notify: Arc<Notify>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let state = Arc::new(AdminState::new(config, shared.clone(), health.clone()));
    let every = Duration::from_secs(config.settings.sys_interval_seconds.into());
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _context = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                served = admin::serve(listener, state.clone()) => {
                    error!(?served, "the admin port is closed");
                }
                () = publish_system(&shared, &health, every) => {}
                () = notify.keep_alive(state.watch()) => {}
            }
        });
    })?;
    Ok(())
}

/// Publishes the `$SYS` topics at start and then every `every`, for ever.
async fn publish_system(shared: &Shared, health: &Health, every: Duration) {
    if every.is_zero() {
        return std::future::pending().await;
    }
    let mut publisher = Publisher::default();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        publisher.publish(shared, health.uptime());
    }
}
