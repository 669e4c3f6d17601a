//! The outcome in Prometheus' text format, for a push gateway or a file that
//! node-exporter reads.
//!
//! Labels are the run's label and scenario, and closed sets besides; never a
//! client id or a topic.

use std::fmt::Write as _;

use crate::outcome::{Latency, Outcome, Verdict};

/// All of an outcome's final figures.
pub fn prometheus(outcome: &Outcome) -> String {
    let mut page = Page {
        text: String::new(),
        run: format!(
            "run=\"{}\",scenario=\"{}\"",
            escape(&outcome.label),
            escape(&outcome.config.scenario)
        ),
    };
    connections(&mut page, outcome);
    messages(&mut page, outcome);
    page.latency("latency_seconds", "From due to delivered.", &outcome.latency);
    page.latency(
        "ack_latency_seconds",
        "From due to the last acknowledgement.",
        &outcome.ack_latency,
    );
    page.latency(
        "connect_latency_seconds",
        "From a connect that was due to its CONNACK.",
        &outcome.connections.latency,
    );
    broker(&mut page, outcome);
    ledger(&mut page, outcome);
    harness(&mut page, outcome);
    page.text
}

fn connections(page: &mut Page, outcome: &Outcome) {
    let connections = &outcome.connections;
    page.head("connections_total", "counter", "Connection attempts by their end.");
    for (end, n) in [
        ("established", connections.established),
        ("refused", connections.refused),
        ("failed", connections.failed),
        ("lost", connections.lost),
        ("reconnected", connections.reconnected),
        ("resumed", connections.resumed),
        ("missing", connections.missing),
    ] {
        page.line("connections_total", &format!("end=\"{end}\""), n as f64);
    }
    page.gauge("connections_peak", "The most at one time.", connections.peak as f64);
    page.gauge("connect_rate", "Connections a second over the ramp.", connections.rate());
}

fn messages(page: &mut Page, outcome: &Outcome) {
    let totals = &outcome.totals;
    page.head("messages_total", "counter", "Messages by what became of them.");
    for (kind, n) in [
        ("published", totals.published),
        ("acknowledged", totals.acknowledged),
        ("delivered", totals.delivered),
    ] {
        page.line("messages_total", &format!("kind=\"{kind}\""), n as f64);
    }
    page.head("bytes_total", "counter", "Bytes to and from the broker.");
    page.line("bytes_total", "direction=\"sent\"", totals.sent_bytes as f64);
    page.line("bytes_total", "direction=\"received\"", totals.received_bytes as f64);
    page.gauge("publish_rate", "Messages published a second.", totals.publish_rate());
    page.gauge("delivery_rate", "Deliveries a second.", totals.delivery_rate());
}

fn broker(page: &mut Page, outcome: &Outcome) {
    page.head("broker_cpu_seconds_per_event", "gauge", "The broker's CPU an event.");
    for cost in &outcome.costs {
        for (mode, us) in [("user", cost.user_us_each()), ("kernel", cost.kernel_us_each())] {
            if let Some(us) = us {
                let labels = format!("event=\"{}\",mode=\"{mode}\"", cost.event.name());
                page.line("broker_cpu_seconds_per_event", &labels, us / 1e6);
            }
        }
    }
    if let Some(memory) = &outcome.memory {
        page.head("broker_bytes_per_connection", "gauge", "Memory a connection.");
        let parts = [("user", memory.user_bytes_each()), ("kernel", memory.kernel_bytes_each())];
        for (mode, bytes) in parts {
            if let Some(bytes) = bytes {
                page.line("broker_bytes_per_connection", &format!("mode=\"{mode}\""), bytes);
            }
        }
    }
}

