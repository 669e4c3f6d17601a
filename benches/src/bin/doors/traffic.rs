//! Pairs of a publisher and a subscriber with messages at a fixed rate.
//!
//! An open loop: a message's latency counts from when it was due, so that a
//! broker that stalls is charged for all that should have come meanwhile.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use crate::net::{Net, News};
use crate::storm::ahead_of_others;
use benches::wire::{self, Frame, PAYLOAD_TAIL, Template, Version};
use tidegate_loadtest::transport::Transport;

/// Bytes of a payload.
const PAYLOAD: usize = 64;
/// Connections under way at once while the pairs come in.
const OPENING_MAX: usize = 64;
const OPEN_TIME_MAX: Duration = Duration::from_secs(120);
/// For what is on its way at the end.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(5);
/// Seconds. No ping is due while a scenario runs.
pub(crate) const KEEP_ALIVE_S: u16 = 3_600;

/// A delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    /// When it was due, from the beginning of the traffic.
    pub(crate) due: Duration,
    /// From then to its arrival.
    pub(crate) latency: Duration,
}

/// What came of the messages so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Published.
    pub(crate) sent: u64,
    /// Arrived at their subscriber.
    pub(crate) delivered: u64,
    /// Acknowledged to their publisher.
    pub(crate) acknowledged: u64,
    /// Connections that the broker ended.
    pub(crate) lost: u64,
}

/// Connection 2n publishes what connection 2n + 1 has subscribed to.
pub(crate) struct Pairs {
    net: Net,
    transport: Transport,
    qos: u8,
    count: usize,
    template: Template,
    began: Instant,
    interval: Duration,
    due: Duration,
    turn: usize,
    /// Counts.
    pub(crate) tally: Tally,
    /// All deliveries since they were last taken.
    pub(crate) deliveries: Vec<Delivery>,
}

impl Pairs {
    /// Connects and subscribes `count` pairs, which then publish `rate` messages a second in sum.
    pub(crate) fn open(
        mut net: Net,
        addr: SocketAddr,
        transport: Transport,
        count: usize,
        qos: u8,
        rate: f64,
    ) -> Result<Self> {
        let deadline = Instant::now() + OPEN_TIME_MAX;
        let (mut next, mut settled) = (0, 0);
        while settled < 2 * count {
            while next < 2 * count && next - settled < OPENING_MAX {
                net.open(next, addr, transport)?;
                next += 1;
            }
            let wait = Instant::now() + Duration::from_millis(100);
            net.turn(wait, &mut |net, index, news| match news {
                News::Ready => {
                    // Role, group and number, as the floor reads them.
                    let role = if index % 2 == 0 { 'p' } else { 's' };
                    let id = format!("{role}{:07}{index:08}", index / 2);
                    net.push(index, &wire::connect(Version::V311, &id, KEEP_ALIVE_S));
                    Ok(())
                }
                News::Frame(frame) if frame.kind() == 2 => {
                    ensure!(frame.body.get(1) == Some(&0), "CONNACK {:?}", frame.body);
                    if index % 2 == 1 {
                        let topic = wire::topic(index / 2);
                        let filters = std::iter::once(topic.as_str());
                        net.push(index, &wire::subscribe(Version::V311, 1, filters, qos));
                    } else {
                        settled += 1;
                    }
                    Ok(())
                }
                News::Frame(_) => {
                    settled += 1;
                    Ok(())
                }
                News::Gone(why) => bail!("connection {index} of the pairs: {}", why.label()),
            })?;
            ensure!(Instant::now() < deadline, "the pairs do not come in");
        }
        Ok(Self {
            net,
            transport,
            qos,
            count,
            template: Template::new(Version::V311, qos, 0, PAYLOAD, false),
            began: Instant::now(),
            interval: Duration::from_secs_f64(1.0 / rate),
            due: Duration::ZERO,
            turn: 0,
            tally: Tally::default(),
            deliveries: Vec::new(),
        })
    }

    /// When the first message was due.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Begins to count time from now.
    pub(crate) fn begin(&mut self) {
        self.began = Instant::now();
        self.due = Duration::ZERO;
    }

    /// Publishes what is due and takes in what comes, until `over` says so.
    pub(crate) fn run(&mut self, over: impl Fn() -> bool) -> Result<()> {
        while !over() {
            let now = self.began.elapsed();
            while self.due <= now {
                self.publish();
            }
            self.net.flush()?;
            self.take_in(self.began + self.due)?;
        }
        Ok(())
    }

