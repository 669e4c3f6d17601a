//! What a filter matches, covers and overlaps.
//!
//! Texts are well formed here: the rules' filters are checked when they are
//! read, topics and clients' filters by the codec. A topic is taken as a list
//! of levels; that the empty topic does not exist is not used, which at worst
//! denies a subscription to `+` beside a rule for `/#`.

/// A rule's filter, with what stands for `%c` and `%u`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern<'a> {
    text: &'a str,
    /// None: the text is meant as it stands.
    values: Option<Values<'a>>,
}

/// What a filter holds and the client has to give.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Holds {
    /// `%c`
    pub(super) client: bool,
    /// `%u`
    pub(super) user: bool,
}

impl Holds {
    pub(super) fn any(self) -> bool {
        self.client || self.user
    }
}

/// What a client gives for `%c` and `%u`; none: nothing that can be put in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Values<'a> {
    client: Option<&'a str>,
    user: Option<&'a str>,
}

impl<'a> Values<'a> {
    /// A value with `/`, `+` or `#` in it could reach beyond its level, and an
    /// empty one would make another filter of the rule: neither is put in.
    pub(super) fn new(client: &'a str, user: Option<&'a str>) -> Values<'a> {
        let fits = |value: &&str| {
            !value.is_empty() && !value.bytes().any(|byte| matches!(byte, b'/' | b'+' | b'#'))
        };
        Values { client: Some(client).filter(fits), user: user.filter(fits) }
    }
}

impl<'a> Pattern<'a> {
    /// A filter that is meant as it stands.
    pub(super) fn plain(text: &'a str) -> Pattern<'a> {
        Pattern { text, values: None }
    }

    /// A filter with `%c` or `%u` in it; none: a value is missing, or would
    /// lead to where a wildcard does not [MQTT-4.7.2-1]: `%c/#` must not open
    /// `$SYS` to a client that calls itself so.
    pub(super) fn filled(text: &'a str, holds: Holds, values: Values<'a>) -> Option<Pattern<'a>> {
        if (holds.client && values.client.is_none()) || (holds.user && values.user.is_none()) {
            return None;
        }
        let first = match text.as_bytes() {
            [b'%', b'c', ..] => values.client,
            [b'%', b'u', ..] => values.user,
            _ => None,
        };
        let leads_away = first.is_some_and(|value| value.starts_with('$'));
        (!leads_away).then_some(Pattern { text, values: Some(values) })
    }

    /// Whether a topic matches.
    pub(super) fn matches(self, topic: &str) -> bool {
        if !self.same_realm(topic) {
            return false;
        }
        let (mut levels, mut topic) = (self.text.split('/'), topic.split('/'));
        loop {
            match (levels.next(), topic.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some(_), None) | (None, Some(_)) => return false,
                (Some("+"), Some(_)) => {}
                (Some(level), Some(text)) if self.level_is(level, text) => {}
                (Some(_), Some(_)) => return false,
            }
        }
    }

    /// Whether every topic that `filter` matches matches here too.
    pub(super) fn covers(self, filter: &str) -> bool {
        if !self.same_realm(filter) {
            return false;
        }
        // No topic is without a first level, so `+/#` leaves nothing of `#` out.
        if filter == "#" {
            return matches!(self.text, "#" | "+/#");
        }
        let (mut levels, mut filter) = (self.text.split('/'), filter.split('/'));
        loop {
            match (levels.next(), filter.next()) {
                (Some("#"), _) | (None, None) => return true,
                // The parent, or what is deeper, is left out.
                (Some(_), None | Some("#")) | (None, Some(_)) => return false,
                (Some("+"), Some(_)) => {}
                (Some(_), Some("+")) => return false,
                (Some(level), Some(text)) if self.level_is(level, text) => {}
                (Some(_), Some(_)) => return false,
            }
        }
    }

    /// Whether there is a topic that matches both.
    pub(super) fn overlaps(self, filter: &str) -> bool {
        if !self.same_realm(filter) {
            return false;
        }
        let (mut levels, mut filter) = (self.text.split('/'), filter.split('/'));
        loop {
            match (levels.next(), filter.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(_), None) | (None, Some(_)) => return false,
                (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
                (Some(level), Some(text)) if self.level_is(level, text) => {}
                (Some(_), Some(_)) => return false,
            }
        }
    }

    /// A wildcard in the first level does not match topics that begin with `$`
    /// [MQTT-4.7.2-1].
    fn same_realm(self, other: &str) -> bool {
        self.text.starts_with('$') == other.starts_with('$')
    }

    /// Whether a level of ours, filled in, is `text`.
    fn level_is(self, level: &str, text: &str) -> bool {
        match self.values {
            None => level == text,
            Some(values) => filled_is(level, text, values).is_some(),
        }
    }
}

fn filled_is(level: &str, text: &str, values: Values<'_>) -> Option<()> {
    let (mut level, mut text) = (level, text);
    while let Some(at) = level.find('%') {
        let value = match level.as_bytes().get(at + 1)? {
            b'c' => values.client?,
            b'u' => values.user?,
            _ => "%",
        };
        text = text.strip_prefix(&level[..at])?.strip_prefix(value)?;
        level = &level[at + 2..];
    }
    (level == text).then_some(())
}

