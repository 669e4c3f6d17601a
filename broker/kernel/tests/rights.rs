//! What a deployment is given is enough: every object loads and attaches with
//! CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN. `cargo xtask vm test` runs this with
//! just these; as root it shows that this kernel takes the objects at all.
//!
//! Nothing here needs a network namespace of its own, which is for root.

#![allow(clippy::print_stderr)]

mod common;

use std::path::Path;

use common::{load, or_skip};
use tidegate_ebpf_abi::steer::PROGRAM_MIGRATE;
use tidegate_kernel::conntrack::Conntrack;
use tidegate_kernel::tcpstat::Tcpstat;

#[test]
fn steering_is_by_the_program_that_migrates() {
    let Some(steering) = load() else { return };
    assert_eq!(steering.program(), PROGRAM_MIGRATE, "{:?}", steering.tried());
}

#[test]
fn tcpstat_attaches_to_the_own_cgroup_and_both_tracepoints() {
    let Some(tcpstat) = or_skip(Tcpstat::start(&[(1, 0)])) else { return };
    assert_eq!(tcpstat.missing(), []);
    assert_eq!(tcpstat.stats(0).expect("the map is read").established, 0);
}

#[test]
fn conntrack_attaches_all_its_probes() {
    // Whether there are kprobes is the kernel's, not ours, and many have none.
    if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        eprintln!("NOT RUN: this kernel has no kprobes");
        return;
    }
    let Some(conntrack) = or_skip(Conntrack::start()) else { return };
    assert_eq!(conntrack.missing(), []);
}
