//! Ten times the connects that a listener takes, and what those notice who are in:
//! refused in the kernel, and refused by the broker.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Net;
use crate::report::{Report, short};
use crate::server::{Broker, Running};
use crate::storm::show;
use crate::traffic::{Pairs, Percentiles};
use benches::process::cpu_nanoseconds;
use tidegate_loadtest::layers::tls_config;
use tidegate_loadtest::transport::Transport;

const PAIRS: usize = 100;
const PAIRS_RATE: f64 = 1_000.0;
/// More than the pairs need to come in.
const BURST: u32 = 400;
const WARM: Duration = Duration::from_secs(1);

/// The size of a siege.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Siege {
    /// Connects a second that the listener takes.
    pub(crate) allowed: u32,
    /// Connects a second that are tried.
    pub(crate) tried: u32,
    /// Time of calm, and of the siege.
    pub(crate) span: Duration,
}

/// What one way of refusing came to.
struct Outcome {
    calm: Percentiles,
    siege: Percentiles,
    inside: u64,
    refused: u64,
    closed: u64,
    /// As many as may have come in.
    allowed: f64,
    /// Microseconds of the broker for each that was tried, beyond those of calm.
    cpu: f64,
    lost: u64,
    missing: u64,
}

/// Both ways, one after the other.
pub(crate) fn run(broker: &Broker, siege: Siege) -> Result<Report> {
    let heads = ["what", "refused in the kernel", "refused by the broker"];
    let mut report = Report::new("siege", &heads);
    let ways = [one(broker, siege, "require")?, one(broker, siege, "off")?];
    let mut row = |what: &str, cell: fn(&Outcome) -> String| {
        report.row([what.to_owned(), cell(&ways[0]), cell(&ways[1])]);
    };
    row("calm: p50 / p99 / p99.9 / max", |way| show(&way.calm));
    row("siege: p50 / p99 / p99.9 / max", |way| show(&way.siege));
    row("p99 in the siege / calm", |way| short(way.ratio()));
    row("came in / allowed", |way| format!("{} / {:.0}", way.inside, way.allowed));
    row("refused with a reset / closed after the accept", |way| {
        format!("{} / {}", way.refused, way.closed)
    });
    row("broker's CPU for each that was tried, us", |way| short(way.cpu));
    row("pairs: connections lost / messages missing", |way| {
        format!("{} / {}", way.lost, way.missing)
    });
    for (name, way) in [("kernel", &ways[0]), ("broker", &ways[1])] {
        report.fact(format!("{name}.p99_ratio"), way.ratio());
        report.fact(format!("{name}.came_in"), way.inside);
        report.fact(format!("{name}.allowed"), way.allowed);
        report.fact(format!("{name}.cpu_us"), way.cpu);
    }
    let [kernel, _] = &ways;
    report.bound("nobody who was in was cut off", kernel.lost == 0 && kernel.missing == 0);
    let words = format!("{} came in of {:.0} allowed", kernel.inside, kernel.allowed);
    report.bound(words, (kernel.inside as f64 / kernel.allowed - 1.0).abs() <= 0.05);
    let words = format!("p99 in the siege is {:.2} times its calm value", kernel.ratio());
    report.goal(words, kernel.ratio() <= 1.5);
    Ok(report)
}

impl Outcome {
    fn ratio(&self) -> f64 {
        self.siege.p99.as_secs_f64() / self.calm.p99.as_secs_f64()
    }
}

fn one(broker: &Broker, siege: Siege, steer: &str) -> Result<Outcome> {
    let variables = [
        ("TIDEGATE__EBPF__STEER", steer.to_owned()),
        ("TIDEGATE__LISTENER__TCP__CONNECTS_PER_SECOND", siege.allowed.to_string()),
        ("TIDEGATE__LISTENER__TCP__CONNECTS_BURST", BURST.to_string()),
    ];
    let running = broker.start_with(None, &variables)?;
    let addr = running.addr(Transport::Tcp);
    let net = Net::new(tls_config(false)?, 2 * PAIRS)?;
    let pairs = Pairs::open(net, addr, Transport::Tcp, PAIRS, 1, PAIRS_RATE)?;
    let (course, tally, deliveries) = pairs.beside(|began| attack(&running, addr, siege, began))?;
    let Course { calm, siege: span, inside, refused, closed, cpu } = course;
    let took = (span.1 - span.0).as_secs_f64();
    Ok(Outcome {
        calm: Percentiles::between(&deliveries, calm.0, calm.1),
        siege: Percentiles::between(&deliveries, span.0, span.1),
        inside,
        refused,
        closed,
        allowed: f64::from(BURST) + f64::from(siege.allowed) * took,
        cpu,
        lost: tally.lost,
        missing: tally.sent - tally.delivered,
    })
}

/// What happened when, and how many came in.
struct Course {
    calm: (Duration, Duration),
    siege: (Duration, Duration),
    inside: u64,
    refused: u64,
    closed: u64,
    cpu: f64,
}

fn attack(running: &Running, addr: SocketAddr, siege: Siege, began: Instant) -> Result<Course> {
    thread::sleep(WARM);
    let calm = began.elapsed();
    let cpu = cpu_nanoseconds(running.pid())?;
    thread::sleep(siege.span);
    let start = began.elapsed();
    let calm_cpu = cpu_nanoseconds(running.pid())? - cpu;
    let cpu = cpu_nanoseconds(running.pid())?;
    let from = Instant::now();
    let interval = Duration::from_secs_f64(1.0 / f64::from(siege.tried));
    let (mut due, mut tried, mut inside, mut refused, mut closed) = (from, 0_u32, 0, 0, 0);
    let mut waiting: Vec<Socket> = Vec::new();
    while from.elapsed() < siege.span {
        let now = Instant::now();
        if now < due {
            thread::sleep((due - now).min(Duration::from_micros(500)));
            continue;
        }
        due += interval;
        match connect(tried, addr) {
            Ok(socket) => waiting.push(socket),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => refused += 1,
            Err(error) => bail!("a connect: {error}"),
        }
        tried += 1;
        // Whether the broker keeps it shows a moment later.
        if waiting.len() > 400 {
            judge(waiting.drain(..200), &mut inside, &mut closed);
        }
    }
    let end = began.elapsed();
    thread::sleep(Duration::from_millis(200));
    judge(waiting.drain(..), &mut inside, &mut closed);
    ensure!(tried > siege.allowed, "only {tried} could be tried");
    let cpu = (cpu_nanoseconds(running.pid())? - cpu) as f64 - calm_cpu as f64;
    Ok(Course {
        calm: (calm, start),
        siege: (start, end),
        inside,
        refused,
        closed,
        cpu: cpu / 1e3 / f64::from(tried),
    })
}

/// Those that were closed right after the accept, and those that are in.
fn judge(sockets: impl Iterator<Item = Socket>, inside: &mut u64, closed: &mut u64) {
    for socket in sockets {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match socket.recv(&mut byte) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => *inside += 1,
            Ok(_) | Err(_) => *closed += 1,
        }
    }
}

/// From one of many addresses, and gone without TIME_WAIT.
fn connect(n: u32, to: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    let source = Ipv4Addr::new(127, 3, (n >> 8) as u8, n as u8);
    socket.bind(&SocketAddrV4::new(source, 0).into())?;
    socket.connect(&to.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
