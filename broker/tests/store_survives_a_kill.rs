//! What was acknowledged is there after `kill -9`.

mod conformance;

use conformance::*;

#[test]
fn sessions_queues_and_subscriptions_survive() {
    let mut broker = broker("");
    for v in ALL {
        let mut sleeper = sleeper_of(v).open(broker.mqtt);
        sleeper.subscribe("plant/+", 1);
        sleeper.subscribe("exact", 2);
        sleeper.leave();
        let mut publisher = Connect::new(v, "publisher").open(broker.mqtt);
        for n in 0..20 {
            publisher.publish("plant/a", 1, format!("one {n}").as_bytes());
            publisher.publish("exact", 2, format!("two {n}").as_bytes());
        }
        broker.restart();

        let mut sleeper = sleeper_of(v).open(broker.mqtt);
        assert!(v == Version::V31 || sleeper.connack.present(), "the session is there");
        for n in 0..20 {
            sleeper.hears(&format!("one {n}"));
            sleeper.hears(&format!("two {n}"));
        }
        sleeper.quiet();
        let mut publisher = Connect::new(v, "publisher").open(broker.mqtt);
        publisher.publish("plant/b", 1, b"after");
        sleeper.hears("after");
        sleeper.leave();
    }
}

#[test]
fn what_was_acknowledged_by_the_subscriber_does_not_come_again() {
    let mut broker = broker("");
    for v in ALL {
        let mut sleeper = sleeper_of(v).open(broker.mqtt);
        sleeper.subscribe("t", 2);
        let mut publisher = Connect::new(v, "publisher").open(broker.mqtt);
        publisher.publish("t", 2, b"first");
        sleeper.hears("first");
        // Its PUBCOMP is lazy: what comes after it carries it to the disk.
        publisher.publish("t", 2, b"second");
        sleeper.hears("second");
        sleeper.leave();
        publisher.publish("t", 1, b"third");
        broker.restart();

        let mut sleeper = sleeper_of(v).open(broker.mqtt);
        assert!(v == Version::V31 || sleeper.connack.present());
        sleeper.hears("third");
        sleeper.quiet();
        sleeper.leave();
    }
}

#[test]
fn a_qos_2_exchange_goes_on_where_it_was() {
    let mut broker = broker("");
    for v in ALL {
        let mut sleeper = sleeper_of(v).open(broker.mqtt);
        sleeper.subscribe("t", 2);
        sleeper.leave();
        let publisher = Connect::lasting(v, &format!("publisher {v:?}"));
        let mut out = publisher.open(broker.mqtt);
        out.send(&Publish::new("t", 2, b"once").id(7).bytes(v));
        out.expect_ack(PUBREC, 7);
        broker.restart();

        // The same packet id is the same message [MQTT-4.3.3-10].
        let mut out = publisher.open(broker.mqtt);
        assert!(v == Version::V31 || out.connack.present());
        out.send(&Publish::new("t", 2, b"once").id(7).dup().bytes(v));
        out.expect_ack(PUBREC, 7);
        out.send(&ack(PUBREL, 7));
        assert_eq!(out.expect_answer(PUBCOMP, 7), 0, "the id was known");
        let mut sleeper = sleeper_of(v).open(broker.mqtt);
        sleeper.hears("once");
        sleeper.quiet();
        sleeper.leave();
    }
}

#[test]
fn retained_messages_survive_and_so_does_their_end() {
    let mut broker = broker("");
    let mut publisher = join_at(&broker, "publisher");
    publisher.retain("stays", 1, b"value");
    publisher.retain("changes", 1, b"old");
    publisher.retain("changes", 1, b"new");
    publisher.retain("goes", 1, b"value");
    publisher.retain("goes", 1, b"");
    broker.restart();

    let mut reader = join_at(&broker, "reader");
    reader.subscribe("stays", 1);
    reader.hears("value");
    reader.subscribe("changes", 1);
    reader.hears("new");
    reader.subscribe("goes", 1);
    reader.quiet();
}

