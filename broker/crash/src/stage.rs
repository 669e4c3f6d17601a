//! All clients of a run on one thread, and what they see in one history.
//!
//! One thread, so that the order in the history is the order in which things
//! were seen; the kills come from another one at moments of their own.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cast::{Cast, ClientId, FilterId, Kind, Lasting, Message};
use crate::history::{History, What};
use crate::killer::{Board, board};
use crate::line::{Line, Manner};
use crate::role::{Presence, Role, Span};
use crate::session::{Session, World};
use testkit::client::Version;

/// Events beyond which nothing new is published: about 2 GB.
const EVENTS_MAX: usize = 40_000_000;

/// Clients that read what is retained, one after the other.
const READER_QUIET: Duration = Duration::from_millis(400);

/// All clients, and what they saw.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The run as its clients see it.
    pub(crate) world: World,
    /// Its clients.
    pub(crate) lines: Vec<Line>,
    board: Arc<Mutex<Board>>,
    seed: u64,
    probers: u32,
    reader: Option<Reader>,
    /// Readings of what is retained, from time to time.
    pub(crate) reads: Option<(FilterId, Duration)>,
    next_read: Instant,
}

/// A new client that wants to know what is retained.
#[derive(Debug)]
struct Reader {
    line: Line,
    /// When it last got something.
    last: Instant,
    got: u64,
    began: bool,
    quiet: Duration,
}

impl Stage {
    /// An empty one.
    pub(crate) fn new(board: Arc<Mutex<Board>>, seed: u64) -> Stage {
        let now = Instant::now();
        let run = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(std::process::id());
        Stage {
            world: World {
                cast: Cast::default(),
                history: History::new(now),
                run,
                manner: Manner::ALONE,
            },
            lines: Vec::new(),
            board,
            seed,
            probers: 0,
            reader: None,
            reads: None,
            next_read: now,
        }
    }

    /// A client enters.
    pub(crate) fn enter(
        &mut self,
        name: &str,
        version: Version,
        lasting: Lasting,
        receive_maximum: Option<u16>,
        role: Role,
    ) -> ClientId {
        let me = self.world.cast.client(name, version, lasting);
        let session = Session::new(&self.world.cast, me, receive_maximum);
        self.lines.push(Line::new(&self.world, session, role, self.seed));
        me
    }

    /// Plays for a while.
    pub(crate) fn play(&mut self, long: Duration) -> Result<()> {
        let end = Instant::now() + long;
        while Instant::now() < end {
            self.turn()?;
        }
        Ok(())
    }

