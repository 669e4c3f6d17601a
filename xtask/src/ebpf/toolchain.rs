//! What compiles programs for the kernel: rustc with the sources of `core`, as
//! there is none for that machine ready-made, and bpf-linker with its LLVM.
//!
//! On Debian all of it comes out of packages that are unpacked into a folder of
//! their own: installed, they would get in the way of rustup's. Elsewhere a
//! nightly with rust-src, bpf-linker and llvm-strip have to be there. The bytes
//! of an object depend on the compiler, so it is part of [`Toolchain::identity`]
//! and the committed objects say which one made them.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::say;
use crate::dist::{output, succeed};

const RUSTC: &str = "1.96.0";
const LLVM: &str = "22.1.8";
const BPF_LINKER: &str = "0.13.0";

/// What is unpacked. The headers and the static zlib and zstd are for building
/// bpf-linker.
const PACKAGES: &[&str] = &[
    "rustc-web",
    "libstd-rust-web-1.96",
    "libstd-rust-web-dev",
    "rust-web-src",
    "libllvm22",
    "llvm-22",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
];

/// A toolchain that was found to be complete.
pub(crate) struct Toolchain {
    rustc: PathBuf,
    /// Goes before the others on `PATH`: bpf-linker.
    linker_bin: PathBuf,
    llvm_strip: PathBuf,
    /// Where libraries of Debian's packages are.
    libraries: Option<PathBuf>,
    /// What its paths begin with, none of which may get into an object.
    prefixes: Vec<PathBuf>,
    identity: String,
}

impl Toolchain {
    /// Gets what is missing; nothing if all is there.
    pub(crate) fn set_up(target_dir: &Path) -> Result<Self> {
        if let Some(found) = Self::found(target_dir) {
            return Ok(found);
        }
        let place = place(target_dir);
        ensure!(
            succeeds("apt-get", &["--version"]) && cfg!(target_arch = "x86_64"),
            "ebpf setup: this is no Debian on x86_64, so nothing can be fetched. Install a nightly \
             with rust-src (rustup toolchain install nightly --component rust-src), bpf-linker \
             {BPF_LINKER} (cargo install bpf-linker --version {BPF_LINKER}) and llvm-strip"
        );
        unpack(&place)?;
        install_linker(&place)?;
        Self::of_debian(&place)
    }

    /// The one to build with.
    pub(crate) fn find(target_dir: &Path) -> Result<Self> {
        Self::found(target_dir).with_context(|| {
            format!("no compiler for eBPF in {:?}: run cargo xtask ebpf setup", place(target_dir))
        })
    }

    fn found(target_dir: &Path) -> Option<Self> {
        Self::of_debian(&place(target_dir)).or_else(|_| Self::of_nightly()).ok()
    }

    /// Debian's packages, unpacked.
    fn of_debian(place: &Path) -> Result<Self> {
        let root = root(place);
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let rustc = root.join("usr/bin/rustc");
        let linker_bin = place.join("bpf-linker/bin");
        let llvm_strip = root.join("usr/lib/llvm-22/bin/llvm-strip");
        let version = |program: &Path| version(program, Some(&libraries));
        let toolchain = Self {
            identity: identity(
                &version(&rustc)?,
                &version(&llvm_strip)?,
                &version(&linker_bin.join("bpf-linker"))?,
            )?,
            rustc,
            linker_bin,
            llvm_strip,
            libraries: Some(libraries),
            prefixes: vec![place.to_owned()],
        };
        let identity = &toolchain.identity;
        ensure!(
            identity.contains(RUSTC) && identity.contains(LLVM) && identity.contains(BPF_LINKER),
            "ebpf setup: Debian has other versions now:\n{identity}but the objects are built with \
             rustc {RUSTC}, LLVM {LLVM} and bpf-linker {BPF_LINKER}. Change these in \
             xtask/src/ebpf/toolchain.rs, run cargo xtask ebpf build, and commit the objects"
        );
        Ok(toolchain)
    }

    /// A nightly of rustup's with rust-src, and the rest on `PATH`.
    fn of_nightly() -> Result<Self> {
        let sysroot = output(Command::new("rustc").args(["+nightly", "--print", "sysroot"]))?;
        let sysroot = PathBuf::from(sysroot.trim());
        ensure!(sysroot.join("lib/rustlib/src/rust/library").exists(), "nightly has no rust-src");
        let rustc = sysroot.join("bin/rustc");
        let linker = on_path("bpf-linker")?;
        let llvm_strip = on_path("llvm-strip")?;
        Ok(Self {
            identity: identity(
                &version(&rustc, None)?,
                &version(&llvm_strip, None)?,
                &version(&linker, None)?,
            )?,
            rustc,
            linker_bin: linker.parent().context("a program is in a folder")?.to_owned(),
            llvm_strip,
            libraries: None,
            prefixes: vec![sysroot],
        })
    }

    /// The versions that decide over the bytes, a line each.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// What its paths begin with.
    pub(crate) fn prefixes(&self) -> &[PathBuf] {
        &self.prefixes
    }