fn ledger(page: &mut Page, outcome: &Outcome) {
    let report = &outcome.ledger;
    page.head("deliveries_total", "counter", "Deliveries by QoS and what the ledger found.");
    for (qos, tally) in report.qos.iter().enumerate() {
        for (finding, n) in [
            ("expected", tally.expected),
            ("delivered", tally.delivered),
            ("duplicated", tally.duplicated),
            ("reordered", tally.reordered),
            ("lost", tally.lost),
            ("unacknowledged", tally.unacknowledged),
            ("invented", tally.invented),
            ("unrecorded", tally.unrecorded),
        ] {
            let labels = format!("qos=\"{qos}\",finding=\"{finding}\"");
            page.line("deliveries_total", &labels, n as f64);
        }
    }
    page.head("strays_total", "counter", "Deliveries outside of the account.");
    for (kind, n) in
        [("damaged", report.damaged), ("misrouted", report.misrouted), ("foreign", report.foreign)]
    {
        page.line("strays_total", &format!("kind=\"{kind}\""), n as f64);
    }
    let good = match &report.verdict {
        Verdict::Good => Some(1.0),
        Verdict::Bad(_) | Verdict::Inconclusive { .. } => Some(0.0),
        Verdict::Unjudged => None,
    };
    page.gauge("verdict_good", "1 if every promise was kept; absent if none was judged.", good);
}

fn harness(page: &mut Page, outcome: &Outcome) {
    let harness = &outcome.harness;
    page.head("harness_cpu_seconds_total", "counter", "The harness's own CPU.");
    page.line("harness_cpu_seconds_total", "mode=\"user\"", harness.user_us as f64 / 1e6);
    page.line("harness_cpu_seconds_total", "mode=\"kernel\"", harness.kernel_us as f64 / 1e6);
    page.gauge("harness_busiest_ratio", "The busiest worker's share of its core.", harness.busiest);
    page.gauge("run_valid", "0 if the figures mean nothing.", f64::from(outcome.invalid.is_none()));
    page.head("errors_total", "counter", "Errors by name.");
    for (name, n) in &outcome.errors {
        page.line("errors_total", &format!("error=\"{}\"", escape(name)), *n as f64);
    }
}

struct Page {
    text: String,
    /// The labels of every line.
    run: String,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let full = format!("tidegate_loadtest_{name}");
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {full} {help}\n# TYPE {full} {kind}");
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let comma = if labels.is_empty() { "" } else { "," };
        let run = &self.run;
        let _ = writeln!(self.text, "tidegate_loadtest_{name}{{{run}{comma}{labels}}} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Into<Option<f64>>) {
        if let Some(value) = value.into() {
            self.head(name, "gauge", help);
            self.line(name, "", value);
        }
    }

    fn latency(&mut self, name: &str, help: &str, latency: &Latency) {
        let quantiles = &latency.quantiles;
        if quantiles.count == 0 {
            return;
        }
        self.head(name, "summary", help);
        for (share, ns) in [
            ("0.5", quantiles.p50_ns),
            ("0.9", quantiles.p90_ns),
            ("0.99", quantiles.p99_ns),
            ("0.999", quantiles.p999_ns),
            ("0.9999", quantiles.p9999_ns),
            ("1", quantiles.max_ns),
        ] {
            self.line(name, &format!("quantile=\"{share}\""), ns as f64 / 1e9);
        }
        let sum = quantiles.mean_ns as f64 / 1e9 * quantiles.count as f64;
        self.line(&format!("{name}_sum"), "", sum);
        self.line(&format!("{name}_count"), "", quantiles.count as f64);
    }
}

/// A label's value, as the format wants it.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faces::html::tests::invented;

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_a_named_family() {
        let text = prometheus(&invented("tide \"gate\"\\", 1.0));
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split(' ').next().unwrap_or_default().to_owned();
            } else if !line.starts_with("# HELP ") {
                assert!(line.starts_with(&family), "{line} under {family}");
                let value = line.rsplit(' ').next().unwrap_or_default();
                assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            }
        }
        assert!(text.contains("run=\"tide \\\"gate\\\"\\\\\",scenario=\"pairs\""), "{text}");
    }

    #[test]
    fn the_figures_are_the_outcomes_in_base_units() {
        let mut outcome = Outcome { label: "a".into(), ..Outcome::default() };
        outcome.latency.quantiles.count = 2;
        outcome.latency.quantiles.p99_ns = 1_500_000;
        outcome.ledger.qos[1].lost = 3;
        let text = prometheus(&outcome);
        for line in [
            "tidegate_loadtest_latency_seconds{run=\"a\",scenario=\"\",quantile=\"0.99\"} 0.0015",
            "tidegate_loadtest_deliveries_total{run=\"a\",scenario=\"\",qos=\"1\",finding=\"lost\"} 3",
            "tidegate_loadtest_run_valid{run=\"a\",scenario=\"\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("verdict_good"), "nothing was judged");
    }
}
