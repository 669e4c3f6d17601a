//! The manifest: where recovery begins.
//!
//! ```text
//! magic [8] | version u32 | length u32 | store u128 | first u64 | durable u64
//! | count u32
//! | count x { partition u16, snapshot u64, compacted u64 } | owner len u32 | owner | crc u32
//! ```
//!
//! Little endian; `length` is of the whole file. Replaced as a whole: written
//! beside, synced, renamed, and the directory synced.

use crate::limits::{MANIFEST_BYTES_MAX, PARTITIONS_MAX};
use crate::position::Position;
use crate::record::{u32_at, u64_at};
use crate::segment::{FORMAT, HeaderError};

/// Its name in the log's directory.
pub const MANIFEST_NAME: &str = "manifest";

/// The name it is written under before it counts.
pub const MANIFEST_NAME_NEW: &str = "manifest.new";

/// The first eight bytes.
pub const MANIFEST_MAGIC: [u8; 8] = *b"TGman\r\n\x1a";

const FIXED_BYTES: usize = 52;
const POINT_BYTES: usize = 18;

/// Where each partition's recovery begins, and what the owner wants to know.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Manifest {
    /// The log begins here; files below are leftovers. The log's own.
    pub first: Position,
    /// What was durable when this was written: a log that ends before it has
    /// lost something. The log's own.
    pub durable: Position,
    /// At most [`PARTITIONS_MAX`], by partition.
    pub partitions: Vec<PartitionPoint>,
    /// The owner's.
    pub owner: Vec<u8>,
}

/// Where a partition's recovery begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PartitionPoint {
    /// Whose.
    pub partition: u16,
    /// Where its newest complete snapshot begins.
    pub snapshot: Position,
    /// The last index that the snapshot contains.
    pub compacted: u64,
}

impl Manifest {
    /// The oldest position that recovery reads from.
    pub fn replay_from(&self) -> Position {
        self.partitions.iter().map(|point| point.snapshot).min().unwrap_or(self.first)
    }

    /// The bytes of the file.
    pub fn encode(&self, store: u128) -> Vec<u8> {
        let length = FIXED_BYTES + self.partitions.len() * POINT_BYTES + 4 + self.owner.len() + 4;
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&MANIFEST_MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&store.to_le_bytes());
        out.extend_from_slice(&self.first.0.to_le_bytes());
        out.extend_from_slice(&self.durable.0.to_le_bytes());
        out.extend_from_slice(&(self.partitions.len() as u32).to_le_bytes());
        for point in &self.partitions {
            out.extend_from_slice(&point.partition.to_le_bytes());
            out.extend_from_slice(&point.snapshot.0.to_le_bytes());
            out.extend_from_slice(&point.compacted.to_le_bytes());
        }
        out.extend_from_slice(&(self.owner.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.owner);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the whole file, and the store that it belongs to.
    pub fn decode(bytes: &[u8]) -> Result<(Self, u128), HeaderError> {
        Self::decode_known(bytes)?.ok_or(HeaderError::Damaged)
    }

    fn decode_known(bytes: &[u8]) -> Result<Option<(Self, u128)>, HeaderError> {
        if bytes.len() < FIXED_BYTES + 8
            || bytes.len() as u64 > MANIFEST_BYTES_MAX
            || bytes[..8] != MANIFEST_MAGIC
        {
            return Ok(None);
        }
        let body = &bytes[..bytes.len() - 4];
        if crc32c::crc32c(body) != u32_at(bytes, body.len()) {
            return Ok(None);
        }
        match u32_at(body, 8) {
            FORMAT => {}
            0 => return Ok(None),
            found => return Err(HeaderError::Newer { found }),
        }
        let store = u128::from_le_bytes(body[16..32].try_into().expect("sixteen bytes"));
        let count = u32_at(body, 48) as usize;
        let points = FIXED_BYTES + count * POINT_BYTES;
        if u32_at(body, 12) as usize != bytes.len() || count > PARTITIONS_MAX {
            return Ok(None);
        }
        if body.len() < points + 4 || u32_at(body, points) as usize != body.len() - points - 4 {
            return Ok(None);
        }
        let point = |chunk: &[u8]| PartitionPoint {
            partition: u16::from_le_bytes([chunk[0], chunk[1]]),
            snapshot: Position(u64_at(chunk, 2)),
            compacted: u64_at(chunk, 10),
        };
        let manifest = Self {
            first: Position(u64_at(body, 32)),
            durable: Position(u64_at(body, 40)),
            partitions: body[FIXED_BYTES..points].chunks_exact(POINT_BYTES).map(point).collect(),
            owner: body[points + 4..].to_vec(),
        };
        Ok(Some((manifest, store)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let point =
            |partition, at| PartitionPoint { partition, snapshot: Position(at), compacted: 9 };
        Manifest {
            first: Position(4),
            durable: Position(1000),
            partitions: vec![point(0, 900), point(63, 700)],
            owner: b"mine".to_vec(),
        }
    }

    #[test]
    fn a_manifest_reads_back_and_every_change_is_noticed() {
        let bytes = sample().encode(8);
        assert_eq!(Manifest::decode(&bytes), Ok((sample(), 8)));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Manifest::decode(&bad), Err(HeaderError::Damaged), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..len]), Err(HeaderError::Damaged), "cut to {len}");
        }
    }

    #[test]
    fn recovery_begins_at_the_oldest_snapshot() {
        assert_eq!(sample().replay_from(), Position(700));
        let none = Manifest { first: Position(4), ..Manifest::default() };
        assert_eq!(none.replay_from(), Position(4));
    }
}
