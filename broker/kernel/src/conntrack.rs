//! Rates of connection tracking, by network namespace, where the kernel has
//! kprobes. How full the table is, is in /proc and needs none of this.

use std::fs;
use std::path::Path;

use aya::maps::PerCpuHashMap;
use aya::programs::KProbe;
use aya::{Ebpf, EbpfLoader};
use tidegate_ebpf_abi::conntrack as abi;

use crate::btf::Btf;
use crate::capabilities;
use crate::objects::CONNTRACK;
use crate::program::{Facts, chain, explain};

pub use tidegate_ebpf_abi::conntrack::Counts;

/// The loaded object.
pub struct Conntrack {
    ebpf: Ebpf,
    attached: Vec<&'static str>,
    missing: Vec<(String, String)>,
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").field("attached", &self.attached).finish_non_exhaustive()
    }
}

impl Conntrack {
    /// Loads and attaches what this kernel takes.
    ///
    /// # Errors
    /// When nothing can be had; why, in words.
    pub fn start() -> Result<Conntrack, String> {
        if let Some(why) = capabilities::lacking(&["BPF", "PERFMON"]) {
            return Err(why);
        }
        if CONNTRACK.is_empty() {
            return Err("there is no object for this architecture".into());
        }
        if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
            return Err("this kernel has no kprobes".into());
        }
        let btf = Btf::of_kernel(Some("nf_conntrack")).map_err(|error| error.to_string())?;
        let offset = |of, field| btf.offset(of, field).map_err(|error| error.to_string());
        let ct_net =
            offset("nf_conn", "ct_net").map_err(|why| format!("{why}; is nf_conntrack loaded?"))?;
        let inode = offset("net", "ns.inum")?;
        let nfct = offset("sk_buff", "_nfct")?;
        let mut ebpf = EbpfLoader::new()
            .override_global(abi::GLOBAL_OFFSET_CT_NET, &ct_net, true)
            .override_global(abi::GLOBAL_OFFSET_NET_INODE, &inode, true)
            .override_global(abi::GLOBAL_OFFSET_SKB_NFCT, &nfct, true)
            .load(CONNTRACK)
            .map_err(|error| chain(&error))?;
        let (mut attached, mut missing) = (Vec::new(), Vec::new());
        for probe in abi::PROBES {
            match attach(&mut ebpf, probe) {
                Ok(()) => attached.push(probe.program),
                Err(why) => missing.push((probe.program.to_owned(), why)),
            }
        }
        match missing.first() {
            Some((_, why)) if attached.is_empty() => Err(why.clone()),
            Some(_) | None => Ok(Conntrack { ebpf, attached, missing }),
        }
    }

    /// What was counted in a network namespace since the start; `inode` is the
    /// number of its file.
    ///
    /// # Errors
    /// When the kernel will not say; why, in words.
    pub fn counts(&self, inode: u32) -> Result<Counts, String> {
        let map = self.ebpf.map(abi::MAP_NAMESPACES).ok_or("map NAMESPACES is not there")?;
        let map: PerCpuHashMap<_, u32, Counts> = map.try_into().map_err(|e| chain(&e))?;
        let cpus = match map.get(&inode, 0) {
            Ok(cpus) => cpus,
            // Nothing has happened there.
            Err(aya::maps::MapError::KeyNotFound) => return Ok(Counts::default()),
            Err(error) => return Err(chain(&error)),
        };
        let mut sum = Counts::default();
        for cpu in cpus.iter() {
            sum.new += cpu.new;
            sum.confirmed += cpu.confirmed;
            sum.confirm_dropped += cpu.confirm_dropped;
            sum.destroyed += cpu.destroyed;
            sum.early_drops += cpu.early_drops;
        }
        Ok(sum)
    }

    /// Whether a program is attached.
    #[must_use]
    pub fn has(&self, program: &str) -> bool {
        self.attached.contains(&program)
    }

    /// Programs that are not attached, and why.
    #[must_use]
    pub fn missing(&self) -> &[(String, String)] {
        &self.missing
    }

    /// What the kernel tells of those that are.
    #[must_use]
    pub fn facts(&self) -> Vec<Facts> {
        crate::program::facts_of(&self.ebpf, self.attached.iter().copied())
    }
}

fn attach(ebpf: &mut Ebpf, probe: abi::Probe) -> Result<(), String> {
    let program = ebpf.program_mut(probe.program).ok_or("it is not in the object")?;
    let program: &mut KProbe = program.try_into().map_err(|e| chain(&e))?;
    program.load().map_err(|error| explain(&error))?;
    let mut why = "it has no function to attach to".to_owned();
    for function in probe.functions {
        match program.attach(function, 0) {
            Ok(_) => return Ok(()),
            Err(error) => why = format!("{function}: {}", chain(&error)),
        }
    }
    Err(why)
}

/// The number of the network namespace that this process is in.
#[must_use]
pub fn own_namespace() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/net").ok()?.ino().try_into().ok()
}
