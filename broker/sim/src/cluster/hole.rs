//! Known holes of such designs that can be switched on, so that the checkers are
//! checked (CLUSTER.md, section 10).

/// One of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hole {
    /// What is acknowledged is not committed yet.
    AckBeforeCommit,
    /// Each node keeps the retained message that reached it last.
    RetainedLastWriter,
    /// What came in at QoS 2 is known to the node of the connection alone.
    LocalQos2,
    /// The packet id of a QoS 2 delivery is used again before its end is kept.
    EarlyPacketId,
    /// What a partition sends out is numbered by whoever leads it.
    LanesByIncarnation,
    /// Publishes are acknowledged whatever the leases of routes say.
    RoutesWithoutLease,
    /// The time of a read is taken before it.
    CachedNow,
    /// Votes are kept apart from the log, and count as syncs of it.
    VotesOutside,
    /// That a node has gone, or another has taken its place, is not told to
    /// partitions.
    NoNodeGone,
    /// A node whose disk was lost takes itself for the one that it was.
    WipedVotes,
    /// The second subscriber of a filter is answered before the others know it.
    SecondSubscriber,
}

impl Hole {
    /// All of them with their names.
    pub const ALL: [(&'static str, Hole); 11] = [
        ("ack-before-commit", Hole::AckBeforeCommit),
        ("retained-last-writer", Hole::RetainedLastWriter),
        ("local-qos2", Hole::LocalQos2),
        ("early-packet-id", Hole::EarlyPacketId),
        ("lanes-by-incarnation", Hole::LanesByIncarnation),
        ("routes-without-lease", Hole::RoutesWithoutLease),
        ("cached-now", Hole::CachedNow),
        ("votes-outside", Hole::VotesOutside),
        ("no-node-gone", Hole::NoNodeGone),
        ("wiped-votes", Hole::WipedVotes),
        ("second-subscriber", Hole::SecondSubscriber),
    ];

    /// Where the core has to be wrong.
    pub(super) fn of_the_core(self) -> Option<tidegate_core::hole::Hole> {
        use tidegate_core::hole::Hole as Core;
        match self {
            Hole::RetainedLastWriter => Some(Core::RetainedLastWriter),
            Hole::LocalQos2 => Some(Core::LocalQos2),
            Hole::EarlyPacketId => Some(Core::EarlyPacketId),
            Hole::LanesByIncarnation => Some(Core::LanesByIncarnation),
            Hole::SecondSubscriber => Some(Core::SecondSubscriber),
            Hole::AckBeforeCommit
            | Hole::RoutesWithoutLease
            | Hole::CachedNow
            | Hole::VotesOutside
            | Hole::NoNodeGone
            | Hole::WipedVotes => None,
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Hole> {
        Hole::ALL.iter().find(|(known, _)| *known == name).map(|(_, hole)| *hole)
    }
}
