//! The files in which the kernel tells of itself.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use rustix::thread::{CpuSet, sched_getaffinity};
use tidegate_system::preflight::{Demand, Ebpf, Facts};
use tidegate_system::process::Limit;
use tidegate_system::{cgroup, process, values};

use super::cgroups::{self, Version};
use crate::config::{Config, Mode};

/// A file of `/proc` is never longer, but for those that we do not read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Where the file systems are: `/`, or a directory in a test.
#[derive(Clone, Debug)]
pub struct Tree(PathBuf);

impl Default for Tree {
    fn default() -> Tree {
        Tree::at(Path::new("/"))
    }
}

impl Tree {
    /// Below `root`.
    pub fn at(root: &Path) -> Tree {
        Tree(root.to_owned())
    }

    /// A file's text, its path given without the leading `/`.
    ///
    /// # Errors
    /// When it cannot be read; the path is in the error.
    pub fn text(&self, path: &str) -> io::Result<String> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("/{path}: {error}"));
        let mut text = String::new();
        let file = File::open(self.0.join(path)).map_err(named)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(named)?;
        Ok(text)
    }

    /// A file with one number.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn number(&self, path: &str) -> io::Result<u64> {
        let number = values::number(&self.text(path)?);
        number.ok_or_else(|| io::Error::other(format!("/{path}: not a number")))
    }

    fn optional(&self, path: &str) -> Option<String> {
        self.text(path).ok()
    }
}

/// What is known of this machine and process, for a node with this data
/// directory. Of the capabilities, those of this thread.
pub fn facts(tree: &Tree, data_dir: &Path) -> Facts {
    let number = |path: &str| tree.number(path).ok();
    let status = tree.optional("proc/thread-self/status");
    let release = tree.optional("proc/sys/kernel/osrelease");
    Facts {
        version: release.as_deref().and_then(values::version),
        kernel: release.map(|release| release.trim().to_owned()),
        // Where there is no sysfs at all, nothing is known of it.
        btf: tree
            .0
            .join("sys/kernel")
            .is_dir()
            .then(|| tree.0.join("sys/kernel/btf/vmlinux").exists()),
        jit: number("proc/sys/net/core/bpf_jit_enable"),
        capabilities: status.as_deref().and_then(|text| process::capabilities(text, "CapEff")),
        descriptors: tree
            .optional("proc/self/limits")
            .and_then(|text| process::limits(&text, "Max open files")),
        nr_open: number("proc/sys/fs/nr_open"),
        file_max: number("proc/sys/fs/file-max"),
        somaxconn: number("proc/sys/net/core/somaxconn"),
        syn_backlog: number("proc/sys/net/ipv4/tcp_max_syn_backlog"),
        tcp_mem: tree.optional("proc/sys/net/ipv4/tcp_mem").and_then(|text| values::numbers(&text)),
        port_range: tree
            .optional("proc/sys/net/ipv4/ip_local_port_range")
            .and_then(|text| values::numbers(&text)),
        conntrack_max: number("proc/sys/net/netfilter/nf_conntrack_max"),
        conntrack_entries: number("proc/sys/net/netfilter/nf_conntrack_count"),
        cgroup2: tree.optional("proc/self/mounts").map(|text| cgroup2(&text)),
        cpu_max: smallest(tree, cpu_limit, "cpu"),
        cpus: sched_getaffinity(None)
            .ok()
            .map(|set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).count() as u64),
        memory_max: smallest(tree, memory_limit, "memory"),
        memory_total: tree
            .optional("proc/meminfo")
            .and_then(|text| values::memory(&text, "MemTotal")),
        keepalive_time: number("proc/sys/net/ipv4/tcp_keepalive_time"),
        keepalive_interval: number("proc/sys/net/ipv4/tcp_keepalive_intvl"),
        keepalive_probes: number("proc/sys/net/ipv4/tcp_keepalive_probes"),
        data_free: free_bytes(data_dir),
        huge_pages: tree
            .optional("sys/kernel/mm/transparent_hugepage/enabled")
            .and_then(|text| values::chosen(&text).map(str::to_owned)),
    }
}

/// What a config asks of the machine.
pub fn demand(config: &Config, shards: usize, connections: u64) -> Demand {
    let ebpf = &config.ebpf;
    let modes = [ebpf.steer, ebpf.tcpstat, ebpf.conntrack];
    let keepalive = &config.keepalive;
    Demand {
        connections_max: config.settings.limits.connections_max.into(),
        connections,
        shards: shards as u64,
        listeners: config.listeners.len() as u64,
        backlog: config.listeners.iter().map(|l| u64::from(l.backlog)).max().unwrap_or(0),
        ebpf: if modes.contains(&Mode::Require) {
            Ebpf::Required
        } else if modes.contains(&Mode::Auto) {
            Ebpf::Auto
        } else {
            Ebpf::Off
        },
        keepalive: (keepalive.idle.as_secs(), keepalive.interval.as_secs(), keepalive.count.into()),
    }
}

