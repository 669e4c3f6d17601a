//! `cargo xtask conformance check | mutate`: the conformance table keeps its word.
//!
//! `check` holds `docs/conformance.md` against the list of the normative
//! statements and against the tests that exist. `mutate` plants one defect
//! after the other and requires that the test which the table names goes red:
//! a test that passes on a broken broker shows nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The statements of MQTT 5.0, by section and range.
const MQTT_5: &str = "
1.5.4:1-3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:2-6 2.2.2:1
3.1.0:1-2 3.1.2:1-30 3.1.3:1-12 3.1.4:1-6 3.2.0:1-2 3.2.2:1-22
3.3.1:1-13 3.3.2:1-20 3.3.4:1-10 3.4.2:1-3 3.5.2:1-3 3.6.1:1 3.6.2:1-3 3.7.2:1-3
3.8.1:1 3.8.3:1-5 3.8.4:1-8 3.9.2:1-2 3.9.3:1-2 3.10.1:1 3.10.3:1-2 3.10.4:1-6 3.11.2:1-2 3.11.3:1-2
3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:1-4 3.14.4:1-3 3.15.1:1 3.15.2:1-3
4.1.0:1-2 4.2.0:1 4.3.1:1 4.3.2:1-5 4.3.3:1-13 4.4.0:1-2 4.5.0:1-2 4.6.0:1-6
4.7.0:1 4.7.1:1-2 4.7.2:1 4.7.3:1-4 4.8.2:1-6 4.9.0:1-3 4.12.0:1-7 4.12.1:1-2 4.13.1:1 4.13.2:1 6.0.0:1-4";

/// The statements of MQTT 3.1.1.
const MQTT_3: &str = "
1.5.3:1-3 2.2.2:1-2 2.3.1:1-7 3.1.0:1-2 3.1.2:1-24 3.1.3:1-11 3.1.4:1-5 3.2.0:1 3.2.2:1-6
3.3.1:1-12 3.3.2:1-3 3.3.4:1 3.3.5:1-2 3.6.1:1 3.8.1:1 3.8.3:1-4 3.8.4:1-6 3.9.3:1-2
3.10.1:1 3.10.3:1-2 3.10.4:1-6 3.12.4:1 3.14.1:1 3.14.4:1-3
4.1.0:1-2 4.2.0:1 4.3.1:1 4.3.2:1-2 4.3.3:1-2 4.4.0:1 4.5.0:1-2 4.6.0:1-6 4.7.1:1-3 4.7.2:1 4.7.3:1-4
4.8.0:1-2 6.0.0:1-4";

/// The statements that bind the client alone: 5.0, then their likes in 3.1.1.
const CLIENT_ONLY: &str = "
5:3.1.2-20 5:3.1.2-21 5:3.1.2-30 5:3.2.2-4 5:3.2.2-5 5:3.2.2-11 5:3.2.2-14 5:3.3.4-6 5:3.3.4-7 5:3.3.4-8
5:4.5.0-2 5:4.6.0-2 5:4.6.0-3 5:4.6.0-4 5:4.12.0-7
3:3.1.2-23 3:4.5.0-2";

/// Fewer planted defects than this prove too little.
const DEFECTS_MIN: usize = 60;
/// Defects tried at the same time; the tests mostly wait.
const WORKERS: usize = 4;
/// After this long a test counts as red.
const TEST_SECONDS_MAX: u64 = 180;

/// What `cargo xtask` says of it.
pub(crate) const USAGE: &str =
    "conformance check | mutate [--list] [--only ID] [--profile NAME]: statements and their tests";

/// Runs `check` or `mutate`.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    match args.split_first() {
        Some((verb, [])) if verb == "check" => check(root),
        Some((verb, rest)) if verb == "mutate" => mutate(root, &Options::parse(rest)?),
        _ => bail!("usage: cargo xtask {USAGE}"),
    }
}

/// One row of a table: what shows the statement.
#[derive(Debug, Default)]
struct Row {
    client: bool,
    tests: Vec<String>,
}

/// The page as read.
#[derive(Debug, Default)]
struct Page {
    /// By `5:3.1.0-1` or `3:3.1.0-1`.
    rows: BTreeMap<String, Row>,
    /// The checklist's lines.
    checklist: Vec<(String, Row)>,
    faults: Vec<String>,
}

