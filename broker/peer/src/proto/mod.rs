//! Messages in protobuf's encoding: all that is not hot.
//!
//! The structs are the schema; there is no `.proto` and no compiler for one.
//! Fields are only ever added, under numbers never used before, and one that
//! is not known is skipped: that is how versions N and N-1 understand each
//! other here. Repeated fields stand at the top level alone, so that counting
//! those before decoding bounds what decoding may allocate.

mod claim;
mod drain;
mod lease;
mod meta;
mod partition;
mod raft;
mod retained;
mod route;
mod snapshot;

use bytes::Bytes;

pub use claim::{Claim, ClaimReply, Evict, Evicted, Will};
pub use drain::{Drain, DrainProgress};
pub use lease::{LeaseGrant, LeaseRequest, NodeState};
pub use meta::{MetaDelta, MetaWatch, Register, RegisterReply};
pub use partition::{AckConfirm, Command, CommandReply, LanePosition, LaneQuery};
pub use raft::{TransferLeader, VoteReply, VoteRequest};
pub use retained::{RetainedAnswer, RetainedMessage, RetainedQuery};
pub use route::{RouteAck, RouteChange, RouteIncrement, RoutePing, RouteResume, RouteSnapshot};
pub use snapshot::{SnapshotAck, SnapshotChunk, SnapshotOffer};

use crate::layout::BodyError;
use crate::limits::{PROTO_BYTES_MAX, PROTO_FIELDS_MAX};

/// How what was asked for ended.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
pub enum Status {
    /// Not said, or in a way that this version does not know.
    Unspecified = 0,
    /// Done; where it is a record: committed.
    Done = 1,
    /// The receiver does not lead the group; another may.
    NotLeader = 2,
    /// Not now.
    Busy = 3,
    /// Never: a limit, or a rule.
    Refused = 4,
    /// The asker's generation or incarnation is over.
    Stale = 5,
    /// There is no such thing.
    Absent = 6,
}

/// Reads a message whose size and number of fields are within their bounds.
pub(crate) fn decode<M: prost::Message + Default>(body: &Bytes) -> Result<M, BodyError> {
    count(body)?;
    // From `Bytes`, so that fields of bytes share the body.
    M::decode(body.clone()).map_err(|_| BodyError::Proto("a field is not of its type"))
}

/// The body of a message.
pub(crate) fn encode<M: prost::Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

/// Walks over the top level and counts its fields; allocates nothing.
fn count(body: &[u8]) -> Result<usize, BodyError> {
    let max = PROTO_BYTES_MAX;
    if body.len() > max {
        return Err(BodyError::TooMany { what: "bytes", got: body.len(), max });
    }
    let (mut rest, mut fields) = (body, 0);
    while !rest.is_empty() {
        fields += 1;
        if fields > PROTO_FIELDS_MAX {
            let max = PROTO_FIELDS_MAX;
            return Err(BodyError::TooMany { what: "fields", got: fields, max });
        }
        let len = match varint(&mut rest)? & 7 {
            0 => {
                varint(&mut rest)?;
                0
            }
            1 => 8,
            2 => varint(&mut rest)?,
            5 => 4,
            _ => return Err(BodyError::Proto("a wire type that is not in use")),
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        rest = rest.get(len..).ok_or(BodyError::Proto("a field ends behind the body"))?;
    }
    Ok(fields)
}

fn varint(rest: &mut &[u8]) -> Result<u64, BodyError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, behind) = rest.split_first().ok_or(BodyError::Proto("a number is cut off"))?;
        *rest = behind;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BodyError::Proto("a number of more than ten bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_before_anything_is_allocated() {
        // Two bytes each on the wire: field 3, empty.
        let many = [0x1A, 0x00].repeat(PROTO_FIELDS_MAX + 1);
        let said = decode::<RouteIncrement>(&many.into()).expect_err("too many");
        let max = PROTO_FIELDS_MAX;
        assert_eq!(said, BodyError::TooMany { what: "fields", got: max + 1, max });
        let most = [0x1A, 0x00].repeat(PROTO_FIELDS_MAX);
        let taken = decode::<RouteIncrement>(&most.into()).expect("as many as allowed");
        assert_eq!(taken.changes.len(), PROTO_FIELDS_MAX);
    }

    #[test]
    fn fields_of_a_newer_version_are_skipped() {
        let mut body = encode(&RouteResume { incarnation: 3, from: 9, sent_ns: 1 }).to_vec();
        // Field 200, four bytes.
        body.extend_from_slice(&[0xC2, 0x0C, 4, 1, 2, 3, 4]);
        let taken = decode::<RouteResume>(&body.into()).expect("the rest is known");
        assert_eq!((taken.incarnation, taken.from), (3, 9));
    }

    #[test]
    fn bytes_share_the_body() {
        let chunk = SnapshotChunk { data: Bytes::from(vec![7; 1000]), ..Default::default() };
        let body = encode(&chunk);
        let taken = decode::<SnapshotChunk>(&body).expect("a chunk");
        assert!(body.as_ptr_range().contains(&taken.data.as_ptr()));
    }
}
