//! A run in a dozen lines, for the end of a terminal.

use tidegate_loadtest::faces::figures::findings;
use tidegate_loadtest::outcome::{Outcome, Quantiles, Verdict};

/// What was found.
pub(crate) fn summary(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    let connections = &outcome.connections;
    lines.push(format!(
        "connections  {} up of {} in {} ms ({:.0}/s), {} tried again, {} refused, {} lost",
        connections.peak,
        outcome.config.clients,
        connections.ramp_ms,
        connections.rate().unwrap_or(0.0),
        connections.failed,
        connections.refused,
        connections.lost,
    ));
    lines.push(format!("  from due   {}", quantiles(&connections.latency.quantiles)));
    if connections.reconnected > 0 {
        lines.push(format!(
            "  came back  {} times, {} of them to their session",
            connections.reconnected, connections.resumed
        ));
    }
    let gap = &connections.gap.quantiles;
    if gap.count > 0 {
        lines.push(format!("  gap        {}", quantiles(gap)));
    }
    if connections.missing > 0 {
        lines.push(format!("  missing    {} at the end", connections.missing));
    }
    for (name, value) in &outcome.config.more {
        lines.push(format!("  {name}: {value}"));
    }
    let totals = &outcome.totals;
    if totals.published > 0 {
        lines.push(format!(
            "messages     {} published ({:.0}/s), {} acknowledged, {} delivered ({:.0}/s)",
            totals.published,
            totals.publish_rate().unwrap_or(0.0),
            totals.acknowledged,
            totals.delivered,
            totals.delivery_rate().unwrap_or(0.0),
        ));
        lines.push(format!("  delivery   {}", quantiles(&outcome.latency.quantiles)));
        lines.push(format!("  ack        {}", quantiles(&outcome.ack_latency.quantiles)));
    }
    for cost in &outcome.costs {
        let floors = cost.floors().map(|times| format!(", {times:.2} x the floor"));
        lines.push(format!(
            "broker CPU   {:.2} us a {} ({:.2} user, {:.2} kernel){}",
            cost.us_each().unwrap_or(0.0),
            cost.event.name(),
            cost.user_us_each().unwrap_or(0.0),
            cost.kernel_us_each().unwrap_or(0.0),
            floors.unwrap_or_default(),
        ));
    }
    if let Some(memory) = &outcome.memory {
        lines.push(format!(
            "broker bytes a connection: user {}, kernel (both ends) {}",
            bytes(memory.user_bytes_each(), Some(memory.user_before_bytes)),
            bytes(memory.kernel_bytes_each(), memory.kernel_before_bytes),
        ));
    }
    let harness = &outcome.harness;
    lines.push(format!(
        "harness      {:.0} % of a core at its busiest, {}{} unsent",
        harness.busiest * 100.0,
        harness.bytes_each.map_or(String::new(), |each| format!("{each:.0} bytes a connection, ")),
        harness.unsent,
    ));
    lines.push(format!("  lateness   {}", quantiles(&harness.lateness)));
    for (name, count) in &outcome.errors {
        lines.push(format!("error        {count} x {name}"));
    }
    for (qos, tally) in outcome.ledger.qos.iter().enumerate() {
        if tally.published + tally.expected > 0 {
            lines.push(format!(
                "ledger QoS {qos} {} expected, {} delivered, {} duplicated, {} reordered, {} lost, \
                 {} unacknowledged",
                tally.expected,
                tally.delivered,
                tally.duplicated,
                tally.reordered,
                tally.lost,
                tally.unacknowledged,
            ));
        }
    }
    lines.extend(findings(&outcome.ledger).iter().map(|(name, text)| format!("{name:<12} {text}")));
    let verdict = match &outcome.ledger.verdict {
        Verdict::Unjudged => "no message was looked at".to_owned(),
        Verdict::Good => "every promise was kept".to_owned(),
        Verdict::Bad(breaches) => {
            let breaches = breaches.iter().map(|breach| {
                let qos = breach.qos.map_or(String::new(), |qos| format!(" (QoS {qos})"));
                format!("{} {}{qos}", breach.count, breach.promise.breach())
            });
            format!("promises were broken: {}", breaches.collect::<Vec<_>>().join("; "))
        }
        Verdict::Inconclusive { unrecorded } => format!("{unrecorded} deliveries unrecorded"),
    };
    lines.push(format!("verdict      {verdict}"));
    if let Some(invalid) = &outcome.invalid {
        lines.push(format!("INVALID      {invalid}"));
    }
    lines.join("\n") + "\n"
}

/// A figure, or why there is none.
fn bytes(each: Option<f64>, before: Option<u64>) -> String {
    match (each, before) {
        (Some(each), _) => format!("{each:.0}"),
        (None, Some(_)) => "not measurable: memory did not grow (start the broker afresh)".into(),
        (None, None) => "not measurable: this system does not tell".into(),
    }
}

fn quantiles(of: &Quantiles) -> String {
    let ms = |ns: u64| ns as f64 / 1e6;
    format!(
        "p50 {:.3} p99 {:.3} p99.9 {:.3} max {:.3} ms ({})",
        ms(of.p50_ns),
        ms(of.p99_ns),
        ms(of.p999_ns),
        ms(of.max_ns),
        of.count
    )
}
