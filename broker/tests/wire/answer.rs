//! What a case expects, and whether a packet is that.
//!
//! | form | answer |
//! | --- | --- |
//! | `close` | the connection is closed without a packet |
//! | `refused 81` | 5.0: DISCONNECT with the code, then close; before 5.0: bare close |
//! | `disconnect 81` | DISCONNECT with the code, then close |
//! | `connect-refused 81` | 5.0: CONNACK with the code, then close; before 5.0: bare close |
//! | `connack 00 [present] [with ID..] [without ID..]` | CONNACK; a refusing one is followed by the close. `with`: such a property (beginning with these bytes) is in it, `without`: none is |
//! | `packet HEX` | exactly this packet |
//! | `puback 7 [00]`, `pubrec`, `pubrel`, `pubcomp` | an acknowledgement of packet id 7; without codes any that means success |
//! | `suback 7 00 01` / `unsuback 7 00 11` | one code each; before 5.0 errors are 0x80 in SUBACK, and UNSUBACK has none |
//! | `alive` | a PINGREQ is answered, and nothing came before |
//! | `quiet` | nothing comes for a moment, and the connection stays |
//!
//! Codes may be alternatives (`81|82`), whole answers too (`alive | close`),
//! where the standard leaves the choice.
//!
//! Packets are read by hand here: the broker's codec must not judge itself.

use super::bytes::{ANY, Scope, Version, pattern};

/// One acceptable answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    /// Closed without a packet.
    Close,
    /// Nothing comes.
    Quiet,
    /// A PINGREQ is answered.
    Alive,
    /// DISCONNECT with one of the codes, then close.
    Disconnect(Vec<u8>),
    /// CONNACK.
    Connack {
        /// Any of these.
        codes: Vec<u8>,
        /// The Session Present flag.
        present: bool,
        /// Beginnings of properties that are in it.
        with: Vec<Vec<u8>>,
        /// Beginnings of properties that are not.
        without: Vec<Vec<u8>>,
    },
    /// Exactly this, [`ANY`] matching any byte.
    Packet(Vec<u16>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP by its first byte.
    Ack(u8, u16, Vec<u8>),
    /// SUBACK or UNSUBACK by its first byte, alternatives for each code.
    Codes(u8, u16, Vec<Vec<u8>>),
}

impl Answer {
    /// Whether the connection must be closed after it.
    pub(crate) fn ends(&self) -> bool {
        match self {
            Answer::Close | Answer::Disconnect(_) => true,
            Answer::Connack { codes, .. } => codes.iter().all(|&c| c != 0),
            Answer::Quiet
            | Answer::Alive
            | Answer::Packet(_)
            | Answer::Ack(..)
            | Answer::Codes(..) => false,
        }
    }

    /// Whether it says no.
    pub(crate) fn refuses(&self) -> bool {
        match self {
            Answer::Close | Answer::Disconnect(_) => true,
            Answer::Connack { codes, .. } => codes.iter().all(|&c| c != 0),
            Answer::Ack(_, _, codes) => codes.iter().all(|&c| c >= 0x80),
            Answer::Codes(_, _, lists) => lists.iter().any(|l| l.iter().all(|&c| c >= 0x80)),
            Answer::Packet(p) => matches!(**p, [0x20, _, 0, code, ..] if code != 0),
            Answer::Quiet | Answer::Alive => false,
        }
    }

