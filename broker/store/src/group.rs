//! A commit group: what one append made durable together.
//!
//! ```text
//! magic u32 | length u32 | records u32 | flags u32 | number u64 | durable u64
//! | chain u32 | body crc u32 | header crc u32 | records
//! ```
//!
//! Little endian. Both checksums (CRC32C) start from the store's id and the
//! group's own position, which are not stored: a group that lies elsewhere, or
//! that a client sent as a payload, is none. `chain` is the header checksum of
//! the group before, so that what a cut tail once held can never follow what
//! was written over it. `durable` was durable when this group was written: a
//! valid header proves that all below was once safe on the disk.

use crate::limits::GROUP_BYTES_MAX;
use crate::record::{u32_at, u64_at};

/// Bytes of a group before its records.
pub const GROUP_HEADER_BYTES: usize = 44;

/// The first four bytes of each group.
pub const GROUP_MAGIC: u32 = u32::from_le_bytes(*b"TGcg");

/// The first group of a segment, with what is carried into it.
pub const FLAG_CARRY: u32 = 1;

/// What starts every checksum of a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Salt(u32);

impl Salt {
    /// Of the store with this id.
    pub fn new(store: u128) -> Self {
        Self(crc32c::crc32c(&store.to_le_bytes()))
    }

    fn at(self, position: u64) -> u32 {
        crc32c::crc32c_append(self.0, &position.to_le_bytes())
    }

    /// The checksum of a body that starts with these parts.
    pub(crate) fn body<'a>(self, position: u64, parts: impl Iterator<Item = &'a [u8]>) -> u32 {
        // Not the header's start: an empty body would else have a known sum.
        parts.fold(!self.at(position), crc32c::crc32c_append)
    }
}

/// The head of a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GroupHeader {
    /// Bytes of the records.
    pub length: u32,
    /// How many there are.
    pub records: u32,
    /// [`FLAG_CARRY`].
    pub flags: u32,
    /// Counts the groups of the log.
    pub number: u64,
    /// Everything below this position was durable before.
    pub durable: u64,
    /// The header checksum of the group before; 0 for the first.
    pub chain: u32,
    /// The checksum of the records.
    pub body_crc: u32,
}

impl GroupHeader {
    /// The bytes of a header at `position`, and its checksum: the next `chain`.
    pub fn encode(&self, salt: Salt, position: u64) -> ([u8; GROUP_HEADER_BYTES], u32) {
        let mut out = [0; GROUP_HEADER_BYTES];
        out[0..4].copy_from_slice(&GROUP_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..12].copy_from_slice(&self.records.to_le_bytes());
        out[12..16].copy_from_slice(&self.flags.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable.to_le_bytes());
        out[32..36].copy_from_slice(&self.chain.to_le_bytes());
        out[36..40].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(salt.at(position), &out[..40]);
        out[40..].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// Reads the header at the start of `bytes`, which lies at `position`.
    /// None: these bytes are no such header.
    pub fn decode(bytes: &[u8], salt: Salt, position: u64) -> Option<(Self, u32)> {
        if bytes.len() < GROUP_HEADER_BYTES || u32_at(bytes, 0) != GROUP_MAGIC {
            return None;
        }
        let crc = crc32c::crc32c_append(salt.at(position), &bytes[..40]);
        let header = Self {
            length: u32_at(bytes, 4),
            records: u32_at(bytes, 8),
            flags: u32_at(bytes, 12),
            number: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
            chain: u32_at(bytes, 32),
            body_crc: u32_at(bytes, 36),
        };
        let sane = u64::from(header.length) <= GROUP_BYTES_MAX && header.durable <= position;
        (crc == u32_at(bytes, 40) && sane).then_some((header, crc))
    }

    /// Bytes of the whole group.
    pub fn bytes(&self) -> u64 {
        GROUP_HEADER_BYTES as u64 + u64::from(self.length)
    }

    /// Whether `body` is what was written at `position`.
    pub fn body_matches(&self, salt: Salt, position: u64, body: &[u8]) -> bool {
        salt.body(position, std::iter::once(body)) == self.body_crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: GroupHeader = GroupHeader {
        length: 300,
        records: 2,
        flags: FLAG_CARRY,
        number: 9,
        durable: 4000,
        chain: 77,
        body_crc: 78,
    };

    #[test]
    fn a_header_is_valid_at_its_place_and_in_its_store_only() {
        let (bytes, crc) = HEADER.encode(Salt::new(5), 4096);
        assert_eq!(GroupHeader::decode(&bytes, Salt::new(5), 4096), Some((HEADER, crc)));
        assert_eq!(GroupHeader::decode(&bytes, Salt::new(5), 4097), None);
        assert_eq!(GroupHeader::decode(&bytes, Salt::new(6), 4096), None);
        assert_eq!(GroupHeader::decode(&bytes[..43], Salt::new(5), 4096), None);
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let (bytes, _) = HEADER.encode(Salt::new(5), 4096);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode(&bad, Salt::new(5), 4096), None, "bit {bit}");
        }
    }

    #[test]
    fn the_sum_of_nothing_depends_on_place_and_store() {
        let none = std::iter::empty;
        let sum = Salt::new(5).body(44, none());
        assert_ne!(sum, Salt::new(5).body(45, none()));
        assert_ne!(sum, Salt::new(6).body(44, none()));
    }
}
