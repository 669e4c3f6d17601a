//! The CPU figures as a picture: a row each, a dot a broker, as multiples of the floor.
//!
//! The axis is logarithmic, since brokers are apart by factors and not by sums.

use std::fmt::Write;

use crate::broker::Column;
use crate::report::Report;
use crate::scenario::{LINES, Line, Metric};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 290.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 66.0;
const ROW: f64 = 24.0;
const TICKS: [f64; 13] = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3];

/// One SVG file; rows without a floor are left out.
pub(crate) fn plot(report: &Report) -> String {
    let brokers: Vec<Column> =
        report.columns().into_iter().filter(|column| *column != Column::Floor).collect();
    let rows: Vec<(&Line, Vec<(Column, f64)>)> = LINES
        .iter()
        .filter(|line| line.metric == Metric::Cpu)
        .map(|line| (line, multiples(report, line, &brokers)))
        .filter(|(_, dots)| !dots.is_empty())
        .collect();
    let all = || rows.iter().flat_map(|(_, dots)| dots.iter().map(|(_, times)| *times));
    let least = all().fold(1.0, f64::min);
    let most = all().fold(2.0, f64::max);
    let scale = Scale::around(least, most);
    let height = TOP + ROW * rows.len() as f64 + 14.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" fill=\"#111\">CPU an event, as a multiple of a \
         relay that parses nothing (less is better)</text>\n"
    );
    for (place, broker) in brokers.iter().enumerate() {
        let x = LEFT + 105.0 * place as f64;
        dot(&mut out, x, 42.0, *broker);
        let _ = writeln!(out, "<text x=\"{}\" y=\"46\" fill=\"#111\">{broker}</text>", x + 10.0);
    }
    let bottom = height - 14.0;
    for tick in TICKS.into_iter().filter(|tick| scale.holds(*tick)) {
        let x = scale.x(tick);
        let (stroke, width) = if tick == 1.0 { ("#111", 1.5) } else { ("#ddd", 1.0) };
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{stroke}\" \
             stroke-width=\"{width}\"/>\n\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{tick}</text>",
            TOP - 4.0
        );
    }
    for (place, (line, dots)) in rows.iter().enumerate() {
        let y = TOP + ROW * (place as f64 + 0.5);
        let label = line.label.replace('&', "&amp;").replace('<', "&lt;").replace('`', "");
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#111\">{label}</text>",
            LEFT - 12.0,
            y + 4.0
        );
        for (broker, times) in dots {
            dot(&mut out, scale.x(*times), y, *broker);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn multiples(report: &Report, line: &Line, brokers: &[Column]) -> Vec<(Column, f64)> {
    let of = |column| report.median(line.scenario, line.metric, column);
    let Some(floor) = of(Column::Floor).filter(|floor| *floor > 0.0) else { return Vec::new() };
    brokers.iter().filter_map(|broker| Some((*broker, of(*broker)? / floor))).collect()
}

fn dot(out: &mut String, x: f64, y: f64, broker: Column) {
    let colour = match broker {
        Column::Tidegate => "#0868ac",
        Column::Mosquitto => "#d95f02",
        Column::Rumqttd => "#7b3294",
        Column::FlashMq => "#c51b7d",
        Column::NanoMq => "#4d9221",
        Column::Emqx => "#8c6d31",
        Column::Floor => "#111",
    };
    let _ = writeln!(
        out,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\" fill-opacity=\"0.9\"/>"
    );
}

struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    /// From the tick below the least to the one above the most.
    fn around(least: f64, most: f64) -> Self {
        let below = TICKS.into_iter().rev().find(|tick| *tick <= least);
        let above = TICKS.into_iter().find(|tick| *tick >= most);
        Self { least: below.unwrap_or(least), most: above.unwrap_or(most) }
    }

    fn holds(&self, tick: f64) -> bool {
        (self.least..=self.most).contains(&tick)
    }

    fn x(&self, times: f64) -> f64 {
        let share = (times / self.least).ln() / (self.most / self.least).ln();
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_is_as_far_right_as_its_multiple_of_the_floor() {
        let mut report = Report::default();
        for (column, cpu) in
            [(Column::Floor, 0.5), (Column::Mosquitto, 10.0), (Column::Tidegate, 1.0)]
        {
            report.add("qos0-w16", Metric::Cpu, column, cpu);
        }
        let svg = plot(&report);
        let scale = Scale::around(1.0, 20.0);
        for times in [2.0, 20.0] {
            assert!(svg.contains(&format!("<circle cx=\"{:.1}\"", scale.x(times))), "{svg}");
        }
        assert!(!svg.contains("QoS 1, W16"), "a row without figures is drawn");
        assert!(svg.contains(">mosquitto</text>") && svg.ends_with("</svg>\n"));
    }
}
