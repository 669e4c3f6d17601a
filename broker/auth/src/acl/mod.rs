//! What clients may publish and subscribe to.
//!
//! One rule a line, in words; docs/acl.md is the guide for operators.
//!
//! ```text
//! # WHO        VERDICT ACTION    FILTER
//! user alice   allow   all       plant/north/#
//! client gate1 deny    subscribe plant/+/secret
//! user *       allow   publish   devices/%u/%c/state
//! anonymous    allow   subscribe public/#
//! everybody    deny    all       $SYS/#
//! ```
//!
//! WHO is `everybody`; `user NAME`; `user *`, whoever has a user name;
//! `anonymous`, whoever has none; or `client ID`. ACTION is `publish`,
//! `subscribe` or `all`. FILTER is a topic filter in which `%c` stands for the
//! client id, `%u` for the user name and `%%` for a percent sign. Words with
//! spaces stand in double quotes. Empty lines and lines that begin with `#` are
//! skipped; any other is a rule, so that no typing error opens a door silently.
//!
//! The first rule that speaks of a request decides it, and what none speaks of
//! is denied. For a publish a rule speaks when its filter matches the topic. A
//! subscription stands for many topics: `allow` speaks when its filter covers
//! all of them, `deny` when it overlaps one. So nobody receives by a wide
//! filter what a narrower one would be refused.
//!
//! A rule whose `%u` has no value, as the client has no user name, is silent.
//! So is one whose value is empty or holds `/`, `+` or `#`, or would begin the
//! topic with `$`: a client cannot widen a rule by the name that it chooses.

mod filter;
mod parse;

use std::fmt;

pub use filter::FilterProblem;
use filter::{Holds, Pattern, Values};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use parse::Line;
pub use parse::{Problem, word};

use crate::faults;

/// Rules of one file.
pub const RULES_MAX: usize = 100_000;
/// Bytes of one line.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of one file.
pub const FILE_BYTES_MAX: usize = 64 << 20;

/// What is wrong with a file of rules.
pub type Faults = faults::Faults<Problem>;

/// A client, as the rules know it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Who<'a> {
    /// Its client id.
    pub client: &'a str,
    /// Its user name, if somebody vouched for one.
    pub user: Option<&'a str>,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// To publish to a topic.
    Publish,
    /// To subscribe to a filter.
    Subscribe,
}

/// A verdict, and where it comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Explained<'a> {
    /// The verdict.
    pub allowed: bool,
    /// The line of the rule that decided; none: no rule spoke.
    pub line: Option<usize>,
    /// The text of that rule.
    pub rule: Option<&'a str>,
}

/// A file of rules.
///
/// A request walks the rules for everybody and those for this user and this
/// client, merged by their lines, and no one else's. It neither allocates nor
/// locks.
pub struct Acl {
    text: Box<str>,
    rules: usize,
    everybody: Vec<Rule>,
    anonymous: Vec<Rule>,
    any_user: Vec<Rule>,
    // The keys come from the file, so a client cannot make them collide: a
    // fixed seed will do.
    users: HashMap<Box<str>, Vec<Rule>, FixedState>,
    clients: HashMap<Box<str>, Vec<Rule>, FixedState>,
}

/// Whom a rule is about.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Subject {
    Everybody,
    Anonymous,
    AnyUser,
    User(Box<str>),
    Client(Box<str>),
}

#[derive(Debug)]
struct Rule {
    /// Its number, which is its rank, and its text in the file.
    line: u32,
    start: u32,
    end: u32,
    allow: bool,
    publish: bool,
    subscribe: bool,
    holds: Holds,
    filter: Box<str>,
}

impl Acl {
    /// Reads the text of a file.
    pub fn parse(text: impl Into<Box<str>>) -> Result<Acl, Faults> {
        let text = text.into();
        if text.len() > FILE_BYTES_MAX {
            return Err(Problem::FileTooLong { len: text.len() }.into());
        }
        let mut faults = Faults::default();
        let mut acl = Acl {
            text: Box::default(),
            rules: 0,
            everybody: Vec::new(),
            anonymous: Vec::new(),
            any_user: Vec::new(),
            users: HashMap::default(),
            clients: HashMap::default(),
        };
        let mut at = 0;
        for (i, whole) in text.split_inclusive('\n').enumerate() {
            let start = at + (whole.len() - whole.trim_start().len());
            at += whole.len();
            let rule = whole.trim();
            if rule.is_empty() || rule.starts_with('#') {
                continue;
            }
            if acl.rules == RULES_MAX {
                faults.push(i + 1, Problem::TooManyRules);
                break;
            }
            match parse::line(rule) {
                // All within FILE_BYTES_MAX, so within a u32.
                Ok(line) => acl.insert(i as u32 + 1, start as u32, rule.len() as u32, line),
                Err(problem) => faults.push(i + 1, problem),
            }
        }
        acl.text = text;
        faults.or(acl)
    }

