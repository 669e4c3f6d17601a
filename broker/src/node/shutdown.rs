//! The way down: SIGTERM or SIGINT drains, a second one ends at once. SIGHUP,
//! until then, asks for a reload.
//!
//! Readiness goes first, so that a load balancer looks elsewhere; in a cluster
//! the leaderships of partitions, within half of the time, and the clients at
//! the pace of the cluster, within three quarters; then the shards close their
//! listeners and end what is left; when the last is gone, or the deadline is
//! there, the process ends with 0.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tidegate_cluster::meta::{Command, Wish};
use tidegate_core::ids::{Millis, ShardId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use crate::admin::control::Reloads;
use crate::shard::Shared;
use crate::shard::clock::Reading;
use crate::shard::mailbox::{Mailbox, Order};
use crate::telemetry::health::{Health, Phase};
use crate::telemetry::log;

/// How long the threads may take to end after everything is drained.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at whether they did, or at a full queue of orders.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What [`wait`] tells of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ways {
    /// Signals are caught from now on: the node is ready.
    Up,
    /// SIGHUP: the config is to be read again.
    Again,
    /// The node is about to be brought down.
    Down,
}

/// Waits for the signal, then brings the node down within `drain`, the
/// listeners staying open for the first `unready` of it. `tell` returns what
/// there is to say to who asked.
pub(super) fn wait(
    shared: Arc<Shared>,
    drained: &mut mpsc::Receiver<ShardId>,
    threads: Vec<JoinHandle<()>>,
    health: &Health,
    drain: Duration,
    unready: Duration,
    reloads: &mut Reloads,
    mut tell: impl FnMut(Ways) -> String,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new().context("cannot catch signals")?;
        // Caught to the end: a late one must not cut a drain short.
        let mut hangups = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
        health.enter(Phase::Ready);
        tell(Ways::Up);
        let name = loop {
            tokio::select! {
                (name, _) = signals.next() => break name,
                _ = hangups.recv() => {
                    tell(Ways::Again);
                }
                Some(answer) = reloads.recv() => {
                    // Who asked may have left.
                    let _ = answer.send(tell(Ways::Again));
                }
            }
        };
        tell(Ways::Down);
        info!(signal = name, deadline_ms = drain.as_millis() as u64, "shutting down");
        health.enter(Phase::Draining);
        let down = async {
            let began = Instant::now();
            // A load balancer has to notice before it may get a refusal.
            let handed = async {
                hand_over(&shared, drain / 2).await;
                send_clients(&shared, (drain * 3 / 4).saturating_sub(began.elapsed())).await;
            };
            tokio::join!(sleep(unready), handed);
            let rest = drain.saturating_sub(began.elapsed());
            bring_down(&shared, drained, threads, health, rest).await;
        };
        tokio::select! {
            () = down => Ok(()),
            (name, number) = signals.next() => {
                warn!(signal = name, "second signal: not waiting");
                log::flush();
                std::process::exit(128 + number)
            }
        }
    })
}

/// Has the other nodes of the cluster lead what this one leads, so that no
/// client waits for an election.
async fn hand_over(shared: &Shared, within: Duration) {
    let (Some(cluster), Some(outlet)) = (&shared.cluster, &shared.outlet) else { return };
    // So that nothing comes back. Without a quorum of the metadata nobody hears
    // of it, and nobody waits for that either.
    let (told, node) = (Arc::clone(cluster), cluster.view().me.node);
    tokio::spawn(async move { told.propose(Command::Drain { node, wish: Wish::Serve }).await });
    if timeout(within, outlet.leave()).await.is_err() {
        warn!("some partitions are still led here: others elect their leaders");
    }
}

/// Waits while the clients are sent to other nodes of the cluster.
async fn send_clients(shared: &Shared, within: Duration) {
    let Some(outlet) = &shared.outlet else { return };
    if timeout(within, outlet.clients_gone()).await.is_err() {
        warn!("some clients are still here: they are closed without a pace");
    }
}

async fn bring_down(
    shared: &Shared,
    drained: &mut mpsc::Receiver<ShardId>,
    threads: Vec<JoinHandle<()>>,
    health: &Health,
    drain: Duration,
) {
    let deadline = Instant::now() + drain;
    let until = Reading::take().millis() + drain.as_millis() as Millis;
    for mailbox in &shared.mailboxes {
        give(mailbox, deadline, || Order::Drain { until }).await;
    }
    for _ in 0..threads.len() {
        if timeout_at(deadline, drained.recv()).await.is_err() {
            let left: u64 =
                shared.node.counters.iter().map(|shard| shard.connections.value()).sum();
            warn!(connections = left, "the deadline is there: the rest is cut off");
            break;
        }
    }
    health.enter(Phase::Drained);
    let deadline = Instant::now() + STOP_PATIENCE;
    for mailbox in &shared.mailboxes {
        give(mailbox, deadline, || Order::Stop).await;
    }
    while Instant::now() < deadline && !threads.iter().all(JoinHandle::is_finished) {
        sleep(LOOK_AGAIN).await;
    }
    if let Some(store) = &shared.store {
        store.end();
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline && !store.has_ended() {
            sleep(LOOK_AGAIN).await;
        }
        if !store.has_ended() {
            warn!("the disk is slow: not waiting for what nobody waits for");
        }
    }
    info!("stopped");
}

/// Gives an order, waiting for room until `deadline`.
async fn give<M>(mailbox: &Mailbox<M>, deadline: Instant, order: impl Fn() -> Order) {
    while mailbox.order(order()).is_err() && Instant::now() < deadline {
        sleep(LOOK_AGAIN).await;
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of the two, with its number.
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        }
    }
}
