//! Classes of devices: what `mixed` reads from a file.
//!
//! Every mistake is told with the file, the key, the value and what would do;
//! a key that nobody knows is a mistake.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_codec::{Filter, topic_name};
use tidegate_loadtest::identity::IDENTITY_BYTES;
use toml::{Table, Value};

use crate::engine::Transport;
use crate::scenario::plan::Protocol;

const CLASSES_MAX: usize = 1_000;
const CLIENTS_MAX: u32 = 100_000_000;
const PAYLOAD_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Devices that do the same.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Class {
    /// In topics and reports.
    pub(crate) name: String,
    /// The number of its first device among all.
    pub(crate) first: u32,
    /// Devices.
    pub(crate) count: u32,
    /// Their broker, if not one of the command line's.
    pub(crate) target: Option<SocketAddr>,
    /// What carries MQTT.
    pub(crate) transport: Transport,
    /// Its version.
    pub(crate) protocol: Protocol,
    /// Seconds.
    pub(crate) keep_alive_s: u16,
    /// Seconds that a session outlives its connection; none starts clean each time.
    pub(crate) session_s: Option<u32>,
    /// What each publishes.
    pub(crate) publish: Option<Publish>,
    /// What each subscribes to.
    pub(crate) subscribe: Option<Subscribe>,
    /// How they come and go.
    pub(crate) churn: Option<Churn>,
}

/// What each device of a class publishes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Publish {
    /// With `{client}` and `{class}`.
    pub(crate) topic: String,
    /// Messages of a device a second.
    pub(crate) rate: f64,
    /// Bytes of a payload.
    pub(crate) payload_bytes: u32,
    /// 0 to 2.
    pub(crate) qos: u8,
}

/// What each device of a class subscribes to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Subscribe {
    /// With `{client}` and `{class}`.
    pub(crate) filter: String,
    /// 0 to 2.
    pub(crate) qos: u8,
}

/// How devices of a class come and go.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Churn {
    /// How often a device goes, a minute.
    pub(crate) per_minute: f64,
    /// How many of ten go without a DISCONNECT, as a share.
    pub(crate) abrupt: f64,
    /// How long it stays away.
    pub(crate) away_ms: u64,
}

impl Class {
    /// A template's text for a device, by the device's number among all.
    pub(crate) fn expand(&self, template: &str, device: u32) -> String {
        let own = device.saturating_sub(self.first).to_string();
        template.replace("{client}", &own).replace("{class}", &self.name)
    }
}

/// What is wrong with a file.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) struct FileError {
    /// Its path.
    file: String,
    /// The key, from the top; empty for the whole file.
    key: String,
    /// What stands there; none if nothing does.
    value: Option<String>,
    /// What would do.
    fix: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value}: ")?;
        }
        f.write_str(&self.fix)
    }
}

/// Reads a file of classes.
pub(crate) fn read(path: &Path) -> Result<Vec<Class>, FileError> {
    let file = path.display().to_string();
    let whole =
        |fix: String| FileError { file: file.clone(), key: String::new(), value: None, fix };
    let text = std::fs::read_to_string(path).map_err(|error| whole(format!("{error}")))?;
    parse(&file, &text)
}

/// Parses the text of such a file.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Class>, FileError> {
    let whole =
        |fix: String| FileError { file: file.to_owned(), key: String::new(), value: None, fix };
    let table: Table =
        text.parse().map_err(|error| whole(format!("not TOML: {error}").trim().to_owned()))?;
    let mut top = Keys { file, path: String::new(), table };
    let named = top.table("class")?.unwrap_or_default();
    top.end(&["class"])?;
    if named.is_empty() || named.len() > CLASSES_MAX {
        return Err(whole(format!(
            "has {} tables [class.NAME], 1 to {CLASSES_MAX} do",
            named.len()
        )));
    }
    let mut classes = Vec::new();
    let mut first = 0_u32;
    for (name, value) in named {
        let path = format!("class.{name}");
        let sound = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        if name.is_empty() || !name.chars().all(sound) {
            let fix = "a name has letters, digits, - and _".to_owned();
            return Err(FileError { file: file.to_owned(), key: path, value: None, fix });
        }
        let Value::Table(table) = value else {
            let (value, fix) = (Some(text_of(&value)), format!("a table: [{path}]"));
            return Err(FileError { file: file.to_owned(), key: path, value, fix });
        };
        let class = class(Keys { file, path, table }, &name, first)?;
        first += class.count;
        if first > CLIENTS_MAX {
            return Err(whole(format!("has {first} devices, at most {CLIENTS_MAX} do")));
        }
        classes.push(class);
    }
    Ok(classes)
}

