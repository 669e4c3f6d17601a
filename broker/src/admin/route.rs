//! `tidegate route show`: where a message with a topic goes.

use std::fmt::Write;

use serde_json::{Value, json};
use tidegate_codec::topic_name;
use tidegate_core::ids::Member;
use tidegate_core::index::Reach;

use crate::shard::Shared;

/// Says where messages of `topic` go from this node.
///
/// # Errors
/// Why that is no topic.
pub(super) fn show(shared: &Shared, topic: &str, as_json: bool) -> Result<String, String> {
    topic_name(topic.as_bytes()).map_err(|error| format!("{topic:?} is no topic: {error}"))?;
    let reach = shared.node.index.reach(topic);
    let name = |member: Member| {
        let view = shared.cluster.as_ref()?.view();
        let life = view.members().find(|(number, _)| number.0 == member.0)?.1;
        Some(life.node.to_string())
    };
    Ok(match as_json {
        true => format!("{:#}\n", as_value(topic, &reach, name)),
        false => as_text(topic, &reach, name),
    })
}

fn as_value(topic: &str, reach: &Reach, name: impl Fn(Member) -> Option<String>) -> Value {
    let node = |member: &Member| json!({ "member": member.0, "node": name(*member) });
    let share = |(name, filter, members): &(String, String, usize)| json!({ "name": name, "filter": filter, "members": members });
    json!({
        "topic": topic,
        "connections": reach.connections,
        "sessions": reach.sessions,
        "nodes": reach.members.iter().map(node).collect::<Vec<_>>(),
        "partitions": reach.partitions.iter().map(|at| at.0).collect::<Vec<_>>(),
        "share_groups": reach.shares.iter().map(share).collect::<Vec<_>>(),
    })
}

fn as_text(topic: &str, reach: &Reach, name: impl Fn(Member) -> Option<String>) -> String {
    let mut out = format!("from this node, messages of {topic:?} go to\n");
    let _ = writeln!(out, "  {} sessions here that end with their connection", reach.connections);
    let _ = writeln!(out, "  {} durable sessions of partitions led here", reach.sessions);
    for member in &reach.members {
        let node = name(*member).unwrap_or_else(|| format!("member {}", member.0));
        let _ = writeln!(out, "  sessions of node {node} that end with their connection");
    }
    if !reach.partitions.is_empty() {
        let list: Vec<_> = reach.partitions.iter().map(|at| at.0.to_string()).collect();
        let _ = writeln!(out, "  durable sessions of partitions {}", list.join(" "));
    }
    for (name, filter, members) in &reach.shares {
        let _ = writeln!(out, "  one of {members} of $share/{name}/{filter}");
    }
    out
}

#[cfg(test)]
mod tests {
    use tidegate_core::ids::PartitionId;

    use super::*;

    #[test]
    fn both_forms_name_every_target() {
        let reach = Reach {
            connections: 2,
            sessions: 1,
            members: vec![Member(4), Member(5)],
            partitions: vec![PartitionId(9), PartitionId(10)],
            shares: vec![("g".into(), "a/+".into(), 3)],
        };
        let name = |member: Member| (member.0 == 4).then(|| "n4".to_owned());
        let text = as_text("a/b", &reach, name);
        for wanted in ["node n4", "member 5", "partitions 9 10", "one of 3 of $share/g/a/+"] {
            assert!(text.contains(wanted), "{text}");
        }
        let value = as_value("a/b", &reach, name);
        assert_eq!(value["nodes"][0], json!({ "member": 4, "node": "n4" }));
        assert_eq!(value["partitions"], json!([9, 10]));
        assert_eq!(value["share_groups"][0]["members"], 3);
    }
}
