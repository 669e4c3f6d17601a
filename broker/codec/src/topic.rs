//! Topic names and topic filters.
//!
//! A name is checked once, when it is decoded; a filter becomes a [`Filter`],
//! which cannot be wrong. [`matches`] is the rule in its plainest form: the
//! broker's index is held against it.

use crate::error::refuse;
use crate::reader::not_utf8;
use crate::{DecodeError, FIELD_BYTES_MAX, PacketType, Version, defect};

/// A well-formed topic filter, its shared-subscription prefix split off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Filter<'a> {
    text: &'a str,
    share: Option<&'a str>,
    filter: &'a str,
}

/// Why a text is no topic filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// A filter has at least one character.
    #[error("it is empty")]
    Empty,
    /// Over 65,535 bytes.
    #[error("it is too long")]
    TooLong,
    /// U+0000 in it.
    #[error("it contains U+0000")]
    Nul,
    /// `#` anywhere but alone in the last level.
    #[error("# is not alone in the last level")]
    MultiLevelWildcard,
    /// `+` beside something else in its level.
    #[error("+ is not alone in its level")]
    SingleLevelWildcard,
    /// `$share//...`.
    #[error("the share name is empty")]
    ShareNameEmpty,
    /// `$share/a+/...`.
    #[error("the share name contains a wildcard")]
    ShareNameWildcard,
    /// `$share/name` or `$share/name/`.
    #[error("no filter follows the share name")]
    ShareWithoutFilter,
}

impl<'a> Filter<'a> {
    /// Parses a filter, `$share/NAME/FILTER` included.
    pub fn parse(text: &'a str) -> Result<Filter<'a>, FilterError> {
        Self::parse_for(text, Version::V5)
    }

    /// As [`parse`](Self::parse); the version only picks the statement ids.
    pub(crate) fn parse_for(text: &'a str, version: Version) -> Result<Filter<'a>, FilterError> {
        // [MQTT-4.7.3-1] [MQTT-4.7.3-2] [MQTT-4.7.3-3]
        if text.is_empty() {
            unless(version.pick("5:4.7.3-1", "3:4.7.3-1"), FilterError::Empty)?;
        }
        if text.len() > FIELD_BYTES_MAX {
            return Err(FilterError::TooLong);
        }
        if text.as_bytes().contains(&0) {
            unless(version.pick("5:4.7.3-2", "3:4.7.3-2"), FilterError::Nul)?;
        }
        let (share, filter) = match text.strip_prefix("$share/") {
            Some(rest) => split_share(rest)?,
            None => (None, text),
        };
        well_formed(filter, version)?;
        Ok(Filter { text, share, filter })
    }

    /// The whole text, as it was given.
    pub fn text(&self) -> &'a str {
        self.text
    }

    /// The group of a shared subscription.
    pub fn share(&self) -> Option<&'a str> {
        self.share
    }

    /// The filter without `$share/NAME/`.
    pub fn filter(&self) -> &'a str {
        self.filter
    }

    /// Whether it can match more than one topic.
    pub fn is_wildcard(&self) -> bool {
        self.filter.bytes().any(is_wildcard)
    }

    /// How many levels the filter (without `$share/NAME/`) has; at least 1.
    pub fn levels(&self) -> usize {
        1 + self.filter.bytes().filter(|byte| *byte == b'/').count()
    }
}

fn split_share(rest: &str) -> Result<(Option<&str>, &str), FilterError> {
    // [MQTT-4.8.2-1] [MQTT-4.8.2-2]
    let (name, filter) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty() {
        unless("5:4.8.2-1", FilterError::ShareNameEmpty)?;
    }
    if name.bytes().any(is_wildcard) {
        unless("5:4.8.2-2", FilterError::ShareNameWildcard)?;
    }
    if filter.is_empty() {
        return Err(FilterError::ShareWithoutFilter);
    }
    Ok((Some(name), filter))
}

