//! Of all bytes one in ten lives on, the others are acknowledged at once: the
//! log does not grow to ten times what is needed of it.
//!
//! `LIVED_BYTES` says for how many bytes that live on (default 64 MiB, which is
//! sixteen files: of fewer, those that are on their way out count for too much).

mod conformance;

use conformance::*;

/// Large against what is needed of the log is told by: 1 MiB.
const SEGMENT_BYTES: u64 = 4 << 20;
const BODY_BYTES: usize = 8_000;
/// Publishes on their way.
const WINDOW: usize = 40;

fn metric(broker: &Broker, name: &str) -> u64 {
    let (_, text) = broker.get("/metrics");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the metric is there");
    line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number") as u64
}

#[test]
fn the_log_stays_under_twice_what_lives() {
    let wanted = std::env::var("LIVED_BYTES").ok().and_then(|text| text.parse().ok());
    let wanted: u64 = wanted.unwrap_or(64 << 20);
    let config = format!(
        "[store]\nsegment_bytes = {SEGMENT_BYTES}\ngroup_window_micros = 0\n\
         [limits]\nqueue_messages_max = 1000000\nqueue_bytes_max = 1073741824\n"
    );
    let broker = broker(&config);
    let mut sleeper = Connect::lasting(Version::V5, "sleeper").open(broker.mqtt);
    sleeper.subscribe("lives", 1);
    sleeper.leave();
    let mut reader = Connect::lasting(Version::V5, "reader").open(broker.mqtt);
    reader.subscribe("goes", 1);
    let mut publisher = Connect::new(Version::V5, "publisher").open(broker.mqtt);
    let body = vec![b'x'; BODY_BYTES];
    let (mut lived, mut worst, mut last, mut all, mut id) = (0u64, 0.0f64, 0.0f64, 0u64, 0u16);
    while lived < wanted {
        let mut ids = Vec::new();
        let mut batch = Vec::new();
        let mut going = 0;
        for n in 0..WINDOW {
            id = id % 60_000 + 1;
            ids.push(id);
            let lives = n % 10 == 0;
            going += usize::from(!lives);
            let topic = if lives { "lives" } else { "goes" };
            batch.extend(Publish::new(topic, 1, &body).id(id).bytes(Version::V5));
        }
        publisher.send(&batch);
        for id in ids {
            assert!(publisher.expect_answer(PUBACK, id) < 0x80);
        }
        for _ in 0..going {
            reader.take();
        }
        lived += (WINDOW / 10 * BODY_BYTES) as u64;
        all += (WINDOW * BODY_BYTES) as u64;
        if all % (2 << 20) < (WINDOW * BODY_BYTES) as u64 {
            last = metric(&broker, "tidegate_store_log_bytes") as f64;
            // A round begins when two files are full, and what it removes is
            // removed a moment later.
            if lived >= wanted / 2 {
                worst = worst.max((last - 3.0 * SEGMENT_BYTES as f64) / lived as f64);
            }
        }
    }
    let written = metric(&broker, "tidegate_storage_bytes_total{op=\"append\"");
    let said = format!(
        "{all} bytes published, {lived} of them live on; the log has {last}, at its worst \
         {worst:.2} times what lives and three files; {:.2} bytes written a byte published\n",
        written as f64 / all as f64
    );
    let _ = std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes());
    assert!(worst < 2.0, "{said}");
}
