//! One open connection: a task that reads, a task that writes, a `Link` between.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tidegate_peer::{
    Established, FRAME_BYTES_MAX, Lane, Link, Mail, MailClass, Message, Ping, Reason, Received,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::counts::count;
use crate::handler::Ended;
use crate::limits::{READ_BYTES, WRITE_BYTES, WRITE_PARTS_MAX};
use crate::net::{Reading, Writing};
use crate::peer::SendError;
use crate::session::Session;
use crate::shared::{Shared, Traffic};

/// One open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    is_bulk: bool,
    state: Mutex<State>,
    /// The writer has something to do.
    wake: Notify,
    /// Something has left, and there may be room.
    room: Notify,
    traffic: Arc<Traffic>,
}

#[derive(Debug)]
struct State {
    link: Link,
    /// Classes whose sender was told `Full`.
    full: BTreeSet<MailClass>,
}

impl Connection {
    pub(crate) fn new(established: &Established, traffic: Arc<Traffic>) -> Arc<Self> {
        let is_bulk = established.peer.kind == tidegate_peer::ConnectionKind::Bulk;
        let state = State { link: Link::new(established), full: BTreeSet::new() };
        let state = Mutex::new(state);
        let (wake, room) = (Notify::new(), Notify::new());
        Arc::new(Self { is_bulk, state, wake, room, traffic })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    pub(crate) fn send(
        &self,
        lane: Lane,
        message: &Message,
    ) -> Result<(), tidegate_peer::SendError> {
        self.lock().link.send(lane, message)?;
        self.traffic.sent_frames.count(message);
        self.wake.notify_one();
        Ok(())
    }

    /// The same, waiting until there is room; false: there was none in time.
    pub(crate) async fn send_by(&self, lane: Lane, message: &Message, deadline: Instant) -> bool {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // Before the try, so that what leaves after it is not missed.
            room.as_mut().enable();
            match self.send(lane, message) {
                Ok(()) => return true,
                Err(tidegate_peer::SendError::Full { .. }) => {}
                Err(
                    tidegate_peer::SendError::TooLarge { .. }
                    | tidegate_peer::SendError::TooManyLanes(_)
                    | tidegate_peer::SendError::Misplaced
                    | tidegate_peer::SendError::Ending,
                ) => return false,
            }
            tokio::select! {
                () = room => {}
                () = sleep_until(deadline) => return false,
            }
        }
    }