#[test]
fn a_will_is_published_by_the_broker_that_comes_back() {
    let mut broker = broker("");
    let will = Will::new("wills", b"gone").qos(1);
    let _lost = Connect::lasting(Version::V5, "mortal").will(will).open(broker.mqtt);
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.subscribe("wills", 1);
    sleeper.leave();
    broker.restart();
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.hears("gone");
}

#[test]
fn a_session_that_ends_with_its_connection_leaves_nothing_behind() {
    let mut broker = broker("");
    let records = |broker: &Broker| metric(broker, "tidegate_store_records_total");
    let before = records(&broker);
    let mut client = Connect::new(Version::V5, "ephemeral").open(broker.mqtt);
    client.subscribe("t", 1);
    client.publish("t", 0, b"x");
    client.hears("x");
    assert_eq!(records(&broker), before, "nothing was written");
    broker.restart();
    let client = Connect::new(Version::V5, "ephemeral").resume().open(broker.mqtt);
    assert!(!client.connack.present());
    assert_eq!(metric(&broker, "tidegate_store_recovery_records"), 0.0);
}

#[test]
fn with_memory_nothing_is_written_and_nothing_survives() {
    let memory = "[store]\ndurability = \"memory\"\n";
    let mut broker = broker(memory);
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.subscribe("t", 1);
    sleeper.leave();
    assert!(!broker.dir().join("data/log").exists());
    assert!(broker.says("tidegate starts").contains("memory"));
    broker.restart();
    let sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    assert!(!sleeper.connack.present());
}

#[test]
fn with_os_it_survives_the_process() {
    let mut broker = broker("[store]\ndurability = \"os\"\n");
    let mut sleeper = Connect::lasting(Version::V311, "sleeper").open(broker.mqtt);
    sleeper.subscribe("t", 1);
    sleeper.leave();
    let mut publisher = join_at(&broker, "publisher");
    publisher.publish("t", 1, b"kept");
    broker.restart();
    let mut sleeper = Connect::lasting(Version::V311, "sleeper").open(broker.mqtt);
    assert!(sleeper.connack.present());
    sleeper.hears("kept");
}

#[test]
fn another_number_of_shards_finds_everything() {
    let mut broker = Broker::start_with(BINARY, "[node]\nshards = 3\n", &[]);
    for n in 0..40 {
        let mut sleeper = Connect::lasting(Version::V5, &format!("sleeper {n}")).open(broker.mqtt);
        sleeper.subscribe("t", 1);
        sleeper.leave();
    }
    join_at(&broker, "publisher").publish("t", 1, b"for all");
    broker.restart_with("[node]\nshards = 2\n");
    for n in 0..40 {
        let mut sleeper = Connect::lasting(Version::V5, &format!("sleeper {n}")).open(broker.mqtt);
        assert!(sleeper.connack.present(), "sleeper {n}");
        sleeper.hears("for all");
    }
}

fn sleeper_of(version: Version) -> Connect {
    Connect::lasting(version, &format!("sleeper {version:?}"))
}

fn join_at(broker: &Broker, id: &str) -> Client {
    Connect::new(Version::V5, id).open(broker.mqtt)
}

fn metric(broker: &Broker, name: &str) -> f64 {
    let (_, text) = broker.get("/metrics");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the metric is there");
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

#[test]
fn an_acknowledgement_is_written_soon_though_nothing_else_happens() {
    let mut broker = broker("");
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.subscribe("t", 1);
    sleeper.leave();
    Connect::new(Version::V5, "publisher").open(broker.mqtt).publish("t", 1, b"once");
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.hears("once");
    sleeper.leave();
    pause(300); // six times as long as it may lie
    broker.restart();
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    assert!(sleeper.connack.present());
    sleeper.quiet();
}
