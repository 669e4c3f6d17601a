//! `cargo xtask ebpf`: the programs for the kernel, and how their objects come
//! about.
//!
//! The objects in `ebpf/objects` are committed, so that the broker is built by a
//! stable cargo alone. They are made by a pinned compiler and linker, which
//! `setup` gets, and the same sources give the same bytes in any folder. `verify`
//! shows it: it copies the sources elsewhere, builds from nothing and compares.

mod objects;
mod toolchain;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use toolchain::Toolchain;

/// How it is called.
pub(crate) const USAGE: &str = "ebpf setup | build | verify: get the compiler of the kernel's programs, build the objects \
     in ebpf/objects, or show that they are those of the sources";

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let target_dir =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    match args {
        [what] if what == "setup" => {
            let toolchain = Toolchain::set_up(&target_dir)?;
            say(&format!("ready: {toolchain}"));
            Ok(())
        }
        [what] if what == "build" => objects::build(root, &target_dir),
        [what] if what == "verify" => objects::verify(root, &target_dir),
        _ => bail!("usage: cargo xtask {USAGE}"),
    }
}

#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprintln!("{text}");
}
