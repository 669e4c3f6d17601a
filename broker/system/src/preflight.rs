//! Whether a machine is fit for what a config asks of it.
//!
//! What is read where is the shell's; here it is judged. Each check says what
//! was found, what is needed, why it matters and who can change it. Nothing
//! here stops a node: `fail` means that it will not do what its config says.

use std::fmt::{self, Write};

use crate::conntrack::predicted_entries;
use crate::process::{Capabilities, Limit};

/// Descriptors besides connections: listeners, logs, eBPF maps, the admin port.
const DESCRIPTORS_BESIDES: u64 = 512;
/// Descriptors of the rest of the machine.
const FILES_OF_OTHERS: u64 = 10_000;
/// Free bytes of the data directory: less fails, less than the second warns.
const DATA_BYTES: (u64, u64) = (128 << 20, 1 << 30);
/// Memory of a connection, roughly: the broker's and the kernel's.
const CONNECTION_BYTES: u64 = 4 << 10;
/// Share of the conntrack table at the connection limit from which on it warns.
const CONNTRACK_PERCENT: u64 = 75;

/// What a config asks of the machine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Demand {
    /// `limits.connections_max`
    pub connections_max: u64,
    /// Connections that are open now and in the facts already.
    pub connections: u64,
    /// Shards, if the number is known.
    pub shards: u64,
    /// Listeners.
    pub listeners: u64,
    /// The longest accept queue of a listening socket.
    pub backlog: u64,
    /// Whether eBPF objects are to be loaded.
    pub ebpf: Ebpf,
    /// Idle time, interval and count of our TCP keepalive, which is set a socket.
    pub keepalive: (u64, u64, u64),
}

/// Whether eBPF objects are to be loaded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Ebpf {
    /// No.
    Off,
    /// If possible.
    #[default]
    Auto,
    /// The node does not start without.
    Required,
}

/// What is known of the machine; none for what could not be read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Facts {
    /// The kernel's release and its first two numbers.
    pub kernel: Option<String>,
    pub version: Option<(u32, u32)>,
    /// Whether the kernel has its types with it (`/sys/kernel/btf/vmlinux`).
    pub btf: Option<bool>,
    /// `net.core.bpf_jit_enable`
    pub jit: Option<u64>,
    pub capabilities: Option<Capabilities>,
    pub descriptors: Option<(Limit, Limit)>,
    pub nr_open: Option<u64>,
    pub file_max: Option<u64>,
    pub somaxconn: Option<u64>,
    pub syn_backlog: Option<u64>,
    /// Pages: no pressure, pressure, most.
    pub tcp_mem: Option<[u64; 3]>,
    pub port_range: Option<[u64; 2]>,
    pub conntrack_max: Option<u64>,
    pub conntrack_entries: Option<u64>,
    /// Where cgroup2 is mounted; an empty one where it is not.
    pub cgroup2: Option<String>,
    /// Thousandths of a CPU.
    pub cpu_max: Option<Limit>,
    /// CPUs that may be used at all.
    pub cpus: Option<u64>,
    pub memory_max: Option<Limit>,
    pub memory_total: Option<u64>,
    pub keepalive_time: Option<u64>,
    pub keepalive_interval: Option<u64>,
    pub keepalive_probes: Option<u64>,
    /// Free bytes for us where the data directory is or will be.
    pub data_free: Option<u64>,
    pub huge_pages: Option<String>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// It will do.
    Ok,
    /// It will do for less than asked, or not as well.
    Warn,
    /// It will not do.
    Fail,
    /// It could not be read.
    Unknown,
}

impl Outcome {
    /// The label's text in metrics and tables.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "fail",
            Outcome::Unknown => "unknown",
        }
    }
}

/// Who can change what was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    /// Whoever starts the process.
    Process,
    /// Whoever writes the pod.
    Pod,
    /// Whoever has the node.
    Node,
}

impl Who {
    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Who::Process => "process",
            Who::Pod => "pod",
            Who::Node => "node",
        }
    }
}

/// A check and what came of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// Its name, for metrics and scripts.
    pub id: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// What there is.
    pub found: String,
    /// What there should be.
    pub needed: String,
    /// What happens otherwise.
    pub why: &'static str,
    /// Who can change it.
    pub who: Who,
    /// How: a command, or a field of the pod.
    pub fix: String,
}

