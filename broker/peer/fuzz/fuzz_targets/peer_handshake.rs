//! The handshake, either side: without the secret nobody gets in, whatever is said.
#![no_main]

use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tidegate_peer::frame::{Flags, whole};
use tidegate_peer::*;

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    let met = Acquaintances::default();
    let mut handshake = if first & 1 == 0 {
        Handshake::answer(local(), Duration::ZERO)
    } else {
        Handshake::call(local(), Duration::ZERO).0
    };
    let mut buffer = BytesMut::new();
    if first & 2 != 0 {
        // As they are.
        buffer.extend_from_slice(rest);
        rest = &[];
    }
    // Records of: type u8, length u16, body.
    while let Some((head, behind)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_le_bytes([head[1], head[2]])).min(behind.len());
        let (body, behind) = behind.split_at(len);
        rest = behind;
        buffer.extend_from_slice(&whole(head[0].into(), Flags::NONE, Lane::LINK, body));
    }
    loop {
        match handshake.receive(&mut buffer, &met) {
            Ok(Step::NeedMore(missing)) => {
                assert!(missing > 0 && missing <= 4_096 + 16);
                return;
            }
            Ok(Step::Send(bytes)) => assert!(bytes.len() <= 4_096 + 16),
            Ok(Step::Established { .. }) => panic!("somebody guessed the secret"),
            Err(failure) => {
                assert_eq!(
                    failure.send.is_none(),
                    matches!(failure.error, HandshakeError::ByPeer(_))
                );
                return;
            }
        }
    }
});

fn local() -> Local {
    let hello = Hello {
        role: Role::Member,
        proto_min: 1,
        proto_max: 1,
        features: 0b101,
        cluster: ClusterId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
        generation: 2,
        node: NodeId(2),
        store: StoreId(2),
        incarnation: 1,
        config_hash: [0; 32],
        nonce: Nonce([0x5A; 32]),
        kind: ConnectionKind::Data,
        stripe: 1,
        stripes: 2,
        session: 1,
        auth: AuthMethod::Secret,
        lane_credit: 1 << 16,
        link_credit: 1 << 20,
        lanes_max: 16,
        name: "plant".into(),
        address: String::new(),
    };
    let secret = Secret::new("a secret that nobody guesses").expect("long enough");
    Local { hello, auth: Auth::Secret(secret) }
}