    /// Whether `packet` is it. Closing, silence and pings are the runner's.
    pub(crate) fn is(&self, packet: &[u8], version: Version) -> bool {
        match self {
            Answer::Close | Answer::Quiet | Answer::Alive => false,
            Answer::Disconnect(codes) => disconnect(packet).is_some_and(|c| codes.contains(&c)),
            Answer::Connack { codes, present, with, without } => connack(packet, version)
                .is_some_and(|(flag, code, props)| {
                    let there = |p: &Vec<u8>| props.iter().any(|have| have.starts_with(p));
                    // In 3.1 the byte is reserved: Session Present came with 3.1.1.
                    flag == u8::from(*present && version != Version::V31)
                        && codes.contains(&code)
                        && (code == 0 || flag == 0)
                        && with.iter().all(there)
                        && !without.iter().any(there)
                }),
            Answer::Packet(pattern) => {
                pattern.len() == packet.len()
                    && pattern.iter().zip(packet).all(|(&p, &b)| p == ANY || p == u16::from(b))
            }
            Answer::Ack(first, id, codes) => ack(packet, version).is_some_and(|(f, i, code)| {
                let good = if codes.is_empty() { code < 0x80 } else { codes.contains(&code) };
                f == *first && i == *id && (good || !version.is_v5())
            }),
            Answer::Codes(first, id, lists) => {
                let Some((f, i, codes)) = codes(packet, version) else { return false };
                if f != *first || i != *id {
                    return false;
                }
                if *first == 0xb0 && !version.is_v5() {
                    return codes.is_empty();
                }
                codes.len() == lists.len()
                    && codes.iter().zip(lists).all(|(&got, list)| {
                        list.iter().any(|&want| {
                            got == if want >= 0x80 && !version.is_v5() { 0x80 } else { want }
                        })
                    })
            }
        }
    }
}

/// Reads the alternatives of a `want:`.
pub(crate) fn answers(text: &str, scope: &Scope) -> Result<Vec<Answer>, String> {
    text.split(" | ").map(|one| answer(one.trim(), scope)).collect()
}

fn answer(text: &str, scope: &Scope) -> Result<Answer, String> {
    let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
    let v5 = scope.version.is_v5();
    let words: Vec<&str> = rest.split_whitespace().collect();
    let first = |words: &[&str]| words.first().map_or(Err("which code?".into()), |w| code(w));
    match verb {
        "close" => Ok(Answer::Close),
        "quiet" => Ok(Answer::Quiet),
        "alive" => Ok(Answer::Alive),
        "refused" | "connect-refused" if !v5 => first(&words).map(|_| Answer::Close),
        "disconnect" if !v5 => Err("no server sends DISCONNECT before 5.0".into()),
        "refused" | "disconnect" => Ok(Answer::Disconnect(first(&words)?)),
        "connect-refused" => Ok(Answer::Connack {
            codes: first(&words)?,
            present: false,
            with: Vec::new(),
            without: Vec::new(),
        }),
        "connack" => {
            let (mut present, mut with, mut without) = (false, Vec::new(), Vec::new());
            let mut wanted = None;
            for word in words.iter().skip(1) {
                match (*word, wanted) {
                    ("present", _) => present = true,
                    ("with", _) => wanted = Some(true),
                    ("without", _) => wanted = Some(false),
                    (hex, Some(true)) => with.push(super::bytes::bytes(hex, scope)?),
                    (hex, Some(false)) => without.push(super::bytes::bytes(hex, scope)?),
                    (other, None) => return Err(format!("connack .. {other}?")),
                }
            }
            Ok(Answer::Connack { codes: first(&words)?, present, with, without })
        }
        "packet" => pattern(rest, scope).map(Answer::Packet),
        "puback" | "pubrec" | "pubrel" | "pubcomp" => {
            let byte = match verb {
                "puback" => 0x40,
                "pubrec" => 0x50,
                "pubrel" => 0x62,
                _ => 0x70,
            };
            let codes = words.get(1).map_or(Ok(Vec::new()), |w| code(w))?;
            Ok(Answer::Ack(byte, id(&words)?, codes))
        }
        "suback" | "unsuback" => {
            let byte = if verb == "suback" { 0x90 } else { 0xb0 };
            let lists = words[1..].iter().map(|w| code(w)).collect::<Result<_, _>>()?;
            Ok(Answer::Codes(byte, id(&words)?, lists))
        }
        _ => Err(format!("no such answer: `{text}`")),
    }
}

