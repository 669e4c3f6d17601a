//! Steering as an operator sees it: what is in effect, weights, what is refused
//! in the kernel; and that nothing of it is needed.
//!
//! The kernel's part wants root. Where it cannot be had the tests say so and
//! look at the broker without it; with `TIDEGATE_EBPF_TESTS` set they fail.

#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::Command;

use socket2::{Domain, Protocol, Socket, Type};
use testkit::Broker;
use testkit::client::{Client, Connect, Version};

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

/// Runs a command against the node; what it printed, and whether it went well.
fn ask(broker: &Broker, arguments: &[&str]) -> (bool, String) {
    let done = Command::new(BINARY)
        .args(arguments)
        .arg("--data-dir")
        .arg(broker.dir().join("data"))
        .output()
        .expect("run");
    let text = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8(text).expect("UTF-8"))
}

/// Whether the program is in effect; what the node says of it must be true.
fn is_steered(broker: &Broker) -> bool {
    let (ok, status) = ask(broker, &["bpf", "status"]);
    assert!(ok, "{status}");
    let on = status.starts_with("steer      on");
    let required = std::env::var("TIDEGATE_EBPF_TESTS").is_ok_and(|v| v != "optional");
    assert!(on || !required, "TIDEGATE_EBPF_TESTS is set, and: {status}");
    if !on {
        eprintln!("NOT RUN in the kernel: {status}");
    }
    on
}

fn metric(broker: &Broker, series: &str) -> Option<u64> {
    let (_, text) = broker.get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse::<f64>().expect("a number") as u64)
}

fn crowd(broker: &Broker, count: usize) -> Vec<Client> {
    let id = |n: usize| format!("crowd-{n}");
    (0..count).map(|n| Connect::new(Version::V5, &id(n)).open(broker.mqtt)).collect()
}

