//! What two nodes say to each other about routes, as bytes (version 1).
//!
//! One [`Word`] is one body on the link's stream, which keeps the order. Each of
//! the two sends its own stream of changes and answers the other's.

use super::Change;
use super::announcer::Batch;
use crate::ids::PartitionId;
use crate::limits::{FILTER_BYTES_MAX, PARTITIONS_MAX, ROUTE_BATCH_DECODED_MAX};
use crate::wire::{DecodeError, Reader, Writer};

/// One of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Word {
    /// The link is new, or something was missing: the receiver's stream is to
    /// begin behind this number, or with everything.
    Attach {
        /// What the sender has of it.
        have: Option<u64>,
    },
    /// Changes of the sender.
    Batch(Batch),
    /// The sender has applied the receiver's changes up to this number.
    Ack(u64),
    /// The sender asks for the lease on the receiver's routes.
    Ping(u64),
    /// It is granted.
    Pong {
        /// Of the ping.
        request: u64,
        /// The number of the granter's newest change.
        newest: u64,
    },
}

const VERSION: u8 = 1;

/// The kinds of words.
mod kind {
    pub(super) const ATTACH: u8 = 1;
    pub(super) const SNAPSHOT: u8 = 2;
    pub(super) const INCREMENTS: u8 = 3;
    pub(super) const ACK: u8 = 4;
    pub(super) const PING: u8 = 5;
    pub(super) const PONG: u8 = 6;
}

/// The kinds of changes.
mod tag {
    pub(super) const NODE_ADD: u8 = 1;
    pub(super) const NODE_REMOVE: u8 = 2;
    pub(super) const BEGIN: u8 = 3;
    pub(super) const ADD: u8 = 4;
    pub(super) const REMOVE: u8 = 5;
    pub(super) const COMPLETE: u8 = 6;
}

impl Word {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(VERSION);
        match self {
            Word::Attach { have } => {
                w.u8(kind::ATTACH);
                option(&mut w, *have);
            }
            Word::Batch(Batch::Snapshot { first, last, changes }) => {
                w.u8(kind::SNAPSHOT);
                w.u8((*first).into());
                option(&mut w, *last);
                write_changes(&mut w, changes);
            }
            Word::Batch(Batch::Increments { first, changes }) => {
                w.u8(kind::INCREMENTS);
                w.u64(*first);
                write_changes(&mut w, changes);
            }
            Word::Ack(number) => {
                w.u8(kind::ACK);
                w.u64(*number);
            }
            Word::Ping(request) => {
                w.u8(kind::PING);
                w.u64(*request);
            }
            Word::Pong { request, newest } => {
                w.u8(kind::PONG);
                w.u64(*request);
                w.u64(*newest);
            }
        }
        w.0
    }

    /// The reverse.
    ///
    /// # Errors
    /// They are no word of this version: the peer is broken, or newer than it
    /// may be.
    pub fn decode(bytes: &[u8]) -> Result<Word, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(DecodeError::Version(version.into()));
        }
        let word = match r.u8("kind")? {
            kind::ATTACH => Word::Attach { have: read_option(&mut r, "have")? },
            kind::SNAPSHOT => {
                let first = r.flag("first")?;
                let last = read_option(&mut r, "last")?;
                Word::Batch(Batch::Snapshot { first, last, changes: read_changes(&mut r)? })
            }
            kind::INCREMENTS => {
                let first = r.u64("first")?;
                Word::Batch(Batch::Increments { first, changes: read_changes(&mut r)? })
            }
            kind::ACK => Word::Ack(r.u64("number")?),
            kind::PING => Word::Ping(r.u64("request")?),
            kind::PONG => Word::Pong { request: r.u64("request")?, newest: r.u64("newest")? },
            value => return Err(DecodeError::Unknown { what: "word", value: value.into() }),
        };
        r.end()?;
        Ok(word)
    }
}

fn option(w: &mut Writer, value: Option<u64>) {
    w.u8(value.is_some().into());
    if let Some(value) = value {
        w.u64(value);
    }
}

fn read_option(r: &mut Reader<'_>, what: &'static str) -> Result<Option<u64>, DecodeError> {
    Ok(if r.flag(what)? { Some(r.u64(what)?) } else { None })
}

fn write_changes(w: &mut Writer, changes: &[Change]) {
    w.count(changes.len());
    for change in changes {
        match change {
            Change::NodeAdd(filter) => {
                w.u8(tag::NODE_ADD);
                w.text(filter);
            }
            Change::NodeRemove(filter) => {
                w.u8(tag::NODE_REMOVE);
                w.text(filter);
            }
            Change::Begin { partition, index } => {
                w.u8(tag::BEGIN);
                w.u16(partition.0);
                w.u64(*index);
            }
            Change::Add { partition, index, filter } => {
                w.u8(tag::ADD);
                w.u16(partition.0);
                w.u64(*index);
                w.text(filter);
            }
            Change::Remove { partition, index, filter } => {
                w.u8(tag::REMOVE);
                w.u16(partition.0);
                w.u64(*index);
                w.text(filter);
            }
            Change::Complete { partition, index } => {
                w.u8(tag::COMPLETE);
                w.u16(partition.0);
                w.u64(*index);
            }
        }
    }
}

fn read_changes(r: &mut Reader<'_>) -> Result<Vec<Change>, DecodeError> {
    // The shortest is a filter of one byte.
    let len = r.count("changes", ROUTE_BATCH_DECODED_MAX, 4)?;
    (0..len).map(|_| read_change(r)).collect()
}

fn read_change(r: &mut Reader<'_>) -> Result<Change, DecodeError> {
    let tag = r.u8("change")?;
    Ok(match tag {
        tag::NODE_ADD => Change::NodeAdd(read_filter(r)?),
        tag::NODE_REMOVE => Change::NodeRemove(read_filter(r)?),
        tag::BEGIN => Change::Begin { partition: read_partition(r)?, index: r.u64("index")? },
        tag::ADD => {
            let (partition, index) = (read_partition(r)?, r.u64("index")?);
            Change::Add { partition, index, filter: read_filter(r)? }
        }
        tag::REMOVE => {
            let (partition, index) = (read_partition(r)?, r.u64("index")?);
            Change::Remove { partition, index, filter: read_filter(r)? }
        }
        tag::COMPLETE => Change::Complete { partition: read_partition(r)?, index: r.u64("index")? },
        value => return Err(DecodeError::Unknown { what: "change", value: value.into() }),
    })
}

fn read_partition(r: &mut Reader<'_>) -> Result<PartitionId, DecodeError> {
    let partition = r.partition()?;
    if partition.0 >= PARTITIONS_MAX {
        return Err(DecodeError::Unknown { what: "partition", value: partition.0.into() });
    }
    Ok(partition)
}

/// Well formed: the tables take any text to be that of a filter.
fn read_filter(r: &mut Reader<'_>) -> Result<Box<str>, DecodeError> {
    let text = r.text("filter", FILTER_BYTES_MAX)?;
    let good = |(at, level): (usize, &str)| match level {
        "+" => true,
        "#" => text.split('/').count() == at + 1,
        level => !level.contains(['+', '#', '\0']),
    };
    if text.is_empty() || !text.split('/').enumerate().all(good) {
        return Err(DecodeError::Contradiction("a text that is no filter"));
    }
    Ok(text.into())
}
