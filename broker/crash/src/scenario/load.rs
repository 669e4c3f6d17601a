//! The load of a run: who publishes, who listens, who comes and goes.

use std::time::Instant;

use testkit::client::Version::{self, V5, V311};

use crate::cast::{ClientId, FilterId, Kind, LONG_EXPIRY_SECONDS, Lasting, TopicId};
use crate::role::{Presence, Publishing, Role, Span};
use crate::stage::Stage;

/// Comes and goes.
const FLICKERS: Presence = Presence {
    stays: Some(Span(50, 2_500)),
    away: Span(10, 1_500),
    otherwise: (20, Span(1_000, 5_000)),
    goodbyes: 40,
};

/// Looks in for a moment.
const RARE: Presence = Presence {
    stays: Some(Span(20, 150)),
    away: Span(20_000, 60_000),
    otherwise: (10, Span(500, 2_000)),
    goodbyes: 50,
};

/// Publishers lose their sockets as well, without any kill.
const RESTLESS: Presence = Presence {
    stays: Some(Span(1_500, 9_000)),
    away: Span(0, 80),
    otherwise: (0, Span(0, 1)),
    goodbyes: 30,
};

fn name(version: Version) -> &'static str {
    if version.is_5() { "v5" } else { "v311" }
}

/// The whole company. `rate`: messages a second of all publishers.
pub(crate) fn everyone(stage: &mut Stage, rate: u64) {
    publishers(stage, rate * 7 / 10);
    subscribers(stage);
    rotating(stage);
    registers(stage, rate * 2 / 10);
    expiring(stage, rate / 10);
    wills(stage);
    brief(stage);
}

/// What a publisher publishes.
pub(crate) fn publishing(
    topics: &[TopicId],
    qos: &[u8],
    kinds: &[Kind],
    bytes: (u64, u64),
    rate: u64,
) -> Publishing {
    Publishing {
        topics: topics.to_vec(),
        qos: qos.to_vec(),
        kinds: kinds.to_vec(),
        bytes,
        rate: rate.max(1),
        window: 20,
        next: Instant::now(),
    }
}

fn topics(stage: &mut Stage, word: &str, count: u32) -> Vec<TopicId> {
    (0..count).map(|n| stage.world.cast.topic(&format!("{word}/{n}"))).collect()
}

fn filters(stage: &mut Stage, names: &[&str]) -> Vec<FilterId> {
    names.iter().map(|name| stage.world.cast.filter(name)).collect()
}

/// Plain messages to `t/0..8`, and to `d/0..6`, whose subscriptions change.
fn publishers(stage: &mut Stage, rate: u64) {
    let mut all = topics(stage, "t", 8);
    all.extend(topics(stage, "d", 6));
    for version in [V311, V5] {
        for (word, qos) in [("q1", &[1][..]), ("q2", &[2]), ("mixed", &[1, 2])] {
            let mut role = Role::idle().present(RESTLESS);
            role.publishing = Some(publishing(&all, qos, &[Kind::Plain], (16, 300), rate / 6));
            let id = format!("publisher-{word}-{}", name(version));
            stage.enter(&id, version, Lasting::Always, None, role);
        }
    }
}

/// Online, coming and going, and nearly always away; both versions and QoS.
fn subscribers(stage: &mut Stage) {
    let wild = filters(stage, &["t/+"]);
    let half = filters(stage, &["t/0", "t/1", "t/2", "t/3"]);
    let few = filters(stage, &["t/1", "t/5"]);
    for (version, qos) in [(V311, 1), (V311, 2), (V5, 1), (V5, 2)] {
        let listeners = [
            ("online", Presence::ALWAYS, &wild, None),
            ("flickers", FLICKERS, &half, Some(8)),
            ("rare", RARE, &few, Some(60)),
        ];
        for (word, presence, filters, receive_maximum) in listeners {
            let mut role = Role::idle().present(presence).wants(filters, qos, false);
            role.slow = true;
            let id = format!("{word}-q{qos}-{}", name(version));
            let receive_maximum = receive_maximum.filter(|_| version.is_5());
            stage.enter(&id, version, Lasting::Always, receive_maximum, role);
        }
    }
}

