//! What the process may do beyond an ordinary user, and giving it up.
//!
//! Capabilities are a thread's own: drop them before other threads start, and
//! in each that is there already. Maps and programs go on working without
//! (the descriptors are the right to them), but for kernels before 5.19 that
//! keep bpf(2) from the unprivileged: there CAP_BPF has to stay.

use std::fs;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use serde::Serialize;

/// The capabilities that the objects need, by name.
pub const NEEDED: [(&str, CapabilitySet); 3] = [
    ("BPF", CapabilitySet::BPF),
    ("PERFMON", CapabilitySet::PERFMON),
    ("NET_ADMIN", CapabilitySet::NET_ADMIN),
];

/// What this thread has of [`NEEDED`].
///
/// # Errors
/// When the kernel will not say.
pub fn present() -> Result<Vec<&'static str>, Errno> {
    let effective = capabilities(None)?.effective;
    let has = |(name, set): (&'static str, CapabilitySet)| effective.contains(set).then_some(name);
    Ok(NEEDED.into_iter().filter_map(has).collect())
}

/// In words, which of these the thread lacks; none if it has all of them.
/// CAP_SYS_ADMIN stands for each, as in the kernel.
#[must_use]
pub fn lacking(needed: &[&str]) -> Option<String> {
    let effective = capabilities(None).ok()?.effective;
    if effective.contains(CapabilitySet::SYS_ADMIN) {
        return None;
    }
    let lacks = |name: &&&str| {
        NEEDED.iter().any(|(known, set)| known == *name && !effective.contains(*set))
    };
    let missing: Vec<String> = needed.iter().filter(lacks).map(|n| format!("CAP_{n}")).collect();
    (!missing.is_empty()).then(|| format!("the process has no {}", missing.join(" and ")))
}

/// What is left after [`drop_all`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Left {
    /// Whether CAP_BPF stayed, as this kernel wants it for each change of a map.
    pub bpf: bool,
    /// How many were given up.
    pub dropped: u32,
}

/// Gives up every capability of this thread, in all sets, for good; and what a
/// program run from here could gain. `maps` says whether maps of ours have to
/// be written to later.
///
/// # Errors
/// When the kernel refuses; some may be gone.
pub fn drop_all(maps: bool) -> Result<Left, Errno> {
    let before = capabilities(None)?;
    let bpf = maps && wants_bpf_for_maps() && before.permitted.contains(CapabilitySet::BPF);
    let kept = if bpf { CapabilitySet::BPF } else { CapabilitySet::empty() };
    set_no_new_privs(true)?;
    let ambient = clear_ambient_capability_set();
    // Only who has CAP_SETPCAP may; for anybody else the bounding set is of no
    // use either, as no program gains anything any more.
    if before.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter().filter(|c| !kept.contains(*c)) {
            match remove_capability_from_bounding_set(capability) {
                // One that this kernel does not know.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    // Kernels before 4.3 have no ambient set.
    match ambient {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)?;
    let dropped = (before.permitted - kept).bits().count_ones();
    Ok(Left { bpf, dropped })
}

/// Before 5.19 a kernel that keeps bpf(2) from the unprivileged keeps them from
/// maps that they have a descriptor of, too.
fn wants_bpf_for_maps() -> bool {
    let restricted = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")
        .is_ok_and(|text| text.trim() != "0");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    restricted && version(&release).is_none_or(|version| version < (5, 19))
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.1.0-25-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(version("5.18.19"), Some((5, 18)));
        assert_eq!(version("what"), None);
    }

    #[test]
    fn a_thread_that_dropped_them_has_none_and_others_keep_theirs() {
        let before = capabilities(None).expect("ask");
        std::thread::spawn(|| {
            let left = drop_all(true).expect("dropping is always allowed");
            let after = capabilities(None).expect("ask");
            let kept = if left.bpf { CapabilitySet::BPF } else { CapabilitySet::empty() };
            assert_eq!((after.effective, after.permitted), (kept, kept));
            assert!(after.inheritable.is_empty());
            drop_all(true).expect("a second time as well");
        })
        .join()
        .expect("no panic");
        assert_eq!(capabilities(None).expect("ask").permitted, before.permitted);
    }
}
