//! PROXY headers: what the specification shows, and what is refused.
#![allow(missing_docs)]

use proptest::prelude::*;
use tidegate_framing::proxy::{Found, Header, Parsed, ProxyError, Versions, parse};

const START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = (rest.len() as u16).to_be_bytes();
    [START, &[command, family], &len, rest].concat()
}

fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &(value.len() as u16).to_be_bytes(), value].concat()
}

const TCP4: &[u8] = &[192, 0, 2, 7, 192, 0, 2, 8, 0x30, 0x39, 0x07, 0x5b];

/// The header of `bytes` with MQTT behind it, which has to be left alone.
fn header(bytes: &[u8]) -> Header {
    let behind = [bytes, b"\x10\x0d"].concat();
    match parse(&behind, Versions::Any) {
        Ok(Parsed::Header { consumed, header }) => {
            assert_eq!(consumed, bytes.len());
            header
        }
        other => panic!("{other:?}"),
    }
}

fn fault(bytes: &[u8]) -> ProxyError {
    parse(bytes, Versions::Any).expect_err("not a header")
}

#[test]
fn version_1_tells_both_ends() {
    let four = header(b"PROXY TCP4 192.0.2.7 192.0.2.8 12345 1883\r\n");
    assert_eq!(four.source, "192.0.2.7:12345".parse().ok());
    assert_eq!(four.destination, "192.0.2.8:1883".parse().ok());
    let six = header(b"PROXY TCP6 2001:db8::7 2001:db8::8 1 65535\r\n");
    assert_eq!(six.source, "[2001:db8::7]:1".parse().ok());
    assert_eq!(header(b"PROXY UNKNOWN\r\n"), Header::default());
    assert_eq!(header(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), Header::default());
}

#[test]
fn version_1_is_taken_by_the_letter() {
    for line in [
        "PROXY TCP4 192.0.2.7 192.0.2.8 12345\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 12345 1883 \r\n",
        "PROXY TCP4 192.0.2.7  192.0.2.8 12345 1883\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 012345 1883\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 +1 1883\r\n",
        "PROXY TCP4 192.0.2.7 192.0.2.8 65536 1883\r\n",
        "PROXY TCP4 2001:db8::7 192.0.2.8 1 1883\r\n",
        "PROXY TCP6 192.0.2.7 192.0.2.8 1 1883\r\n",
        "PROXY UDP4 192.0.2.7 192.0.2.8 1 1883\r\n",
        "PROXY \r\n",
    ] {
        assert!(matches!(fault(line.as_bytes()), ProxyError::BadText { .. }), "{line:?}");
    }
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    assert_eq!(fault(&endless), ProxyError::NoEnd);
    assert_eq!(parse(&endless[..106], Versions::Any), Ok(Parsed::Incomplete));
}

#[test]
fn version_2_tells_both_ends() {
    let four = header(&v2(0x21, 0x11, TCP4));
    assert_eq!(four.source, "192.0.2.7:12345".parse().ok());
    assert_eq!(four.destination, "192.0.2.8:1883".parse().ok());
    let mut six = vec![0; 36];
    (six[0], six[15], six[33]) = (0x20, 7, 9);
    assert_eq!(header(&v2(0x21, 0x21, &six)).source, "[2000::7]:9".parse().ok());
    assert_eq!(header(&v2(0x21, 0x31, &[0; 216])), Header::default());
    assert_eq!(header(&v2(0x21, 0x00, b"")), Header::default());
}

#[test]
fn a_health_check_is_local_whatever_it_says_of_addresses() {
    let local = Header { local: true, ..Header::default() };
    for (family, rest) in [(0x00, &b""[..]), (0x11, TCP4), (0x77, b"xyz")] {
        assert_eq!(header(&v2(0x20, family, rest)), local);
    }
}

