//! The plots of a report.

use std::fmt::Write as _;

use crate::faces::figures::{self, cpu_us, short, time};
use crate::faces::plot::{Axis, Bar, Line, Plot, bars};
use crate::latency::curve;
use crate::outcome::{Latency, Outcome, Sample};

const TIME: Axis = Axis { label: "seconds since the start", log: false, write: figures::digits };
const LATENCY: Axis = Axis { label: "latency", log: true, write: time };
const RATE: Axis = Axis { label: "messages a second", log: false, write: short };
const COUNT: Axis = Axis { label: "connections", log: false, write: short };
const CPU: Axis = Axis { label: "share of a core", log: false, write: figures::percent };

/// All plots that the runs have data for.
pub(super) fn all(body: &mut String, runs: &[Outcome]) {
    add(body, "Latency over time", &latency_note(runs), latency_over_time(runs).draw());
    let note = "How slow the slowest share of deliveries was, from when each was due.";
    add(
        body,
        "Latency by percentile",
        note,
        percentiles(runs, "Latency by percentile", LATENCY, |run| &run.latency).draw(),
    );
    let note = "Published and delivered, a second.";
    add(body, "Messages over time", note, rates(runs).draw());
    add(body, "Connections", "Established, over time.", ramp(runs).draw());
    if runs.iter().all(|run| run.totals.published == 0) {
        let note = "Established, a second.";
        add(body, "Connects over time", note, connect_rates(runs).draw());
        let note = "How slow the slowest share of CONNACKs was, from when each connect was due.";
        let axis = Axis { label: "until CONNACK", ..LATENCY };
        let title = "Connects by percentile";
        let plot = percentiles(runs, title, axis, |run| &run.connections.latency);
        add(body, title, note, plot.draw());
    }
    let note =
        "The broker's own CPU time, from the system's accounts, over what it did in the phase.";
    add(body, "CPU an event", note, costs(runs));
    let note = "The broker's, user and kernel, and the harness's; 100 % is one core.";
    add(body, "CPU over time", note, cpu(runs).draw());
}

fn add(body: &mut String, title: &str, note: &str, drawing: Option<String>) {
    if let Some(drawing) = drawing {
        let _ = writeln!(
            body,
            "<section>\n<h2>{title}</h2>\n<p class=\"note\">{note}</p>\n{drawing}</section>"
        );
    }
}

fn latency_note(runs: &[Outcome]) -> String {
    let sample_ms = runs.first().map_or(0, |run| run.config.sample_ms);
    format!("Of the deliveries in each {sample_ms} ms, counted from when each message was due.")
}

fn latency_over_time(runs: &[Outcome]) -> Plot {
    let mut lines = Vec::new();
    if let [run] = runs {
        lines.push(over_time("slowest", 2, true, run, |s| s.latency.max_ns as f64));
        lines.push(over_time("99 %", 1, false, run, |s| s.latency.p99_ns as f64));
        lines.push(over_time("median", 0, false, run, |s| s.latency.p50_ns as f64));
    } else {
        for (at, run) in runs.iter().enumerate() {
            let name = format!("{}, 99 %", run.label);
            lines.push(over_time(&name, at, false, run, |s| s.latency.p99_ns as f64));
            let name = format!("{}, median", run.label);
            lines.push(over_time(&name, at, true, run, |s| s.latency.p50_ns as f64));
        }
    }
    timeline("Latency over time", LATENCY, runs, lines)
}

fn percentiles(runs: &[Outcome], title: &str, y: Axis, of: impl Fn(&Outcome) -> &Latency) -> Plot {
    // From the half to the last one in a million, on a log scale of what is
    // above, turned so that it rises to the right.
    let lines = runs.iter().enumerate().map(|(at, run)| Line {
        name: run.label.clone(),
        colour: at,
        dashed: false,
        points: curve(of(run)).iter().map(|&(above, ns)| (1.0 / above, ns as f64)).collect(),
        reach: f64::INFINITY,
    });
    let x = Axis { label: "percentile", log: true, write: figures::digits };
    let mut plot = plot(title, x, y, lines.collect());
    let ticks = [
        (1.0, "0 %"),
        (2.0, "50 %"),
        (10.0, "90 %"),
        (100.0, "99 %"),
        (1e3, "99.9 %"),
        (1e4, "99.99 %"),
        (1e5, "99.999 %"),
        (1e6, "99.9999 %"),
    ];
    plot.x_ticks = Some(ticks.map(|(at, text)| (at, text.to_owned())).to_vec());
    plot
}

