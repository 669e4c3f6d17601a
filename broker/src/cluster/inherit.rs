//! What a new leader of the metadata learns of the leases before it.
//!
//! A leader grants only what it was asked for before a majority of the voters
//! confirmed that it led. So when a majority says since when it has confirmed no
//! earlier leader, and never will again, no earlier lease counts from later than
//! that (docs/decisions/0031-failover.md).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_cluster::ids::{Millis, NodeId};
use tidegate_consensus::{GroupStatus, META};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::core::{Core, lock};
use super::question::{Question, Silence, decode_silence};
use super::wire::Wire;
use crate::shard::clock::Reading;

/// For one answer.
const PATIENCE: Duration = Duration::from_millis(300);
/// Between two rounds of questions.
const AGAIN: Duration = Duration::from_millis(50);
/// After which knowing is worth nothing any more.
const LAST: Duration = Duration::from_secs(2);

/// Asks the voters of a group that this node has begun to lead, and tells the
/// granter of leases. `granted`: when it granted last itself, as an earlier leader.
pub(super) async fn inherit<W: Wire>(core: Arc<Core<W>>, status: GroupStatus, granted: Millis) {
    let me = core.me.node;
    let Some(own) = core.silence(me, status.term, Some(granted)).await else { return };
    let since = |silence: Millis| Reading::take().millis().saturating_sub(silence);
    let mut said = BTreeMap::from([(me, since(own))]);
    let until = Instant::now() + LAST;
    let body = Silence { leader: me, term: status.term }.encode();
    loop {
        if let Some(at) = of_majorities(&status.voters, &said) {
            let ago = Reading::take().millis().saturating_sub(at);
            debug!(ago, "leases of an earlier leader were asked for before");
            if let Some(desk) = lock(&core.desk).as_mut() {
                desk.silent_since(status.term, at);
            }
            return;
        }
        if Instant::now() >= until {
            return;
        }
        let mut asking = JoinSet::new();
        let others = status.voters.iter().flatten().copied().map(NodeId);
        for node in others.filter(|node| !said.contains_key(node)) {
            let (core, body) = (Arc::clone(&core), body.clone());
            asking.spawn(async move {
                let what = Question::Silence as u16;
                let answer = core.wire.call(node, META, what, body, PATIENCE).await.ok()?;
                match decode_silence(&answer) {
                    // Its silence lasts at least until now.
                    Ok(silence) => Some((node, Reading::take().millis(), silence?)),
                    Err(error) => {
                        warn!(%node, %error, "an answer about leaders cannot be read");
                        None
                    }
                }
            });
        }
        while let Some(answer) = asking.join_next().await {
            if let Ok(Some((node, now, silence))) = answer {
                said.insert(node, now.saturating_sub(silence));
                if of_majorities(&status.voters, &said).is_some() {
                    break;
                }
            }
        }
        if of_majorities(&status.voters, &said).is_none() {
            sleep(AGAIN).await;
        }
    }
}

/// The latest of what was said, if a majority of each set of voters has.
fn of_majorities(voters: &[Vec<u64>], said: &BTreeMap<NodeId, Millis>) -> Option<Millis> {
    let is_majority = |set: &Vec<u64>| {
        let answered = set.iter().filter(|voter| said.contains_key(&NodeId(**voter)));
        answered.count() > set.len() / 2
    };
    let all = !voters.is_empty() && voters.iter().all(is_majority);
    said.values().max().copied().filter(|_| all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_of_a_majority_of_each_set_counts() {
        let said = |of: &[(u64, Millis)]| of.iter().map(|(n, at)| (NodeId(*n), *at)).collect();
        let three = [vec![1, 2, 3]];
        assert_eq!(of_majorities(&three, &said(&[(1, 10)])), None);
        assert_eq!(of_majorities(&three, &said(&[(1, 10), (4, 90)])), None, "no voter");
        assert_eq!(of_majorities(&three, &said(&[(1, 10), (3, 20)])), Some(20));
        let joint = [vec![1, 2, 3], vec![1, 4, 5]];
        assert_eq!(of_majorities(&joint, &said(&[(1, 10), (3, 20)])), None);
        assert_eq!(of_majorities(&joint, &said(&[(1, 10), (3, 20), (5, 30)])), Some(30));
        assert_eq!(of_majorities(&[vec![1]], &said(&[(1, 10)])), Some(10));
        assert_eq!(of_majorities(&[], &said(&[(1, 10)])), None);
    }
}
