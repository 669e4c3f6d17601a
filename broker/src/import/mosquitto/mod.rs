//! mosquitto.conf, its password file and its ACL file.
//!
//! The keys are those of mosquitto.conf(5) of 2.0, and what 2.1 added to them.
//! A key that is not known is in the report like one that has no equal.

mod acl;
mod bind;
mod conf;
mod global;
mod listener;
mod passwords;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use self::conf::Setting;
use self::global::Globals;
use self::listener::Listeners;
use super::Imported;
use super::report::{Kind, Place, Report};
use crate::config::key::Setting as _;
use crate::config::{self, Overlay};

/// Tables of TOML, in the order in which they are written.
#[derive(Debug, Default)]
struct Tables(Vec<(String, Vec<(&'static str, String)>)>);

impl Tables {
    fn set(&mut self, table: &str, key: &'static str, value: String) {
        let at = self.0.iter().position(|(name, _)| name == table).unwrap_or_else(|| {
            self.0.push((table.into(), Vec::new()));
            self.0.len() - 1
        });
        let keys = &mut self.0[at].1;
        match keys.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => keys.push((key, value)),
        }
    }

    fn has(&self, table: &str, key: &str) -> bool {
        let keys = self.0.iter().filter(|(name, _)| name == table);
        keys.flat_map(|(_, keys)| keys).any(|(name, _)| *name == key)
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for (table, keys) in &self.0 {
            out.push_str(&format!("\n[{table}]\n"));
            for (key, value) in keys {
                out.push_str(&format!("{key} = {value}\n"));
            }
        }
        out
    }
}

pub(super) fn translate(
    file: &Path,
    our_passwords: &Path,
    our_acl: &Path,
) -> anyhow::Result<Imported> {
    let mut report = Report::default();
    let settings =
        conf::read(file, &mut report).with_context(|| format!("cannot read {file:?}"))?;
    let per_listener = settings.iter().rev().find(|setting| setting.key == "per_listener_settings");
    let per_listener = per_listener.is_some_and(|setting| is_true(&setting.value));

    let (mut tables, mut globals) = (Tables::default(), Globals::new(file));
    let mut listeners = Listeners::default();
    for setting in settings {
        if listener::is_key(&setting.key, per_listener) {
            listeners.take(setting);
        } else {
            globals.take(setting, &mut tables, &mut report);
        }
    }
    let files = listeners.finish(&globals, per_listener, &mut tables, &mut report);
    globals.finish(&mut tables, &mut report);

    let passwords = files.passwords.map(|given| match read(file, &given) {
        Ok((path, text)) => {
            report.carried += 1;
            passwords::translate(&path, &text, &mut report)
        }
        Err(error) => {
            let why = format!("cannot read it: {error}; the new file has no users");
            report.say(Kind::Lost, &given.place, why);
            String::from("# Add users by `tidegate passwd add`.\n")
        }
    });
    let acl = match (files.acl, files.rules_are_lost) {
        (Some(given), _) => Some(match read(file, &given) {
            Ok((path, text)) => {
                report.carried += 1;
                acl::translate(&path, &text, &mut report)
            }
            Err(error) => {
                let why = format!("cannot read it: {error}; the new file denies everything");
                report.say(Kind::Lost, &given.place, why);
                NO_RULES.into()
            }
        }),
        (None, true) => Some(NO_RULES.into()),
        (None, false) => None,
    };
    if passwords.is_some() {
        tables.set("auth", "password_file", our_passwords.to_path_buf().show());
    }
    if acl.is_some() {
        tables.set("auth", "acl_file", our_acl.to_path_buf().show());
    }
    let config = format!("# Imported from {}.\n{}", file.display(), tables.text());
    if let Err(error) = config::load(&config, &Overlay::default()) {
        for problem in error.problems() {
            let why = format!("the new config does not run before this is mended: {problem}");
            report.say(Kind::Lost, &Place::whole(file), why);
        }
    }
    Ok(Imported { config, passwords, acl, report })
}

const NO_RULES: &str = "# Everything is denied: the rules could not be imported.\n";

fn read(file: &Path, given: &Setting) -> std::io::Result<(PathBuf, String)> {
    let path = conf::beside(file, &given.value);
    let text = fs::read_to_string(&path)?;
    Ok((path, text))
}

fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value == "1"
}
