//! Where messages of a topic go, for people.

use super::{Index, Remote};
use crate::ids::{Member, PartitionId, SessionKey};

/// Who wants the messages of a topic, by where they are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reach {
    /// Sessions of this node that end with their connection.
    pub connections: usize,
    /// Durable sessions of partitions that this node leads.
    pub sessions: usize,
    /// Nodes whose connections want it.
    pub members: Vec<Member>,
    /// Partitions that are led elsewhere, whose durable sessions want it.
    pub partitions: Vec<PartitionId>,
    /// Share groups, by name and filter, and their members; another node or
    /// partition with members counts as one.
    pub shares: Vec<(String, String, usize)>,
}

impl Index {
    /// Where a message with this topic goes from here.
    pub fn reach(&self, topic: &str) -> Reach {
        let route = self.route(topic);
        let mut reach = Reach::default();
        for group in &route.groups {
            for target in group.targets.iter() {
                let session = SessionKey {
                    shard: group.shard,
                    durable: group.durable,
                    slot: target.slot,
                    generation: target.generation,
                };
                match Remote::of(session) {
                    Some(Remote::Node(member)) => reach.members.push(member),
                    Some(Remote::Partition(partition)) => reach.partitions.push(partition),
                    None if group.durable => reach.sessions += 1,
                    None => reach.connections += 1,
                }
            }
        }
        let share = |group: &std::sync::Arc<super::ShareGroup>| {
            (group.name().to_owned(), group.filter().to_string(), group.len())
        };
        reach.shares = route.shares.iter().map(share).collect();
        reach
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ids::ShardId;
    use crate::index::{Options, Subscriber};

    fn plain(session: SessionKey) -> Subscriber {
        Subscriber { session, options: Options::new(1, false, false), subscription_id: 0 }
    }

    #[test]
    fn each_kind_of_subscriber_is_counted_where_it_is() {
        let index = Index::new(7);
        let filter: Arc<str> = "a/+".into();
        for (slot, durable) in [(1, false), (2, false), (3, true)] {
            let session = SessionKey { shard: ShardId(0), durable, slot, generation: 1 };
            index.subscribe(&filter, plain(session));
        }
        index.set_remote(Remote::Node(Member(4)), "a/b", Some(0));
        index.set_remote(Remote::Partition(PartitionId(9)), "a/#", Some(0));
        let expected = Reach {
            connections: 2,
            sessions: 1,
            members: vec![Member(4)],
            partitions: vec![PartitionId(9)],
            shares: Vec::new(),
        };
        assert_eq!(index.reach("a/b"), expected);
        assert_eq!(index.reach("b"), Reach::default());
    }
}