    /// Plays until something is so, at most so long; whether it came to be.
    pub(crate) fn play_until(
        &mut self,
        patience: Duration,
        mut so: impl FnMut(&Stage) -> bool,
    ) -> Result<bool> {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            self.turn()?;
            if so(self) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for sockets, reads them, and does what is due.
    fn turn(&mut self) -> Result<()> {
        let doors = self.hear_the_killer();
        self.wait()?;
        let Stage { world, lines, .. } = self;
        if world.history.len() > EVENTS_MAX {
            bail!("more than {EVENTS_MAX} events; ask for fewer kills or a lower --rate");
        }
        lines.iter_mut().for_each(|line| line.read(world));
        let now = Instant::now();
        lines.iter_mut().for_each(|line| line.tick(world, &doors, now));
        self.read_retained(&doors, now);
        Ok(())
    }

    fn hear_the_killer(&mut self) -> Vec<SocketAddr> {
        let mut board = board(&self.board);
        for (when, what) in board.happened.drain(..) {
            self.world.history.enter_at(when, what);
        }
        board.doors.clone()
    }

    fn wait(&mut self) -> Result<()> {
        let all = self.lines.iter().chain(self.reader.as_ref().map(|reader| &reader.line));
        let mut fds: Vec<PollFd<'_>> = all
            .filter_map(|line| {
                let mut wanted = PollFlags::IN;
                wanted.set(PollFlags::OUT, line.wants_to_write());
                Some(PollFd::from_borrowed_fd(line.socket()?.as_fd(), wanted))
            })
            .collect();
        let pause = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        match poll(&mut fds, Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for the sockets"),
        }
    }

    fn read_retained(&mut self, doors: &[SocketAddr], now: Instant) {
        if let Some(reader) = &mut self.reader {
            let over = reader.turn(&mut self.world, doors, now);
            if over {
                self.reader = None;
                let pause = self.reads.map_or(Duration::ZERO, |(_, pause)| pause);
                self.next_read = now + pause;
            }
        } else if let Some((filter, _)) = self.reads
            && now >= self.next_read
            && !doors.is_empty()
        {
            self.reader = Some(Reader::new(&mut self.world, filter, READER_QUIET, self.seed));
        }
    }

    /// Reads everything that is retained, once nobody publishes any more.
    pub(crate) fn read_all(&mut self, filter: FilterId) -> Result<()> {
        self.reads = None;
        self.play_until(Duration::from_secs(10), |stage| stage.reader.is_none())?;
        let quiet = Duration::from_secs(2);
        self.reader = Some(Reader::new(&mut self.world, filter, quiet, self.seed));
        self.play_until(Duration::from_secs(20), |stage| stage.reader.is_none())?;
        Ok(())
    }

    /// Nobody publishes any more, and who is owed something comes and stays.
    pub(crate) fn calm_down(&mut self) {
        let now = Instant::now();
        let never = now + Duration::from_secs(86_400);
        for line in &mut self.lines {
            line.role.publishing = None;
            line.role.slow = false;
            line.session.slow = false;
            line.session.catch_up(&mut self.world);
            for standing in &mut line.role.standing {
                standing.turns = false;
            }
            if line.role.retires {
                line.stay_away(&mut self.world, never);
            } else {
                line.role.presence = Presence::ALWAYS;
                line.come(now);
            }
        }
    }

    /// Waits until every publish is answered and every subscription settled.
    pub(crate) fn settle(&mut self, patience: Duration) -> Result<bool> {
        self.play_until(patience, |stage| {
            let mut there = stage.lines.iter().filter(|line| !line.role.retires);
            there.all(|line| line.online() && line.session.in_flight() == 0 && line.role.settled())
        })
    }

    /// Waits until nothing has come to anyone for a while.
    pub(crate) fn drain(&mut self, quiet: Duration, patience: Duration) -> Result<bool> {
        let (mut got, mut since) = (self.got(), Instant::now());
        self.play_until(patience, |stage| {
            let now = Instant::now();
            let there = stage.lines.iter().all(|line| line.role.retires || line.online());
            if stage.got() != got || !there {
                (got, since) = (stage.got(), now);
            }
            now - since > quiet
        })
    }

    fn got(&self) -> u64 {
        self.lines.iter().map(|line| line.session.got).sum()
    }

    /// Publishes one message to every topic that anyone subscribes to, by a
    /// client of its own, and waits until all are acknowledged.
    pub(crate) fn probe(&mut self) -> Result<()> {
        self.probers += 1;
        let name = format!("prober-{}", self.probers);
        let me = self.enter(&name, Version::V5, Lasting::Not, None, Role::idle());
        let at = self.lines.len() - 1;
        if !self.play_until(Duration::from_secs(20), |stage| stage.lines[at].online())? {
            return Ok(());
        }
        let cast = &self.world.cast;
        let standing = self.lines.iter().flat_map(|line| &line.role.standing);
        let filters: Vec<FilterId> = standing.map(|standing| standing.filter).collect();
        let watched = |topic| filters.iter().any(|&filter| cast.matches(filter, topic));
        let topics: Vec<_> = cast.topics().filter(|&topic| watched(topic)).collect();
        for topic in topics {
            let message = Message { publisher: me, topic, qos: 1, kind: Kind::Probe };
            self.lines[at].publish(&mut self.world, message);
        }
        self.settle(Duration::from_secs(60))?;
        Ok(())
    }
}

impl Reader {
    fn new(world: &mut World, filter: FilterId, quiet: Duration, seed: u64) -> Reader {
        let known = world.cast.clients().filter(|(_, c)| c.name.starts_with("reader-")).count();
        let version = if known.is_multiple_of(2) { Version::V5 } else { Version::V311 };
        let name = format!("reader-{known}");
        let me = world.cast.client(&name, version, Lasting::Not);
        let session = Session::new(&world.cast, me, None);
        let presence = Presence { away: Span(0, 1), ..Presence::ALWAYS };
        let role = Role::idle().present(presence).wants(&[filter], 1, false);
        let line = Line::new(world, session, role, seed);
        Reader { line, last: Instant::now(), got: 0, began: false, quiet }
    }

    /// Does what is due; whether it is through, well or badly.
    fn turn(&mut self, world: &mut World, doors: &[SocketAddr], now: Instant) -> bool {
        let client = self.line.session.me;
        self.line.read(world);
        let was_online = self.line.online();
        if was_online && !self.began {
            self.began = true;
            world.history.enter(What::ReadBegan { client });
        }
        self.line.tick(world, doors, now);
        if !self.line.online() {
            // A broken reading says only what it saw.
            if self.began {
                world.history.enter(What::ReadEnded { client, whole: false });
            }
            return self.began || now - self.last > Duration::from_secs(10);
        }
        if self.line.session.got != self.got || !self.line.role.settled() {
            (self.got, self.last) = (self.line.session.got, now);
            return false;
        }
        if now - self.last < self.quiet {
            return false;
        }
        let whole = self.quiet > READER_QUIET;
        world.history.enter(What::ReadEnded { client, whole });
        self.line.stay_away(world, now);
        true
    }
}
