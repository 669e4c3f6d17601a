//! A small file system that fills up: durable publishes are refused, the rest
//! goes on, and so do they when there is space again, all by itself.
//!
//! `disk-watermarks` stops short of the end, above each of the two marks that
//! the broker watches. `full` moves the marks out of the way, so that the log
//! itself meets ENOSPC, and kills the broker while there is no block left.

use std::time::{Duration, Instant};

use anyhow::Result;
use testkit::client::Version::{self, V5, V311};

use super::{LAST_WORDS, Outcome, Set, kill, load};
use crate::cast::{FilterId, Kind, Lasting};
use crate::judge::{Concern, Rule, Verdict};
use crate::killer::Killer;
use crate::options::{Options, Scenario};
use crate::role::{Presence, Role, Span};
use crate::stage::Stage;
use crate::volume::Volume;

/// Size of the file system.
const BYTES: u64 = 64 << 20;

/// How long the broker may take to see that the disk is full, or is not.
const NOTICE: Duration = Duration::from_secs(15);

/// How long it is watched then.
const WATCH: Duration = Duration::from_secs(4);

/// Where the clients are on the stage.
#[derive(Debug)]
struct Places {
    /// Publishers of 5.0 and of 3.1.1 with something durable to say.
    new: Vec<usize>,
    old: Vec<usize>,
    /// Hears QoS 0, and has no session.
    hearer: usize,
    /// Has a session, and is away until it is called.
    absent: usize,
}

/// What was looked at, and what was wrong with it.
#[derive(Debug, Default)]
struct Findings(Vec<(String, bool)>);

/// Runs it.
pub(crate) fn run(options: &Options, scenario: Scenario) -> Result<Result<Outcome, String>> {
    let dir = super::run_dir(options, scenario);
    let volume = match options.tmpfs {
        true => Volume::tmpfs(&dir, BYTES)?,
        false => Volume::ext4(&dir, BYTES)?,
    };
    let volume = match volume {
        Ok(volume) => volume,
        Err(why) => return Ok(Err(why)),
    };
    let marks = match scenario {
        Scenario::Full => "disk_refuse_percent = 100\ndisk_stop_percent = 100\n",
        Scenario::Kill | Scenario::PowerCut | Scenario::DiskWatermarks | Scenario::FsyncFails => "",
    };
    let further = format!("segment_bytes = 2097152\n{marks}");
    let data = Some(volume.path().join("data"));
    let (mut set, mut killer) = Set::build(options, scenario, data, &further)?;
    let places = company(&mut set);
    let retained = set.stage.world.cast.filter("r/#");
    let mut findings = Findings::default();
    if killer.start()? {
        set.stage.play(Duration::from_secs(3))?;
        let levels: &[u64] = if scenario == Scenario::Full { &[100] } else { &[89, 97] };
        for (round, &percent) in levels.iter().enumerate() {
            if round > 0 {
                // So that something waits for the absent again.
                volume.relieve()?;
                relief(&mut set, &places, &mut findings)?;
            }
            volume.fill(percent)?;
            let key = format!("filled_to_{percent}");
            set.told.insert(key, format!("{} % in use", volume.used_percent()?).into());
            squeeze(&mut set, &places, percent, retained, &mut findings)?;
        }
        if scenario == Scenario::Full {
            kill_while_full(&mut set, &mut killer, &volume, &mut findings)?;
        }
        volume.relieve()?;
        relief(&mut set, &places, &mut findings)?;
        let settled = kill::finish(&mut set, retained)?;
        set.told.insert("settled".into(), settled.into());
        if kill::kill_once_more(&mut set, &mut killer)? {
            kill::fetch_again(&mut set, retained)?;
        }
        killer.stays_up(Duration::ZERO);
    }
    drop(killer);
    Ok(Ok(set.judge_with(|verdict| findings.judge(verdict))))
}

/// Who takes part, and where they are.
fn company(set: &mut Set) -> Places {
    let stage = &mut set.stage;
    let topics: Vec<_> = (0..3).map(|n| stage.world.cast.topic(&format!("p/{n}"))).collect();
    let enter = |stage: &mut Stage, version: Version| {
        let mut places = Vec::new();
        for qos in [1, 2] {
            let plain = load::publishing(&topics, &[qos], &[Kind::Plain], (100, 400), 20);
            places.push(stage.lines.len());
            load::publisher(stage, &format!("publisher-q{qos}-{version:?}"), version, plain);
        }
        places
    };
    let (new, old) = (enter(stage, V5), enter(stage, V311));
    let register = stage.world.cast.topic("r/0");
    let kinds = [Kind::Set, Kind::Set, Kind::Clear];
    let writes = load::publishing(&[register], &[1], &kinds, (16, 100), 4);
    load::publisher(stage, "writer", V5, writes);
    let loose = stage.world.cast.topic("z");
    let mut role = Role::idle();
    role.publishing = Some(load::publishing(&[loose], &[0], &[Kind::Plain], (16, 100), 50));
    stage.enter("publisher-q0", V5, Lasting::Not, None, role);

    let all = stage.world.cast.filter("p/+");
    stage.enter("online", V5, Lasting::Always, None, Role::idle().wants(&[all], 2, false));
    let absent = stage.lines.len();
    let away = Presence {
        stays: Some(Span(300, 301)),
        away: Span(86_400_000, 86_400_001),
        otherwise: (0, Span(0, 1)),
        goodbyes: 100,
    };
    let role = Role::idle().wants(&[all], 1, false).present(away);
    stage.enter("absent", V311, Lasting::Always, None, role);
    let hearer = stage.lines.len();
    let loose = stage.world.cast.filter("z");
    stage.enter("hearer", V5, Lasting::Not, None, Role::idle().wants(&[loose], 0, false));
    Places { new, old, hearer, absent }
}

