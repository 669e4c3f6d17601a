//! One key of the config: what it takes, and how its text becomes a value.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use toml::Value;

use super::problem::Problem;

/// The definition of a key; the reference is generated from it.
#[derive(Debug)]
pub struct Key {
    /// Its name within its table.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What it takes.
    pub shape: Shape,
    /// The least and the greatest value of a number.
    pub range: Option<(u64, u64)>,
    /// The unit of a number that is not a plain count.
    pub unit: Option<&'static str>,
    /// The default as TOML, or what happens when the key is not set.
    pub default: fn() -> Fallback,
    /// Whether a reload takes it over; else it needs a restart.
    pub live: bool,
}

/// What holds when a key is not set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fallback {
    /// This value, as TOML.
    Value(String),
    /// What this says.
    Text(&'static str),
}

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// A whole number within the key's range.
    Number,
    /// `true` or `false`.
    Switch,
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An address and port.
    Address,
    /// A path.
    Path,
    /// A list of networks, in brackets or separated by commas.
    Networks,
    /// Where peers are found.
    Discovery,
    /// A list of numbers within the key's range, in brackets or separated by commas.
    Weights,
}

impl Key {
    /// What would do, as the end of 'use …'.
    pub fn wanted(&self) -> String {
        match self.shape {
            Shape::Number => {
                let (min, max) = self.range.unwrap_or((0, u64::MAX));
                format!("a whole number from {min} to {max}")
            }
            Shape::Switch => "true or false".into(),
            Shape::Text => "text in quotes".into(),
            Shape::Choice(words) => {
                let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
                quoted.join(" or ")
            }
            Shape::Address => "an address and port such as \"127.0.0.1:1883\"".into(),
            Shape::Path => "a path in quotes".into(),
            Shape::Weights => {
                let (min, max) = self.range.unwrap_or((0, u64::MAX));
                format!("a list of whole numbers from {min} to {max} such as [{max}, {min}]")
            }
            Shape::Discovery => {
                "\"dns:NAME:PORT\", \"file:PATH\" or a list such as [\"10.0.0.1:7883\"]".into()
            }
            Shape::Networks => "a list of addresses or networks such as [\"10.0.0.0/8\"]".into(),
        }
    }

    /// Reads the value of this key, which stands at `path`.
    pub fn read<T: Setting>(&self, path: &str, value: &Value) -> Result<T, Problem> {
        T::read(self, path, value)
    }

    pub(crate) fn mistyped(&self, path: &str, value: &Value) -> Problem {
        let found = match value {
            Value::String(_) => "text",
            Value::Integer(_) => "a number",
            Value::Float(_) => "a fraction",
            Value::Boolean(_) => "a switch",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        };
        let value = shown(value);
        Problem::Mistyped { key: path.into(), value, found, wanted: self.wanted() }
    }
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// What is typed for it.
    const SHAPE: Shape;
    /// From TOML, checked against the key's range.
    fn read(key: &Key, path: &str, value: &Value) -> Result<Self, Problem>;
    /// As TOML.
    fn show(&self) -> String;
}