fn rates(runs: &[Outcome]) -> Plot {
    let mut lines = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        let sample_ms = run.config.sample_ms;
        let a_second = move |n: u64| n as f64 * 1e3 / f64::from(sample_ms.max(1));
        let (published, delivered, colours) = if runs.len() == 1 {
            ("published".to_owned(), "delivered".to_owned(), (1, 0))
        } else {
            (format!("{}, published", run.label), format!("{}, delivered", run.label), (at, at))
        };
        if run.totals.delivered == 0 && run.totals.published == 0 {
            continue;
        }
        lines.push(over_time(&delivered, colours.1, false, run, |s| a_second(s.delivered)));
        lines.push(over_time(&published, colours.0, true, run, |s| a_second(s.published)));
    }
    timeline("Messages over time", RATE, runs, lines)
}

fn connect_rates(runs: &[Outcome]) -> Plot {
    let lines = runs.iter().enumerate().map(|(at, run)| {
        let per_s = 1e3 / f64::from(run.config.sample_ms.max(1));
        over_time(&run.label, at, false, run, |s| s.connects as f64 * per_s)
    });
    let axis = Axis { label: "connects a second", ..RATE };
    timeline("Connects over time", axis, runs, lines.collect())
}

fn ramp(runs: &[Outcome]) -> Plot {
    let mut lines: Vec<Line> = runs
        .iter()
        .enumerate()
        .map(|(at, run)| {
            let name = if runs.len() == 1 { "connected" } else { &run.label };
            over_time(name, at, false, run, |s| s.connected as f64)
        })
        .collect();
    if let [run] = runs
        && run.samples.iter().any(|sample| sample.connecting > 0)
    {
        lines.push(over_time("under way", 1, true, run, |s| s.connecting as f64));
    }
    timeline("Connections", COUNT, runs, lines)
}

fn cpu(runs: &[Outcome]) -> Plot {
    let mut lines = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        let per_core = 1.0 / (f64::from(run.config.sample_ms.max(1)) * 1e3);
        let known = |us: Option<u64>| us.map_or(f64::NAN, |us| us as f64 * per_core);
        let both = |s: &Sample| Some(s.broker_user_us? + s.broker_kernel_us?);
        if runs.len() > 1 {
            lines.push(over_time(&run.label, at, false, run, |s| known(both(s))));
        } else {
            lines.push(over_time("broker", 0, false, run, |s| known(both(s))));
            lines.push(over_time("of it in the kernel", 1, false, run, |s| {
                known(s.broker_kernel_us)
            }));
            lines.push(over_time("harness", 3, true, run, |s| known(Some(s.harness_us))));
        }
    }
    timeline("CPU over time", CPU, runs, lines)
}

fn costs(runs: &[Outcome]) -> Option<String> {
    let mut found: Vec<_> =
        runs.iter().flat_map(|run| run.costs.iter().map(move |cost| (run, cost))).collect();
    // What is the same event stands together, in the order of the runs.
    found.sort_by_key(|(_, cost)| cost.event);
    let rows: Vec<Bar> = found
        .into_iter()
        .filter_map(|(run, cost)| {
            let event = cost.event.name();
            let floors = cost
                .floors()
                .map_or(String::new(), |n| format!(" = {} × floor", figures::digits(n)));
            Some(Bar {
                name: if runs.len() == 1 {
                    format!("a {event}")
                } else {
                    format!("{event}: {}", run.label)
                },
                parts: [cost.user_us_each()?, cost.kernel_us_each()?],
                mark: cost.floor_us_each,
                text: cpu_us(cost.us_each()?) + &floors,
            })
        })
        .collect();
    bars("CPU an event", ["user", "kernel"], &rows)
}

fn over_time(
    name: &str,
    colour: usize,
    dashed: bool,
    run: &Outcome,
    value: impl Fn(&Sample) -> f64,
) -> Line {
    let points = run.samples.iter().map(|s| (s.at_ms as f64 / 1e3, value(s))).collect();
    let reach = f64::from(run.config.sample_ms) * 2.5e-3;
    Line { name: name.to_owned(), colour, dashed, points, reach }
}

/// A plot over the whole time of the longest run, as all of them are, so that
/// the eye can go from one to the next.
fn timeline(title: &str, y: Axis, runs: &[Outcome], lines: Vec<Line>) -> Plot {
    let end = runs.iter().filter_map(|run| run.samples.last()).map(|s| s.at_ms).max();
    let x_span = end.map(|ms| (0.0, ms as f64 / 1e3));
    Plot { x_span, ..plot(title, TIME, y, lines) }
}

fn plot(title: &str, x: Axis, y: Axis, lines: Vec<Line>) -> Plot {
    Plot { title: title.to_owned(), x, y, lines, x_span: None, x_ticks: None }
}
