//! The text of a scrape, in both formats that Prometheus reads.

use std::borrow::Cow;
use std::fmt;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::histogram::Distribution;
use super::metric::{self, Kind, Metric};

/// How the text is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4, for whoever does not ask for OpenMetrics, such as
    /// `curl … | promtool check metrics`.
    Classic,
}

impl Format {
    /// What an `Accept` header asks for.
    pub fn accepted(accept: Option<&str>) -> Format {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Format::OpenMetrics,
            Some(_) | None => Format::Classic,
        }
    }

    /// The `Content-Type` of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics as classic text: there the name of a counter's or an info's
/// family is the one of its samples, and an info is a gauge.
pub fn classic(open: &str) -> String {
    let mut out = String::with_capacity(open.len() + open.len() / 16);
    for line in open.lines() {
        match classic_line(line) {
            Some(line) => out.push_str(&line),
            None => continue,
        }
        out.push('\n');
    }
    out
}

fn classic_line(line: &str) -> Option<Cow<'_, str>> {
    let Some(comment) = line.strip_prefix("# ") else { return Some(line.into()) };
    let mut words = comment.splitn(3, ' ');
    let (what, name, rest) = (words.next()?, words.next(), words.next());
    let (Some(name), Some(rest)) = (name, rest) else { return None };
    let kind = metric::ALL.iter().find(|metric| metric.name == name).map(|metric| metric.kind);
    let suffix = kind.map_or("", Kind::suffix);
    match what {
        "HELP" => Some(format!("# HELP {name}{suffix} {rest}").into()),
        "TYPE" => {
            let kind = if kind == Some(Kind::Info) { "gauge" } else { rest };
            Some(format!("# TYPE {name}{suffix} {kind}").into())
        }
        _ => None,
    }
}

/// Writes families, each from its definition.
#[derive(Debug)]
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    /// One family; `fill` adds its series. A family without series is absent
    /// as far as a scraper is concerned.
    pub(super) fn family(
        &mut self,
        metric: &'static Metric,
        fill: impl FnOnce(&mut Series<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let unit = metric.unit.map(|unit| Unit::Other(unit.to_owned()));
        let stem = match metric.unit {
            Some(unit) => metric.name.trim_end_matches(unit).trim_end_matches('_'),
            None => metric.name,
        };
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let help = format!("{}.", metric.help);
        let encoder = self.0.encode_descriptor(stem, &help, unit.as_ref(), kind)?;
        fill(&mut Series { metric, encoder })
    }

    /// A family of one series without labels.
    pub(super) fn single(&mut self, metric: &'static Metric, value: impl Number) -> fmt::Result {
        self.family(metric, |series| series.add(&[], value))
    }

    /// The same; absent without a value.
    pub(super) fn optional(
        &mut self,
        metric: &'static Metric,
        value: Option<impl Number>,
    ) -> fmt::Result {
        value.map_or(Ok(()), |value| self.single(metric, value))
    }
}

/// The series of one family.
#[derive(Debug)]
pub(super) struct Series<'a> {
    metric: &'static Metric,
    encoder: MetricEncoder<'a>,
}

impl Series<'_> {
    /// One series; `values` are those of the metric's labels, in order. An empty
    /// one means that the label is absent.
    pub(super) fn add(&mut self, values: &[&str], number: impl Number) -> fmt::Result {
        let kind = self.metric.kind;
        let labels = self.labels(values);
        if labels.is_empty() {
            return write(&mut self.encoder, kind, number);
        }
        write(&mut self.encoder.encode_family(&labels.as_slice())?, kind, number)
    }

    /// The one series of an info.
    pub(super) fn inform(&mut self, values: &[&str]) -> fmt::Result {
        let labels = self.labels(values);
        self.encoder.encode_info(&labels.as_slice())
    }

    /// One series of a histogram.
    pub(super) fn distribute(&mut self, values: &[&str], told: &Distribution) -> fmt::Result {
        let Distribution { buckets, count, sum_seconds } = told;
        let labels = self.labels(values);
        let encode = |encoder: &mut MetricEncoder<'_>| {
            encoder.encode_histogram::<[(&str, &str); 0]>(*sum_seconds, *count, buckets, None)
        };
        if labels.is_empty() {
            return encode(&mut self.encoder);
        }
        encode(&mut self.encoder.encode_family(&labels.as_slice())?)
    }

    fn labels<'v>(&self, values: &[&'v str]) -> Vec<(&'static str, &'v str)> {
        debug_assert_eq!(self.metric.labels.len(), values.len(), "{}", self.metric.name);
        let pairs = self.metric.labels.iter().copied().zip(values.iter().copied());
        pairs.filter(|(_, value)| !value.is_empty()).collect()
    }
}

/// A whole number or a fraction.
pub(super) trait Number: EncodeCounterValue + EncodeGaugeValue {}
impl Number for u64 {}
impl Number for f64 {}

fn write(encoder: &mut MetricEncoder<'_>, kind: Kind, number: impl Number) -> fmt::Result {
    match kind {
        Kind::Counter => encoder.encode_counter::<[(&str, &str); 0], _, f64>(&number, None),
        Kind::Gauge => encoder.encode_gauge(&number),
        // These have no single number; see `inform` and `distribute`.
        Kind::Info | Kind::Histogram => Ok(()),
    }
}
