//! What can be wrong with a config. Each problem names the key, the value and
//! what would do; the operator is at fault, and is told how to mend it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use super::listener::Bind;

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("line {line}, column {column}: not TOML: {message}")]
    Syntax { line: usize, column: usize, message: String },
    #[error("{key}: unknown key; {hint}")]
    Unknown { key: String, hint: String },
    #[error("{key}: is a table; use [{key}] and keys below it")]
    NotATable { key: String },
    #[error("{key}: {value} is {found}; use {wanted}")]
    Mistyped { key: String, value: String, found: &'static str, wanted: String },
    #[error("{key}: {value} is below {min}; use {min} to {max}")]
    TooSmall { key: String, value: i64, min: u64, max: u64 },
    #[error("{key}: {value} is above {max}; use {min} to {max}")]
    TooLarge { key: String, value: i64, min: u64, max: u64 },
    #[error("{key}: {value} is not known; use {wanted}")]
    NotAChoice { key: String, value: String, wanted: String },
    #[error("{key}: {value:?} is not an address and port; use one such as {example}")]
    NotAnAddress { key: String, value: String, example: &'static str },
    #[error("{key}: missing; name an address and port such as 127.0.0.1:1883")]
    BindMissing { key: String },
    #[error("{key}: {value:?} is not a path; use unix:/ and an absolute path of at most 107 bytes")]
    NotASocketPath { key: String, value: String },
    #[error("{key}: {value:?} is neither an address nor a network; use one such as 10.0.0.0/8")]
    NotANetwork { key: String, value: String },
    #[error("{key}: {count} entries are above {max}; use fewer")]
    ListTooLong { key: String, count: usize, max: usize },
    #[error("{key}: has no effect {when}; {fix}")]
    NoEffect { key: String, when: String, fix: String },
    #[error("{key}: missing, and {why}; {fix}")]
    Missing { key: String, why: String, fix: String },
    #[error("{key}: {value:?} {why}; {fix}")]
    Unfit { key: String, value: String, why: String, fix: String },
    #[error(
        "{key}: {bind} is off loopback, and nothing says who may come in; set auth.password_file, \
         or {0}.user_from with client certificates, or {0}.anonymous = true to let anybody in, or \
         bind to 127.0.0.1:{1}",
        key.trim_end_matches(".bind"), bind.port()
    )]
    OpenWithoutSayingSo { key: String, bind: SocketAddr },
    #[error(
        "{key}: false leaves nobody who can connect; set auth.password_file or user_from, or use true"
    )]
    NobodyCanConnect { key: String },
    #[error("{key}: {bind} is taken by {other} ({taken}); use another port")]
    AddressTaken { key: String, bind: Bind, other: String, taken: Bind },
    #[error("{key}: {value:?} is not a name; use 1 to {max} of {allowed}")]
    NotAName { key: String, value: String, max: usize, allowed: &'static str },
    #[error("{key}: {count} listeners are above {max}; use fewer")]
    TooManyListeners { key: String, count: usize, max: usize },
    #[error("{key}: {value} is below {than} = {least}, {why}; use at least {least}")]
    BelowOther { key: String, value: u64, than: &'static str, least: u64, why: &'static str },
    #[error("{key}: {value:?} is not a filter: {message}; use directives such as {example}")]
    NotAFilter { key: String, value: String, message: String, example: &'static str },
    #[error("{key}: is empty; use a path")]
    EmptyPath { key: String },
    #[error("{key}: {len} bytes are above {max}; use fewer")]
    TextTooLong { key: String, len: usize, max: usize },
    #[error("{variable}: {key} is set by {other} as well; keep one of them")]
    SetTwice { variable: String, key: String, other: String },
    #[error("{variable}: the value is not UTF-8; use text")]
    NotUtf8 { variable: String },
}

impl Problem {
    /// A fault of the TOML itself, located in `text`.
    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Problem {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let message = error.message().trim().replace('\n', ", ");
        Problem::Syntax { line, column, message }
    }

    /// The key that the problem is about, if it is about one.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Unknown { key, .. }
            | Self::NotATable { key }
            | Self::Mistyped { key, .. }
            | Self::TooSmall { key, .. }
            | Self::TooLarge { key, .. }
            | Self::NotAChoice { key, .. }
            | Self::NotAnAddress { key, .. }
            | Self::BindMissing { key }
            | Self::NotASocketPath { key, .. }
            | Self::NotANetwork { key, .. }
            | Self::ListTooLong { key, .. }
            | Self::NoEffect { key, .. }
            | Self::Missing { key, .. }
            | Self::Unfit { key, .. }
            | Self::OpenWithoutSayingSo { key, .. }
            | Self::NobodyCanConnect { key }
            | Self::AddressTaken { key, .. }
            | Self::NotAName { key, .. }
            | Self::BelowOther { key, .. }
            | Self::NotAFilter { key, .. }
            | Self::EmptyPath { key }
            | Self::TextTooLong { key, .. } => Some(key),
            Self::Syntax { .. }
            | Self::TooManyListeners { .. }
            | Self::SetTwice { .. }
            | Self::NotUtf8 { .. } => None,
        }
    }
}

/// Where a key's value came from, when not from the file: a variable or a flag.
pub(super) type Origins = BTreeMap<String, String>;

/// The problems found so far.
#[derive(Debug, Default)]
pub struct Faults(Vec<Problem>);

impl Faults {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Whether something was wrong with `key` already; a check that builds on
    /// it then says nothing more.
    pub fn about(&self, key: &str) -> bool {
        self.0.iter().any(|problem| problem.key() == Some(key))
    }

    pub(super) fn into_result<T>(self, value: T, origins: &Origins) -> Result<T, ConfigError> {
        if self.0.is_empty() {
            return Ok(value);
        }
        let faults = self.0.into_iter().map(|problem| {
            let origin = problem.key().and_then(|key| origin(origins, key)).cloned();
            (problem, origin)
        });
        Err(ConfigError { faults: faults.collect() })
    }
}

/// Of the key, or of what stands below it when it is a table.
fn origin<'a>(origins: &'a Origins, key: &str) -> Option<&'a String> {
    let below = || origins.iter().find(|(known, _)| known.starts_with(&format!("{key}.")));
    origins.get(key).or_else(|| below().map(|(_, origin)| origin))
}

/// All that is wrong with a config, one line a problem.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    faults: Vec<(Problem, Option<String>)>,
}

impl ConfigError {
    /// The problems, in the order of the check.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.faults.iter().map(|(problem, _)| problem)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (problem, origin)) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
            if let Some(origin) = origin {
                write!(f, " (from {origin})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
