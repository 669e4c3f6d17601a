//! Any bytes as a PROXY header: no panic, no byte beyond the bounds, and the
//! same answer however little of what follows has come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_framing::proxy::{Parsed, V1_BYTES_MAX, V2_REST_MAX, Versions, parse};

fuzz_target!(|data: &[u8]| {
    for versions in [Versions::V1, Versions::V2, Versions::Any] {
        match parse(data, versions) {
            Ok(Parsed::Header { consumed, header }) => {
                assert!(consumed <= data.len() && consumed <= 16 + V2_REST_MAX);
                // Neither what follows nor how it was cut changes it.
                let whole = Parsed::Header { consumed, header };
                assert_eq!(parse(&data[..consumed], versions), Ok(whole));
                assert_eq!(parse(&data[..consumed - 1], versions), Ok(Parsed::Incomplete));
            }
            Ok(Parsed::Incomplete) => {
                assert!(data.len() < 16 + V2_REST_MAX);
                assert!(data.first() != Some(&b'P') || data.len() < V1_BYTES_MAX);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
