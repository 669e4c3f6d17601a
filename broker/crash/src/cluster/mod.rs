//! Clusters of real processes, with links that are cut, disks that are lost and
//! nodes that are killed, under the same load and the same judge as one node.
//!
//! What is done stands in a table ([`plan`]); the [`director`] does it to the
//! [`fleet`] over the [`network`], while the clients are spread over the nodes.

mod company;
mod director;
mod fleet;
mod network;
mod options;
mod plan;
mod up;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Map, json};

use crate::history::{Mark, What};
use crate::judge::{Concern, Rule, judge, resumed};
use crate::killer::{Board, board};
use crate::line::Manner;
use crate::scenario::Outcome;
use crate::signals::end_on_signals;
use crate::stage::Stage;
use director::Director;
use fleet::{Fleet, Make};
use network::Network;
use options::{Options, USAGE};
use plan::{SCENARIOS, Scenario, Step};
pub(crate) use up::up;

/// How clients deal with a node that does not answer: they go to another one.
const MANNER: Manner = Manner {
    answer: Duration::from_secs(8),
    silence: Some((Duration::from_secs(4), Duration::from_secs(14))),
    backoff: Duration::from_millis(100),
};

/// What a cluster may take to say that a connection is gone with its node: its
/// lease, and five seconds of grace.
const GRACE_US: u64 = 8_000_000;

/// No delivery for so long: all that was owed has come.
const QUIET: Duration = Duration::from_secs(3);

/// How long each part of the end may take.
const DRAIN: Duration = Duration::from_secs(60);

/// The longest will delay, the grace, and what the judge allows beyond them.
const WILLS: Duration = Duration::from_secs(14);

