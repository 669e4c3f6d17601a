//! Line plots and bars as inline SVG.
//!
//! Colours are classes, so that the page's style decides between light and
//! dark. A line's x and y are data; everything about pixels stays in here.

use std::fmt::Write as _;

/// What a line tells apart from left to right, in pixels: a line has about 440
/// points at most, however long the run.
const STEP: f64 = 2.0;

/// Colours the style knows.
pub const COLOURS: usize = 6;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;

/// How an axis maps numbers to the page, and writes them.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// What is on it.
    pub label: &'static str,
    /// Logarithmic; values of zero and less are left out.
    pub log: bool,
    /// How a tick is written.
    pub write: fn(f64) -> String,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Which colour, counted round.
    pub colour: usize,
    /// Dashed, for what is beside the point.
    pub dashed: bool,
    /// x and y, x ascending.
    pub points: Vec<(f64, f64)>,
    /// Points further apart than this in x are not joined: nothing is known of
    /// what was between them.
    pub reach: f64,
}

/// A plot of lines over one another.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What a screen reader says.
    pub title: String,
    /// Left to right.
    pub x: Axis,
    /// Bottom to top.
    pub y: Axis,
    /// The lines, in the legend's order.
    pub lines: Vec<Line>,
    /// What the x axis spans at least, so that plots of one page line up.
    pub x_span: Option<(f64, f64)>,
    /// Ticks to use instead of round numbers, with their text.
    pub x_ticks: Option<Vec<(f64, String)>>,
}

impl Plot {
    /// The SVG, or nothing if no line has a point to show.
    pub fn draw(&self) -> Option<String> {
        let lines: Vec<(&Line, Vec<(f64, f64)>)> = self
            .lines
            .iter()
            .map(|line| (line, self.shown(&line.points)))
            .filter(|(_, points)| !points.is_empty())
            .collect();
        let mut x = Scale::over(self.x, lines.iter().flat_map(|l| l.1.iter().map(|p| p.0)), false)?;
        if let Some((low, high)) = self.x_span {
            (x.low, x.high) = (x.low.min(low), x.high.max(high));
        }
        let y = Scale::over(self.y, lines.iter().flat_map(|l| l.1.iter().map(|p| p.1)), true)?;

        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
            escape(&self.title)
        );
        self.draw_grid(&mut svg, &x, &y);
        for (line, points) in &lines {
            draw_line(&mut svg, line, &thin(points, &x), &x, &y);
        }
        svg.push_str("</svg>\n");
        Some(legend(lines.iter().map(|line| line.0)) + &svg)
    }

    fn shown(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let fits = |axis: Axis, n: f64| n.is_finite() && (!axis.log || n > 0.0);
        points.iter().copied().filter(|p| fits(self.x, p.0) && fits(self.y, p.1)).collect()
    }

    fn draw_grid(&self, svg: &mut String, x: &Scale, y: &Scale) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for (value, text) in y.ticks(5.0) {
            let at = y.up(value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                at + 4.0,
                escape(&text)
            );
        }
        let ticks = self.x_ticks.clone().unwrap_or_else(|| x.ticks(8.0));
        for (value, text) in ticks.into_iter().filter(|tick| x.holds(tick.0)) {
            let at = x.across(value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 17.0,
                escape(&text)
            );
        }
        let _ = writeln!(
            svg,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"axis\" text-anchor=\"middle\" \
             transform=\"translate(13 {:.1}) rotate(-90)\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 6.0,
            escape(self.x.label),
            (TOP + bottom) / 2.0,
            escape(self.y.label)
        );
    }
}

fn draw_line(svg: &mut String, line: &Line, points: &[(f64, f64)], x: &Scale, y: &Scale) {
    let colour = line.colour % COLOURS;
    let dashed = if line.dashed { " dashed" } else { "" };
    if let [only] = points {
        let (at, up) = (x.across(only.0), y.up(only.1));
        let _ =
            writeln!(svg, "<circle class=\"d{colour}\" cx=\"{at:.1}\" cy=\"{up:.1}\" r=\"3\"/>");
        return;
    }
    // Thinned points are further apart than the data was.
    let apart = line.reach.max(2.0 * STEP / (WIDTH - LEFT - RIGHT) * (x.high - x.low));
    let mut path = String::new();
    let mut before = None;
    for point in points {
        let (at, up) = (x.across(point.0), y.up(point.1));
        if before.is_none_or(|before| point.0 - before > apart) {
            // The stroke of no length is a dot, should nothing follow.
            let _ = write!(path, "M{at:.1} {up:.1}h0");
        } else {
            let _ = write!(path, "L{at:.1} {up:.1}");
        }
        before = Some(point.0);
    }
    let _ = writeln!(svg, "<path class=\"line c{colour}{dashed}\" d=\"{path}\"/>");
}

