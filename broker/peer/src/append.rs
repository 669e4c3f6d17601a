//! Raft's replication: `Append` and its answer.
//!
//! An entry's data is the log's own bytes: it is sent as the shared log holds
//! it, and what arrives is written as it came.

use bytes::Bytes;

use crate::body::Body;
use crate::ids::{Group, LogId, Vote};
use crate::layout::{BodyError, Opened, Row, Writer, flag};
use crate::limits::ENTRIES_MAX;

const VOTE_COMMITTED: u8 = 1 << 0;
const PREV: u8 = 1 << 1;
const COMMIT: u8 = 1 << 2;
const MATCHED: u8 = 1 << 1;

/// What a leader says with every entry, and alone as a heartbeat.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lead {
    /// Of which group.
    pub group: Group,
    /// Repeated in the answer; the sender's to choose.
    pub request: u64,
    /// By which vote it leads.
    pub vote: Vote,
    /// The entry before those sent; none: they begin at index 0.
    pub prev: Option<LogId>,
    /// What is committed; none: nothing.
    pub commit: Option<LogId>,
}

impl Lead {
    pub(crate) fn flags(&self) -> u8 {
        flag(self.vote.committed, VOTE_COMMITTED)
            | flag(self.prev.is_some(), PREV)
            | flag(self.commit.is_some(), COMMIT)
    }

    /// Writes vote, prev and commit: 64 bytes.
    pub(crate) fn write_places(&self, out: &mut Writer) {
        out.u64(self.vote.term);
        out.u64(self.vote.node);
        write_log_id(out, self.prev);
        write_log_id(out, self.commit);
    }

    /// Reads a row of `flags u8` at 4, `request` at 8, and the places at 16.
    pub(crate) fn from_row<const N: usize>(row: &Row<'_, N>) -> Self {
        let flags = row.u8(4);
        Self {
            group: Group(row.u32(0)),
            request: row.u64(8),
            vote: Vote {
                term: row.u64(16),
                node: row.u64(24),
                committed: flags & VOTE_COMMITTED != 0,
            },
            prev: (flags & PREV != 0).then(|| log_id(row, 32)),
            commit: (flags & COMMIT != 0).then(|| log_id(row, 56)),
        }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EntryKind {
    /// Nothing; a new leader's first.
    Blank = 0,
    /// A batch of records.
    Normal = 1,
    /// A change of the group's members.
    Membership = 2,
}

impl EntryKind {
    fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Blank),
            1 => Ok(Self::Normal),
            2 => Ok(Self::Membership),
            got => Err(BodyError::Value { what: "an entry's kind", got: got.into() }),
        }
    }
}

/// An entry. Its index is its place in the Append.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The term of the leader that wrote it.
    pub term: u64,
    /// That leader.
    pub node: u64,
    /// What it is.
    pub kind: EntryKind,
    /// As in the log.
    pub data: Bytes,
}

/// Entries for one group's log: behind `lead.prev`, without a gap.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Append {
    /// Who leads, and how far the log is committed.
    pub lead: Lead,
    /// At most `ENTRIES_MAX`.
    pub entries: Vec<Entry>,
}

impl Append {
    const HEADER: usize = 88;
    const ENTRY: usize = 24;

    /// The body; the data of the entries is shared.
    ///
    /// # Panics
    /// With more than `ENTRIES_MAX` entries.
    pub fn encode(&self) -> Body {
        assert!(self.entries.len() <= ENTRIES_MAX, "the caller bounds its batches");
        let lead = &self.lead;
        let mut out = Writer::new(1, lead.flags());
        out.u32(lead.group.0);
        out.u64(lead.request);
        lead.write_places(&mut out);
        out.count(self.entries.len());
        out.u32(0);
        for entry in &self.entries {
            out.u64(entry.term);
            out.u64(entry.node);
            out.count(entry.data.len());
            out.u8(entry.kind as u8);
            out.zeros(3);
        }
        out.header_ends();
        let mut body = Body::from(out.finish());
        self.entries.iter().for_each(|entry| body.push(entry.data.clone()));
        body
    }

