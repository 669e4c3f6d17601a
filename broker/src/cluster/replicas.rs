//! The replicas of partitions that this node has, as they are shown.

use std::fmt::Write;

use serde_json::{Value, json};
use tidegate_cluster::ids::{NodeId, PartitionId};
use tidegate_cluster::limits::NEAR_ENTRIES;
use tidegate_cluster::meta::Meta;

/// A replica on this node, open or being closed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Replica {
    /// Of which partition.
    pub partition: u16,
    /// What this node is in its group.
    pub role: &'static str,
    /// The term of the group.
    pub term: u64,
    /// Who leads it, as far as is known here.
    pub leader: Option<NodeId>,
    /// The last entry that is applied here.
    pub applied: u64,
    /// The last entry that is here.
    pub last: u64,
    /// Who votes; in a change both sets.
    pub voters: Vec<NodeId>,
    /// Who learns without a vote.
    pub learners: Vec<NodeId>,
    /// Entries that each other member lacks; of a leader alone.
    pub lag: Vec<(NodeId, u64)>,
}

/// A leader's replica whose partition has fewer copies near its end than are
/// wanted.
pub(crate) fn is_under_replicated(meta: &Meta, replica: &Replica) -> bool {
    let wanted = meta.wanted(PartitionId(replica.partition)).len();
    let whole = |(node, lag): &&(NodeId, u64)| {
        let alive = meta.node(*node).is_some_and(|node| node.state.is_alive());
        *lag <= NEAR_ENTRIES && alive && replica.voters.contains(node)
    };
    replica.role == "leader" && replica.lag.iter().filter(whole).count() + 1 < wanted
}

pub(super) fn shown_json(replicas: &[Replica]) -> Value {
    let text = |node: &NodeId| node.to_string();
    let one = |replica: &Replica| {
        let lag: serde_json::Map<String, Value> =
            replica.lag.iter().map(|(node, lag)| (node.to_string(), json!(lag))).collect();
        json!({
            "partition": replica.partition,
            "role": replica.role,
            "term": replica.term,
            "leader": replica.leader.as_ref().map(text),
            "applied": replica.applied,
            "last": replica.last,
            "voters": replica.voters.iter().map(text).collect::<Vec<_>>(),
            "learners": replica.learners.iter().map(text).collect::<Vec<_>>(),
            "lag": lag,
        })
    };
    json!({ "replicas": replicas.iter().map(one).collect::<Vec<_>>() })
}

pub(super) fn shown_text(replicas: &[Replica]) -> String {
    let list = |nodes: &[NodeId]| match nodes {
        [] => "-".to_owned(),
        nodes => nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    };
    let mut rows = vec![
        ["PARTITION", "ROLE", "TERM", "APPLIED", "BEHIND", "LEADER", "VOTERS", "LEARNERS"]
            .map(str::to_owned),
    ];
    for replica in replicas {
        let behind = replica.lag.iter().map(|(_, lag)| *lag).max();
        rows.push([
            replica.partition.to_string(),
            replica.role.to_owned(),
            replica.term.to_string(),
            replica.applied.to_string(),
            behind.map_or("-".into(), |lag| lag.to_string()),
            replica.leader.map_or("nobody".into(), |leader| leader.to_string()),
            list(&replica.voters),
            list(&replica.learners),
        ]);
    }
    let mut out = super::faces::table(&rows);
    let led = replicas.iter().filter(|replica| replica.role == "leader").count();
    let _ = writeln!(out, "\n{} replicas on this node, {led} of them lead", replicas.len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_show_who_leads_and_who_is_behind() {
        let replica = Replica {
            partition: 7,
            role: "leader",
            term: 3,
            leader: Some(NodeId(1)),
            applied: 40,
            last: 41,
            voters: vec![NodeId(1), NodeId(2)],
            learners: vec![NodeId(3)],
            lag: vec![(NodeId(2), 0), (NodeId(3), 9)],
        };
        let json = shown_json(std::slice::from_ref(&replica));
        let shown = &json["replicas"][0];
        assert_eq!((&shown["partition"], &shown["role"]), (&json!(7), &json!("leader")));
        assert_eq!(shown["lag"][NodeId(3).to_string()], 9);
        let text = shown_text(&[replica, Replica { role: "follower", ..Replica::default() }]);
        assert!(text.contains("2 replicas on this node, 1 of them lead"), "{text}");
        let row = text.lines().nth(1).expect("the leader's");
        assert!(row.starts_with("7 ") && row.contains(" 9 "), "{row}");
    }
}
