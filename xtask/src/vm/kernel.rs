//! Debian's kernel for clouds, unpacked from its package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::say;
use crate::dist::{output, succeed};

/// Always depends on the newest one.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the tests want loaded: connection tracking, and what a network namespace
/// of a test's own may be made of. What a kernel does not have is left out.
const MODULES: &[&str] = &[
    "nf_conntrack",
    "nf_tables",
    "nft_compat",
    "ip_tables",
    "iptable_filter",
    "xt_tcpudp",
    "xt_statistic",
    "xt_conntrack",
    "xt_length",
    "nf_conntrack_netlink",
    "veth",
    "sch_netem",
];

/// A kernel and its modules.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// In the order in which they can be loaded.
    pub(crate) modules: Vec<PathBuf>,
}

impl Kernel {
    /// The newest one that is offered; where nothing can be fetched, the one that
    /// was used before.
    pub(crate) fn set_up(place: &Path) -> Result<Self> {
        let unpacked = place.join("kernel");
        let was = fs::read_to_string(unpacked.join("package")).ok();
        let package = match (newest(), was) {
            (Ok(package), _) => package,
            (Err(_), Some(was)) => was,
            (Err(error), None) => return Err(error),
        };
        if fs::read_to_string(unpacked.join("package")).is_ok_and(|was| was == package) {
            return Self::find(&unpacked);
        }
        say(&format!("fetching {package}"));
        if unpacked.exists() {
            fs::remove_dir_all(&unpacked)?;
        }
        fs::create_dir_all(&unpacked)?;
        let mut get = Command::new("apt-get");
        get.args(["download", "--quiet=2", &package]).current_dir(&unpacked);
        output(get.stdin(Stdio::null())).context("vm test: Debian's kernel can't be fetched")?;
        for file in fs::read_dir(&unpacked)? {
            let file = file?.path();
            succeed(Command::new("dpkg").arg("-x").args([&file, &unpacked]))?;
            fs::remove_file(file)?;
        }
        fs::write(unpacked.join("package"), &package)?;
        Self::find(&unpacked)
    }

    fn find(unpacked: &Path) -> Result<Self> {
        let mut files = Vec::new();
        list(&unpacked.join("boot"), &mut files)?;
        let image = files.iter().find(|path| name(path).starts_with("vmlinuz"));
        let image = image.with_context(|| format!("no kernel in {unpacked:?}"))?.clone();
        let mut files = Vec::new();
        list(&unpacked.join("lib/modules"), &mut files)?;
        let mut modules = Vec::new();
        for module in MODULES {
            load_order(module, &files, &mut modules)?;
        }
        ensure!(!modules.is_empty(), "no module of {MODULES:?} in {unpacked:?}");
        Ok(Self { image, modules })
    }
}

/// The package that the meta package stands for.
fn newest() -> Result<String> {
    let depends = || output(Command::new("apt-cache").args(["depends", META_PACKAGE]));
    let find = |said: String| {
        let package = said.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        package.map(str::to_owned)
    };
    if let Some(package) = depends().ok().and_then(find) {
        return Ok(package);
    }
    output(Command::new("apt-get").args(["update", "--quiet=2"]).stdin(Stdio::null()))
        .context("vm test: apt-get update failed; it has to be run by root, on Debian")?;
    find(depends()?).with_context(|| format!("vm test: Debian offers no {META_PACKAGE}"))
}

/// A module behind those that it depends on.
fn load_order(module: &str, files: &[PathBuf], order: &mut Vec<PathBuf>) -> Result<()> {
    let wanted = format!("{}.ko", module.replace('_', "-"));
    let Some(path) = files.iter().find(|path| name(path).replace('_', "-") == wanted) else {
        return Ok(());
    };
    if order.contains(path) {
        return Ok(());
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {path:?}"))?;
    for needed in depends(&bytes) {
        load_order(&needed, files, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// What a module says that it depends on, in its section `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {folder:?}"))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_tells_what_it_depends_on() {
        let module = b"ELF\0license=GPL\0depends=nf_defrag_ipv4,libcrc32c\0name=nf_conntrack\0";
        assert_eq!(depends(module), ["nf_defrag_ipv4", "libcrc32c"]);
        assert_eq!(depends(b"ELF\0depends=\0name=libcrc32c\0"), [""; 0]);
        assert_eq!(depends(b"ELF"), [""; 0]);
    }
}
