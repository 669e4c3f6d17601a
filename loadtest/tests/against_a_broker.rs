//! The whole harness, processes and all, against a broker that can be told to
//! break promises; and against the real one, if TIDEGATE_BIN names it.

mod broker;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

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
    let faults = Faults { lose_every: 50, repeat_every: 7, delay_every: 11, ..Faults::default() };
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
        ..Done::default()
    };
    assert_eq!(found, done);
    let Verdict::Bad(breaches) = &outcome.ledger.verdict else { panic!("{outcome:?}") };
    let promises: Vec<Promise> = breaches.iter().map(|breach| breach.promise).collect();
    // At QoS 1 a repetition breaks nothing.
    assert_eq!(promises, [Promise::Delivery, Promise::Order]);
}

#[test]
fn the_second_codec_finds_the_same() {
    let broker = Broker::start(Faults { lose_every: 30, ..Faults::default() });
    let words = [&PAIRS[..], &["--codec", "mqttbytes", "--protocol", "5.0"]].concat();
    let (code, outcome) = run(broker.addr, &words);
    assert_eq!((code, outcome.config.codec.as_str()), (Some(1), "mqttbytes"));
    assert!(broker.done().lost > 20);
    assert_eq!(outcome.ledger.qos[1].lost, broker.done().lost);
}

#[test]
fn agents_do_the_work_of_workers() {
    let agents = [Agent::start(), Agent::start()];
    let broker = Broker::start(Faults { lose_every: 40, ..Faults::default() });
    let [one, two] = agents.each_ref().map(|agent| agent.addr.as_str());
    let (code, outcome) =
        run(broker.addr, &[&PAIRS[..], &["--agent", one, "--agent", two]].concat());
    assert_eq!((code, outcome.config.workers), (Some(1), 2));
    assert_eq!(outcome.ledger.qos[1].lost, broker.done().lost);
    assert_eq!(outcome.connections.established, 16);
    assert!(outcome.connections.ramp_ms < 5_000, "{}", outcome.connections.ramp_ms);
    // Clocks that were not set would be off by more than a second or be no clocks at all.
    let median = outcome.latency.quantiles.p50_ns;
    assert!((1_000..1_000_000_000).contains(&median), "{median}");
    assert!(outcome.config.more.contains_key("clocks differ by"));
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

/// A run in which all connections are cut three times.
fn run_and_cut(faults: Faults, words: &[&str]) -> (Broker, Option<i32>, Outcome) {
    let broker = Broker::start(faults);
    let back = ["--reconnect", "--backoff", "fixed", "--backoff-base-ms", "50"];
    let all = [&PAIRS[..], &back, words].concat();
    let addr = broker.addr;
    let (code, outcome) = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                thread::sleep(Duration::from_millis(400));
                broker.cut();
            }
        });
        run(addr, &all)
    });
    (broker, code, outcome)
}

#[test]
fn durable_sessions_lose_nothing_when_their_connections_are_cut() {
    for protocol in ["3.1.1", "5.0"] {
        let words = ["--persistent", "--protocol", protocol];
        let (_, code, outcome) = run_and_cut(Faults::default(), &words);
        assert_sound_but_for_time(code, &outcome);
        let tally = outcome.ledger.qos[1];
        assert_eq!((tally.lost, tally.unacknowledged), (0, 0), "{protocol}");
        assert_eq!((tally.expected, tally.delivered), (1_000, 1_000), "{protocol}");
        let connections = outcome.connections;
        assert!(connections.lost >= 16 && connections.missing == 0, "{connections:?}");
        assert_eq!(connections.resumed, connections.reconnected);
        assert_eq!(connections.gap.quantiles.count, connections.lost);
    }
}

#[test]
fn a_message_lost_while_its_session_was_away_is_found() {
    let faults = Faults { lose_at_return: true, ..Faults::default() };
    // A broker that is slow to be acknowledged has something to lose.
    let words = ["--persistent", "--rate", "20000", "--window", "60000"];
    let (broker, code, outcome) = run_and_cut(faults, &words);
    let done = broker.done();
    let tally = outcome.ledger.qos[1];
    // What was lost on its way back may have come the first time.
    assert!(tally.lost <= done.lost_at_return, "{done:?} {tally:?}");
    assert_eq!(code == Some(1), tally.lost > 0 || outcome.invalid.is_some());
    assert!(tally.lost > 0, "{done:?} {tally:?}");
}

#[test]
fn a_forgotten_session_is_a_breach_and_what_it_missed_a_loss() {
    let faults = Faults { forget_sessions: true, ..Faults::default() };
    let (_, code, outcome) = run_and_cut(faults, &["--persistent", "--protocol", "5.0"]);
    assert_eq!((code, outcome.connections.resumed), (Some(1), 0));
    assert!(outcome.ledger.forgotten >= 16, "{}", outcome.ledger.forgotten);
    assert!(outcome.ledger.qos[1].lost > 0);
}

#[test]
fn what_clean_sessions_miss_while_they_are_away_is_not_owed() {
    for workers in ["1", "2"] {
        let (_, code, outcome) = run_and_cut(Faults::default(), &["--workers", workers]);
        assert_sound_but_for_time(code, &outcome);
        let tally = outcome.ledger.qos[1];
        assert!(tally.expected < 1_000 && tally.lost == 0, "{tally:?}");
    }
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

/// The harness as an agent, until the test ends.
struct Agent {
    child: Child,
    addr: String,
}

impl Agent {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"))
            .args(["agent", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the harness runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = lines.next().expect("it says where").expect("text");
        let addr = line.strip_prefix("listening ").expect("an address").to_owned();
        Self { child, addr }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
