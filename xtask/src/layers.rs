//! Each ring depends only on the rings inside it, and the inner ones on nearly
//! nothing else (invariant PURE-1).
//!
//! Reads the manifests themselves: what is forbidden must not even be named.
//! What the inner crates do with `std` is up to their `clippy.toml`, which has
//! to be there and may not be switched off in their sources.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use toml::{Table, Value};

/// A crate of ours and what it may name.
struct Ring {
    package: &'static str,
    dir: &'static str,
    /// Our crates that it may depend on.
    ours: &'static [&'static str],
    /// Others' crates that it may depend on; none: any but the banned ones.
    /// To get in here a crate does no I/O, starts no thread and reads no clock.
    others: Option<&'static [&'static str]>,
}

const RINGS: &[Ring] = &[
    Ring {
        package: "tidegate-codec",
        dir: "broker/codec",
        ours: &[],
        others: Some(&["bytes", "thiserror"]),
    },
    Ring {
        package: "tidegate-core",
        dir: "broker/core",
        ours: &["tidegate-codec"],
        others: Some(&["arc-swap", "bytes", "foldhash", "hashbrown", "thiserror"]),
    },
    Ring {
        package: "tidegate-cluster",
        dir: "broker/cluster",
        ours: &[],
        others: Some(&["foldhash", "hashbrown", "thiserror"]),
    },
    Ring {
        package: "tidegate-framing",
        dir: "broker/framing",
        ours: &[],
        others: Some(&["base64", "httparse", "ipnet", "sha1", "thiserror"]),
    },
    Ring {
        package: "tidegate-auth",
        dir: "broker/auth",
        ours: &[],
        others: Some(&[
            "argon2",
            "base64",
            "foldhash",
            "hashbrown",
            "hmac",
            "pbkdf2",
            "sha2",
            "thiserror",
        ]),
    },
    Ring {
        package: "tidegate-peer",
        dir: "broker/peer",
        ours: &[],
        others: Some(&["bytes", "crc32c", "hmac", "prost", "sha2", "thiserror"]),
    },
    Ring {
        package: "tidegate-ebpf-abi",
        dir: "ebpf/abi",
        ours: &[],
        // For its trait of plain values only, behind a feature.
        others: Some(&["aya"]),
    },
    Ring {
        package: "tidegate-kernel",
        dir: "broker/kernel",
        ours: &["tidegate-ebpf-abi"],
        others: None,
    },
    Ring {
        package: "tidegate-system",
        dir: "broker/system",
        ours: &[],
        others: Some(&["thiserror"]),
    },
    Ring {
        package: "tidegate-store",
        dir: "broker/store",
        ours: &[],
        // Its `Disk` is the one place inside that does I/O; clocks, threads and
        // chance stay outside like everywhere.
        others: Some(&["bytes", "crc32c", "openraft", "redb", "rustix", "thiserror"]),
    },
    Ring {
        package: "tidegate-consensus",
        dir: "broker/consensus",
        ours: &["tidegate-peer", "tidegate-store"],
        // Files through the store's `Disk`, time and tasks through tokio.
        others: Some(&["bytes", "crc32c", "futures-util", "openraft", "thiserror", "tokio"]),
    },
    Ring { package: "tidegate-mesh", dir: "broker/mesh", ours: &["tidegate-peer"], others: None },
    Ring {
        package: "tidegate-sim",
        dir: "broker/sim",
        // Never shipped: what a node is made of, without the shell.
        ours: &["tidegate-cluster", "tidegate-codec", "tidegate-core", "tidegate-store"],
        others: None,
    },
    Ring {
        package: "tidegate",
        dir: "broker",
        ours: &[
            "tidegate-auth",
            "tidegate-cluster",
            "tidegate-codec",
            "tidegate-consensus",
            "tidegate-core",
            "tidegate-framing",
            "tidegate-kernel",
            "tidegate-mesh",
            "tidegate-peer",
            "tidegate-store",
            "tidegate-system",
        ],
        others: None,
    },
];