fn class(mut keys: Keys<'_>, name: &str, first: u32) -> Result<Class, FileError> {
    let count = keys.need("count", "devices, from 1", |value| whole_of(value, 1, CLIENTS_MAX))?;
    let keep_alive = keys.take("keep_alive_s", "seconds, 0 to 65535; 0 is none", |value| {
        whole_of(value, 0, u32::from(u16::MAX))
    })?;
    let session_s = keys.take("session_expiry_s", "seconds, 1 to 4294967295", |value| {
        whole_of(value, 1, u32::MAX)
    })?;
    let protocol =
        keys.take("protocol", "\"3.1.1\" or \"5.0\"", |value| match value.as_str()? {
            "3.1.1" => Some(Protocol::V311),
            "5.0" => Some(Protocol::V5),
            _ => None,
        })?;
    let ways = "\"tcp\", \"tls\", \"ws\" or \"wss\"";
    let transport = keys.take("transport", ways, |value| {
        let given = value.as_str()?;
        Transport::ALL.into_iter().find(|transport| transport.to_string() == given)
    })?;
    let target = keys.take("target", "HOST:PORT of a broker that can be resolved", |value| {
        value.as_str()?.to_socket_addrs().ok()?.next()
    })?;
    let publish = keys.keys("publish")?.map(|keys| publish(keys, name)).transpose()?;
    let session = session_s.is_some();
    let churn = keys.keys("churn")?.map(churn).transpose()?;
    let leaves = churn.is_some() && !session;
    let subscribe =
        keys.keys("subscribe")?.map(|keys| subscribe(keys, name, leaves)).transpose()?;
    keys.end(&[
        "count",
        "keep_alive_s",
        "session_expiry_s",
        "protocol",
        "transport",
        "target",
        "publish",
        "subscribe",
        "churn",
    ])?;
    Ok(Class {
        name: name.to_owned(),
        first,
        count,
        target,
        transport: transport.unwrap_or_default(),
        protocol: protocol.unwrap_or_default(),
        keep_alive_s: keep_alive.unwrap_or(60) as u16,
        session_s,
        publish,
        subscribe,
        churn,
    })
}

fn publish(mut keys: Keys<'_>, class: &str) -> Result<Publish, FileError> {
    let what = "a topic without wildcards and $, with {client} and {class} alone in braces";
    let topic = keys.need("topic", what, |value| {
        let text = template(value, class)?;
        let sound = topic_name(text.as_bytes()).is_ok() && !text.starts_with('$');
        sound.then(|| value.as_str().map(str::to_owned))?
    })?;
    let rate =
        keys.need("rate", "messages of a device a second, above 0, at most 100000", |value| {
            number_of(value).filter(|rate| *rate > 0.0 && *rate <= 1e5)
        })?;
    let least = IDENTITY_BYTES as u32;
    let bytes = format!("bytes, {least} to {PAYLOAD_BYTES_MAX}: a message carries its identity");
    let payload_bytes =
        keys.take("payload_bytes", &bytes, |value| whole_of(value, least, PAYLOAD_BYTES_MAX))?;
    let qos = keys.take("qos", "0, 1 or 2", |value| whole_of(value, 0, 2))?;
    keys.end(&["topic", "rate", "payload_bytes", "qos"])?;
    let (payload_bytes, qos) = (payload_bytes.unwrap_or(64), qos.unwrap_or(0) as u8);
    Ok(Publish { topic, rate, payload_bytes, qos })
}

fn subscribe(mut keys: Keys<'_>, class: &str, leaves: bool) -> Result<Subscribe, FileError> {
    let what = "a filter, with {client} and {class} alone in braces; $share/GROUP/ may come first, \
                for devices that do not churn or that have a session_expiry_s";
    let filter = keys.need("filter", what, |value| {
        let text = template(value, class)?;
        let filter = Filter::parse(&text).ok()?;
        let lossy = filter.share().is_some() && leaves;
        let sound = !lossy && !filter.filter().starts_with('$');
        sound.then(|| value.as_str().map(str::to_owned))?
    })?;
    let qos = keys.take("qos", "0, 1 or 2", |value| whole_of(value, 0, 2))?;
    keys.end(&["filter", "qos"])?;
    Ok(Subscribe { filter, qos: qos.unwrap_or(0) as u8 })
}

