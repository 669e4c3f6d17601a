//! A list of what is in the binary, in CycloneDX 1.5.
//!
//! Made from `cargo metadata` and the lock file: every crate that the binary
//! is made of, or that made it, with version, licence and checksum; and what is
//! linked beside the crates. The same tree gives the same bytes, so it has no
//! serial number and the time of the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::dist::output;

/// The list for the binary `tidegate` on `target`; `epoch` is its time.
pub(crate) fn cyclonedx(root: &Path, target: &str, epoch: &str) -> Result<String> {
    let metadata = output(
        crate::cargo()
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
            .current_dir(root),
    )?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let crates = Crates::new(&metadata, &checksums(&lock)?)?;
    let rustc = output(Command::new("rustc").arg("--version"))?;
    let libc = output(Command::new("getconf").arg("GNU_LIBC_VERSION")).unwrap_or_default();
    let time = output(
        Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d"]).arg(format!("@{epoch}")),
    )?;

    let mut components = crates.components();
    let word =
        |text: &str, at: usize| text.split_whitespace().nth(at).unwrap_or("unknown").to_owned();
    components.push(library("rust-std", &word(&rustc, 1), "MIT OR Apache-2.0"));
    if target.ends_with("-gnu") {
        components.push(library("glibc", &word(&libc, 1), "LGPL-2.1-or-later"));
    }
    let list = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time.trim(),
            "tools": { "components": [{ "type": "application", "name": "cargo xtask dist" }] },
            "component": crates.component(&crates.root, "application"),
            "properties": [{ "name": "target", "value": target }],
        },
        "components": components,
        "dependencies": crates.dependencies(),
    });
    Ok(format!("{list:#}\n"))
}

fn library(name: &str, version: &str, licence: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": format!("{name}@{version}"),
        "name": name,
        "version": version,
        "licenses": [{ "expression": licence }],
    })
}

/// Checksums by name and version; our own crates have none.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    let lock: toml::Table = lock.parse().context("Cargo.lock")?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("no packages")?;
    let text = |package: &toml::Value, key| Some(package.get(key)?.as_str()?.to_owned());
    let entry = |package| {
        Some(((text(package, "name")?, text(package, "version")?), text(package, "checksum")?))
    };
    Ok(packages.iter().filter_map(entry).collect())
}

/// What the binary is made of.
struct Crates {
    /// The id of the binary's own crate.
    root: String,
    /// By id, in the order of ids.
    all: BTreeMap<String, Crate>,
}

struct Crate {
    name: String,
    version: String,
    licence: Option<String>,
    checksum: Option<String>,
    /// Whether it is in the binary, or only made it (build scripts, macros).
    inside: bool,
    needs: BTreeSet<String>,
}

impl Crates {
    fn new(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Crates> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let packages: BTreeMap<String, Value> = list(&metadata["packages"])
            .into_iter()
            .filter_map(|package| Some((text(&package["id"])?, package)))
            .collect();
        let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
            .into_iter()
            .filter_map(|node| Some((text(&node["id"])?, node)))
            .collect();
        let root = packages.iter().find(|(_, package)| package["name"] == "tidegate");
        let root = root.context("no crate `tidegate`")?.0.clone();
        let is_macro = |id: &str| {
            let targets = list(&packages[id]["targets"]);
            targets.iter().any(|target| list(&target["kind"]).contains(&json!("proc-macro")))
        };

        let mut all: BTreeMap<String, Crate> = BTreeMap::new();
        let mut open = vec![(root.clone(), true)];
        while let Some((id, inside)) = open.pop() {
            let inside = inside && !is_macro(&id);
            // Seen before; but what only made something may be inside as well.
            if let Some(known) = all.get(&id)
                && (known.inside || !inside)
            {
                continue;
            }
            let package = packages.get(&id).with_context(|| format!("no package {id}"))?;
            let mut needs = BTreeSet::new();
            for dependency in list(&nodes[&id]["deps"]) {
                let kinds = list(&dependency["dep_kinds"]);
                let of = |kind: Value| kinds.iter().any(|k| k["kind"] == kind);
                let (normal, build) = (of(Value::Null), of(json!("build")));
                let Some(other) = text(&dependency["pkg"]).filter(|_| normal || build) else {
                    continue;
                };
                open.push((other.clone(), inside && normal));
                needs.insert(other);
            }
            let (name, version) = (text(&package["name"]), text(&package["version"]));
            let (name, version) = (name.context("name")?, version.context("version")?);
            let checksum = checksums.get(&(name.clone(), version.clone())).cloned();
            let ours = package["source"].is_null();
            ensure!(ours || checksum.is_some(), "{name} {version} has no checksum");
            let licence = text(&package["license"]);
            all.insert(id, Crate { name, version, licence, checksum, inside, needs });
        }
        Ok(Crates { root, all })
    }

