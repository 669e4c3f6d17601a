//! A shard between its sockets: the core's cost of an event, without system calls.
//!
//! `cargo bench -p benches --bench shard`. Times are for one event (a message
//! from its PUBLISH to its last acknowledgement, a delivery, a connection).
#![allow(missing_docs)]

mod rig;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rig::{Rig, acks, connect, each, publish};

/// Messages read at once.
const BATCH: u16 = 16;

fn messages(c: &mut Criterion) {
    let mut group = c.benchmark_group("message");
    group.bench_function("qos0_1to1_batch16", |b| {
        let mut rig = Rig::new();
        let subscriber = rig.subscriber("s", true, 0);
        let publisher = rig.connect("p", true);
        let batch = publish(0, BATCH);
        each(b, BATCH.into(), || {
            rig.give(publisher, black_box(&batch));
            rig.turn();
            assert_eq!(rig.sent(subscriber).len(), batch.len());
            rig.sent(subscriber).clear();
        });
    });
    group.bench_function("qos1_1to1_batch16", |b| {
        let mut rig = Rig::new();
        let subscriber = rig.subscriber("s", true, 1);
        let publisher = rig.connect("p", true);
        let batch = publish(1, BATCH);
        let mut answers = Vec::new();
        each(b, BATCH.into(), || {
            rig.give(publisher, black_box(&batch));
            rig.turn();
            assert_eq!(rig.answers(subscriber, 0x40, &mut answers), usize::from(BATCH));
            rig.give(subscriber, &answers);
            rig.turn();
            assert_eq!(rig.sent(publisher).len(), 4 * usize::from(BATCH));
            rig.sent(publisher).clear();
        });
    });
    group.bench_function("qos2_1to1_batch16", |b| {
        let mut rig = Rig::new();
        let subscriber = rig.subscriber("s", true, 2);
        let publisher = rig.connect("p", true);
        let (batch, pubrels) = (publish(2, BATCH), acks(0x62, BATCH));
        let mut answers = Vec::new();
        each(b, BATCH.into(), || {
            rig.give(publisher, black_box(&batch));
            rig.turn();
            rig.give(publisher, &pubrels);
            assert_eq!(rig.answers(subscriber, 0x50, &mut answers), usize::from(BATCH));
            rig.give(subscriber, &answers);
            rig.turn();
            answers.chunks_exact_mut(4).for_each(|pubrec| pubrec[0] = 0x70);
            rig.give(subscriber, &answers);
            rig.turn();
            assert_eq!(rig.sent(publisher).len(), 8 * usize::from(BATCH));
            assert_eq!(rig.sent(subscriber).len(), 4 * usize::from(BATCH));
            rig.sent(publisher).clear();
            rig.sent(subscriber).clear();
        });
    });
    group.finish();
}

fn fan_out(c: &mut Criterion) {
    const SUBSCRIBERS: u32 = 1_000;
    c.bench_function("delivery/qos0_1to1000", |b| {
        let mut rig = Rig::new();
        let subscribers: Vec<_> =
            (0..SUBSCRIBERS).map(|n| rig.subscriber(&format!("s{n}"), true, 0)).collect();
        let publisher = rig.connect("p", true);
        let message = publish(0, 1);
        each(b, SUBSCRIBERS, || {
            rig.give(publisher, black_box(&message));
            rig.turn();
            for subscriber in &subscribers {
                debug_assert_eq!(rig.sent(*subscriber).len(), message.len());
                rig.sent(*subscriber).clear();
            }
        });
    });
}

fn connections(c: &mut Criterion) {
    let mut group = c.benchmark_group("connection");
    group.bench_function("pingreq", |b| {
        let mut rig = Rig::new();
        let client = rig.connect("c", true);
        each(b, 1, || {
            rig.give(client, black_box(&[0xc0, 0]));
            rig.turn();
            assert_eq!(rig.sent(client).len(), 2);
            rig.sent(client).clear();
        });
    });
    group.bench_function("connect_connack_close", |b| {
        let mut rig = Rig::new();
        let packet = connect("client-000001", true);
        each(b, 1, || {
            let client = rig.open();
            rig.give(client, black_box(&packet));
            rig.turn();
            assert_eq!(rig.sent(client).len(), 4);
            rig.abort(client);
        });
        assert_eq!(rig.shard.connections(), 0);
    });
    group.finish();
}

criterion_group!(benches, messages, fan_out, connections);
criterion_main!(benches);
