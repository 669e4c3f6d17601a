//! The small language in which the tables write bytes.
//!
//! Hex pairs stand for themselves, `"text"` for its UTF-8, and a few functions
//! put lengths in front of things, so that a table shows what is wrong with a
//! packet and not how long the rest of it happens to be. The language knows
//! nothing of the broker's codec, and it can write any wrong bytes.
//!
//! | form | bytes |
//! | --- | --- |
//! | `10 0a ff` | themselves |
//! | `"text"` | UTF-8; `\u{feff}`, `\"` and `\\` as in Rust |
//! | `str(..)` | a two-byte length, then what is inside |
//! | `len(..)` | a variable byte integer with the length, then what is inside |
//! | `props(..)` | 5.0: as `len(..)`; before 5.0 nothing, and it must be empty |
//! | `rep(.., n)` | what is inside, n times |
//! | `cut(n, ..)` `chop(n, ..)` `skip(n, ..)` | the first n bytes; all but the last n; all but the first n |
//! | `u16(n)` `u32(n)` `vbi(n)` | a number |
//! | `proto` | protocol name and level of the version at hand |
//! | `cid` | a client identifier of this case and connection, as `str` |
//! | `v5(..)` `v3(..)` | what is inside, in 5.0 only / before 5.0 only |
//! | `??` | any one byte (in expectations) |

/// A protocol version of the standard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    /// MQTT 3.1, `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1, level 4.
    V311,
    /// MQTT 5.0.
    V5,
}

impl Version {
    /// As the tables write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Version::V31 => "3.1",
            Version::V311 => "3.1.1",
            Version::V5 => "5.0",
        }
    }

    /// Whether it is 5.0.
    pub(crate) fn is_v5(self) -> bool {
        self == Version::V5
    }

    fn protocol(self) -> &'static [u8] {
        match self {
            Version::V31 => b"\0\x06MQIsdp\x03",
            Version::V311 => b"\0\x04MQTT\x04",
            Version::V5 => b"\0\x04MQTT\x05",
        }
    }
}

/// What an expression may refer to.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// The version under test.
    pub(crate) version: Version,
    /// Unique to the run of a case; `{n}` in the tables.
    pub(crate) tag: String,
    /// The connection of the step, `a` unless it says otherwise.
    pub(crate) conn: char,
}

/// Stands for any byte in an expectation.
pub(crate) const ANY: u16 = 256;

/// Evaluates to bytes to send.
pub(crate) fn bytes(text: &str, scope: &Scope) -> Result<Vec<u8>, String> {
    let pattern = pattern(text, scope)?;
    pattern
        .into_iter()
        .map(|b| u8::try_from(b).map_err(|_| format!("`??` cannot be sent: {text}")))
        .collect()
}

/// Evaluates to a pattern, where [`ANY`] stands for any byte.
pub(crate) fn pattern(text: &str, scope: &Scope) -> Result<Vec<u16>, String> {
    let text = text.replace("{n}", &scope.tag);
    let mut parser = Parser { text: &text, at: 0, scope, version: scope.version };
    let out = parser.items()?;
    if parser.at < text.len() {
        return Err(parser.complain("unexpected"));
    }
    Ok(out)
}

/// A variable byte integer, minimal.
pub(crate) fn variable(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = u8::try_from(n % 128).expect("below 128");
        n /= 128;
        if n == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    scope: &'a Scope,
    version: Version,
}

