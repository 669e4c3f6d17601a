//! `cargo xtask dist`: what is released, in `target/dist`.
//!
//! A static binary, a list of what is in it (SBOM), and with `--deb` a Debian
//! package; and their SHA-256 sums. Two runs on the same commit give the same
//! bytes, wherever the tree and the target directory lie: paths are mapped
//! away and times are that of the commit. `--check` shows it by a second build
//! from nothing.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::sbom;

/// How it is called.
pub(crate) const USAGE: &str = "dist [--deb] [--check] [--target TRIPLE] [--profile NAME]: a static binary, SBOM, \
     package and sums in target/dist";

const CARGO_DEB: &str = "3.8.0";

struct Options {
    deb: bool,
    check: bool,
    target: String,
    profile: String,
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let mut options = Options {
        deb: false,
        check: false,
        // glibc, as the malloc of musl has one lock for all shards.
        target: host()?,
        profile: "release".into(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().cloned().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--deb" => options.deb = true,
            "--check" => options.check = true,
            "--target" => options.target = value()?,
            "--profile" => options.profile = value()?,
            _ => bail!("usage: cargo xtask {USAGE}"),
        }
    }
    let target_dir =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let release = Release { root: root.to_owned(), target_dir, options, epoch: epoch(root)? };
    let made = release.make()?;
    if release.options.check {
        release.check(&made)?;
    }
    Ok(())
}

/// One way of building.
struct Release {
    root: PathBuf,
    target_dir: PathBuf,
    options: Options,
    /// The time of the commit.
    epoch: String,
}

impl Release {
    /// Builds all; the files in `target/dist`.
    fn make(&self) -> Result<Vec<PathBuf>> {
        let built = self.build()?;
        require_static(&built)?;
        let dist = self.target_dir.join("dist");
        if dist.exists() {
            fs::remove_dir_all(&dist)?;
        }
        fs::create_dir_all(&dist)?;
        let version = self.version(&built)?;
        let name = format!("tidegate-{version}-{}", self.options.target);

        let binary = dist.join(&name);
        let symbols = dist.join(format!("{name}.debug"));
        succeed(
            Command::new("objcopy")
                .args(["--only-keep-debug", "--compress-debug-sections=zlib"])
                .args([&built, &symbols]),
        )?;
        succeed(Command::new("strip").arg("-o").args([&binary, &built]))?;
        let list = dist.join(format!("{name}.cdx.json"));
        fs::write(&list, sbom::cyclonedx(&self.root, &self.options.target, &self.epoch)?)?;
        let mut made = vec![binary.clone(), symbols, list.clone()];
        if self.options.deb {
            made.push(self.deb(&binary, &list, &dist)?);
        }
        made.push(sums(&dist, &made)?);
        for path in &made {
            let size = fs::metadata(path)?.len();
            say(&format!("{size:>10}  {}", path.display()));
        }
        Ok(made)
    }