impl Check {
    /// In a line, for the log.
    pub fn sentence(&self) -> String {
        format!(
            "{}: found {}, needed {}; {} ({}: {})",
            self.id,
            self.found,
            self.needed,
            self.why,
            self.who.label(),
            self.fix
        )
    }
}

/// How many checks came to what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Totals {
    pub ok: usize,
    pub warn: usize,
    pub fail: usize,
    pub unknown: usize,
}

impl Totals {
    /// Of these checks.
    pub fn of(checks: &[Check]) -> Totals {
        let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count();
        Totals {
            ok: count(Outcome::Ok),
            warn: count(Outcome::Warn),
            fail: count(Outcome::Fail),
            unknown: count(Outcome::Unknown),
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { ok, warn, fail, unknown } = self;
        write!(f, "{ok} ok, {warn} to mind, {fail} failed, {unknown} unknown")
    }
}

/// All checks, in the order in which they are shown.
pub fn assess(facts: &Facts, demand: &Demand) -> Vec<Check> {
    vec![
        kernel(facts, demand),
        btf(facts, demand),
        jit(facts, demand),
        capabilities(facts, demand),
        nofile(facts, demand),
        nr_open(facts, demand),
        file_max(facts, demand),
        somaxconn(facts, demand),
        syn_backlog(facts, demand),
        tcp_mem(facts, demand),
        port_range(facts),
        conntrack(facts, demand),
        cgroup2(facts, demand),
        cpu(facts, demand),
        memory(facts, demand),
        keepalive(facts, demand),
        data_dir(facts),
        huge_pages(facts),
    ]
}

/// The descriptors that a node of this demand has open at most.
pub fn descriptors(demand: &Demand) -> u64 {
    let listening = demand.shards.max(1).saturating_mul(demand.listeners.max(1));
    demand.connections_max.saturating_add(listening).saturating_add(DESCRIPTORS_BESIDES)
}

/// What eBPF lacks is no matter where it is off, and fatal where it is required.
fn with_ebpf(demand: &Demand, good: bool) -> Outcome {
    match (good, demand.ebpf) {
        (true, _) | (false, Ebpf::Off) => Outcome::Ok,
        (false, Ebpf::Auto) => Outcome::Warn,
        (false, Ebpf::Required) => Outcome::Fail,
    }
}

/// What was found and whether it does; unknown without.
fn judged<T>(
    found: Option<T>,
    show: impl Fn(&T) -> String,
    judge: impl Fn(&T) -> Outcome,
) -> (Outcome, String) {
    match found {
        Some(found) => (judge(&found), show(&found)),
        None => (Outcome::Unknown, "unknown".to_owned()),
    }
}

fn at_least(needed: u64, otherwise: Outcome) -> impl Fn(&u64) -> Outcome {
    move |found| if *found >= needed { Outcome::Ok } else { otherwise }
}

fn kernel(facts: &Facts, demand: &Demand) -> Check {
    let version = facts.version.zip(facts.kernel.clone());
    let (outcome, found) = judged(
        version,
        |(_, release)| release.clone(),
        |(version, _)| with_ebpf(demand, *version >= (5, 14)),
    );
    Check {
        id: "kernel",
        outcome,
        found,
        needed: "5.14 or later".into(),
        why: "before it a drained shard's queue is not moved to the others",
        who: Who::Node,
        fix: "a newer kernel; without one the kernel's hash spreads connections".into(),
    }
}

fn btf(facts: &Facts, demand: &Demand) -> Check {
    let (outcome, found) = judged(
        facts.btf,
        |there| if *there { "present" } else { "absent" }.into(),
        |there| if demand.ebpf == Ebpf::Off || *there { Outcome::Ok } else { Outcome::Warn },
    );
    Check {
        id: "btf",
        outcome,
        found,
        needed: "/sys/kernel/btf/vmlinux".into(),
        why: "programs that look into the kernel's structures are not loaded without it",
        who: Who::Node,
        fix: "a kernel with CONFIG_DEBUG_INFO_BTF=y, as distributions have it".into(),
    }
}

fn jit(facts: &Facts, demand: &Demand) -> Check {
    let (outcome, found) = judged(facts.jit, u64::to_string, |jit| {
        if demand.ebpf == Ebpf::Off || *jit > 0 { Outcome::Ok } else { Outcome::Warn }
    });
    Check {
        id: "bpf_jit",
        outcome,
        found,
        needed: "1".into(),
        why: "programs that are interpreted cost several times the CPU a connect",
        who: Who::Node,
        fix: "sysctl -w net.core.bpf_jit_enable=1".into(),
    }
}

fn capabilities(facts: &Facts, demand: &Demand) -> Check {
    let (outcome, found) = judged(
        facts.capabilities,
        |held| {
            let missing: Vec<_> = held.missing().collect();
            match missing.as_slice() {
                [] => "all three".into(),
                missing => format!("without {}", missing.join(", ")),
            }
        },
        |held| with_ebpf(demand, held.missing().next().is_none()),
    );
    Check {
        id: "capabilities",
        outcome,
        found,
        needed: "BPF, PERFMON, NET_ADMIN".into(),
        why: "without them nothing is loaded into the kernel; its hash spreads connections",
        who: Who::Pod,
        fix: "securityContext.capabilities.add: [BPF, PERFMON, NET_ADMIN]; \
              systemd: AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_NET_ADMIN"
            .into(),
    }
}

fn nofile(facts: &Facts, demand: &Demand) -> Check {
    let needed = descriptors(demand);
    let (outcome, found) = judged(
        facts.descriptors,
        |(soft, hard)| match (soft, hard) {
            (soft, hard) if soft == hard => soft.to_string(),
            (soft, hard) => format!("{soft} soft, {hard} hard"),
        },
        // The node raises the soft one to the hard one by itself.
        |(_, hard)| if hard.allows(needed) { Outcome::Ok } else { Outcome::Fail },
    );
    Check {
        id: "nofile",
        outcome,
        found,
        needed: format!("{needed} hard"),
        why: "each connection is a descriptor; at the limit no more are accepted",
        who: Who::Process,
        fix: format!(
            "systemd: LimitNOFILE={needed}; shell: ulimit -Hn {needed}; a pod has the limit of \
             its container runtime (containerd.service: LimitNOFILE)"
        ),
    }
}

fn nr_open(facts: &Facts, demand: &Demand) -> Check {
    let needed = descriptors(demand);
    let (outcome, found) = judged(facts.nr_open, u64::to_string, at_least(needed, Outcome::Fail));
    Check {
        id: "fs_nr_open",
        outcome,
        found,
        needed: needed.to_string(),
        why: "no process can be given more descriptors than this",
        who: Who::Node,
        fix: format!("sysctl -w fs.nr_open={}", rounded(needed)),
    }
}

fn file_max(facts: &Facts, demand: &Demand) -> Check {
    let needed = descriptors(demand).saturating_add(FILES_OF_OTHERS);
    let (outcome, found) = judged(facts.file_max, u64::to_string, at_least(needed, Outcome::Fail));
    Check {
        id: "fs_file_max",
        outcome,
        found,
        needed: needed.to_string(),
        why: "the whole machine has no more open files than this",
        who: Who::Node,
        fix: format!("sysctl -w fs.file-max={}", rounded(needed)),
    }
}

fn somaxconn(facts: &Facts, demand: &Demand) -> Check {
    let needed = demand.backlog;
    let (outcome, found) = judged(facts.somaxconn, u64::to_string, at_least(needed, Outcome::Warn));
    Check {
        id: "somaxconn",
        outcome,
        found,
        needed: needed.to_string(),
        why: "accept queues are cut to it, and a storm of connects overflows them sooner",
        who: Who::Pod,
        fix: unsafe_sysctl("net.core.somaxconn", needed),
    }
}

fn syn_backlog(facts: &Facts, demand: &Demand) -> Check {
    let needed = demand.backlog;
    let (outcome, found) =
        judged(facts.syn_backlog, u64::to_string, at_least(needed, Outcome::Warn));
    Check {
        id: "tcp_max_syn_backlog",
        outcome,
        found,
        needed: needed.to_string(),
        why: "beyond it handshakes go by SYN cookies, without window scaling for old clients",
        who: Who::Pod,
        fix: unsafe_sysctl("net.ipv4.tcp_max_syn_backlog", needed),
    }
}

/// A sysctl of the network namespace that kubelet has to be told to allow.
fn unsafe_sysctl(name: &str, value: u64) -> String {
    format!(
        "securityContext.sysctls: {name}={value}, if kubelet has \
         --allowed-unsafe-sysctls={name}; with hostNetwork on the node: sysctl -w {name}={value}"
    )
}

fn tcp_mem(facts: &Facts, demand: &Demand) -> Check {
    // Idle connections hold no page; one a connection is all of them at once.
    let needed = demand.connections_max;
    let (outcome, found) = judged(
        facts.tcp_mem,
        |[low, pressure, most]| format!("{low} {pressure} {most}"),
        |[_, pressure, _]| if *pressure >= needed { Outcome::Ok } else { Outcome::Warn },
    );
    Check {
        id: "tcp_mem",
        outcome,
        found,
        needed: format!("{needed} pages in the middle"),
        why: "with a page waiting for each connection, TCP shrinks all buffers of the machine",
        who: Who::Node,
        fix: format!(
            "sysctl -w net.ipv4.tcp_mem=\"{} {} {}\"",
            needed.saturating_mul(3) / 4,
            needed,
            needed.saturating_mul(3) / 2
        ),
    }
}

fn port_range(facts: &Facts) -> Check {
    let (outcome, found) =
        judged(facts.port_range, |[from, to]| format!("{from} to {to}"), |_| Outcome::Ok);
    Check {
        id: "ip_local_port_range",
        outcome,
        found,
        needed: "any".into(),
        why: "who connects needs ports, a broker does not; a proxy in front has at most these a \
              listener's address",
        who: Who::Pod,
        fix: "securityContext.sysctls: net.ipv4.ip_local_port_range=\"1024 65535\" (of the proxy)"
            .into(),
    }
}

fn conntrack(facts: &Facts, demand: &Demand) -> Check {
    let entries = facts.conntrack_entries.unwrap_or(0);
    let needed = predicted_entries(entries, demand.connections, demand.connections_max);
    let percent = |max: u64| needed.saturating_mul(100) / max.max(1);
    let (outcome, found) = judged(
        facts.conntrack_max,
        |max| match facts.conntrack_entries {
            Some(entries) => format!("{max}, {entries} taken"),
            None => max.to_string(),
        },
        |max| match percent(*max) {
            ..CONNTRACK_PERCENT => Outcome::Ok,
            CONNTRACK_PERCENT..=100 => Outcome::Warn,
            101.. => Outcome::Fail,
        },
    );
    let mut shown = needed.to_string();
    if let Some(max) = facts.conntrack_max {
        let _ = write!(shown, " ({} % of it)", percent(max));
    }
    let size = rounded(needed.saturating_mul(4) / 3);
    Check {
        id: "conntrack",
        outcome,
        found,
        needed: shown,
        why: "a full table drops the first packet of new connections, of everybody on the node; \
              needed if each connection is tracked",
        who: Who::Node,
        fix: format!(
            "sysctl -w net.netfilter.nf_conntrack_max={size}; with hostNetwork also NOTRACK for \
             the broker's ports (docs/kernel.md)"
        ),
    }
}

fn cgroup2(facts: &Facts, demand: &Demand) -> Check {
    let (outcome, found) = judged(
        facts.cgroup2.clone(),
        |mount| if mount.is_empty() { "not mounted".into() } else { mount.clone() },
        |mount| {
            let good = demand.ebpf == Ebpf::Off || !mount.is_empty();
            if good { Outcome::Ok } else { Outcome::Warn }
        },
    );
    Check {
        id: "cgroup2",
        outcome,
        found,
        needed: "mounted".into(),
        why: "round-trip times and retransmits are measured by a program of the cgroup",
        who: Who::Node,
        fix: "boot with systemd.unified_cgroup_hierarchy=1".into(),
    }
}

fn cpu(facts: &Facts, demand: &Demand) -> Check {
    // The smaller of the two is what there is, if the limit is known.
    let millicores = facts.cpu_max.map(|limit| match (limit, facts.cpus) {
        (Limit::At(limit), Some(cpus)) => limit.min(cpus.saturating_mul(1_000)),
        (Limit::At(limit), None) => limit,
        (Limit::Unlimited, Some(cpus)) => cpus.saturating_mul(1_000),
        (Limit::Unlimited, None) => u64::MAX,
    });
    let fractional = matches!(facts.cpu_max, Some(Limit::At(limit)) if limit % 1_000 != 0);
    let (outcome, found) = judged(
        millicores,
        |there| match (facts.cpu_max, facts.cpus) {
            (Some(Limit::At(limit)), _) => format!("limit of {} CPUs", cores(limit)),
            (_, Some(_)) => format!("{} CPUs, no limit", cores(*there)),
            (_, None) => "no limit".into(),
        },
        |there| if *there < 2_000 || fractional { Outcome::Warn } else { Outcome::Ok },
    );
    let whole = facts.cpu_max.map_or(0, |limit| match limit {
        Limit::At(limit) => limit.div_ceil(1_000),
        Limit::Unlimited => 0,
    });
    let whole = whole.max(2).max(demand.shards);
    Check {
        id: "cgroup_cpu",
        outcome,
        found,
        needed: "2 or more, whole".into(),
        why: "a quota stops all shards at once in the middle of a turn; few large nodes serve \
              better than many small ones",
        who: Who::Pod,
        fix: format!("resources.limits.cpu: {whole}, and requests the same; or no limit"),
    }
}

fn cores(millicores: u64) -> String {
    match (millicores / 1_000, millicores % 1_000) {
        (whole, 0) => whole.to_string(),
        (whole, rest) => format!("{whole}.{rest:03}").trim_end_matches('0').to_owned(),
    }
}

fn memory(facts: &Facts, demand: &Demand) -> Check {
    let needed = demand.connections_max.saturating_mul(CONNECTION_BYTES).saturating_add(256 << 20);
    let there = match (facts.memory_max, facts.memory_total) {
        (Some(Limit::At(limit)), total) => Some(limit.min(total.unwrap_or(limit))),
        (Some(Limit::Unlimited) | None, total) => total,
    };
    let (outcome, found) = judged(
        there,
        |there| match facts.memory_max {
            Some(Limit::At(_)) => format!("limit of {}", bytes(*there)),
            Some(Limit::Unlimited) => format!("{}, no limit", bytes(*there)),
            None => format!("{}, limit unknown", bytes(*there)),
        },
        at_least(needed, Outcome::Warn),
    );
    Check {
        id: "cgroup_memory",
        outcome,
        found,
        needed: format!("about {}", bytes(needed)),
        why: "idle connections alone take it, and the kernel kills what is over its limit",
        who: Who::Pod,
        fix: format!(
            "resources.limits.memory: {}Mi or more; or a lower limits.connections_max",
            needed.div_ceil(1 << 20)
        ),
    }
}

fn keepalive(facts: &Facts, demand: &Demand) -> Check {
    let values = facts.keepalive_time.zip(facts.keepalive_interval).zip(facts.keepalive_probes);
    let (outcome, found) = judged(
        values,
        |((time, interval), probes)| format!("{time}/{interval}/{probes}"),
        |_| Outcome::Ok,
    );
    let (time, interval, probes) = demand.keepalive;
    Check {
        id: "tcp_keepalive",
        outcome,
        found,
        needed: "any".into(),
        why: "each of our sockets has its own times, whatever the node's",
        who: Who::Process,
        fix: format!("node.lb_idle_timeout_seconds; in effect: {time}/{interval}/{probes}"),
    }
}

fn data_dir(facts: &Facts) -> Check {
    let (least, good) = DATA_BYTES;
    let (outcome, found) = judged(
        facts.data_free,
        |free| format!("{} free", bytes(*free)),
        |free| match *free {
            free if free < least => Outcome::Fail,
            free if free < good => Outcome::Warn,
            _ => Outcome::Ok,
        },
    );
    Check {
        id: "data_dir",
        outcome,
        found,
        needed: format!("{}, better {}", bytes(least), bytes(good)),
        why: "a node without room for its files does not start, and loses what it has to store",
        who: Who::Node,
        fix: "node.data_dir on a volume with room, such as a hostPath of a data disk".into(),
    }
}

fn huge_pages(facts: &Facts) -> Check {
    let (outcome, found) = judged(facts.huge_pages.clone(), String::clone, |_| Outcome::Ok);
    Check {
        id: "transparent_hugepages",
        outcome,
        found,
        needed: "any".into(),
        why: "the broker does not need them; with `always` it may hold more memory",
        who: Who::Node,
        fix: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled".into(),
    }
}

/// Up to a number that looks chosen: two significant digits in binary.
fn rounded(number: u64) -> u64 {
    let step = (number.checked_next_power_of_two().unwrap_or(1 << 63) / 8).max(1);
    number.checked_next_multiple_of(step).unwrap_or(number)
}

/// Bytes for people.
pub fn bytes(number: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.into_iter().find(|(_, shift)| number >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = u128::from(number) * 10 / (1u128 << shift);
            match (tenths / 10, tenths % 10) {
                (whole, 0) => format!("{whole} {unit}"),
                (whole, rest) => format!("{whole}.{rest} {unit}"),
            }
        }
        None => format!("{number} B"),
    }
}

#[cfg(test)]
mod tests;
