//! What coming in costs the broker: TCP, TLS, WebSocket, CONNECT, and out again.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::net::{Net, News};
use crate::report::{Report, median, short};
use crate::server::Broker;
use crate::traffic::KEEP_ALIVE_S;
use benches::process::cpu_nanoseconds;
use benches::wire::{self, Version};
use tidegate_loadtest::layers::tls_config;
use tidegate_loadtest::transport::Transport;

/// Under way at once.
const AT_ONCE: usize = 16;
const WARM: usize = 300;
const DISCONNECT: [u8; 2] = [0xe0, 0];
const TIME_MAX: Duration = Duration::from_secs(120);

/// The ways in that are compared.
const WAYS: [(&str, Transport, bool); 5] = [
    ("tcp", Transport::Tcp, false),
    ("ws", Transport::Ws, false),
    ("tls, full", Transport::Tls, false),
    ("tls, resumed", Transport::Tls, true),
    ("wss, full", Transport::Wss, false),
];

/// `count` of them over each way, `reps` times, brokers alternating.
pub(crate) fn run(brokers: &[Broker], count: usize, reps: usize) -> Result<Report> {
    let mut report = Report::new(
        "handshakes",
        &["way in", "broker", "CPU us each", "of it above tcp", "a second of a core"],
    );
    let mut floors = vec![f64::NAN; brokers.len()];
    for (way, transport, resume) in WAYS {
        let mut samples = vec![Vec::new(); brokers.len()];
        for _ in 0..reps {
            for (broker, samples) in brokers.iter().zip(&mut samples) {
                samples.push(one(broker, transport, resume, count)?);
            }
        }
        for ((broker, samples), floor) in brokers.iter().zip(samples).zip(&mut floors) {
            let cpu = median(samples);
            if transport == Transport::Tcp {
                *floor = cpu;
            }
            report.row([
                way.to_owned(),
                broker.to_string(),
                short(cpu),
                short(cpu - *floor),
                short(1e6 / cpu),
            ]);
            let name = way.replace(", ", ".");
            report.fact(format!("{broker}.{name}.cpu_us"), (cpu * 100.0).round() / 100.0);
        }
    }
    Ok(report)
}

/// Microseconds of the broker for one.
fn one(broker: &Broker, transport: Transport, resume: bool, count: usize) -> Result<f64> {
    let running = broker.start()?;
    let addr = running.addr(transport);
    let mut net = Net::new(tls_config(resume)?, AT_ONCE)?;
    laps(&mut net, addr, transport, WARM)?;
    thread::sleep(Duration::from_millis(50));
    let cpu = cpu_nanoseconds(running.pid())?;
    let resumed = laps(&mut net, addr, transport, count)?;
    // The last thread leaves its core, which brings its count up to date.
    thread::sleep(Duration::from_millis(50));
    let cpu = cpu_nanoseconds(running.pid())? - cpu;
    let wanted = if resume { count * 9 / 10..=count } else { 0..=0 };
    ensure!(wanted.contains(&resumed), "{resumed} of {count} sessions were resumed by {broker}");
    Ok(cpu as f64 / 1_000.0 / count as f64)
}

/// Comes in and leaves `count` times; returns how many sessions were resumed.
fn laps(net: &mut Net, addr: SocketAddr, transport: Transport, count: usize) -> Result<usize> {
    let deadline = Instant::now() + TIME_MAX;
    let (mut opened, mut done, mut resumed) = (0, 0, 0);
    while done < count {
        for index in 0..AT_ONCE {
            if opened < count && !net.is_open(index) {
                net.open(index, addr, transport)?;
                opened += 1;
            }
        }
        let mut over = Vec::new();
        net.turn(Instant::now() + Duration::from_millis(20), &mut |net, index, news| match news {
            News::Ready => {
                let id = format!("laps{index:012}");
                net.push(index, &wire::connect(Version::V311, &id, KEEP_ALIVE_S));
                Ok(())
            }
            News::Frame(frame) => {
                ensure!(frame.kind() == 2 && frame.body == [0, 0], "CONNACK {:?}", frame.body);
                net.push(index, &DISCONNECT);
                over.push(index);
                Ok(())
            }
            News::Gone(_) if over.contains(&index) => Ok(()),
            News::Gone(why) => bail!("{} on the way in", why.label()),
        })?;
        for index in over {
            resumed += usize::from(net.resumed(index));
            net.close(index);
            done += 1;
        }
        ensure!(Instant::now() < deadline, "{done} of {count} within {TIME_MAX:?}");
    }
    Ok(resumed)
}
