//! Builds the objects, and compares them with what is committed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::say;
use super::toolchain::Toolchain;
use crate::dist::succeed;

/// Binary of `ebpf/programs`, and the file of its object.
///
/// Objects with kprobes are one an architecture, as they read registers; only
/// that of x86_64 has been tried. The others are the same everywhere.
const OBJECTS: &[(&str, &str)] = &[
    ("steer", "steer.o"),
    ("tcpstat", "tcpstat.o"),
    ("conntrack", "conntrack-x86_64.o"),
    ("lookup", "lookup.o"),
];

/// The architecture for what depends on it.
const ARCHITECTURE: &str = "x86_64";
const TARGET: &str = "bpfel-unknown-none";
const SUMS: &str = "SHA256SUMS";
/// What the objects were built with.
const TOOLCHAIN: &str = "TOOLCHAIN";
/// What the objects are made of.
const SOURCES: &[&str] = &["Cargo.toml", "ebpf/abi", "ebpf/programs"];

/// Builds all into `ebpf/objects`.
pub(crate) fn build(root: &Path, target_dir: &Path) -> Result<()> {
    let toolchain = Toolchain::find(target_dir)?;
    let committed = root.join("ebpf/objects");
    fs::create_dir_all(&committed).with_context(|| format!("cannot make {committed:?}"))?;
    make(&toolchain, root, &target_dir.join("ebpf-build"), &committed)?;
    fs::write(committed.join(TOOLCHAIN), toolchain.identity())?;
    let mut sums = String::new();
    for (_, file) in OBJECTS {
        let object = fs::read(committed.join(file))?;
        sums.push_str(&format!("{}  {file}\n", sum(&object)));
        say(&format!("{:>8}  ebpf/objects/{file}", object.len()));
    }
    fs::write(committed.join(SUMS), sums)?;
    Ok(())
}

/// Builds all from nothing, elsewhere, and compares.
pub(crate) fn verify(root: &Path, target_dir: &Path) -> Result<()> {
    let committed = root.join("ebpf/objects");
    check_sums(&committed)?;
    let toolchain = Toolchain::find(target_dir)?;
    let path = committed.join(TOOLCHAIN);
    let theirs = fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
    ensure!(
        theirs == toolchain.identity(),
        "ebpf verify: the objects were built with\n{theirs}and this compiler gives other bytes:\n\
         {}run cargo xtask ebpf setup on Debian",
        toolchain.identity()
    );
    let fresh = target_dir.join("ebpf-verify");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    let (tree, objects) = (fresh.join("tree"), fresh.join("objects"));
    for source in SOURCES {
        copy(&root.join(source), &tree.join(source))?;
    }
    fs::create_dir_all(&objects)?;
    make(&toolchain, &tree, &fresh.join("target"), &objects)?;
    let mut faults = Vec::new();
    for (_, file) in OBJECTS {
        let (ours, built) = (fs::read(committed.join(file))?, fs::read(objects.join(file))?);
        faults.extend(difference(&ours, &built).map(|what| format!("ebpf/objects/{file}: {what}")));
    }
    ensure!(
        faults.is_empty(),
        "ebpf verify: the committed objects are not those of the sources. Either the sources were \
         changed and cargo xtask ebpf build was not run, or an object was changed. What the \
         sources give is in {objects:?}\n{}",
        faults.join("\n")
    );
    fs::remove_dir_all(fresh)?;
    say(&format!("{} objects are those of the sources, byte by byte", OBJECTS.len()));
    Ok(())
}

/// Compiles the programs of a tree and puts the stripped objects into `into`.
fn make(toolchain: &Toolchain, tree: &Path, target_dir: &Path, into: &Path) -> Result<()> {
    let mut cargo = toolchain.cargo()?;
    cargo.args(["build", "--release", "--locked", "--quiet", "--target", TARGET]);
    cargo.args(["-Z", "build-std=core"]);
    cargo.current_dir(tree.join("ebpf/programs")).env("CARGO_TARGET_DIR", target_dir);
    cargo.env("RUSTFLAGS", flags(toolchain, tree, target_dir)?);
    succeed(&mut cargo).context("the programs in ebpf/programs can't be built")?;
    let built = target_dir.join(TARGET).join("release");
    for (binary, file) in OBJECTS {
        toolchain.strip(&built.join(binary), &into.join(file))?;
    }
    Ok(())
}

