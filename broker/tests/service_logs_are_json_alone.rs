//! With `log.format = "json"` a collector of logs meets nothing but JSON.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use testkit::Broker;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
const JSON: &str = "[log]\nformat = \"json\"\n";

fn objects(text: &str) -> Vec<Value> {
    let parse = |line: &str| match serde_json::from_str(line) {
        Ok(value @ Value::Object(_)) => value,
        other => panic!("{other:?} is no object: {line}"),
    };
    text.lines().map(parse).collect()
}

fn run(config: &str, args: &[&str]) -> Output {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("tidegate-json-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    let file = dir.join("tidegate.toml");
    std::fs::write(&file, config).expect("write the config");
    let mut command = Command::new(BINARY);
    command.arg("run").arg("--config").arg(&file).arg("--data-dir").arg(dir.join("data"));
    let output = command.args(args).output();
    let _ = std::fs::remove_dir_all(dir);
    output.expect("run the broker")
}

#[test]
fn from_the_first_line_to_the_last() {
    let mut broker = Broker::start(BINARY, JSON);
    assert_eq!(broker.terminate(), Some(0));
    let lines = objects(&broker.said_to_the_end());
    let find = |message: &str| {
        let found = lines.iter().find(|line| line["message"] == message);
        found.unwrap_or_else(|| panic!("no {message:?} in {lines:?}"))
    };
    let mqtt = find("listening mqtt");
    assert_eq!(mqtt["listener"], "default");
    assert_eq!(mqtt["address"], broker.mqtt.to_string());
    assert_eq!(find("listening admin")["address"], broker.admin.to_string());
    find("ready");
    assert_eq!(lines.last().expect("lines")["message"], "stopped", "the end is flushed");
    for line in &lines {
        for key in ["timestamp", "level", "target", "message"] {
            assert!(line[key].is_string(), "{line}");
        }
    }
}

#[test]
fn a_start_that_fails_says_why_in_json() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = run(JSON, &["--listen", "127.0.0.1:0", "--admin", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let lines = objects(&String::from_utf8_lossy(&output.stdout));
    let last = lines.last().expect("a line");
    assert_eq!((&last["level"], &last["message"]), (&"ERROR".into(), &"cannot run".into()));
    assert!(last["error"].as_str().expect("text").contains(&address), "{last}");
}

#[test]
fn the_announcements_come_at_any_level() {
    let config = "[log]\nformat = \"json\"\nlevel = \"error\"\nlines_per_second = 1\n";
    // The start waits for them.
    let mut broker = Broker::start(BINARY, config);
    assert_eq!(broker.terminate(), Some(0));
    assert_eq!(objects(&broker.said_to_the_end()).len(), 3, "{}", broker.said());
}

#[test]
fn plain_lines_and_their_announcements_go_to_stdout() {
    let mut broker = Broker::start(BINARY, "");
    assert_eq!(broker.terminate(), Some(0));
    let said = broker.said_to_the_end();
    assert!(said.contains(" INFO tidegate::node: tidegate starts version="), "{said}");
    assert!(said.contains(&format!("\nlistening mqtt default {}\n", broker.mqtt)), "{said}");
    assert!(said.contains("\nready\n"), "{said}");
    assert!(said.trim_end().ends_with("stopped"), "{said}");
}

#[test]
fn with_the_log_on_stderr_stdout_has_the_announcements_alone() {
    let mut broker = Broker::start(BINARY, "[log]\noutput = \"stderr\"\n");
    assert_eq!(broker.terminate(), Some(0));
    let expected = format!(
        "listening mqtt default {}\nlistening admin {}\nready\n",
        broker.mqtt, broker.admin
    );
    assert_eq!(broker.said_to_the_end(), expected);
}