    /// Reads a body; the data of the entries is shared with it.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let flags = open.fourth;
        let group = Group(open.u32()?);
        let request = open.u64()?;
        let vote = read_vote(&mut open, flags)?;
        let prev = read_log_id(&mut open, flags & PREV != 0)?;
        let commit = read_log_id(&mut open, flags & COMMIT != 0)?;
        let count = open.count("entries", ENTRIES_MAX)?;
        open.u32()?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let row = open.block::<{ Self::ENTRY }>()?;
            let row = Row(&row);
            let kind = EntryKind::from_code(row.u8(20))?;
            let data = open.part(row.u32(16) as usize, "an entry")?;
            entries.push(Entry { term: row.u64(0), node: row.u64(8), kind, data });
        }
        open.ends()?;
        Ok(Self { lead: Lead { group, request, vote, prev, commit }, entries })
    }
}

/// How an Append ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub enum AppendOutcome {
    /// All of it is on disk.
    #[default]
    Taken = 0,
    /// It is up to `matched`; the rest is wanted again.
    Partly = 1,
    /// The log has no such `prev`; `matched` is what to try next.
    Conflict = 2,
    /// `vote` is newer than the leader's.
    HigherVote = 3,
}

impl AppendOutcome {
    pub(crate) fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Taken),
            1 => Ok(Self::Partly),
            2 => Ok(Self::Conflict),
            3 => Ok(Self::HigherVote),
            got => Err(BodyError::Value { what: "an Append's outcome", got: got.into() }),
        }
    }
}

/// The answer to an Append, and to a heartbeat.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AppendAck {
    /// Of which group.
    pub group: Group,
    /// From the Append.
    pub request: u64,
    /// The follower's vote.
    pub vote: Vote,
    /// Up to where the log agrees with the leader's; none: nothing known.
    pub matched: Option<LogId>,
    /// How it ended.
    pub outcome: AppendOutcome,
}

impl AppendAck {
    const HEADER: usize = 64;

    pub(crate) fn flags(&self) -> u8 {
        flag(self.vote.committed, VOTE_COMMITTED) | flag(self.matched.is_some(), MATCHED)
    }

    /// Writes vote and matched: 40 bytes.
    pub(crate) fn write_places(&self, out: &mut Writer) {
        out.u64(self.vote.term);
        out.u64(self.vote.node);
        write_log_id(out, self.matched);
    }

    /// Reads a row of `flags u8, outcome u8` at 4, `request` at 8, places at 16.
    pub(crate) fn from_row<const N: usize>(row: &Row<'_, N>) -> Result<Self, BodyError> {
        let flags = row.u8(4);
        Ok(Self {
            group: Group(row.u32(0)),
            request: row.u64(8),
            vote: Vote {
                term: row.u64(16),
                node: row.u64(24),
                committed: flags & VOTE_COMMITTED != 0,
            },
            matched: (flags & MATCHED != 0).then(|| log_id(row, 32)),
            outcome: AppendOutcome::from_code(row.u8(5))?,
        })
    }

    /// The body.
    pub fn encode(&self) -> Body {
        let mut out = Writer::new(1, self.flags());
        out.u32(self.group.0);
        out.u64(self.request);
        self.write_places(&mut out);
        out.u8(self.outcome as u8);
        out.zeros(7);
        out.header_ends();
        out.finish().into()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let flags = open.fourth;
        let group = Group(open.u32()?);
        let request = open.u64()?;
        let vote = read_vote(&mut open, flags)?;
        let matched = read_log_id(&mut open, flags & MATCHED != 0)?;
        let outcome = AppendOutcome::from_code(open.u8()?)?;
        open.ends()?;
        Ok(Self { group, request, vote, matched, outcome })
    }
}

fn read_vote(open: &mut Opened<'_>, flags: u8) -> Result<Vote, BodyError> {
    let (term, node) = (open.u64()?, open.u64()?);
    Ok(Vote { term, node, committed: flags & VOTE_COMMITTED != 0 })
}

fn read_log_id(open: &mut Opened<'_>, is_there: bool) -> Result<Option<LogId>, BodyError> {
    let id = LogId { term: open.u64()?, node: open.u64()?, index: open.u64()? };
    Ok(is_there.then_some(id))
}

fn write_log_id(out: &mut Writer, id: Option<LogId>) {
    let id = id.unwrap_or_default();
    out.u64(id.term);
    out.u64(id.node);
    out.u64(id.index);
}

fn log_id<const N: usize>(row: &Row<'_, N>, at: usize) -> LogId {
    LogId { term: row.u64(at), node: row.u64(at + 8), index: row.u64(at + 16) }
}
