//! Clients of a node that is cut off from its cluster (`cluster.isolated`).

use std::sync::Arc;
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

/// Counts how often the lease runs out. Closes the clients of the node when it
/// has had none for 10 s, if that is wanted, and lets new ones in again when it
/// has one. Runs for ever.
pub(super) async fn watch(shared: Arc<Shared>, cluster: Arc<Cluster>) {
    // A node that has never had a lease is on its way in.
    let (mut had, mut held, mut isolated) = (false, false, false);
    let closes = cluster.policy().closes_isolated;
    loop {
        sleep(LOOK).await;
        let hold = cluster.hold(Reading::take().millis());
        if std::mem::replace(&mut held, hold == Hold::Serving) && hold != Hold::Serving {
            cluster.count_cut_off();
        }
        match hold {
            Hold::Serving => {
                had = true;
                if isolated && tell(&shared, false) {
                    info!("the node has its lease again: clients may come");
                    isolated = false;
                }
            }
            Hold::Silent => {}
            Hold::Isolated if had && closes => {
                if !isolated {
                    warn!("no lease for 10 s: cut off from the cluster, its clients are closed");
                }
                isolated = true;
                tell(&shared, true);
            }
            Hold::Isolated => {}
        }
    }
}

/// Whether all shards will hear of it; else it is to be said again.
fn tell(shared: &Shared, isolated: bool) -> bool {
    let told = |mailbox: &Mailbox<_>| mailbox.order(Order::Isolated(isolated)).is_ok();
    shared.mailboxes.iter().filter(|mailbox| !told(mailbox)).count() == 0
}
