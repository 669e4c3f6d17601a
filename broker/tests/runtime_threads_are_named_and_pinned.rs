//! One thread a shard, named, on a core of its own.

use std::collections::BTreeMap;
use std::fs;

use testkit::Broker;

/// The cores that each thread of a process may run on, by the thread's name.
fn threads(pid: u32) -> BTreeMap<String, String> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("the threads") {
        let dir = task.expect("a thread").path();
        let name = fs::read_to_string(dir.join("comm")).expect("its name");
        let status = fs::read_to_string(dir.join("status")).expect("its status");
        let cores = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .expect("its cores");
        threads.insert(name.trim().to_owned(), cores.trim().to_owned());
    }
    threads
}

#[test]
fn each_shard_has_a_core_when_there_are_enough() {
    let cores = std::thread::available_parallelism().expect("the cores").get().min(2);
    let broker =
        Broker::start_with(env!("CARGO_BIN_EXE_tidegate"), "", &["--shards", &cores.to_string()]);
    let threads = threads(broker.pid());
    let mut pinned: Vec<&String> = (0..cores).map(|n| &threads[&format!("shard-{n}")]).collect();
    assert!(pinned.iter().all(|cores| cores.parse::<usize>().is_ok()), "{threads:?}");
    pinned.dedup();
    assert_eq!(pinned.len(), cores, "{threads:?}");
}

#[test]
fn more_shards_than_cores_are_not_pinned() {
    let cores = std::thread::available_parallelism().expect("the cores").get();
    if cores >= 64 {
        return;
    }
    let shards = (cores + 1).to_string();
    let broker = Broker::start_with(env!("CARGO_BIN_EXE_tidegate"), "", &["--shards", &shards]);
    let threads = threads(broker.pid());
    let name = format!("shard-{cores}");
    assert_eq!(threads[&name], threads["tidegate"], "{threads:?}");
}
