//! An ACL file of mosquitto as rules of ours.
//!
//! mosquitto looks at a client's own rules first, `deny` before the others,
//! and then at the patterns, again `deny` first. Ours are written in that
//! order, so that the first rule that speaks says what mosquitto would.

use std::fmt::Write as _;
use std::path::Path;

use tidegate_auth::Acl;
use tidegate_auth::acl::word;

use super::conf::shown;
use crate::import::report::{Kind, Place, Report};

/// mosquitto takes nothing below `$SYS` from clients, whatever its rules say.
const HEAD: &str = "\
# Imported from an ACL file of mosquitto.
everybody deny publish $SYS/#
";

/// Rules of one WHO.
#[derive(Debug, Default)]
struct Section {
    who: String,
    deny: Vec<String>,
    allow: Vec<String>,
}

/// The text of our file.
pub(super) fn translate(file: &Path, text: &str, report: &mut Report) -> String {
    let mut sections = vec![Section { who: "anonymous".into(), ..Section::default() }];
    let mut patterns = Section { who: "everybody".into(), ..Section::default() };
    let mut current = 0;
    let mut reads = false;
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = Place { file: file.into(), line: i + 1, shown: shown(line) };
        let (key, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let rest = rest.trim();
        match key {
            "user" if !rest.is_empty() => {
                let who = format!("user {}", word(rest));
                report.carried += 1;
                current =
                    sections.iter().position(|section| section.who == who).unwrap_or_else(|| {
                        sections.push(Section { who, ..Section::default() });
                        sections.len() - 1
                    });
            }
            "topic" | "pattern" if !rest.is_empty() => {
                let section = match key {
                    "topic" => &mut sections[current],
                    _ => &mut patterns,
                };
                match rule(&section.who, key, rest) {
                    Ok((verdict, rule)) => {
                        report.carried += 1;
                        reads |= verdict == Verdict::Allow { reads: true };
                        match verdict {
                            Verdict::Allow { .. } => section.allow.push(rule),
                            Verdict::Deny => section.deny.push(rule),
                        }
                    }
                    Err(why) => report.say(Kind::Lost, &place, why),
                }
            }
            "user" | "topic" | "pattern" => {
                report.say(Kind::Lost, &place, "nothing follows the word");
            }
            _ => report.say(Kind::Lost, &place, "mosquitto has no such word in an ACL file"),
        }
    }
    say_what_differs(file, reads, &patterns, report);
    let mut out = String::from(HEAD);
    for section in sections.iter().chain([&patterns]) {
        if !(section.deny.is_empty() && section.allow.is_empty()) {
            let _ = writeln!(out);
        }
        for rule in section.deny.iter().chain(&section.allow) {
            let _ = writeln!(out, "{rule}");
        }
    }
    out
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Allow { reads: bool },
    Deny,
}

fn rule(who: &str, key: &str, rest: &str) -> Result<(Verdict, String), String> {
    let (verdict, words, topic) = match rest.split_once([' ', '\t']) {
        None => (Verdict::Allow { reads: true }, "allow all", rest),
        Some((access, topic)) => {
            let topic = topic.trim();
            match access {
                "read" => (Verdict::Allow { reads: true }, "allow subscribe", topic),
                "write" => (Verdict::Allow { reads: false }, "allow publish", topic),
                "readwrite" => (Verdict::Allow { reads: true }, "allow all", topic),
                "deny" => (Verdict::Deny, "deny all", topic),
                _ => return Err("the access is none of read, write, readwrite and deny".into()),
            }
        }
    };
    let filter = match key {
        "topic" => topic.replace('%', "%%"),
        _ => pattern(topic),
    };
    let rule = format!("{who} {words} {}", word(&filter));
    match Acl::parse(rule.as_str()) {
        Ok(_) => Ok((verdict, rule)),
        Err(faults) => {
            let problems = faults.iter().map(|fault| fault.problem.to_string());
            Err(problems.collect::<Vec<_>>().join("; "))
        }
    }
}

/// `%c` and `%u` mean the same; any other `%` is itself.
fn pattern(topic: &str) -> String {
    let mut out = String::new();
    let mut rest = topic;
    while let Some(at) = rest.find('%') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let values = after.starts_with("%c") || after.starts_with("%u");
        out.push_str(if values { &after[..2] } else { "%%" });
        rest = &after[if values { 2 } else { 1 }..];
    }
    out + rest
}

fn say_what_differs(file: &Path, reads: bool, patterns: &Section, report: &mut Report) {
    let whole = Place::whole(file);
    if reads {
        report.say(
            Kind::Differs,
            &whole,
            "`read` became `allow subscribe`: mosquitto lets everybody subscribe to anything and \
             holds back each message that may not be read; here a subscription that the rules do \
             not cover as a whole is refused (docs/acl.md), so clients that subscribe to # have to \
             subscribe to what they may read",
        );
    }
    if !(patterns.allow.is_empty() && patterns.deny.is_empty()) {
        report.say(
            Kind::Differs,
            &whole,
            "a client whose id or user name holds + or # is denied whatever mosquitto has to look \
             for in a pattern; here only patterns with %c or %u are silent for it, and those for \
             one with / as well",
        );
    }
}
