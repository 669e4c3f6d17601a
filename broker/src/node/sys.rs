//! The `$SYS` topics: what they are called and what they say.
//!
//! The names are mosquitto's where it has one, because dashboards and scripts
//! know them. `docs/sys-topics.md` lists them all; the test below compares.
//! Published retained, each only when its value changed since the last time.

use std::time::Duration;

use tidegate_core::counters::{Count, Counters};
use tracing::warn;

use crate::shard::Shared;
use crate::shard::mailbox::Order;

/// Every topic, in the order of [`snapshot`]'s values.
pub const TOPICS: &[&str] = &[
    "$SYS/broker/version",
    "$SYS/broker/uptime",
    "$SYS/broker/clients/total",
    "$SYS/broker/clients/connected",
    "$SYS/broker/clients/disconnected",
    "$SYS/broker/messages/received",
    "$SYS/broker/messages/sent",
    "$SYS/broker/store/messages/count",
    "$SYS/broker/store/messages/bytes",
    "$SYS/broker/publish/messages/received",
    "$SYS/broker/publish/messages/sent",
    "$SYS/broker/publish/messages/dropped",
    "$SYS/broker/publish/bytes/received",
    "$SYS/broker/publish/bytes/sent",
    "$SYS/broker/bytes/received",
    "$SYS/broker/bytes/sent",
    "$SYS/broker/subscriptions/count",
    "$SYS/broker/shared_subscriptions/count",
    "$SYS/broker/retained messages/count",
    "$SYS/broker/connections/socket/count",
    "$SYS/broker/shards/count",
];

/// The value of each of [`TOPICS`], as text.
pub fn snapshot(shared: &Shared, uptime: Duration) -> Vec<String> {
    let counters = &shared.node.counters;
    let sum = |pick: &dyn Fn(&Counters) -> u64| -> u64 { counters.iter().map(pick).sum() };
    // A gauge is the difference of what two shards may have counted: it can be
    // read in between, so it never shows less than nothing.
    let gauge = |pick: &dyn Fn(&Counters) -> u64| -> u64 {
        let sum = counters.iter().map(pick).fold(0u64, u64::wrapping_add);
        if sum > i64::MAX as u64 { 0 } else { sum }
    };
    let all = |counts: &[Count]| -> u64 { counts.iter().map(Count::value).sum() };
    let packets = |table: &[[Count; 3]]| -> u64 { table.iter().map(|row| all(row)).sum() };
    let net = |pick: &dyn Fn(&crate::shard::meters::Meters) -> u64| -> u64 {
        shared.meters.iter().map(pick).sum()
    };
    let connected = gauge(&|c| c.sessions_online.value());
    let disconnected = gauge(&|c| c.sessions_offline.value());
    let [exact, wildcard, group] =
        [0, 1, 2].map(|kind: usize| gauge(&|c| c.subscriptions[kind].value()));
    let retained = gauge(&|c| c.retained_messages.value());
    vec![
        format!("tidegate version {}", env!("CARGO_PKG_VERSION")),
        format!("{} seconds", uptime.as_secs()),
        (connected + disconnected).to_string(),
        connected.to_string(),
        disconnected.to_string(),
        sum(&|c| packets(&c.packets_received)).to_string(),
        sum(&|c| packets(&c.packets_sent)).to_string(),
        (retained + gauge(&|c| c.queued_messages.value())).to_string(),
        (gauge(&|c| c.retained_bytes.value()) + gauge(&|c| c.queued_bytes.value())).to_string(),
        sum(&|c| all(&c.messages_received)).to_string(),
        sum(&|c| all(&c.messages_delivered)).to_string(),
        sum(&|c| all(&c.messages_dropped)).to_string(),
        sum(&|c| c.message_bytes_received.value()).to_string(),
        sum(&|c| c.message_bytes_sent.value()).to_string(),
        net(&|m| m.bytes_received.value()).to_string(),
        net(&|m| m.bytes_sent.value()).to_string(),
        (exact + wildcard + group).to_string(),
        group.to_string(),
        retained.to_string(),
        gauge(&|c| c.connections.value()).to_string(),
        counters.len().to_string(),
    ]
}

/// Publishes the topics whose value changed since the last call.
#[derive(Debug, Default)]
pub struct Publisher {
    last: Vec<String>,
}

impl Publisher {
    /// Gives shard 0 the order to publish what is new.
    pub fn publish(&mut self, shared: &Shared, uptime: Duration) {
        let now = snapshot(shared, uptime);
        let changed: Vec<(String, String)> = TOPICS
            .iter()
            .zip(&now)
            .enumerate()
            .filter(|(index, (_, value))| self.last.get(*index) != Some(*value))
            .map(|(_, (topic, value))| ((*topic).to_owned(), value.clone()))
            .collect();
        match shared.mailboxes[0].order(Order::PublishSystem(changed)) {
            Ok(()) => self.last = now,
            Err(_) => warn!("shard 0 does not take orders; $SYS is skipped this time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use tidegate_core::Node;
    use tidegate_core::access::Open;

    use tidegate_core::settings::Settings;

    use super::*;
    use crate::auth::Doorman;

    fn shared() -> Shared {
        let node = Node::new(Settings::default(), 2, 0, Box::new(Open));
        let doorman = Doorman::open(&Default::default()).expect("nothing to read");
        Shared::new(node, Vec::new(), Arc::new(doorman)).expect("two eventfds")
    }

    fn published(shared: &Shared) -> Vec<(String, String)> {
        match shared.mailboxes[0].next_order() {
            Some(Order::PublishSystem(topics)) => topics,
            other => panic!("not a publication: {other:?}"),
        }
    }

    #[test]
    fn values_are_summed_over_the_shards() {
        let shared = shared();
        shared.node.counters[0].sessions_online.set(3);
        shared.node.counters[1].sessions_online.set(4);
        let values = snapshot(&shared, Duration::from_secs(9));
        assert_eq!(values.len(), TOPICS.len());
        let value = |topic| {
            let index = TOPICS.iter().position(|t| *t == topic).expect("a topic");
            values[index].as_str()
        };
        assert_eq!(value("$SYS/broker/clients/connected"), "7");
        assert_eq!(value("$SYS/broker/uptime"), "9 seconds");
    }

    #[test]
    fn only_changes_are_published_again() {
        let shared = shared();
        let mut publisher = Publisher::default();
        publisher.publish(&shared, Duration::ZERO);
        assert_eq!(published(&shared).len(), TOPICS.len());
        publisher.publish(&shared, Duration::from_secs(1));
        let again = published(&shared);
        assert_eq!(again, [("$SYS/broker/uptime".to_owned(), "1 seconds".to_owned())]);
    }

    #[test]
    fn the_manual_lists_every_topic_and_no_other() {
        let manual = include_str!("../../../docs/sys-topics.md");
        let listed: Vec<&str> = manual
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .filter_map(|line| line.split('`').next())
            .collect();
        assert_eq!(listed, TOPICS);
    }
}
