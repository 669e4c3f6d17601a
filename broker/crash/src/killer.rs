//! Starts and kills brokers on a thread of its own, so that no kill waits for
//! a client.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::dice::Dice;
use crate::history::What;
use crate::process::{Process, Recipe, Start};
use crate::volume::Volume;

/// How long a broker may take to stop; its drain has two seconds.
const STOP: Duration = Duration::from_secs(10);

/// What the killer tells the stage.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// Where brokers listen: of one alone while it does, of a cluster's always.
    pub(crate) doors: Vec<SocketAddr>,
    /// What happened to the broker, until the stage takes it.
    pub(crate) happened: Vec<(Instant, What)>,
    /// The plan is through; the broker runs.
    pub(crate) done: bool,
    /// The broker did what it never may.
    pub(crate) faults: Vec<String>,
    /// Times it was stopped with SIGTERM.
    pub(crate) stops: u64,
    /// Kills so far, and of them during the start.
    pub(crate) kills: u64,
    pub(crate) early_kills: u64,
    /// Kills within 100 ms of the one before.
    pub(crate) double_kills: u64,
    /// The longest time from the launch to `ready`.
    pub(crate) start_max: Duration,
}

/// A broker that is killed and started as a plan says.
#[derive(Debug)]
pub(crate) struct Killer {
    recipe: Recipe,
    board: Arc<Mutex<Board>>,
    dice: Dice,
    process: Option<Process>,
    lives: u64,
    last_kill: Option<Instant>,
    /// How long the last start took.
    start: Duration,
    /// SIGTERM in place of SIGKILL.
    gentle: bool,
    /// What loses its power with every kill. Behind the process, so that it is
    /// dropped after it.
    volume: Option<Volume>,
}

impl Killer {
    /// One that has not begun.
    pub(crate) fn new(recipe: Recipe, board: Arc<Mutex<Board>>, seed: u64, gentle: bool) -> Killer {
        let start = Duration::from_millis(50);
        let dice = Dice::new(seed, "killer");
        Killer {
            recipe,
            board,
            dice,
            process: None,
            lives: 0,
            last_kill: None,
            start,
            gentle,
            volume: None,
        }
    }

    /// From now on what this volume has not synced is lost with each kill.
    pub(crate) fn cuts_power_of(&mut self, volume: Volume) {
        self.volume = Some(volume);
    }

    /// Kills so often on a thread of its own, and leaves a broker running.
    pub(crate) fn rampage(mut self, kills: u64) -> JoinHandle<Killer> {
        thread::spawn(move || {
            if let Err(error) = self.plan(kills) {
                board(&self.board).faults.push(format!("{error:#}"));
            }
            board(&self.board).done = true;
            self
        })
    }

    fn plan(&mut self, kills: u64) -> Result<()> {
        for _ in 0..kills {
            if !self.gentle && self.dice.chance(18) {
                self.launch()?;
                // Anywhere in the start, and a little behind it.
                let most = self.start.as_micros() as u64 * 6 / 5;
                sleep(Duration::from_micros(self.dice.within(0, most.max(1))));
                self.note_if_ready();
                self.kill()?;
                board(&self.board).early_kills += 1;
            } else {
                if !self.start()? {
                    return Ok(());
                }
                let up = match self.dice.within(0, 100) {
                    0..30 => self.dice.within(0, 60),
                    30..85 => self.dice.within(60, 900),
                    _ => self.dice.within(900, 3_500),
                };
                if !self.stays_up(Duration::from_millis(up)) {
                    return Ok(());
                }
                if self.gentle || self.volume.is_none() && self.dice.chance(8) {
                    self.stop();
                } else {
                    self.kill()?;
                }
            }
            if self.dice.chance(20) {
                sleep(Duration::from_millis(self.dice.within(10, 900)));
            }
        }
        self.start().map(|_| ())
    }

    /// Starts a broker and waits until it is ready; false if that is a fault.
    pub(crate) fn start(&mut self) -> Result<bool> {
        self.launch()?;
        let launched = Instant::now();
        let Some(process) = &mut self.process else { return Ok(false) };
        let fault = match process.wait_ready()? {
            Start::Ready(address) => {
                self.start = launched.elapsed();
                let mut board = board(&self.board);
                board.start_max = board.start_max.max(self.start);
                board.happened.push((Instant::now(), What::Ready));
                board.doors = vec![address];
                return Ok(true);
            }
            Start::Ended(status) => format!("life {} ended in its start: {status}", self.lives),
            Start::Silent => format!("life {} was not ready after a minute", self.lives),
        };
        let words = process.last_words();
        board(&self.board).faults.push(format!("{fault}\n{words}"));
        Ok(false)
    }

