//! When clients may be at this node: while it serves, and not once it has been
//! cut off from its cluster for long (`cluster.isolated`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_cluster::lease::Hold;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::cluster::Cluster;
use crate::shard::Shared;
use crate::shard::clock::Reading;
use crate::shard::mailbox::{Mailbox, Order};

/// Between two looks, and two steps.
const LOOK: Duration = Duration::from_millis(100);
/// The same while it is waited for shards to have heard that clients may come.
const SOON: Duration = Duration::from_millis(5);

/// Why clients are kept away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Away {
    /// The others do not wait for what this node's clients subscribe to: it does
    /// not serve yet, or has left.
    NotServing,
    /// There was no lease for 10 s.
    CutOff,
}

/// Counts how often the lease runs out. Closes the clients of the node while
/// they are better off elsewhere, and lets new ones in again after that. Runs
/// for ever.
pub(super) async fn watch(shared: Arc<Shared>, cluster: Arc<Cluster>) {
    // A node that has never had a lease is on its way in; its shards are told when
    // clients may come, so that they can say that they know.
    let (mut had, mut held, mut before) = (false, false, Some(Away::NotServing));
    loop {
        let clients: u64 = shared.node.counters.iter().map(|of| of.connections.value()).sum();
        cluster.set_clients(clients.try_into().unwrap_or(u32::MAX));
        let hold = cluster.hold(Reading::take().millis());
        had |= hold == Hold::Serving;
        if std::mem::replace(&mut held, hold == Hold::Serving) && hold != Hold::Serving {
            cluster.count_cut_off();
        }
        let isolated = had && hold == Hold::Isolated && cluster.policy().closes_isolated;
        let away = match isolated {
            true => Some(Away::CutOff),
            false if !cluster.has_clients() => Some(Away::NotServing),
            // Those who are silent wait for the lease, or its end.
            false if hold == Hold::Silent => before,
            false => None,
        };
        if away == Some(Away::CutOff) && away != before {
            warn!("no lease for 10 s: cut off from the cluster, its clients are closed");
        }
        if away.is_some() {
            // Readiness ends before the first of them is sent away.
            cluster.set_admits(false);
        }
        if away.is_some() || before.is_some() {
            let told = tell(&shared, away.is_some());
            if away.is_none() && told && before == Some(Away::CutOff) {
                info!("the node has its lease again: clients may come");
            }
            before = if told { away } else { away.or(before) };
        }
        let opening = away.is_none() && !admit(&shared);
        cluster.set_admits(away.is_none() && !opening);
        sleep(if opening { SOON } else { LOOK }).await;
    }
}

/// Whether every shard lets clients in.
fn admit(shared: &Shared) -> bool {
    shared.meters.iter().all(|meters| meters.admits.load(Ordering::Acquire))
}

/// Whether all shards will hear of it; else it is to be said again.
fn tell(shared: &Shared, isolated: bool) -> bool {
    let told = |mailbox: &Mailbox<_>| mailbox.order(Order::Isolated(isolated)).is_ok();
    shared.mailboxes.iter().filter(|mailbox| !told(mailbox)).count() == 0
}
