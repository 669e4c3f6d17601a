//! Gauges that foreign input must not make drift.
#![allow(missing_docs)]

mod rig;

use rig::Rig;
use tidegate_core::limits::Limits;
use tidegate_core::settings::Settings;

#[test]
fn a_release_ahead_of_a_refusal_is_not_counted_twice() {
    let limits = Limits { retained_messages_max: 0, ..Limits::default() };
    let mut rig = Rig::new(2, Settings { limits, ..Settings::default() });
    let alice = rig.open(0);
    rig.send(alice, &[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 1, b'a']);
    for id in 1..=20 {
        // Retained by this shard or the other one, and released unasked.
        rig.give(alice, &[0x35, 7, 0, 1, b'a' + id, 0, id, 0, b'x', 0x62, 2, 0, id]);
    }
    rig.run();
    let inflight = rig.node.counters.iter().map(|c| c.inflight[0].value());
    assert_eq!(inflight.fold(0, u64::wrapping_add), 0);
    assert_eq!(rig.unread(alice), 0);
}