/// The disk is full: what is refused, and what goes on.
fn squeeze(
    set: &mut Set,
    places: &Places,
    percent: u64,
    retained: FilterId,
    findings: &mut Findings,
) -> Result<()> {
    let refusals = |set: &Set, at: usize| set.stage.lines[at].session.quota_refusals;
    let closes = |set: &Set, at: usize| set.stage.lines[at].closes;
    let acks = |set: &Set| {
        let durable = places.new.iter().chain(&places.old);
        durable.map(|&at| set.stage.lines[at].session.acks).sum::<u64>()
    };
    let before: Vec<u64> = places
        .new
        .iter()
        .map(|&at| refusals(set, at))
        .chain(places.old.iter().map(|&at| closes(set, at)))
        .collect();
    let all = |stage: &Stage| {
        let now = places.new.iter().map(|&at| stage.lines[at].session.quota_refusals);
        let now = now.chain(places.old.iter().map(|&at| stage.lines[at].closes));
        now.zip(&before).all(|(now, before)| now > *before)
    };
    let refused = set.stage.play_until(NOTICE, all)?;
    let what = format!("at {percent} %: 5.0 is told 0x97, 3.1.1 is closed");
    findings.note(what, refused);
    // What was taken before, and not answered, is answered to who comes back.
    set.stage.play(Duration::from_secs(1))?;
    let (acked, heard) = (acks(set), set.stage.lines[places.hearer].session.got);
    set.stage.play(WATCH)?;
    let (acked, heard) = (acks(set) - acked, set.stage.lines[places.hearer].session.got - heard);
    findings
        .note(format!("at {percent} %: no durable publish is acknowledged ({acked})"), acked == 0);
    findings.note(format!("at {percent} %: QoS 0 goes on ({heard})"), heard > 0);
    set.stage.read_all(retained)?;
    // A session with something to fetch can fetch it.
    let got = set.stage.lines[places.absent].session.got;
    set.stage.lines[places.absent].come(Instant::now());
    let fetches =
        set.stage.play_until(NOTICE, |stage| stage.lines[places.absent].session.got > got)?;
    let what = format!("at {percent} %: a session fetches what waits for it");
    findings.note(what, fetches);
    Ok(())
}

/// Killed and started without a block to write to: it starts, and serves.
fn kill_while_full(
    set: &mut Set,
    killer: &mut Killer,
    volume: &Volume,
    findings: &mut Findings,
) -> Result<()> {
    killer.kill()?;
    set.stage.play(LAST_WORDS)?;
    killer.start_badly()?;
    let starts = killer.process().is_some_and(|process| process.ended().is_none());
    findings.note("it starts on a full disk".to_owned(), starts);
    if starts {
        set.stage.play(Duration::from_secs(1))?;
        return Ok(());
    }
    volume.fill(50)?;
    killer.start()?;
    Ok(())
}

/// There is space again.
fn relief(set: &mut Set, places: &Places, findings: &mut Findings) -> Result<()> {
    let durable: Vec<usize> = places.new.iter().chain(&places.old).copied().collect();
    let before: Vec<u64> = durable.iter().map(|&at| set.stage.lines[at].session.acks).collect();
    let resumed = set.stage.play_until(NOTICE, |stage| {
        let now = durable.iter().map(|&at| stage.lines[at].session.acks);
        now.zip(&before).all(|(now, before)| now > *before)
    })?;
    findings.note("with space again every publisher is acknowledged".to_owned(), resumed);
    set.stage.play(Duration::from_secs(1))
}

impl Findings {
    fn note(&mut self, what: String, good: bool) {
        self.0.push((what, good));
    }

    fn judge(&self, verdict: &mut Verdict) {
        for (what, good) in &self.0 {
            verdict.check(Rule::Pressure);
            if !good {
                verdict.breach(Rule::Pressure, Concern::NOBODY, format!("not so: {what}"));
            }
        }
    }
}
