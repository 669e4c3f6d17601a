//! How much memory is used, and how much there may be.
//!
//! In a cgroup with a limit it is the cgroup's: what the kernel would kill us
//! by, sockets included and page cache that can go excluded. With
//! `limits.memory_bytes_max` it is the process's own, against that. With both,
//! the one that is nearer to its limit.

use std::fs;
use std::path::{Path, PathBuf};

use crate::system::cgroups::{self, Version};

/// A measurement.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Bytes in use.
    pub used: u64,
    /// Bytes there may be; 0: no limit is known.
    pub limit: u64,
}

impl Memory {
    fn fill(self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.used as f64 / self.limit as f64 }
    }
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Meter {
    root: PathBuf,
    configured: u64,
    groups: Vec<Group>,
}

/// A cgroup with a limit.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Group {
    dir: PathBuf,
    version: Version,
}

/// The files of a limit and of what is used, and how the line of `memory.stat`
/// begins that tells of cache which can go.
fn names(version: Version) -> [&'static str; 3] {
    match version {
        Version::V1 => ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "],
        Version::V2 => ["memory.max", "memory.current", "inactive_file "],
    }
}

/// Above this a limit is none: v1 says so with a number near 2^63.
const LIMIT_MAX: u64 = 1 << 60;

impl Meter {
    /// Of this process; `configured` is `limits.memory_bytes_max`, 0 for none.
    pub fn new(configured: u64) -> Meter {
        Meter::at(Path::new("/"), configured)
    }

    /// The same, with file systems looked for below `root`.
    pub fn at(root: &Path, configured: u64) -> Meter {
        Meter { root: root.to_owned(), configured, groups: groups(root) }
    }

    /// Measures. What cannot be read counts as not there.
    pub fn take(&self) -> Memory {
        let own = Memory { used: resident(&self.root), limit: self.configured };
        let own = (self.configured > 0).then_some(own);
        let groups = self.groups.iter().filter_map(Group::take);
        let nearest = groups.chain(own).max_by(|a, b| a.fill().total_cmp(&b.fill()));
        nearest.unwrap_or(Memory { used: resident(&self.root), limit: 0 })
    }
}

impl Group {
    fn take(&self) -> Option<Memory> {
        let [limit, used, reclaimable] = names(self.version);
        let limit = number(&self.dir.join(limit))?;
        let used = number(&self.dir.join(used))?;
        let stat = fs::read_to_string(self.dir.join("memory.stat")).unwrap_or_default();
        let reclaimable = stat
            .lines()
            .find_map(|line| line.strip_prefix(reclaimable)?.trim().parse::<u64>().ok());
        Some(Memory { used: used.saturating_sub(reclaimable.unwrap_or(0)), limit })
    }
}

/// A file with one number; none for `max`.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|limit| *limit < LIMIT_MAX)
}

/// The cgroups with a limit on the way from this process's to the root.
fn groups(root: &Path) -> Vec<Group> {
    let all = cgroups::of_process(root, "memory").into_iter();
    let groups = all.map(|(version, dir)| Group { dir, version });
    groups.filter(|group| group.take().is_some()).collect()
}

/// Memory of this process that only it can give back.
fn resident(root: &Path) -> u64 {
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    (kibibytes("RssAnon:").unwrap_or(0) + kibibytes("RssShmem:").unwrap_or(0)) * 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file tree that goes when dropped.
    struct Root(PathBuf);

    impl Root {
        fn with(name: &str, files: &[(&str, &str)]) -> Root {
            let root =
                std::env::temp_dir().join(format!("tidegate-memory-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("in a directory")).expect("mkdir");
                fs::write(path, text).expect("write");
            }
            Root(root)
        }

        fn take(&self, configured: u64) -> Memory {
            Meter::at(&self.0, configured).take()
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const STATUS: (&str, &str) =
        ("proc/self/status", "Name:\ttidegate\nRssAnon:\t  1000 kB\nRssShmem:\t   24 kB\n");

    #[test]
    fn a_cgroup_s_use_is_without_the_cache_that_can_go() {
        let root = Root::with(
            "v2",
            &[
                STATUS,
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("sys/fs/cgroup/a/b/memory.current", "5\n"),
                ("sys/fs/cgroup/a/memory.max", "1000000\n"),
                ("sys/fs/cgroup/a/memory.current", "900000\n"),
                ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 200000\n"),
            ],
        );
        assert_eq!(root.take(0), Memory { used: 700_000, limit: 1_000_000 });
    }

    #[test]
    fn version_1_without_a_limit_says_so_with_a_huge_number() {
        let membership = ("proc/self/cgroup", "5:memory:/x\n4:cpu:/x\n");
        let used = ("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "77\n");
        let huge = ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n");
        let root = Root::with("v1-none", &[STATUS, membership, used, huge]);
        assert_eq!(root.take(0), Memory { used: 1_048_576, limit: 0 });
        let some = ("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "100\n");
        let root = Root::with("v1", &[STATUS, membership, used, some]);
        assert_eq!(root.take(0), Memory { used: 77, limit: 100 });
    }

    #[test]
    fn of_two_limits_the_nearer_one_counts() {
        let files = [
            STATUS,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "4000000\n"),
            ("sys/fs/cgroup/memory.current", "2000000\n"),
        ];
        let root = Root::with("both", &files);
        assert_eq!(root.take(2_000_000), Memory { used: 1_048_576, limit: 2_000_000 });
        assert_eq!(root.take(8_000_000), Memory { used: 2_000_000, limit: 4_000_000 });
    }

    #[test]
    fn this_process_uses_some() {
        assert!(Meter::new(1 << 40).take().used > 100_000);
    }
}