    fn insert(&mut self, number: u32, start: u32, len: u32, line: Line) {
        let rules = match line.subject {
            Subject::Everybody => &mut self.everybody,
            Subject::Anonymous => &mut self.anonymous,
            Subject::AnyUser => &mut self.any_user,
            Subject::User(name) => self.users.entry(name).or_default(),
            Subject::Client(id) => self.clients.entry(id).or_default(),
        };
        rules.push(Rule {
            line: number,
            start,
            end: start + len,
            allow: line.allow,
            publish: line.publish,
            subscribe: line.subscribe,
            holds: line.holds,
            filter: line.filter,
        });
        self.rules += 1;
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules
    }

    /// Whether there are none: everything is denied.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// Whether `who` may publish to `topic`.
    pub fn publish(&self, who: Who<'_>, topic: &str) -> bool {
        self.decide(who, Action::Publish, topic).is_some_and(|rule| rule.allow)
    }

    /// Whether `who` may subscribe to `filter`, which is without its `$share` prefix.
    pub fn subscribe(&self, who: Who<'_>, filter: &str) -> bool {
        self.decide(who, Action::Subscribe, filter).is_some_and(|rule| rule.allow)
    }

    /// The verdict on a request, and the rule that decides it.
    pub fn explain(&self, who: Who<'_>, action: Action, topic: &str) -> Explained<'_> {
        let rule = self.decide(who, action, topic);
        Explained {
            allowed: rule.is_some_and(|rule| rule.allow),
            line: rule.map(|rule| rule.line as usize),
            rule: rule.map(|rule| &self.text[rule.start as usize..rule.end as usize]),
        }
    }

    /// The first rule that speaks of the request.
    fn decide(&self, who: Who<'_>, action: Action, topic: &str) -> Option<&Rule> {
        let none: &[Rule] = &[];
        let (of_all, of_one) = match who.user {
            None => (&self.anonymous[..], none),
            Some(user) => (&self.any_user[..], self.users.get(user).map_or(none, Vec::as_slice)),
        };
        let of_client = match self.clients.is_empty() {
            true => none,
            false => self.clients.get(who.client).map_or(none, Vec::as_slice),
        };
        let mut lists = [&self.everybody[..], of_all, of_one, of_client];
        let mut values = None;
        while let Some(rule) = next(&mut lists) {
            let pattern = if rule.holds.any() {
                let values = *values.get_or_insert_with(|| Values::new(who.client, who.user));
                Pattern::filled(&rule.filter, rule.holds, values)
            } else {
                Some(Pattern::plain(&rule.filter))
            };
            let Some(pattern) = pattern else { continue };
            let speaks = match (action, rule.allow) {
                (Action::Publish, _) => rule.publish && pattern.matches(topic),
                (Action::Subscribe, true) => rule.subscribe && pattern.covers(topic),
                (Action::Subscribe, false) => rule.subscribe && pattern.overlaps(topic),
            };
            if speaks {
                return Some(rule);
            }
        }
        None
    }
}

/// Takes the rule of the lowest line off its list.
fn next<'a>(lists: &mut [&'a [Rule]; 4]) -> Option<&'a Rule> {
    let heads = lists.iter_mut().filter(|list| !list.is_empty());
    let list = heads.min_by_key(|list| list[0].line)?;
    let (rule, rest) = list.split_first()?;
    *list = rest;
    Some(rule)
}

impl PartialEq for Acl {
    /// All else is made of the text.
    fn eq(&self, other: &Acl) -> bool {
        self.text == other.text
    }
}

impl Eq for Acl {}

impl fmt::Debug for Acl {
    /// Without the rules, which can be a hundred thousand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acl").field("rules", &self.rules).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# people
user alice  allow all       plant/#

user bob    deny  publish   plant/north/secret
user bob    allow publish   plant/north/+
user *      allow subscribe plant/+/state
anonymous   allow subscribe public/#
client c9   deny  all       #
everybody   allow publish   clients/%c/#
everybody   allow publish   users/%u
  everybody   allow subscribe \"with space/%c\"\t
";

    fn acl(text: &str) -> Acl {
        Acl::parse(text).expect("good rules")
    }

    fn who<'a>(client: &'a str, user: &'a str) -> Who<'a> {
        Who { client, user: Some(user).filter(|user| !user.is_empty()) }
    }

    #[test]
    fn the_first_rule_that_speaks_decides() {
        let acl = acl(FILE);
        assert_eq!(acl.len(), 9);
        let bob = who("c1", "bob");
        assert!(!acl.publish(bob, "plant/north/secret"));
        assert!(acl.publish(bob, "plant/north/x"));
        assert!(!acl.publish(bob, "plant/south/x"));
        assert!(acl.publish(who("c1", "alice"), "plant/north/secret"));
        // Line 2 stands before line 8.
        assert!(acl.publish(who("c9", "alice"), "plant/x"));
        assert!(!acl.publish(who("c9", "alice"), "clients/c9/x"));
        assert!(!acl.publish(who("c9", ""), "clients/c9/x"));
    }

