//! A file replaced as a whole: whoever reads it, and whatever fails, finds the
//! old one or the new one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};

/// Who reads a new file: its owner.
const NEW_MODE: u32 = 0o600;

/// Has `edit` make a new text of the old one, which is empty if there is no file
/// and `create` is set. One edit of a directory runs at a time. The new file has the
/// mode and the owner of the old one, and a symbolic link stays one.
pub(super) fn replace(
    path: &Path,
    create: bool,
    edit: impl FnOnce(&str) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => path.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {path:?}")),
    };
    let dir = match target.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    };
    let locked = File::open(dir).with_context(|| format!("cannot open the directory {dir:?}"))?;
    flock(&locked, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock the directory {dir:?}"))?;
    let (old, text) = match fs::read_to_string(&target) {
        Ok(text) => (Some(fs::metadata(&target).context("cannot look at the file")?), text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && create => (None, String::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {target:?}")),
    };
    let edited = edit(&text)?;
    let new = beside(&target)?;
    let written = write(&new, &edited, old.as_ref())
        .and_then(|()| fs::rename(&new, &target))
        .and_then(|()| locked.sync_all());
    if written.is_err() {
        // What is left of it is of no use; that it cannot be removed is not news.
        let _ = fs::remove_file(&new);
    }
    written.with_context(|| format!("cannot replace {target:?}"))
}

fn beside(target: &Path) -> anyhow::Result<PathBuf> {
    let name = target.file_name().with_context(|| format!("{target:?} is not a file"))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}", std::process::id()));
    Ok(target.with_file_name(hidden))
}

fn write(path: &Path, text: &str, old: Option<&fs::Metadata>) -> io::Result<()> {
    // Nobody else may read it before it has its mode.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(NEW_MODE).open(path)?;
    if let Some(old) = old {
        let new = file.metadata()?;
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            // Else a node that is not run by root could not read it any more.
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