#[test]
fn entries_tell_of_the_client_s_tls() {
    let tls = |client: u8, verify: u32| {
        let fixed = [&[client][..], &verify.to_be_bytes()].concat();
        let parts = [fixed, entry(0x21, b"TLSv1.3"), entry(0x22, b"sensor-7"), entry(0x23, b"x")];
        let rest = [TCP4, &entry(0x20, &parts.concat()), &entry(0x02, b"mqtt.example")].concat();
        header(&v2(0x21, 0x11, &rest))
    };
    let shown = tls(0x05, 0);
    assert_eq!(shown.authority.as_deref(), Some("mqtt.example"));
    let shown = shown.tls.expect("it was told");
    assert_eq!(shown.common_name.as_deref(), Some("sensor-7"));
    assert_eq!(shown.version.as_deref(), Some("TLSv1.3"));
    assert!(shown.verified);
    assert!(!tls(0x05, 1).tls.expect("told").verified, "the proxy did not find it valid");
    assert!(!tls(0x01, 0).tls.expect("told").verified, "no certificate was shown");
}

#[test]
fn a_sum_is_checked_where_there_is_one() {
    // Its own value was computed by hand with the four bytes as zero: the test
    // looks for the one that is taken, and that its neighbour is not.
    let with = |sum: u32| v2(0x21, 0x11, &[TCP4, &entry(3, &sum.to_be_bytes())].concat());
    let ProxyError::WrongSum { found: 0, right } = fault(&with(0)) else { panic!("0 is taken") };
    assert_eq!(header(&with(right)).source, "192.0.2.7:12345".parse().ok());
    assert!(matches!(fault(&with(right ^ 1)), ProxyError::WrongSum { .. }));
}

#[test]
fn what_cannot_become_a_header_is_refused_at_once() {
    let not = |bytes: &[u8]| match fault(bytes) {
        ProxyError::NotAHeader { found } => found,
        other => panic!("{other}"),
    };
    assert_eq!(not(b"\x10"), Found::Connect);
    assert_eq!(not(b"\x16\x03\x01"), Found::Tls);
    assert_eq!(not(b"G"), Found::Http);
    assert_eq!(not(b"POST"), Found::Http);
    assert_eq!(not(b"\r\n\r\n\0\r\nQUIX"), Found::Bytes { first: b'\r' });
    assert_eq!(fault(&v2(0x31, 0x11, TCP4)), ProxyError::BadCommand { byte: 0x31 });
    assert_eq!(fault(&v2(0x21, 0x41, TCP4)), ProxyError::BadFamily { byte: 0x41 });
    let short = ProxyError::TooShort { what: "addresses" };
    assert_eq!(fault(&v2(0x21, 0x11, &TCP4[1..])), short);
    assert_eq!(fault(&v2(0x21, 0x11, &[0; 5000])), ProxyError::TooLong { len: 5000 });
    let cut = [TCP4, &[0x20, 0, 9, 1]].concat();
    assert_eq!(fault(&v2(0x21, 0x11, &cut)), ProxyError::TooShort { what: "entries" });
}

#[test]
fn only_the_wanted_version_is_taken() {
    let (one, two) = (b"PROXY UNKNOWN\r\n", v2(0x20, 0, b""));
    let other = |version| Err(ProxyError::OtherVersion { version });
    assert_eq!(parse(one, Versions::V2), other(1));
    assert_eq!(parse(&two, Versions::V1), other(2));
    assert!(parse(one, Versions::V1).is_ok() && parse(&two, Versions::V2).is_ok());
}

proptest! {
    #[test]
    fn every_beginning_of_a_header_waits_for_the_rest(cut in 0usize..60) {
        for whole in [
            b"PROXY TCP4 192.0.2.7 192.0.2.8 12345 1883\r\n".to_vec(),
            v2(0x21, 0x11, &[TCP4, &entry(4, b"noop")].concat()),
        ] {
            let cut = cut.min(whole.len() - 1);
            prop_assert_eq!(parse(&whole[..cut], Versions::Any), Ok(Parsed::Incomplete));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes, Versions::Any);
        let _ = parse(&v2(0x21, 0x11, &[TCP4, &bytes].concat()), Versions::Any);
    }
}
