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
    let addr = addr.to_string();
    call(&[&words[..1], &[&addr], &words[1..]].concat())
}

/// The same, with words of any shape.
fn call(words: &[&str]) -> (Option<i32>, Outcome) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"))
        .args(words)
        .args(["--json", "-", "--live", "off"])
        .output()
        .expect("the harness runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome = Outcome::parse(&text).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code(), outcome)
}

/// The promises that were broken.
fn promises(outcome: &Outcome) -> Vec<Promise> {
    match &outcome.ledger.verdict {
        Verdict::Bad(breaches) => breaches.iter().map(|breach| breach.promise).collect(),
        Verdict::Good | Verdict::Unjudged | Verdict::Inconclusive { .. } => Vec::new(),
    }
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
    // At QoS 1 a repetition breaks nothing.
    assert_eq!(promises(&outcome), [Promise::Delivery, Promise::Order]);
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
fn a_broker_that_answers_no_pings_is_gone() {
    let broker = Broker::start(Faults { deaf: true, ..Faults::default() });
    let connect = ["connect", "--clients", "20", "--hold-ms", "2500", "--keep-alive-s", "1"];
    let (code, outcome) = run(broker.addr, &connect);
    assert_eq!(code, Some(1));
    assert!(outcome.connections.lost >= 20, "{:?}", outcome.connections);
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
            for published in [200, 450, 700] {
                broker.wait_for(published);
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
        // What is due when its publisher has no connection may find the run over.
        assert_eq!(tally.published + outcome.harness.unsent, 1_000, "{protocol}");
        assert_eq!((tally.expected, tally.delivered), (tally.published, tally.published));
        let connections = outcome.connections;
        assert!(connections.lost >= 16 && connections.missing == 0, "{connections:?}");
        assert_eq!(connections.resumed, connections.reconnected);
        assert_eq!(connections.gap.quantiles.count, connections.lost);
    }
}

#[test]
fn a_message_lost_while_its_session_was_away_is_found() {
    let faults = Faults { lose_at_return: true, ..Faults::default() };
    let (broker, code, outcome) = run_and_cut(faults, &["--persistent", "--rate", "4000"]);
    let lost = outcome.ledger.qos[1].lost;
    // What was lost before its PUBACK was published again.
    assert!(lost > 0 && lost <= broker.done().lost_at_return, "{lost} {:?}", broker.done());
    assert_eq!(code, Some(1));
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
fn each_message_goes_to_one_member_of_a_group_whoever_shares_the_work() {
    let shared = ["shared", "--groups", "2", "--members", "3", "--publishers", "4"];
    let flow = ["--rate", "500", "--duration-ms", "1000", "--drain-ms", "500"];
    for workers in ["1", "3"] {
        let words = [&shared[..], &flow, &["--workers", workers]].concat();
        let (code, outcome) = run(Broker::start(Faults::default()).addr, &words);
        assert_sound_but_for_time(code, &outcome);
        assert_eq!(outcome.ledger.qos[1].delivered, 500, "{workers}");

        let broker = Broker::start(Faults { share_twice_every: 20, ..Faults::default() });
        let (code, outcome) = run(broker.addr, &words);
        assert_eq!((code, broker.done().shared_twice), (Some(1), 25));
        assert_eq!(outcome.ledger.shared_twice, 25, "{workers}");
        assert_eq!(promises(&outcome), [Promise::Sharing]);

        let broker = Broker::start(Faults { lose_every: 20, ..Faults::default() });
        let (code, outcome) = run(broker.addr, &words);
        assert_eq!((code, outcome.ledger.qos[1].lost), (Some(1), broker.done().lost));
    }
}

#[test]
fn wildcards_bring_each_message_to_one_subscriber() {
    let words = ["wildcard", "--filters", "300", "--subscribers", "3", "--publishers", "6"];
    let flow = ["--rate", "600", "--duration-ms", "1000", "--drain-ms", "500", "--workers", "2"];
    let broker = Broker::start(Faults::default());
    let (code, outcome) = run(broker.addr, &[&words[..], &flow].concat());
    assert_sound_but_for_time(code, &outcome);
    assert_eq!(outcome.ledger.qos[1].delivered, 600);

    let broker = Broker::start(Faults { lose_every: 50, ..Faults::default() });
    let (code, outcome) = run(broker.addr, &[&words[..], &flow].concat());
    assert_eq!((code, outcome.ledger.qos[1].lost), (Some(1), broker.done().lost));
}

const RETAINED: [&str; 15] = [
    "retained",
    "--registers",
    "20",
    "--rate",
    "100",
    "--clear-every",
    "3",
    "--quiet-ms",
    "100",
    "--duration-ms",
    "1500",
    "--drain-ms",
    "400",
    "--workers",
    "2",
];

#[test]
fn who_subscribes_sees_the_last_retained_message_or_after_its_end_nothing() {
    let broker = Broker::start(Faults::default());
    let (code, outcome) = run(broker.addr, &RETAINED);
    assert_sound_but_for_time(code, &outcome);
    let kept = outcome.ledger.retained;
    assert_eq!((kept.set + kept.cleared, kept.wrong()), (150, 0), "{kept:?}");
    // Once with a new subscription and once with the same made again.
    assert_eq!((kept.looks, kept.right), (kept.set * 2, kept.set * 2));
    assert_eq!(kept.empty_looks, kept.cleared);
}

#[test]
fn a_stale_retained_message_and_one_after_its_end_are_found() {
    let faults = Faults { retain_not_every: 7, clear_not_every: 4, ..Faults::default() };
    let broker = Broker::start(faults);
    let (code, outcome) = run(broker.addr, &RETAINED);
    assert_eq!((code, promises(&outcome)), (Some(1), vec![Promise::Retained]));
    let (done, kept) = (broker.done(), outcome.ledger.retained);
    assert!(done.not_retained > 5 && done.not_cleared > 3, "{done:?}");
    // Each is looked at twice; what was never there before is missing instead of stale.
    assert_eq!(kept.stale + kept.missing, done.not_retained * 2, "{kept:?}");
    assert!(kept.stale > 0, "{kept:?}");
    // Where the set before was not kept either, there is nothing to outlive its end.
    assert!(kept.ghosts > 0 && kept.ghosts <= done.not_cleared, "{kept:?} {done:?}");
}

#[test]
fn who_comes_twice_ends_its_first_connection_and_keeps_its_session() {
    let words = ["takeover", "--takeovers", "40", "--persistent"];
    for protocol in ["3.1.1", "5.0"] {
        let words = [&words[..], &PAIRS[1..], &["--protocol", protocol]].concat();
        let (code, outcome) = run(Broker::start(Faults::default()).addr, &words);
        assert_sound_but_for_time(code, &outcome);
        let taken = outcome.ledger.takeovers;
        assert!(taken.done >= 10 && taken.lived_on + taken.untold == 0, "{taken:?}");
        assert_eq!(outcome.ledger.qos[1].lost, 0);
        let connections = &outcome.connections;
        assert_eq!((connections.resumed, connections.lost), (taken.done, 0));

        let silent = Faults { silent_takeover: true, ..Faults::default() };
        let (code, outcome) = run(Broker::start(silent).addr, &words);
        let told = protocol == "3.1.1";
        let taken = outcome.ledger.takeovers;
        assert_eq!(taken.untold == 0, told, "before 5.0 there is no word: {taken:?}");
        let breaches = if told { Vec::new() } else { vec![Promise::Takeover] };
        assert_eq!(promises(&outcome), breaches);
        assert!(told || code == Some(1));

        let forgets = Faults { forget_sessions: true, ..Faults::default() };
        let (_, outcome) = run(Broker::start(forgets).addr, &words);
        assert!(promises(&outcome).contains(&Promise::Session));
    }
}

#[test]
fn a_first_connection_that_lives_on_is_found() {
    let faults = Faults { keep_old: true, silent_takeover: true, ..Faults::default() };
    let broker = Broker::start(faults);
    let words = [&["takeover", "--takeovers", "10"], &PAIRS[1..]].concat();
    let (code, outcome) = run(broker.addr, &words);
    let taken = outcome.ledger.takeovers;
    assert_eq!((code, promises(&outcome)), (Some(1), vec![Promise::Takeover]));
    assert_eq!((taken.lived_on, taken.untold), (taken.done, 0));
}

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/mixed.toml");

#[test]
fn a_mixed_fleet_comes_and_goes_and_misses_nothing_that_it_was_promised() {
    let words = ["--duration-ms", "2500", "--drain-ms", "700", "--workers", "2"];
    let broker = Broker::start(Faults::default());
    let (code, outcome) = mixed(EXAMPLE, broker.addr, &words);
    // This broker knows QoS 1 alone, and so it may repeat itself: QoS 2 is not its to judge.
    assert!(outcome.ledger.qos[1].delivered > 200, "{outcome:?}");
    assert_eq!((outcome.ledger.qos[1].lost, outcome.ledger.shared_twice), (0, 0));
    assert_eq!(
        (outcome.config.version.as_str(), outcome.connections.missing),
        ("3.1.1 and 5.0", 0)
    );
    let left = outcome.config.more.get("left on purpose").and_then(|count| count.parse().ok());
    assert!(left >= Some(10_u64), "{left:?}");
    assert!(code == Some(0) || code == Some(1));

    let broker = Broker::start(Faults { lose_every: 20, ..Faults::default() });
    let (code, outcome) = mixed(EXAMPLE, broker.addr, &words);
    assert_eq!(code, Some(1));
    assert!(outcome.ledger.qos[1].lost > 0 && promises(&outcome).contains(&Promise::Delivery));
}

fn mixed(file: &str, addr: SocketAddr, words: &[&str]) -> (Option<i32>, Outcome) {
    let addr = addr.to_string();
    call(&[&["mixed", file, &addr], words].concat())
}

#[test]
fn a_file_with_a_fault_is_misuse() {
    let file = std::env::temp_dir().join(format!("loadtest-{}.toml", std::process::id()));
    std::fs::write(&file, "[class.a]\ncount = 1\nqoss = 2\n").expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"))
        .arg("mixed")
        .arg(&file)
        .arg("127.0.0.1:1")
        .output()
        .expect("the harness runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("class.a.qoss: 2: unknown key"), "{said}");
    std::fs::remove_file(file).expect("it was there");
}

/// A run over three doors of one broker, while `roll` does something with them.
fn run_and_roll(broker: &Broker, words: &[&str], roll: impl Fn() + Send) -> (Option<i32>, Outcome) {
    let doors: Vec<String> = broker.doors.iter().map(ToString::to_string).collect();
    let mut all = vec![words[0]];
    all.extend(doors.iter().map(String::as_str));
    let back = ["--backoff", "fixed", "--backoff-base-ms", "50"];
    all.extend(words[1..].iter().chain(&PAIRS[1..]).chain(&back));
    thread::scope(|scope| {
        scope.spawn(move || {
            broker.wait_for(100);
            roll();
        });
        call(&all)
    })
}

#[test]
fn a_drained_node_sends_its_clients_on_and_nothing_is_lost() {
    for (protocol, follows) in [("5.0", true), ("3.1.1", false)] {
        let broker = Broker::with_doors(Faults::default(), 3);
        let words = ["drain", "--protocol", protocol, "--duration-ms", "2000"];
        let (code, outcome) = run_and_roll(&broker, &words, || broker.drain(0, Some(2)));
        assert_sound_but_for_time(code, &outcome);
        let tally = outcome.ledger.qos[1];
        assert_eq!((tally.lost, tally.unacknowledged), (0, 0), "{protocol}");
        let connections = &outcome.connections;
        assert!(connections.lost > 0 && connections.missing == 0, "{connections:?}");
        assert_eq!(connections.resumed, connections.reconnected);
        assert_eq!(connections.gap.quantiles.count, connections.lost);
        let followed = outcome.config.more.get("followed a server reference");
        let followed = followed.and_then(|count| count.parse::<u64>().ok());
        assert_eq!(followed, Some(if follows { connections.lost } else { 0 }), "{protocol}");
    }
}

#[test]
fn a_message_lost_in_a_drain_is_found() {
    let faults = Faults { lose_at_return: true, ..Faults::default() };
    let broker = Broker::with_doors(faults, 3);
    let words = ["drain", "--protocol", "5.0", "--duration-ms", "2000", "--rate", "4000"];
    let (code, outcome) = run_and_roll(&broker, &words, || broker.drain(0, Some(2)));
    let lost = outcome.ledger.qos[1].lost;
    // What was lost before its PUBACK was published again.
    assert!(lost > 0 && lost <= broker.done().lost_at_return, "{lost} {:?}", broker.done());
    assert_eq!(code, Some(1));
}

#[test]
fn an_upgrade_runs_its_command_for_each_target() {
    let log = std::env::temp_dir().join(format!("loadtest-upgrade-{}", std::process::id()));
    let command = format!("echo $INDEX $TARGET >> {}", log.display());
    let broker = Broker::with_doors(Faults::default(), 3);
    let words = ["upgrade", "--trigger", &command, "--settle-ms", "400"];
    let (code, outcome) = run_and_roll(&broker, &words, || broker.cut());
    assert_sound_but_for_time(code, &outcome);
    let said = std::fs::read_to_string(&log).expect("it was called");
    let expected: Vec<String> =
        broker.doors.iter().enumerate().map(|(at, door)| format!("{at} {door}")).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    assert_eq!(outcome.connections.lost, 16);
    std::fs::remove_file(log).expect("it was there");
}

#[test]
fn an_interrupted_run_has_an_outcome_that_says_so() {
    let broker = Broker::start(Faults::default());
    let child = Command::new(env!("CARGO_BIN_EXE_tidegate-loadtest"))
        .args(["pairs", &broker.addr.to_string(), "--json", "-", "--duration-ms", "60000"])
        .args(["--live", "off", "--workers", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the harness runs");
    thread::sleep(Duration::from_millis(1_500));
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
    assert!(sent.success());
    let output = child.wait_with_output().expect("it ends");
    let outcome = Outcome::parse(&String::from_utf8_lossy(&output.stdout)).expect("an outcome");
    assert_eq!((output.status.code(), &outcome.invalid), (Some(1), &Some(Invalid::Interrupted)));
    let tally = outcome.ledger.qos[1];
    assert!(tally.published > 100 && outcome.duration_ms < 20_000, "{}", outcome.duration_ms);
    assert_eq!((tally.delivered, outcome.ledger.verdict), (tally.published, Verdict::Good));
}

#[test]
fn closed_loops_at_qos_0_go_on_by_pings() {
    let broker = Broker::start(Faults::default());
    let words = ["fan-out", "--subscribers", "5", "--rate", "0", "--qos", "0", "--window", "16"];
    let (_, outcome) = run(broker.addr, &[&words[..], &["--duration-ms", "500"]].concat());
    let published = outcome.totals.published;
    assert!(published > 100, "{published}");
    assert_eq!(outcome.totals.delivered, published * 5);
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

#[test]
fn the_real_broker_keeps_its_promises_in_every_scenario() {
    let Some(program) = std::env::var_os("TIDEGATE_BIN") else { return };
    let real = Real::start(&program);
    let short = ["--duration-ms", "1500", "--drain-ms", "1000"];
    for words in [
        &["shared", "--groups", "3", "--members", "4", "--qos", "2"][..],
        &["wildcard", "--filters", "900", "--workers", "2"],
        &["retained", "--rate", "300", "--registers", "40", "--protocol", "5.0"],
        &["takeover", "--takeovers", "40", "--protocol", "5.0", "--pairs", "20"],
        &["takeover", "--takeovers", "40", "--qos", "2", "--pairs", "20"],
    ] {
        let (code, outcome) = run(real.addr, &[words, &short].concat());
        assert_eq!(outcome.ledger.verdict, Verdict::Good, "{words:?}");
        assert_sound_but_for_time(code, &outcome);
    }
    let (code, outcome) = mixed(EXAMPLE, real.addr, &short);
    assert_eq!(outcome.ledger.verdict, Verdict::Good);
    assert_sound_but_for_time(code, &outcome);
}

struct Real {
    child: Child,
    addr: SocketAddr,
}

impl Real {
    fn start(program: &std::ffi::OsStr) -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let name = format!("loadtest-{}-{}", std::process::id(), addr.port());
        let folder = std::env::temp_dir().join(name);
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
