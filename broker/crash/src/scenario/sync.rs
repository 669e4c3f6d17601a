//! A device that fails: every sync or write of the log fails from a random
//! moment on. The broker must end at once with a status of its own, must not
//! have acknowledged anything after the last sync that succeeded, and must
//! come back with all it acknowledged before.
//!
//! The page cache outlives the process here, so what a real device would have
//! lost is there after the restart; that nothing was acknowledged without a
//! sync is seen by the clients instead, while the syncs fail.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{LAST_WORDS, Outcome, Set, kill, load};
use crate::dice::Dice;
use crate::faults::{Faults, files_below};
use crate::history::What;
use crate::judge::{Concern, Rule, Verdict};
use crate::killer::{Killer, board};
use crate::options::{Options, Scenario};

/// Within this time the process has to be gone once a sync has failed; under
/// this load there are many a second.
const AT_ONCE: Duration = Duration::from_secs(3);

/// How long it stays away, on average a few syncs.
const DELAY: (u64, u64) = (100, 1_500);

/// Statuses that say something else: success, an ordinary error, a misuse, a
/// panic (ours and Rust's).
const TAKEN: [i32; 5] = [0, 1, 2, 70, 101];

/// What fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Failing {
    /// Every sync, from a moment under load on.
    Sync,
    /// Every sync, from a moment in the start on.
    SyncInStart,
    /// Every write to a file of the log.
    Write,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<Result<Outcome, String>> {
    let further = "segment_bytes = 4194304\n";
    let (mut set, mut killer) = Set::build(options, Scenario::FsyncFails, None, further)?;
    let faults = match Faults::build(&set.dir)? {
        Ok(faults) => faults,
        Err(why) => return Ok(Err(why)),
    };
    killer.recipe().variables = faults.variables();
    load::everyone(&mut set.stage, options.rate);
    let retained = set.stage.world.cast.filter("r/#");
    let mut dice = Dice::new(options.seed, "faults");
    let mut seen = Seen::default();
    if !killer.start()? {
        return Ok(Ok(set.judge()));
    }
    for _ in 0..(options.kills / 10).max(3) {
        let failing = match dice.within(0, 10) {
            0..6 => Failing::Sync,
            6..8 => Failing::SyncInStart,
            _ => Failing::Write,
        };
        round(&mut set, &mut killer, &faults, failing, &mut dice, &mut seen)?;
        faults.withdraw();
        set.stage.play(LAST_WORDS)?;
        if !killer.start()? {
            return Ok(Ok(set.judge()));
        }
    }
    set.stage.play(Duration::from_millis(500))?;
    let settled = kill::finish(&mut set, retained)?;
    killer.stays_up(Duration::ZERO);
    set.told.insert("settled".into(), settled.into());
    seen.tell(&mut set);
    Ok(Ok(set.judge_with(|verdict| seen.judge(verdict))))
}

/// One failure and its end.
fn round(
    set: &mut Set,
    killer: &mut Killer,
    faults: &Faults,
    failing: Failing,
    dice: &mut Dice,
    seen: &mut Seen,
) -> Result<()> {
    set.stage.play(Duration::from_millis(dice.within(DELAY.0, DELAY.1)))?;
    match failing {
        Failing::Sync => faults.order_sync()?,
        Failing::SyncInStart => {
            killer.kill()?;
            set.stage.play(LAST_WORDS)?;
            faults.order_sync()?;
            sleep(Duration::from_millis(dice.within(0, 20)));
            killer.start_badly()?;
        }
        Failing::Write => {
            let data = killer.recipe().data.clone();
            let process = killer.process().map_or(0, |process| process.id());
            let fds = files_below(process, &data);
            if fds.is_empty() {
                // A broker that keeps no file open has none to fail on.
                killer.kill()?;
                return Ok(());
            }
            faults.order_write(&fds)?;
        }
    }
    let there = |killer: &mut Killer| killer.process().is_some_and(|p| p.ended().is_none());
    if faults.in_force(|| there(killer))? && failing != Failing::Write {
        board(&set.board).happened.push((Instant::now(), What::SyncBroken));
    }
    let began = Instant::now();
    while began.elapsed() < AT_ONCE {
        set.stage.play(Duration::from_millis(5))?;
        if let Some(status) = killer.gone() {
            seen.ended(failing, status, began.elapsed());
            return Ok(());
        }
    }
    seen.stayed(failing);
    killer.kill()?;
    Ok(())
}

/// How the rounds ended.
#[derive(Debug, Default)]
struct Seen {
    ends: BTreeMap<String, u64>,
    slowest: Duration,
    rounds: u64,
    faults: Vec<String>,
}

impl Seen {
    fn ended(&mut self, failing: Failing, status: ExitStatus, took: Duration) {
        self.rounds += 1;
        *self.ends.entry(format!("{failing:?}: {status}")).or_default() += 1;
        self.slowest = self.slowest.max(took);
        let own = status.code().is_some_and(|code| !TAKEN.contains(&code));
        if !own {
            self.faults.push(format!("{failing:?} failed, and the process ended with {status}"));
        }
    }

    fn stayed(&mut self, failing: Failing) {
        self.rounds += 1;
        *self.ends.entry(format!("{failing:?}: stayed")).or_default() += 1;
        // A write that fails may also be answered by refusing publishes.
        if failing != Failing::Write {
            self.faults.push(format!("{failing:?} failed, and the process stayed for {AT_ONCE:?}"));
        }
    }

    fn tell(&self, set: &mut Set) {
        set.told.insert("failures".into(), json!(self.ends));
        set.told.insert("slowest_exit_ms".into(), json!(self.slowest.as_millis() as u64));
    }

    fn judge(&self, verdict: &mut Verdict) {
        (0..self.rounds).for_each(|_| verdict.check(Rule::Process));
        for fault in &self.faults {
            verdict.breach(Rule::Process, Concern::NOBODY, fault.clone());
        }
    }
}