    pub(crate) fn mail(
        &self,
        class: MailClass,
        body: Bytes,
        queue_max: usize,
    ) -> Result<(), SendError> {
        let mut state = self.lock();
        let lane = class.lane();
        if state.link.queued_on(lane) >= queue_max {
            state.full.insert(class);
            return Err(SendError::Full);
        }
        let mail = Message::Mail(Mail { class, body });
        match state.link.send(lane, &mail) {
            Ok(()) => self.traffic.sent_frames.count(&mail),
            Err(tidegate_peer::SendError::Full { .. }) => {
                state.full.insert(class);
                return Err(SendError::Full);
            }
            Err(tidegate_peer::SendError::TooLarge { got, max }) => {
                return Err(SendError::TooLarge { got, max });
            }
            Err(tidegate_peer::SendError::TooManyLanes(_)) => return Err(SendError::Full),
            Err(tidegate_peer::SendError::Misplaced) => return Err(SendError::NoData),
            Err(tidegate_peer::SendError::Ending) => return Err(SendError::Lost),
        }
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Whether mail of that class would be taken; if not, `Writable` follows.
    pub(crate) fn is_ready(&self, class: MailClass, queue_max: usize) -> bool {
        let mut state = self.lock();
        let is_ready = state.link.queued_on(class.lane()) < queue_max && !state.link.is_ending();
        if !is_ready {
            state.full.insert(class);
        }
        is_ready
    }

    /// What came on that lane was dealt with.
    pub(crate) fn release(&self, lane: Lane, charge: usize) {
        let mut state = self.lock();
        state.link.release(lane, charge);
        let is_ready = state.link.is_ready();
        drop(state);
        if is_ready {
            self.wake.notify_one();
        }
    }

    pub(crate) fn end(&self, reason: Reason, detail: &str) {
        self.lock().link.end(reason, detail);
        self.wake.notify_one();
        self.room.notify_waiters();
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.lock().link.queued_bytes()
    }

    fn is_ready_to_write(&self) -> bool {
        self.lock().link.is_ready()
    }
}

/// Reads until the connection ends; gives the socket back, to be lingered on.
pub(crate) async fn read(
    shared: Arc<Shared>,
    session: Arc<Session>,
    connection: Arc<Connection>,
    mut reading: Reading,
    mut bytes: BytesMut,
    mut up: watch::Receiver<bool>,
) -> (Ended, Reading) {
    let mut over = session.over();
    let silent = shared.config.silent;
    let tick = silent / 4;
    let mut heard = Instant::now();
    loop {
        // All that is there.
        let missing = loop {
            let received = connection.lock().link.receive(&mut bytes);
            match received {
                Ok(Received::NeedMore(missing)) => break missing,
                Ok(Received::Goodbye(goodbye)) => return (Ended::ByPeer(goodbye), reading),
                Ok(Received::Message { lane, message, charge }) => {
                    session.traffic.received_frames.count(&message);
                    if !*up.borrow() {
                        // The peer had all connections before we did.
                        let wait = up.wait_for(|is_up| *is_up);
                        tokio::select! {
                            up = wait => if up.is_err() {
                                return (Ended::here(Reason::Finished, "over"), reading);
                            },
                            ended = over.wait_for(Option::is_some) => {
                                drop(ended);
                                return (Ended::here(Reason::Finished, "over"), reading);
                            }
                        }
                    }
                    if let Err(ended) = session.take(&shared, &connection, lane, message, charge) {
                        return (ended, reading);
                    }
                }
                Err(error) => {
                    let ended = Ended::here(error.reason(), error.to_string());
                    return (ended, reading);
                }
            }
        };
        if connection.is_ready_to_write() {
            connection.wake.notify_one();
        }
        bytes.reserve(missing.max(READ_BYTES));
        let read = tokio::select! {
            read = timeout(tick, reading.read_buf(&mut bytes)) => read,
            ended = over.wait_for(Option::is_some) => {
                drop(ended);
                return (Ended::here(Reason::Finished, "over"), reading);
            }
        };
        match read {
            Ok(Ok(0)) => return (Ended::Broken("the peer hung up".into()), reading),
            Ok(Ok(count)) => {
                session.traffic.received.fetch_add(count as u64, Ordering::Relaxed);
                heard = Instant::now();
            }
            Ok(Err(error)) => return (Ended::Broken(error.to_string()), reading),
            Err(_) if heard.elapsed() >= silent => {
                let detail = format!("nothing was heard for {} ms", heard.elapsed().as_millis());
                return (Ended::here(Reason::Silent, detail), reading);
            }
            Err(_) => {
                count(&shared.counters.pings);
                let sent_ns = u64::try_from(shared.now().as_nanos()).unwrap_or(u64::MAX);
                let ping = Message::Ping(Ping { sent_ns });
                if let Err(tidegate_peer::SendError::Full { .. }) =
                    connection.send(Lane::LINK, &ping)
                {
                    let detail = "what cannot wait is not read";
                    return (Ended::here(Reason::Overloaded, detail), reading);
                }
            }
        }
    }
}

/// Writes until the connection has been ended and its Goodbye has left.
pub(crate) async fn write(
    shared: Arc<Shared>,
    session: Arc<Session>,
    connection: Arc<Connection>,
    mut writing: Writing,
    first: Bytes,
) -> Result<(), io::Error> {
    writing.write_all(&first).await?;
    let mut out = Vec::new();
    let mut writable = Vec::new();
    loop {
        out.clear();
        let (pulled, is_ending, wait) = pull(&shared, &connection, &mut out, &mut writable);
        for class in writable.drain(..) {
            session.is_writable(&shared, class);
        }
        if pulled > 0 {
            connection.room.notify_waiters();
            write_parts(&mut writing, &mut out).await?;
            session.traffic.sent.fetch_add(pulled as u64, Ordering::Relaxed);
            continue;
        }
        if is_ending {
            return writing.shutdown().await;
        }
        match wait {
            Some(wait) => {
                // Less than the wait, if something urgent comes.
                let _: Result<(), _> = timeout(wait, connection.wake.notified()).await;
            }
            None => connection.wake.notified().await,
        }
    }
}

/// What is to be written next; of a bulk connection: what may be, or how long
/// to wait.
fn pull(
    shared: &Shared,
    connection: &Connection,
    out: &mut Vec<Bytes>,
    writable: &mut Vec<MailClass>,
) -> (usize, bool, Option<Duration>) {
    let mut state = connection.lock();
    let mut wait = None;
    let pulled = if connection.is_bulk {
        let mut pulled = state.link.pull_urgent(WRITE_BYTES, out);
        if state.link.is_ready() {
            let least = FRAME_BYTES_MAX as u64;
            let (mut cap, now) = (shared.cap(), shared.now());
            let available = cap.available(now);
            if available >= least {
                let most = usize::try_from(available).unwrap_or(WRITE_BYTES).min(WRITE_BYTES);
                pulled += state.link.pull(most, out);
            } else {
                wait = Some(cap.ready_at(least, now).saturating_sub(now));
            }
            cap.spend(pulled as u64);
        }
        pulled
    } else {
        state.link.pull(WRITE_BYTES, out)
    };
    if pulled > 0 && !state.full.is_empty() {
        let State { link, full } = &mut *state;
        let half = shared.config.class_queue_bytes / 2;
        full.retain(|class| {
            let is_full = link.queued_on(class.lane()) > half;
            if !is_full {
                writable.push(*class);
            }
            is_full
        });
    }
    (pulled, state.link.is_ending(), wait)
}

async fn write_parts(writing: &mut Writing, parts: &mut [Bytes]) -> io::Result<()> {
    let mut at = 0;
    while at < parts.len() {
        let slices: Vec<IoSlice<'_>> =
            parts[at..].iter().take(WRITE_PARTS_MAX).map(|part| IoSlice::new(part)).collect();
        let mut written = writing.write_vectored(&slices).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while at < parts.len() && written >= parts[at].len() {
            written -= parts[at].len();
            parts[at] = Bytes::new();
            at += 1;
        }
        if written > 0 {
            parts[at].advance(written);
        }
    }
    writing.flush().await
}
