//! `tidegate-sim [--cluster] --seeds N --from S [--plant NAME] [--minutes M] [--threads T]`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for a terminal")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tidegate_sim::cluster::{self, Hole};
use tidegate_sim::{Outcome, Plant, Stats, run};

#[derive(Clone, Copy)]
struct Args {
    seeds: u64,
    from: u64,
    plant: Option<Plant>,
    minutes: Option<u64>,
    threads: usize,
    keep_going: bool,
    whole: bool,
    cluster: bool,
    hole: Option<Hole>,
    trace: bool,
}

impl Args {
    fn run(&self, seed: u64) -> Outcome {
        match self.cluster {
            true => {
                let (hole, trace) = (self.hole, self.trace);
                cluster::run(seed, cluster::Options { hole, favour: hole, trace })
            }
            false => run(seed, self.plant),
        }
    }

    /// Tells what happened around the first failure, or all of it.
    fn story(&self, outcome: &Outcome) {
        let Some(failure) = outcome.failures.first() else { return };
        for line in outcome.history.story(failure.message, failure.client) {
            println!("  {line}");
        }
        if self.whole {
            for (at, entry) in outcome.history.iter() {
                println!("{at:6} {entry}");
            }
        }
    }
}

const USAGE: &str = "usage: tidegate-sim [--cluster] [--seeds N | --seeds A..B] [--from S] \
                     [--plant NAME] [--minutes M] [--threads T] [--keep-going] [--whole] \
                     [--trace]";

fn parse() -> Result<Args, String> {
    let mut parsed = Args {
        seeds: 100,
        from: 0,
        plant: None,
        minutes: None,
        threads: 1,
        keep_going: false,
        whole: false,
        cluster: false,
        hole: None,
        trace: false,
    };
    let mut planted = None;
    let mut args = std::env::args().skip(1);
    while let Some(key) = args.next() {
        let mut value = || args.next().ok_or(format!("{key} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match key.as_str() {
            "--seeds" => {
                let text = value()?;
                match text.split_once("..") {
                    Some((from, to)) => {
                        parsed.from = number(from.into())?;
                        parsed.seeds = number(to.into())?.saturating_sub(parsed.from);
                    }
                    None => parsed.seeds = number(text)?,
                }
            }
            "--from" => parsed.from = number(value()?)?,
            "--minutes" => parsed.minutes = Some(number(value()?)?),
            "--threads" => parsed.threads = number(value()?)?.clamp(1, 64) as usize,
            "--plant" => planted = Some(value()?),
            "--cluster" => parsed.cluster = true,
            "--trace" => parsed.trace = true,
            "--keep-going" => parsed.keep_going = true,
            "--whole" => parsed.whole = true,
            _ => return Err(USAGE.into()),
        }
    }
    let Some(name) = planted else { return Ok(parsed) };
    parsed.plant = Plant::named(&name).filter(|_| !parsed.cluster);
    parsed.hole = Hole::named(&name).filter(|_| parsed.cluster);
    if parsed.plant.is_none() && parsed.hole.is_none() {
        let names: Vec<&str> = match parsed.cluster {
            true => Hole::ALL.iter().map(|(name, _)| *name).collect(),
            false => Plant::ALL.iter().map(|(name, _)| *name).collect(),
        };
        return Err(format!("{name}: one of {}", names.join(", ")));
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let end = args.minutes.map(|minutes| began + Duration::from_secs(60 * minutes));
    let mut total = Stats::default();
    let (mut seeds, mut failed) = (0u64, 0u64);
    let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::sync_channel(args.threads);
        for _ in 0..args.threads {
            let (tell, next, over) = (tell.clone(), &next, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let last = match end {
                        Some(end) => Instant::now() >= end,
                        None => nth >= args.seeds,
                    };
                    let seed = args.from.saturating_add(nth);
                    if last || tell.send((seed, args.run(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for (seed, outcome) in told {
            seeds += 1;
            total.add(&outcome.stats);
            if let Some(failure) = outcome.failures.first() {
                failed += 1;
                println!("seed {seed} ({} failures): {failure}", outcome.failures.len());
                if !args.keep_going {
                    over.store(true, Ordering::Relaxed);
                    args.story(&outcome);
                    break;
                }
            }
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds in {seconds:.1} s ({:.1} seeds/s), {failed} failed; {} steps, {} faults, \
         {} restarts, {} messages, {} events, {} segments removed",
        seeds as f64 / seconds,
        total.steps,
        total.faults,
        total.restarts,
        total.messages,
        total.events,
        total.removed
    );
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
