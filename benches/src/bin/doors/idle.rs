//! What connections that say nothing cost.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::crowd::{Crowd, GENTLE};
use crate::net::Net;
use crate::report::{Report, short};
use crate::server::Broker;
use benches::process::{anonymous_bytes, cpu_nanoseconds};
use tidegate_loadtest::layers::tls_config;
use tidegate_loadtest::transport::Transport;

/// First, so that what the broker needs once is there.
const WARM: usize = 200;
const COME_TIME_MAX: Duration = Duration::from_secs(120);

/// `count` idle connections over each of `transports`, broker by broker.
pub(crate) fn run(
    brokers: &[Broker],
    transports: &[Transport],
    count: usize,
    span: Duration,
) -> Result<Report> {
    let mut report = Report::new(
        "idle",
        &["transport", "broker", "connections", "user bytes each", "goal", "CPU, % of a core"],
    );
    for &transport in transports {
        for broker in brokers {
            let (bytes, percent) = one(broker, transport, count, span)?;
            let goal = match (transport, broker) {
                (_, Broker::Mosquitto(_) | Broker::Floor(_)) => None,
                (Transport::Tcp, _) => Some(400.0),
                (Transport::Ws, _) => Some(500.0),
                (Transport::Tls, _) => Some(6.0 * 1024.0),
                // Both layers at once.
                (Transport::Wss, _) => Some(6.0 * 1024.0 + 500.0),
            };
            report.row([
                transport.to_string(),
                broker.to_string(),
                short(count as f64),
                short(bytes),
                goal.map_or("-".to_owned(), |goal| format!("<= {}", short(goal))),
                format!("{percent:.3}"),
            ]);
            report.fact(format!("{broker}.{transport}.bytes"), bytes.round());
            report.fact(format!("{broker}.{transport}.cpu_percent"), percent);
            if let Some(goal) = goal {
                let words = format!("{bytes:.0} bytes an idle {transport} connection, goal {goal}");
                report.bound(words, bytes <= goal);
            }
        }
    }
    Ok(report)
}

fn one(broker: &Broker, transport: Transport, count: usize, span: Duration) -> Result<(f64, f64)> {
    let running = broker.start()?;
    let net = Net::new(tls_config(false)?, WARM + count)?;
    let mut crowd = Crowd::new(net, running.addr(transport), transport, WARM + count);
    let all = crowd.come(0..WARM, GENTLE, COME_TIME_MAX)?;
    ensure!(all, "{} of {WARM} came: {:?}", crowd.up(), crowd.failures);
    thread::sleep(Duration::from_secs(1));
    let before = anonymous_bytes(running.pid())?;
    let all = crowd.come(WARM..WARM + count, GENTLE, COME_TIME_MAX)?;
    ensure!(all, "{} of {count} came: {:?}", crowd.up(), crowd.failures);
    thread::sleep(Duration::from_secs(2));
    let after = anonymous_bytes(running.pid())?;
    let bytes = (after as f64 - before as f64) / count as f64;

    let cpu = cpu_nanoseconds(running.pid())?;
    let began = Instant::now();
    thread::sleep(span);
    let cpu = cpu_nanoseconds(running.pid())? - cpu;
    let percent = 100.0 * cpu as f64 / began.elapsed().as_nanos() as f64;
    crowd.turn(Duration::ZERO)?;
    ensure!(crowd.up() == WARM + count, "some left: {:?}", crowd.failures);
    Ok((bytes, percent))
}
