//! BND-1 and BND-2: what a client cannot make the broker keep or do.
#![allow(missing_docs)]

mod rig;

use rig::{Rig, connect};
use tidegate_core::limits::Limits;
use tidegate_core::settings::Settings;

#[test]
fn a_client_that_does_not_take_its_answers_is_not_read_and_then_closed() {
    let limits = Limits { write_buffer_bytes_max: 4_096, ..Limits::default() };
    let mut rig = Rig::new(1, Settings { limits, ..Settings::default() });
    let client = rig.open(0);
    rig.send(client, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 1, b'k']);
    rig.packets(client);
    rig.set_room(client, 0);
    for _ in 0..100_000 {
        rig.give(client, &[0xC0, 0].repeat(10));
        rig.turn(0);
        if rig.is_paused(client) {
            break;
        }
    }
    assert!(rig.is_paused(client), "no more is read than there is room to answer");
    rig.give(client, &[0xC0, 0].repeat(1_000));
    // One that goes on taking bytes, however slowly, is not dead.
    for _ in 0..5 {
        rig.advance(8_000);
        rig.set_room(client, 20);
        assert!(rig.is_open(client));
    }
    rig.set_room(client, usize::MAX);
    assert!(!rig.is_paused(client), "it is read again");
    assert!(rig.unread(client) < 2);
    rig.set_room(client, 0);
    for _ in 0..100_000 {
        rig.give(client, &[0xC0, 0].repeat(10));
        rig.turn(0);
        if rig.is_paused(client) {
            break;
        }
    }
    rig.advance(20_000);
    assert!(!rig.is_open(client), "nothing came and nothing was taken for 1.5 keep alives");
    let _ = connect(&mut rig, 0, "other", true);
}
