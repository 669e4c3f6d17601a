//! Two runs held against one another: what got better, what worse, and whether
//! they may be compared at all.
//!
//! Rates and latencies move with what else a machine does; the CPU an event as
//! a multiple of the floor of the same run does not. So a floor is preferred
//! where both runs have one, and everything that makes two runs unlike is said
//! before the figures.

use crate::faces::figures::{self, bytes, cpu_us, percent, short, time};
use crate::outcome::{Cost, Event, Outcome, Verdict};

/// Worse by no more than this share is noise.
pub const NOISE: f64 = 0.10;

/// Which direction is good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Better {
    /// Less is better.
    Lower,
    /// More is better.
    Higher,
}

/// What the second run's figure is beside the first's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// Better by more than noise.
    Better,
    /// Within noise.
    Same,
    /// Worse by more than noise.
    Worse,
}

/// One figure of both runs.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// The first run's.
    pub a: f64,
    /// The second run's.
    pub b: f64,
    /// Which is good.
    pub better: Better,
    /// How much worse is noise still; more for what noise moves more.
    pub noise: f64,
    /// How it is written.
    pub write: fn(f64) -> String,
}

impl Row {
    /// The second as a multiple of the first, which is above zero.
    pub fn ratio(&self) -> f64 {
        self.b / self.a
    }

    /// The judgement of this row.
    pub fn change(&self) -> Change {
        let (good, bad) = match self.better {
            Better::Lower => (self.a, self.b),
            Better::Higher => (self.b, self.a),
        };
        if bad > good * (1.0 + self.noise) {
            Change::Worse
        } else if good > bad * (1.0 + self.noise) {
            Change::Better
        } else {
            Change::Same
        }
    }
}

/// Two runs side by side.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The runs' labels.
    pub labels: [String; 2],
    /// What makes them unlike, or one of them worthless.
    pub cautions: Vec<String>,
    /// The second run broke promises that the first kept.
    pub broke: bool,
    /// One of them says nothing.
    pub void: bool,
    /// All figures that both have.
    pub rows: Vec<Row>,
}

/// Holds `b` against `a`; `noise` is the share that is not worth a word.
pub fn compare(a: &Outcome, b: &Outcome, noise: f64) -> Comparison {
    let mut comparison = Comparison {
        labels: [a.label.clone(), b.label.clone()],
        cautions: cautions(a, b),
        broke: kept(a) && !kept(b),
        void: a.invalid.is_some() || b.invalid.is_some(),
        rows: Vec::new(),
    };
    let mut add = |name: &str, a: Option<f64>, b: Option<f64>, better, times, write| {
        // Nothing of all this is free: a figure of zero was not measured.
        if let (Some(a), Some(b)) = (a.filter(|&n| n > 0.0), b.filter(|&n| n > 0.0)) {
            let noise = noise * times;
            comparison.rows.push(Row { name: name.to_owned(), a, b, better, noise, write });
        }
    };
    for event in events(a, b) {
        let find = |run: &Outcome| run.costs.iter().find(|cost| cost.event == event).copied();
        let (Some(a), Some(b)) = (find(a), find(b)) else { continue };
        let name = format!("CPU a {}", event.name());
        let times = 1.0 + (coarse(&a) + coarse(&b)) / noise.max(0.01);
        if a.floors().is_some() && b.floors().is_some() {
            let name = format!("{name}, × floor");
            add(&name, a.floors(), b.floors(), Better::Lower, times, figures::digits);
        } else {
            add(&name, a.us_each(), b.us_each(), Better::Lower, times, cpu_us);
        }
    }
    let memory = |of: &Outcome| of.memory.and_then(|memory| memory.user_bytes_each());
    add("user memory a connection", memory(a), memory(b), Better::Lower, 1.0, bytes);
    let kernel = |of: &Outcome| of.memory.and_then(|memory| memory.kernel_bytes_each());
    add("kernel memory a connection", kernel(a), kernel(b), Better::Lower, 1.0, bytes);
    let rate = |of: &Outcome| of.connections.rate();
    add("connects a second", rate(a), rate(b), Better::Higher, 2.0, short);
    let rate = |of: &Outcome| of.totals.delivery_rate().filter(|&rate| rate > 0.0);
    add("deliveries a second", rate(a), rate(b), Better::Higher, 2.0, short);
    // The further out in the tail, the more a single hiccup moves it.
    let (la, lb) = (&a.latency.quantiles, &b.latency.quantiles);
    if la.count > 0 && lb.count > 0 {
        for (name, a, b, times) in [
            ("latency, median", la.p50_ns, lb.p50_ns, 2.0),
            ("latency, 99 %", la.p99_ns, lb.p99_ns, 3.0),
            ("latency, 99.9 %", la.p999_ns, lb.p999_ns, 5.0),
        ] {
            add(name, Some(a as f64), Some(b as f64), Better::Lower, times, time);
        }
    }
    comparison
}

