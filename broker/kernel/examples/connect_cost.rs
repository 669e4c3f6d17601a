//! What a connection costs with the steering program and without it.
//!
//! `cargo run -p tidegate-kernel --example connect_cost [ROUNDS]`, as root. Each
//! round makes 1,000 connections over loopback to 8 listeners without a program
//! and as many with one, the order turned about, and takes the CPU time of this
//! process: both ends, in one thread. Told is the median over the rounds of what
//! one connection costs, and of the ratio within a round.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_kernel::mapped::Gauge;
use tidegate_kernel::steering::{Admission, Policy, Rate, Setup, Steering};

const SHARDS: usize = 8;
/// Connections a round; so many wait to be accepted at once.
const CONNECTIONS: usize = 1_000;
const BATCH: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(100), |text| text.parse())?;
    let mut steering = Steering::load(SHARDS, 0x5eed, &[])?;
    let without = Group::new()?;
    println!("{:<22} {:>10} {:>10} {:>7}", "", "without", "with", "ratio");
    let limited = Admission {
        rate: Some(Rate { per_second: 1_000_000, burst: 100_000 }),
        prefix_rate: Some(Rate { per_second: 1_000_000, burst: 100_000 }),
        prefix_bits: (24, 64),
        blocked: vec!["192.0.2.0/24".parse()?],
    };
    let cases = [
        ("no program, twice", None),
        ("least", Some((Policy::Least, Admission::default()))),
        ("affinity", Some((Policy::Affinity, Admission::default()))),
        ("cpu", Some((Policy::Cpu, Admission::default()))),
        ("hash", Some((Policy::Hash, Admission::default()))),
        ("least, all limits", Some((Policy::Least, limited))),
    ];
    for (listener, (name, case)) in cases.into_iter().enumerate() {
        let with = Group::new()?;
        let steered = case.is_some();
        if let Some((policy, admission)) = case {
            let setup = Setup { policy, weights: vec![100; SHARDS], admission };
            steering.attach(listener, with.address, &with.listeners, setup)?;
        }
        let none: Vec<_> = (0..SHARDS).map(|_| Gauge::none()).collect();
        let gauges: Vec<_> = (0..SHARDS)
            .map(|shard| if steered { steering.gauge(shard) } else { Gauge::none() })
            .collect();
        let (mut off, mut on, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let (a, b) = if round % 2 == 0 {
                let a = without.round(&none)?;
                (a, with.round(&gauges)?)
            } else {
                let b = with.round(&gauges)?;
                (without.round(&none)?, b)
            };
            off.push(a);
            on.push(b);
            ratio.push(b / a);
        }
        let (off, on, ratio) = (median(off), median(on), median(ratio));
        println!("{name:<22} {off:>7.2} µs {on:>7.2} µs {ratio:>7.3}");
    }
    Ok(())
}

/// Listeners of one port, a shard each.
struct Group {
    address: SocketAddr,
    listeners: Vec<Socket>,
}

impl Group {
    fn new() -> io::Result<Group> {
        let first = listener("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
        let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut listeners = vec![first];
        for _ in 1..SHARDS {
            listeners.push(listener(address)?);
        }
        Ok(Group { address, listeners })
    }

    /// Connects, accepts and closes; µs of CPU time a connection.
    fn round(&self, gauges: &[Gauge]) -> io::Result<f64> {
        let start = cpu_time();
        for _ in 0..CONNECTIONS / BATCH {
            let mut clients = Vec::with_capacity(BATCH);
            for _ in 0..BATCH {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
                // No TIME_WAIT, which would use the ports up.
                socket.set_linger(Some(Duration::ZERO))?;
                socket.connect(&self.address.into())?;
                clients.push(socket);
            }
            let mut accepted = Vec::with_capacity(BATCH);
            for (listener, gauge) in self.listeners.iter().zip(gauges) {
                while let Ok((socket, _)) = listener.accept() {
                    gauge.accepted();
                    accepted.push((socket, gauge));
                }
            }
            if accepted.len() != BATCH {
                return Err(io::Error::other(format!("{} of {BATCH} came in", accepted.len())));
            }
            drop(clients);
            accepted.iter().for_each(|(_, gauge)| gauge.closed());
        }
        Ok((cpu_time() - start).as_secs_f64() * 1e6 / CONNECTIONS as f64)
    }
}

fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    Ok(socket)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
