//! What the kernel sees of our connections: round trips, retransmits, states.
//!
//! A sock_ops program on the process's own cgroup counts what began after it
//! was attached; tracepoints add what it does not see, where they may. Each is
//! of use without the others.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, PerCpuArray};
use aya::programs::{BtfTracePoint, CgroupAttachMode, SockOps};
use aya::{Btf as AyaBtf, Ebpf, EbpfLoader};
use tidegate_ebpf_abi::LISTENERS_MAX;
use tidegate_ebpf_abi::tcpstat as abi;

use crate::btf::Btf;
use crate::capabilities;
use crate::objects::TCPSTAT;
use crate::program::{Facts, chain, explain};

pub use tidegate_ebpf_abi::tcpstat::{BUCKETS, PROGRAM_RECEIVE_RESET, STATES_MAX, Stats};

/// Of one connection in so many the lifetime is taken.
const LIFETIME_EVERY: u32 = 16;

/// The loaded object.
pub struct Tcpstat {
    ebpf: Ebpf,
    missing: Vec<(String, String)>,
}

impl std::fmt::Debug for Tcpstat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tcpstat").field("missing", &self.missing).finish_non_exhaustive()
    }
}

impl Tcpstat {
    /// Loads and attaches it for these ports, each with its listener's index.
    ///
    /// # Errors
    /// When the sock_ops program cannot be had; why, in words.
    pub fn start(ports: &[(u16, usize)]) -> Result<Tcpstat, String> {
        if let Some(why) = capabilities::lacking(&["BPF", "NET_ADMIN"]) {
            return Err(why);
        }
        let cgroup = own_cgroup()?;
        let file = File::open(&cgroup).map_err(|e| format!("cannot open {cgroup:?}: {e}"))?;
        let sport = Btf::of_kernel(None).and_then(|btf| btf.offset("inet_sock", "inet_sport"));
        let mut loader = EbpfLoader::new();
        loader.override_global(abi::GLOBAL_LIFETIMES, &LIFETIME_EVERY, true);
        if let Ok(offset) = &sport {
            loader.override_global(abi::GLOBAL_OFFSET_SPORT, offset, true);
        }
        let mut ebpf = loader.load(TCPSTAT).map_err(|error| chain(&error))?;
        {
            let map = ebpf.map_mut(abi::MAP_PORTS).ok_or("map PORTS is not in the object")?;
            let mut map: HashMap<_, u16, u32> = map.try_into().map_err(|e| chain(&e))?;
            for (port, listener) in ports.iter().take(abi::PORTS_MAX) {
                // The first listener of a port keeps it.
                if map.get(port, 0).is_err() {
                    map.insert(port, *listener as u32, 0).map_err(|e| chain(&e))?;
                }
            }
        }
        let name = abi::PROGRAM_SOCKET_EVENTS;
        let program = ebpf.program_mut(name).ok_or("socket_events is not in the object")?;
        let program: &mut SockOps = program.try_into().map_err(|e| chain(&e))?;
        program.load().map_err(|error| explain(&error))?;
        program
            .attach(file, CgroupAttachMode::Single)
            .map_err(|error| format!("cgroup {cgroup:?}: {}", chain(&error)))?;

        let mut missing = Vec::new();
        for (name, tracepoint) in [
            (abi::PROGRAM_SET_STATE, abi::TRACEPOINT_SET_STATE),
            (abi::PROGRAM_RECEIVE_RESET, abi::TRACEPOINT_RECEIVE_RESET),
        ] {
            let done = match &sport {
                Ok(_) => trace(&mut ebpf, name, tracepoint),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = done {
                missing.push((name.to_owned(), why));
            }
        }
        Ok(Tcpstat { ebpf, missing })
    }

    /// What was counted of a listener, all CPUs together.
    ///
    /// # Errors
    /// When the kernel will not say; why, in words.
    pub fn stats(&self, listener: usize) -> Result<Stats, String> {
        if listener >= LISTENERS_MAX {
            return Err(format!("listener {listener}: 0 to {}", LISTENERS_MAX - 1));
        }
        let map = self.ebpf.map(abi::MAP_STATS).ok_or("map STATS is not in the object")?;
        let map: PerCpuArray<_, Stats> = map.try_into().map_err(|e| chain(&e))?;
        let cpus = map.get(&(listener as u32), 0).map_err(|error| chain(&error))?;
        let mut sum = Stats::ZERO;
        for cpu in cpus.iter() {
            sum.established += cpu.established;
            sum.retransmitted_segments += cpu.retransmitted_segments;
            sum.timeouts += cpu.timeouts;
            sum.rtt_us_sum += cpu.rtt_us_sum;
            sum.lifetime_ms_sum += cpu.lifetime_ms_sum;
            sum.resets_received += cpu.resets_received;
            add(&mut sum.rtt_us, &cpu.rtt_us);
            add(&mut sum.lifetime_ms, &cpu.lifetime_ms);
            add(&mut sum.entered, &cpu.entered);
            add(&mut sum.closed_from, &cpu.closed_from);
            add(&mut sum.traced_entered, &cpu.traced_entered);
            add(&mut sum.traced_closed_from, &cpu.traced_closed_from);
        }
        Ok(sum)
    }

    /// Whether a program is attached.
    #[must_use]
    pub fn has(&self, program: &str) -> bool {
        !self.missing.iter().any(|(name, _)| name == program)
    }

    /// Programs that are not attached, and why.
    #[must_use]
    pub fn missing(&self) -> &[(String, String)] {
        &self.missing
    }

    /// What the kernel tells of those that are.
    #[must_use]
    pub fn facts(&self) -> Vec<Facts> {
        let names =
            [abi::PROGRAM_SOCKET_EVENTS, abi::PROGRAM_SET_STATE, abi::PROGRAM_RECEIVE_RESET];
        crate::program::facts_of(&self.ebpf, names.into_iter().filter(|name| self.has(name)))
    }
}

fn trace(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Result<(), String> {
    let btf = AyaBtf::from_sys_fs().map_err(|error| chain(&error))?;
    let program = ebpf.program_mut(name).ok_or("it is not in the object")?;
    let program: &mut BtfTracePoint = program.try_into().map_err(|e| chain(&e))?;
    program.load(tracepoint, &btf).map_err(|error| explain(&error))?;
    program.attach().map_err(|error| chain(&error))?;
    Ok(())
}

fn add<const N: usize>(sum: &mut [u64; N], more: &[u64; N]) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// The directory of the process's own cgroup, version 2. In a container it is
/// the root of what is mounted there.
fn own_cgroup() -> Result<PathBuf, String> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(at))
        })
        .ok_or("no cgroup file system of version 2 is mounted")?;
    let path = membership.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let own = mount.join(path);
    Ok(if own.join("cgroup.procs").exists() { own } else { existing(&mount)? })
}

fn existing(mount: &Path) -> Result<PathBuf, String> {
    match mount.join("cgroup.procs").exists() {
        true => Ok(mount.to_owned()),
        false => Err(format!("{mount:?} holds no cgroup of ours")),
    }
}
