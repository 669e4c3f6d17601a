//! Partitions that have lost the majority of their voters for good.
//!
//! Nodes are given up by an operator alone (`cluster recover`, `cluster forget
//! --accept-data-loss`), and then never speak for a partition again. Where they
//! were the majority, the replica that has the most of what is left becomes the
//! only voter; the usual moves bring further ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_cluster::ids::NodeId;
use tidegate_cluster::lease::Hold;
use tidegate_cluster::meta::Meta;
use tidegate_consensus::{GroupStatus, Transport};
use tidegate_core::ids::PartitionId;
use tidegate_store::Disk;
use tidegate_store::raft::Writer;
use tracing::{error, warn};

use super::Word;
use super::machine::{Machine, say};
use super::run::{Replication, all, group};
use crate::shard::clock::Reading;

/// Who is left of the voters of a group that has lost their majority for good;
/// none: it has not.
fn left(meta: &Meta, status: &GroupStatus) -> Option<BTreeSet<NodeId>> {
    let stays = |node: &NodeId| !meta.is_forgotten(*node);
    let sets = || status.voters.iter().map(|set| set.iter().copied().map(NodeId));
    let is_lost = sets().any(|set| 2 * set.clone().filter(|node| stays(node)).count() <= set.len());
    is_lost.then(|| sets().flatten().filter(|node| stays(node)).collect())
}

/// Term and index of the last entry that a replica has, or had.
fn last(status: &GroupStatus) -> (u64, u64) {
    status.last.max(status.purged).map_or((0, 0), |last| (last.term, last.index))
}

impl<D, W, T> Replication<D, W, T>
where
    D: Disk + Send + Sync + 'static,
    D::File: Send + Sync,
    W: Writer,
    T: Transport,
{
    /// Looks for such partitions, and goes on with those of which nobody has
    /// more than this node.
    pub(super) async fn bring_back(&mut self) {
        let Some(cluster) = self.shared.cluster.clone() else { return };
        let (view, now) = (cluster.view(), Reading::take().millis());
        let me = NodeId(self.node);
        let mut stuck = BTreeMap::new();
        let mut candidates = Vec::new();
        // By metadata that a majority stands for.
        if cluster.hold(now) == Hold::Serving {
            for partition in all().filter(|p| self.replicas[usize::from(p.0)].open) {
                let status = self.groups.status(group(partition));
                let Some(left) = left(&view.meta, &status).filter(|left| left.contains(&me)) else {
                    continue;
                };
                stuck.insert(u16::from(partition.0), last(&status));
                candidates.push((partition, last(&status), left));
            }
        }
        if *cluster.stuck() != stuck {
            cluster.set_stuck(stuck);
        }
        let known = cluster.known();
        for (partition, mine, left) in candidates {
            let theirs = |node: &NodeId| {
                let told = known.get(node).filter(|known| known.is_fresh(now))?;
                told.about.stuck.get(&u16::from(partition.0)).copied()
            };
            // Of the same everywhere the one with the smallest id.
            let has_less =
                |node: &NodeId| theirs(node).is_some_and(|theirs| (theirs, me) < (mine, *node));
            if left.iter().filter(|node| **node != me).all(has_less) {
                self.force(partition, mine).await;
            }
        }
    }

    async fn force(&mut self, partition: PartitionId, (term, index): (u64, u64)) {
        warn!(
            partition = partition.0,
            term,
            index,
            "a partition has lost the majority of its replicas for good: it goes on from this one, \
             and what this one lacks is lost"
        );
        self.replicas[usize::from(partition.0)].led = None;
        self.close_home(partition).await;
        let machine = Machine::new(partition, Arc::clone(&self.shared));
        if let Err(error) = self.groups.force(group(partition), None, machine).await {
            error!(partition = partition.0, %error, "the partition cannot go on");
            // As it was: it is tried again.
            self.reopen(partition).await;
        }
        self.look_again(partition);
    }

    /// Ends what the shards have of a partition, and its group.
    pub(super) async fn close_home(&mut self, partition: PartitionId) {
        let own = partition.shard(self.member, self.shared.node.shards());
        let was_home = self.shared.node.home(partition) == Some(own);
        if was_home {
            self.shared.node.set_home(partition, None);
        }
        self.groups.close(group(partition)).await;
        // In this order: what a shard does when it hears that the home has moved
        // must not reach a leader of before.
        say(&self.shared, partition, Word::Reset(partition));
        if was_home {
            self.tell_all(|| Word::HomeMoved(partition));
        }
    }
}
