//! Sockets of our ports: metrics and `tidegate sockstat show` against
//! `/proc/net/tcp`, which the kernel writes by another way.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::{Broker, PATIENCE, Raw};

/// Sockets with this local port and state (`01`: established, `0A`: listening).
fn in_proc(port: u16, state: &str) -> u64 {
    let text = fs::read_to_string("/proc/net/tcp").expect("the kernel's list");
    let own = format!(":{port:04X}");
    let ours = text.lines().skip(1).filter(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        fields[1].ends_with(&own) && fields[3] == state
    });
    ours.count() as u64
}

fn sockstat(port: u16) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["sockstat", "show", "--json", "--port", &port.to_string()])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

fn sockets(told: &Value, state: &str) -> u64 {
    let rows = told["sockets"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["state"] == state);
    row.map_or(0, |row| row["sockets"].as_u64().expect("a number"))
}

/// The value of a series, by the text before it.
fn metric(broker: &Broker, series: &str) -> Option<u64> {
    let (_, text) = broker.get("/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn open_and_listening_sockets_are_as_many_as_proc_has() {
    let broker = Broker::start_with(env!("CARGO_BIN_EXE_tidegate"), "", &["--shards", "2"]);
    let port = broker.mqtt.port();
    let clients: Vec<Raw> = (0..37).map(|_| broker.raw()).collect();
    eventually("37 are open", || in_proc(port, "01") == 37);
    let told = sockstat(port);
    assert_eq!(sockets(&told, "established"), 37, "{told:#}");
    assert_eq!(sockets(&told, "listen"), in_proc(port, "0A"));
    assert_eq!(told["listening"].as_array().map(Vec::len), Some(2), "{told:#}");
    assert!(told["node"]["listen_overflows"].is_u64() && told["node"]["resets_sent"].is_u64());

    // A sample is kept for a second.
    let open = r#"tidegate_tcp_sockets{state="established"}"#;
    eventually("a scrape tells of them", || metric(&broker, open) == Some(37));
    assert_eq!(metric(&broker, r#"tidegate_tcp_sockets{state="listen"}"#), Some(2));
    for shard in 0..2 {
        let queue = |what: &str| {
            let labels = format!(r#"{{listener="default",shard="{shard}"}}"#);
            metric(&broker, &format!("tidegate_shard_accept_queue_{what}{labels}"))
        };
        assert_eq!(queue("length"), Some(0));
        assert!(queue("limit") > Some(0));
    }
    drop(clients);
    eventually("all are gone", || metric(&broker, open) == Some(0));
}

#[test]
fn counters_of_the_node_are_those_of_netstat() {
    let netstat = |name: &str| -> u64 {
        let text = fs::read_to_string("/proc/net/netstat").expect("the kernel's counters");
        let mut rows = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let mut words = || rows.next().expect("a row").split(' ');
        let at = words().position(|head| head == name).expect("a column");
        words().nth(at).expect("a value").parse().expect("a number")
    };
    let before = [netstat("ListenOverflows"), netstat("ListenDrops")];
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let told = ["overflows", "drops"].map(|what| {
        metric(&broker, &format!("tidegate_tcp_listen_{what}_total")).expect("it is there")
    });
    let after = [netstat("ListenOverflows"), netstat("ListenDrops")];
    // Others may make them grow meanwhile.
    for at in 0..2 {
        assert!((before[at]..=after[at]).contains(&told[at]), "{before:?} {told:?} {after:?}");
    }
}

#[test]
fn tables_fit_a_terminal() {
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let port = broker.mqtt.port().to_string();
    for args in [&["sockstat", "show", "--port", &port][..], &["preflight"]] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_tidegate")).args(args).output().expect("it runs");
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(said.lines().count() > 5, "{said}");
        assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
    }
}
