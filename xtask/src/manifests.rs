//! `cargo xtask manifests check`: what is shipped for Kubernetes and Prometheus
//! is valid, and speaks of things that exist.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub(crate) const USAGE: &str = "manifests check [--tidegate BINARY]: Kubernetes schemas, alert rules and their tests, the \
     dashboard, and every metric's name";

/// What validates Kubernetes objects offline, and reads YAML.
const PACKAGES: [&str; 2] = ["kubernetes-validate==1.37.0", "PyYAML==6.0.3"];

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let tidegate = match args {
        [what] if what == "check" => target.join("debug/tidegate"),
        [what, option, binary] if what == "check" && option == "--tidegate" => binary.into(),
        _ => bail!("usage: cargo xtask {USAGE}"),
    };
    ensure!(
        tidegate.exists(),
        "{tidegate:?} is not there: build it with `cargo build --package tidegate`, or name \
         another with --tidegate"
    );
    let manifests = root.join("manifests");
    let mut faults = kubernetes(&manifests, &target, &tidegate)?;
    faults.extend(monitoring(root, &manifests.join("monitoring"), &target)?);
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The objects, and the config in them.
fn kubernetes(manifests: &Path, target: &Path, tidegate: &Path) -> Result<Vec<String>> {
    let python = python(target)?;
    let script = manifests.join("validate.py");
    // Nothing is left beside the sources.
    let quiet = ("PYTHONDONTWRITEBYTECODE", "1");
    let tests = manifests.join("validate_test.py");
    output(Command::new(&python).arg(tests).env(quiet.0, quiet.1))?;
    let done = output(Command::new(&python).arg(&script).arg(manifests).env(quiet.0, quiet.1))?;
    let found: Value = serde_json::from_slice(&done.stdout).context("what validate.py prints")?;
    let strings = |key: &str| found[key].as_array().cloned().unwrap_or_default();
    let mut faults: Vec<String> =
        strings("faults").iter().filter_map(|fault| fault.as_str()).map(str::to_owned).collect();
    let configs = strings("configs");
    ensure!(!configs.is_empty(), "no ConfigMap with a tidegate.toml was found");
    for config in configs {
        let (Some(name), Some(toml)) = (config["name"].as_str(), config["toml"].as_str()) else {
            bail!("validate.py prints no name or no toml");
        };
        // The Secrets are the operator's; any password file and secret will do.
        let dir = target.join("manifests");
        fs::create_dir_all(&dir)?;
        let mut toml = toml.to_owned();
        for (path, name, text) in [
            ("/etc/tidegate/users/passwords", "passwords", ""),
            ("/etc/tidegate/cluster/secret", "secret", "0123456789abcdef0123456789abcdef"),
        ] {
            fs::write(dir.join(name), text)?;
            toml = toml.replace(path, &dir.join(name).to_string_lossy());
        }
        let variables = config["variables"].as_object().into_iter().flatten();
        let variables = variables.filter_map(|(name, value)| Some((name, value.as_str()?)));
        let file = dir.join("tidegate.toml");
        fs::write(&file, toml)?;
        let done = Command::new(tidegate).arg("check").arg(&file).envs(variables).output()?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            faults.push(format!("{name}: the ConfigMap's tidegate.toml: {}", said.trim()));
        }
    }
    Ok(faults)
}

/// Rules, their tests, the scrape config and the dashboard.
fn monitoring(root: &Path, dir: &Path, target: &Path) -> Result<Vec<String>> {
    let page = fs::read_to_string(root.join("docs/metrics.md")).context("docs/metrics.md")?;
    let known = registered(&page);
    ensure!(known.len() > 50, "docs/metrics.md lists only {} metrics", known.len());
    let mut faults = Vec::new();
    for arguments in [
        ["check", "rules", "rules.yaml"],
        ["test", "rules", "rules_test.yaml"],
        ["test", "rules", "rules_each_test.yaml"],
        ["check", "config", "prometheus.yaml"],
    ] {
        let done = Command::new("promtool").args(arguments).current_dir(dir).output();
        let done = done.context("promtool: install Debian's package prometheus")?;
        if !done.status.success() {
            let said = [done.stdout, done.stderr].concat();
            faults.push(format!("promtool {}: {}", arguments.join(" "), text(&said)));
        }
    }
    let rules = fs::read_to_string(dir.join("rules.yaml"))?;
    let board = fs::read_to_string(dir.join("dashboard.json"))?;
    for (file, text) in [("rules.yaml", &rules), ("dashboard.json", &board)] {
        for name in unknown(text, &known) {
            faults.push(format!("monitoring/{file}: {name} is no metric of docs/metrics.md"));
        }
    }
    let board: Value = serde_json::from_str(&board).context("monitoring/dashboard.json")?;
    faults.extend(dashboard(&board).into_iter().map(|f| format!("monitoring/dashboard.json: {f}")));
    // Each query as a recording rule, so that promtool parses it.
    let mut text = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (n, query) in queries(&board).iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace("$instance", ".*");
        let quoted = serde_json::to_string(&query)?;
        text += &format!("      - {{record: 'query:{n}', expr: {quoted}}}\n");
    }
    let file = target.join("manifests/dashboard-queries.yaml");
    fs::create_dir_all(target.join("manifests"))?;
    fs::write(&file, text)?;
    let done = Command::new("promtool").args(["check", "rules"]).arg(&file).output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        faults.push(format!("monitoring/dashboard.json: a query does not parse: {said}"));
    }
    Ok(faults)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// The names of the metrics' page.