impl Page {
    fn read(root: &Path) -> Result<Page> {
        let path = root.join("docs/conformance.md");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut page = Page::default();
        let mut standard = "";
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                standard = match title {
                    t if t.starts_with("MQTT 5.0") => "5",
                    t if t.starts_with("MQTT 3.1.1") => "3",
                    t if t.starts_with("The checklist") => "list",
                    _ => "",
                };
            }
            let Some(cells) = cells(line) else { continue };
            let [first, said, shown] = cells.as_slice() else { continue };
            if standard.is_empty() || *first == "id" || *first == "section" || is_rule(first) {
                continue;
            }
            let row = Row { client: shown.starts_with("client"), tests: named_tests(shown) };
            if standard == "list" {
                page.checklist.push((format!("{first}: {said}"), row));
                continue;
            }
            let id = format!("{standard}:{first}");
            if said.is_empty() {
                page.faults.push(format!("{id} does not say what it asks"));
            }
            if page.rows.insert(id.clone(), row).is_some() {
                page.faults.push(format!("{id} has two rows"));
            }
        }
        Ok(page)
    }
}

fn check(root: &Path) -> Result<()> {
    let mut page = Page::read(root)?;
    let tests = existing_tests(root)?;
    let client_only: BTreeSet<&str> = CLIENT_ONLY.split_whitespace().collect();
    let wanted = statements();
    let mut faults = std::mem::take(&mut page.faults);
    for id in &wanted {
        let Some(row) = page.rows.get(id) else {
            faults.push(format!("{id} has no row"));
            continue;
        };
        if row.client && !client_only.contains(id.as_str()) {
            faults.push(format!("{id} binds the server too: it needs a test"));
        }
        if !row.client && row.tests.is_empty() {
            faults.push(format!("{id} names no test"));
        }
    }
    for id in page.rows.keys().filter(|id| !wanted.contains(*id)) {
        faults.push(format!("{id} is no statement of the standard"));
    }
    let all = page.rows.iter().map(|(id, row)| (id.as_str(), row));
    let list = page.checklist.iter().map(|(line, row)| (line.as_str(), row));
    for (name, row) in all.chain(list) {
        for test in row.tests.iter().filter(|t| !tests.contains(*t)) {
            faults.push(format!("{name} names {test}, which is no test"));
        }
    }
    for (line, _) in page.checklist.iter().filter(|(_, row)| row.tests.is_empty()) {
        faults.push(format!("{line} names no test"));
    }
    if page.checklist.is_empty() {
        faults.push("the checklist's table is missing".into());
    }
    ensure!(faults.is_empty(), "docs/conformance.md:\n  {}", faults.join("\n  "));
    say(&format!(
        "{} statements and {} checklist lines, all shown by tests that exist",
        wanted.len(),
        page.checklist.len()
    ));
    Ok(())
}

/// All ids, `5:` and `3:` in front.
fn statements() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (standard, list) in [("5", MQTT_5), ("3", MQTT_3)] {
        for range in list.split_whitespace() {
            let (section, numbers) = range.split_once(':').unwrap_or((range, "1"));
            let (from, to) = numbers.split_once('-').unwrap_or((numbers, numbers));
            let number = |text: &str| text.parse::<u32>().unwrap_or(0);
            for n in number(from)..=number(to) {
                all.insert(format!("{standard}:{section}-{n}"));
            }
        }
    }
    all
}

/// The cells of a table's line.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn is_rule(cell: &str) -> bool {
    !cell.is_empty() && cell.chars().all(|c| matches!(c, '-' | ':'))
}

/// The `file::test` names in a cell.
fn named_tests(cell: &str) -> Vec<String> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.contains("::")).map(str::to_owned).collect()
}

/// `file::test` for every test function of the broker's crates.
fn existing_tests(root: &Path) -> Result<BTreeSet<String>> {
    let mut tests = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![root.join("broker")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_some_and(|n| n != "target" && n != "fuzz") {
                    folders.push(path);
                }
                continue;
            }
            if path.extension().is_none_or(|e| e != "rs") {
                continue;
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut armed = false;
            for line in fs::read_to_string(&path)?.lines().map(str::trim) {
                if line == "#[test]" {
                    armed = true;
                } else if let Some(rest) = line.strip_prefix("fn ") {
                    if std::mem::take(&mut armed) {
                        let name = rest.split(['(', '<']).next().unwrap_or_default();
                        tests.insert(format!("{stem}::{name}"));
                    }
                } else if !line.starts_with("#[") && !line.starts_with("//") && !line.is_empty() {
                    armed = false;
                }
            }
        }
    }
    Ok(tests)
}

