//! `tidegate passwd` and `tidegate acl`: what they do, apart from the command line.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use rustix::rand::{GetRandomFlags, getrandom};
use tidegate_auth::passwords::{self, Added, check_name};
use tidegate_auth::{Acl, Action, Passwords, Verified, Who};
use tidegate_codec::{Filter, topic_name};

use super::prompt;
use super::replace::replace;

/// `passwd add`: asks for the password and sets it. What to tell is in the result.
///
/// # Errors
/// When the name or the password will not do, or the file cannot be replaced.
pub fn passwd_add(file: &Path, user: &str) -> anyhow::Result<String> {
    if let Err(problem) = check_name(user) {
        bail!("the user name {problem}");
    }
    let password = prompt::new_password(user)?;
    set_password(file, user, &password)
}

/// Sets a user's password; a file that is not there is made, for its owner alone.
///
/// # Errors
/// As [`passwd_add`].
pub fn set_password(file: &Path, user: &str, password: &[u8]) -> anyhow::Result<String> {
    let mut salt = [0; 16];
    let drawn = getrandom(&mut salt, GetRandomFlags::empty()).context("no random numbers")?;
    anyhow::ensure!(drawn == salt.len(), "no random numbers");
    let line = match passwords::line(user, password, &salt) {
        Ok(line) => line,
        Err(problem) => bail!("the user name {problem}"),
    };
    let mut said = String::new();
    replace(file, true, |text| {
        let (what, edited) = match passwords::add(text, &line) {
            Added::New(edited) => ("is added to", edited),
            Added::Replaced(edited) => ("has a new password in", edited),
        };
        said = format!("{user} {what} {}\n", file.display());
        warn_of_faults(file, &edited, &mut said);
        Ok(edited)
    })?;
    Ok(said)
}

/// `passwd delete`.
///
/// # Errors
/// When there is no such user, or the file cannot be replaced.
pub fn passwd_delete(file: &Path, user: &str) -> anyhow::Result<String> {
    let mut said = format!("{user} is deleted from {}\n", file.display());
    replace(file, false, |text| {
        let edited = passwords::delete(text, user)
            .with_context(|| format!("{} has no user {user:?}", file.display()))?;
        warn_of_faults(file, &edited, &mut said);
        Ok(edited)
    })?;
    Ok(said)
}

/// A node takes a file only as a whole: what is wrong elsewhere in it has to be said now.
fn warn_of_faults(file: &Path, text: &str, said: &mut String) {
    if let Err(faults) = Passwords::parse(text) {
        for fault in faults.iter() {
            said.push_str(&format!("{}: {fault}\n", file.display()));
        }
        said.push_str("a node does not take the file before all of it is right\n");
    }
}

/// `passwd verify`: asks for the password; whether it is the user's. A user that
/// does not exist is wrong as well.
///
/// # Errors
/// When the file cannot be read or has faults.
pub fn passwd_verify(file: &Path, user: &str) -> anyhow::Result<bool> {
    let password = prompt::password(user)?;
    verify(file, user, &password)
}

/// Whether a password is the user's.
///
/// # Errors
/// As [`passwd_verify`].
pub fn verify(file: &Path, user: &str, password: &[u8]) -> anyhow::Result<bool> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file:?}"))?;
    let passwords = Passwords::parse(text)
        .map_err(|faults| anyhow::anyhow!("{}:\n{faults}", file.display()))?;
    Ok(passwords.verify(user, password) == Verified::Right)
}

/// What `acl check` found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Checked {
    /// A rule allows it; what to print. Exit 0.
    Allowed(String),
    /// It is denied; what to print. Exit 1.
    Denied(String),
    /// The question makes no sense; what to complain. Exit 2.
    Misused(String),
}

/// `acl check`: what the rules say to a request, and which of them.
///
/// # Errors
/// When the file cannot be read or has faults.
pub fn acl_check(
    file: &Path,
    client: &str,
    user: Option<&str>,
    action: Action,
    topic: &str,
) -> anyhow::Result<Checked> {
    let asked = match action {
        Action::Publish => match topic_name(topic.as_bytes()) {
            Ok(topic) => topic,
            Err(_) => {
                let why = format!("{topic:?} is not a topic; a topic has no '+' and no '#'");
                return Ok(Checked::Misused(why));
            }
        },
        Action::Subscribe => match Filter::parse(topic) {
            // A group does not receive what its members may not.
            Ok(filter) => filter.filter(),
            Err(error) => return Ok(Checked::Misused(format!("{topic:?}: {error}"))),
        },
    };
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file:?}"))?;
    let acl =
        Acl::parse(text).map_err(|faults| anyhow::anyhow!("{}:\n{faults}", file.display()))?;
    let explained = acl.explain(Who { client, user }, action, asked);
    let verdict = if explained.allowed { "allow" } else { "deny" };
    let said = match (explained.line, explained.rule) {
        (Some(line), Some(rule)) => format!("{verdict}: line {line}: {rule}\n"),
        _ => format!("{verdict}: no rule speaks of it\n"),
    };
    Ok(if explained.allowed { Checked::Allowed(said) } else { Checked::Denied(said) })
}
