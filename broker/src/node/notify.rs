//! What the service manager is told: the protocol of sd_notify(3).
//!
//! Datagrams to the socket that `NOTIFY_SOCKET` names. The watchdog's pulse is
//! sent only while every shard takes its turns, so that a node that hangs is
//! started anew and not one whose admin thread alone still runs.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tracing::{debug, warn};

use crate::telemetry::watch::Watch;

/// What an end may take beyond the drain.
const STOP_SLACK: Duration = Duration::from_secs(10);

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Time without a pulse after which the manager ends the process.
    watchdog: Option<Duration>,
}

impl Notify {
    /// As the environment of this process says. A socket that cannot be had
    /// is a warning, not a reason not to run.
    pub(crate) fn from_environment() -> Notify {
        let watchdog = watchdog(
            env::var("WATCHDOG_USEC").ok().as_deref(),
            env::var("WATCHDOG_PID").ok().as_deref(),
            std::process::id(),
        );
        let Some(name) = env::var_os("NOTIFY_SOCKET") else { return Notify::default() };
        match Notify::to(&name, watchdog) {
            Ok(notify) => notify,
            Err(error) => {
                warn!(%error, socket = ?name, "cannot tell the service manager anything");
                Notify::default()
            }
        }
    }

    fn to(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Notify> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::other("NOTIFY_SOCKET is no path and no @name")),
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Notify { socket: Some((socket, address)), watchdog })
    }

    /// The node serves. Also the end of a reload.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The node reads its config anew; [`Notify::ready`] must follow.
    pub(crate) fn reloading(&self) {
        // The time tells the manager which of its requests this answers.
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=Reloading"));
    }

    /// The node begins to end, which takes at most a little more than `drain`.
    pub(crate) fn stopping(&self, status: &str, drain: Duration) {
        let micros = (drain + STOP_SLACK).as_micros();
        let status = one_line(status);
        self.send(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={micros}\nSTATUS={status}"));
    }

    /// Sends the pulse twice an interval while no shard is stuck, for ever.
    pub(crate) async fn keep_alive(&self, watch: &Watch) {
        let Some(watchdog) = self.watchdog.filter(|_| self.socket.is_some()) else {
            return std::future::pending().await;
        };
        loop {
            self.pulse(watch, Instant::now());
            tokio::time::sleep(watchdog / 2).await;
        }
    }

    fn pulse(&self, watch: &Watch, now: Instant) {
        match watch.stuck(now) {
            None => self.send("WATCHDOG=1"),
            Some(stuck) => warn!(
                shard = stuck.shard,
                seconds = stuck.since.as_secs(),
                "a shard is stuck: no pulse for the watchdog"
            ),
        }
    }

    fn send(&self, state: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            debug!(%error, state, "the service manager does not listen");
        }
    }
}

/// The interval, unless it is meant for another process.
fn watchdog(micros: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    Some(Duration::from_micros(micros))
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service manager, and the way to it by an abstract name.
    fn manager(watchdog: Option<Duration>) -> (UnixDatagram, Notify) {
        let name =
            format!("tidegate-test-{}-{:?}", std::process::id(), std::thread::current().id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&address).expect("a free name");
        socket.set_nonblocking(true).expect("a mode of every socket");
        let notify = Notify::to(OsStr::new(&format!("@{name}")), watchdog).expect("a way");
        (socket, notify)
    }

    fn told(manager: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 1_024];
        let length = manager.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    #[test]
    fn the_watchdog_gets_no_pulse_while_a_shard_is_stuck() {
        let (manager, notify) = manager(Some(Duration::from_secs(30)));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let watch = Watch::new(2, start);
        watch.look(at(9), [1, 0].into_iter());
        notify.pulse(&watch, at(9));
        assert_eq!(told(&manager).as_deref(), Some("WATCHDOG=1"));

        watch.look(at(12), [2, 0].into_iter());
        notify.pulse(&watch, at(12));
        assert_eq!(told(&manager), None, "shard 1 stands still");

        watch.look(at(13), [3, 1].into_iter());
        notify.pulse(&watch, at(13));
        assert_eq!(told(&manager).as_deref(), Some("WATCHDOG=1"));
    }

    #[test]
    fn a_reload_tells_when_it_began() {
        let (manager, notify) = manager(None);
        notify.reloading();
        let said = told(&manager).expect("a datagram");
        let micros: u64 = said
            .lines()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
            .and_then(|micros| micros.parse().ok())
            .expect("a number");
        assert!(said.starts_with("RELOADING=1\n") && micros > 0, "{said}");
        notify.ready("two\nlines");
        assert_eq!(told(&manager).as_deref(), Some("READY=1\nSTATUS=two lines"));
    }

    #[test]
    fn the_interval_may_be_meant_for_another_process() {
        assert_eq!(watchdog(Some("30000000"), None, 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(Some("30000000"), Some("7"), 7), Some(Duration::from_secs(30)));
        assert_eq!(watchdog(Some("30000000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(None, Some("7"), 7), None);
    }

    #[test]
    fn nobody_to_tell_is_fine() {
        Notify::default().ready("up");
        assert!(Notify::to(OsStr::new("relative"), None).is_err());
    }
}
