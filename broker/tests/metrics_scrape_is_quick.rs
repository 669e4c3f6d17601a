//! A scrape takes less than 100 ms, with 10,000 connections and under a flood,
//! and what it tells is sane while the shards count on.
//!
//! `cargo test --test metrics_scrape_is_quick -- --nocapture` prints the times.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Broker, Got, Raw};

const CONNECTIONS: usize = 10_000;
const SCRAPES: usize = 20;
const LONGEST: Duration = Duration::from_millis(100);

/// The times of some scrapes, sorted, and the text of the last.
fn scrape(broker: &Broker, what: &str) -> (Vec<Duration>, String) {
    let mut text = String::new();
    let mut times: Vec<_> = (0..SCRAPES)
        .map(|_| {
            let began = Instant::now();
            let (status, body) = broker.get("/metrics");
            assert_eq!(status, 200);
            sane(&body);
            text = body;
            began.elapsed()
        })
        .collect();
    times.sort();
    let (least, median, most) = (times[0], times[SCRAPES / 2], times[SCRAPES - 1]);
    #[allow(clippy::print_stdout, reason = "the number is what a reader wants")]
    {
        println!("scrape, {what}: {} bytes, {least:?} / {median:?} / {most:?}", text.len());
    }
    (times, text)
}

/// No gauge has gone below zero (a huge number), no histogram contradicts itself.
fn sane(text: &str) {
    let mut inf = 0.0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect(line);
        let value: f64 = value.parse().expect(line);
        assert!((0.0..1e15).contains(&value), "{line}");
        // `_count` comes before the buckets in the text.
        if series.contains("_seconds_count") {
            inf = value;
        }
        if series.contains("le=\"+Inf\"") {
            assert_eq!(value, inf, "{line}");
        }
    }
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

fn connect(raw: &mut Raw, n: usize) {
    let mut packet = vec![0x10, 18, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 6];
    packet.extend(format!("{n:06}").bytes());
    raw.send(&packet);
}

#[test]
fn ten_thousand_connections_make_a_scrape_no_slower_than_100_ms() {
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for n in 0..CONNECTIONS {
        let mut raw = broker.raw();
        connect(&mut raw, n);
        clients.push(raw);
    }
    for client in &mut clients {
        assert_eq!(client.recv(), Got::Packet(vec![0x20, 2, 0, 0]));
    }
    let (times, text) = scrape(&broker, "10,000 connections");
    assert_eq!(value(&text, "tidegate_sessions{state=\"online\"}"), Some(CONNECTIONS as f64));
    // The machine may be busy with other tests: the quickest counts.
    assert!(times[0] < LONGEST, "{times:?}");
}

#[test]
fn a_flood_does_not_keep_a_scrape_waiting_nor_make_it_lie() {
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for n in 0..4 {
            let (broker, stop) = (&broker, &stop);
            let mut subscriber = broker.raw();
            connect(&mut subscriber, n);
            subscriber.send(&[0x82, 0x06, 0x00, 0x01, 0x00, 0x01, b'#', 0x01]);
            assert!(matches!(subscriber.recv(), Got::Packet(_)), "CONNACK");
            assert!(matches!(subscriber.recv(), Got::Packet(_)), "SUBACK");
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Got::Packet(packet) = subscriber.recv_within(testkit::QUIET)
                        && packet[0] & 6 == 2
                    {
                        subscriber.send(&[0x40, 2, packet[5], packet[6]]);
                    }
                }
            });
            scope.spawn(move || {
                let mut publisher = broker.raw();
                connect(&mut publisher, 10 + n);
                assert_eq!(publisher.recv(), Got::Packet(vec![0x20, 2, 0, 0]));
                while !stop.load(Ordering::Relaxed) {
                    let burst = [0x30, 4, 0, 1, b't', 0, 0x32, 6, 0, 1, b't', 0, 1, 0].repeat(100);
                    publisher.send(&burst);
                    for _ in 0..100 {
                        if publisher.recv() != Got::Packet(vec![0x40, 2, 0, 1]) {
                            return;
                        }
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(300));
        let (times, text) = scrape(&broker, "flooded");
        stop.store(true, Ordering::Relaxed);
        assert!(value(&text, "tidegate_messages_received_total{qos=\"1\"}") > Some(100.0));
        // The flood has all cores but for what the scheduler gives the scrape.
        assert!(times[0] < LONGEST, "{times:?}");
    });
}