fn registered(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

/// Names in `text` that look like our metrics and are none.
fn unknown<'a>(text: &'a str, known: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("tidegate_") || word.starts_with("process_"))
        .filter(|word| {
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|s| word.strip_suffix(s));
            !known.contains(word) && !histogram.is_some_and(|base| known.contains(base))
        })
        .collect()
}

/// What is wrong with a dashboard, as far as Grafana would show it oddly.
fn dashboard(board: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let panels = board["panels"].as_array().map_or(&[][..], Vec::as_slice);
    let mut ids = BTreeSet::new();
    let mut taken: Vec<(i64, i64, i64, i64, &str)> = Vec::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        if title.is_empty() {
            faults.push(format!("panel {} has no title", panel["id"]));
        }
        if !panel["id"].as_i64().is_some_and(|id| ids.insert(id)) {
            faults.push(format!("panel {title:?}: id {} is there twice", panel["id"]));
        }
        let at = |key: &str| panel["gridPos"][key].as_i64().unwrap_or(-1);
        let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
        if x < 0 || y < 0 || w < 1 || h < 1 || x + w > 24 {
            faults.push(format!("panel {title:?}: gridPos is outside of the 24 columns"));
        }
        let over = |&&(ox, oy, ow, oh, _): &&(i64, i64, i64, i64, &str)| {
            x < ox + ow && ox < x + w && y < oy + oh && oy < y + h
        };
        if let Some((.., other)) = taken.iter().find(over) {
            faults.push(format!("panel {title:?} lies on {other:?}"));
        }
        taken.push((x, y, w, h, title));
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        if targets.is_empty() {
            faults.push(format!("panel {title:?} asks nothing"));
        }
        let uses_variable = |of: &Value| of["datasource"]["uid"] == "${datasource}";
        if !uses_variable(panel) || !targets.iter().all(uses_variable) {
            faults.push(format!("panel {title:?} does not use the datasource variable"));
        }
    }
    if panels.is_empty() {
        faults.push("it has no panels".into());
    }
    faults
}

fn queries(board: &Value) -> Vec<String> {
    let panels = board["panels"].as_array().map_or(&[][..], Vec::as_slice);
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.filter_map(|target| target["expr"].as_str()).map(str::to_owned).collect()
}

/// A Python with the packages, made below the target directory if need be.
fn python(target: &Path) -> Result<PathBuf> {
    let venv = target.join("manifests/venv");
    let python = venv.join("bin/python");
    let stamp = venv.join("packages");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))
        .context("python3 -m venv: install Debian's package python3-venv")?;
    output(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    fs::write(stamp, wanted)?;
    Ok(python)
}

fn output(command: &mut Command) -> Result<Output> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", text(&[done.stdout, done.stderr].concat()));
    Ok(done)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_metric_that_is_not_registered_is_found() {
        let page = "| `tidegate_connections` | gauge |\n| `tidegate_x_seconds` | histogram |\n";
        let known = registered(page);
        assert_eq!(known.len(), 2);
        let text =
            "sum(tidegate_connections) + rate(tidegate_x_seconds_bucket[5m]) / tidegate_y_total";
        assert_eq!(unknown(text, &known).into_iter().collect::<Vec<_>>(), ["tidegate_y_total"]);
    }

    fn panel(id: i64, x: i64, w: i64) -> Value {
        let datasource = json!({"uid": "${datasource}"});
        json!({
            "id": id, "title": format!("p{id}"), "type": "stat", "datasource": datasource,
            "gridPos": {"x": x, "y": 0, "w": w, "h": 4},
            "targets": [{"expr": "up", "datasource": datasource}],
        })
    }

    #[test]
    fn faults_of_a_dashboard_are_named() {
        assert!(dashboard(&json!({"panels": [panel(1, 0, 12), panel(2, 12, 12)]})).is_empty());
        let faults = dashboard(&json!({"panels": [panel(1, 0, 12), panel(1, 6, 20)]}));
        assert_eq!(
            faults,
            [
                "panel \"p1\": id 1 is there twice",
                "panel \"p1\": gridPos is outside of the 24 columns",
                "panel \"p1\" lies on \"p1\"",
            ]
        );
        let mut fixed = panel(1, 0, 4);
        fixed["targets"][0]["datasource"]["uid"] = "prometheus-1".into();
        let faults = dashboard(&json!({"panels": [fixed]}));
        assert_eq!(faults, ["panel \"p1\" does not use the datasource variable"]);
        assert_eq!(dashboard(&json!({})), ["it has no panels"]);
    }
}