    #[test]
    fn what_no_rule_speaks_of_is_denied() {
        let empty = acl("# nothing\n\n");
        assert!(empty.is_empty() && !empty.publish(who("c", "u"), "a"));
        assert!(!empty.subscribe(who("c", "u"), "a"));
        assert!(!acl(FILE).publish(who("c1", "alice"), "other"));
    }

    #[test]
    fn anonymous_and_named_clients_are_told_apart() {
        let acl = acl(FILE);
        assert!(acl.subscribe(who("c1", ""), "public/x"));
        assert!(!acl.subscribe(who("c1", "alice"), "public/x"));
        assert!(acl.subscribe(who("c1", "carol"), "plant/+/state"));
        assert!(!acl.subscribe(who("c1", ""), "plant/+/state"));
        assert!(acl.publish(who("c1", "carol"), "users/carol"));
        assert!(!acl.publish(who("c1", "carol"), "users/alice"));
        assert!(!acl.publish(who("c1", ""), "users/"));
    }

    #[test]
    fn a_subscription_is_allowed_if_all_of_it_is() {
        let acl = acl("everybody deny subscribe a/secret/#\neverybody allow subscribe a/#");
        let one = who("c", "");
        for (filter, allowed) in [
            ("a/x", true),
            ("a/x/#", true),
            ("a", true),
            ("a/secret", false),
            ("a/+", false),
            ("a/+/y", false),
            ("a/#", false),
            ("#", false),
            ("+", false),
            ("b", false),
        ] {
            assert_eq!(acl.subscribe(one, filter), allowed, "{filter}");
        }
        assert!(!acl.publish(one, "a/x"));
    }

    #[test]
    fn wildcards_do_not_reach_the_topics_of_the_broker() {
        let acl = acl("everybody allow all #\neverybody allow subscribe $SYS/broker/#");
        let one = who("$SYS", "");
        assert!(!acl.publish(one, "$SYS/x"));
        assert!(!acl.subscribe(one, "$SYS/#"));
        assert!(acl.subscribe(one, "$SYS/broker/load/#"));
        assert!(acl.subscribe(one, "#"));
        // Who denies everything denies `$SYS` by its name.
        let acl = self::acl("everybody deny all #\neverybody allow all $SYS/#");
        assert!(acl.subscribe(one, "$SYS/#"));
    }

    #[test]
    fn a_rule_without_its_value_is_silent() {
        let acl = acl("everybody deny all t/%u/#\neverybody allow all t/#");
        assert!(acl.subscribe(who("c1", ""), "t/+"));
        assert!(acl.subscribe(who("c1", "a+"), "t/#"));
        assert!(!acl.subscribe(who("c1", "ann"), "t/+"));
        assert!(acl.subscribe(who("c1", "ann"), "t/bob"));
    }

    #[test]
    fn a_verdict_is_explained_by_its_line() {
        let acl = acl(FILE);
        let explained = acl.explain(who("c1", "bob"), Action::Publish, "plant/north/secret");
        assert!(!explained.allowed);
        assert_eq!(explained.line, Some(4));
        assert_eq!(explained.rule, Some("user bob    deny  publish   plant/north/secret"));
        let explained = acl.explain(who("c1", ""), Action::Subscribe, "with space/c1");
        assert!(explained.allowed);
        assert_eq!(explained.line, Some(11));
        assert_eq!(explained.rule, Some("everybody   allow subscribe \"with space/%c\""));
        let explained = acl.explain(who("c1", ""), Action::Publish, "x");
        assert_eq!(explained, Explained { allowed: false, line: None, rule: None });
    }

    #[test]
    fn every_bad_line_is_told() {
        let faults =
            Acl::parse("user\r\n# fine\r\neverybody allow all #\nnobody\n").expect_err("bad");
        let lines: Vec<_> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [1, 4]);
        let many = "everybody allow all #\n".repeat(RULES_MAX);
        assert_eq!(acl(&many).len(), RULES_MAX);
        let faults = Acl::parse(many + "everybody allow all #").expect_err("too many");
        assert_eq!(
            faults.to_string(),
            "line 100001: the file has more than 100000 rules; use wildcards, %c and %u"
        );
    }

    #[test]
    fn rules_of_others_are_not_walked() {
        let mut text = String::new();
        for user in 0..1_000 {
            text += &format!("user u{user} allow publish t\nclient c{user} allow publish t\n");
        }
        let acl = acl(&text);
        let (user, client) = (acl.users.get("u7"), acl.clients.get("c7"));
        assert_eq!(user.map(Vec::len), Some(1));
        assert_eq!(client.map(Vec::len), Some(1));
        assert_eq!(acl.everybody.len() + acl.any_user.len() + acl.anonymous.len(), 0);
        assert!(acl.publish(who("x", "u7"), "t") && acl.publish(who("c7", ""), "t"));
        assert!(!acl.publish(who("x", ""), "t"));
    }
}
