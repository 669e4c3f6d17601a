//! A node that has just started again.
#![allow(missing_docs)]

mod rig;

use rig::Rig;
use tidegate_core::settings::Settings;

const CONNACK_PRESENT: [u8; 4] = [0x20, 2, 1, 0];

#[test]
fn a_client_that_comes_before_the_restart_is_durable_is_let_in() {
    let mut rig = Rig::kept(2, Settings::default());
    rig::connect(&mut rig, 0, "alice", false);
    rig.disk.as_mut().expect("kept").held = true;
    rig.crash(2, 0);
    let alice = rig::connect(&mut rig, 1, "alice", false);
    assert_eq!(rig.packets(alice), [[0u8; 0]; 0], "nothing is durable yet");

    rig.disk.as_mut().expect("kept").held = false;
    rig.run();
    assert_eq!(rig.packets(alice), [CONNACK_PRESENT]);
}

#[test]
fn a_client_that_waited_for_a_start_to_be_durable_came_when_it_came() {
    let mut rig = Rig::kept(1, Settings::default());
    rig::connect_v5(&mut rig, 0, "alice", false, 2);
    rig.disk.as_mut().expect("kept").held = true;
    rig.crash(1, 0);
    rig.now += 3_000;
    let alice = rig::connect_v5(&mut rig, 0, "alice", false, 2);
    rig.disk.as_mut().expect("kept").held = false;
    rig.run();
    let connack = rig.packets(alice).remove(0);
    assert_eq!(connack[2], 0, "the session had ended a second before: {connack:x?}");
}