    /// The binary, with symbols.
    fn build(&self) -> Result<PathBuf> {
        let Options { target, profile, .. } = &self.options;
        let cargo_home = env::var_os("CARGO_HOME").map_or_else(
            || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
            PathBuf::from,
        );
        // The last that fits wins: the target directory may lie in the root.
        let places =
            [(&cargo_home, "cargo"), (&self.root, "tidegate"), (&self.target_dir, "target")];
        let mut rust = String::from("-C target-feature=+crt-static");
        let mut c = String::new();
        for (place, name) in places {
            let place = place.to_str().context("a path is not UTF-8")?;
            ensure!(!place.contains(char::is_whitespace), "{place:?}: RUSTFLAGS takes no spaces");
            rust.push_str(&format!(" --remap-path-prefix={place}=/{name}"));
            c.push_str(&format!(" -ffile-prefix-map={place}=/{name}"));
        }
        let mut build = crate::cargo();
        // With a target named, its flags are not those of build scripts and macros.
        build.args(["build", "--locked", "--package", "tidegate", "--bin", "tidegate"]);
        build.args(["--target", target, "--profile", profile]);
        build.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target_dir);
        build
            .env("RUSTFLAGS", rust)
            .env("CFLAGS", c.trim_start())
            .env_remove("CARGO_ENCODED_RUSTFLAGS");
        build.env("SOURCE_DATE_EPOCH", &self.epoch).env("TIDEGATE_COMMIT", commit(&self.root)?);
        succeed(&mut build)?;
        Ok(self.built("tidegate"))
    }

    /// Where cargo puts what it builds.
    fn built(&self, name: &str) -> PathBuf {
        let Options { target, profile, .. } = &self.options;
        let folder = if profile == "dev" { "debug" } else { profile };
        self.target_dir.join(target).join(folder).join(name)
    }

    /// What the binary calls itself; so it was started once.
    fn version(&self, binary: &Path) -> Result<String> {
        let said = output(Command::new(binary).arg("--version"))?;
        Ok(said.trim().strip_prefix("tidegate ").context("--version")?.to_owned())
    }

    /// The Debian package.
    fn deb(&self, binary: &Path, list: &Path, dist: &Path) -> Result<PathBuf> {
        let has = output(crate::cargo().args(["deb", "--version"]));
        if has.is_err() {
            say(&format!("installing cargo-deb {CARGO_DEB}"));
            let version = format!("cargo-deb@{CARGO_DEB}");
            succeed(crate::cargo().args(["install", "--quiet", "--locked", &version]))?;
        }
        let stage = self.built("dist");
        if stage.exists() {
            fs::remove_dir_all(&stage)?;
        }
        fs::create_dir_all(&stage)?;
        let pages = stage.join("man");
        succeed(Command::new(binary).arg("man").arg(&pages))?;
        // cargo-deb compresses no page that lies among what was built.
        for page in fs::read_dir(&pages)? {
            succeed(Command::new("gzip").args(["-9", "--no-name"]).arg(page?.path()))?;
        }
        for (shell, file) in
            [("bash", "tidegate.bash"), ("zsh", "_tidegate"), ("fish", "tidegate.fish")]
        {
            let script = output(Command::new(binary).args(["completion", shell]))?;
            fs::write(stage.join(file), script)?;
        }
        fs::copy(list, stage.join("tidegate.cdx.json"))?;
        let out = dist.join("deb");
        let mut deb = crate::cargo();
        deb.args(["deb", "--package", "tidegate", "--no-build", "--no-strip", "--locked"]);
        deb.args(["--target", &self.options.target, "--profile", &self.options.profile]);
        deb.arg("--output").arg(&out).current_dir(&self.root);
        deb.env("CARGO_TARGET_DIR", &self.target_dir).env("SOURCE_DATE_EPOCH", &self.epoch);
        // The package has the stripped binary; cargo-deb takes what was built.
        let built = self.built("tidegate");
        let kept = self.built("tidegate.with-symbols");
        fs::rename(&built, &kept)?;
        fs::copy(binary, &built)?;
        let packed = succeed(deb.stdout(Stdio::null()));
        fs::rename(&kept, &built)?;
        packed?;
        let file = fs::read_dir(&out)?.next().context("cargo-deb made no package")??;
        let made = dist.join(file.file_name());
        fs::rename(file.path(), &made)?;
        fs::remove_dir(out)?;
        self.unpack(&made)?;
        Ok(made)
    }

    /// Unpacks a package and starts what it brings from there.
    fn unpack(&self, package: &Path) -> Result<()> {
        let control = output(Command::new("dpkg-deb").arg("--info").arg(package))?;
        for wanted in ["conffiles", "postinst", "prerm", "postrm", "Depends: passwd"] {
            ensure!(control.contains(wanted), "the package has no {wanted}:\n{control}");
        }
        let place = self.built("unpacked");
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        succeed(Command::new("dpkg-deb").arg("--extract").args([package, &place]))?;
        for wanted in [
            "etc/tidegate/tidegate.toml",
            "usr/lib/systemd/system/tidegate.service",
            "usr/share/bash-completion/completions/tidegate",
            "usr/share/doc/tidegate/copyright",
            "usr/share/doc/tidegate/service.md",
            "usr/share/doc/tidegate/tidegate.cdx.json",
            "usr/share/fish/vendor_completions.d/tidegate.fish",
            "usr/share/man/man1/tidegate.1.gz",
            "usr/share/man/man1/tidegate-run.1.gz",
            "usr/share/zsh/vendor-completions/_tidegate",
        ] {
            ensure!(place.join(wanted).exists(), "the package has no {wanted}");
        }
        let binary = place.join("usr/bin/tidegate");
        let config = place.join("etc/tidegate/tidegate.toml");
        require_static(&binary)?;
        output(Command::new(binary).arg("check").arg(config).env_clear())?;
        fs::remove_dir_all(place)?;
        Ok(())
    }

    /// Builds all again from nothing, elsewhere, and compares.
    fn check(&self, made: &[PathBuf]) -> Result<()> {
        let elsewhere = self.target_dir.join("dist-check");
        if elsewhere.exists() {
            fs::remove_dir_all(&elsewhere)?;
        }
        let Options { deb, target, profile, .. } = &self.options;
        let options =
            Options { deb: *deb, check: false, target: target.clone(), profile: profile.clone() };
        let again = Release {
            root: self.root.clone(),
            target_dir: elsewhere.clone(),
            options,
            epoch: self.epoch.clone(),
        };
        let again = again.make()?;
        let mut differ = Vec::new();
        for (one, other) in made.iter().zip(&again) {
            if fs::read(one)? != fs::read(other)? {
                differ.push(one.display().to_string());
            }
        }
        ensure!(differ.is_empty(), "a second build is another one:\n{}", differ.join("\n"));
        fs::remove_dir_all(elsewhere)?;
        say("a second build from nothing gives the same bytes");
        Ok(())
    }
}

/// A static binary has no interpreter that loads libraries for it.
fn require_static(binary: &Path) -> Result<()> {
    let headers =
        output(Command::new("readelf").args(["--program-headers", "--dynamic"]).arg(binary))?;
    ensure!(
        !headers.contains("INTERP") && !headers.contains("(NEEDED)"),
        "{} is not static",
        binary.display()
    );
    Ok(())
}

/// Writes `SHA256SUMS`, as sha256sum(1) checks it.
fn sums(dist: &Path, made: &[PathBuf]) -> Result<PathBuf> {
    let mut sum = Command::new("sha256sum");
    sum.current_dir(dist);
    for path in made {
        sum.arg(path.file_name().context("a file has a name")?);
    }
    let path = dist.join("SHA256SUMS");
    fs::write(&path, output(&mut sum)?)?;
    Ok(path)
}

/// The time that goes into what is built: given, or that of the commit.
fn epoch(root: &Path) -> Result<String> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    Ok(output(git(root).args(["log", "-1", "--format=%ct"]))?.trim().to_owned())
}

fn commit(root: &Path) -> Result<OsString> {
    let dirty = !output(git(root).args(["status", "--porcelain"]))?.is_empty();
    let id = output(git(root).args(["rev-parse", "--short=12", "HEAD"]))?;
    Ok(format!("{}{}", id.trim(), if dirty { "-dirty" } else { "" }).into())
}

fn git(root: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(root);
    git
}

fn host() -> Result<String> {
    let said = output(Command::new("rustc").arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} is not UTF-8"))
}

pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprintln!("{text}");
}
