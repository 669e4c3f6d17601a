//! The node's own thread: the admin port, the `$SYS` topics, and the pulse for
//! the service manager.
//!
//! Ordinary tokio, away from the shards: a slow scrape costs no message a
//! microsecond.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

use super::notify::Notify;
use super::sys::Publisher;
use crate::admin::{self, AdminState, control};
use crate::config::Config;
use crate::shard::Shared;
use crate::telemetry::health::Health;

/// Where the node can be asked something.
pub(super) struct Sockets {
    /// Metrics and health.
    pub(super) admin: TcpListener,
    /// What an operator asks; none if it could not be opened.
    pub(super) control: Option<UnixListener>,
    /// To the node's main thread.
    pub(super) ask_reload: mpsc::Sender<oneshot::Sender<String>>,
}

/// Starts the thread. It runs until the process ends.
///
/// # Errors
/// When there can be no thread or no runtime for it.
pub(super) fn start(
    sockets: Sockets,
    config: &Config,
    shared: Arc<Shared>,
    health: Arc<Health>,
    notify: Arc<Notify>,
) -> io::Result<()> {
    let Sockets { admin: listener, control, ask_reload } = sockets;
    listener.set_nonblocking(true)?;
    let state = AdminState::new(config, shared.clone(), health.clone());
    let state = Arc::new(state.with_cluster(shared.cluster.clone()));
    let every = Duration::from_secs(config.settings.sys_interval_seconds.into());
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (listener, control) = {
        let _context = runtime.enter();
        let control = control.map(tokio::net::UnixListener::from_std).transpose()?;
        (tokio::net::TcpListener::from_std(listener)?, control)
    };
    thread::Builder::new().name("admin".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                served = admin::serve(listener, state.clone()) => {
                    error!(?served, "the admin port is closed");
                }
                () = serve_control(control, shared.clone(), ask_reload) => {
                    error!("the control socket is closed");
                }
                () = publish_system(&shared, &health, every) => {}
                () = notify.keep_alive(state.watch()) => {}
            }
        });
    })?;
    Ok(())
}

async fn serve_control(
    listener: Option<tokio::net::UnixListener>,
    shared: Arc<Shared>,
    ask_reload: mpsc::Sender<oneshot::Sender<String>>,
) {
    match listener {
        Some(listener) => {
            // It ends only with the process.
            let _ = control::serve(listener, shared, ask_reload).await;
        }
        None => std::future::pending().await,
    }
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
