//! Who a message is, carried in its own payload.
//!
//! A ledger that trusted packet ids or arrival order would believe the broker
//! it examines. So each publish carries 32 bytes that say which run, which
//! publisher and which message it is and when it was due, with a checksum that
//! tells a damaged message from a foreign one. The rest of a payload is filler.

use tidegate_codec::QoS;

/// Bytes an identity takes at the front of a payload; no payload is smaller.
pub const IDENTITY_BYTES: usize = 32;

/// The first three bytes of every payload of ours; the fourth is the QoS.
const MAGIC: [u8; 3] = *b"TGL";

/// One message of one run.
///
/// Sequences count from 0 without a gap, apart for each publisher and QoS: a
/// missing number is a missing message.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Identity {
    /// Drawn once a run, so that retained and queued leftovers of another run
    /// are known for what they are.
    pub run: u32,
    /// The publisher, unique over all workers.
    pub publisher: u32,
    /// The QoS it was published with; the delivered QoS may be lower.
    pub qos: QoS,
    /// Its place among this publisher's messages of this QoS.
    pub sequence: u64,
    /// When the schedule wanted it sent, in nanoseconds since the run's epoch,
    /// which all workers share. Latency counts from here, not from the send,
    /// so that a stalled broker can't slow its own examination down.
    pub due_ns: u64,
}

impl Identity {
    /// The 32 bytes to put at the front of the payload.
    pub fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[0..3].copy_from_slice(&MAGIC);
        bytes[3] = self.qos as u8;
        bytes[4..8].copy_from_slice(&self.run.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.publisher.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.due_ns.to_le_bytes());
        let sum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Writes the identity over the front of `payload`.
    ///
    /// # Panics
    /// If `payload` is shorter than [`IDENTITY_BYTES`], which the plan of a run
    /// refuses at the edge.
    pub fn write(&self, payload: &mut [u8]) {
        payload[..IDENTITY_BYTES].copy_from_slice(&self.encode());
    }

    /// Reads the identity at the front of a delivered payload.
    pub fn decode(payload: &[u8]) -> Result<Self, IdentityError> {
        let Some(bytes) = payload.first_chunk::<IDENTITY_BYTES>() else {
            return Err(IdentityError::TooShort { got: payload.len() });
        };
        if bytes[0..3] != MAGIC {
            return Err(IdentityError::Foreign);
        }
        let claimed = u32_at(bytes, 12);
        let found = checksum(bytes);
        if claimed != found {
            return Err(IdentityError::Damaged { claimed, found });
        }
        let qos = QoS::try_from(bytes[3]).map_err(|got| IdentityError::BadQos { got })?;
        Ok(Self {
            run: u32_at(bytes, 4),
            publisher: u32_at(bytes, 8),
            qos,
            sequence: u64_at(bytes, 16),
            due_ns: u64_at(bytes, 24),
        })
    }
}

/// A payload that names no message of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentityError {
    /// No room for an identity: someone else's message, or one cut short.
    #[error("a payload of {got} bytes holds no identity of {IDENTITY_BYTES}")]
    TooShort {
        /// The payload's length.
        got: usize,
    },
    /// Another program's message.
    #[error("not a payload of this harness")]
    Foreign,
    /// One of ours that was changed on its way: the broker's fault.
    #[error("identity damaged: it claims checksum {claimed:#010x}, its bytes give {found:#010x}")]
    Damaged {
        /// The checksum in the payload.
        claimed: u32,
        /// The checksum of the payload's bytes.
        found: u32,
    },
    /// A checksum that holds over a QoS that doesn't exist: the harness's fault.
    #[error("identity names QoS {got}")]
    BadQos {
        /// The byte found.
        got: u8,
    },
}

/// All words but the checksum's own, each mixed in by a product that loses nothing, and folded to
/// 32 bits. Byte by byte it would be a tenth of what a message costs here.
fn checksum(bytes: &[u8; IDENTITY_BYTES]) -> u32 {
    let words =
        [u64_at(bytes, 0), u64::from(u32_at(bytes, 8)), u64_at(bytes, 16), u64_at(bytes, 24)];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for word in words {
        hash = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        hash ^= hash >> 32;
    }
    // Its upper half is in its lower half.
    hash as u32
}

fn u32_at(bytes: &[u8; IDENTITY_BYTES], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8; IDENTITY_BYTES], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sequence: u64) -> Identity {
        Identity {
            run: 0xdead_beef,
            publisher: 70_000,
            qos: QoS::ExactlyOnce,
            sequence,
            due_ns: 1 << 40,
        }
    }

    #[test]
    fn an_identity_survives_its_payload() {
        let mut payload = [7; 64];
        for sequence in [0, 1, u64::from(u32::MAX) + 1, u64::MAX] {
            message(sequence).write(&mut payload);
            assert_eq!(Identity::decode(&payload), Ok(message(sequence)));
        }
        assert_eq!(payload[IDENTITY_BYTES..], [7; 32], "the filler is left alone");
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let sound = message(42).encode();
        for bit in 0..IDENTITY_BYTES * 8 {
            let mut damaged = sound;
            damaged[bit / 8] ^= 1 << (bit % 8);
            let got = Identity::decode(&damaged);
            if bit < 24 {
                assert_eq!(got, Err(IdentityError::Foreign), "bit {bit}");
            } else {
                assert!(matches!(got, Err(IdentityError::Damaged { .. })), "bit {bit}: {got:?}");
            }
        }
    }

    #[test]
    fn a_short_payload_holds_no_identity() {
        assert_eq!(
            Identity::decode(&message(1).encode()[..31]),
            Err(IdentityError::TooShort { got: 31 })
        );
    }

    #[test]
    fn another_programs_payload_is_foreign() {
        assert_eq!(Identity::decode(&[0x20; 40]), Err(IdentityError::Foreign));
    }
}
