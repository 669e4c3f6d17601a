//! What the kernel tells of a loaded program.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::Ebpf;
use aya::programs::ProgramError;
use serde::Serialize;

/// Facts of a program that is loaded. What the kernel does not tell is absent.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Facts {
    /// Its name in the object.
    pub name: String,
    /// The kernel's number of it.
    pub id: Option<u64>,
    /// Hash over its instructions.
    pub tag: Option<String>,
    /// Instructions the verifier walked.
    pub verified_instructions: Option<u64>,
    /// Bytes of kernel memory.
    pub locked_bytes: Option<u64>,
    /// Time it ran, while `kernel.bpf_stats_enabled` was on or somebody asked.
    pub run_nanos: Option<u64>,
    /// How often, in that time.
    pub runs: Option<u64>,
}

impl Facts {
    /// Of the program behind `descriptor`, out of `/proc/self/fdinfo`.
    #[must_use]
    pub fn read(name: &str, descriptor: BorrowedFd<'_>) -> Facts {
        let file = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
        Facts::parse(name, &std::fs::read_to_string(file).unwrap_or_default())
    }

    fn parse(name: &str, text: &str) -> Facts {
        let field = |key: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
        };
        let number = |key: &str| field(key)?.parse().ok();
        Facts {
            name: name.to_owned(),
            id: number("prog_id"),
            tag: field("prog_tag").map(str::to_owned),
            verified_instructions: number("verified_insns"),
            locked_bytes: number("memlock"),
            run_nanos: number("run_time_ns"),
            runs: number("run_cnt"),
        }
    }
}

/// What is left of a verifier's log: its last words that say something.
pub(crate) fn last_words(log: &str) -> Option<String> {
    const WORDS_MAX: usize = 200;
    let line = log.lines().rev().map(str::trim).find(|line| {
        !line.is_empty()
            && !line.starts_with("processed ")
            && !line.starts_with("verification time")
    })?;
    Some(line.chars().take(WORDS_MAX).collect())
}

/// The facts of loaded programs by name.
pub(crate) fn facts_of<'a>(ebpf: &Ebpf, names: impl IntoIterator<Item = &'a str>) -> Vec<Facts> {
    let mut all = Vec::new();
    for name in names {
        let descriptor = ebpf.program(name).and_then(|program| program.fd().ok());
        all.push(match descriptor {
            Some(descriptor) => Facts::read(name, descriptor.as_fd()),
            None => Facts { name: name.to_owned(), ..Facts::default() },
        });
    }
    all
}

/// Why a program is not loaded.
pub(crate) fn explain(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        return match last_words(&verifier_log.to_string()) {
            Some(words) => format!("{io_error}: {words}"),
            None => io_error.to_string(),
        };
    }
    chain(error)
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_come_from_the_descriptor_s_page() {
        let text = "pos:\t0\nflags:\t02000002\nprog_type:\t21\nprog_jited:\t1\nprog_tag:\tbbe4\n\
                    memlock:\t4096\nprog_id:\t43\nrun_time_ns:\t900\nrun_cnt:\t3\n\
                    recursion_misses:\t0\nverified_insns:\t512\n";
        let facts = Facts::parse("steer", text);
        assert_eq!((facts.id, facts.runs, facts.run_nanos), (Some(43), Some(3), Some(900)));
        assert_eq!(facts.verified_instructions, Some(512));
        assert_eq!(Facts::parse("x", "nonsense").id, None);
    }

    #[test]
    fn of_a_verifier_s_log_the_reason_is_left() {
        let log = "0: (b7) r0 = 1\nR1 invalid mem access 'scalar'\nverification time 9 usec\n\
                   processed 9 insns (limit 1000000)\n\n";
        assert_eq!(last_words(log).as_deref(), Some("R1 invalid mem access 'scalar'"));
        assert_eq!(last_words("\n"), None);
    }
}
