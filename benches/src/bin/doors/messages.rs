//! What a message costs over each transport, at a fixed rate.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::net::Net;
use crate::report::{Report, median, short};
use crate::server::Broker;
use crate::traffic::{Pairs, Percentiles};
use benches::process::cpu_nanoseconds;
use tidegate_loadtest::layers::tls_config;
use tidegate_loadtest::transport::Transport;

/// QoS and messages a second.
const RATES: [(u8, f64); 2] = [(0, 20_000.0), (1, 10_000.0)];
const WARM: Duration = Duration::from_millis(700);

/// One publisher and one subscriber, `span` a measurement, `reps` of them alternating.
pub(crate) fn run(
    brokers: &[Broker],
    transports: &[Transport],
    span: Duration,
    reps: usize,
) -> Result<Report> {
    let mut report = Report::new(
        "messages",
        &["QoS", "transport", "broker", "CPU us a message", "times its tcp", "p50 us", "p99 us"],
    );
    for (qos, rate) in RATES {
        let mut plain = vec![f64::NAN; brokers.len()];
        for &transport in transports {
            let mut samples = vec![Vec::new(); brokers.len()];
            for _ in 0..reps {
                for (broker, samples) in brokers.iter().zip(&mut samples) {
                    samples.push(one(broker, transport, qos, rate, span)?);
                }
            }
            for ((broker, samples), plain) in brokers.iter().zip(samples).zip(&mut plain) {
                let middle = |pick: fn(&Sample) -> f64| median(samples.iter().map(pick).collect());
                let cpu = middle(|sample| sample.cpu_us);
                if transport == Transport::Tcp {
                    *plain = cpu;
                }
                report.row([
                    format!("{qos}, {} a second", short(rate)),
                    transport.to_string(),
                    broker.to_string(),
                    short(cpu),
                    short(cpu / *plain),
                    short(middle(|sample| sample.p50_us)),
                    short(middle(|sample| sample.p99_us)),
                ]);
                let name = format!("{broker}.{transport}.qos{qos}.cpu_us");
                report.fact(name, (cpu * 100.0).round() / 100.0);
            }
        }
    }
    Ok(report)
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

fn one(
    broker: &Broker,
    transport: Transport,
    qos: u8,
    rate: f64,
    span: Duration,
) -> Result<Sample> {
    let running = broker.start()?;
    let net = Net::new(tls_config(false)?, 2)?;
    let mut pairs = Pairs::open(net, running.addr(transport), transport, 1, qos, rate)?;
    pairs.begin();
    let until = Instant::now() + WARM;
    pairs.run(|| Instant::now() >= until)?;
    let (cpu, before) = (cpu_nanoseconds(running.pid())?, pairs.tally.delivered);
    let from = pairs.began().elapsed();
    let until = Instant::now() + span;
    pairs.run(|| Instant::now() >= until)?;
    let to = pairs.began().elapsed();
    let (cpu, count) = (cpu_nanoseconds(running.pid())? - cpu, pairs.tally.delivered - before);
    pairs.settle(Duration::from_secs(2))?;
    thread::sleep(Duration::from_millis(20));
    let wanted = rate * span.as_secs_f64();
    ensure!(count as f64 > wanted * 0.9, "{broker} keeps {count} of {wanted} messages up");
    let seen = Percentiles::between(&pairs.deliveries, from, to);
    Ok(Sample {
        cpu_us: cpu as f64 / 1_000.0 / count as f64,
        p50_us: seen.p50.as_secs_f64() * 1e6,
        p99_us: seen.p99.as_secs_f64() * 1e6,
    })
}
