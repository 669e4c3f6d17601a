//! Reports of runs that never were.

use super::*;
use crate::latency::Recorder;
use crate::outcome::{
    Breach, Config, Connections, Cost, Event, Harness, Invalid, LedgerReport, Machine, Memory,
    Promise, Sample, Tally, Totals,
};

/// An invented run of a minute at 20,000 messages a second, `slow` times as
/// slow as the first, with a stall in it.
pub(crate) fn invented(label: &str, slow: f64) -> Outcome {
    let mut state = 7_u64;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut whole = Recorder::new();
    let mut tick = Recorder::new();
    let mut samples = Vec::new();
    let ramp = 80.0 * slow.sqrt();
    for at in 0..600_u64 {
        let flowing = at >= 150;
        for _ in 0..if flowing { 2_000 } else { 0 } {
            let stall = if (300..304).contains(&at) { 25e6 * draw() } else { 0.0 };
            let ns = slow * 60e3 * (1.0 + draw()) / (1.0 - draw()).powf(0.45) + stall * slow;
            tick.record_ns(ns as u64);
            whole.record_ns(ns as u64);
        }
        let connected = ((at as f64 / ramp).min(1.0) * 2_000.0) as u64;
        let busy = if flowing {
            38_000.0
        } else if connected < 2_000 {
            30_000.0
        } else {
            20.0
        };
        samples.push(Sample {
            at_ms: at * 100,
            connected,
            connecting: if connected < 2_000 { (40.0 * draw()) as u64 } else { 0 },
            published: tick.count(),
            acknowledged: tick.count(),
            delivered: tick.count(),
            latency: tick.quantiles(),
            broker_user_us: Some((busy * 0.25 * slow * (0.9 + 0.2 * draw())) as u64),
            broker_kernel_us: Some((busy * 0.75 * (0.9 + 0.2 * draw())) as u64),
            broker_rss_bytes: Some(6_000_000 + connected * 217),
            harness_us: (busy * 1.2) as u64,
            ..Sample::default()
        });
        tick.clear();
    }
    let n = whole.count();
    let tally = Tally {
        published: n,
        acknowledged: n,
        expected: n,
        delivered: n,
        duplicated: 12,
        ..Tally::default()
    };
    let cost = |event, events: u64, user: f64, kernel: f64, floor| Cost {
        event,
        events,
        user_us: (events as f64 * user * slow) as u64,
        kernel_us: (events as f64 * kernel) as u64,
        floor_us_each: Some(floor),
    };
    Outcome {
        format: crate::outcome::FORMAT,
        tool: "0.1.0".into(),
        label: label.into(),
        command: "tidegate-loadtest pairs --pairs 1000 --qos 1 --rate 20000 127.0.0.1:1883".into(),
        run: 0x00c0_ffee,
        started_unix_ms: 1_767_225_600_000,
        duration_ms: 60_000,
        config: Config {
            scenario: "pairs".into(),
            targets: vec!["127.0.0.1:1883".into()],
            version: "5.0".into(),
            transport: "tcp".into(),
            clients: 2_000,
            publishers: 1_000,
            subscribers: 1_000,
            qos: 1,
            payload_bytes: 64,
            rate: Some(20_000.0),
            connect_rate: Some(250.0),
            keepalive_s: 60,
            client_id_bytes: 16,
            sample_ms: 100,
            measure_ms: 45_000,
            workers: 1,
            codec: "own".into(),
            ..Config::default()
        },
        machine: Machine {
            cores: 2,
            broker_cores: Some(1),
            harness_cores: Some(1),
            kernel: "6.18.44".into(),
            memory_bytes: 8 << 30,
        },
        samples,
        connections: Connections {
            attempted: 2_000,
            established: 2_000,
            peak: 2_000,
            ramp_ms: (ramp * 100.0) as u64,
            ..Connections::default()
        },
        totals: Totals {
            published: n,
            acknowledged: n,
            delivered: n,
            sent_bytes: n * 90,
            received_bytes: n * 88,
            flow_ms: 45_000,
        },
        latency: whole.save(),
        costs: vec![
            cost(Event::ConnectSubscribe, 2_000, 6.1, 13.7, 17.2),
            cost(Event::Message, n, 5.2, 18.9, 22.3),
        ],
        memory: Some(Memory {
            connections: 2_000,
            user_before_bytes: 6_000_000,
            user_with_bytes: 6_000_000 + (2_000.0 * 371.0 * slow) as u64,
            kernel_before_bytes: Some(90_000_000),
            kernel_with_bytes: Some(110_400_000),
        }),
        ledger: LedgerReport {
            qos: [Tally::default(), tally, Tally::default()],
            verdict: Verdict::Good,
            ..LedgerReport::default()
        },
        harness: Harness {
            user_us: 9_000_000,
            kernel_us: 14_000_000,
            busiest: 0.46,
            rss_bytes: 9 << 20,
            bytes_each: Some(168.0),
            ..Harness::default()
        },
        ..Outcome::default()
    }
}

