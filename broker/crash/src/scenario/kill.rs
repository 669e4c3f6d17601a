//! `kill -9` at random moments under load, then everything that is owed is
//! fetched and judged; then once more, to see that nothing fetched comes back.
//!
//! `kill -9` leaves the page cache as it is. `power-cut` takes it away too: the
//! data is on a file system of its own, and after each kill the next life gets
//! what its device has, no more.

use std::time::Duration;

use anyhow::{Result, anyhow};

use super::{LAST_WORDS, Outcome, Set, load, run_dir};
use crate::cast::FilterId;
use crate::killer::{Killer, board};
use crate::options::{Options, Scenario};
use crate::volume::Volume;

/// No delivery for so long: all that was owed has come.
const QUIET: Duration = Duration::from_secs(3);

/// How long a run without kills is under load.
const CONTROL: Duration = Duration::from_secs(20);

/// How long fetching may take.
const DRAIN: Duration = Duration::from_secs(180);

/// The file system whose power is cut: sparse, so that its size costs nothing.
const BYTES: u64 = 2 << 30;

/// Runs it.
pub(crate) fn run(options: &Options, scenario: Scenario) -> Result<Result<Outcome, String>> {
    let dir = run_dir(options, scenario);
    let volume = match scenario {
        Scenario::PowerCut => Some(Volume::ext4(&dir, BYTES)?),
        Scenario::Kill | Scenario::Full | Scenario::DiskWatermarks | Scenario::FsyncFails => None,
    };
    let volume = match volume.transpose() {
        Ok(volume) => volume,
        Err(why) => return Ok(Err(why)),
    };
    let data = volume.as_ref().map(|volume| volume.path().join("data"));
    let further = "segment_bytes = 4194304\n";
    let (mut set, mut killer) = Set::build(options, scenario, data, further)?;
    if let Some(volume) = volume {
        killer.cuts_power_of(volume);
    }
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
    // Unmounts the volume, if there is one.
    drop(killer);
    Ok(Ok(set.judge()))
}

/// Another life after the one that was judged, in which nothing is owed.
pub(crate) fn kill_once_more(set: &mut Set, killer: &mut Killer) -> Result<bool> {
    killer.kill()?;
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
