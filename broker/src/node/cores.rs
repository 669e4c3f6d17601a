//! How many shards a node has, and on which cores they stay.
//!
//! One a core of the affinity mask, but no more than the cgroup's CPU quota
//! pays for (rounded up): threads beyond it would only be throttled, all of
//! them at once, in the middle of a turn.

use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity};
use tidegate_core::limits::SHARDS_MAX;

use crate::system::cgroups::{self, Version};

/// What the machine and its cgroup give this process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cores {
    /// The cores of the affinity mask.
    pub mask: Vec<usize>,
    /// The cores that the cgroup's quota pays for, rounded up; `None`: no quota.
    pub quota: Option<usize>,
}

impl Cores {
    /// Looks at this process's affinity mask and cgroups.
    pub fn detect() -> Cores {
        let mask = sched_getaffinity(None)
            .map(|set| (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect())
            .unwrap_or_default();
        Cores { mask, quota: quota(Path::new("/")) }
    }

    /// The number of shards: `wanted`, or what the cores suggest.
    pub fn shards(&self, wanted: Option<usize>) -> usize {
        let suggested = self.mask.len().min(self.quota.unwrap_or(usize::MAX));
        wanted.unwrap_or(suggested).clamp(1, SHARDS_MAX)
    }

    /// The core of shard `index` of `shards`; none when they have to share.
    pub fn core(&self, index: usize, shards: usize) -> Option<usize> {
        (shards <= self.mask.len()).then(|| self.mask[index])
    }
}

/// The smallest CPU quota on the way from this process's cgroup to the root,
/// in cores, rounded up. `root` is where the file systems are looked for.
fn quota(root: &Path) -> Option<usize> {
    let quotas =
        cgroups::of_process(root, "cpu").into_iter().filter_map(|(version, dir)| match version {
            Version::V1 => quota_v1(&dir),
            Version::V2 => quota_v2(&dir),
        });
    quotas.min()
}

/// `cpu.max`: `QUOTA PERIOD`, or `max PERIOD`.
fn quota_v2(dir: &Path) -> Option<usize> {
    let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace();
    let (quota, period) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    whole_cores(quota, period)
}

/// `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`.
fn quota_v1(dir: &Path) -> Option<usize> {
    let number = |file| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    whole_cores(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
}

fn whole_cores(quota: u64, period: u64) -> Option<usize> {
    if quota == 0 || period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period)).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A file tree that goes when dropped.
    struct Root(PathBuf);

    impl Root {
        fn with(name: &str, files: &[(&str, &str)]) -> Root {
            let root =
                std::env::temp_dir().join(format!("tidegate-cores-{}-{name}", std::process::id()));
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

    fn quota_of(name: &str, files: &[(&str, &str)]) -> Option<usize> {
        quota(&Root::with(name, files).0)
    }

    #[test]
    fn a_v2_quota_is_rounded_up_and_the_tightest_ancestor_counts() {
        let files = [
            ("proc/self/cgroup", "0::/pod/broker\n"),
            ("sys/fs/cgroup/pod/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/pod/broker/cpu.max", "max 100000\n"),
        ];
        assert_eq!(quota_of("v2", &files), Some(3));
    }

    #[test]
    fn a_container_finds_its_v2_quota_at_the_root() {
        let files =
            [("proc/self/cgroup", "0::/../../x\n"), ("sys/fs/cgroup/cpu.max", "50000 100000\n")];
        assert_eq!(quota_of("container", &files), Some(1));
    }

    #[test]
    fn a_v1_quota_counts_and_minus_one_is_none() {
        let membership = ("proc/self/cgroup", "4:memory:/a\n3:cpu,cpuacct:/a\n");
        let period = ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
        let set = ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "400000\n");
        let unset = ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
        assert_eq!(quota_of("v1", &[membership, period, set]), Some(4));
        assert_eq!(quota_of("v1-unset", &[membership, period, unset]), None);
    }

    #[test]
    fn no_cgroup_is_no_quota() {
        assert_eq!(quota_of("none", &[("etc/x", "")]), None);
    }

    #[test]
    fn the_quota_bounds_what_is_suggested_but_not_what_is_asked_for() {
        let cores = Cores { mask: vec![2, 3, 6, 7], quota: Some(2) };
        assert_eq!(cores.shards(None), 2);
        assert_eq!(cores.shards(Some(4)), 4);
        assert_eq!(cores.shards(Some(0)), 1);
        assert_eq!(cores.shards(Some(1000)), SHARDS_MAX);
    }

    #[test]
    fn shards_are_pinned_to_the_cores_of_the_mask_unless_they_have_to_share() {
        let cores = Cores { mask: vec![2, 6], quota: None };
        assert_eq!(cores.core(1, 2), Some(6));
        assert_eq!(cores.core(1, 3), None);
    }
}