/// Never in what we ship. mqttbytes decodes 5.0 wrongly; it is an oracle in
/// tests only.
const BANNED: &[&str] = &["mqttbytes", "bincode"];

/// What an inner crate's `clippy.toml` has to forbid, at least.
const FORBIDDEN: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::fs::File",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::hash::RandomState",
];

pub(crate) fn run(root: &Path, args: &[String]) -> anyhow::Result<()> {
    ensure!(args.is_empty(), "usage: cargo xtask layers");
    let workspace = manifest(&root.join("Cargo.toml"))?;
    let mut faults = Vec::new();
    for ring in RINGS {
        let dir = root.join(ring.dir);
        faults.extend(dependencies(ring, &manifest(&dir.join("Cargo.toml"))?, &workspace));
        if ring.others.is_some() {
            let bans = fs::read_to_string(dir.join("clippy.toml")).unwrap_or_default();
            faults.extend(clippy(ring, &bans));
            sources(&dir.join("src"), root, &mut faults)?;
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

fn manifest(path: &Path) -> anyhow::Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
    text.parse().with_context(|| format!("{path:?}"))
}

/// What the manifest of a ring names and may not.
fn dependencies(ring: &Ring, manifest: &Table, workspace: &Table) -> Vec<String> {
    let mut faults = Vec::new();
    let mut say = |what: String| faults.push(format!("{}/Cargo.toml: {what}", ring.dir));
    let named = manifest.get("package").and_then(|package| package.get("name"));
    if named.and_then(Value::as_str) != Some(ring.package) {
        say(format!("is not the manifest of {}", ring.package));
    }
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if lints.and_then(Value::as_bool) != Some(true) {
        say("does not inherit the workspace's lints".into());
    }
    for (kind, name) in named_packages(manifest, workspace) {
        let ours = RINGS.iter().any(|ring| ring.package == name);
        if kind == "dev-dependencies" {
            // A test may look from further outside, but not through a ring that
            // would then be tested with the ring under test twice; one that sees
            // nothing of ours cannot.
            let looks_back = |other: &Ring| other.package == name && !other.ours.is_empty();
            if RINGS.iter().any(looks_back) && !ring.ours.contains(&name.as_str()) {
                say(format!("tests depend on {name}, which is not inside this ring"));
            }
            continue;
        }
        if ours && !ring.ours.contains(&name.as_str()) {
            say(format!("{name} is not inside this ring"));
        } else if BANNED.contains(&name.as_str()) {
            say(format!("{name} is banned from what we ship"));
        } else if !ours && ring.others.is_some_and(|others| !others.contains(&name.as_str())) {
            say(format!("{name} is not in this ring's list (xtask/src/layers.rs)"));
        }
    }
    faults
}

/// Kind and package of every dependency, also of those for one target only and
/// of those under another name.
fn named_packages(manifest: &Table, workspace: &Table) -> Vec<(&'static str, String)> {
    let shared = workspace.get("workspace").and_then(|table| table.get("dependencies"));
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(|targets| targets.values());
    let tables: Vec<&Table> =
        std::iter::once(manifest).chain(targets.filter_map(Value::as_table)).collect();
    let mut found = Vec::new();
    for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
        for table in &tables {
            let Some(table) = table.get(kind).and_then(Value::as_table) else { continue };
            for (key, value) in table {
                let inherited = value.get("workspace").and_then(Value::as_bool) == Some(true);
                let value =
                    if inherited { shared.and_then(|table| table.get(key)) } else { Some(value) };
                let package = value.and_then(|value| value.get("package")).and_then(Value::as_str);
                found.push((kind, package.unwrap_or(key).to_owned()));
            }
        }
    }
    found
}

/// What the ring's `clippy.toml` does not forbid and should.
fn clippy(ring: &Ring, text: &str) -> Vec<String> {
    let file = format!("{}/clippy.toml", ring.dir);
    let Ok(table) = text.parse::<Table>() else { return vec![format!("{file}: is not TOML")] };
    let lists = ["disallowed-methods", "disallowed-types"].map(|list| table.get(list));
    let entries = lists.into_iter().flatten().filter_map(Value::as_array).flatten();
    let paths: Vec<_> = entries
        .filter_map(|entry| entry.as_str().or_else(|| entry.get("path").and_then(Value::as_str)))
        .collect();
    let missing = FORBIDDEN.iter().filter(|path| !paths.contains(path));
    missing.map(|path| format!("{file}: does not forbid {path}")).collect()
}

/// Sources that switch the bans off.
fn sources(dir: &Path, root: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {dir:?}"))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, root, faults)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let shown = path.strip_prefix(root).unwrap_or(&path).display();
            faults.extend(
                switched_off(&text)
                    .map(|line| format!("{shown}:{line}: switches off what clippy.toml forbids")),
            );
        }
    }
    Ok(())
}

