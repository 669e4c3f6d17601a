//! A small file system of its own, and ballast that fills it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Its size.
const BYTES: u64 = 64 << 20;

/// A mounted file system. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Volume {
    at: PathBuf,
}

impl Volume {
    /// Makes and mounts one; or why that cannot be.
    pub(crate) fn mount(dir: &Path, tmpfs: bool) -> Result<Result<Volume, String>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Err("mounting a small file system takes root".to_owned()));
        }
        let at = dir.join("volume");
        fs::create_dir_all(&at).with_context(|| format!("cannot create {at:?}"))?;
        let mut mount = Command::new("mount");
        if tmpfs {
            mount.args(["-t", "tmpfs", "-o", &format!("size={BYTES}"), "crash-test"]).arg(&at);
        } else {
            let image = dir.join("volume.img");
            let file = File::create(&image).context("cannot create an image")?;
            file.set_len(BYTES).context("cannot size an image")?;
            // Nothing kept back for root: full is full for everybody.
            let mut make = Command::new("mkfs.ext4");
            make.args(["-q", "-F", "-m", "0"]).arg(&image);
            if let Some(why) = fails(&mut make) {
                return Ok(Err(why));
            }
            mount.args(["-o", "loop"]).arg(&image).arg(&at);
        }
        Ok(match fails(&mut mount) {
            Some(why) => Err(why),
            None => Ok(Volume { at }),
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// How much of it is in use, in percent.
    pub(crate) fn used_percent(&self) -> Result<u64> {
        let (free, all) = self.space()?;
        Ok((all - free) * 100 / all.max(1))
    }

    /// Fills it up to so many percent, or gives space back; 100: no block is left.
    pub(crate) fn fill(&self, percent: u64) -> Result<()> {
        let path = self.at.join("ballast");
        let _ = fs::remove_file(&path);
        let (free, all) = self.space()?;
        let spare = all * (100 - percent) / 100;
        let ballast = File::create(&path).context("cannot create the ballast")?;
        let mut wanted = free.saturating_sub(spare);
        let mut have = 0;
        // The file system needs some of it for itself.
        while percent == 100 && wanted > 0 || have < wanted {
            match fallocate(&ballast, FallocateFlags::empty(), have, wanted.max(1)) {
                Ok(()) => {
                    have += wanted;
                    if percent < 100 {
                        break;
                    }
                }
                Err(rustix::io::Errno::NOSPC) => wanted /= 2,
                Err(error) => return Err(error).context("cannot write the ballast"),
            }
            if wanted < 1024 {
                break;
            }
        }
        Ok(())
    }

    /// Takes all ballast away.
    pub(crate) fn relieve(&self) -> Result<()> {
        fs::remove_file(self.at.join("ballast")).context("cannot remove the ballast")
    }

    /// Bytes free, and bytes in all.
    fn space(&self) -> Result<(u64, u64)> {
        let stat = statvfs(&self.at).context("cannot ask for the space")?;
        ensure!(stat.f_blocks > 0, "a file system without blocks");
        Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        // Lazily: a broker that is just being killed may still hold it.
        if let Some(why) = fails(unmount.arg("--lazy").arg(&self.at)) {
            #[allow(clippy::print_stderr)]
            let () = eprintln!("{why}");
        }
    }
}

/// Why a command failed, if it did.
fn fails(command: &mut Command) -> Option<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("{name}: {error}")),
    }
}