    fn reference(&self, id: &str) -> String {
        format!("pkg:cargo/{}@{}", self.all[id].name, self.all[id].version)
    }

    fn component(&self, id: &str, kind: &str) -> Value {
        let Crate { name, version, licence, checksum, inside, .. } = &self.all[id];
        let mut component = json!({
            "type": kind,
            "bom-ref": self.reference(id),
            "name": name,
            "version": version,
            "purl": self.reference(id),
            "scope": if *inside { "required" } else { "excluded" },
        });
        if let Some(licence) = licence {
            // Before SPDX expressions, `/` was 'or'.
            let expression = licence.replace('/', " OR ").replace("  ", " ");
            component["licenses"] = json!([{ "expression": expression }]);
        }
        if let Some(checksum) = checksum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        component
    }

    fn components(&self) -> Vec<Value> {
        let ids = self.all.keys().filter(|id| **id != self.root);
        ids.map(|id| self.component(id, "library")).collect()
    }

    fn dependencies(&self) -> Vec<Value> {
        let entry = |(id, package): (&String, &Crate)| {
            let needs: Vec<_> = package.needs.iter().map(|id| self.reference(id)).collect();
            json!({ "ref": self.reference(id), "dependsOn": needs })
        };
        self.all.iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tidegate -> a -> b, a macro m -> b, a build script's c, a test's d.
    fn crates() -> Crates {
        let package = |name: &str, kind: &str| {
            json!({
                "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                "source": if name == "tidegate" { Value::Null } else { json!("registry") },
                "targets": [{ "kind": [kind] }],
            })
        };
        let needs = |name: &str, needs: &[(&str, Value)]| {
            let deps: Vec<_> = needs
                .iter()
                .map(|(other, kind)| json!({ "pkg": other, "dep_kinds": [{ "kind": kind }] }))
                .collect();
            json!({ "id": name, "deps": deps })
        };
        let normal = Value::Null;
        let metadata = json!({
            "packages": [
                package("tidegate", "bin"), package("a", "lib"), package("b", "lib"),
                package("m", "proc-macro"), package("c", "lib"), package("d", "lib"),
            ],
            "resolve": { "nodes": [
                needs("tidegate", &[
                    ("m", normal.clone()), ("a", normal.clone()), ("c", json!("build")),
                    ("d", json!("dev")),
                ]),
                needs("a", &[("b", normal.clone())]),
                needs("m", &[("b", normal.clone())]),
                needs("b", &[]), needs("c", &[]), needs("d", &[]),
            ] },
        });
        let sum = |name: &str| ((name.to_owned(), "1.0.0".to_owned()), format!("sum of {name}"));
        Crates::new(&metadata, &["a", "b", "c", "d", "m"].map(sum).into()).expect("good metadata")
    }

    #[test]
    fn it_tells_what_is_inside_from_what_only_made_it() {
        let scopes: Vec<_> = crates()
            .components()
            .iter()
            .map(|c| format!("{} {}", c["name"], c["scope"]).replace('"', ""))
            .collect();
        assert_eq!(scopes, ["a required", "b required", "c excluded", "m excluded"]);
    }

    #[test]
    fn each_crate_has_its_version_licence_and_checksum() {
        let component = &crates().components()[0];
        assert_eq!(component["purl"], "pkg:cargo/a@1.0.0");
        assert_eq!(component["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(component["hashes"][0]["content"], "sum of a");
    }

    #[test]
    fn a_crate_without_a_checksum_is_refused() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"x\"\n\
                    [[package]]\nname = \"tidegate\"\nversion = \"0.1.0\"\n";
        let sums = checksums(lock).expect("a lock file");
        assert_eq!(sums.len(), 1);
        let metadata = json!({
            "packages": [
                { "id": "t", "name": "tidegate", "version": "0.1.0", "source": null },
                { "id": "b", "name": "b", "version": "1.0.0", "source": "registry" },
            ],
            "resolve": { "nodes": [
                { "id": "t", "deps": [{ "pkg": "b", "dep_kinds": [{ "kind": null }] }] },
                { "id": "b", "deps": [] },
            ] },
        });
        assert!(Crates::new(&metadata, &sums).is_err());
    }
}
