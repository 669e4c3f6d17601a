//! Runs in processes of their own, whose random numbers depend on the seed alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use crate::node::Plant;
use crate::world::{Plan, play};

const SEED: &str = "TIDEGATE_TURMOIL_SEED";
const PLAN: &str = "TIDEGATE_TURMOIL_PLAN";
const PLANT: &str = "TIDEGATE_TURMOIL_PLANT";

/// A run in which every promise was kept.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) trace: String,
    happened: BTreeMap<String, u64>,
}

impl Ran {
    pub(crate) fn times(&self, what: &str) -> u64 {
        self.happened.get(what).copied().unwrap_or_default()
    }
}

/// A promise that was not kept.
#[derive(Debug)]
pub(crate) struct Found(pub(crate) String);

/// Runs a seed and says what was found.
pub(crate) fn one(plan: Plan, seed: u64, plant: Option<Plant>) -> Result<Ran, Found> {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["run_of_one_seed", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", library())
        .env(SEED, seed.to_string())
        .env(PLAN, format!("{plan:?}"))
        .env_remove(PLANT);
    if let Some(plant) = plant {
        command.env(PLANT, format!("{plant:?}"));
    }
    let out = command.output().expect("this test again");
    let (said, wrong) =
        (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if let Some(found) = said.lines().find_map(|line| line.strip_prefix("found: ")) {
        return Err(Found(found.to_owned()));
    }
    let mut happened = BTreeMap::new();
    let mut trace = None;
    for line in said.lines() {
        match line.split_once(": ") {
            Some(("trace", hash)) => trace = Some(hash.to_owned()),
            Some((what, times)) => {
                if let Some((what, times)) = what.strip_prefix("happened ").zip(times.parse().ok())
                {
                    happened.insert(what.to_owned(), times);
                }
            }
            None => {}
        }
    }
    match trace {
        Some(trace) if out.status.success() => Ok(Ran { trace, happened }),
        Some(_) | None => Err(Found(format!("the run broke off: {said}\n{wrong}"))),
    }
}

/// Runs all of them, as many at a time as there are processors; panics with each
/// that was not kept.
pub(crate) fn all(plan: Plan, seeds: &[u64], plant: Option<Plant>) -> Vec<Ran> {
    let next = AtomicUsize::new(0);
    let ran = Mutex::new(Vec::new());
    let found = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, usize::from).min(seeds.len());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match one(plan, seed, plant) {
                        Ok(one) => ran.lock().expect("no panic").push(one),
                        Err(Found(what)) => found.lock().expect("no panic").push(format!(
                            "{what}\n  again: TIDEGATE_TURMOIL_SEEDS={seed}..{} cargo test -p \
                             tidegate --test turmoil",
                            seed + 1
                        )),
                    }
                }
            });
        }
    });
    let found = found.into_inner().expect("no panic");
    assert!(found.is_empty(), "{plan:?}: {} of {}\n{}", found.len(), seeds.len(), found.join("\n"));
    ran.into_inner().expect("no panic")
}

/// The library with the random numbers; made once a process.
fn library() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/turmoil/getrandom.c");
        let own = dir.join(format!("getrandom-{}.so", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&own, &source])
            .arg("-ldl")
            .status()
            .expect("a C compiler, `cc`");
        assert!(compiled.success(), "cc: {compiled}");
        let made = dir.join("getrandom.so");
        // Another process of this test may do the same now.
        std::fs::rename(own, &made).expect("one directory");
        made
    })
}

/// What the process of one run does.
pub(crate) fn child() {
    let Ok(seed) = std::env::var(SEED) else { return };
    let seed = seed.parse().expect("a number");
    let plan = std::env::var(PLAN).unwrap_or_default();
    let plan = [Plan::Chaos, Plan::Lagging].into_iter().find(|it| format!("{it:?}") == plan);
    let plant = std::env::var(PLANT).unwrap_or_default();
    let plant = Plant::ALL.into_iter().find(|it| format!("{it:?}") == plant);
    println!();
    match play(plan.unwrap_or(Plan::Chaos), seed, plant) {
        Ok(ran) => {
            println!("happened acknowledged: {}", ran.acked);
            for (what, times) in ran.happened.0 {
                println!("happened {what}: {times}");
            }
            println!("trace: {:016x}", ran.trace);
        }
        Err(what) => println!("found: seed {seed}, {plan:?}: {}", what.replace('\n', "; ")),
    }
}