/// Subscribe, unsubscribe, subscribe again.
fn rotating(stage: &mut Stage) {
    let all = filters(stage, &["d/0", "d/1", "d/2", "d/3", "d/4", "d/5"]);
    for (version, presence) in [(V311, FLICKERS), (V5, Presence::ALWAYS)] {
        let role = Role::idle().present(presence).wants(&all, 2, true);
        stage.enter(&format!("rotating-{}", name(version)), version, Lasting::Always, None, role);
    }
}

/// Retained messages: one writer a topic.
fn registers(stage: &mut Stage, rate: u64) {
    for (version, qos) in [(V311, 1), (V311, 2), (V5, 1), (V5, 2)] {
        let word = format!("r/{}-q{qos}", name(version));
        let own = topics(stage, &word, 3);
        let kinds = [Kind::Set, Kind::Set, Kind::Set, Kind::Clear];
        let mut role = Role::idle().present(RESTLESS);
        role.publishing = Some(publishing(&own, &[qos], &kinds, (16, 300), rate / 4));
        let id = format!("writer-q{qos}-{}", name(version));
        stage.enter(&id, version, Lasting::Always, None, role);
    }
}

/// Messages that expire soon, and messages that expire much later.
fn expiring(stage: &mut Stage, rate: u64) {
    let topic = topics(stage, "x", 1);
    let kinds =
        [Kind::Expiring { seconds: 2 }, Kind::Expiring { seconds: LONG_EXPIRY_SECONDS + 7 }];
    let mut role = Role::idle().present(RESTLESS);
    role.publishing = Some(publishing(&topic, &[1, 2], &kinds, (16, 100), rate));
    stage.enter("publisher-expiring-v5", V5, Lasting::Always, None, role);
    let filter = filters(stage, &["x/0"]);
    for (word, version, presence) in
        [("flickers", V5, FLICKERS), ("rare", V5, RARE), ("rare", V311, RARE)]
    {
        let role = Role::idle().present(presence).wants(&filter, 2, false);
        let id = format!("{word}-expiring-{}", name(version));
        stage.enter(&id, version, Lasting::Always, None, role);
    }
}

/// Wills with and without a delay, and one who watches for them.
fn wills(stage: &mut Stage) {
    let wills = [("w/0", V311, 0), ("w/1", V5, 1), ("w/2", V5, 3), ("w/3", V5, 5)];
    for (topic, version, delay) in wills {
        let presence = Presence {
            stays: Some(Span(100, 1_800)),
            away: Span(u64::from(delay) * 1_000 + 3_000, u64::from(delay) * 1_000 + 7_000),
            otherwise: (35, Span(0, u64::from(delay) * 800 + 1)),
            goodbyes: 30,
        };
        let topic = stage.world.cast.topic(topic);
        let mut role = Role::idle().present(presence);
        (role.will, role.retires) = (Some((topic, delay)), true);
        let id = format!("mortal-{delay}-{}", name(version));
        stage.enter(&id, version, Lasting::Always, None, role);
    }
    let filter = filters(stage, &["w/+"]);
    let role = Role::idle().wants(&filter, 2, false);
    stage.enter("mourner-v5", V5, Lasting::Always, None, role);
}

/// Sessions that end soon after their connection.
fn brief(stage: &mut Stage) {
    for seconds in [2, 4] {
        let filter = filters(stage, &[&format!("b/{seconds}")]);
        let presence = Presence {
            stays: Some(Span(50, 600)),
            away: Span(u64::from(seconds) * 1_000 + 2_500, u64::from(seconds) * 1_000 + 5_000),
            otherwise: (50, Span(10, u64::from(seconds) * 400)),
            goodbyes: 50,
        };
        let mut role = Role::idle().present(presence).wants(&filter, 1, false);
        role.retires = true;
        stage.enter(&format!("brief-{seconds}-v5"), V5, Lasting::Seconds(seconds), None, role);
    }
}

/// One publisher alone, always there.
pub(crate) fn publisher(
    stage: &mut Stage,
    name: &str,
    version: Version,
    publishing: Publishing,
) -> ClientId {
    let mut role = Role::idle();
    role.publishing = Some(publishing);
    stage.enter(name, version, Lasting::Always, None, role)
}
