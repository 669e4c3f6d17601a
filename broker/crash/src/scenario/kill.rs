//! `kill -9` at random moments under load, then everything that is owed is
//! fetched and judged; then once more, to see that nothing fetched comes back.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::{LAST_WORDS, Outcome, Set, load};
use crate::cast::FilterId;
use crate::killer::{Killer, board};
use crate::options::{Options, Scenario};

/// No delivery for so long: all that was owed has come.
const QUIET: Duration = Duration::from_secs(3);

/// How long a run without kills is under load.
const CONTROL: Duration = Duration::from_secs(20);

/// How long fetching may take.
const DRAIN: Duration = Duration::from_secs(600);

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let (mut set, killer) = Set::build(options, Scenario::Kill, None, "segment_bytes = 4194304\n")?;
    load::everyone(&mut set.stage, options.rate);
    let retained = set.stage.world.cast.filter("r/#");
    set.stage.reads = Some((retained, Duration::from_millis(300)));
    let rampage = killer.rampage(options.kills);
    let shared = set.board.clone();
    let plan = Duration::from_secs(60 + options.kills * 70);
    set.stage.play_until(plan, |_| board(&shared).done)?;
    let mut killer = rampage.join().map_err(|_| anyhow!("the killer panicked"))?;
    if board(&set.board).faults.is_empty() {
        // The last life is loaded as well; without kills it is the control.
        let last = if options.kills == 0 { CONTROL } else { Duration::from_millis(500) };
        set.stage.play(last)?;
        let settled = finish(&mut set, retained)?;
        if options.kills > 0 && kill_once_more(&mut set, &mut killer)? {
            fetch_again(&mut set, retained)?;
        }
        set.told.insert("settled".into(), settled.into());
        killer.stays_up(Duration::ZERO);
    }
    Ok(set.judge())
}

/// Another life after the one that was judged, in which nothing is owed.
pub(crate) fn kill_once_more(set: &mut Set, killer: &mut Killer) -> Result<bool> {
    killer.kill();
    set.stage.play(LAST_WORDS)?;
    killer.start()
}

/// Everyone comes back, and gets what was kept and not fetched: nothing.
pub(crate) fn fetch_again(set: &mut Set, retained: FilterId) -> Result<()> {
    set.stage.settle(DRAIN)?;
    set.stage.probe()?;
    set.stage.drain(QUIET, DRAIN)?;
    set.stage.read_all(retained)
}

/// Calms down, waits for every answer, and fetches everything.
pub(crate) fn finish(set: &mut Set, retained: FilterId) -> Result<bool> {
    let stage = &mut set.stage;
    stage.calm_down();
    let mut settled = stage.settle(DRAIN)?;
    stage.probe()?;
    settled &= stage.drain(QUIET, DRAIN)?;
    // The longest will delay, and what the judge allows beyond it.
    stage.play(Duration::from_secs(9))?;
    settled &= stage.drain(QUIET, DRAIN)?;
    stage.read_all(retained)?;
    Ok(settled)
}