macro_rules! number {
    ($($ty:ty),+) => {$(
        impl Setting for $ty {
            const SHAPE: Shape = Shape::Number;
            fn read(key: &Key, path: &str, value: &Value) -> Result<$ty, Problem> {
                let &Value::Integer(value) = value else { return Err(key.mistyped(path, value)) };
                let (min, max) = key.range.unwrap_or((0, <$ty>::MAX as u64));
                if u64::try_from(value).map_or(true, |value| value < min) {
                    return Err(Problem::TooSmall { key: path.into(), value, min, max });
                }
                match <$ty>::try_from(value) {
                    Ok(number) if value as u64 <= max => Ok(number),
                    Ok(_) | Err(_) => Err(Problem::TooLarge { key: path.into(), value, min, max }),
                }
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}
number!(u8, u16, u32, u64);

impl Setting for bool {
    const SHAPE: Shape = Shape::Switch;
    fn read(key: &Key, path: &str, value: &Value) -> Result<bool, Problem> {
        value.as_bool().ok_or_else(|| key.mistyped(path, value))
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    const SHAPE: Shape = Shape::Text;
    fn read(key: &Key, path: &str, value: &Value) -> Result<String, Problem> {
        value.as_str().map(str::to_owned).ok_or_else(|| key.mistyped(path, value))
    }
    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for PathBuf {
    const SHAPE: Shape = Shape::Path;
    fn read(key: &Key, path: &str, value: &Value) -> Result<PathBuf, Problem> {
        let text = value.as_str().ok_or_else(|| key.mistyped(path, value))?;
        if text.is_empty() {
            return Err(Problem::EmptyPath { key: path.into() });
        }
        Ok(PathBuf::from(text))
    }
    fn show(&self) -> String {
        quoted(&self.display().to_string())
    }
}

impl Setting for SocketAddr {
    const SHAPE: Shape = Shape::Address;
    fn read(key: &Key, path: &str, value: &Value) -> Result<SocketAddr, Problem> {
        let text = value.as_str().ok_or_else(|| key.mistyped(path, value))?;
        text.parse().map_err(|_| Problem::NotAnAddress {
            key: path.into(),
            value: text.into(),
            example: "127.0.0.1:1883 or [::1]:1883",
        })
    }
    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}

/// Networks, such as the load balancers that may speak for others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Networks(pub Vec<IpNet>);

/// Networks that one list takes.
const NETWORKS_MAX: usize = 256;

impl Setting for Networks {
    const SHAPE: Shape = Shape::Networks;
    fn read(key: &Key, path: &str, value: &Value) -> Result<Networks, Problem> {
        let texts: Vec<&str> = match value {
            // As the environment has it.
            Value::String(text) => text.split(',').map(str::trim).collect(),
            Value::Array(list) => list
                .iter()
                .map(|item| item.as_str().ok_or_else(|| key.mistyped(path, item)))
                .collect::<Result<_, _>>()?,
            _ => return Err(key.mistyped(path, value)),
        };
        if texts.len() > NETWORKS_MAX {
            let (count, max) = (texts.len(), NETWORKS_MAX);
            return Err(Problem::ListTooLong { key: path.into(), count, max });
        }
        let texts = texts.into_iter().filter(|text| !text.is_empty());
        texts.map(|text| network(path, text)).collect::<Result<_, _>>().map(Networks)
    }
    fn show(&self) -> String {
        let quoted: Vec<_> = self.0.iter().map(|network| format!("\"{network}\"")).collect();
        format!("[{}]", quoted.join(", "))
    }
}

fn network(path: &str, text: &str) -> Result<IpNet, Problem> {
    let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    parsed.map_err(|_| Problem::NotANetwork { key: path.into(), value: text.into() })
}

/// A value in a message.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(switch) => switch.to_string(),
        Value::Datetime(date) => date.to_string(),
        Value::Array(_) => "[…]".into(),
        Value::Table(_) => "{…}".into(),
    }
}

/// Text as a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Makes an enum without fields a setting: each variant and its word.
macro_rules! choice {
    ($ty:ty { $($variant:path => $word:literal),+ $(,)? }) => {
        impl $crate::config::key::Setting for $ty {
            const SHAPE: $crate::config::key::Shape =
                $crate::config::key::Shape::Choice(&[$($word),+]);
            fn read(
                key: &$crate::config::key::Key,
                path: &str,
                value: &toml::Value,
            ) -> Result<$ty, $crate::config::Problem> {
                match value.as_str() {
                    $(Some($word) => Ok($variant),)+
                    Some(_) | None => Err($crate::config::Problem::NotAChoice {
                        key: path.into(),
                        value: $crate::config::key::shown(value),
                        wanted: key.wanted(),
                    }),
                }
            }
            fn show(&self) -> String {
                match self { $($variant => format!("{:?}", $word)),+ }
            }
        }
    };
}
pub(crate) use choice;

choice!(tidegate_core::limits::QueuePolicy {
    tidegate_core::limits::QueuePolicy::DropOldest => "drop_oldest",
    tidegate_core::limits::QueuePolicy::DropNew => "drop_new",
    tidegate_core::limits::QueuePolicy::Refuse => "refuse",
});