/// Keeps a page for looking at, if asked to.
fn keep(name: &str, page: &str) {
    if let Some(dir) = std::env::var_os("LOADTEST_REPORT_DIR") {
        let path = std::path::Path::new(&dir).join(name);
        std::fs::write(path, page).expect("the directory was named to be written to");
    }
}

#[test]
fn a_report_is_one_file_that_fetches_nothing() {
    let page = html(&[invented("tidegate", 1.0)]);
    keep("one.html", &page);
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for title in ["Latency over time", "Latency by percentile", "Connections", "CPU an event"] {
        assert!(page.contains(&format!("<h2>{title}</h2>")), "{title}");
    }
    assert!(page.contains("Every promise kept"));
    assert_eq!(page.matches(" d=\"").count(), page.matches(" d=\"M").count(), "drawable");
    assert!(!page.contains("NaN"), "a hole in the data is no coordinate");
}

#[test]
fn several_runs_stand_in_one_table_and_in_each_plot() {
    let page = html(&[invented("tidegate", 1.0), invented("mosquitto <2.1>", 3.0)]);
    keep("two.html", &page);
    assert!(page.contains("<h2>Runs side by side</h2>"));
    assert!(page.contains("mosquitto &lt;2.1&gt;, 99 %"));
    assert!(!page.contains("mosquitto <2.1>"), "a label is text and not markup");
}

#[test]
fn breaches_and_invalidity_stand_at_the_top() {
    let mut run = invented("tidegate", 1.0);
    run.ledger.verdict =
        Verdict::Bad(vec![Breach { promise: Promise::Delivery, qos: Some(1), count: 1_234 }]);
    let page = html(std::slice::from_ref(&run));
    assert!(page.contains("Promises broken"));
    let banner = page.find("QoS 1: 1,234 acknowledged and lost").expect("named");
    assert!(banner < page.find("class=\"tiles\"").expect("there are tiles"));

    run.invalid = Some(Invalid::HarnessSaturated { busiest: 0.98, limit: 0.9 });
    run.errors.insert("connection reset".into(), 7);
    let page = html(std::slice::from_ref(&run));
    keep("bad.html", &page);
    assert!(page.contains("Invalid run") && page.contains("98 % of its core"));
}

#[test]
fn an_empty_run_is_a_page_without_plots() {
    let page = html(&[Outcome::default()]);
    assert!(page.contains("</html>") && !page.contains("Latency over time"));
    assert!(html(&[]).contains("No run to report"));
}

#[test]
fn a_good_ledger_does_not_hide_what_happened_to_connections() {
    let mut run = invented("tidegate", 1.0);
    run.connections.failed = 2;
    let page = html(std::slice::from_ref(&run));
    assert!(page.contains("Every promise kept"), "what was tried again came through");
    run.connections.missing = 2;
    let page = html(std::slice::from_ref(&run));
    assert!(page.contains("Clients missing") && page.contains("2 clients had no connection"));
    run.connections.lost = 1;
    let page = html(std::slice::from_ref(&run));
    assert!(page.contains("Connections lost") && !page.contains("Every promise kept"));
    (run.connections.missing, run.config.reconnect) = (0, true);
    let page = html(std::slice::from_ref(&run));
    assert!(page.contains("Every promise kept"), "the run is about losses");
}

#[test]
fn a_run_without_messages_shows_its_connects() {
    let mut run = invented("tidegate", 1.0);
    run.connections.latency = std::mem::take(&mut run.latency);
    (run.totals, run.ledger) = (Totals::default(), LedgerReport::default());
    run.config.rate = None;
    run.samples.iter_mut().for_each(|sample| {
        *sample = Sample { at_ms: sample.at_ms, connects: 25, ..Sample::default() };
    });
    let page = html(std::slice::from_ref(&run));
    keep("connects.html", &page);
    for part in ["Connects by percentile", "Connects over time", "until CONNACK, 99 %"] {
        assert!(page.contains(part), "{part}");
    }
    for part in ["Latency by percentile", "Messages over time", "payload", "flowed"] {
        assert!(!page.contains(part), "{part}");
    }
}

#[test]
fn runs_beyond_the_limit_are_left_out_and_said_so() {
    let runs = vec![Outcome::default(); RUNS_MAX + 2];
    assert!(html(&runs).contains("2 more runs are left out"));
}