impl Comparison {
    /// Whether the second run is worse in anything: exit code 1.
    pub fn worse(&self) -> bool {
        self.broke || self.rows.iter().any(|row| row.change() == Change::Worse)
    }

    /// Whether it may be taken for a fact: both runs were valid.
    pub fn counts(&self) -> bool {
        !self.void
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> =
            self.cautions.iter().map(|caution| format!("caution: {caution}")).collect();
        let [a, b] = &self.labels;
        let (first, second) = (width(a).max(10), width(b).max(10));
        let line = |name: &str, a: &str, b: &str, ratio: &str, word: &str| {
            let (a, b) = (pad(a, first), pad(b, second));
            format!("{name:<34} {a} {b} {ratio:>8}  {word}").trim_end().to_owned()
        };
        lines.push(line("", a, b, "b / a", ""));
        for row in &self.rows {
            let ratio = figures::digits(row.ratio());
            let word = match row.change() {
                Change::Better => "better",
                Change::Same => "",
                Change::Worse => "WORSE",
            };
            lines.push(line(&row.name, &(row.write)(row.a), &(row.write)(row.b), &ratio, word));
        }
        if self.rows.is_empty() {
            lines.push("the runs have no figure in common".to_owned());
        }
        lines.push(match (self.void, self.broke, self.worse()) {
            (true, _, _) => "nothing can be concluded: a run is invalid".to_owned(),
            (false, true, _) => format!("{b} broke promises that {a} kept"),
            (false, false, true) => format!("{b} is worse than {a}"),
            (false, false, false) => format!("{b} is no worse than {a}"),
        });
        lines.join("\n") + "\n"
    }
}

fn events(a: &Outcome, b: &Outcome) -> Vec<Event> {
    let mut events: Vec<Event> = a.costs.iter().chain(&b.costs).map(|cost| cost.event).collect();
    events.sort_unstable();
    events.dedup();
    events
}

/// The share of a cost that is a matter of chance: the system counts CPU in
/// ticks, and there is one at either end of a phase.
fn coarse(cost: &Cost) -> f64 {
    const TICK_US: f64 = 10_000.0;
    TICK_US / (cost.user_us + cost.kernel_us).max(1) as f64
}

fn kept(run: &Outcome) -> bool {
    match run.ledger.verdict {
        Verdict::Good | Verdict::Unjudged | Verdict::Inconclusive { .. } => true,
        Verdict::Bad(_) => false,
    }
}

/// What a reader must know before believing a difference.
fn cautions(a: &Outcome, b: &Outcome) -> Vec<String> {
    let mut cautions = Vec::new();
    for run in [a, b] {
        if let Some(invalid) = &run.invalid {
            cautions.push(format!("{} is invalid: {invalid}", run.label));
        }
    }
    let (ca, cb) = (&a.config, &b.config);
    let number = |n: Option<f64>| n.map_or("none".to_owned(), figures::digits);
    for (what, a, b) in [
        ("scenario", ca.scenario.clone(), cb.scenario.clone()),
        ("version", ca.version.clone(), cb.version.clone()),
        ("transport", ca.transport.clone(), cb.transport.clone()),
        ("clients", ca.clients.to_string(), cb.clients.to_string()),
        ("publishers", ca.publishers.to_string(), cb.publishers.to_string()),
        ("subscribers", ca.subscribers.to_string(), cb.subscribers.to_string()),
        ("QoS", ca.qos.to_string(), cb.qos.to_string()),
        ("payload", ca.payload_bytes.to_string(), cb.payload_bytes.to_string()),
        ("rate", number(ca.rate), number(cb.rate)),
        ("window", format!("{:?}", ca.window), format!("{:?}", cb.window)),
        ("connect rate", number(ca.connect_rate), number(cb.connect_rate)),
        ("keep-alive", ca.keepalive_s.to_string(), cb.keepalive_s.to_string()),
        ("codec", ca.codec.clone(), cb.codec.clone()),
        ("cores", a.machine.cores.to_string(), b.machine.cores.to_string()),
        (
            "cores of the broker",
            format!("{:?}", a.machine.broker_cores),
            format!("{:?}", b.machine.broker_cores),
        ),
        ("kernel", a.machine.kernel.clone(), b.machine.kernel.clone()),
    ] {
        if a != b {
            cautions.push(format!("{what} differs: {a} and {b}"));
        }
    }
    if (a.harness.busiest - b.harness.busiest).abs() > 0.3 {
        cautions.push(format!(
            "the harness was loaded differently: {} and {}",
            percent(a.harness.busiest),
            percent(b.harness.busiest)
        ));
    }
    cautions
}

