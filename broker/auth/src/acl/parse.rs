//! The text of a rule, read. The grammar is in the module above.

use super::filter::{self, FilterProblem, Holds};
use super::{LINE_BYTES_MAX, Subject};

/// What is wrong with a line.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("the file has {len} bytes, above {max}; use wildcards, %c and %u", max = super::FILE_BYTES_MAX)]
    FileTooLong { len: usize },
    #[error("the file has more than {} rules; use wildcards, %c and %u", super::RULES_MAX)]
    TooManyRules,
    #[error("the line has {len} bytes, above {max}; split it", max = LINE_BYTES_MAX)]
    LineTooLong { len: usize },
    #[error("the line ends within quotes; write \\\" for a quote that is meant as one")]
    QuoteOpen,
    #[error("text follows a closing quote without a space between them; quote the whole of it")]
    QuoteGlued,
    #[error(
        "the line ends where {0} should stand; a rule is WHO allow|deny publish|subscribe|all FILTER"
    )]
    Missing(&'static str),
    #[error("{0:?} does not say who; use everybody, anonymous, user NAME, user * or client ID")]
    Subject(String),
    #[error("the name of a {0} is empty; a rule for nobody has no effect")]
    NameEmpty(&'static str),
    #[error("{0:?} is not a verdict; use allow or deny")]
    Verdict(String),
    #[error("{0:?} is not an action; use publish, subscribe or all")]
    Action(String),
    #[error("the filter {filter:?} {problem}")]
    Filter { filter: String, problem: FilterProblem },
    #[error(
        "{0:?} follows the filter; quote a filter with spaces; a comment has a line of its own"
    )]
    Trailing(String),
}

/// A rule's line, in parts.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) subject: Subject,
    pub(super) allow: bool,
    pub(super) publish: bool,
    pub(super) subscribe: bool,
    pub(super) filter: Box<str>,
    /// `%c` and `%u` in the filter; without them it stands as it is meant.
    pub(super) holds: Holds,
}

pub(super) fn line(text: &str) -> Result<Line, Problem> {
    if text.len() > LINE_BYTES_MAX {
        return Err(Problem::LineTooLong { len: text.len() });
    }
    let mut words = Words { rest: text };
    let word = words.next("who it is about")?;
    let subject = match (word.text.as_str(), word.quoted) {
        ("everybody", false) => Subject::Everybody,
        ("anonymous", false) => Subject::Anonymous,
        ("user", false) => {
            let name = words.next("the name of the user")?;
            match name.text.as_str() {
                "*" if !name.quoted => Subject::AnyUser,
                "" => return Err(Problem::NameEmpty("user")),
                _ => Subject::User(name.text.into()),
            }
        }
        ("client", false) => match words.next("the id of the client")?.text {
            id if id.is_empty() => return Err(Problem::NameEmpty("client")),
            id => Subject::Client(id.into()),
        },
        _ => return Err(Problem::Subject(shown(&word.text))),
    };
    let word = words.next("allow or deny")?;
    let allow = match word.text.as_str() {
        "allow" => true,
        "deny" => false,
        _ => return Err(Problem::Verdict(shown(&word.text))),
    };
    let word = words.next("publish, subscribe or all")?;
    let (publish, subscribe) = match word.text.as_str() {
        "publish" => (true, false),
        "subscribe" => (false, true),
        "all" => (true, true),
        _ => return Err(Problem::Action(shown(&word.text))),
    };
    let filter = words.next("the filter")?.text;
    let holds = filter::check(&filter)
        .map_err(|problem| Problem::Filter { filter: shown(&filter), problem })?;
    if let Ok(word) = words.next("") {
        return Err(Problem::Trailing(shown(&word.text)));
    }
    let filter = if holds.any() { filter } else { filter.replace("%%", "%") };
    Ok(Line { subject, allow, publish, subscribe, filter: filter.into(), holds })
}

/// A text of the file in a message: enough to be found again.
fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Words between spaces and tabs; one in double quotes may hold both, and `\"`
/// and `\\` for the characters themselves.
struct Words<'a> {
    rest: &'a str,
}

struct Word {
    text: String,
    quoted: bool,
}

