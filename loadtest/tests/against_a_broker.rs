//! The whole harness, processes and all, against a broker that can be told to
//! break promises; and against the real one, if TIDEGATE_BIN names it.

mod broker;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use broker::{Broker, Done, Faults};
use tidegate_loadtest::outcome::{Invalid, Outcome, Promise, Verdict};

/// Runs the harness and returns its exit code and what it found.
fn run(addr: SocketAddr, words: &[&str]) -> (Option<i32>, Outcome) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"))
        .arg(words[0])
        .arg(addr.to_string())
        .args(["--json", "-"])
        .args(&words[1..])
        .output()
        .expect("the harness runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome = Outcome::parse(&text).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code(), outcome)
}

/// A machine that runs many tests at once keeps no schedule; the ledger holds all the same.
fn assert_sound_but_for_time(code: Option<i32>, outcome: &Outcome) {
    match &outcome.invalid {
        None => assert_eq!(code, Some(0)),
        Some(Invalid::ScheduleMissed { .. } | Invalid::HarnessSaturated { .. }) => {
            assert_eq!(code, Some(1));
        }
        Some(other) => panic!("{other}"),
    }
}

const PAIRS: [&str; 9] =
    ["pairs", "--pairs", "8", "--rate", "1000", "--duration-ms", "1000", "--drain-ms", "500"];

#[test]
fn a_sound_broker_passes_whoever_shares_the_work() {
    for workers in ["1", "4"] {
        let broker = Broker::start(Faults::default());
        let (code, outcome) = run(broker.addr, &[&PAIRS[..], &["--workers", workers]].concat());
        assert_sound_but_for_time(code, &outcome);
        assert_eq!(outcome.ledger.verdict, Verdict::Good, "{workers} workers");
        let tally = outcome.ledger.qos[1];
        assert_eq!((tally.published, tally.acknowledged), (1_000, 1_000), "{workers} workers");
        assert_eq!((tally.expected, tally.delivered), (1_000, 1_000), "{workers} workers");
        assert_eq!(outcome.latency.quantiles.count, 1_000, "{workers} workers");
        assert_eq!(outcome.connections.established, 16, "{workers} workers");
    }
}

#[test]
fn what_a_broker_does_wrong_is_counted_to_the_message() {
    let faults = Faults { lose_every: 50, repeat_every: 7, delay_every: 11, damage_every: 0 };
    let broker = Broker::start(faults);
    let (code, outcome) = run(broker.addr, &PAIRS);
    let done = broker.done();
    assert!(done.lost > 10 && done.repeated > 100 && done.delayed > 50, "{done:?}");
    assert_eq!(code, Some(1));
    let tally = outcome.ledger.qos[1];
    let found = Done {
        lost: tally.lost,
        repeated: tally.duplicated,
        delayed: tally.reordered,
        damaged: outcome.ledger.damaged,
    };
    assert_eq!(found, done);
    let Verdict::Bad(breaches) = &outcome.ledger.verdict else { panic!("{outcome:?}") };
    let promises: Vec<Promise> = breaches.iter().map(|breach| breach.promise).collect();
    // At QoS 1 a repetition breaks nothing.
    assert_eq!(promises, [Promise::Delivery, Promise::Order]);
}

#[test]
fn a_damaged_payload_is_damage_and_a_loss() {
    let broker = Broker::start(Faults { damage_every: 40, ..Faults::default() });
    let (code, outcome) = run(broker.addr, &PAIRS);
    let done = broker.done();
    assert!(done.damaged > 10);
    assert_eq!(code, Some(1));
    assert_eq!(outcome.ledger.damaged, done.damaged);
    assert_eq!(outcome.ledger.qos[1].lost, done.damaged);
}

#[test]
fn fan_in_and_fan_out_reach_who_subscribed_across_workers() {
    let broker = Broker::start(Faults::default());
    let flow = ["--rate", "200", "--duration-ms", "500", "--workers", "2", "--protocol", "5.0"];
    let fan_out = ["fan-out", "--publishers", "3", "--subscribers", "20"];
    let (code, outcome) = run(broker.addr, &[&fan_out[..], &flow].concat());
    assert_sound_but_for_time(code, &outcome);
    // 20 subscribers take turns at 3 publishers: 7, 7 and 6, for 33 or 34 messages each.
    assert!((660..=680).contains(&outcome.totals.delivered), "{}", outcome.totals.delivered);
    assert_eq!(outcome.ledger.qos[1].expected, outcome.totals.delivered);

    let fan_in = ["fan-in", "--publishers", "10", "--subscribers", "3"];
    let (code, outcome) = run(broker.addr, &[&fan_in[..], &flow].concat());
    assert_sound_but_for_time(code, &outcome);
    assert_eq!(outcome.totals.delivered, 100);
}

#[test]
fn a_storm_brings_everyone_back() {
    let broker = Broker::start(Faults::default());
    let storm = ["storm", "--clients", "40", "--hold-ms", "300", "--backoff", "none"];
    let (code, outcome) = run(broker.addr, &[&storm[..], &["--storms", "2"]].concat());
    assert_eq!((code, outcome.connections.reconnected), (Some(0), 80));
    assert_eq!((outcome.connections.lost, outcome.connections.failed), (0, 0));
}

#[test]
fn pings_keep_held_connections_and_are_answered() {
    let broker = Broker::start(Faults::default());
    let connect = ["connect", "--clients", "40", "--hold-ms", "2500", "--keep-alive-s", "1"];
    let (code, outcome) = run(broker.addr, &connect);
    assert_eq!((code, outcome.connections.peak), (Some(0), 40));
    let count = |name| outcome.config.more.get(name).and_then(|count| count.parse::<u64>().ok());
    // Every client once in half a second.
    assert!(count("pings") >= Some(150), "{:?}", count("pings"));
    assert!(count("pongs") >= Some(150), "{:?}", count("pongs"));
}

#[test]
fn nobody_there_is_a_failure_and_not_a_good_run() {
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let (code, outcome) = run(addr, &[&PAIRS[..], &["--open-ms-max", "300"]].concat());
    assert_eq!(code, Some(1));
    assert_eq!((outcome.connections.established, outcome.totals.published), (0, 0));
}

#[test]
fn the_real_broker_keeps_its_promises_at_every_qos() {
    let Some(program) = std::env::var_os("TIDEGATE_BIN") else { return };
    let real = Real::start(&program);
    for qos in ["0", "1", "2"] {
        for protocol in ["3.1.1", "5.0"] {
            let words = [&PAIRS[..], &["--qos", qos, "--protocol", protocol]].concat();
            let (code, outcome) = run(real.addr, &words);
            assert_sound_but_for_time(code, &outcome);
            assert_eq!(outcome.totals.delivered, 1_000, "QoS {qos}, {protocol}");
            assert!(outcome.memory.is_some(), "the broker is found by its port");
        }
    }
}

struct Real {
    child: Child,
    addr: SocketAddr,
}

impl Real {
    fn start(program: &std::ffi::OsStr) -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let folder = std::env::temp_dir().join(format!("loadtest-{}", std::process::id()));
        let mut child = Command::new(program)
            .args(["run", "--listen", &addr.to_string(), "--admin", "127.0.0.1:0", "--data-dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("TIDEGATE_BIN names a program");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "it says ready");
        Self { child, addr }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
