//! A small file system of its own: to be filled up with ballast, or to lose
//! what was not synced when its power is cut.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// A mounted file system. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Volume {
    at: PathBuf,
    /// What it is mounted from; none on a tmpfs.
    image: Option<PathBuf>,
    cuts: u64,
}

impl Volume {
    /// Makes and mounts an ext4 of so many bytes; or why that cannot be.
    pub(crate) fn ext4(dir: &Path, bytes: u64) -> Result<Result<Volume, String>> {
        let image = dir.join("volume-0.img");
        if let Err(why) = place(dir)? {
            return Ok(Err(why));
        }
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .context("cannot make an image")?;
        // Nothing kept back for root: full is full for everybody.
        let mut make = Command::new("mkfs.ext4");
        if let Some(why) = fails(make.args(["-q", "-F", "-m", "0"]).arg(&image)) {
            return Ok(Err(why));
        }
        let at = dir.join("volume");
        Ok(match mount_image(&image, &at) {
            Some(why) => Err(why),
            None => Ok(Volume { at, image: Some(image), cuts: 0 }),
        })
    }

    /// Mounts a tmpfs of so many bytes; or why that cannot be.
    pub(crate) fn tmpfs(dir: &Path, bytes: u64) -> Result<Result<Volume, String>> {
        if let Err(why) = place(dir)? {
            return Ok(Err(why));
        }
        let at = dir.join("volume");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "crash-test"]).arg(&at);
        Ok(match fails(&mut mount) {
            Some(why) => Err(why),
            None => Ok(Volume { at, image: None, cuts: 0 }),
        })
    }

    /// Cuts the power: what the device has by now is copied, and the copy is
    /// mounted in place of the volume. What the page cache alone has is lost.
    /// Nobody may write any more; the kernel itself does not for some seconds.
    pub(crate) fn cut_power(&mut self) -> Result<()> {
        let Some(image) = &self.image else { bail!("a tmpfs has no device") };
        self.cuts += 1;
        let next = image.with_file_name(format!("volume-{}.img", self.cuts));
        let mut copy = Command::new("cp");
        if let Some(why) = fails(copy.arg("--sparse=auto").arg(image).arg(&next)) {
            bail!(why);
        }
        if let Some(why) = fails(Command::new("umount").arg(&self.at)) {
            bail!(why);
        }
        fs::remove_file(image).context("cannot remove an image")?;
        if let Some(why) = mount_image(&next, &self.at) {
            bail!(why);
        }
        self.image = Some(next);
        Ok(())
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

/// Where it is going to be; or why that cannot be.
fn place(dir: &Path) -> Result<Result<(), String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Err("mounting a file system takes root".to_owned()));
    }
    let at = dir.join("volume");
    fs::create_dir_all(&at).with_context(|| format!("cannot create {at:?}"))?;
    Ok(Ok(()))
}

/// Mounts an image, so that only who syncs gets anything onto the device.
fn mount_image(image: &Path, at: &Path) -> Option<String> {
    fails(Command::new("mount").args(["-o", "loop,commit=600"]).arg(image).arg(at))
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A directory that goes with the test.
    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A volume for a test; none where it cannot be mounted, which is said. It
    /// is unmounted before its directory goes.
    fn volume(word: &str) -> Option<(Scratch, Volume)> {
        let dir = std::env::temp_dir().join(format!("crash-{word}-{}", std::process::id()));
        let scratch = Scratch(dir.clone());
        match Volume::ext4(&dir, 64 << 20).expect("a scratch directory") {
            Ok(volume) => Some((scratch, volume)),
            Err(why) => {
                #[allow(clippy::print_stderr)]
                let () = eprintln!("SKIPPED: {why}");
                None
            }
        }
    }

    fn write(path: &Path, sync: bool) {
        let mut file = File::create(path).expect("a file on the volume");
        file.write_all(b"written").expect("space for it");
        if sync {
            file.sync_all().expect("a device that works");
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_with_the_power_and_nothing_else() {
        let Some((_scratch, mut volume)) = volume("power") else { return };
        let (synced, loose) = (volume.path().join("synced"), volume.path().join("loose"));
        write(&synced, true);
        write(&loose, false);
        volume.cut_power().expect("a copy of the volume");
        assert_eq!(fs::read(&synced).expect("it was synced"), b"written");
        assert!(fs::read(&loose).unwrap_or_default().is_empty());
    }

    #[test]
    fn ballast_fills_the_volume_to_the_last_block_and_gives_it_back() {
        let Some((_scratch, volume)) = volume("ballast") else { return };
        volume.fill(90).expect("space for it");
        assert_eq!(volume.used_percent().expect("it is mounted"), 90);
        volume.fill(100).expect("space for it");
        let mut file = File::create(volume.path().join("more")).expect("an inode is left");
        assert!(file.write_all(&[1; 4096]).and_then(|()| file.sync_all()).is_err());
        volume.relieve().expect("the ballast is there");
        assert!(volume.used_percent().expect("it is mounted") < 20);
    }
}
