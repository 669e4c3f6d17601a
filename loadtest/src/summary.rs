//! A run in a dozen lines, for the end of a terminal.

use tidegate_loadtest::outcome::{Outcome, Quantiles, Verdict};

/// What was found.
pub(crate) fn summary(outcome: &Outcome) -> String {
    let mut lines = Vec::new();
    let connections = &outcome.connections;
    lines.push(format!(
        "connections  {} up of {} in {} ms ({:.0}/s), {} failed, {} refused, {} lost",
        connections.peak,
        outcome.config.clients,
        connections.ramp_ms,
        connections.rate().unwrap_or(0.0),
        connections.failed,
        connections.refused,
        connections.lost,
    ));
    lines.push(format!("  from due   {}", quantiles(&connections.latency.quantiles)));
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
            "broker bytes {:.0} user, {:.0} kernel (both ends) a connection",
            memory.user_bytes_each().unwrap_or(0.0),
            memory.kernel_bytes_each().unwrap_or(0.0),
        ));
    }
    let harness = &outcome.harness;
    lines.push(format!(
        "harness      {:.0} % of a core at its busiest, {:.0} bytes a connection, {} unsent",
        harness.busiest * 100.0,
        harness.bytes_each.unwrap_or(0.0),
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
    let verdict = match &outcome.ledger.verdict {
        Verdict::Unjudged => "no message was looked at".to_owned(),
        Verdict::Good => "every promise was kept".to_owned(),
        Verdict::Bad(breaches) => format!("promises were broken: {breaches:?}"),
        Verdict::Inconclusive { unrecorded } => format!("{unrecorded} deliveries unrecorded"),
    };
    lines.push(format!("verdict      {verdict}"));
    if let Some(invalid) = &outcome.invalid {
        lines.push(format!("INVALID      {invalid}"));
    }
    lines.join("\n") + "\n"
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
