//! Each decoder of the store takes any bytes without a panic, and what it
//! accepts it would have written itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_store::group::{GroupHeader, Salt};
use tidegate_store::record::Records;
use tidegate_store::segment::SegmentHeader;
use tidegate_store::{Batch, Manifest, Membership, RecordRef};

fuzz_target!(|bytes: &[u8]| {
    let Some((&which, bytes)) = bytes.split_first() else { return };
    match which % 5 {
        0 => {
            if let Ok(record) = RecordRef::decode(bytes) {
                let mut batch = Batch::new();
                let RecordRef { kind, flags, partition, term, index, body } = record;
                if flags & 0x80 == 0 && body.len() <= 4096 {
                    batch.push(kind, flags, partition, term, index, |out| {
                        out.extend_from_slice(body);
                    });
                    assert_eq!(batch.bytes(), &bytes[..record.len()]);
                }
            }
            let sum: usize = Records::new(bytes).map_while(Result::ok).map(|(_, r)| r.len()).sum();
            assert!(sum <= bytes.len());
        }
        1 => {
            if let Some((header, crc)) = GroupHeader::decode(bytes, Salt::new(1), 4096) {
                let (again, chain) = header.encode(Salt::new(1), 4096);
                assert_eq!((&again[..], chain), (&bytes[..again.len()], crc));
            }
        }
        2 => {
            let _ = SegmentHeader::decode(bytes);
        }
        3 => {
            if let Ok((manifest, store)) = Manifest::decode(bytes) {
                assert_eq!(manifest.encode(store), bytes);
            }
        }
        _ => {
            if let Some(membership) = Membership::decode(bytes) {
                let mut again = Vec::new();
                membership.encode(&mut again);
                assert_eq!(again, bytes);
            }
        }
    }
});