/// Where cgroup2 is mounted; empty if it is not.
fn cgroup2(mounts: &str) -> String {
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (place, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| place.to_owned())
    });
    mount.unwrap_or_default()
}

/// The smallest limit on the way from this process's cgroup to the root; none
/// where the kernel does not tell of cgroups.
fn smallest(tree: &Tree, limit: fn(&Path, Version) -> Option<Limit>, of: &str) -> Option<Limit> {
    tree.optional("proc/self/cgroup")?;
    let all = cgroups::of_process(&tree.0, of).into_iter();
    let limits = all.filter_map(|(version, dir)| limit(&dir, version));
    let bytes = limits.filter_map(|limit| match limit {
        Limit::At(at) => Some(at),
        Limit::Unlimited => None,
    });
    Some(bytes.min().map_or(Limit::Unlimited, Limit::At))
}

fn cpu_limit(dir: &Path, version: Version) -> Option<Limit> {
    let file = |name: &str| fs::read_to_string(dir.join(name)).ok();
    match version {
        Version::V1 => cgroup::cfs(&file("cpu.cfs_quota_us")?, &file("cpu.cfs_period_us")?),
        Version::V2 => cgroup::cpu_max(&file("cpu.max")?),
    }
}

fn memory_limit(dir: &Path, version: Version) -> Option<Limit> {
    let name = match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    cgroup::memory_max(&fs::read_to_string(dir.join(name)).ok()?)
}

/// What we may still write where the directory is, or will be made.
fn free_bytes(dir: &Path) -> Option<u64> {
    let dir = std::path::absolute(dir).ok()?;
    let there = dir.ancestors().find(|dir| fs::metadata(dir).is_ok())?;
    let told = statvfs(there).ok()?;
    told.f_bavail.checked_mul(told.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn with(name: &str, files: &[(&str, &str)]) -> Root {
            let root =
                std::env::temp_dir().join(format!("tidegate-files-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("in a directory")).expect("mkdir");
                fs::write(path, text).expect("write");
            }
            Root(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_empty_tree_tells_nothing_rather_than_zeros() {
        let root = Root::with("empty", &[("etc/x", "")]);
        let told = facts(&Tree::at(&root.0), Path::new("/"));
        // These two are asked of the kernel, not of the tree.
        let Facts { cpus, data_free, .. } = told;
        assert_eq!(told, Facts { cpus, data_free, ..Facts::default() });
    }

    #[test]
    fn a_pod_s_limits_are_found_exactly() {
        let root = Root::with(
            "pod",
            &[
                ("proc/self/cgroup", "0::/../pod/x\n"),
                ("sys/fs/cgroup/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/memory.max", "536870912\n"),
                ("proc/self/mounts", "x / ext4 rw 0 0\ncgroup /sys/fs/cgroup cgroup2 ro 0 0\n"),
            ],
        );
        let told = facts(&Tree::at(&root.0), Path::new("/"));
        assert_eq!(told.cpu_max, Some(Limit::At(1_500)));
        assert_eq!(told.memory_max, Some(Limit::At(512 << 20)));
        assert_eq!(told.cgroup2.as_deref(), Some("/sys/fs/cgroup"));
    }

    #[test]
    fn the_older_cgroups_limits_count_and_the_tightest_of_all() {
        let root = Root::with(
            "v1",
            &[
                ("proc/self/cgroup", "4:memory:/a/b\n3:cpu,cpuacct:/a\n0::/\n"),
                ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "250000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1073741824\n"),
                ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        let told = facts(&Tree::at(&root.0), Path::new("/"));
        assert_eq!(told.cpu_max, Some(Limit::At(2_500)));
        assert_eq!(told.memory_max, Some(Limit::At(1 << 30)));
    }

    #[test]
    fn this_machine_tells_most_of_it() {
        let told = facts(&Tree::default(), Path::new("no/such/directory/yet"));
        assert!(told.version.is_some_and(|version| version > (3, 0)));
        assert!(told.descriptors.is_some() && told.capabilities.is_some());
        assert!(told.data_free.is_some() && told.memory_total > Some(1 << 20));
        assert!(told.cpus > Some(0) && told.somaxconn.is_some());
    }
}