fn flags(toolchain: &Toolchain, tree: &Path, target_dir: &Path) -> Result<String> {
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let mut flags = format!(
        "--cfg=bpf_target_arch=\"{ARCHITECTURE}\" -C debuginfo=2 -C link-arg=--btf \
         -C linker=bpf-linker"
    );
    // The last that fits wins: one may lie in another.
    let toolchain = toolchain.prefixes().iter().map(|prefix| (prefix.as_path(), "rust"));
    let places = [(cargo_home.as_path(), "cargo"), (tree, "tidegate")];
    let places = places.into_iter().chain([(target_dir, "target")]).chain(toolchain);
    for (place, name) in places {
        let place = place.to_str().context("a path is not UTF-8")?;
        ensure!(!place.contains(char::is_whitespace), "{place:?}: RUSTFLAGS takes no spaces");
        flags.push_str(&format!(" --remap-path-prefix={place}=/{name}"));
    }
    Ok(flags)
}

/// Whether the objects are those of `SHA256SUMS`, which needs no compiler.
fn check_sums(objects: &Path) -> Result<()> {
    let path = objects.join(SUMS);
    let sums = fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
    let mut expected: Vec<_> = OBJECTS.iter().map(|(_, file)| *file).collect();
    for line in sums.lines() {
        let Some((wanted, file)) = line.split_once("  ") else { bail!("{path:?}: {line:?}") };
        let object = fs::read(objects.join(file)).with_context(|| format!("cannot read {file}"))?;
        let found = sum(&object);
        ensure!(
            found == wanted,
            "ebpf/objects/{file} has the SHA-256 {found}, not {wanted} as in {SUMS}: it was changed \
             by something else than cargo xtask ebpf build"
        );
        expected.retain(|expected| *expected != file);
    }
    ensure!(expected.is_empty(), "{path:?} lacks {}", expected.join(", "));
    Ok(())
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How two objects differ; nothing if they do not.
fn difference(committed: &[u8], built: &[u8]) -> Option<String> {
    let differ = committed.iter().zip(built).filter(|(one, other)| one != other).count();
    let first = committed.iter().zip(built).position(|(one, other)| one != other);
    match (first, committed.len() == built.len()) {
        (None, true) => None,
        (None, false) => Some(format!(
            "{} bytes are committed, {} were built, one begins with the other",
            committed.len(),
            built.len()
        )),
        (Some(first), _) => Some(format!(
            "{} bytes are committed, {} were built, {differ} differ from byte {first} on",
            committed.len(),
            built.len()
        )),
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
        fs::copy(from, to).with_context(|| format!("cannot copy {from:?}"))?;
        return Ok(());
    }
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {from:?}"))? {
        let entry = entry?;
        if entry.file_name() != "target" {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_objects_have_their_sums() {
        check_sums(&crate::root().join("ebpf/objects")).expect("the sums are right");
    }

    #[test]
    fn an_object_that_was_changed_is_found_by_its_sum() {
        let copy_of = env::temp_dir().join(format!("tidegate-objects-{}", std::process::id()));
        copy(&crate::root().join("ebpf/objects"), &copy_of).expect("copied");
        check_sums(&copy_of).expect("as it was");
        let path = copy_of.join(OBJECTS[0].1);
        let mut object = fs::read(&path).expect("read");
        let last = object.len() - 1;
        object[last] ^= 1;
        fs::write(&path, object).expect("written");
        let said = check_sums(&copy_of).expect_err("one bit is another").to_string();
        assert!(said.contains(OBJECTS[0].1) && said.contains("was changed"), "{said}");
        fs::write(copy_of.join(SUMS), "").expect("written");
        let said = check_sums(&copy_of).expect_err("no sums").to_string();
        assert!(said.contains("lacks"), "{said}");
        fs::remove_dir_all(copy_of).expect("removed");
    }

    #[test]
    fn what_differs_is_told() {
        assert_eq!(difference(b"abc", b"abc"), None);
        let said = difference(b"abcd", b"axcx").expect("two differ");
        assert_eq!(said, "4 bytes are committed, 4 were built, 2 differ from byte 1 on");
        let said = difference(b"abc", b"abcd").expect("longer");
        assert!(said.contains("one begins with the other"), "{said}");
    }
}
