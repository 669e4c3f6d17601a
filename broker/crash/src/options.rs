//! What a run is asked to do.

use std::env;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

pub(crate) const USAGE: &str = "\
usage: cargo xtask crash-test [OPTIONS]

  --scenario NAME    kill (default), power-cut, full, disk-watermarks, fsync-fails, or all
  --kills N          kill -9 so often (40); 0: twenty seconds of load and none, the control
  --seed S           decides the plan of the run (chosen by the clock)
  --binary PATH      the broker (tidegate in the debug profile, which is built)
  --data DIR         where the run keeps its files (crash-test in the target directory)
  --rate N           messages a second of all publishers together (400)
  --durability MODE  fsync (default), os or memory
  --plant            a mode that must be found wanting: memory, or os for power-cut and
                     fsync-fails; exit 0 only if it is
  --fs KIND          small file system of full and disk-watermarks: ext4 (default) or tmpfs
  --gentle           SIGTERM in place of every SIGKILL
  --no-skip          a scenario that cannot run here is a failure
  --keep             keep the data directory of a run without a breach
";

/// A scenario.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scenario {
    /// kill -9 at random moments.
    Kill,
    /// The same, and what was not synced is lost.
    PowerCut,
    /// A file system with no byte left.
    Full,
    /// A file system above 85 % and above 95 %.
    DiskWatermarks,
    /// A device whose syncs and writes fail.
    FsyncFails,
}

impl Scenario {
    const ALL: [Scenario; 5] = [
        Scenario::Kill,
        Scenario::PowerCut,
        Scenario::Full,
        Scenario::DiskWatermarks,
        Scenario::FsyncFails,
    ];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::Kill => "kill",
            Scenario::PowerCut => "power-cut",
            Scenario::Full => "full",
            Scenario::DiskWatermarks => "disk-watermarks",
            Scenario::FsyncFails => "fsync-fails",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) kills: u64,
    pub(crate) seed: u64,
    pub(crate) binary: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) rate: u64,
    pub(crate) durability: String,
    pub(crate) plant: bool,
    pub(crate) tmpfs: bool,
    pub(crate) gentle: bool,
    pub(crate) no_skip: bool,
    pub(crate) keep: bool,
}

impl Options {
    /// Reads the arguments.
    pub(crate) fn parse(args: &[String]) -> Result<Options> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut options = Options {
            scenarios: vec![Scenario::Kill],
            kills: 40,
            seed: now.as_micros() as u64 % 1_000_000_007,
            binary: target.join("debug/tidegate"),
            data: target.join("crash-test"),
            rate: 400,
            durability: String::new(),
            plant: false,
            tmpfs: false,
            gentle: false,
            no_skip: false,
            keep: false,
        };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            match flag.as_str() {
                "--plant" => options.plant = true,
                "--gentle" => options.gentle = true,
                "--no-skip" => options.no_skip = true,
                "--keep" => options.keep = true,
                _ => {
                    let value =
                        args.next().with_context(|| format!("{flag}: no value\n{USAGE}"))?;
                    options.set(flag, value)?;
                }
            }
        }
        if options.plant && !options.durability.is_empty() {
            bail!("--plant chooses the durability itself");
        }
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<()> {
        let number =
            || value.parse::<u64>().with_context(|| format!("{flag}: {value:?} is no number"));
        match (flag, value) {
            ("--scenario", "all") => self.scenarios = Scenario::ALL.to_vec(),
            ("--scenario", name) => {
                let known = Scenario::ALL.into_iter().find(|scenario| scenario.name() == name);
                let known = known.with_context(|| format!("--scenario: no {name:?}\n{USAGE}"))?;
                self.scenarios = vec![known];
            }
            ("--kills", _) => self.kills = number()?,
            ("--seed", _) => self.seed = number()?,
            ("--rate", _) => self.rate = number()?.max(1),
            ("--binary", path) => self.binary = path.into(),
            ("--data", path) => self.data = path.into(),
            ("--durability", "fsync" | "os" | "memory") => self.durability = value.to_owned(),
            ("--fs", "ext4") => self.tmpfs = false,
            ("--fs", "tmpfs") => self.tmpfs = true,
            _ => bail!("{flag} {value}: not known\n{USAGE}"),
        }
        Ok(())
    }

    /// The durability that a scenario runs with.
    pub(crate) fn durability(&self, scenario: Scenario) -> &str {
        match (self.plant, scenario) {
            (true, Scenario::FsyncFails | Scenario::PowerCut) => "os",
            (true, Scenario::Kill | Scenario::Full | Scenario::DiskWatermarks) => "memory",
            (false, _) if self.durability.is_empty() => "fsync",
            (false, _) => &self.durability,
        }
    }
}