/// Runs scenarios.
#[allow(clippy::print_stderr, clippy::print_stdout)]
pub(crate) fn test(args: &[String]) -> ExitCode {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    if options.list {
        for scenario in SCENARIOS {
            let when = if scenario.subset { "CI" } else { "--all" };
            println!("{:<18} {when:<6} {}", scenario.name, scenario.about);
        }
        return ExitCode::SUCCESS;
    }
    if !options.loopback
        && let Err(error) = network::enter()
    {
        eprintln!("cluster-test: {error:#}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = end_on_signals() {
        eprintln!("cluster-test: {error:#}");
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    let mut lines = Vec::new();
    let mut good = true;
    for scenario in &options.scenarios {
        let since = Instant::now();
        let word = match perform(&options, scenario) {
            Ok(Some(true)) => "passed".to_owned(),
            Ok(Some(false)) => "FAILED".to_owned(),
            Ok(None) => "SKIPPED".to_owned(),
            Err(error) => {
                eprintln!("{}: {error:#}", scenario.name);
                "FAILED".to_owned()
            }
        };
        good &= word != "FAILED" && !(word == "SKIPPED" && options.no_skip);
        lines.push(format!("{:<18} {:>4} s  {word}", scenario.name, since.elapsed().as_secs()));
    }
    println!("\n{}\nseed {}, {} s", lines.join("\n"), options.seed, began.elapsed().as_secs());
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one scenario; whether it passed, or none if it cannot run.
#[allow(clippy::print_stderr, clippy::print_stdout)]
fn perform(options: &Options, scenario: &Scenario) -> Result<Option<bool>> {
    if scenario.wants_network() && options.loopback {
        println!("{}: SKIPPED, it cuts links, and loopback has none", scenario.name);
        return Ok(None);
    }
    eprintln!("\n{}: {}; seed {}", scenario.name, scenario.about, options.seed);
    let outcome = run(options, scenario)?;
    let lost = outcome.verdict.row(Rule::Loss).breaches;
    let passed = crate::conclude(&outcome, options.seed, options.plant, options.keep)?;
    if options.plant && lost == 0 {
        println!("{}: FAILED, nodes that know nothing of each other lost nothing", scenario.name);
        return Ok(Some(false));
    }
    Ok(Some(passed))
}

fn run(options: &Options, scenario: &Scenario) -> Result<Outcome> {
    ensure!(options.binary.is_file(), "there is no broker at {:?}", options.binary);
    let began = Instant::now();
    // The same each time: the process is the first of its own namespace.
    let dir = options.data.join(format!("{}-{}", scenario.name, options.seed));
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {dir:?}"))?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {dir:?}"))?;
    let joined = scenario.nodes > 1 && !options.plant;
    let holds_back = scenario.has_two_versions() && options.older.is_none();
    let older = options.older.clone().filter(|_| scenario.has_two_versions());
    let (binary, replicas) = (options.binary.clone(), scenario.replicas);
    let make = Make { binary, older, holds_back, dir: dir.clone(), joined, replicas };
    let network = if options.loopback { Network::loopback() } else { Network::bridge()? };
    let fleet = Fleet::new(make, network, scenario.nodes)?;
    fleet.check()?;

    let shared = Arc::<Mutex<Board>>::default();
    let mut stage = Stage::new(shared.clone(), options.seed);
    stage.world.manner = MANNER;
    company::everyone(&mut stage, options.rate);
    let retained = stage.world.cast.filter("r/#");
    stage.reads = Some((retained, Duration::from_millis(500)));
    let nodes = fleet.count();
    let waits = replicas == Some(2);
    let director = Director::new(fleet, shared.clone(), joined, waits).perform(scenario.steps);
    let patience = limit(scenario);
    let done = stage.play_until(patience, |_| board(&shared).done)?;
    ensure!(done, "the plan took more than {} s", patience.as_secs());
    let director = director.join().map_err(|_| anyhow!("the director panicked"))?;
    let over = Arc::new(AtomicBool::new(false));
    let watch = director.watch(over.clone());

    let mut told = Map::new();
    let calm = What::Done { mark: Mark::Calm, within_ms: None };
    board(&shared).happened.push((Instant::now(), calm));
    if board(&shared).faults.is_empty() {
        stage.calm_down();
        let mut settled = stage.settle(DRAIN)?;
        stage.probe()?;
        settled &= stage.drain(QUIET, DRAIN)?;
        stage.play(WILLS)?;
        settled &= stage.drain(QUIET, DRAIN)?;
        // At every node: a reader goes to the door behind that of the one before.
        for _ in 0..nodes {
            stage.read_all(retained)?;
        }
        told.insert("settled".into(), settled.into());
    } else {
        // The events that are still on the board.
        stage.play(Duration::from_millis(50))?;
    }
    over.store(true, Ordering::Relaxed);
    watch.join().map_err(|_| anyhow!("the director panicked"))?;
    let (cast, events) = (stage.world.cast, stage.world.history.into_events());
    let mut verdict = judge(&cast, &events, GRACE_US);
    verdict.check(Rule::Process);
    let board = board(&shared);
    for fault in &board.faults {
        verdict.breach(Rule::Process, Concern::NOBODY, fault.clone());
    }
    let times = resumed::times(&cast, &events);
    if options.strict_times {
        resumed::judge(&cast, &times, &mut verdict);
    }
    for time in &times {
        let when = time.at as f64 / 1e6;
        told.insert(format!("{when:>7.2} s, {}; longest wait", time.mark), json!(time.told(&cast)));
    }
    told.extend([
        ("kills".to_owned(), json!(board.kills)),
        ("stops".to_owned(), json!(board.stops)),
        ("longest_ready_ms".to_owned(), json!(board.start_max.as_millis() as u64)),
        ("events".to_owned(), json!(events.len())),
        ("seconds".to_owned(), json!(began.elapsed().as_secs())),
    ]);
    Ok(Outcome { name: scenario.name, cast, events, verdict, told, dir })
}

/// How long a plan may take: what it waits, and what everything else may take.
fn limit(scenario: &Scenario) -> Duration {
    let steps = scenario.steps.iter().map(|step| match step {
        Step::Wait(ms) => Duration::from_millis(*ms),
        Step::Ready | Step::Leave(_) => Duration::from_secs(65),
        Step::Stop(_) | Step::Renew(_) => Duration::from_secs(25),
        Step::Kill(_)
        | Step::KillAll
        | Step::Start(_)
        | Step::StartAll
        | Step::Pause(_)
        | Step::Resume(_)
        | Step::Cut(..)
        | Step::CutOneWay(..)
        | Step::Split(_)
        | Step::Slow(..)
        | Step::Heal
        | Step::Wipe(_)
        | Step::Corrupt(_)
        | Step::Readdress
        | Step::Upgrade(_) => Duration::from_secs(5),
    });
    Duration::from_secs(240) + steps.sum::<Duration>()
}
