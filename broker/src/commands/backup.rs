//! `tidegate backup …`: copies of what a node keeps.
//!
//! A backup is a directory: `log/` with the segments up to what was durable,
//! `identity.redb`, and `backup.txt`, written last, without which it is none.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use tidegate_store::backup::{self, Backup, Listing};
use tidegate_store::{FileDisk, IdentityFile};

use super::store::read_log;
use crate::store::directory::{Directory, identity_in, log_in};

const LIST: &str = "backup.txt";
const HEAD: &str = "tidegate-backup 1";
/// What a directory may hold that is to become a data directory.
const LEFTOVERS: [&str; 2] = ["lock", "tidegate.sock"];

/// What a running node hands out for a backup.
#[derive(Debug)]
pub struct Parts {
    /// The log up to what is durable.
    pub log: Backup<FileDisk>,
    /// The file with the node's identity.
    pub identity: Vec<u8>,
}

/// Writes a backup into a directory that is empty or not there.
///
/// # Errors
/// When it is not empty, or cannot be written.
pub fn create(parts: Parts, to: &Path) -> anyhow::Result<String> {
    let named = || to.display().to_string();
    fs::create_dir_all(to).with_context(named)?;
    let mut entries = fs::read_dir(to).with_context(named)?;
    ensure!(entries.next().is_none(), "{}: is not empty; name another directory", to.display());
    let Parts { log, identity } = parts;
    let disk = FileDisk::open(&log_in(to)).with_context(named)?;
    let listing = log.copy_to(&disk, |_| {}).with_context(named)?;
    write(&identity_in(to), &identity)?;
    let (crc, bytes) = (crc32c::crc32c(&identity), identity.len());
    sync(to)?;
    write(&to.join(LIST), format!("{HEAD}\nidentity {crc:08x} {bytes}\n").as_bytes())?;
    sync(to)?;
    Ok(format!("{} written: {}\n", to.display(), told(&listing)))
}

/// Checks every byte of a backup, and that a node could start from it.
///
/// # Errors
/// With what is wrong with it.
pub fn verify(from: &Path) -> anyhow::Result<String> {
    let listing = verified(from)?;
    read_log(&log_in(from), listing.store)?;
    Ok(format!("ok: {}\n", told(&listing)))
}

fn verified(from: &Path) -> anyhow::Result<Listing> {
    let list = from.join(LIST);
    let text = fs::read_to_string(&list)
        .with_context(|| format!("{}: no backup, or one that was not finished", list.display()))?;
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    ensure!(head == HEAD, "{}: {head:?} is not {HEAD:?}; a newer version's?", list.display());
    let wanted = lines.next().unwrap_or_default();
    let path = identity_in(from);
    let identity = fs::read(&path).with_context(|| path.display().to_string())?;
    let (crc, bytes) = (crc32c::crc32c(&identity), identity.len());
    let found = format!("identity {crc:08x} {bytes}");
    ensure!(wanted == found, "{}: is damaged: {found}, not {wanted}", path.display());
    let log = log_in(from);
    let named = || log.display().to_string();
    ensure!(log.is_dir(), "{}: is missing", log.display());
    let disk = FileDisk::open(&log).with_context(named)?;
    backup::verify(&disk).with_context(named)
}

/// Puts a backup into a data directory that holds nothing yet.
///
/// # Errors
/// When the backup is damaged, or the directory is not empty or in use.
pub fn restore(from: &Path, data_dir: &Path) -> anyhow::Result<String> {
    verified(from)?;
    let directory = Directory::open(data_dir)?;
    for entry in fs::read_dir(data_dir).with_context(|| data_dir.display().to_string())? {
        let name = entry?.file_name();
        if !LEFTOVERS.iter().any(|leftover| name == *leftover) {
            let (dir, name) = (data_dir.display(), name.display());
            bail!("{dir}: holds {name}; restore into an empty directory");
        }
    }
    let to = FileDisk::open(&directory.log()).context("cannot make the log's directory")?;
    let log = FileDisk::open(&log_in(from))?;
    let listing = backup::restore(&log, &to)?;
    // Last: without it nothing of this counts.
    write(&directory.identity(), &fs::read(identity_in(from))?)?;
    sync(data_dir)?;
    let who = IdentityFile::open(&directory.identity())?.identity()?;
    ensure!(who.store == listing.store, "the identity and the log are of different nodes");
    Ok(format!("{} restored: {}\n", data_dir.display(), told(&listing)))
}

fn told(listing: &Listing) -> String {
    let bytes: u64 = listing.files.iter().map(|file| file.bytes).sum();
    format!("{} files, {bytes} bytes, store {:032x}", listing.files.len(), listing.store)
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let mut file = File::create(path).with_context(named)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(named)
}

/// A file's name is durable when its directory is.
fn sync(dir: &Path) -> anyhow::Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).with_context(|| dir.display().to_string())
}