fn churn(mut keys: Keys<'_>) -> Result<Churn, FileError> {
    let often = "how often a device goes in a minute, above 0, at most 6000";
    let per_minute = keys.need("per_minute", often, |value| {
        number_of(value).filter(|rate| *rate > 0.0 && *rate <= 6_000.0)
    })?;
    let share = "the share that goes without a DISCONNECT, 0 to 1";
    let abrupt = keys.take("abrupt", share, |value| {
        number_of(value).filter(|share| (0.0..=1.0).contains(share))
    })?;
    let away =
        keys.take("away_ms", "milliseconds, 0 to 3600000", |value| whole_of(value, 0, 3_600_000))?;
    keys.end(&["per_minute", "abrupt", "away_ms"])?;
    Ok(Churn {
        per_minute,
        abrupt: abrupt.unwrap_or(0.5),
        away_ms: u64::from(away.unwrap_or(1_000)),
    })
}

/// A template as the first device has it; none if it has other braces.
fn template(value: &Value, class: &str) -> Option<String> {
    let text = value.as_str()?.replace("{client}", "0").replace("{class}", class);
    (!text.contains(['{', '}'])).then_some(text)
}

/// A value as it may have been written.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(time) => time.to_string(),
        Value::Array(_) => "an array".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

fn whole_of(value: &Value, least: u32, most: u32) -> Option<u32> {
    let number = u32::try_from(value.as_integer()?).ok()?;
    (least..=most).contains(&number).then_some(number)
}

fn number_of(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
}