impl Parser<'_> {
    fn items(&mut self) -> Result<Vec<u16>, String> {
        let mut out = Vec::new();
        loop {
            self.space();
            match self.peek() {
                None | Some(')') | Some(',') => return Ok(out),
                Some('"') => out.extend(self.quoted()?.bytes().map(u16::from)),
                Some('?') if self.text[self.at..].starts_with("??") => {
                    self.at += 2;
                    out.push(ANY);
                }
                Some(_) => self.word_item(&mut out)?,
            }
        }
    }

    fn word_item(&mut self, out: &mut Vec<u16>) -> Result<(), String> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric()) {
            self.at += 1;
        }
        let word = &self.text[start..self.at];
        if word.is_empty() {
            return Err(self.complain("unexpected"));
        }
        if self.peek() == Some('(') {
            self.at += 1;
            let word = word.to_owned();
            let mut inner = self.call(&word)?;
            out.append(&mut inner);
            if self.peek() != Some(')') {
                return Err(self.complain("expected `)` before"));
            }
            self.at += 1;
            return Ok(());
        }
        match word {
            "proto" => out.extend(self.version.protocol().iter().map(|&b| u16::from(b))),
            "cid" => {
                let id = format!("wire-{}-{}", self.scope.tag, self.scope.conn);
                out.extend(counted(id.bytes().map(u16::from).collect())?);
            }
            _ => {
                if !word.len().is_multiple_of(2) {
                    return Err(format!("not hex pairs: `{word}`"));
                }
                for i in (0..word.len()).step_by(2) {
                    let byte = u8::from_str_radix(&word[i..i + 2], 16)
                        .map_err(|_| format!("neither hex nor a known word: `{word}`"))?;
                    out.push(u16::from(byte));
                }
            }
        }
        Ok(())
    }

    fn call(&mut self, name: &str) -> Result<Vec<u16>, String> {
        let v5 = self.version.is_v5();
        match name {
            "str" => counted(self.items()?),
            "len" => Ok(measured(self.items()?)),
            "props" => {
                let inner = self.items()?;
                match (v5, inner.is_empty()) {
                    (true, _) => Ok(measured(inner)),
                    (false, true) => Ok(inner),
                    (false, false) => Err("properties in a case for a version before 5.0".into()),
                }
            }
            "v5" | "v3" => {
                let outside = self.version;
                let here = v5 == (name == "v5");
                if !here {
                    // Read as in a version that has it, then forgotten.
                    self.version = if v5 { Version::V311 } else { Version::V5 };
                }
                let inner = self.items();
                self.version = outside;
                inner.map(|i| if here { i } else { Vec::new() })
            }
            "rep" => {
                let inner = self.items()?;
                self.comma()?;
                Ok(inner.repeat(self.number()?))
            }
            "cut" | "chop" | "skip" => {
                let n = self.number()?;
                self.comma()?;
                let inner = self.items()?;
                if n > inner.len() {
                    return Err(format!("{name}({n}) of only {} bytes", inner.len()));
                }
                Ok(match name {
                    "cut" => &inner[..n],
                    "chop" => &inner[..inner.len() - n],
                    _ => &inner[n..],
                }
                .to_vec())
            }
            "u16" => {
                let n = u16::try_from(self.number()?).map_err(|e| e.to_string())?;
                Ok(n.to_be_bytes().map(u16::from).to_vec())
            }
            "u32" => {
                let n = u32::try_from(self.number()?).map_err(|e| e.to_string())?;
                Ok(n.to_be_bytes().map(u16::from).to_vec())
            }
            "vbi" => Ok(variable(self.number()?).into_iter().map(u16::from).collect()),
            _ => Err(format!("no such function: `{name}`")),
        }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        self.at += 1;
        loop {
            let Some(c) = self.take() else { return Err(self.complain("unended text at")) };
            match c {
                '"' => return Ok(out),
                '\\' => match self.take() {
                    Some(c @ ('"' | '\\')) => out.push(c),
                    Some('u') => {
                        let rest = &self.text[self.at..];
                        let (code, _) = rest
                            .strip_prefix('{')
                            .and_then(|r| r.split_once('}'))
                            .ok_or_else(|| self.complain("expected `{hex}` at"))?;
                        let c = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
                        out.push(c.ok_or_else(|| self.complain("no such character:"))?);
                        self.at += code.len() + 2;
                    }
                    _ => return Err(self.complain("unknown escape before")),
                },
                c => out.push(c),
            }
        }
    }

    fn number(&mut self) -> Result<usize, String> {
        self.space();
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let n = self.text[start..self.at].parse();
        self.space();
        n.map_err(|_| self.complain("expected a number before"))
    }

    fn comma(&mut self) -> Result<(), String> {
        self.space();
        if self.take() == Some(',') { Ok(()) } else { Err(self.complain("expected `,` before")) }
    }

    fn space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn complain(&self, what: &str) -> String {
        format!("{what} `{}` in `{}`", &self.text[self.at..], self.text)
    }
}

fn counted(inner: Vec<u16>) -> Result<Vec<u16>, String> {
    let n = u16::try_from(inner.len()).map_err(|_| "str(..) over 65,535 bytes".to_owned())?;
    Ok(n.to_be_bytes().into_iter().map(u16::from).chain(inner).collect())
}

fn measured(inner: Vec<u16>) -> Vec<u16> {
    variable(inner.len()).into_iter().map(u16::from).chain(inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, version: Version) -> Vec<u8> {
        bytes(text, &Scope { version, tag: "n1n".to_owned(), conn: 'b' }).expect(text)
    }

    #[test]
    fn the_language_writes_what_it_says() {
        let v5 = |text| written(text, Version::V5);
        assert_eq!(v5("10 0aFF"), [0x10, 0x0a, 0xff]);
        assert_eq!(v5(r#""a\u{e9}\"" str("{n}")"#), b"a\xc3\xa9\"\0\x03n1n");
        assert_eq!(v5("len(rep(61, 130))")[..3], [0x82, 0x01, 0x61]);
        assert_eq!(v5("cut(1, 0102) chop(1, 0304) skip(1, 0506)"), [1, 3, 6]);
        assert_eq!(v5("u16(258) u32(1) vbi(128)"), [1, 2, 0, 0, 0, 1, 0x80, 1]);
        assert_eq!(v5("props(01 01)"), [2, 1, 1]);
        assert_eq!(v5("v5(props()) v3(ff)"), [0]);
        assert_eq!(v5("cid"), b"\0\x0awire-n1n-b");
        assert_eq!(written("v5(props(01 01)) props() v3(ff)", Version::V311), [0xff]);
        assert_eq!(written("proto", Version::V31), b"\0\x06MQIsdp\x03");
    }

    #[test]
    fn nonsense_is_not_sent() {
        let scope = Scope { version: Version::V311, tag: String::new(), conn: 'a' };
        for text in ["1", "zz", "len(", "len)", "rep(61)", "cut(2, 61)", "props(01)", "??", "\"a"] {
            assert!(bytes(text, &scope).is_err(), "{text}");
        }
    }
}
