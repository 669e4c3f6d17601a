//! A frame agrees with itself however its bytes come, and a length is refused
//! on four of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_peer::frame::{Parsed, header, parse};
use tidegate_peer::limits::HEADER_BYTES;

const MAX: usize = 1 << 10;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes, MAX);
    for cut in 0..bytes.len().min(2 * MAX) {
        match parse(&bytes[..cut], MAX) {
            Ok(Parsed::NeedMore(missing)) => {
                assert!(missing > 0);
                assert!(cut < 4 || !too_large(bytes));
            }
            decided => assert_eq!(decided, whole),
        }
    }
    if let Ok(Parsed::Frame(found)) = whole {
        let end = HEADER_BYTES + found.len as usize;
        let again = header(found.kind, found.flags, found.lane, [&bytes[HEADER_BYTES..end]]);
        assert_eq!(again, bytes[..HEADER_BYTES]);
    }
    // The checksum keeps nearly everything out; with a right one there is more to find.
    if let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>()
        && body.len() <= MAX
    {
        let mut frame = bytes.to_vec();
        frame[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..12]), body);
        frame[12..16].copy_from_slice(&crc.to_le_bytes());
        let is_reserved = head[6] & !0b111 != 0 || head[7] != 0;
        assert_eq!(parse(&frame, MAX).is_ok(), !is_reserved);
    }
});

fn too_large(bytes: &[u8]) -> bool {
    bytes.first_chunk::<4>().is_some_and(|len| u32::from_le_bytes(*len) as usize > MAX)
}
