//! Elections that begin early, since the connection with a leader was closed.
//!
//! openraft waits for a follower's lease (the longest election time) and then for
//! an election time more. The second wait is there so that followers do not all
//! ask at once. Here they ask by turns instead, from the end of the lease on.
//! Whether there is an election is up to Pre-Vote as always: a leader that
//! others still hear stays.

use std::sync::{Arc, Weak};

use tidegate_store::Disk;
use tidegate_store::raft::Writer;
use tokio::time::{Instant, sleep};

use crate::group::{Slot, lock};
use crate::groups::Shared;
use crate::limits::CAMPAIGN_TURN;
use crate::log_id::GroupId;
use crate::status::{GroupStatus, Role};

/// Has the groups that `lost` leads ask for an election, each at its turns,
/// until it leads none or openraft asks by itself.
pub(crate) async fn without<D: Disk, W: Writer, T>(shared: Weak<Shared<D, W, T>>, lost: u64) {
    let mut turn = 0;
    let Some(until) = shared.upgrade().map(|all| Instant::now() + 2 * all.timers.election_max)
    else {
        return;
    };
    while Instant::now() < until {
        sleep(CAMPAIGN_TURN).await;
        turn += 1;
        let Some(all) = shared.upgrade() else { return };
        let slots: Vec<Arc<Slot<D, W>>> = lock(&all.slots).values().cloned().collect();
        let mut left = false;
        for slot in slots {
            let status = slot.status().borrow().clone();
            if status.leader != Some(lost) || status.role != Role::Follower {
                continue;
            }
            left = true;
            if is_turn(&status, slot.group, all.node, lost, turn)
                && let Some(running) = slot.running()
            {
                // Nothing comes of it before the lease is over. An error is that
                // of a group that has ended; its status says so.
                let _ = running.raft.trigger().elect(true).await;
            }
        }
        if !left {
            break;
        }
    }
    if let Some(all) = shared.upgrade() {
        lock(&all.losing).remove(&lost);
    }
}

/// Whether a node is the one of a group's voters that asks at this turn: each
/// group begins with another one.
fn is_turn(status: &GroupStatus, group: GroupId, node: u64, lost: u64, turn: u64) -> bool {
    let mut others: Vec<u64> = status.voters.iter().flatten().copied().collect();
    others.retain(|voter| *voter != lost);
    others.sort_unstable();
    others.dedup();
    let first = u64::from(group) + turn;
    let asks = first.checked_rem(others.len() as u64).and_then(|at| others.get(at as usize));
    asks == Some(&node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_voter_has_its_turn_and_never_two_at_once() {
        let status = GroupStatus { voters: vec![vec![1, 2, 3]], ..GroupStatus::default() };
        let ask = |group, turn| -> Vec<u64> {
            (1..=4).filter(|node| is_turn(&status, group, *node, 2, turn)).collect()
        };
        assert_eq!([ask(4, 1), ask(4, 2), ask(4, 3)], [[3], [1], [3]]);
        assert_eq!(ask(5, 1), [1], "another group begins with another one");
        let alone = GroupStatus { voters: vec![vec![2]], ..GroupStatus::default() };
        assert!(!is_turn(&alone, 1, 1, 2, 1));
    }
}