    /// Runs on a thread of its own while `course`, told when the traffic began, has its way; then
    /// waits for what is still on its way.
    pub(crate) fn beside<T>(
        mut self,
        course: impl FnOnce(Instant) -> Result<T>,
    ) -> Result<(T, Tally, Vec<Delivery>)> {
        self.begin();
        let began = self.began();
        let over = AtomicBool::new(false);
        let (course, traffic) = thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                ahead_of_others();
                self.run(|| over.load(Relaxed))?;
                self.settle(SETTLE_TIME_MAX)
            });
            let course = course(began);
            over.store(true, Relaxed);
            (course, traffic.join().map_err(|_| anyhow!("the traffic's thread panicked")))
        });
        traffic??;
        Ok((course?, self.tally, self.deliveries))
    }

    /// Waits for what is still on its way, `limit` at the longest.
    pub(crate) fn settle(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while self.tally.delivered < self.tally.sent && Instant::now() < until {
            self.take_in(Instant::now() + Duration::from_millis(20))?;
        }
        Ok(())
    }

    fn publish(&mut self) {
        let pair = self.turn % self.count;
        if self.net.is_open(2 * pair) {
            self.template.renumber(pair);
            self.template.identify((self.turn / self.count) as u64);
            self.template.stamp(self.due.as_nanos() as u64);
            self.net.push(2 * pair, self.template.bytes());
            self.tally.sent += 1;
        }
        self.turn += 1;
        self.due += self.interval;
    }

    fn take_in(&mut self, until: Instant) -> Result<()> {
        let Self { net, began, qos, tally, deliveries, .. } = self;
        net.turn(until, &mut |net, index, news| {
            match news {
                News::Ready => {}
                News::Frame(frame) if frame.kind() == 3 => {
                    if *qos == 1 {
                        net.push(index, &wire::acknowledgement(0x40, frame.publish_id()));
                    }
                    tally.delivered += 1;
                    deliveries.push(delivery(frame, began.elapsed())?);
                }
                News::Frame(frame) if frame.kind() == 4 => tally.acknowledged += 1,
                News::Frame(frame) => bail!("packet type {} to a pair", frame.kind()),
                News::Gone(_) => tally.lost += 1,
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pairs over {}: {:?}", self.count, self.transport, self.tally)
    }
}

fn delivery(frame: Frame<'_>, now: Duration) -> Result<Delivery> {
    ensure!(frame.body.ends_with(PAYLOAD_TAIL), "the payload's tail is missing");
    let payload = &frame.body[frame.body.len() - PAYLOAD..];
    let due = payload.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let due = Duration::from_nanos(due);
    Ok(Delivery { due, latency: now.saturating_sub(due) })
}

/// Where most and nearly all latencies lie.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Percentiles {
    /// How many there are.
    pub(crate) count: usize,
    /// Half are below.
    pub(crate) p50: Duration,
    /// 99 % are below.
    pub(crate) p99: Duration,
    /// 99.9 % are below.
    pub(crate) p999: Duration,
    /// The longest.
    pub(crate) max: Duration,
}

impl Percentiles {
    /// Of the deliveries that were due between the two.
    pub(crate) fn between(deliveries: &[Delivery], from: Duration, to: Duration) -> Self {
        let due = deliveries.iter().filter(|one| one.due >= from && one.due < to);
        Self::of(due.map(|one| one.latency).collect())
    }

    /// Of all of them.
    pub(crate) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let Some(&max) = all.last() else { return Self::default() };
        let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize];
        Self { count: all.len(), p50: at(0.5), p99: at(0.99), p999: at(0.999), max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_phase_alone() {
        let deliveries: Vec<_> = (0..2_000)
            .map(|n| Delivery {
                due: Duration::from_millis(n),
                latency: Duration::from_micros(if n < 1_000 { n } else { 77_000 }),
            })
            .collect();
        let calm = Percentiles::between(&deliveries, Duration::ZERO, Duration::from_secs(1));
        assert_eq!(calm.count, 1_000);
        assert_eq!(calm.p50, Duration::from_micros(499));
        assert_eq!(calm.p99, Duration::from_micros(989));
        assert_eq!(calm.max, Duration::from_micros(999));
    }
}
