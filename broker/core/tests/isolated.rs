//! A node that is cut off from its cluster, or drains, sends its clients away.
#![allow(missing_docs)]

mod rig;

use rig::{Client, Rig, connect, connect_v5};
use tidegate_core::settings::Settings;
use tidegate_core::{Away, Opening, Refused};

/// A client of 5.0, one of 3.1.1, and one that has said nothing yet.
fn with_three() -> (Rig, Client, Client, Client) {
    let mut rig = Rig::new(1, Settings::default());
    let five = connect_v5(&mut rig, 0, "five", true, 60);
    let three = connect(&mut rig, 0, "three", true);
    let silent = rig.open(0);
    rig.packets(five);
    rig.packets(three);
    (rig, five, three, silent)
}

#[test]
fn clients_of_a_node_that_is_cut_off_are_told_and_nobody_new_comes_in() {
    let (mut rig, five, three, silent) = with_three();
    let now = rig.now;
    rig.shards[0].isolate(true);
    rig.shards[0].send_away(now, 2);
    rig.run();
    let gone = [five, three, silent].iter().filter(|client| !rig.is_open(**client)).count();
    assert_eq!(gone, 2, "no more than were asked for");
    rig.shards[0].send_away(now, 2);
    rig.run();
    assert_eq!(rig.sockets(), 0);
    let said = rig.packets(five);
    assert!(said.len() == 1 && said[0][0] == 0xe0 && said[0][2] == 0x9c, "{said:x?}");
    assert!(rig.packets(three).is_empty(), "before 5.0 there is no word for it");
    let refused = rig.shards[0].open_as(now, Opening::default());
    assert_eq!(refused, Err(Refused::Draining));

    rig.shards[0].isolate(false);
    let back = connect(&mut rig, 0, "three", true);
    assert_eq!(rig.packets(back), [[0x20, 2, 0, 0]]);
}

/// A Server Reference as the last of a packet's properties.
fn refers_to(packet: &[u8], address: &str) -> bool {
    let property = [&[0x1c, 0, address.len() as u8], address.as_bytes()].concat();
    packet.ends_with(&property)
}

#[test]
fn clients_of_a_node_that_drains_are_told_where_to_go() {
    let (mut rig, five, three, silent) = with_three();
    let now = rig.now;
    rig.shards[0].hand_over(now, 9);
    rig.run();
    assert_eq!(rig.sockets(), 3, "nobody has said where to");
    let references = ["b:1883".into(), "c:1883".into()];
    rig.shards[0].turn_away(Some(Away::new(false, references.into())));
    rig.shards[0].hand_over(now, 9);
    rig.run();
    assert!(!rig.is_open(five) && !rig.is_open(three));
    assert!(rig.is_open(silent), "it is told when it says CONNECT");
    let said = rig.packets(five);
    assert!(said.len() == 1 && said[0][..3] == [0xe0, said[0][1], 0x9c], "{said:x?}");
    assert!(refers_to(&said[0], "b:1883"), "{said:x?}");
    assert!(rig.packets(three).is_empty(), "before 5.0 there is no word for it");

    let five = connect_v5(&mut rig, 0, "five", true, 60);
    let said = rig.packets(five);
    assert!(said.len() == 1 && said[0][2..4] == [0, 0x9c], "{said:x?}");
    assert!(refers_to(&said[0], "c:1883"), "the other's turn: {said:x?}");
    let three = connect(&mut rig, 0, "three", true);
    assert_eq!(rig.packets(three), [[0x20, 2, 0, 3]]);

    // For good, and with nothing to tell.
    rig.shards[0].turn_away(Some(Away::new(true, [].into())));
    let five = connect_v5(&mut rig, 0, "five", true, 60);
    assert_eq!(rig.packets(five), [[0x20, 3, 0, 0x9d, 0]]);

    rig.shards[0].turn_away(None);
    let back = connect(&mut rig, 0, "three", true);
    assert_eq!(rig.packets(back), [[0x20, 2, 0, 0]]);
}