fn code(word: &str) -> Result<Vec<u8>, String> {
    word.split('|').map(|w| u8::from_str_radix(w, 16).map_err(|e| format!("{w}: {e}"))).collect()
}

fn id(words: &[&str]) -> Result<u16, String> {
    words.first().and_then(|w| w.parse().ok()).ok_or_else(|| "which packet id?".into())
}

/// The code of a 5.0 DISCONNECT from a server, if it is one and is well formed.
fn disconnect(packet: &[u8]) -> Option<u8> {
    match split(packet)? {
        (0xe0, []) => Some(0),
        (0xe0, [code]) => Some(*code),
        (0xe0, [code, rest @ ..]) => {
            // Session Expiry Interval must not come from a server [MQTT-3.14.2-2].
            let (list, []) = properties(rest)? else { return None };
            list.iter().all(|p| [0x1f, 0x26, 0x1c].contains(&p[0])).then_some(*code)
        }
        _ => None,
    }
}

fn connack(packet: &[u8], version: Version) -> Option<(u8, u8, Vec<Vec<u8>>)> {
    match split(packet)? {
        (0x20, [flag, code]) if !version.is_v5() => Some((*flag, *code, Vec::new())),
        (0x20, [flag, code, rest @ ..]) if version.is_v5() => match properties(rest)? {
            (list, []) => Some((*flag, *code, list)),
            _ => None,
        },
        _ => None,
    }
}

fn ack(packet: &[u8], version: Version) -> Option<(u8, u16, u8)> {
    let (first, body) = split(packet)?;
    let [high, low, rest @ ..] = body else { return None };
    let id = u16::from_be_bytes([*high, *low]);
    match rest {
        [] => Some((first, id, 0)),
        _ if !version.is_v5() => None,
        [code] => Some((first, id, *code)),
        [code, rest @ ..] => {
            let (list, []) = properties(rest)? else { return None };
            list.iter().all(|p| [0x1f, 0x26].contains(&p[0])).then_some((first, id, *code))
        }
    }
}

fn codes(packet: &[u8], version: Version) -> Option<(u8, u16, Vec<u8>)> {
    let (first, body) = split(packet)?;
    let [high, low, rest @ ..] = body else { return None };
    let id = u16::from_be_bytes([*high, *low]);
    if !version.is_v5() {
        return Some((first, id, rest.to_vec()));
    }
    let (list, rest) = properties(rest)?;
    list.iter().all(|p| [0x1f, 0x26].contains(&p[0])).then(|| (first, id, rest.to_vec()))
}

/// First byte and body, if the remaining length is what follows.
pub(crate) fn split(packet: &[u8]) -> Option<(u8, &[u8])> {
    let (first, rest) = packet.split_first()?;
    let (length, body) = integer(rest)?;
    (length == body.len()).then_some((*first, body))
}