/// Characters, since a µ has two bytes.
fn width(text: &str) -> usize {
    text.chars().count()
}

fn pad(text: &str, to: usize) -> String {
    " ".repeat(to.saturating_sub(width(text))) + text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faces::html::tests::invented;
    use crate::outcome::{Breach, Invalid, Promise};

    #[test]
    fn a_run_is_no_worse_than_itself() {
        let run = invented("one", 1.0);
        let comparison = compare(&run, &run, NOISE);
        assert!(comparison.cautions.is_empty() && !comparison.rows.is_empty());
        assert!(comparison.rows.iter().all(|row| row.change() == Change::Same));
        assert!(!comparison.worse() && comparison.counts());
    }

    #[test]
    fn a_slower_run_is_worse_and_the_other_way_round_better() {
        let (fast, slow) = (invented("fast", 1.0), invented("slow", 3.0));
        let there = compare(&fast, &slow, NOISE);
        assert!(there.worse());
        assert!(there.text().contains("slow is worse than fast"), "{}", there.text());
        let back = compare(&slow, &fast, NOISE);
        assert!(!back.worse(), "{}", back.text());
        assert!(back.rows.iter().any(|row| row.change() == Change::Better));
    }

    #[test]
    fn a_floor_is_preferred_to_microseconds() {
        // The same broker on a machine of half the speed.
        let quick = invented("quick", 1.0);
        let mut lame = quick.clone();
        for cost in &mut lame.costs {
            cost.user_us *= 2;
            cost.kernel_us *= 2;
            cost.floor_us_each = cost.floor_us_each.map(|us| us * 2.0);
        }
        assert!(!compare(&quick, &lame, NOISE).worse());
        for cost in &mut lame.costs {
            cost.floor_us_each = None;
        }
        assert!(compare(&quick, &lame, NOISE).worse(), "without a floor it can't be known");
    }

    #[test]
    fn a_few_ticks_of_cpu_condemn_nobody() {
        let mut a = invented("a", 1.0);
        a.costs.truncate(1);
        (a.costs[0].user_us, a.costs[0].kernel_us) = (0, 40_000);
        let mut b = a.clone();
        b.costs[0].user_us = 20_000;
        assert!(!compare(&a, &b, NOISE).worse(), "two ticks more");
        (a.costs[0].kernel_us, b.costs[0].kernel_us) = (4_000_000, 4_000_000);
        b.costs[0].user_us = 2_000_000;
        assert!(compare(&a, &b, NOISE).worse(), "two hundred more");
    }

    #[test]
    fn a_figure_of_zero_was_not_measured() {
        let a = invented("a", 1.0);
        let mut b = a.clone();
        if let Some(memory) = &mut b.memory {
            memory.kernel_with_bytes = memory.kernel_before_bytes;
        }
        let rows = compare(&a, &b, NOISE).rows;
        assert!(rows.iter().all(|row| row.name != "kernel memory a connection"));
    }

    #[test]
    fn unlike_runs_are_compared_with_a_caution() {
        let a = invented("a", 1.0);
        let mut b = a.clone();
        b.config.payload_bytes = 4_096;
        assert_eq!(compare(&a, &b, NOISE).cautions, ["payload differs: 64 and 4096"]);
    }

    #[test]
    fn broken_promises_outweigh_any_speed() {
        let a = invented("a", 3.0);
        let mut b = invented("b", 1.0);
        b.ledger.verdict =
            Verdict::Bad(vec![Breach { promise: Promise::Delivery, qos: Some(1), count: 1 }]);
        let comparison = compare(&a, &b, NOISE);
        assert!(comparison.worse());
        assert!(comparison.text().contains("b broke promises that a kept"));
    }

    #[test]
    fn an_invalid_run_proves_nothing() {
        let a = invented("a", 1.0);
        let mut b = invented("b", 3.0);
        b.invalid = Some(Invalid::Interrupted);
        let comparison = compare(&a, &b, NOISE);
        assert!(!comparison.counts());
        assert!(comparison.text().ends_with("nothing can be concluded: a run is invalid\n"));
    }
}