/// The keys of a table that were not looked at yet.
struct Keys<'a> {
    file: &'a str,
    path: String,
    table: Table,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn wrong(&self, name: &str, value: Option<&Value>, fix: &str) -> FileError {
        FileError {
            file: self.file.to_owned(),
            key: self.key(name),
            value: value.map(text_of),
            fix: fix.to_owned(),
        }
    }

    /// A key's value, if there is one.
    fn take<T>(
        &mut self,
        name: &str,
        fix: &str,
        of: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, FileError> {
        let Some(value) = self.table.remove(name) else { return Ok(None) };
        match of(&value) {
            Some(found) => Ok(Some(found)),
            None => Err(self.wrong(name, Some(&value), &format!("not good; what does: {fix}"))),
        }
    }

    /// The value of a key that must be there.
    fn need<T>(
        &mut self,
        name: &str,
        fix: &str,
        of: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T, FileError> {
        let found = self.take(name, fix, of)?;
        found.ok_or_else(|| self.wrong(name, None, &format!("missing; what does: {fix}")))
    }

    fn table(&mut self, name: &str) -> Result<Option<Table>, FileError> {
        let key = self.key(name);
        self.take(name, &format!("a table: [{key}]"), |value| value.as_table().cloned())
    }

    fn keys(&mut self, name: &str) -> Result<Option<Keys<'a>>, FileError> {
        let path = self.key(name);
        let file = self.file;
        Ok(self.table(name)?.map(|table| Keys { file, path, table }))
    }

    /// Nothing may be left.
    fn end(&self, known: &[&str]) -> Result<(), FileError> {
        match self.table.iter().next() {
            None => Ok(()),
            Some((name, value)) => {
                let fix = format!("unknown key; there are: {}", known.join(", "));
                Err(self.wrong(name, Some(value), &fix))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENSOR: &str = "[class.sensor]\ncount = 5\n";

    fn error(text: &str) -> String {
        parse("fleet.toml", text).expect_err(text).to_string()
    }

    #[test]
    fn the_example_is_good_and_uses_every_key() {
        let text = include_str!("../../examples/mixed.toml");
        let classes = parse("mixed.toml", text).expect("the example");
        assert!(classes.len() >= 4, "{classes:?}");
        let any = |has: fn(&Class) -> bool| classes.iter().any(has);
        for key in ["# target", "# transport", "keep_alive_s", "payload_bytes", "away_ms"] {
            assert!(text.contains(key), "{key}");
        }
        assert!(any(|class| class.session_s.is_some()) && any(|class| class.session_s.is_none()));
        assert!(any(|class| class.protocol == Protocol::V5) && any(|class| class.churn.is_some()));
        for qos in 0..3 {
            let with = |class: &Class| class.publish.as_ref().is_some_and(|one| one.qos == qos);
            assert!(classes.iter().any(with), "QoS {qos}");
        }
        let shares = |class: &Class| {
            let subscribe = class.subscribe.as_ref();
            subscribe.is_some_and(|subscribe| subscribe.filter.starts_with("$share/"))
        };
        assert!(classes.iter().any(shares));
        // The devices of the classes follow each other.
        for pair in classes.windows(2) {
            assert_eq!(pair[1].first, pair[0].first + pair[0].count);
        }
    }

    #[test]
    fn templates_know_the_device_and_its_class() {
        let text = "[class.a]\ncount = 3\n[class.pump]\ncount = 2\n[class.pump.publish]\n\
                    topic = \"{class}/{client}/up\"\nrate = 0.5";
        let classes = parse("fleet.toml", text).expect("sound");
        let [_, pump] = &classes[..] else { panic!("{classes:?}") };
        let publish = pump.publish.as_ref().expect("it publishes");
        assert_eq!(pump.expand(&publish.topic, 4), "pump/1/up");
        assert_eq!((publish.qos, publish.payload_bytes, pump.keep_alive_s), (0, 64, 60));
    }

    #[test]
    fn a_mistake_is_told_with_file_key_value_and_what_would_do() {
        assert_eq!(
            error("[class.sensor]\ncount = 0"),
            "fleet.toml: class.sensor.count: 0: not good; what does: devices, from 1"
        );
        assert_eq!(
            error("[class.sensor]\nkeep_alive_s = 3"),
            "fleet.toml: class.sensor.count: missing; what does: devices, from 1"
        );
        let unknown = error(&format!("{SENSOR}keepalive = 3"));
        assert!(unknown.starts_with("fleet.toml: class.sensor.keepalive: 3: unknown key; there"));
        assert!(unknown.contains("keep_alive_s"), "{unknown}");
        assert!(error("[klass.sensor]").contains("klass"));
        assert!(error("").contains("1 to 1000 do"));
        assert!(error("count = ").contains("not TOML"));
        assert!(error("[class.\"a b\"]\ncount = 1").contains("letters, digits"));
    }

    #[test]
    fn bad_values_are_refused_one_by_one() {
        let publish = "[class.sensor.publish]\nrate = 1\ntopic = \"t\"\n";
        let topic =
            |topic: &str| format!("{SENSOR}[class.sensor.publish]\nrate = 1\ntopic = \"{topic}\"");
        let filter =
            |filter: &str| format!("{SENSOR}[class.sensor.subscribe]\nfilter = \"{filter}\"");
        let churn = "[class.sensor.churn]\nper_minute = 1\n";
        let wrong = [
            (format!("{SENSOR}protocol = \"5\""), "class.sensor.protocol"),
            (format!("{SENSOR}transport = \"quic\""), "class.sensor.transport"),
            (format!("{SENSOR}target = \"nowhere\""), "class.sensor.target"),
            (format!("{SENSOR}keep_alive_s = 65536"), "class.sensor.keep_alive_s"),
            (format!("{SENSOR}session_expiry_s = 0"), "class.sensor.session_expiry_s"),
            (format!("{SENSOR}publish = 3"), "class.sensor.publish"),
            (format!("{SENSOR}{publish}qos = 3"), "class.sensor.publish.qos"),
            (format!("{SENSOR}{publish}payload_bytes = 8"), "class.sensor.publish.payload_bytes"),
            (format!("{SENSOR}{publish}rates = 3"), "class.sensor.publish.rates"),
            (topic("a/+"), "class.sensor.publish.topic"),
            (topic("$SYS/a"), "class.sensor.publish.topic"),
            (topic("a/{id}"), "class.sensor.publish.topic"),
            (filter("a/#/b"), "class.sensor.subscribe.filter"),
            (filter("$share/g"), "class.sensor.subscribe.filter"),
            (filter("$SYS/#"), "class.sensor.subscribe.filter"),
            (format!("{}\n{churn}", filter("$share/g/a")), "class.sensor.subscribe.filter"),
            (format!("{SENSOR}{churn}abrupt = 2"), "class.sensor.churn.abrupt"),
            (format!("{SENSOR}[class.sensor.churn]\nper_minute = 0"), "churn.per_minute"),
        ];
        for (text, key) in wrong {
            let error = error(&text);
            assert!(error.contains(&format!("{key}: ")), "{key}: {error}");
        }
    }
}
