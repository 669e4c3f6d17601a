//! The scenarios: what happens to the broker, and what load it is under.

pub(crate) mod kill;
pub(crate) mod load;
pub(crate) mod pressure;
pub(crate) mod sync;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::cast::Cast;
use crate::history::Event;
use crate::judge::{Concern, Rule, Verdict, judge};
use crate::killer::{Board, Killer, board};
use crate::options::{Options, Scenario};
use crate::process::Recipe;
use crate::stage::Stage;

/// After a kill the clients read what the dead process had sent, before the
/// next one is started on their thread.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(20);

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Of the scenario.
    pub(crate) name: &'static str,
    pub(crate) cast: Cast,
    pub(crate) events: Vec<Event>,
    pub(crate) verdict: Verdict,
    /// What else there is to tell, by name.
    pub(crate) told: Map<String, Value>,
    /// Where the run keeps its files.
    pub(crate) dir: PathBuf,
}

/// Runs one scenario; an outcome, or why there is none.
pub(crate) fn run(options: &Options, scenario: Scenario) -> Result<Result<Outcome, String>> {
    match scenario {
        Scenario::Kill | Scenario::PowerCut => kill::run(options, scenario),
        Scenario::FsyncFails => sync::run(options),
        Scenario::Full | Scenario::DiskWatermarks => pressure::run(options, scenario),
    }
}

/// The clients of a broker, and the board between them and its killer.
pub(crate) struct Set {
    pub(crate) scenario: Scenario,
    pub(crate) stage: Stage,
    pub(crate) board: Arc<Mutex<Board>>,
    pub(crate) dir: PathBuf,
    pub(crate) told: Map<String, Value>,
    began: Instant,
}

impl Set {
    /// Puts everything into a directory of its own. `data`: where the broker
    /// keeps its data, if not there.
    pub(crate) fn build(
        options: &Options,
        scenario: Scenario,
        data: Option<PathBuf>,
        further: &str,
    ) -> Result<(Set, Killer)> {
        ensure!(options.binary.is_file(), "there is no broker at {:?}", options.binary);
        let dir = run_dir(options, scenario);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {dir:?}"))?;
        let data = data.unwrap_or_else(|| dir.join("data"));
        let durability = options.durability(scenario);
        let mut told = Map::new();
        let mut config = config();
        let store = format!("\n[store]\ndurability = \"{durability}\"\n{further}");
        if knows(options, &dir, &store)? {
            config.push_str(&store);
            told.insert("durability".into(), durability.into());
        } else {
            told.insert("durability".into(), "this broker has no [store]".into());
        }
        let recipe = Recipe::new(options.binary.clone(), dir.clone(), data, &config)?;
        let board = Arc::<Mutex<Board>>::default();
        let killer = Killer::new(recipe, board.clone(), options.seed, options.gentle);
        let stage = Stage::new(board.clone(), options.seed);
        Ok((Set { scenario, stage, board, dir, told, began: Instant::now() }, killer))
    }

    /// Judges what happened.
    pub(crate) fn judge(self) -> Outcome {
        self.judge_with(|_| {})
    }

    /// The same, with what only the scenario knows.
    pub(crate) fn judge_with(mut self, further: impl FnOnce(&mut Verdict)) -> Outcome {
        let Set { scenario, stage, dir, .. } = self;
        let (cast, history) = (stage.world.cast, stage.world.history);
        let events = history.into_events();
        let mut verdict = judge(&cast, &events, 0);
        further(&mut verdict);
        let board = board(&self.board);
        verdict.check(Rule::Process);
        for fault in &board.faults {
            verdict.breach(Rule::Process, Concern::NOBODY, fault.clone());
        }
        self.told.extend([
            ("kills".to_owned(), json!(board.kills)),
            ("stops".to_owned(), json!(board.stops)),
            ("kills_during_start".to_owned(), json!(board.early_kills)),
            ("kills_within_100_ms".to_owned(), json!(board.double_kills)),
            ("longest_start_ms".to_owned(), json!(board.start_max.as_millis() as u64)),
            ("events".to_owned(), json!(events.len())),
            ("seconds".to_owned(), json!(self.began.elapsed().as_secs())),
        ]);
        Outcome { name: scenario.name(), cast, events, verdict, told: self.told, dir }
    }
}

/// The directory of a run, new each time.
pub(crate) fn run_dir(options: &Options, scenario: Scenario) -> PathBuf {
    let name = format!("{}-{}-{}", scenario.name(), options.seed, std::process::id());
    options.data.join(name)
}

pub(crate) fn config() -> String {
    // Room for everything: a limit that is reached drops messages rightly.
    "[node]\ndrain_seconds = 2\n[limits]\nqueue_messages_max = 10000000\nqueue_bytes_max = 17179869184\n\
     [mqtt]\nsys_interval_seconds = 0\n\
     [ebpf]\nsteer = \"off\"\ntcpstat = \"off\"\nconntrack = \"off\"\n"
        .to_owned()
}

/// Whether the broker knows a section of the config.
fn knows(options: &Options, dir: &std::path::Path, section: &str) -> Result<bool> {
    let file = dir.join("section.toml");
    fs::write(&file, section).context("cannot write a config")?;
    let mut check = Command::new(&options.binary);
    let output = check.arg("check").arg(&file).output().context("cannot start the broker")?;
    Ok(output.status.success())
}
