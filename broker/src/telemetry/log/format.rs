//! How an event becomes a line.
//!
//! A value may be what a client sent. Whatever it is, it stays within its
//! line and its place in it, and within [`VALUE_BYTES_MAX`].

use std::fmt::{self, Debug, Write};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer as TimeWriter;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;

use super::writer::Writer;

/// Bytes of a value; the rest is cut off.
const VALUE_BYTES_MAX: usize = 256;
/// Bytes of a message, which is ours but may quote.
const MESSAGE_BYTES_MAX: usize = 1_024;
/// Bytes of a backtrace, which is ours alone.
const BACKTRACE_BYTES_MAX: usize = 16 << 10;

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub(super) enum Style {
    Plain { colours: bool },
    Json,
}

/// Makes a line of each event and hands it to the writer.
pub(super) struct Lines {
    pub(super) style: Style,
    pub(super) writer: Writer,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.writer.push(match self.style {
            Style::Plain { colours } => plain(event, colours),
            Style::Json => json(event),
        });
    }
}

/// The message of an event, cut.
pub(super) fn message(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" {
                self.0 = cut(format_args!("{value:?}"), MESSAGE_BYTES_MAX);
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    message.0
}

fn plain(event: &Event<'_>, colours: bool) -> String {
    let mut fields = PlainFields::default();
    event.record(&mut fields);
    let metadata = event.metadata();
    let (level, target) = (metadata.level(), metadata.target());
    let (dim, reset) = if colours { ("\u{1b}[2m", "\u{1b}[0m") } else { ("", "") };
    let colour = match *level {
        _ if !colours => "",
        Level::ERROR => "\u{1b}[31m",
        Level::WARN => "\u{1b}[33m",
        Level::INFO => "\u{1b}[32m",
        Level::DEBUG => "\u{1b}[34m",
        _ => "\u{1b}[35m",
    };
    let (time, message, fields) = (now(), fields.message, fields.rest);
    let space = if message.is_empty() || fields.is_empty() { "" } else { " " };
    format!(
        "{dim}{time}{reset} {colour}{level:>5}{reset} {dim}{target}:{reset} \
         {message}{space}{fields}\n"
    )
}

#[derive(Default)]
struct PlainFields {
    message: String,
    rest: String,
}

impl PlainFields {
    fn add(&mut self, field: &Field, value: &str) {
        if !self.rest.is_empty() {
            self.rest.push(' ');
        }
        self.rest.push_str(field.name());
        self.rest.push('=');
        self.rest.push_str(value);
    }
}

impl Visit for PlainFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let value = cut(format_args!("{value}"), bytes_max(field));
        if field.name() == "message" {
            return self.message = escaped(&value);
        }
        self.add(field, &quoted(&value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let value = cut(format_args!("{value:?}"), bytes_max(field));
        if field.name() == "message" {
            return self.message = escaped(&value);
        }
        self.add(field, &if stands_alone(&value) { value } else { quoted(&value) });
    }
}

fn json(event: &Event<'_>) -> String {
    let metadata = event.metadata();
    let mut line = JsonFields("{".to_owned());
    line.add("timestamp", &now().into());
    line.add("level", &metadata.level().as_str().into());
    line.add("target", &metadata.target().into());
    event.record(&mut line);
    line.0 + "}\n"
}

struct JsonFields(String);

impl JsonFields {
    fn add(&mut self, name: &str, value: &Value) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let _ = write!(self.0, "{}:{value}", Value::from(name));
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        match Value::from(value) {
            // What JSON has no number for.
            Value::Null => self.add(field.name(), &value.to_string().into()),
            number => self.add(field.name(), &number),
        }
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), &value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), &value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), &value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), &cut(format_args!("{value}"), bytes_max(field)).into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field.name(), &cut(format_args!("{value:?}"), bytes_max(field)).into());
    }
}

fn bytes_max(field: &Field) -> usize {
    match field.name() {
        "message" => MESSAGE_BYTES_MAX,
        "backtrace" => BACKTRACE_BYTES_MAX,
        _ => VALUE_BYTES_MAX,
    }
}

fn now() -> String {
    let mut text = String::new();
    // Writing to a String does not fail, and a clock before 1970 leaves it empty.
    let _ = SystemTime.format_time(&mut TimeWriter::new(&mut text));
    text
}

/// The first bytes of a text, with `…` for what is cut off.
fn cut(text: fmt::Arguments<'_>, bytes_max: usize) -> String {
    let mut out = Cut { text: String::new(), bytes_max };
    if out.write_fmt(text).is_err() {
        out.text.push('…');
    }
    out.text
}

/// Takes text until it is full, and is an error from then on, so that a long
/// value is not formatted to its end.
struct Cut {
    text: String,
    bytes_max: usize,
}

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes_max - self.text.len();
        if text.len() <= room {
            self.text.push_str(text);
            return Ok(());
        }
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
        Err(fmt::Error)
    }
}

/// Whether a value needs no quotes to be told from what follows.
fn stands_alone(value: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !unseen(c) && !matches!(c, '"' | '=' | '\\');
    if !value.is_empty() && value.chars().all(plain) {
        return true;
    }
    // A text in quotes already, as `?` makes it.
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return false;
    };
    let mut escape = false;
    for c in inner.chars() {
        match c {
            _ if unseen(c) => return false,
            '"' if !escape => return false,
            _ => escape = c == '\\' && !escape,
        }
    }
    !escape
}

fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c => escape(&mut out, c),
        }
    }
    out.push('"');
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| escape(&mut out, c));
    out
}

fn escape(out: &mut String, c: char) {
    if unseen(c) {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}

/// Characters that end a line, steer a terminal or turn its text around.
fn unseen(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_quoted_when_it_could_be_taken_for_more() {
        for plain in ["127.0.0.1:1883", "Some(5)", "plant/1", "ä", r#""a b""#, r#""a\"b""#] {
            assert!(stands_alone(plain), "{plain}");
        }
        let odd =
            ["", "a b", "a=b", "\"", "\"a", "a\"b", "\"a\" b=\"c\"", r#""a\""#, "\"a\u{7f}\""];
        for odd in odd {
            assert!(!stands_alone(odd), "{odd}");
        }
        assert_eq!(quoted("a\"\\\n\u{202e}"), r#""a\"\\\n\u{202e}""#);
    }
}
