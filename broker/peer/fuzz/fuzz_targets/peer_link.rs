//! An open connection: frames with right checksums and any headers, on a link
//! of any kind; whatever it takes stays within its bounds.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use tidegate_peer::frame::{Flags, whole};
use tidegate_peer::*;

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, mut rest)) = bytes.split_first() else { return };
    let kind = [ConnectionKind::Control, ConnectionKind::Data, ConnectionKind::Bulk];
    let mut link = Link::new(&established(kind[usize::from(first) % 3]));
    let mut buffer = BytesMut::new();
    // Records of: type u16, flags u8, lane class u8, lane number u8, length u16, body.
    while let Some((head, behind)) = rest.split_first_chunk::<7>() {
        let len = usize::from(u16::from_le_bytes([head[5], head[6]])).min(behind.len());
        let (body, behind) = behind.split_at(len);
        rest = behind;
        let code = u16::from_le_bytes([head[0], head[1]]);
        let flags = Flags::from_bits(u16::from(head[2] & 0b111)).expect("defined");
        let lane = Lane::from_u32(u32::from(head[3]) << 24 | u32::from(head[4]));
        buffer.extend_from_slice(&whole(code, flags, lane, body));
        loop {
            match link.receive(&mut buffer) {
                Ok(Received::NeedMore(missing)) => {
                    assert!(missing > 0 && buffer.is_empty());
                    break;
                }
                Ok(Received::Message { lane, message, charge }) => {
                    assert!(link.waiting_on(lane) <= (1 << 16) + (16 << 20));
                    assert!(link.waiting() <= (1 << 20) + (16 << 20));
                    if charge % 2 == 0 {
                        link.release(lane, charge);
                    }
                    // What can be received can be sent.
                    link.send(lane, &message).or_else(full).expect("in its place");
                }
                Ok(Received::Goodbye(_)) => return,
                Err(error) => {
                    let mut out = Vec::new();
                    while link.pull(FRAME_BYTES_MAX, &mut out) > 0 {}
                    let goodbye: Bytes = out.concat().into();
                    let goodbye = Goodbye::decode(&goodbye.slice(16..)).expect("a Goodbye");
                    assert_eq!(goodbye.reason(), Some(error.reason()));
                    return;
                }
            }
        }
        assert!(link.pull(FRAME_BYTES_MAX, &mut Vec::new()) <= FRAME_BYTES_MAX);
    }
});

fn full(error: SendError) -> Result<(), SendError> {
    match error {
        SendError::Full { .. } | SendError::TooManyLanes(_) => Ok(()),
        SendError::TooLarge { .. } | SendError::Misplaced | SendError::Ending => Err(error),
    }
}

fn established(kind: ConnectionKind) -> Established {
    let peer = Hello {
        role: Role::Member,
        proto_min: 1,
        proto_max: 1,
        features: 0,
        cluster: ClusterId(1),
        generation: 1,
        node: NodeId(2),
        store: StoreId(2),
        incarnation: 1,
        config_hash: [0; 32],
        nonce: Nonce([2; 32]),
        kind,
        stripe: 0,
        stripes: 1,
        session: 1,
        auth: AuthMethod::Secret,
        lane_credit: 1 << 16,
        link_credit: 1 << 20,
        lanes_max: 16,
        name: String::new(),
        address: String::new(),
    };
    Established {
        peer,
        proto: 1,
        features: 0,
        is_caller: true,
        config_differs: false,
        lane_credit: 1 << 16,
        link_credit: 1 << 20,
        lanes_max: 16,
    }
}
