//! The password file and the rules as they are in force now.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tidegate_auth::{Acl, Passwords, acl, passwords};
use tidegate_codec::ReasonCode;
use tidegate_core::access::{Access, Open, Who};

use crate::config::Auth;

/// The two files of `[auth]`. Each is in force as a whole, until a newer one
/// that is good takes its place.
#[derive(Debug)]
pub struct AuthFiles {
    passwords: ArcSwapOption<Passwords>,
    acl: ArcSwapOption<Acl>,
    /// Locked while files are read, so that one reload runs at a time.
    named: Mutex<Named>,
}

#[derive(Clone, Debug, Default)]
struct Named {
    passwords: Option<PathBuf>,
    acl: Option<PathBuf>,
}

/// A file that cannot be used; the operator is told which key names it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AuthFault {
    #[error("{key}: cannot read {path:?}: {error}")]
    Unreadable { key: &'static str, path: PathBuf, error: io::Error },
    #[error("{key}: {path:?} has more than {max} bytes; use a smaller file")]
    TooLong { key: &'static str, path: PathBuf, max: usize },
    #[error("{key}: {path:?} is not UTF-8 from byte {at} on; write it as UTF-8")]
    NotUtf8 { key: &'static str, path: PathBuf, at: usize },
    #[error("auth.password_file: {path:?} {fault}")]
    Password { path: PathBuf, fault: String },
    #[error("auth.acl_file: {path:?} {fault}")]
    Acl { path: PathBuf, fault: String },
}

/// What a reload found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReloadReport {
    /// Of the users.
    pub users: Change,
    /// Of the rules. If they changed, whoever is connected is to be checked again.
    pub rules: Change,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Change {
    /// Nothing: it says what it said before, or there is none.
    #[default]
    Same,
    /// Another one is in force.
    Changed {
        /// Entries before; none: there was no file.
        before: Option<usize>,
        /// Entries now; none: there is no file any more.
        now: Option<usize>,
    },
}

impl ReloadReport {
    /// What there is to say to who asked.
    pub fn sentences(&self) -> Vec<String> {
        let said = [("users", self.users), ("rules", self.rules)].map(|(what, change)| {
            let Change::Changed { before, now } = change else { return None };
            let count = |count: Option<usize>| match count {
                Some(count) => format!("{count} {what}"),
                None => "no file".into(),
            };
            Some(format!("{} in effect, after {}", count(now), count(before)))
        });
        said.into_iter().flatten().collect()
    }
}

impl AuthFiles {
    /// Reads the files that a config names.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn open(auth: &Auth) -> Result<AuthFiles, Vec<AuthFault>> {
        let files = AuthFiles {
            passwords: ArcSwapOption::empty(),
            acl: ArcSwapOption::empty(),
            named: Mutex::default(),
        };
        files.reload(Some(auth))?;
        Ok(files)
    }

    /// Reads the files again, or others if `auth` names others now. A fault in
    /// one leaves both as they were: they may belong together.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn reload(&self, auth: Option<&Auth>) -> Result<ReloadReport, Vec<AuthFault>> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let names = match auth {
            None => named.clone(),
            Some(auth) => {
                Named { passwords: auth.password_file.clone(), acl: auth.acl_file.clone() }
            }
        };
        let passwords = names.passwords.as_deref().map(read_passwords).transpose();
        let acl = names.acl.as_deref().map(read_acl).transpose();
        let (passwords, acl) = match (passwords, acl) {
            (Ok(passwords), Ok(acl)) => (passwords, acl),
            (passwords, acl) => {
                let faults = [passwords.err(), acl.err()];
                return Err(faults.into_iter().flatten().flatten().collect());
            }
        };
        *named = names;
        Ok(ReloadReport {
            users: swap(&self.passwords, passwords, Passwords::len),
            rules: swap(&self.acl, acl, Acl::len),
        })
    }

    /// The users in force, if there is a file of them.
    pub fn passwords(&self) -> Option<Arc<Passwords>> {
        self.passwords.load_full()
    }

    /// The files, to be watched.
    pub fn paths(&self) -> Vec<PathBuf> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        [&named.passwords, &named.acl].into_iter().flatten().cloned().collect()
    }
}

/// On a shard's path: neither lock nor allocation.
impl Access for AuthFiles {
    fn publish(&self, who: Who<'_>, topic: &str) -> Result<(), ReasonCode> {
        match &*self.acl.load() {
            None => Open.publish(who, topic),
            Some(acl) if acl.publish(by_rules(who), topic) => Ok(()),
            Some(_) => Err(ReasonCode::NotAuthorized),
        }
    }

    fn subscribe(&self, who: Who<'_>, filter: &str) -> Result<(), ReasonCode> {
        match &*self.acl.load() {
            None => Open.subscribe(who, filter),
            Some(acl) if acl.subscribe(by_rules(who), filter) => Ok(()),
            Some(_) => Err(ReasonCode::NotAuthorized),
        }
    }
}

/// The core and the rules know a client by the same two names.
fn by_rules(who: Who<'_>) -> tidegate_auth::Who<'_> {
    tidegate_auth::Who { client: who.client, user: who.user }
}

fn swap<T: PartialEq>(
    place: &ArcSwapOption<T>,
    new: Option<T>,
    len: impl Fn(&T) -> usize,
) -> Change {
    let old = place.load_full();
    if old.as_deref() == new.as_ref() {
        return Change::Same;
    }
    let (before, now) = (old.as_deref().map(&len), new.as_ref().map(&len));
    place.store(new.map(Arc::new));
    Change::Changed { before, now }
}

fn read_passwords(path: &Path) -> Result<Passwords, Vec<AuthFault>> {
    let text = read("auth.password_file", path, passwords::FILE_BYTES_MAX)?;
    Passwords::parse(text)
        .map_err(|faults| told(&faults, |fault| AuthFault::Password { path: path.into(), fault }))
}

fn read_acl(path: &Path) -> Result<Acl, Vec<AuthFault>> {
    let text = read("auth.acl_file", path, acl::FILE_BYTES_MAX)?;
    Acl::parse(text)
        .map_err(|faults| told(&faults, |fault| AuthFault::Acl { path: path.into(), fault }))
}

/// One fault a bad line, and one for those beyond what is told.
fn told<P: fmt::Display>(
    faults: &tidegate_auth::Faults<P>,
    fault: impl Fn(String) -> AuthFault,
) -> Vec<AuthFault> {
    let mut told: Vec<_> = faults.iter().map(|line| fault(line.to_string())).collect();
    if faults.count() > told.len() {
        told.push(fault(format!("has {} more faults", faults.count() - told.len())));
    }
    told
}

/// Text of a file, if it is not beyond `max`.
fn read(key: &'static str, path: &Path, max: usize) -> Result<String, Vec<AuthFault>> {
    let unreadable = |error| vec![AuthFault::Unreadable { key, path: path.into(), error }];
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > max {
        return Err(vec![AuthFault::TooLong { key, path: path.into(), max }]);
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        vec![AuthFault::NotUtf8 { key, path: path.into(), at }]
    })
}