fn well_formed(filter: &str, version: Version) -> Result<(), FilterError> {
    if !filter.bytes().any(is_wildcard) {
        return Ok(());
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        // [MQTT-4.7.1-1] [MQTT-4.7.1-2 of 3.1.1]
        if level.contains('#') && (level.len() > 1 || levels.peek().is_some()) {
            unless(version.pick("5:4.7.1-1", "3:4.7.1-2"), FilterError::MultiLevelWildcard)?;
        }
        // [MQTT-4.7.1-2] [MQTT-4.7.1-3 of 3.1.1]
        if level.contains('+') && level.len() > 1 {
            unless(version.pick("5:4.7.1-2", "3:4.7.1-3"), FilterError::SingleLevelWildcard)?;
        }
    }
    Ok(())
}

#[cold]
fn unless(statement: &str, error: FilterError) -> Result<(), FilterError> {
    if defect::on(statement) { Ok(()) } else { Err(error) }
}

const fn is_wildcard(byte: u8) -> bool {
    matches!(byte, b'+' | b'#')
}

/// A topic name: not empty, UTF-8, no U+0000, no wildcard.
pub fn topic_name(bytes: &[u8]) -> Result<&str, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::EmptyTopic(PacketType::Publish));
    }
    name_or_empty(bytes, PacketType::Publish, Version::V5)
}

/// As [`topic_name`], an empty one included: with a topic alias it is legal.
#[inline]
pub(crate) fn name_or_empty(
    bytes: &[u8],
    packet: PacketType,
    version: Version,
) -> Result<&str, DecodeError> {
    if has_special(bytes) {
        special(bytes, packet, version)?;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // [MQTT-3.3.2-1], and for a will [MQTT-3.1.3-11] [MQTT-3.1.3-10 of 3.1.1]
        Err(_) => {
            let field = match packet {
                PacketType::Connect => version.pick("5:3.1.3-11", "3:3.1.3-10"),
                _ => version.pick("5:3.3.2-1", "3:3.3.2-1"),
            };
            not_utf8(packet, version, field)
        }
    }
}

/// Says what [`has_special`] found.
#[cold]
fn special(bytes: &[u8], packet: PacketType, version: Version) -> Result<(), DecodeError> {
    if bytes.contains(&0) {
        // [MQTT-1.5.4-2] [MQTT-4.7.3-2]
        let error = DecodeError::NulInString(packet);
        if !defect::on(version.pick("5:4.7.3-2", "3:4.7.3-2")) {
            refuse(version.pick("5:1.5.4-2", "3:1.5.3-2"), error)?;
        }
    }
    if bytes.iter().any(|byte| is_wildcard(*byte)) {
        // [MQTT-3.3.2-2]
        let statement = version.pick("5:3.3.2-2", "3:3.3.2-2");
        refuse(statement, DecodeError::TopicWildcard(packet))?;
    }
    Ok(())
}

/// Whether any byte is NUL, `+` or `#`; eight bytes at a time. The tail is read
/// as the last eight bytes, so that a topic of 8 to 16 bytes costs two steps.
#[inline]
fn has_special(bytes: &[u8]) -> bool {
    let Some(tail) = bytes.last_chunk::<8>() else {
        return bytes.iter().any(|byte| *byte == 0 || is_wildcard(*byte));
    };
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(special_in(tail), |found, word| found | special_in(word)) != 0
}

#[inline]
fn special_in(word: &[u8; 8]) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // `#` is 0x23 and `+` is 0x2B: with bit 3 set they are the same byte.
    let word = u64::from_ne_bytes(*word);
    let wild = (word | ONES << 3) ^ (ONES * 0x2B);
    // The highest bit of each zero byte; a byte above a zero one may be marked
    // too, which does not change whether there is any.
    let zero = |w: u64| w.wrapping_sub(ONES) & !w & HIGH;
    zero(word) | zero(wild)
}