fn legend<'a>(lines: impl Iterator<Item = &'a Line>) -> String {
    let mut html = String::from("<p class=\"legend\">");
    for line in lines {
        let dashed = if line.dashed { " dashed" } else { "" };
        let _ = write!(
            html,
            "<span><svg class=\"key\" viewBox=\"0 0 22 8\" aria-hidden=\"true\">\
             <path class=\"line c{}{dashed}\" d=\"M0 4L22 4\"/></svg>{}</span>",
            line.colour % COLOURS,
            escape(&line.name)
        );
    }
    html.push_str("</p>\n");
    html
}

/// A bar in two parts, with a mark to hold it against.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// Its parts, from the left: user and kernel.
    pub parts: [f64; 2],
    /// Where the floor is.
    pub mark: Option<f64>,
    /// What stands behind it.
    pub text: String,
}

/// Horizontal bars on one scale, the parts in the first two colours.
pub fn bars(title: &str, parts: [&str; 2], bars: &[Bar]) -> Option<String> {
    const NAME: f64 = 290.0;
    const TEXT: f64 = 200.0;
    const ROW: f64 = 30.0;
    let longest = bars
        .iter()
        .map(|bar| (bar.parts[0] + bar.parts[1]).max(bar.mark.unwrap_or(0.0)))
        .filter(|length| length.is_finite())
        .fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let scale = (WIDTH - NAME - TEXT) / longest;
    let height = ROW * bars.len() as f64 + 4.0;
    let mut html = String::from("<p class=\"legend\">");
    for (colour, part) in parts.iter().enumerate() {
        let _ = write!(
            html,
            "<span><svg class=\"key\" viewBox=\"0 0 22 10\" aria-hidden=\"true\">\
             <rect class=\"d{colour}\" width=\"22\" height=\"10\" rx=\"2\"/></svg>{}</span>",
            escape(part)
        );
    }
    if bars.iter().any(|bar| bar.mark.is_some()) {
        html.push_str(
            "<span><svg class=\"key\" viewBox=\"0 0 22 14\" aria-hidden=\"true\">\
             <path class=\"mark\" d=\"M11 0L11 14\"/></svg>floor: a bare relay</span>",
        );
    }
    let _ = writeln!(
        html,
        "</p>\n<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    );
    for (row, bar) in bars.iter().enumerate() {
        let top = row as f64 * ROW + 6.0;
        let [one, two] = bar.parts.map(|part| part.max(0.0) * scale);
        let _ = writeln!(
            html,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"d0\" x=\"{NAME}\" y=\"{top}\" width=\"{one:.1}\" height=\"18\"/>\
             <rect class=\"d1\" x=\"{:.1}\" y=\"{top}\" width=\"{two:.1}\" height=\"18\"/>\
             <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            NAME - 10.0,
            top + 14.0,
            escape(&shorten(&bar.name, 36)),
            NAME + one,
            NAME + (one + two).max(bar.mark.unwrap_or(0.0) * scale) + 10.0,
            top + 14.0,
            escape(&bar.text)
        );
        if let Some(mark) = bar.mark {
            let at = NAME + mark * scale;
            let _ = writeln!(
                html,
                "<path class=\"mark\" d=\"M{at:.1} {:.1}L{at:.1} {:.1}\"/>",
                top - 3.0,
                top + 21.0
            );
        }
    }
    html.push_str("</svg>\n");
    Some(html)
}

/// One axis with its numbers: where a value is on the page.
struct Scale {
    axis: Axis,
    low: f64,
    high: f64,
}

impl Scale {
    /// Over all values; `air` leaves some room and, on a linear axis, starts at 0.
    fn over(axis: Axis, values: impl Iterator<Item = f64>, air: bool) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            return None;
        }
        match (axis.log, air) {
            (true, true) => (low, high) = (low / 1.15, high * 1.15),
            (false, true) => (low, high) = (low.min(0.0), high + (high - low.min(0.0)) * 0.06),
            (true | false, false) => {}
        }
        if low == high {
            high = if axis.log { low * 10.0 } else { low + 1.0 };
        }
        Some(Self { axis, low, high })
    }

    fn share(&self, value: f64) -> f64 {
        if self.axis.log {
            (value.ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    fn across(&self, value: f64) -> f64 {
        LEFT + self.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn up(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn holds(&self, value: f64) -> bool {
        (-1e-9..=1.0 + 1e-9).contains(&self.share(value))
    }

    /// About so many ticks.
    fn ticks(&self, about: f64) -> Vec<(f64, String)> {
        let values = if self.axis.log { self.log_ticks() } else { self.linear_ticks(about) };
        values.into_iter().map(|value| (value, (self.axis.write)(value))).collect()
    }

    fn linear_ticks(&self, about: f64) -> Vec<f64> {
        let rough = (self.high - self.low) / about;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = match rough / decade {
            size if size <= 1.0 => decade,
            size if size <= 2.0 => decade * 2.0,
            size if size <= 5.0 => decade * 5.0,
            _ => decade * 10.0,
        };
        let first = (self.low / step).ceil();
        (0..24).map(|n| (first + f64::from(n)) * step).filter(|&value| self.holds(value)).collect()
    }

    /// 1, 2 and 5 of each decade while that is few, then the decades alone.
    fn log_ticks(&self) -> Vec<f64> {
        let (from, to) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let factors: &[f64] = if to - from <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        (from..=to)
            .take(24)
            .flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)))
            .filter(|&value| self.holds(value))
            .collect()
    }
}

/// One point a step; of all within it the highest stays, since a peak that a
/// plot leaves out is a lie.
fn thin(points: &[(f64, f64)], x: &Scale) -> Vec<(f64, f64)> {
    let step = |point: &(f64, f64)| (x.across(point.0) / STEP) as i64;
    points
        .chunk_by(|a, b| step(a) == step(b))
        .filter_map(|part| part.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1)))
        .collect()
}

