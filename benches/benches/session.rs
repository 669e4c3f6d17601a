//! Sessions: a window that is full, a durable half, a resume with a long queue.
//!
//! `cargo bench -p benches --bench session`. Times are for one message.
#![allow(missing_docs)]

mod rig;

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use rig::{Rig, each, each_timed, publish};
use tidegate_core::limits::Limits;

const QUEUED: u16 = 1_000;

fn window(c: &mut Criterion) {
    // The window is full all the time: each message waits in the queue, and
    // each acknowledgement lets the next one out.
    c.bench_function("session/qos1_through_a_full_window", |b| {
        let mut rig = Rig::new();
        let subscriber = rig.subscriber("s", true, 1);
        let publisher = rig.connect("p", true);
        let fill = publish(1, Limits::default().inflight_out_max);
        rig.give(publisher, &fill);
        rig.turn();
        let mut answers = Vec::new();
        assert!(rig.answers(subscriber, 0x40, &mut answers) > 0);
        let mut acks: std::collections::VecDeque<[u8; 4]> =
            answers.chunks_exact(4).map(|ack| ack.try_into().expect("four bytes")).collect();
        let one = publish(1, 1);
        each(b, 1, || {
            rig.give(publisher, black_box(&one));
            rig.turn();
            assert!(rig.sent(subscriber).is_empty(), "it waits");
            let ack = acks.pop_front().expect("the window is full");
            rig.give(subscriber, &ack);
            rig.turn();
            assert_eq!(rig.answers(subscriber, 0x40, &mut answers), 1);
            acks.push_back(answers[..4].try_into().expect("four bytes"));
            rig.sent(publisher).clear();
        });
    });
}

fn durable(c: &mut Criterion) {
    for batch in [1, 16] {
        c.bench_function(&format!("session/qos1_to_one_durable_batch{batch}"), |b| {
            let mut rig = Rig::new();
            let subscriber = rig.subscriber("s", false, 1);
            let publisher = rig.connect("p", true);
            let messages = publish(1, batch);
            let mut answers = Vec::new();
            each(b, batch.into(), || {
                rig.give(publisher, black_box(&messages));
                rig.turn();
                assert_eq!(rig.answers(subscriber, 0x40, &mut answers), usize::from(batch));
                rig.give(subscriber, &answers);
                rig.turn();
                assert_eq!(rig.sent(publisher).len(), 4 * usize::from(batch));
                rig.sent(publisher).clear();
            });
        });
    }
}

fn resume(c: &mut Criterion) {
    let queue = publish(1, QUEUED);
    c.bench_function("session/resume_with_1000_queued", |b| {
        let mut rig = Rig::new();
        let publisher = rig.connect("p", true);
        let mut subscriber = rig.subscriber("s", false, 1);
        let mut answers = Vec::new();
        // From the CONNECT to the acknowledgement of the last message.
        each_timed(b, QUEUED.into(), || {
            rig.abort(subscriber);
            for part in queue.chunks(queue.len() / 10) {
                rig.give(publisher, part);
                rig.turn();
            }
            rig.sent(publisher).clear();
            let began = Instant::now();
            subscriber = rig.connect("s", false);
            let mut got = 0;
            while got < usize::from(QUEUED) {
                let n = rig.answers(subscriber, 0x40, &mut answers);
                assert!(n > 0, "{got} of {QUEUED} came");
                got += n;
                rig.give(subscriber, &answers);
                rig.turn();
            }
            began.elapsed()
        });
    });
}

criterion_group!(benches, window, durable, resume);
criterion_main!(benches);
