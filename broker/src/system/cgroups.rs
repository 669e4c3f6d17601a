//! Which cgroups this process is in.

use std::fs;
use std::path::{Path, PathBuf};

/// Version of the interface: what its files are called, and how they speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// A hierarchy a controller.
    V1,
    /// One for all.
    V2,
}

/// The directories of this process's cgroups for a controller, from its own to
/// the root, wherever one may be mounted; not all of them are there. `root` is
/// where the file systems are looked for.
///
/// Inside a container the path is often of the host's tree and not to be found;
/// its own limits are then at the mount's root, which is among the ancestors.
pub fn of_process(root: &Path, controller: &str) -> Vec<(Version, PathBuf)> {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (version, mounts) = if controllers.is_empty() {
            (Version::V2, ["", "unified"])
        } else if controllers.split(',').any(|name| name == controller) {
            (Version::V1, [controller, controllers])
        } else {
            continue;
        };
        for mount in mounts {
            for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
                let dir = root.join("sys/fs/cgroup").join(mount).join(ancestor);
                if !found.contains(&(version, dir.clone())) {
                    found.push((version, dir));
                }
            }
        }
    }
    found
}