struct Options {
    list: bool,
    only: Option<String>,
    profile: String,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options { list: false, only: None, profile: "quick".into() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => options.list = true,
                "--only" => {
                    options.only = Some(args.next().context("usage: a value must follow")?.clone())
                }
                "--profile" => {
                    options.profile = args.next().context("usage: a value must follow")?.clone()
                }
                _ => bail!("usage: cargo xtask {USAGE}"),
            }
        }
        Ok(options)
    }
}

/// A planted defect and the tests that have to notice it.
#[derive(Clone, Debug)]
struct Defect {
    id: String,
    broken: String,
    tests: Vec<String>,
}

fn mutate(root: &Path, options: &Options) -> Result<()> {
    let mut defects = defects(root)?;
    ensure!(
        defects.len() >= DEFECTS_MIN,
        "{} defects are planted, at least {DEFECTS_MIN} are needed",
        defects.len()
    );
    if let Some(only) = &options.only {
        defects.retain(|d| d.id == *only);
        ensure!(!defects.is_empty(), "no defect {only} is planted");
    }
    if options.list {
        for defect in &defects {
            say(&format!("{:12} {} ({})", defect.id, defect.broken, defect.tests.join(", ")));
        }
        say(&format!("{} defects", defects.len()));
        return Ok(());
    }
    let rig = Rig::build(root, &options.profile)?;

    let named: BTreeSet<&String> = defects.iter().flat_map(|d| &d.tests).collect();
    let named: Vec<&String> = named.into_iter().collect();
    say(&format!("{} tests on the broker without a defect ...", named.len()));
    let sound = in_parallel(&named, |test| rig.passes(test, None));
    let mut faults = Vec::new();
    for (test, passed) in named.iter().zip(sound) {
        // All ran at once; one that a busy machine made late runs again alone.
        if !passed? && !rig.passes(test, None)? {
            faults.push(format!("{test} is red without any defect"));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));

    say(&format!("{} defects ...", defects.len()));
    let noticed = in_parallel(&defects, |defect| rig.notices(defect));
    let mut table = String::from("\n| id | what is broken | noticed by |\n|---|---|---|\n");
    let mut count = 0;
    for (defect, by) in defects.iter().zip(noticed) {
        let by = by?;
        count += usize::from(by.is_some());
        let by = by.unwrap_or_else(|| "NOBODY".into());
        let _ = writeln!(table, "| {} | {} | {by} |", defect.id, defect.broken);
        if by == "NOBODY" {
            faults.push(format!("{}: {} stays green", defect.id, defect.tests.join(", ")));
        }
    }
    say(&table);
    say(&format!("{count} of {} defects were noticed", defects.len()));
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// The defects of the codec's and the core's tables, with the page's tests.
fn defects(root: &Path) -> Result<Vec<Defect>> {
    let page = Page::read(root)?;
    let mut defects: Vec<Defect> = Vec::new();
    let mut faults = Vec::new();
    for file in ["broker/codec/DEFECTS.md", "broker/core/DEFECTS.md"] {
        let text = fs::read_to_string(root.join(file)).with_context(|| file.to_owned())?;
        for line in text.lines() {
            let Some(cells) = cells(line) else { continue };
            let [id, broken, ..] = cells.as_slice() else { continue };
            let id = id.trim_matches('`');
            if id == "id" || is_rule(id) {
                continue;
            }
            let tests = page.rows.get(id).map(|row| row.tests.clone()).unwrap_or_default();
            if tests.is_empty() {
                faults.push(format!("{file}: {id}: docs/conformance.md names no test"));
            }
            // Both rings may break the same statement: one switch throws both.
            if let Some(known) = defects.iter_mut().find(|d| d.id == id) {
                let _ = write!(known.broken, "; {broken}");
                continue;
            }
            defects.push(Defect { id: id.to_owned(), broken: (*broken).to_owned(), tests });
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(defects)
}

fn build_broker(root: &Path, profile: &str, more: &[&str]) -> Result<()> {
    // With the whole workspace, as what is compiled already is used then.
    let what = ["build", "--workspace", "--bin", "tidegate", "--profile", profile];
    let built = crate::cargo().current_dir(root).args(what).args(more).status();
    ensure!(built.context("cargo build")?.success(), "the broker does not build: {more:?}");
    Ok(())
}

/// A broker that can be broken, and the tests to run against it.
struct Rig {
    root: PathBuf,
    broker: PathBuf,
    /// Test executables by file name.
    tests: BTreeMap<String, PathBuf>,
}

impl Rig {
    fn build(root: &Path, profile: &str) -> Result<Rig> {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
        let folder = if profile == "dev" { "debug" } else { profile };
        let (built, broker) = (target.join(folder).join("tidegate"), target.join("defects"));
        fs::create_dir_all(&broker).with_context(|| broker.display().to_string())?;
        let broker = broker.join("tidegate");
        say("building the broker with the feature `defects` ...");
        build_broker(root, profile, &["--features", "tidegate/defects"])?;
        fs::copy(&built, &broker).with_context(|| built.display().to_string())?;
        // Whoever comes next finds the sound one there.
        build_broker(root, profile, &[])?;

        say("building the tests ...");
        let output = crate::cargo()
            .current_dir(root)
            .args(["test", "--workspace", "--no-run", "--message-format=json"])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo test --no-run")?;
        ensure!(output.status.success(), "the tests do not build");
        let mut tests = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some(path) = field(line, "\"executable\":\"") else { continue };
            let Some(target) = line.split_once("\"target\":{").map(|(_, rest)| rest) else {
                continue;
            };
            if !target.starts_with("\"kind\":[\"test\"]") {
                continue;
            }
            let Some(name) = field(target, "\"name\":\"") else { continue };
            // Of the broker, whose working directory they want.
            if !field(target, "\"src_path\":\"").is_some_and(|path| path.contains("/broker/tests/"))
            {
                continue;
            }
            tests.insert(name.to_owned(), PathBuf::from(path));
        }
        Ok(Rig { root: root.to_owned(), broker, tests })
    }

    /// The first of its tests that goes red, or nothing.
    fn notices(&self, defect: &Defect) -> Result<Option<String>> {
        for test in &defect.tests {
            if !self.passes(test, Some(&defect.id))? {
                return Ok(Some(test.clone()));
            }
        }
        Ok(None)
    }

    fn passes(&self, test: &str, defect: Option<&str>) -> Result<bool> {
        let (file, name) = test.split_once("::").context("a test is file::name")?;
        let executable = self.tests.get(file).with_context(|| format!("no test file {file}"))?;
        let mut command = Command::new(executable);
        command
            .current_dir(self.root.join("broker"))
            .args(["--exact", name])
            .env("TIDEGATE_BIN", &self.broker)
            .env("RUST_BACKTRACE", "0")
            .env_remove("TIDEGATE_TEST_ADDRESS")
            .env_remove("TIDEGATE_DEFECT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(id) = defect {
            command.env("TIDEGATE_DEFECT", id);
        }
        finishes_well(command.spawn().with_context(|| executable.display().to_string())?)
    }
}

fn finishes_well(mut child: Child) -> Result<bool> {
    let end = Instant::now() + Duration::from_secs(TEST_SECONDS_MAX);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The text from `start` to the next quote.
fn field<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(start)?;
    rest.split_once('"').map(|(value, _)| value)
}

/// `work` over `items` with [`WORKERS`] threads, results in order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(n) else { return };
                    let result = work(item);
                    *results[n].lock().expect("no worker panics with the lock") = Some(result);
                }
            });
        }
    });
    results
        .into_iter()
        .map(|r| r.into_inner().expect("no worker panicked").expect("every item was worked on"))
        .collect()
}

#[allow(clippy::print_stdout)]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_are_389() {
        let all = statements();
        assert_eq!(all.iter().filter(|id| id.starts_with("5:")).count(), 251);
        assert_eq!(all.iter().filter(|id| id.starts_with("3:")).count(), 138);
        assert!(all.contains("5:3.1.2-30") && all.contains("3:4.8.0-2"));
    }

    #[test]
    fn tests_are_the_quoted_paths_of_a_cell() {
        let cell = "client: why; but `conformance_a::b` and `x` and `c::d`";
        assert_eq!(named_tests(cell), ["conformance_a::b", "c::d"]);
    }

    #[test]
    fn rows_keep_their_order_in_parallel() {
        let items: Vec<u32> = (0..100).collect();
        assert_eq!(in_parallel(&items, |n| n * 2), (0..200).step_by(2).collect::<Vec<_>>());
    }
}
