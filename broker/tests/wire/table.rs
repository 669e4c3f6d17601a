//! The tables: what a case is, and how its file is read.
//!
//! A file is a list of blocks; `#` at the start of a line is a comment.
//!
//! ```text
//! reject publish-qos-3              # or `accept NAME`: what the standard says of it
//! on: all                           # or some of 3.1 3.1.1 5.0; 3.x is the first two
//! after: connected                  # preludes, from preludes.txt; optional
//! send: 36 len(str("t") u16(1) props())
//! want: refused 81
//! ```
//!
//! Further steps: `drip:` (byte by byte), `abort:` (close without a
//! word), `finish:` (end our direction of the stream), `pause: MS`; `send/b:` is on a
//! second connection, and `after: connected/b` readies one. `broker: NAME` picks
//! a broker by its config (a `broker NAME` block). `for: x = ..` repeats the
//! block for each member of a list: words (`1 2 f`, each `name` or `name:value`),
//! a range of decimal numbers (`0..12`), or a `set` block by its name, optionally
//! with `except` or `only` some names. `{x}` is the member's name in the block's
//! name and its value elsewhere; `{x=>}` is what follows `=>` in the set's line.

use std::collections::BTreeMap;

use super::bytes::Version;

/// What the standard says of a sequence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    /// A server must refuse it.
    Reject,
    /// A server must take it.
    Accept,
}

/// One sequence, for one or more versions.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The table's name, without `.txt`.
    pub(crate) file: &'static str,
    /// Where it begins there.
    pub(crate) line: usize,
    /// Unique over all tables.
    pub(crate) name: String,
    /// Whether it must be refused.
    pub(crate) verdict: Verdict,
    /// The versions it holds for.
    pub(crate) versions: Vec<Version>,
    /// The broker's config, by name.
    pub(crate) broker: String,
    /// What happens, preludes included.
    pub(crate) steps: Vec<Step>,
}

/// One thing that happens on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// The connection; `a` unless it says otherwise.
    pub(crate) conn: char,
    /// What happens.
    pub(crate) action: Action,
}

/// What happens in a step; expressions are still text.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Send at once.
    Send(String),
    /// Send byte by byte.
    Drip(String),
    /// Expect one of the alternatives.
    Want(String),
    /// Close the socket without a word.
    Abort,
    /// End our direction of the stream, and go on listening.
    Finish,
    /// Wait.
    Pause(u64),
}

/// All tables, read.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// Every case, families written out.
    pub(crate) cases: Vec<Case>,
    /// Configs by name.
    pub(crate) brokers: BTreeMap<String, String>,
    preludes: BTreeMap<String, Vec<Step>>,
    sets: BTreeMap<String, Vec<Member>>,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    value: String,
    extra: String,
}

struct Block<'a> {
    line: usize,
    keyword: &'a str,
    name: &'a str,
    body: Vec<(usize, &'a str)>,
}

impl Tables {
    /// Reads one file. Preludes, sets and brokers must come before their use.
    pub(crate) fn read(&mut self, file: &'static str, text: &str) -> Result<(), String> {
        for block in blocks(text).map_err(|e| format!("{file}.txt:{e}"))? {
            let line = block.line;
            self.block(file, &block).map_err(|e| format!("{file}.txt:{line}: {e}"))?;
        }
        Ok(())
    }

    fn block(&mut self, file: &'static str, block: &Block<'_>) -> Result<(), String> {
        let name = block.name.to_owned();
        match block.keyword {
            "broker" => {
                let config =
                    block.body.iter().map(|(_, l)| l.trim()).collect::<Vec<_>>().join("\n");
                self.brokers.insert(name, config);
            }
            "set" => {
                let members = block.body.iter().map(|(_, l)| member(l)).collect();
                self.sets.insert(name, members);
            }
            "prelude" => {
                let mut steps = Vec::new();
                for (_, line) in &block.body {
                    let (key, value) = key(line)?;
                    steps.push(step(key, value, |t| t.to_owned())?);
                }
                self.preludes.insert(name, steps);
            }
            "reject" => self.family(file, block, Verdict::Reject)?,
            "accept" => self.family(file, block, Verdict::Accept)?,
            other => return Err(format!("no such block: `{other}`")),
        }
        Ok(())
    }

    fn family(&mut self, file: &'static str, block: &Block<'_>, v: Verdict) -> Result<(), String> {
        let mut rows: Vec<Vec<(String, Member)>> = vec![Vec::new()];
        for (_, line) in &block.body {
            if let ("for", value) = key(line)? {
                let (variable, list) = value.split_once('=').ok_or("for: NAME = LIST")?;
                let members = self.members(list.trim())?;
                rows = rows
                    .iter()
                    .flat_map(|row| {
                        members.iter().map(|m| {
                            let mut row = row.clone();
                            row.push((variable.trim().to_owned(), m.clone()));
                            row
                        })
                    })
                    .collect();
            }
        }
        for row in rows {
            let case = self.case(file, block, v, &row)?;
            self.cases.push(case);
        }
        Ok(())
    }