/// Why a text is not the filter of a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FilterProblem {
    #[error("is empty")]
    Empty,
    #[error("has {len} bytes, and no topic has more than 65535")]
    TooLong { len: usize },
    #[error("holds a control character")]
    Control,
    #[error("holds '#' elsewhere than as its whole last level")]
    MultiLevel,
    #[error("holds '+' beside other characters of its level")]
    SingleLevel,
    #[error("holds '%' without c, u or %; write %% for the character itself")]
    Percent,
    #[error("begins with '$share'; give the filter behind the group, which is what is checked")]
    Shared,
}

/// Checks a rule's filter.
pub(super) fn check(text: &str) -> Result<Holds, FilterProblem> {
    if text.is_empty() {
        return Err(FilterProblem::Empty);
    }
    if text.len() > usize::from(u16::MAX) {
        return Err(FilterProblem::TooLong { len: text.len() });
    }
    if text.chars().any(char::is_control) {
        return Err(FilterProblem::Control);
    }
    if text == "$share" || text.starts_with("$share/") {
        return Err(FilterProblem::Shared);
    }
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(FilterProblem::MultiLevel);
        }
        if level.contains('+') && level != "+" {
            return Err(FilterProblem::SingleLevel);
        }
    }
    let mut holds = Holds::default();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        match rest.as_bytes().get(at + 1) {
            Some(b'c') => holds.client = true,
            Some(b'u') => holds.user = true,
            Some(b'%') => {}
            _ => return Err(FilterProblem::Percent),
        }
        rest = &rest[at + 2..];
    }
    Ok(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rules_filter_is_checked() {
        for text in ["#", "+/+/#", "/", "a b/ü", "$SYS/#", "100%%", "%%c/%%u"] {
            assert_eq!(check(text), Ok(Holds::default()), "{text}");
        }
        assert_eq!(check("dev-%c/%u%%"), Ok(Holds { client: true, user: true }));
        assert_eq!(check("dev-%c"), Ok(Holds { client: true, user: false }));
        assert_eq!(check("%u"), Ok(Holds { client: false, user: true }));
        for (text, problem) in [
            ("", FilterProblem::Empty),
            ("#/a", FilterProblem::MultiLevel),
            ("a#", FilterProblem::MultiLevel),
            ("a/b+", FilterProblem::SingleLevel),
            ("++", FilterProblem::SingleLevel),
            ("a/%", FilterProblem::Percent),
            ("%d", FilterProblem::Percent),
            ("%/c", FilterProblem::Percent),
            ("%ü", FilterProblem::Percent),
            ("%%%", FilterProblem::Percent),
            ("a\0", FilterProblem::Control),
            ("$share/g/a", FilterProblem::Shared),
        ] {
            assert_eq!(check(text), Err(problem), "{text}");
        }
        assert_eq!(check(&"a".repeat(65_536)), Err(FilterProblem::TooLong { len: 65_536 }));
    }

    fn filled<'a>(text: &'a str, client: &'a str, user: Option<&'a str>) -> Option<Pattern<'a>> {
        Pattern::filled(text, check(text).expect("a good filter"), Values::new(client, user))
    }

    #[test]
    fn values_are_put_in_as_whole_or_part_of_a_level() {
        let filled = |text| filled(text, "c1", Some("ann")).expect("good values");
        assert!(filled("%c").matches("c1"));
        assert!(filled("a/%u/#").matches("a/ann/x/y"));
        assert!(filled("a/%u/#").matches("a/ann"));
        assert!(filled("dev-%c-%u/x").matches("dev-c1-ann/x"));
        assert!(filled("%c%c%%").matches("c1c1%"));
        assert!(!filled("%c").matches("c2"));
        assert!(!filled("%c").matches("c11"));
        assert!(!filled("dev-%c").matches("c1"));
        assert!(!filled("%%c").matches("c1"));
        assert!(filled("%%c").matches("%c"));
    }

    #[test]
    fn no_value_reaches_beyond_its_level() {
        for value in ["a/b", "+", "#", "a+", "x#", "", "/"] {
            for text in ["%c", "%u", "t/%c/x", "t/x%u"] {
                assert!(filled(text, value, Some(value)).is_none(), "{value} in {text}");
            }
            // Only what the filter holds has to be there.
            assert!(filled("t/%c", "c1", Some(value)).is_some());
            assert!(filled("t/%u", value, Some("ann")).is_some());
        }
        assert!(filled("t/%u", "c1", None).is_none());
    }

    #[test]
    fn no_value_leads_to_the_topics_of_the_broker() {
        for text in ["%c/#", "%u", "%c%u"] {
            assert!(filled(text, "$SYS", Some("$SYS")).is_none(), "{text}");
        }
        assert!(filled("t/%c", "$SYS", None).expect("a good value").matches("t/$SYS"));
    }
}