/// Whether a topic name matches a filter (without `$share/NAME/`). The plain
/// rule; both are taken to be well formed.
pub fn matches(filter: &str, topic: &str) -> bool {
    // [MQTT-4.7.2-1]
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topic.next() {
            Some(name) if level == "+" || level == name => {}
            Some(_) | None => return false,
        }
    }
    topic.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_filters_parse() {
        for text in
            ["a", "/", "//", "#", "+", "a/#", "+/+/#", "/+", "+/", " ", "a b", "$SYS/#", "é/+"]
        {
            let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!((filter.text(), filter.share(), filter.filter()), (text, None, text));
        }
    }

    #[test]
    fn broken_filters_say_what_is_broken() {
        use FilterError::*;
        for (text, error) in [
            ("", Empty),
            ("a\0", Nul),
            ("a#", MultiLevelWildcard),
            ("#/", MultiLevelWildcard),
            ("a/#/b", MultiLevelWildcard),
            ("##", MultiLevelWildcard),
            ("a/b#", MultiLevelWildcard),
            ("a+", SingleLevelWildcard),
            ("+a/b", SingleLevelWildcard),
            ("a/++", SingleLevelWildcard),
            ("+#", MultiLevelWildcard),
            ("$share//a", ShareNameEmpty),
            ("$share/", ShareNameEmpty),
            ("$share/+/a", ShareNameWildcard),
            ("$share/a#/a", ShareNameWildcard),
            ("$share/g", ShareWithoutFilter),
            ("$share/g/", ShareWithoutFilter),
            ("$share/g/a#", MultiLevelWildcard),
        ] {
            assert_eq!(Filter::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Filter::parse(&"a".repeat(65_536)), Err(TooLong));
        assert!(Filter::parse(&"a".repeat(65_535)).is_ok());
    }

    #[test]
    fn the_share_name_is_split_off() {
        let filter = Filter::parse("$share/g/a/+").unwrap();
        assert_eq!((filter.share(), filter.filter()), (Some("g"), "a/+"));
        assert_eq!((filter.levels(), filter.is_wildcard()), (2, true));
        let filter = Filter::parse("$share/g//a").unwrap();
        assert_eq!((filter.share(), filter.filter(), filter.levels()), (Some("g"), "/a", 2));
        // Without the slash it is an ordinary filter.
        for text in ["$share", "$shared/g/a", "$Share/g/a", "a/$share/g"] {
            assert_eq!(Filter::parse(text).unwrap().share(), None);
        }
    }

    #[test]
    fn names_are_refused_for_what_they_contain() {
        assert_eq!(topic_name("a/é".as_bytes()), Ok("a/é"));
        assert_eq!(topic_name(b""), Err(DecodeError::EmptyTopic(PacketType::Publish)));
        assert_eq!(topic_name(b"\xFF"), Err(DecodeError::NotUtf8(PacketType::Publish)));
        for length in 1..40 {
            for at in 0..length {
                for (byte, error) in [
                    (b'+', DecodeError::TopicWildcard(PacketType::Publish)),
                    (b'#', DecodeError::TopicWildcard(PacketType::Publish)),
                    (0, DecodeError::NulInString(PacketType::Publish)),
                ] {
                    let mut name = vec![b'x'; length];
                    name[at] = byte;
                    assert_eq!(topic_name(&name), Err(error), "{name:?}");
                }
            }
        }
    }

    #[test]
    fn no_other_byte_is_taken_for_a_special_one() {
        for byte in 0..=255u8 {
            let special = matches!(byte, 0 | b'+' | b'#');
            for length in [1, 7, 8, 9, 16, 20] {
                assert_eq!(has_special(&vec![byte; length]), special, "{byte:#04x} x {length}");
            }
        }
    }

    #[test]
    fn matching_follows_the_examples_of_the_standard() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/#", "sport"),
            ("#", "a/b"),
            ("+", "finance"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("sport/+", "sport/"),
            ("$SYS/#", "$SYS/a"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("a//b", "a//b"),
            ("a/+/b", "a//b"),
            ("é/#", "é/x"),
        ] {
            assert!(matches(filter, topic), "{filter} {topic}");
        }
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/a"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("a", "A"),
            ("a", "a/"),
            ("a/b", "a"),
            ("sport/#", "sports"),
        ] {
            assert!(!matches(filter, topic), "{filter} {topic}");
        }
    }
}