impl Words<'_> {
    /// The next word; `wanted` says what is missing if there is none.
    fn next(&mut self, wanted: &'static str) -> Result<Word, Problem> {
        let blank = [' ', '\t'];
        self.rest = self.rest.trim_start_matches(blank);
        if self.rest.is_empty() {
            return Err(Problem::Missing(wanted));
        }
        if let Some(quoted) = self.rest.strip_prefix('"') {
            let (text, rest) = unquote(quoted).ok_or(Problem::QuoteOpen)?;
            if !rest.is_empty() && !rest.starts_with(blank) {
                return Err(Problem::QuoteGlued);
            }
            self.rest = rest;
            return Ok(Word { text, quoted: true });
        }
        let end = self.rest.find(blank).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(Word { text: text.into(), quoted: false })
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut unquoted = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((unquoted, &text[at + 1..])),
            '\\' => match chars.next()? {
                (_, c @ ('"' | '\\')) => unquoted.push(c),
                (_, c) => unquoted.extend(['\\', c]),
            },
            c => unquoted.push(c),
        }
    }
    None
}

/// A word as it has to be written to be read as `text`.
pub fn word(text: &str) -> String {
    let plain =
        !text.is_empty() && text != "*" && !text.starts_with('"') && !text.contains([' ', '\t']);
    match plain {
        true => text.into(),
        false => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        line(text).expect_err("is wrong").to_string()
    }

    #[test]
    fn a_rule_is_read() {
        let read = line("  user\talice  deny all a/%c/#  ").expect("a rule");
        assert_eq!(read.subject, Subject::User("alice".into()));
        assert!(!read.allow && read.publish && read.subscribe && read.holds.client);
        assert_eq!(&*read.filter, "a/%c/#");
        let read = line(r#"user "a \"b\" \\ c" allow publish "with space/100%%""#).expect("a rule");
        assert_eq!(read.subject, Subject::User(r#"a "b" \ c"#.into()));
        assert!(read.allow && read.publish && !read.subscribe && !read.holds.any());
        assert_eq!(&*read.filter, "with space/100%");
        let read = line("user * allow subscribe #").expect("a rule");
        assert_eq!(read.subject, Subject::AnyUser);
        let read = line("user \"*\" allow subscribe #").expect("a rule");
        assert_eq!(read.subject, Subject::User("*".into()));
        let read = line("client everybody allow subscribe #").expect("a rule");
        assert_eq!(read.subject, Subject::Client("everybody".into()));
    }

    #[test]
    fn a_bad_rule_says_what_would_do() {
        assert_eq!(
            said("alice allow publish a"),
            "\"alice\" does not say who; use everybody, anonymous, user NAME, user * or client ID"
        );
        assert_eq!(
            said("user"),
            "the line ends where the name of the user should stand; a rule is WHO allow|deny \
             publish|subscribe|all FILTER"
        );
        assert_eq!(said("everybody Allow"), "\"Allow\" is not a verdict; use allow or deny");
        assert_eq!(
            said("everybody allow read a"),
            "\"read\" is not an action; use publish, subscribe or all"
        );
        assert_eq!(
            said("everybody allow all a/#/b"),
            "the filter \"a/#/b\" holds '#' elsewhere than as its whole last level"
        );
        assert_eq!(
            said("everybody allow all # # all of it"),
            "\"#\" follows the filter; quote a filter with spaces; a comment has a line of its own"
        );
        assert_eq!(
            said("client \"x"),
            "the line ends within quotes; write \\\" for a quote that is meant as one"
        );
        assert!(said("user \"\" allow all #").contains("is empty"));
        assert!(said("user \"a\"b allow all #").contains("closing quote"));
        assert!(said("\"everybody\" allow all #").contains("does not say who"));
        assert!(said(&"x".repeat(65_537)).contains("65537 bytes, above 65536"));
        assert!(said(&"x".repeat(60_000)).len() < 300);
    }

    #[test]
    fn a_written_word_is_read_as_it_was() {
        for text in ["a", "a b", "*", "\"", "a\"b", "\\", "a \\\" b", "ü\t", "back\\ slash"] {
            let rule = format!("user {} allow all {}", word(text), word("x y"));
            let read = line(&rule).expect("a rule");
            assert_eq!(read.subject, Subject::User(text.into()), "{rule}");
        }
    }
}
