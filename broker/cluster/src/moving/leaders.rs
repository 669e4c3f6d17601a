//! Who should lead, and when leadership is handed over.

use std::collections::{BTreeMap, BTreeSet};

use crate::drain::Preferred;
use crate::ids::{Millis, NodeId, PartitionId};
use crate::limits::{TRANSFER_AGAIN_MS, TRANSFER_GAP_MS, TRANSFERS_PRESSING_MAX};
use crate::meta::{Meta, NodeState, Wish};

/// A partition that this node leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Led {
    /// Which.
    pub partition: PartitionId,
    /// The other voters whose log is near its end.
    pub in_sync: BTreeSet<NodeId>,
}

/// When this node hands its leaderships over. One at a time, as each stops a
/// partition for some milliseconds and closes connections of its sessions; those
/// that are pressing several at a time, so that one that nobody takes does not
/// hold the others up.
#[derive(Clone, Debug, Default)]
pub struct Leaders {
    /// Who should lead instead of this node, and since when it could.
    preferred: BTreeMap<PartitionId, (NodeId, Preferred)>,
    /// What came to nothing is not tried again before.
    again: BTreeMap<PartitionId, Millis>,
    /// Before, none goes that is not pressing.
    next: Millis,
}

impl Leaders {
    /// The leadership to hand over now, if there is one, and to whom. `leaving`:
    /// this process is about to end; `under_way`: what is being handed over.
    ///
    /// Where another replica should lead it has to be in sync for 10 s first; a
    /// node that leaves, drains, or is to have no replica, hands over at once.
    pub fn next(
        &mut self,
        meta: &Meta,
        me: NodeId,
        led: &[Led],
        leaving: bool,
        under_way: &BTreeSet<PartitionId>,
        now: Millis,
    ) -> Option<(PartitionId, NodeId)> {
        self.preferred.retain(|at, _| led.iter().any(|led| led.partition == *at));
        self.again.retain(|_, until| *until > now);
        if under_way.len() >= TRANSFERS_PRESSING_MAX {
            return None;
        }
        let mut due = None;
        for led in led.iter().filter(|led| !under_way.contains(&led.partition)) {
            let pressing = is_pressing(meta, me, led.partition, leaving);
            if pressing {
                let waits = self.again.contains_key(&led.partition);
                match successor(meta, me, led).filter(|_| !waits) {
                    Some(to) => return Some((led.partition, to)),
                    None => continue,
                }
            }
            let first = meta.wanted(led.partition).iter().copied().find(|at| leads_well(meta, *at));
            let moving = meta.moves().any(|(at, _)| at == led.partition);
            let Some(first) = first.filter(|first| *first != me && !moving) else {
                self.preferred.remove(&led.partition);
                continue;
            };
            let slot = self.preferred.entry(led.partition).or_insert((first, Preferred::default()));
            if slot.0 != first {
                *slot = (first, Preferred::default());
            }
            let free = under_way.is_empty() && now >= self.next;
            if slot.1.is_due(led.in_sync.contains(&first), now) && free {
                due = due.or(Some((led.partition, first)));
            }
        }
        due
    }

    /// The handover of a partition has ended, well or not.
    pub fn tried(&mut self, partition: PartitionId, now: Millis) {
        self.next = now + TRANSFER_GAP_MS;
        self.again.insert(partition, now + TRANSFER_AGAIN_MS);
        if let Some((_, preferred)) = self.preferred.get_mut(&partition) {
            preferred.tried(now);
        }
    }
}

/// How many of the partitions that this node leads, and should not, another
/// replica could take over now.
pub fn movable(meta: &Meta, me: NodeId, led: &[Led], leaving: bool) -> usize {
    let goes = |led: &&Led| {
        is_pressing(meta, me, led.partition, leaving) && successor(meta, me, led).is_some()
    };
    led.iter().filter(goes).count()
}

/// Whether this node should not lead, whoever does instead.
fn is_pressing(meta: &Meta, me: NodeId, partition: PartitionId, leaving: bool) -> bool {
    let drains = meta.node(me).is_some_and(|node| node.state == NodeState::Draining);
    let wanted = meta.wanted(partition);
    let goes = meta.moves().any(|(at, of)| at == partition && of.remove == Some(me));
    leaving || drains || goes || !wanted.is_empty() && !wanted.contains(&me)
}

/// Who takes over at once: the first that is meant to have a replica, is in
/// sync, and serves.
fn successor(meta: &Meta, me: NodeId, led: &Led) -> Option<NodeId> {
    let stays = |node: &NodeId| {
        let goes = meta.moves().any(|(at, of)| at == led.partition && of.remove == Some(*node));
        *node != me && !goes && led.in_sync.contains(node) && leads_well(meta, *node)
    };
    let coming = meta.moves().filter(|(at, _)| *at == led.partition).filter_map(|(_, of)| of.add);
    meta.wanted(led.partition).iter().copied().chain(coming).find(stays)
}

fn leads_well(meta: &Meta, node: NodeId) -> bool {
    let serves = |state, wish| state == NodeState::Serving && wish == Wish::Serve;
    meta.node(node).is_some_and(|node| serves(node.state, node.wish))
}
