//! Log lines on stderr, for people or for machines.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

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
    /// Starts logging for the whole process. Errors when called twice.
    pub fn start(&self) -> anyhow::Result<()> {
        let directives = format!("{},{}", self.level.directive(), self.filter);
        let filter = EnvFilter::builder().parse(directives).context("log.filter")?;
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let started = match self.format {
            LogFormat::Plain => {
                use std::io::IsTerminal;
                lines.with_ansi(std::io::stderr().is_terminal()).try_init()
            }
            LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
        };
        started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
    }
}
