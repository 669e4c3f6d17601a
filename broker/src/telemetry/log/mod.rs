//! Log lines, for people or for machines.
//!
//! Lines go to stdout by a thread of their own (`writer`), so that a reader
//! who is slow or gone never holds up a shard. What one place in the code says
//! too often is held back and counted (`limit`). A value is cut and escaped
//! ([`format`]), so that nothing a client sends can forge a line or fill one.
//!
//! Upholds LOG-1: with `log.format = "json"` every line is one JSON object, the
//! announcements and a panic included.

mod format;
mod limit;
mod writer;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tracing::{Subscriber, info};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use self::format::{Lines, Style};
use self::limit::RateLimit;
use self::writer::Writer;
use crate::config::key::choice;

/// How long an exit waits for the last lines to be written.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// The target of lines about the log itself: never limited or filtered out.
const LOG_TARGET: &str = "tidegate::log";
/// The target of the announcements, in JSON: the same.
const ANNOUNCE_TARGET: &str = "tidegate::announce";

/// What is logged, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Log {
    /// The least severe level written.
    pub level: LogLevel,
    /// For people or for machines.
    pub format: LogFormat,
    /// Directives for single modules; they win over the level. Checked.
    pub filter: String,
    /// Where the lines go.
    pub output: LogOutput,
    /// Lines a second of one place in the code; 0: no limit.
    pub lines_per_second: u32,
}

impl Default for Log {
    fn default() -> Log {
        Log {
            level: LogLevel::default(),
            format: LogFormat::default(),
            filter: String::new(),
            output: LogOutput::default(),
            lines_per_second: Log::LINES_PER_SECOND,
        }
    }
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

/// Where lines go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogOutput {
    /// Standard output, as kubelet and journald expect.
    #[default]
    Stdout,
    /// Standard error; stdout has the announcements alone.
    Stderr,
}

choice!(LogLevel {
    LogLevel::Error => "error",
    LogLevel::Warn => "warn",
    LogLevel::Info => "info",
    LogLevel::Debug => "debug",
    LogLevel::Trace => "trace",
});

choice!(LogFormat { LogFormat::Plain => "plain", LogFormat::Json => "json" });

choice!(LogOutput { LogOutput::Stdout => "stdout", LogOutput::Stderr => "stderr" });

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

/// Lines that were not written, since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Suppressed {
    /// One place in the code said too much.
    pub rate_limited: u64,
    /// The reader was slow or gone.
    pub unread: u64,
}

/// The log of this process. There is one, as there is one stdout.
struct Running {
    log: Log,
    filter: reload::Handle<EnvFilter, Registry>,
    limit: Arc<RateLimit>,
    writer: Writer,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

impl Log {
    /// The default of `lines_per_second`.
    pub const LINES_PER_SECOND: u32 = 20;

    /// Starts logging for the whole process. Errors when called twice.
    pub fn start(&self) -> anyhow::Result<()> {
        let (file, terminal) = match self.output {
            LogOutput::Stdout => (duplicate(io::stdout()), io::stdout().is_terminal()),
            LogOutput::Stderr => (duplicate(io::stderr()), io::stderr().is_terminal()),
        };
        let limit = Arc::new(RateLimit::new(self.lines_per_second));
        // A process without a stdout runs all the same.
        let to: Box<dyn Write + Send> = match file {
            Ok(file) => Box::new(file),
            Err(_) => Box::new(io::sink()),
        };
        let writer = Writer::start(to, limit.clone()).context("cannot start the log's thread")?;
        let (filter, handle) = reload::Layer::new(self.env_filter()?);
        let subscriber = self.subscriber(filter, limit.clone(), writer.clone(), terminal);
        tracing::subscriber::set_global_default(subscriber).context("logging runs already")?;
        let running = Running { log: self.clone(), filter: handle, limit, writer };
        let _ = RUNNING.set(running);
        Ok(())
    }

