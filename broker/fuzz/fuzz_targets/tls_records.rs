//! A server's TLS session under any bytes, in any pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tidegate::net::tls::fuzz_records(data));