fn switched_off(text: &str) -> impl Iterator<Item = usize> {
    let off = |line: &str| {
        line.trim_start().starts_with("#")
            && line.contains("clippy::disallowed_")
            && (line.contains("allow(") || line.contains("expect("))
    };
    text.lines().enumerate().filter(move |(_, line)| off(line)).map(|(i, _)| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "
        [workspace.dependencies]
        bytes = '1'
        tidegate-codec = { path = 'broker/codec' }
        quick = { package = 'tokio', version = '1' }
    ";

    fn faults(package: &str, dependencies_toml: &str) -> Vec<String> {
        let ring = RINGS.iter().find(|ring| ring.package == package).expect("a ring");
        let head = format!("package.name = '{package}'\nlints.workspace = true\n");
        let manifest = (head + dependencies_toml).parse().expect("TOML");
        dependencies(ring, &manifest, &WORKSPACE.parse().expect("TOML"))
    }

    #[test]
    fn the_tree_as_it_is_has_no_fault() {
        run(&crate::root(), &[]).expect("no fault");
    }

    #[test]
    fn an_inner_ring_names_only_what_is_listed() {
        let good = "[dependencies]\nbytes.workspace = true\ntidegate-codec.workspace = true";
        assert_eq!(faults("tidegate-core", good), Vec::<String>::new());
        let bad = [
            "[dependencies]\ntokio = '1'",
            "[dependencies]\nquick.workspace = true",
            "[dependencies]\nbytes = { package = 'tokio', version = '1' }",
            "[build-dependencies]\ntokio = '1'",
            "[target.'cfg(unix)'.dependencies]\ntokio = '1'",
            "[dependencies]\ntokio = { version = '1', optional = true }",
        ];
        let said = "broker/core/Cargo.toml: tokio is not in this ring's list (xtask/src/layers.rs)";
        for bad in bad {
            assert_eq!(faults("tidegate-core", bad), [said], "{bad}");
        }
        assert_eq!(faults("tidegate-core", "[dev-dependencies]\nproptest = '1'"), [""; 0]);
    }

    #[test]
    fn a_ring_does_not_look_outwards() {
        let said = faults("tidegate-codec", "[dependencies]\ntidegate-core.path = '../core'");
        assert_eq!(said, ["broker/codec/Cargo.toml: tidegate-core is not inside this ring"]);
        let said = faults("tidegate-core", "[dev-dependencies]\ntidegate.path = '..'");
        assert_eq!(
            said,
            ["broker/core/Cargo.toml: tests depend on tidegate, which is not inside this ring"]
        );
    }

    #[test]
    fn the_oracle_is_not_shipped() {
        let said = faults("tidegate", "[dependencies]\nmqttbytes = '0.6'");
        assert_eq!(said, ["broker/Cargo.toml: mqttbytes is banned from what we ship"]);
        assert_eq!(faults("tidegate", "[dev-dependencies]\nmqttbytes = '0.6'"), [""; 0]);
    }

    #[test]
    fn the_bans_of_clippy_are_there_and_stay_on() {
        let missing = clippy(&RINGS[0], "");
        assert_eq!(missing.len(), FORBIDDEN.len());
        let source =
            "fn f() {}\n    #[allow(clippy::disallowed_types)]\n// allow(clippy::disallowed_x)";
        assert_eq!(switched_off(source).collect::<Vec<_>>(), [2]);
    }
}