fn shorten(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max - 1).chain(['…']).collect()
}

/// Text for HTML and SVG, attributes included.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faces::figures;

    fn axis(log: bool) -> Axis {
        Axis { label: "x", log, write: figures::digits }
    }

    fn plot(points: Vec<(f64, f64)>, log: bool) -> Plot {
        let line = Line { name: "a<b".into(), colour: 0, dashed: false, points, reach: 20.0 };
        let (x, y) = (axis(false), axis(log));
        Plot { title: "t".into(), x, y, lines: vec![line], x_span: None, x_ticks: None }
    }

    #[test]
    fn a_peak_survives_thinning() {
        let mut points: Vec<(f64, f64)> = (0..40_000).map(|n| (f64::from(n), 1.0)).collect();
        points[31_415].1 = 99.0;
        let thinned = thin(&points, &Scale { axis: axis(false), low: 0.0, high: 40_000.0 });
        assert!(thinned.len() < 450, "{}", thinned.len());
        assert!(thinned.contains(&(31_415.0, 99.0)));
    }

    #[test]
    fn a_line_begins_with_a_move_however_far_it_reaches() {
        let mut plot = plot(vec![(0.0, 1.0), (10.0, 1.0)], false);
        plot.lines[0].reach = f64::INFINITY;
        let svg = plot.draw().expect("points");
        assert_eq!(svg.matches(" d=\"M").count(), 2, "its key and itself: {svg}");
        assert!(!svg.contains("d=\"L"), "{svg}");
    }

    #[test]
    fn what_is_not_known_is_not_drawn() {
        let points = vec![(0.0, 1.0), (10.0, 1.0), (500.0, 2.0), (510.0, 2.0), (999.0, 1.0)];
        let svg = plot(points, false).draw().expect("points");
        let path = svg.split("d=\"M").nth(2).expect("the line after its key");
        assert_eq!(path.matches("h0").count(), 3, "two pairs and one alone: {path}");
        assert_eq!(path.matches('L').count(), 2, "{path}");
    }

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let scale = Scale { axis: axis(false), low: 0.0, high: 47.0 };
        assert_eq!(scale.linear_ticks(5.0), [0.0, 10.0, 20.0, 30.0, 40.0]);
        let scale = Scale { axis: axis(true), low: 30.0, high: 900.0 };
        assert_eq!(scale.log_ticks(), [50.0, 100.0, 200.0, 500.0]);
    }

    #[test]
    fn a_line_spans_the_plot_from_its_least_to_its_most() {
        let svg = plot(vec![(0.0, 0.0), (10.0, 5.0)], false).draw().expect("two points");
        let right = WIDTH - RIGHT;
        assert!(
            svg.contains(&format!("d=\"M{LEFT:.1} {:.1}h0L{right:.1}", HEIGHT - BOTTOM)),
            "{svg}"
        );
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"), "names are escaped");
    }

    #[test]
    fn nothing_to_show_draws_nothing() {
        assert_eq!(plot(vec![], false).draw(), None);
        assert_eq!(plot(vec![(1.0, 0.0), (2.0, f64::NAN)], true).draw(), None);
        assert_eq!(bars("t", ["a", "b"], &[]), None);
        let alone = plot(vec![(1.0, 1.0)], false).draw().expect("one point");
        assert!(alone.contains("<circle"), "a single point is a dot");
    }
}
