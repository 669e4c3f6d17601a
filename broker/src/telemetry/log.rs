//! Log lines on stderr, for people or for machines.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::key::choice;

/// What is logged, and how.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Log {
    /// The least severe level written.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
    /// Directives for single modules; they win over the level. Checked.
    pub filter: String,
}

/// How severe a line must be to be written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogLevel {
    /// Someone must act.
    Error,
    /// Degraded, and coped.
    Warn,
    /// What an operator would want in a month.
    #[default]
    Info,
    /// One connection.
    Debug,
    /// One packet.
    Trace,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

choice!(LogLevel {
    LogLevel::Error => "error",
    LogLevel::Warn => "warn",
    LogLevel::Info => "info",
    LogLevel::Debug => "debug",
    LogLevel::Trace => "trace",
});

choice!(LogFormat { LogFormat::Plain => "plain", LogFormat::Json => "json" });

impl LogLevel {
    fn directive(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

impl Log {
    /// Starts logging to stderr for the whole process. Errors when called twice.
    pub fn start(&self) -> anyhow::Result<()> {
        let colours = std::io::stderr().is_terminal();
        let subscriber = self.subscriber(std::io::stderr, colours)?;
        tracing::subscriber::set_global_default(subscriber).context("logging runs already")
    }

    fn subscriber<W>(&self, writer: W, colours: bool) -> anyhow::Result<Lines>
    where
        W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    {
        let directives = format!("{},{}", self.level.directive(), self.filter);
        let filter = EnvFilter::builder().parse(directives).context("log.filter")?;
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        Ok(match self.format {
            LogFormat::Plain => Box::new(lines.with_ansi(colours).finish()),
            LogFormat::Json => {
                Box::new(lines.json().flatten_event(true).with_current_span(false).finish())
            }
        })
    }
}

type Lines = Box<dyn tracing::Subscriber + Send + Sync>;

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Where a test's lines go.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(log: &Log) -> Vec<String> {
        let page = Page::default();
        let writer = page.clone();
        let subscriber = log.subscriber(move || writer.clone(), false).expect("a good filter");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(client = "a\nb", "session taken over");
            tracing::debug!("one connection");
            tracing::trace!(target: "tidegate::net", "one packet");
        });
        let bytes = page.0.lock().expect("one thread").clone();
        String::from_utf8(bytes).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    #[test]
    fn json_is_one_object_a_line_with_its_fields() {
        let lines = lines(&Log { format: LogFormat::Json, ..Log::default() });
        assert_eq!(lines.len(), 1, "info is the default: {lines:?}");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "session taken over");
        assert_eq!(line["client"], "a\nb");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn a_client_cannot_forge_a_plain_line() {
        let lines = lines(&Log::default());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with(r#"session taken over client="a\nb""#), "{lines:?}");
    }

    #[test]
    fn the_filter_wins_over_the_level_for_its_module() {
        let filter = "tidegate::net=trace".to_owned();
        let lines = lines(&Log { level: LogLevel::Error, filter, ..Log::default() });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with("one packet"));
    }
}
