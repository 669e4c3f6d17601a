//! Framing agrees with itself however the bytes arrive, and never looks further
//! than five bytes to refuse.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_codec::frame;

const MAX: u32 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let whole = frame(bytes, MAX);
    // A prefix either waits for more or says what the whole says.
    for cut in 0..bytes.len().min(512) {
        match frame(&bytes[..cut], MAX) {
            Ok(None) => assert!(cut < 5 || whole.is_ok()),
            decided => assert_eq!(decided, whole),
        }
    }
    if let Ok(Some(found)) = whole {
        assert!((2..=5).contains(&found.header));
        assert!(found.header <= found.total && found.total <= bytes.len());
        assert!(found.total <= MAX as usize);
    }
});