    /// Starts a broker that need not get ready, though it may.
    pub(crate) fn start_badly(&mut self) -> Result<()> {
        self.launch()?;
        let Some(process) = &mut self.process else { return Ok(()) };
        if let Start::Ready(address) = process.wait_ready()? {
            let mut board = board(&self.board);
            board.happened.push((Instant::now(), What::Ready));
            board.doors = vec![address];
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<()> {
        self.lives += 1;
        self.process = Some(self.recipe.launch(self.lives)?);
        Ok(())
    }

    /// The process, if one runs.
    pub(crate) fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// What every start has in common, to be changed for the next one.
    pub(crate) fn recipe(&mut self) -> &mut Recipe {
        &mut self.recipe
    }

    /// Whether it is there for so long; that it is not is a fault.
    pub(crate) fn stays_up(&mut self, long: Duration) -> bool {
        let Some(process) = &mut self.process else { return false };
        let Some(status) = process.ended_within(long) else { return true };
        let words = process.last_words();
        let mut board = board(&self.board);
        board.doors.clear();
        board.happened.push((Instant::now(), What::Down));
        board.faults.push(format!("life {} ended by itself: {status}\n{words}", self.lives));
        false
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if self.gentle {
            self.stop();
            return Ok(());
        }
        let now = Instant::now();
        {
            let mut board = board(&self.board);
            board.kills += 1;
            let double = self.last_kill.is_some_and(|at| now - at < Duration::from_millis(100));
            board.double_kills += u64::from(double);
            board.doors.clear();
            board.happened.push((now, What::Down));
        }
        self.last_kill = Some(now);
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        self.volume.as_mut().map_or(Ok(()), Volume::cut_power)
    }

    /// SIGTERM: for once as it should be; it has to end well and in time.
    fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        board(&self.board).doors.clear();
        let ended = process.stop(STOP);
        let mut board = board(&self.board);
        board.stops += 1;
        board.happened.push((Instant::now(), What::Down));
        if !ended.is_some_and(|status| status.success()) {
            let words = process.last_words();
            let how = ended.map_or("not at all".to_owned(), |status| status.to_string());
            board.faults.push(format!("life {} ended on SIGTERM: {how}\n{words}", self.lives));
        }
    }

    /// The process ended by itself, as it should.
    pub(crate) fn gone(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.ended()?;
        self.process = None;
        let mut board = board(&self.board);
        board.doors.clear();
        board.happened.push((Instant::now(), What::Down));
        Some(status)
    }

    fn note_if_ready(&mut self) {
        let Some(process) = &mut self.process else { return };
        // Ready or not, who is killed so early is not told apart; only the
        // clients can tell, by connecting.
        if let Some(status) = process.ended() {
            let words = process.last_words();
            let fault = format!("life {} ended in its start: {status}\n{words}", self.lives);
            board(&self.board).faults.push(fault);
        }
    }
}

/// The board, for a moment.
pub(crate) fn board(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().expect("nobody panics with it")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A broker that is a line of shell, and a killer for it.
    struct Rig {
        dir: PathBuf,
        killer: Killer,
        board: Arc<Mutex<Board>>,
    }

    impl Rig {
        fn new(word: &str, script: &str) -> Rig {
            let dir = std::env::temp_dir().join(format!("crash-{word}-{}", std::process::id()));
            fs::create_dir_all(&dir).expect("a scratch directory");
            let binary = dir.join("broker");
            fs::write(&binary, format!("#!/bin/sh\n{script}\n")).expect("write the script");
            fs::set_permissions(&binary, Permissions::from_mode(0o755)).expect("make it run");
            let recipe = Recipe::new(binary, dir.clone(), dir.join("data"), "").expect("a recipe");
            let board = Arc::<Mutex<Board>>::default();
            let killer = Killer::new(recipe, board.clone(), 1, false);
            Rig { dir, killer, board }
        }

        fn faults(&self) -> Vec<String> {
            board(&self.board).faults.clone()
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    const READY: &str = "echo listening mqtt default 127.0.0.1:9; echo ready";

    #[test]
    fn a_broker_that_does_not_come_up_is_a_fault_with_its_last_words() {
        let mut rig = Rig::new("start", "echo the log is damaged; exit 3");
        assert!(!rig.killer.start().expect("it can be started"));
        let faults = rig.faults();
        assert!(faults[0].contains("exit status: 3"), "{faults:?}");
        assert!(faults[0].contains("the log is damaged"), "{faults:?}");
    }

    #[test]
    fn a_broker_that_ends_by_itself_is_a_fault() {
        let mut rig = Rig::new("end", &format!("{READY}; exit 70"));
        assert!(rig.killer.start().expect("it can be started"));
        assert!(!rig.killer.stays_up(Duration::from_secs(5)));
        assert!(rig.faults()[0].contains("ended by itself: exit status: 70"));
    }

    #[test]
    fn a_broker_that_does_not_stop_well_is_a_fault() {
        let script = format!("trap 'exit 9' TERM; {READY}; while :; do sleep 0.05; done");
        let mut rig = Rig::new("stop", &script);
        assert!(rig.killer.start().expect("it can be started"));
        rig.killer.stop();
        assert!(rig.faults()[0].contains("on SIGTERM: exit status: 9"));
    }

    #[test]
    fn a_kill_is_no_fault_and_tells_the_clients_that_nobody_listens() {
        let mut rig = Rig::new("kill", &format!("{READY}; exec sleep 60"));
        assert!(rig.killer.start().expect("it can be started"));
        assert!(!board(&rig.board).doors.is_empty());
        rig.killer.kill().expect("nothing else goes with it");
        let board = board(&rig.board);
        assert_eq!((board.doors.len(), board.kills, board.faults.len()), (0, 1, 0));
        let told: Vec<What> = board.happened.iter().map(|(_, what)| *what).collect();
        assert_eq!(told, [What::Ready, What::Down]);
    }
}