fn connections(broker: &Broker) -> Vec<u64> {
    let of = |shard: usize| {
        let labels = format!(r#"{{listener="default",transport="tcp",shard="{shard}"}}"#);
        metric(broker, &format!("tidegate_connections{labels}")).expect("a gauge")
    };
    (0..4).map(of).collect()
}

fn from(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddrV4::new(source, 0).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

#[test]
fn shards_have_the_same_number_of_connections_and_a_drained_one_no_new_ones() {
    let broker = Broker::start_with(BINARY, "", &["--shards", "4"]);
    let steered = is_steered(&broker);
    let first = crowd(&broker, 40);
    if steered {
        assert_eq!(connections(&broker), [10; 4]);
    }
    let (ok, said) = ask(&broker, &["shard", "weight", "set", "2", "0"]);
    assert_eq!(ok, steered, "{said}");
    if !steered {
        assert!(said.contains("steering is off"), "{said}");
        return;
    }
    assert_eq!(said, "listener default: weight of shard 2: 100 -> 0\n");
    let mut more: Vec<_> = (0..30)
        .map(|n| Connect::new(Version::V5, &format!("more-{n}")).open(broker.mqtt))
        .collect();
    assert_eq!(connections(&broker), [20, 20, 10, 20]);
    drop(first);
    more.iter_mut().for_each(Client::ping);
    let labels = r#"{listener="default",shard="2"}"#;
    assert_eq!(metric(&broker, &format!("tidegate_shard_steering_weight{labels}")), Some(0));
    let (_, shown) = ask(&broker, &["shard", "show"]);
    assert!(shown.contains("WEIGHT default"), "{shown}");
    // The config has the last word.
    broker.reload("[listener.default]\nshard_weights = [0, 100, 50]\n");
    broker.says("config reloaded");
    let weight = |shard| {
        let labels = format!(r#"{{listener="default",shard="{shard}"}}"#);
        metric(&broker, &format!("tidegate_shard_steering_weight{labels}"))
    };
    assert_eq!([0, 1, 2, 3].map(weight), [Some(0), Some(100), Some(50), Some(100)]);
}

#[test]
fn faulty_weights_are_refused_with_what_would_do() {
    let broker = Broker::start(BINARY, "");
    let steered = is_steered(&broker);
    for (arguments, wanted) in [
        (&["shard", "weight", "set", "2", "5"][..], "shard 2: there are shards 0 to 1"),
        (&["shard", "weight", "set", "0", "101"], "101 is not in 0..=100"),
        (
            &["shard", "weight", "set", "0", "5", "--listener", "who"],
            "none of this node's: default",
        ),
    ] {
        let (ok, said) = ask(&broker, arguments);
        let off = !steered && said.contains("steering is off");
        assert!(!ok && (said.contains(wanted) || off), "{said}");
    }
    if steered {
        assert!(ask(&broker, &["shard", "weight", "set", "0", "0"]).0);
        let (ok, said) = ask(&broker, &["shard", "weight", "set", "1", "0"]);
        assert!(!ok && said.contains("shard 1 is the last with a weight above 0"), "{said}");
    }
}

/// The same whether the kernel or the broker sees to it.
#[test]
fn blocked_sources_and_rates_hold_with_the_kernel_and_without() {
    for steer in ["auto", "off"] {
        let text = format!(
            "[ebpf]\nsteer = \"{steer}\"\n[listener.default]\n\
             blocked_sources = [\"127.66.0.0/16\"]\nconnects_per_second = 1\nconnects_burst = 5\n"
        );
        let broker = Broker::start(BINARY, &text);
        let in_kernel = steer == "auto" && is_steered(&broker);
        let blocked = from(Ipv4Addr::new(127, 66, 1, 1), broker.mqtt);
        match (in_kernel, blocked) {
            (true, blocked) => drop(blocked.expect_err("the kernel refuses")),
            (false, blocked) => closes(blocked.expect("the kernel lets it in")),
        }
        let mut clients: Vec<_> = (0..5)
            .map(|n| Connect::new(Version::V311, &format!("in-{n}")).open(broker.mqtt))
            .collect();
        match (in_kernel, from(Ipv4Addr::new(127, 1, 1, 1), broker.mqtt)) {
            (true, sixth) => drop(sixth.expect_err("above the rate")),
            (false, sixth) => closes(sixth.expect("the kernel lets it in")),
        }
        clients.iter_mut().for_each(Client::ping);
        let count = |reason: &str, kernel: &str| match in_kernel {
            true => {
                let labels = format!(r#"{{listener="default",reason="{kernel}"}}"#);
                metric(&broker, &format!("tidegate_kernel_refused_connections_total{labels}"))
            }
            false => {
                let labels = format!(r#"{{listener="default",reason="{reason}"}}"#);
                metric(&broker, &format!("tidegate_connections_rejected_total{labels}"))
            }
        };
        assert_eq!(count("blocked", "blocked"), Some(1), "steer = {steer}");
        assert_eq!(count("rate", "rate"), Some(1), "steer = {steer}");
    }
}

/// Reads until the end, which must come.
fn closes(mut socket: TcpStream) {
    use std::io::Read;
    let _ = socket.set_read_timeout(Some(std::time::Duration::from_secs(10)));
    let got = socket.read(&mut [0; 64]);
    assert!(!got.as_ref().is_ok_and(|n| *n > 0), "{got:?}");
    assert!(got.map_or_else(|e| e.kind() != std::io::ErrorKind::WouldBlock, |_| true));
}

#[test]
fn off_is_off_and_the_broker_is_the_same() {
    let broker = Broker::start(BINARY, "[ebpf]\nsteer = \"off\"\n");
    broker.says("eBPF steering is off");
    let mut clients = crowd(&broker, 8);
    clients.iter_mut().for_each(Client::ping);
    let (_, status) = ask(&broker, &["bpf", "status", "--json"]);
    assert!(status.contains(r#""why": "ebpf.steer = \"off\"""#), "{status}");
    assert_eq!(metric(&broker, r#"tidegate_bpf_program_loaded{program="steer"}"#), Some(0));
    let absent = r#"tidegate_shard_steering_weight{listener="default",shard="0"}"#;
    assert_eq!(metric(&broker, absent), None, "absent, not 0");
}

#[test]
fn a_node_has_no_capability_once_it_serves() {
    let broker = Broker::start(BINARY, "");
    let threads = std::fs::read_dir(format!("/proc/{}/task", broker.pid())).expect("threads");
    let mut seen = 0;
    for thread in threads {
        let status = thread.expect("listed").path().join("status");
        let status = std::fs::read_to_string(status).expect("alive");
        let name = status.lines().next().unwrap_or_default().to_owned();
        for set in ["CapEff:\t", "CapPrm:\t", "CapInh:\t", "CapAmb:\t"] {
            let value = status.lines().find_map(|line| line.strip_prefix(set)).expect("a set");
            assert_eq!(value.trim_start_matches('0'), "", "{set} of {name}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{name}");
        seen += 1;
    }
    assert!(seen > 3, "{seen} threads");
}
