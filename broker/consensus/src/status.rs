//! What a group is doing, for whoever watches it.

use std::collections::BTreeMap;

use crate::log_id::LogId;

/// What this node is in a group.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Role {
    /// The group is not open here.
    #[default]
    Closed,
    /// It takes what the leader sends and does not vote.
    Learner,
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks to lead.
    Candidate,
    /// It leads.
    Leader,
}

/// A group as this node sees it. Never newer than the truth: who reads that it
/// leads may have been deposed since.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GroupStatus {
    /// The term.
    pub term: u64,
    /// Who leads in it, as far as is known.
    pub leader: Option<u64>,
    /// What this node is.
    pub role: Role,
    /// Whether this node leads and has applied the first entry of its own term,
    /// so that its state is all that was ever committed. Only then may it serve.
    pub leads: bool,
    /// Up to where entries were handed to the state machine.
    pub applied: Option<LogId>,
    /// The end of the log.
    pub last: Option<LogId>,
    /// What the snapshot holds.
    pub snapshot: Option<LogId>,
    /// Up to where entries are gone from the log.
    pub purged: Option<LogId>,
    /// Who votes: one set, or two while they change.
    pub voters: Vec<Vec<u64>>,
    /// Who takes part without a vote.
    pub learners: Vec<u64>,
    /// Whether the membership shown is committed.
    pub settled: bool,
    /// Up to where each other member's log is known to agree; of a leader only.
    pub matched: BTreeMap<u64, Option<LogId>>,
    /// Why the group ended by itself: its log or state machine failed. Other
    /// than that the group goes on until it is closed.
    pub failed: Option<String>,
}

impl GroupStatus {
    /// Entries that a member's log lacks, as far as the leader knows.
    pub fn lag(&self, member: u64) -> Option<u64> {
        let matched = self.matched.get(&member)?;
        let next = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
        Some(next(self.last).saturating_sub(next(*matched)))
    }

    /// Whether a node votes, in either set.
    pub fn is_voter(&self, node: u64) -> bool {
        self.voters.iter().any(|voters| voters.contains(&node))
    }
}
