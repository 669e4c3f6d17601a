//! The shard's own epoll instance, nested in tokio's.
//!
//! A connection is registered once, edge-triggered, for both directions and
//! never again: no `epoll_ctl` a message. Listeners are level-triggered, so
//! what one turn does not accept is reported again.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tidegate_core::ids::Millis;

use super::clock::boottime_of;

/// Events taken from the kernel in one turn.
const EVENTS_MAX: usize = 1_024;

/// The slot number that stands for "not a connection".
const SPECIAL: u32 = u32::MAX;
/// The "generation" of the mailbox's eventfd under [`SPECIAL`].
const WAKE: u32 = u32::MAX;
/// The "generation" of the timer under [`SPECIAL`].
const TIMER: u32 = u32::MAX - 1;

/// Whom an event is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Token {
    /// A connection's socket. The generation tells it from an earlier tenant of the slot.
    Connection { slot: u32, generation: u32 },
    /// A listening socket, by its index.
    Listener(u16),
    /// Another thread put something in the mailbox.
    Wake,
    /// The time has come for which the timer was set.
    Timer,
}

impl Token {
    fn data(self) -> EventData {
        let (high, low) = match self {
            Token::Connection { slot, generation } => (generation, slot),
            Token::Listener(index) => (u32::from(index), SPECIAL),
            Token::Wake => (WAKE, SPECIAL),
            Token::Timer => (TIMER, SPECIAL),
        };
        EventData::new_u64(u64::from(high) << 32 | u64::from(low))
    }

    fn of(data: EventData) -> Token {
        let bits = data.u64();
        match ((bits >> 32) as u32, bits as u32) {
            (WAKE, SPECIAL) => Token::Wake,
            (TIMER, SPECIAL) => Token::Timer,
            (index, SPECIAL) => Token::Listener(index as u16),
            (generation, slot) => Token::Connection { slot, generation },
        }
    }
}

/// What a socket is ready for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ready {
    pub(crate) token: Token,
    /// Bytes, an end or an error can be read.
    pub(crate) read: bool,
    /// The socket takes bytes again.
    pub(crate) write: bool,
    /// The peer will send no more: read until the end shows.
    pub(crate) end: bool,
    /// The socket is broken.
    pub(crate) error: bool,
}

/// The epoll instance and the events taken from it.
pub(crate) struct Poller {
    epoll: Arc<OwnedFd>,
    events: Vec<Event>,
    /// On the shard's own clock, exact to the millisecond and without the
    /// rounds of a timer wheel. Edge-triggered, so it is never read.
    timer: OwnedFd,
    armed_for: Option<Millis>,
}

impl Poller {
    pub(crate) fn new() -> Result<Poller, Errno> {
        let epoll = Arc::new(epoll::create(CreateFlags::CLOEXEC)?);
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
        epoll::add(&*epoll, &timer, Token::Timer.data(), EventFlags::IN | EventFlags::ET)?;
        Ok(Poller { epoll, events: Vec::with_capacity(EVENTS_MAX), timer, armed_for: None })
    }

    /// Makes sure that the epoll instance becomes readable at `at`. A system
    /// call only if that is another time than before. Without a time, one that
    /// was set before may still fire once.
    pub(crate) fn arm(&mut self, at: Option<Millis>) -> Result<(), Errno> {
        let Some(at) = at.filter(|at| Some(*at) != self.armed_for) else { return Ok(()) };
        // The kernel's clock is not the shard's: it is years behind.
        let nanos = boottime_of(at);
        let it_value = Timespec {
            tv_sec: (nanos / 1_000_000_000).cast_signed(),
            // All zero would turn the timer off.
            tv_nsec: (nanos % 1_000_000_000).max(1).cast_signed(),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let when = Itimerspec { it_interval, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &when)?;
        self.armed_for = Some(at);
        Ok(())
    }

    /// The descriptor, for the outer epoll to watch.
    pub(crate) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.epoll)
    }

    /// Watches a connection, once and for all. Closing the socket ends it.
    pub(crate) fn watch(&self, socket: impl AsFd, slot: u32, generation: u32) -> Result<(), Errno> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&*self.epoll, socket, Token::Connection { slot, generation }.data(), flags)
    }

    /// Watches a listening socket.
    pub(crate) fn listen(&self, socket: impl AsFd, index: u16) -> Result<(), Errno> {
        epoll::add(&*self.epoll, socket, Token::Listener(index).data(), EventFlags::IN)
    }

    /// Stops (or restarts) the reports of a listening socket.
    pub(crate) fn mute(&self, socket: impl AsFd, index: u16, muted: bool) -> Result<(), Errno> {
        let flags = if muted { EventFlags::empty() } else { EventFlags::IN };
        epoll::modify(&*self.epoll, socket, Token::Listener(index).data(), flags)
    }

    /// Watches the mailbox's eventfd. Edge-triggered: every write to it is an
    /// edge, so it is never read and a wake-up costs the shard no system call.
    pub(crate) fn watch_wake(&self, eventfd: impl AsFd) -> Result<(), Errno> {
        epoll::add(&*self.epoll, eventfd, Token::Wake.data(), EventFlags::IN | EventFlags::ET)
    }

    /// Takes what is ready now, without waiting; how many.
    pub(crate) fn take(&mut self) -> Result<usize, Errno> {
        self.events.clear();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&*self.epoll, spare_capacity(&mut self.events), Some(&at_once)) {
            Ok(_) => Ok(self.events.len()),
            Err(Errno::INTR) => self.take(),
            Err(error) => Err(error),
        }
    }

    /// One of the events taken last.
    pub(crate) fn event(&self, index: usize) -> Ready {
        let event = self.events[index];
        // Copied out: the kernel's struct is packed.
        let (flags, data) = (event.flags, event.data);
        Ready {
            token: Token::of(data),
            read: flags
                .intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
            write: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
            end: flags.intersects(EventFlags::RDHUP | EventFlags::HUP),
            error: flags.contains(EventFlags::ERR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Connection { slot: 0, generation: 0 },
            Token::Connection { slot: 77, generation: u32::MAX },
            Token::Listener(0),
            Token::Listener(u16::MAX),
            Token::Wake,
            Token::Timer,
        ] {
            assert_eq!(Token::of(token.data()), token);
        }
    }

    #[test]
    fn the_timer_goes_off_when_the_shards_clock_says_so() {
        use crate::shard::clock::Reading;
        use std::time::{Duration, Instant};

        let mut poller = Poller::new().expect("descriptors");
        let due = Reading::take().millis() + 30;
        poller.arm(Some(due)).expect("a time");
        let end = Instant::now() + Duration::from_secs(10);
        while poller.take().expect("it is ours") == 0 {
            assert!(Instant::now() < end, "it never goes off");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(Reading::take().millis() >= due);
    }
}