    fn subscriber<F>(
        &self,
        filter: F,
        limit: Arc<RateLimit>,
        writer: Writer,
        colours: bool,
    ) -> impl Subscriber + Send + Sync + use<F>
    where
        F: tracing_subscriber::Layer<Registry> + Send + Sync,
    {
        let style = match self.format {
            LogFormat::Plain => Style::Plain { colours },
            LogFormat::Json => Style::Json,
        };
        Registry::default().with(filter).with(limit::Limited(limit)).with(Lines { style, writer })
    }

    fn env_filter(&self) -> anyhow::Result<EnvFilter> {
        let level = self.level.directive();
        // At info it tells of each heartbeat of each group.
        let theirs = match self.level {
            LogLevel::Error => level,
            LogLevel::Warn | LogLevel::Info | LogLevel::Debug | LogLevel::Trace => "warn",
        };
        let ours = format!(
            "{level},openraft={theirs},{LOG_TARGET}=trace,{ANNOUNCE_TARGET}=info,{}",
            self.filter
        );
        EnvFilter::builder().parse(ours).context("log.filter")
    }
}

fn duplicate(stream: impl AsFd) -> io::Result<std::fs::File> {
    Ok(std::fs::File::from(stream.as_fd().try_clone_to_owned()?))
}

/// Takes over level, filter and rate limit while the process runs.
///
/// # Errors
/// When logging does not run, or the filter is none.
pub fn apply(log: &Log) -> anyhow::Result<()> {
    let running = RUNNING.get().context("logging does not run")?;
    running.filter.reload(log.env_filter()?).context("cannot change the filter")?;
    running.limit.set(log.lines_per_second);
    Ok(())
}

/// Waits a short while until all that was logged is written. Called before
/// the process ends.
pub fn flush() {
    if let Some(running) = RUNNING.get() {
        running.limit.summarise();
        running.writer.flush(FLUSH_PATIENCE);
    }
}

/// What was not written so far.
pub fn suppressed() -> Suppressed {
    RUNNING.get().map_or_else(Suppressed::default, |running| Suppressed {
        rate_limited: running.limit.suppressed(),
        unread: running.writer.unread(),
    })
}

/// Whether all lines are to be JSON.
pub fn is_json() -> bool {
    RUNNING.get().is_some_and(|running| running.log.format == LogFormat::Json)
}

/// Says where the node listens and that it is ready: what scripts and tests
/// wait for. Text on stdout when lines are for people; events of the log when
/// they are for machines.
pub fn announce(mqtt: &[(&str, String)], admin: SocketAddr) {
    if is_json() {
        for (listener, address) in mqtt {
            info!(target: ANNOUNCE_TARGET, listener, %address, "listening mqtt");
        }
        info!(target: ANNOUNCE_TARGET, address = %admin, "listening admin");
        info!(target: ANNOUNCE_TARGET, "ready");
        return;
    }
    let mut text = String::new();
    for (listener, address) in mqtt {
        text.push_str(&format!("listening mqtt {listener} {address}\n"));
    }
    text.push_str(&format!("listening admin {admin}\nready\n"));
    match RUNNING.get() {
        // By the way that the log lines take, so that it stands between them.
        Some(running) if running.log.output == LogOutput::Stdout => running.writer.push(text),
        Some(_) | None => {
            let mut stdout = io::stdout().lock();
            // A reader that left is not our failure.
            let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Where a test's lines go.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(log: &Log, speak: impl FnOnce(&RateLimit)) -> Vec<String> {
        let page = Page::default();
        let limit = Arc::new(RateLimit::new(log.lines_per_second));
        let writer = Writer::start(Box::new(page.clone()), limit.clone()).expect("a thread");
        let filter = log.env_filter().expect("a good filter");
        let subscriber = log.subscriber(filter, limit.clone(), writer.clone(), false);
        tracing::subscriber::with_default(subscriber, || speak(&limit));
        writer.flush(Duration::from_secs(10));
        let bytes = page.0.lock().expect("one thread").clone();
        String::from_utf8(bytes).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    fn lines(log: &Log) -> Vec<String> {
        written(log, |_| {
            tracing::info!(client = "a\nb", "session taken over");
            tracing::debug!("one connection");
            tracing::trace!(target: "tidegate::net", "one packet");
        })
    }

    fn json(line: &str) -> serde_json::Value {
        serde_json::from_str(line).expect("JSON")
    }

    #[test]
    fn json_is_one_object_a_line_with_its_fields() {
        let lines = lines(&Log { format: LogFormat::Json, ..Log::default() });
        assert_eq!(lines.len(), 1, "info is the default: {lines:?}");
        let line = json(&lines[0]);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "session taken over");
        assert_eq!(line["client"], "a\nb");
        assert!(line["timestamp"].is_string());
        assert_eq!(line["target"], "tidegate::telemetry::log::tests");
    }

    #[test]
    fn json_keeps_the_types_of_values() {
        let log = Log { format: LogFormat::Json, ..Log::default() };
        let lines = written(&log, |_| {
            tracing::info!(n = 3_u64, below = -1, ratio = 0.5, yes = true, odd = f64::NAN, "x");
        });
        let line = json(&lines[0]);
        assert_eq!(
            (&line["n"], &line["below"], &line["ratio"], &line["yes"]),
            (&3.into(), &(-1).into(), &0.5.into(), &true.into())
        );
        assert_eq!(line["odd"], "NaN");
    }

    #[test]
    fn a_client_cannot_forge_a_plain_line() {
        let lines = lines(&Log::default());
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with(r#"session taken over client="a\nb""#), "{lines:?}");

        let evil =
            "x\n2026-01-01T00:00:00Z  INFO tidegate: all is well admin=true\u{1b}[2K\u{2028}";
        let lines = written(&Log::default(), |_| {
            tracing::info!(shown = %evil, debugged = ?evil, "{evil}");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains(['\u{1b}', '\u{2028}']), "{lines:?}");
        assert!(lines[0].contains(r#"shown="x\n2026-01-01"#), "{lines:?}");
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let long = "ä".repeat(10_000);
        for format in [LogFormat::Plain, LogFormat::Json] {
            let log = Log { format, ..Log::default() };
            let lines = written(&log, |_| {
                tracing::info!(text = long, shown = %long, debugged = ?long, "{long}");
            });
            let umlauts = lines[0].matches('ä').count();
            // 1,024 bytes of message and three values of 256 bytes, one of
            // them with a quote of its own.
            assert_eq!(umlauts, 512 + 128 + 128 + 127, "{lines:?}");
            assert_eq!(lines[0].matches('…').count(), 4);
        }
    }

    #[test]
    fn the_filter_wins_over_the_level_for_its_module() {
        let filter = "tidegate::net=trace".to_owned();
        let lines = lines(&Log { level: LogLevel::Error, filter, ..Log::default() });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].ends_with("one packet"));
    }

    #[test]
    fn a_place_that_says_too_much_is_held_back_and_summed_up() {
        let log = Log {
            lines_per_second: 3,
            level: LogLevel::Error,
            format: LogFormat::Json,
            ..Log::default()
        };
        let mut held = 0;
        let lines = written(&log, |limit| {
            for n in 0..1_000 {
                tracing::error!(n, "a client hammers");
            }
            tracing::error!("something else");
            held = limit.suppressed();
            limit.summarise();
            limit.summarise();
        });
        // The second may have turned under the loop.
        assert!((990..=997).contains(&held), "{held}");
        let rest = 1_000 - held as usize;
        assert_eq!(lines.len(), rest + 2, "{lines:?}");
        assert_eq!(json(&lines[rest])["message"], "something else");
        let summary = json(&lines[rest + 1]);
        assert_eq!(summary["suppressed"], held);
        assert_eq!(summary["source"], "tidegate::telemetry::log::tests");
        assert_eq!(summary["level"], "ERROR");
        let message = summary["message"].as_str().expect("text");
        assert!(message.starts_with(&format!("a client hammers ... and {held} more like it in ")));
    }

    #[test]
    fn no_limit_holds_nothing_back() {
        let log = Log { lines_per_second: 0, ..Log::default() };
        let lines = written(&log, |_| (0..100).for_each(|n| tracing::info!(n, "again")));
        assert_eq!(lines.len(), 100);
    }
}