/// The topic of a PUBLISH.
pub(crate) fn topic(packet: &[u8]) -> Option<&[u8]> {
    match split(packet)? {
        (first, [high, low, rest @ ..]) if first >> 4 == 3 => {
            rest.get(..usize::from(u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}

fn integer(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut n = 0;
    for i in 0..4 {
        let byte = *bytes.get(i)?;
        n |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return (i == 0 || byte != 0).then_some((n, &bytes[i + 1..]));
        }
    }
    None
}

/// Cuts a property list into its properties, identifier first, and what follows it.
/// None if it is malformed or repeats what must not be repeated.
fn properties(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let (length, rest) = integer(bytes)?;
    let (mut list, after) = (rest.get(..length)?, &rest[length..]);
    let mut out: Vec<Vec<u8>> = Vec::new();
    while let Some(&id) = list.first() {
        let counted = |at: usize| {
            let high = *list.get(at)?;
            let low = *list.get(at + 1)?;
            Some(at + 2 + usize::from(u16::from_be_bytes([high, low])))
        };
        let end = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 2,
            0x13 | 0x21 | 0x22 | 0x23 => 3,
            0x02 | 0x11 | 0x18 | 0x27 => 5,
            0x0b => list.len() - integer(&list[1..])?.1.len(),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => counted(1)?,
            0x26 => counted(counted(1)?)?,
            _ => return None,
        };
        if id != 0x26 && out.iter().any(|p| p[0] == id) {
            return None;
        }
        out.push(list.get(..end)?.to_vec());
        list = &list[end..];
    }
    Some((out, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(version: Version) -> Scope {
        Scope { version, tag: "n1n".to_owned(), conn: 'a' }
    }

    fn fits(text: &str, version: Version, packet: &[u8]) -> bool {
        answers(text, &scope(version)).expect("sound").iter().any(|a| a.is(packet, version))
    }

    #[test]
    fn a_disconnect_is_held_to_its_code_and_its_form() {
        assert!(fits("disconnect 81", Version::V5, &[0xe0, 1, 0x81]));
        assert!(fits("disconnect 81", Version::V5, &[0xe0, 2, 0x81, 0]));
        assert!(fits("disconnect 82|81", Version::V5, &[0xe0, 1, 0x81]));
        assert!(!fits("disconnect 82", Version::V5, &[0xe0, 1, 0x81]), "another code");
        assert!(!fits("disconnect 81", Version::V5, &[0xe1, 1, 0x81]), "flags");
        assert!(!fits("disconnect 81", Version::V5, &[0xe0, 3, 0x81, 0, 0]), "trailing bytes");
        assert!(!fits("disconnect 81", Version::V5, &[0xe0, 4, 0x81, 2, 0x24, 1]), "property");
        assert!(!fits("refused 81", Version::V311, &[0xe0, 1, 0x81]), "3.1.1 has none");
    }

    #[test]
    fn acknowledgements_are_held_to_id_code_and_version() {
        assert!(fits("puback 1", Version::V5, &[0x40, 2, 0, 1]));
        assert!(fits("puback 1", Version::V5, &[0x40, 3, 0, 1, 0x10]));
        assert!(fits("pubcomp 1 92", Version::V5, &[0x70, 3, 0, 1, 0x92]));
        assert!(!fits("puback 1", Version::V5, &[0x40, 3, 0, 1, 0x87]), "an error");
        assert!(!fits("puback 1", Version::V5, &[0x40, 2, 0, 2]), "another id");
        assert!(!fits("puback 1", Version::V311, &[0x40, 3, 0, 1, 0]), "a code before 5.0");
        assert!(fits("suback 1 00 87", Version::V311, &[0x90, 4, 0, 1, 0, 0x80]));
        assert!(!fits("suback 1 00 87", Version::V311, &[0x90, 4, 0, 1, 0, 0x87]), "3.1.1 has 80");
        assert!(!fits("suback 1 00", Version::V5, &[0x90, 5, 0, 1, 0, 0, 0]), "one code too many");
        assert!(fits("unsuback 1 11", Version::V311, &[0xb0, 2, 0, 1]));
        assert!(!fits("unsuback 1 11", Version::V311, &[0xb0, 3, 0, 1, 0x11]), "no payload there");
    }

    #[test]
    fn a_connack_is_held_to_flag_code_and_properties() {
        let aliases = [0x20, 6, 0, 0, 3, 0x22, 0, 32];
        assert!(fits("connack 00", Version::V5, &aliases));
        assert!(fits("connack 00 with 220020 without 24", Version::V5, &aliases));
        assert!(!fits("connack 00 without 22", Version::V5, &aliases));
        assert!(!fits("connack 00 present", Version::V5, &aliases));
        assert!(!fits("connack 87", Version::V5, &[0x20, 3, 1, 0x87, 0]), "present in a refusal");
        let twice = [0x20, 9, 0, 0, 6, 0x22, 0, 1, 0x22, 0, 1];
        assert!(!fits("connack 00", Version::V5, &twice), "a property twice");
    }
}
