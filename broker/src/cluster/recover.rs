//! `tidegate cluster recover`: nodes that never come back are given up, also if
//! the metadata has lost the majority of its voters with them.
//!
//! Then this node's replica of the metadata, or what it knows of it, is made the
//! only one (`Groups::force`), and its first command strikes the lost nodes off.
//! Partitions that have lost their majority are brought back by whoever has the
//! most of each (`replication/recover.rs`), once the metadata says who is gone.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::ids::NodeId;
use tidegate_cluster::meta::{Command, NodeState};
use tidegate_consensus::{LogId, META};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::core::Core;
use super::done;
use super::machine::Machine;
use super::view::{NotDone, View};
use super::wire::Wire;
use crate::shard::clock::Reading;

/// For the group of one to elect itself, and this node to register again.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(500);

/// Who votes for the metadata, as far as is known here: more than one set while
/// they change.
fn voters(view: &View, known: &[Vec<u64>]) -> Vec<BTreeSet<NodeId>> {
    if !known.is_empty() {
        return known.iter().map(|set| set.iter().copied().map(NodeId).collect()).collect();
    }
    if !view.voters.is_empty() {
        return vec![view.voters.clone()];
    }
    // It has never voted: the voters are among the others.
    let others = view.meta.nodes().filter(|node| node.spec.id != view.me.node);
    let others = others.filter(|node| node.state != NodeState::Left);
    vec![others.map(|node| node.spec.id).collect()]
}

fn is_majority_lost(voters: &[BTreeSet<NodeId>], lost: &[NodeId]) -> bool {
    let left = |set: &BTreeSet<NodeId>| set.iter().filter(|node| !lost.contains(node)).count();
    voters.iter().any(|set| 2 * left(set) <= set.len())
}

/// Gives the nodes up.
pub(super) async fn recover<W: Wire>(
    core: &Arc<Core<W>>,
    lost: Vec<NodeId>,
) -> Result<u64, NotDone> {
    let refuse = |why: String| Err(NotDone::Refused(why));
    let view = core.cluster.view();
    if lost.contains(&core.me.node) {
        return refuse("this node is one of them; ask one that is left".into());
    }
    let up = core.wire.up();
    if let Some(there) = lost.iter().find(|node| up.contains(node)) {
        return refuse(format!("node {there} is connected, so it is not lost; stop it first"));
    }
    let status = core.groups.status(META);
    let votes = status.is_voter(core.me.node.0);
    let voters = voters(&view, if votes { &status.voters } else { &[] });
    if is_majority_lost(&voters, &lost) {
        let left: BTreeSet<NodeId> =
            voters.iter().flatten().filter(|node| !lost.contains(node)).copied().collect();
        if let Some(why) = elsewhere(core, &left) {
            return refuse(why);
        }
        force(core, &view, &lost, votes).await?;
    }
    let until = Instant::now() + PATIENCE;
    loop {
        let command = Command::Recover { lost: lost.clone(), accept_data_loss: true };
        let outcome = done(core.propose(command).await);
        // Its own life may have to be registered again before.
        if outcome.is_ok() || Instant::now() >= until {
            return outcome;
        }
        sleep(AGAIN).await;
    }
}

/// Why it is not for this node to go on; none: it is.
fn elsewhere<W: Wire>(core: &Core<W>, left: &BTreeSet<NodeId>) -> Option<String> {
    let (me, known) = (core.me.node, core.cluster.known());
    let mine = core.groups.status(META).last.map_or((0, 0), |last| (last.term, last.index));
    if !left.is_empty() && !left.contains(&me) {
        let node = left.first().expect("it is not empty");
        return Some(format!(
            "node {node} has a vote for the metadata, and this one has none; ask that"
        ));
    }
    let now = Reading::take().millis();
    for node in left.iter().filter(|node| **node != me) {
        let told = known.get(node).filter(|known| known.is_fresh(now));
        match told.map(|known| known.about.meta_last) {
            None => {
                return Some(format!(
                    "node {node} votes for the metadata too, and is not connected; start it, or \
                     give it up as well"
                ));
            }
            Some(theirs) if (theirs, *node) > (mine, me) => {
                return Some(format!("node {node} has as much of the metadata or more; ask that"));
            }
            Some(_) => {}
        }
    }
    None
}

async fn force<W: Wire>(
    core: &Core<W>,
    view: &View,
    lost: &[NodeId],
    votes: bool,
) -> Result<(), NotDone> {
    let state = match votes {
        true => None,
        false if view.meta.cluster().is_none() => {
            return Err(NotDone::Refused("this node knows nothing of its cluster".into()));
        }
        false => {
            let last = LogId { term: view.term, index: view.meta.applied() };
            Some((last, Bytes::from(view.meta.snapshot())))
        }
    };
    warn!(
        lost = lost.len(),
        known = view.meta.applied(),
        "the majority of the metadata's voters is given up; it goes on from what this node has"
    );
    core.telling.store(false, Ordering::Relaxed);
    let machine = Machine::new(core.shown.clone(), Arc::clone(&core.telling));
    let forced = core.groups.force(META, state, machine).await;
    core.telling.store(true, Ordering::Relaxed);
    let forced = forced.map_err(|error| {
        NotDone::Refused(format!("the metadata's log does not take a new beginning: {error}"))
    })?;
    warn!(term = forced.term, index = forced.index, "this node is the metadata's only voter now");
    Ok(())
}

/// What is lost with these nodes, in words.
pub(super) fn price(view: &View, lost: &[NodeId]) -> String {
    let (mut whole, mut most) = (0, 0);
    for replicas in view.meta.placement().iter().filter(|replicas| !replicas.is_empty()) {
        let left = replicas.iter().filter(|node| !lost.contains(node)).count();
        whole += usize::from(left == 0);
        most += usize::from(left > 0 && 2 * left <= replicas.len());
    }
    let mut text = format!("{} of {} nodes are given up: ", lost.len(), view.meta.nodes().count());
    let _ = write!(
        text,
        "{most} partitions lose the majority of their replicas, and with it what was acknowledged \
         and is on none that is left; {whole} lose all of them, with all their sessions, queues \
         and retained messages"
    );
    if is_majority_lost(&voters(view, &[]), lost) {
        text += "; the metadata loses its majority, and goes on from what is known here";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_lost_if_half_of_a_set_is() {
        let sets = |sets: &[&[u64]]| -> Vec<BTreeSet<NodeId>> {
            sets.iter().map(|set| set.iter().copied().map(NodeId).collect()).collect()
        };
        let lost = [NodeId(2), NodeId(3)];
        assert!(is_majority_lost(&sets(&[&[1, 2, 3]]), &lost));
        assert!(is_majority_lost(&sets(&[&[1, 2]]), &lost), "one of two is none");
        assert!(!is_majority_lost(&sets(&[&[1, 2, 4]]), &lost));
        assert!(is_majority_lost(&sets(&[&[1, 4, 5], &[1, 2, 3]]), &lost), "of either set");
    }
}
