//! The negative suite, and its near-misses: raw bytes in, the answer of the
//! standard out.
//!
//! The tables are `wire/*.txt`, made to be read beside the standard; what they
//! may say is in `wire/table.rs` (cases), `wire/bytes.rs` (what is sent) and
//! `wire/answer.rs` (what is expected). Every expectation comes from the OASIS
//! texts, or, where those leave a choice, from what Tidegate documents; none
//! from the broker's code, whose codec is not used here.
//!
//! `WIRE_ONLY=part-of-a-name` plays some cases, `WIRE_AGAINST=address` plays the
//! cases of the default broker against another one (informative, never a proof).

#![allow(clippy::print_stdout)]

#[path = "wire/answer.rs"]
mod answer;
#[path = "wire/bytes.rs"]
mod bytes;
#[path = "wire/run.rs"]
mod run;
#[path = "wire/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use answer::answers;
use bytes::{Scope, Version};
use table::{Action, Case, Tables, Verdict};
use testkit::Broker;

/// Cases under way at once. They mostly wait, so there are more than cores.
const THREADS: usize = 24;

/// What there must be at least, in distinct cases (a case may run in three versions).
const REJECTED_MIN: usize = 500;
const ACCEPTED_MIN: usize = 200;

/// In the order of reading: what is used must come before.
const TABLES: [&str; 14] = [
    "preludes",
    "connect",
    "connect_properties",
    "publish",
    "acks",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "auth",
    "ping",
    "framing",
    "utf8",
    "limits",
    "session",
];

fn tables() -> Tables {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let mut tables = Tables::default();
    for name in TABLES {
        let text = std::fs::read_to_string(dir.join(format!("{name}.txt"))).expect(name);
        tables.read(name, &text).unwrap_or_else(|e| panic!("{e}"));
    }
    for entry in std::fs::read_dir(dir).expect("the directory of the tables") {
        let path = entry.expect("an entry of it").path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let read = path.extension().is_none_or(|e| e != "txt") || TABLES.contains(&stem);
        assert!(read, "{} is not in TABLES", path.display());
    }
    tables
}

#[test]
fn the_tables_are_sound_and_hold_enough() {
    let tables = tables();
    let mut names = BTreeSet::new();
    let mut counts: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    let mut unsound = Vec::new();
    for case in &tables.cases {
        let mut complain = |why: &str| {
            unsound.push(format!("{}.txt:{}: {}: {why}", case.file, case.line, case.name));
        };
        if !names.insert(&case.name) {
            complain("the name is taken");
        }
        for &version in &case.versions {
            if let Err(why) = check(case, version) {
                complain(&why);
            }
        }
        let counts = counts.entry(case.file).or_default();
        let at = if case.verdict == Verdict::Reject { 0 } else { 2 };
        counts[at] += 1;
        counts[at + 1] += case.versions.len();
    }
    assert!(unsound.is_empty(), "\n{}", unsound.join("\n"));
    println!("{:20} {:>14} {:>14}", "table", "refused (runs)", "taken (runs)");
    let mut sum = [0; 4];
    for (file, counts) in counts {
        let [rejected, reject_runs, accepted, accept_runs] = counts;
        println!("{file:20} {rejected:7} ({reject_runs:4}) {accepted:7} ({accept_runs:4})");
        sum.iter_mut().zip(counts).for_each(|(s, n)| *s += n);
    }
    println!("{:20} {:7} ({:4}) {:7} ({:4})", "all", sum[0], sum[1], sum[2], sum[3]);
    assert!(sum[0] >= REJECTED_MIN, "{} sequences to refuse", sum[0]);
    assert!(sum[2] >= ACCEPTED_MIN, "{} sequences to take", sum[2]);
}

/// That a case can be played, and expects what its verdict says.
fn check(case: &Case, version: Version) -> Result<(), String> {
    let mut refusals = 0;
    let mut last_wanted = false;
    for step in &case.steps {
        let scope = Scope { version, tag: "n0n".to_owned(), conn: step.conn };
        last_wanted = false;
        match &step.action {
            Action::Send(text) | Action::Drip(text) => drop(bytes::bytes(text, &scope)?),
            Action::Want(text) => {
                last_wanted = true;
                let wanted = answers(text, &scope)?;
                refusals += usize::from(wanted.iter().all(answer::Answer::refuses));
            }
            Action::Abort | Action::Finish | Action::Pause(_) => {}
        }
    }
    if !last_wanted {
        return Err("the last step expects nothing".into());
    }
    match case.verdict {
        Verdict::Reject if refusals == 0 => Err("to be refused, but nothing refuses".into()),
        Verdict::Reject | Verdict::Accept => Ok(()),
    }
}

#[test]
fn every_sequence_gets_the_answer_of_the_standard() {
    let tables = tables();
    let only = std::env::var("WIRE_ONLY").unwrap_or_default();
    let against: Option<SocketAddr> =
        std::env::var("WIRE_AGAINST").ok().map(|a| a.parse().expect("WIRE_AGAINST: an address"));
    let mut brokers: BTreeMap<&str, Broker> = BTreeMap::new();
    let mut runs: Vec<(&Case, Version)> = Vec::new();
    for case in tables.cases.iter().filter(|c| c.name.contains(&only)) {
        if against.is_some() && case.broker != "default" {
            continue;
        }
        if against.is_none() && !brokers.contains_key(&*case.broker) {
            let config = &tables.brokers[&case.broker];
            brokers.insert(&case.broker, Broker::start(env!("CARGO_BIN_EXE_tidegate"), config));
        }
        runs.extend(case.versions.iter().map(|&v| (case, v)));
    }

    let next = AtomicUsize::new(0);
    let failures: Mutex<Vec<(usize, String)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(case, version)) = runs.get(i) else { return };
                    let at = against.unwrap_or_else(|| brokers[&*case.broker].mqtt);
                    if let Err(story) = run::play(case, version, &format!("n{i}n"), at) {
                        failures.lock().expect("no thread panics").push((i, story));
                    }
                }
            });
        }
    });

    let mut failures = failures.into_inner().expect("no thread panics");
    failures.sort();
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (i, (case, _)) in runs.iter().enumerate() {
        let counts = counts.entry(case.file).or_default();
        counts.0 += 1;
        counts.1 += usize::from(failures.binary_search_by_key(&i, |f| f.0).is_ok());
    }
    for (file, (played, wrong)) in counts {
        println!("{file:20} {played:5} played {wrong:5} wrong");
    }
    for (_, story) in &failures {
        println!("{story}");
    }
    for (name, broker) in &mut brokers {
        assert!(broker.alive(), "the broker `{name}` did not survive");
    }
    assert!(failures.is_empty(), "{} of {} sequences went wrong", failures.len(), runs.len());
}