    fn case(
        &self,
        file: &'static str,
        block: &Block<'_>,
        verdict: Verdict,
        row: &[(String, Member)],
    ) -> Result<Case, String> {
        let mut name = block.name.to_owned();
        for (variable, member) in row {
            name = name.replace(&format!("{{{variable}}}"), &member.name);
        }
        let fill = |text: &str| {
            row.iter().fold(text.to_owned(), |text, (variable, member)| {
                text.replace(&format!("{{{variable}}}"), &member.value)
                    .replace(&format!("{{{variable}=>}}"), &member.extra)
            })
        };
        let mut case = Case {
            file,
            line: block.line,
            name,
            verdict,
            versions: Vec::new(),
            broker: "default".to_owned(),
            steps: Vec::new(),
        };
        for (_, line) in &block.body {
            match key(line)? {
                ("for", _) => {}
                ("on", value) => case.versions = versions(&fill(value))?,
                ("broker", value) => case.broker = fill(value),
                ("after", value) => {
                    for word in fill(value).split_whitespace() {
                        let (name, conn) = connection(word)?;
                        let steps = self.preludes.get(name);
                        let steps = steps.ok_or_else(|| format!("no such prelude: `{name}`"))?;
                        case.steps.extend(steps.iter().cloned().map(|s| Step { conn, ..s }));
                    }
                }
                (key, value) => case.steps.push(step(key, value, fill)?),
            }
        }
        if case.versions.is_empty() {
            return Err("which versions? (on: ..)".into());
        }
        if !self.brokers.contains_key(&case.broker) {
            return Err(format!("no such broker: `{}`", case.broker));
        }
        Ok(case)
    }

    fn members(&self, list: &str) -> Result<Vec<Member>, String> {
        let words: Vec<&str> = list.split_whitespace().collect();
        let first = *words.first().ok_or("an empty list")?;
        if let Some(set) = self.sets.get(first) {
            if let Some(unknown) = words.iter().skip(2).find(|w| !set.iter().any(|m| m.name == **w))
            {
                return Err(format!("`{unknown}` is not in the set `{first}`"));
            }
            return match words.get(1) {
                None => Ok(set.clone()),
                Some(&"except") => {
                    Ok(set.iter().filter(|m| !words[2..].contains(&&*m.name)).cloned().collect())
                }
                Some(&"only") => {
                    Ok(set.iter().filter(|m| words[2..].contains(&&*m.name)).cloned().collect())
                }
                Some(other) => Err(format!("`except` or `only`, not `{other}`")),
            };
        }
        let mut members = Vec::new();
        for word in words {
            if let Some((from, to)) = word.split_once("..") {
                let number = |t: &str| t.parse::<u32>().map_err(|e| format!("{word}: {e}"));
                members.extend((number(from)?..=number(to)?).map(|n| plain(&n.to_string())));
            } else if let Some((name, value)) = word.split_once(':') {
                members.push(Member { name: name.into(), ..plain(value) });
            } else {
                members.push(plain(word));
            }
        }
        Ok(members)
    }
}

fn plain(word: &str) -> Member {
    Member { name: word.to_owned(), value: word.to_owned(), extra: String::new() }
}

fn member(line: &str) -> Member {
    let line = line.trim();
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (value, extra) = rest.split_once("=>").unwrap_or((rest, ""));
    Member { name: name.to_owned(), value: value.trim().to_owned(), extra: extra.trim().to_owned() }
}

/// Cuts a file into blocks: a line `KEYWORD NAME` without a colon begins one in
/// the first column; what follows up to the next belongs to it.
fn blocks(text: &str) -> Result<Vec<Block<'_>>, String> {
    const KEYWORDS: [&str; 5] = ["broker", "set", "prelude", "reject", "accept"];
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match line.split_once(' ') {
            Some((keyword, name)) if KEYWORDS.contains(&keyword) => {
                blocks.push(Block { line: i + 1, keyword, name: name.trim(), body: Vec::new() });
            }
            _ => match blocks.last_mut() {
                Some(block) => block.body.push((i + 1, line)),
                None => return Err(format!("{}: outside of any block: {line}", i + 1)),
            },
        }
    }
    Ok(blocks)
}

fn key(line: &str) -> Result<(&str, &str), String> {
    let (key, value) = line.split_once(':').ok_or_else(|| format!("no `KEY:` in `{line}`"))?;
    Ok((key.trim(), value.trim()))
}

fn connection(word: &str) -> Result<(&str, char), String> {
    match word.split_once('/') {
        None => Ok((word, 'a')),
        Some((word, "b")) => Ok((word, 'b')),
        Some(_) => Err(format!("connections are `a` and `b`: `{word}`")),
    }
}

fn step(key: &str, value: &str, fill: impl Fn(&str) -> String) -> Result<Step, String> {
    let (verb, conn) = connection(key)?;
    let action = match verb {
        "send" => Action::Send(fill(value)),
        "drip" => Action::Drip(fill(value)),
        "want" => Action::Want(fill(value)),
        "abort" => Action::Abort,
        "finish" => Action::Finish,
        "pause" => Action::Pause(value.parse().map_err(|e| format!("pause: {e}"))?),
        _ => return Err(format!("no such step: `{key}`")),
    };
    Ok(Step { conn, action })
}

fn versions(text: &str) -> Result<Vec<Version>, String> {
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "3.1" => out.push(Version::V31),
            "3.1.1" => out.push(Version::V311),
            "5.0" => out.push(Version::V5),
            "3.x" => out.extend([Version::V31, Version::V311]),
            "all" => out.extend([Version::V31, Version::V311, Version::V5]),
            _ => return Err(format!("no such version: `{word}`")),
        }
    }
    Ok(out)
}
