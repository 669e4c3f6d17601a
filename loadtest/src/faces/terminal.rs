//! The live view: a few lines in a terminal, drawn over themselves.
//!
//! Made of plain ANSI: colours and "up N lines", nothing that a terminal of
//! the last forty years would not know. Without colours it is what a log can
//! take.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use crate::faces::figures::{count, percent, short, time};
use crate::outcome::{Config, Sample};

/// Samples that a sparkline shows.
const RECENT: usize = 40;
/// Cells of a progress bar.
const BAR: usize = 40;
/// Error names shown at most.
const ERRORS_MAX: usize = 4;

/// A moment of a run, as the engine sees it.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    /// What was asked for.
    pub config: &'a Config,
    /// What it runs against.
    pub label: &'a str,
    /// What is going on, such as `connecting`.
    pub phase: &'a str,
    /// How much of the phase is done, 0 to 1.
    pub done: f64,
    /// Time left of the phase, where it is known.
    pub left_ms: Option<u64>,
    /// The newest sample.
    pub sample: &'a Sample,
    /// The harness's share of its core, 0 to 1.
    pub busiest: f64,
    /// Errors so far.
    pub errors: &'a BTreeMap<String, u64>,
}

/// The view over a whole run.
#[derive(Debug)]
pub struct Terminal {
    colours: bool,
    recent: VecDeque<(f64, f64)>,
    /// Lines on the screen that the next frame goes over.
    drawn: usize,
}

impl Terminal {
    /// A view; `colours` if the output is a terminal that wants them.
    pub fn new(colours: bool) -> Self {
        Self { colours, recent: VecDeque::new(), drawn: 0 }
    }

