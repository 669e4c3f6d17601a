//! What a run with clusters is asked to do.

use std::env;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::plan::{SCENARIOS, Scenario};

pub(crate) const USAGE: &str = "\
usage: cargo xtask cluster-test [OPTIONS]

  --all              every scenario; without it those that CI runs
  --only NAME        this one; may be given several times
  --list             name the scenarios and what they show
  --seed S           decides what the clients do (chosen by the clock)
  --loopback         without network namespaces and root: scenarios that cut no link
  --strict-times     acknowledgements have to come again within 3 s of a kill and 10 s of
                     a heal; otherwise the times are told and not judged
  --rate N           messages a second of all publishers together (150)
  --binary PATH      the broker (tidegate in the debug profile, which is built)
  --older PATH       the program that rolling-upgrade begins with (this one, held to version 1)
  --data DIR         where the run keeps its files (cluster-test in the target directory)
  --plant            nodes that know nothing of each other: exit 0 only if the judge finds
                     what they lose
  --no-skip          a scenario that cannot run here is a failure
  --keep             keep the data directory of a run without a breach
";

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) seed: u64,
    pub(crate) rate: u64,
    pub(crate) binary: PathBuf,
    pub(crate) older: Option<PathBuf>,
    pub(crate) data: PathBuf,
    pub(crate) loopback: bool,
    pub(crate) strict_times: bool,
    pub(crate) plant: bool,
    pub(crate) no_skip: bool,
    pub(crate) keep: bool,
    pub(crate) list: bool,
}

impl Options {
    /// Reads the arguments.
    pub(crate) fn parse(args: &[String]) -> Result<Options> {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut options = Options {
            scenarios: Vec::new(),
            seed: now.as_micros() as u64 % 1_000_000_007,
            rate: 150,
            binary: target.join("debug/tidegate"),
            older: None,
            data: target.join("cluster-test"),
            loopback: false,
            strict_times: false,
            plant: false,
            no_skip: false,
            keep: false,
            list: false,
        };
        let mut all = false;
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            match flag.as_str() {
                "--all" => all = true,
                "--list" => options.list = true,
                "--loopback" => options.loopback = true,
                "--strict-times" => options.strict_times = true,
                "--plant" => options.plant = true,
                "--no-skip" => options.no_skip = true,
                "--keep" => options.keep = true,
                _ => {
                    let value =
                        args.next().with_context(|| format!("{flag}: no value\n{USAGE}"))?;
                    options.set(flag, value)?;
                }
            }
        }
        if options.scenarios.is_empty() {
            let wanted = |scenario: &&Scenario| match options.plant {
                true => scenario.name == "calm",
                false => all || scenario.subset,
            };
            options.scenarios = SCENARIOS.iter().filter(wanted).copied().collect();
        }
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<()> {
        let number =
            || value.parse::<u64>().with_context(|| format!("{flag}: {value:?} is no number"));
        match flag {
            "--only" => {
                let known = SCENARIOS.iter().find(|scenario| scenario.name == value);
                let known = known.with_context(|| format!("--only: no {value:?}; see --list"))?;
                self.scenarios.push(*known);
            }
            "--seed" => self.seed = number()?,
            "--rate" => self.rate = number()?.max(20),
            "--binary" => self.binary = value.into(),
            "--older" => self.older = Some(value.into()),
            "--data" => self.data = value.into(),
            _ => bail!("{flag} {value}: not known\n{USAGE}"),
        }
        Ok(())
    }
}
