//! Who takes part in a run with a cluster: those of one node, and those whose
//! sessions and promises are of other kinds.

use testkit::client::Version::{self, V5, V311};

use crate::cast::{Kind, Lasting};
use crate::role::{Presence, Role, Span};
use crate::scenario::load;
use crate::stage::Stage;

/// Goes, and comes back when its will has long been due.
fn mortal(delay: u64) -> Presence {
    Presence {
        stays: Some(Span(500, 6_000)),
        away: Span(delay * 1_000 + 14_000, delay * 1_000 + 18_000),
        otherwise: (10, Span(0, 500)),
        goodbyes: 20,
    }
}

/// Everyone. `rate`: messages a second of all publishers.
pub(crate) fn everyone(stage: &mut Stage, rate: u64) {
    load::everyone(stage, rate * 8 / 10);
    ephemeral(stage, rate / 10);
    shared(stage, rate / 10);
    wills(stage);
}

/// Sessions that end with their connection: two of a kind, so that they are at
/// different nodes.
fn ephemeral(stage: &mut Stage, rate: u64) {
    let filters: Vec<_> = ["t/+", "e/+"].map(|name| stage.world.cast.filter(name)).to_vec();
    for (version, qos) in [(V311, 1), (V5, 2), (V5, 1), (V311, 2), (V5, 0)] {
        for number in [1, 2] {
            let role = Role::idle().wants(&filters, qos, false);
            let id = format!("ephemeral-{number}-q{qos}-{version:?}");
            stage.enter(&id, version, Lasting::Not, None, role);
        }
    }
    let topics: Vec<_> = (0..4).map(|n| stage.world.cast.topic(&format!("e/{n}"))).collect();
    // At QoS 2 such a publisher could not keep its promise itself.
    let mut role = Role::idle();
    role.publishing = Some(load::publishing(&topics, &[0, 1], &[Kind::Plain], (16, 300), rate));
    stage.enter("publisher-ephemeral-v5", V5, Lasting::Not, None, role);
}

/// Two share groups: one whose members all have durable sessions, one whose
/// members do not all.
fn shared(stage: &mut Stage, rate: u64) {
    let groups = [
        ("$share/lasting/s/+", [Lasting::Always, Lasting::Always, Lasting::Always]),
        ("$share/mixed/s/+", [Lasting::Always, Lasting::Not, Lasting::Not]),
    ];
    for (filter, members) in groups {
        let filter = stage.world.cast.filter(filter);
        for (number, lasting) in members.into_iter().enumerate() {
            let role = Role::idle().wants(&[filter], 2, false);
            stage.enter(&format!("member-{}-{number}", filter.0), V5, lasting, None, role);
        }
    }
    let topics: Vec<_> = (0..4).map(|n| stage.world.cast.topic(&format!("s/{n}"))).collect();
    for (version, qos) in [(V5, 1), (V311, 2)] {
        let plain = load::publishing(&topics, &[qos], &[Kind::Plain], (16, 300), rate / 2);
        load::publisher(stage, &format!("publisher-shared-q{qos}"), version, plain);
    }
}

/// Wills of clients that stay away until a cluster must have noticed.
fn wills(stage: &mut Stage) {
    for (number, version, delay) in [(4, V311, 0), (5, V5, 0), (6, V5, 2), (7, V311, 0)] {
        let version: Version = version;
        let topic = stage.world.cast.topic(&format!("w/{number}"));
        let mut role = Role::idle().present(mortal(u64::from(delay)));
        (role.will, role.retires) = (Some((topic, delay)), true);
        let lasting = if number % 2 == 0 { Lasting::Always } else { Lasting::Not };
        stage.enter(&format!("mortal-{number}"), version, lasting, None, role);
    }
}