    /// What to write to the terminal for this moment; goes over the last frame.
    pub fn frame(&mut self, moment: &Moment<'_>) -> String {
        let sample = moment.sample;
        let per_s = 1e3 / f64::from(moment.config.sample_ms.max(1));
        let rate = if sample.delivered > 0 { sample.delivered } else { sample.connects };
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((rate as f64 * per_s, sample.latency.p99_ns as f64));

        let lines = self.lines(moment, per_s);
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A", self.drawn);
        }
        for line in &lines {
            // Each line is cleared behind its end: the last may have been longer.
            let _ = write!(text, "\r{line}\x1b[K\n");
        }
        // A shorter frame than the last leaves nothing of it below.
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        text
    }

    /// The same as one line without control characters, for a log.
    pub fn line(moment: &Moment<'_>) -> String {
        let sample = moment.sample;
        let per_s = 1e3 / f64::from(moment.config.sample_ms.max(1));
        let errors: u64 = moment.errors.values().sum();
        format!(
            "{:.1} s {} {}: {} connected, {}/s published, {}/s delivered, p50 {} p99 {}, {} errors",
            sample.at_ms as f64 / 1e3,
            moment.phase,
            percent(moment.done.clamp(0.0, 1.0)),
            count(sample.connected),
            short(sample.published as f64 * per_s),
            short(sample.delivered as f64 * per_s),
            time(sample.latency.p50_ns as f64),
            time(sample.latency.p99_ns as f64),
            count(errors)
        )
    }

    fn lines(&self, moment: &Moment<'_>, per_s: f64) -> Vec<String> {
        let Moment { config, sample, .. } = moment;
        let latency = &sample.latency;
        let left = moment.left_ms.map_or(String::new(), |ms| {
            format!("  {} left", time((ms / 1_000 * 1_000) as f64 * 1e6))
        });
        let mut lines = vec![
            format!(
                "{} {} {}  {:.1} s",
                self.paint(BOLD, &config.scenario),
                self.paint(DIM, "against"),
                self.paint(BOLD, &printable(moment.label)),
                sample.at_ms as f64 / 1e3
            ),
            format!(
                "{:<12} {} {:>5}{left}",
                moment.phase,
                self.bar(moment.done, BLUE),
                percent((moment.done.clamp(0.0, 1.0) * 100.0).round() / 100.0)
            ),
            format!(
                "{:<12} {} {} of {}{}",
                "connections",
                self.bar(sample.connected as f64 / config.clients.max(1) as f64, GREEN),
                count(sample.connected),
                count(config.clients),
                if sample.connecting > 0 {
                    format!(", {} under way", count(sample.connecting))
                } else {
                    String::new()
                }
            ),
            format!(
                "{:<12} {} {:>7}/s published  {:>7}/s delivered",
                "rate",
                self.paint(GREEN, &self.spark(|point| point.0)),
                short(sample.published as f64 * per_s),
                short(sample.delivered as f64 * per_s)
            ),
        ];
        lines.push(if latency.count > 0 {
            format!(
                "{:<12} {} p50 {}  p99 {}  p99.9 {}  max {}",
                "latency p99",
                self.paint(BLUE, &self.spark(|point| point.1)),
                time(latency.p50_ns as f64),
                self.paint(BOLD, &time(latency.p99_ns as f64)),
                time(latency.p999_ns as f64),
                time(latency.max_ns as f64)
            )
        } else {
            format!("{:<12} {} no deliveries", "latency p99", self.spark(|point| point.1))
        });
        let broker = sample
            .broker_user_us
            .zip(sample.broker_kernel_us)
            .map_or("not read".to_owned(), |(user, kernel)| {
                percent((user + kernel) as f64 * per_s / 1e6)
            });
        let busy = percent(moment.busiest);
        let busy = if moment.busiest > 0.9 { self.paint(RED, &busy) } else { busy };
        lines.push(format!("{:<12} broker {broker}  harness {busy}", "cpu"));
        lines.push(format!("{:<12} {}", "errors", self.errors(moment.errors)));
        lines
    }

    fn errors(&self, errors: &BTreeMap<String, u64>) -> String {
        let mut errors: Vec<_> = errors.iter().filter(|error| *error.1 > 0).collect();
        if errors.is_empty() {
            return "none".to_owned();
        }
        errors.sort_by_key(|error| std::cmp::Reverse(*error.1));
        let more = errors.len().saturating_sub(ERRORS_MAX);
        errors.truncate(ERRORS_MAX);
        let named: Vec<String> = errors
            .into_iter()
            .map(|(name, n)| format!("{} {}", count(*n), printable(name)))
            .collect();
        let more = if more > 0 { format!(" and {more} kinds more") } else { String::new() };
        self.paint(RED, &(named.join(", ") + &more))
    }

    fn bar(&self, done: f64, colour: &str) -> String {
        // Eighths of a cell, so that it moves before the eye gets bored.
        const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let done = if done.is_finite() { done.clamp(0.0, 1.0) } else { 0.0 };
        let eighths = (done * (BAR * 8) as f64) as usize;
        let full = eighths / 8;
        let part = PARTS[eighths % 8];
        let empty = BAR - full - usize::from(!part.is_empty());
        let filled = "█".repeat(full) + part;
        self.paint(colour, &filled) + &self.paint(DIM, &"░".repeat(empty))
    }

    fn spark(&self, of: impl Fn(&(f64, f64)) -> f64) -> String {
        const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let most = self.recent.iter().map(&of).fold(0.0, f64::max);
        let mut text: String = " ".repeat(RECENT - self.recent.len());
        for point in &self.recent {
            let share = if most > 0.0 { of(point) / most } else { 0.0 };
            text.push(LEVELS[((share * 7.0).round() as usize).min(7)]);
        }
        text
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const BLUE: &str = "36";

/// Text of foreign origin, without what would move the cursor.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faces::html::tests::invented;

    fn show(terminal: &mut Terminal, sample: &Sample, errors: &BTreeMap<String, u64>) -> String {
        let run = invented("mos\x1b[2Jquitto", 1.0);
        terminal.frame(&Moment {
            config: &run.config,
            label: &run.label,
            phase: "measuring",
            done: 0.5,
            left_ms: Some(12_300),
            sample,
            busiest: 0.31,
            errors,
        })
    }

    #[test]
    fn a_frame_says_what_the_sample_says() {
        let run = invented("tidegate", 1.0);
        let mut terminal = Terminal::new(false);
        let text = show(&mut terminal, &run.samples[400], &BTreeMap::new());
        for part in ["pairs against", "2,000 of 2,000", "20 k/s delivered", "50 %", "12 s left"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains("errors       none"), "{text}");
        assert!(!text.contains("\x1b[2J"), "a label moves no cursor");
    }

    #[test]
    fn the_next_frame_goes_over_the_last() {
        let mut terminal = Terminal::new(true);
        let sample = Sample::default();
        let first = show(&mut terminal, &sample, &BTreeMap::new());
        let lines = first.matches('\n').count();
        let errors = (0..9).map(|n| (format!("error {n}"), n)).collect();
        let second = show(&mut terminal, &sample, &errors);
        assert!(second.starts_with(&format!("\x1b[{lines}A")), "{second}");
        assert!(second.contains("8 error 8") && second.contains("and 4 kinds more"), "{second}");
    }

    #[test]
    fn a_bar_is_as_long_at_any_share() {
        let terminal = Terminal::new(false);
        for share in [-1.0, 0.0, 0.001, 0.333, 0.999, 1.0, 7.0, f64::NAN] {
            assert_eq!(terminal.bar(share, BLUE).chars().count(), BAR, "{share}");
        }
        assert!(terminal.bar(1.0, BLUE).chars().all(|cell| cell == '█'));
    }

    #[test]
    fn a_log_line_has_no_control_characters() {
        let run = invented("tidegate", 1.0);
        let text = Terminal::line(&Moment {
            config: &run.config,
            label: "x",
            phase: "measuring",
            done: 1.0,
            left_ms: None,
            sample: &run.samples[400],
            busiest: 0.1,
            errors: &BTreeMap::new(),
        });
        assert!(!text.contains(char::is_control), "{text}");
        assert!(text.starts_with("40.0 s measuring 100 %: 2,000 connected"), "{text}");
    }
}