    /// Cargo, set up for the machine in the kernel.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let mut command = crate::cargo();
        // What a user has set for the broker is not for the kernel.
        for variable in [
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_INCREMENTAL",
        ] {
            command.env_remove(variable);
        }
        command.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        command.env("PATH", prepended("PATH", &self.linker_bin)?);
        self.with_libraries(&mut command)?;
        Ok(command)
    }

    /// Leaves of an object what a loader needs: code, maps and BTF, and neither
    /// DWARF nor the line records of the verifier's log, which are twice as large
    /// as all the rest.
    pub(crate) fn strip(&self, built: &Path, stripped: &Path) -> Result<()> {
        let mut strip = Command::new(&self.llvm_strip);
        strip.args(["-g", "--remove-section=.BTF.ext", "--remove-section=.rel.BTF.ext", "-o"]);
        strip.args([stripped, built]);
        self.with_libraries(&mut strip)?;
        succeed(&mut strip)
    }

    fn with_libraries(&self, command: &mut Command) -> Result<()> {
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", prepended("LD_LIBRARY_PATH", libraries)?);
        }
        Ok(())
    }
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identity.trim_end().replace('\n', ", "))
    }
}

/// Where the folders of setup are.
fn place(target_dir: &Path) -> PathBuf {
    target_dir.join("ebpf-toolchain")
}

fn root(place: &Path) -> PathBuf {
    place.join("root")
}

/// Fetches and unpacks Debian's packages; not what is there already.
fn unpack(place: &Path) -> Result<()> {
    let (root, done) = (root(place), place.join("unpacked"));
    if fs::read_to_string(&done).is_ok_and(|list| list == PACKAGES.join("\n")) {
        return Ok(());
    }
    let packages = place.join("packages");
    for folder in [&root, &packages] {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot make {folder:?}"))?;
    }
    say(&format!("fetching {}", PACKAGES.join(" ")));
    let fetch = || {
        let mut get = Command::new("apt-get");
        get.args(["download", "--quiet=2"]).args(PACKAGES).current_dir(&packages);
        // It warns of a folder that its own user may not write to.
        output(get.stdin(Stdio::null()))
    };
    if fetch().is_err() {
        // Without lists, or with old ones, it finds nothing.
        output(Command::new("apt-get").args(["update", "--quiet=2"]).stdin(Stdio::null()))
            .context("ebpf setup: apt-get update failed; it has to be run by root")?;
        fetch().with_context(|| {
            format!(
                "ebpf setup: Debian does not offer all of {}; its security archive does for \
                 Debian 12",
                PACKAGES.join(", ")
            )
        })?;
    }
    for package in fs::read_dir(&packages)? {
        succeed(Command::new("dpkg").arg("-x").args([&package?.path(), &root]))?;
    }
    fs::remove_dir_all(packages)?;
    fs::write(done, PACKAGES.join("\n"))?;
    Ok(())
}

/// Builds bpf-linker with the unpacked LLVM.
fn install_linker(place: &Path) -> Result<()> {
    let libraries = root(place).join("usr/lib/x86_64-linux-gnu");
    let into = place.join("bpf-linker");
    if version(&into.join("bin/bpf-linker"), Some(&libraries))
        .is_ok_and(|version| version.contains(BPF_LINKER))
    {
        return Ok(());
    }
    say(&format!("installing bpf-linker {BPF_LINKER}"));
    let mut install = crate::cargo();
    install.args(["install", "bpf-linker", "--locked", "--quiet", "--version", BPF_LINKER]);
    install.args(["--no-default-features", "--features", "llvm-22", "--root"]).arg(&into);
    install.arg("--target-dir").arg(place.join("bpf-linker-target"));
    install.env("PATH", prepended("PATH", &root(place).join("usr/lib/llvm-22/bin"))?);
    install.env("LD_LIBRARY_PATH", prepended("LD_LIBRARY_PATH", &libraries)?);
    install.env("LIBRARY_PATH", prepended("LIBRARY_PATH", &libraries)?);
    install.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    succeed(&mut install).with_context(|| {
        format!("ebpf setup: bpf-linker {BPF_LINKER} can't be built with LLVM {LLVM}")
    })?;
    fs::remove_dir_all(place.join("bpf-linker-target"))?;
    Ok(())
}

/// The first line of what a program says about itself that has a version.
fn version(program: &Path, libraries: Option<&Path>) -> Result<String> {
    let mut command = Command::new(program);
    command.arg("--version");
    if let Some(libraries) = libraries {
        command.env("LD_LIBRARY_PATH", prepended("LD_LIBRARY_PATH", libraries)?);
    }
    let said = output(&mut command).with_context(|| {
        format!("{program:?} does not start; a library may be missing (libz3-4 libedit2 libxml2)")
    })?;
    let line = said.lines().find(|line| line.contains(|sign: char| sign.is_ascii_digit()));
    Ok(line.with_context(|| format!("{program:?} --version tells no version"))?.trim().to_owned())
}

fn identity(rustc: &str, llvm: &str, linker: &str) -> Result<String> {
    // Debian says "Debian LLVM version 22.1.8", others "LLVM version 22.1.8".
    let llvm = llvm.split_whitespace().last().context("LLVM's version is empty")?;
    // "(built from a source tarball)" is not of the compiler.
    let rustc = rustc.split(" (built").next().unwrap_or(rustc);
    Ok(format!("{rustc}\nLLVM {llvm}\n{linker}\n"))
}

fn prepended(variable: &str, folder: &Path) -> Result<std::ffi::OsString> {
    let rest = env::var_os(variable).unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&rest));
    env::join_paths(folders).with_context(|| format!("{folder:?} has a colon"))
}

fn on_path(program: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(program)).find(|p| p.exists());
    match found {
        Some(found) => Ok(found),
        None => bail!("{program} is not on PATH"),
    }
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    output(Command::new(program).args(args)).is_ok()
}
