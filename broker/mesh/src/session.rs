//! A session: all connections between this process and one other.
//!
//! One task a session gathers its connections, tells `Up`, waits for the first
//! that ends, and takes down the others. `Down` is told when the last reader
//! has stopped, so nothing of a session comes behind it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tidegate_peer::{
    Answer, AnswerOutcome, Call, ConnectionKind, Hello, Lane, LaneClass, MailClass, Message,
    NodeId, Reason, StoreId,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info};

use crate::call::{CallError, Calls, Request};
use crate::config::Place;
use crate::connection::{self, Connection};
use crate::counts::count;
use crate::greet::{self, Greeted, linger};
use crate::handler::{Ended, Event, Refusal, Room, Source};
use crate::limits::{CALL_TIME_MAX, CALLS_HANDLED_MAX, FAREWELL_TIME_MAX, GATHER_TIME_MAX};
use crate::net::Reading;
use crate::peer::{Generation, Peer, SendError};
use crate::shared::{Shared, Traffic};

/// A session, or the one connection of a guest.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) generation: Generation,
    /// The number in its Hellos; 0: a guest's.
    pub(crate) token: u64,
    pub(crate) is_caller: bool,
    /// Data connections; 0 with a fresh node, and then no bulk either.
    pub(crate) stripes: u8,
    pub(crate) hello: Arc<Hello>,
    /// The version of the protocol; that of the control connection, and each
    /// connection is made by the same two processes.
    pub(crate) proto: u16,
    pub(crate) remote: SocketAddr,
    pub(crate) config_differs: bool,
    connections: OnceLock<Connections>,
    calls: Calls,
    /// Calls of the peer that are dealt with.
    handled: AtomicUsize,
    over: watch::Sender<Option<Ended>>,
    class_queue_bytes: usize,
    pub(crate) traffic: Arc<Traffic>,
}

#[derive(Debug)]
struct Connections {
    control: Arc<Connection>,
    data: Vec<Arc<Connection>>,
    bulk: Option<Arc<Connection>>,
}

/// The tasks of a session's connections.
#[derive(Default)]
pub(crate) struct Tasks {
    readers: JoinSet<(Ended, Reading)>,
    writers: JoinSet<std::io::Result<()>>,
    all: Vec<Arc<Connection>>,
}

impl Session {
    pub(crate) fn new(
        greeted: &Greeted,
        generation: Generation,
        stripes: u8,
        class_queue_bytes: usize,
        traffic: Arc<Traffic>,
    ) -> Arc<Self> {
        let established = &greeted.established;
        Arc::new(Self {
            generation,
            token: established.peer.session,
            is_caller: established.is_caller,
            stripes,
            hello: Arc::new(established.peer.clone()),
            proto: established.proto,
            remote: greeted.remote,
            config_differs: established.config_differs,
            connections: OnceLock::new(),
            calls: Calls::default(),
            handled: AtomicUsize::new(0),
            over: watch::Sender::new(None),
            class_queue_bytes,
            traffic,
        })
    }

    pub(crate) fn node(&self) -> NodeId {
        self.hello.node
    }

    pub(crate) fn store(&self) -> StoreId {
        self.hello.store
    }

    fn is_guest(&self) -> bool {
        self.token == 0
    }

    /// Some, from when on it is over.
    pub(crate) fn over(&self) -> watch::Receiver<Option<Ended>> {
        self.over.subscribe()
    }

    /// Why it ended; none: it has not.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.over.borrow().clone()
    }

    /// Ends it; the first reason counts.
    pub(crate) fn end(&self, why: Ended) {
        self.over.send_if_modified(|over| {
            let is_first = over.is_none();
            if is_first {
                *over = Some(why);
            }
            is_first
        });
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.borrow().is_some()
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        let Some(all) = self.connections.get() else { return 0 };
        let rest = all.data.iter().chain(&all.bulk);
        rest.chain([&all.control]).map(|connection| connection.queued_bytes()).sum()
    }

    fn of_class(&self, class: MailClass) -> Result<&Arc<Connection>, SendError> {
        if self.is_over() {
            return Err(SendError::Lost);
        }
        let all = self.connections.get().ok_or(SendError::Lost)?;
        match class {
            MailClass::Shard(_) if all.data.is_empty() => Err(SendError::NoData),
            MailClass::Shard(shard) => Ok(&all.data[usize::from(shard) % all.data.len()]),
            MailClass::Routes | MailClass::Meta => Ok(&all.control),
        }
    }

    pub(crate) fn mail(&self, class: MailClass, body: Bytes) -> Result<(), SendError> {
        self.of_class(class)?.mail(class, body, self.class_queue_bytes)
    }

    pub(crate) fn is_ready(&self, class: MailClass) -> bool {
        let connection = self.of_class(class);
        connection.is_ok_and(|connection| connection.is_ready(class, self.class_queue_bytes))
    }

    pub(crate) fn is_writable(&self, shared: &Shared, class: MailClass) {
        if !self.is_over() {
            let (node, generation) = (self.node(), self.generation);
            shared.above.event(Event::Writable { node, generation, class });
        }
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Bytes, CallError> {
        let all = self.connections.get().ok_or(CallError::NotConnected)?;
        let connection = match request.over {
            ConnectionKind::Control => &all.control,
            ConnectionKind::Bulk => all.bulk.as_ref().ok_or(CallError::NotConnected)?,
            ConnectionKind::Data if all.data.is_empty() => return Err(CallError::NotConnected),
            ConnectionKind::Data => &all.data[usize::from(request.group) % all.data.len()],
        };
        let pending = self.calls.begin()?;
        let timeout_ms = u32::try_from(request.timeout.as_millis()).unwrap_or(u32::MAX);
        let call = Call {
            request: pending.request,
            group: request.group,
            what: request.what,
            timeout_ms,
            body: request.body,
        };
        let lane = Lane::new(LaneClass::Call, request.group.into());
        connection.send(lane, &Message::Call(call)).map_err(|error| match error {
            tidegate_peer::SendError::Full { .. } | tidegate_peer::SendError::TooManyLanes(_) => {
                CallError::Full
            }
            tidegate_peer::SendError::TooLarge { got, max } => CallError::TooLarge { got, max },
            tidegate_peer::SendError::Misplaced => CallError::NotConnected,
            tidegate_peer::SendError::Ending => CallError::Lost,
        })?;
        pending.answer(request.timeout).await
    }

    /// A message came over one of its connections.
    pub(crate) fn take(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        connection: &Arc<Connection>,
        lane: Lane,
        message: Message,
        charge: usize,
    ) -> Result<(), Ended> {
        let room = Room { connection: connection.clone(), lane, charge };
        match message {
            Message::Call(call) => {
                self.handle(shared, call, room);
                Ok(())
            }
            Message::Answer(answer) => {
                if !self.calls.answer(answer) {
                    count(&shared.counters.answers_late);
                }
                Ok(())
            }
            Message::Mail(_) if self.is_guest() => {
                Err(Ended::here(Reason::WrongConnection, "mail of no session"))
            }
            Message::Mail(mail) => {
                count(&shared.counters.mails);
                shared.above.mail(&Peer(self.clone()), mail.class, mail.body, room);
                Ok(())
            }
            Message::Pong(_) => {
                count(&shared.counters.pongs);
                Ok(())
            }
            // Taken by the link.
            Message::Hello(_)
            | Message::Proof(_)
            | Message::Welcome(_)
            | Message::Goodbye(_)
            | Message::Ping(_)
            | Message::Credit(_) => Ok(()),
            // Set aside for later: nothing here deals with them.
            other @ (Message::Heartbeats(_)
            | Message::HeartbeatAcks(_)
            | Message::Append(_)
            | Message::AppendAck(_)
            | Message::Enqueue(_)
            | Message::EnqueueAck(_)
            | Message::Deliver(_)
            | Message::Ack(_)
            | Message::VoteRequest(_)
            | Message::VoteReply(_)
            | Message::TransferLeader(_)
            | Message::LeaseRequest(_)
            | Message::LeaseGrant(_)
            | Message::RouteSnapshot(_)
            | Message::RouteIncrement(_)
            | Message::RouteAck(_)
            | Message::RoutePing(_)
            | Message::RouteResume(_)
            | Message::Claim(_)
            | Message::ClaimReply(_)
            | Message::Evict(_)
            | Message::Evicted(_)
            | Message::Command(_)
            | Message::CommandReply(_)
            | Message::AckConfirm(_)
            | Message::LaneQuery(_)
            | Message::LanePosition(_)
            | Message::RetainedQuery(_)
            | Message::RetainedAnswer(_)
            | Message::Drain(_)
            | Message::DrainProgress(_)
            | Message::SnapshotOffer(_)
            | Message::SnapshotChunk(_)
            | Message::SnapshotAck(_)
            | Message::Register(_)
            | Message::RegisterReply(_)
            | Message::MetaWatch(_)
            | Message::MetaDelta(_)) => {
                let name = other.message_type().name();
                Err(Ended::here(Reason::UnknownType, format!("{name} is not in use")))
            }
        }
    }

    /// Deals with a call of the peer, beside others.
    fn handle(self: &Arc<Self>, shared: &Arc<Shared>, call: Call, room: Room) {
        let lane = Lane::new(LaneClass::Answer, call.group.into());
        let request = call.request;
        if self.handled.fetch_add(1, Ordering::Relaxed) >= CALLS_HANDLED_MAX {
            self.handled.fetch_sub(1, Ordering::Relaxed);
            count(&shared.counters.calls_busy);
            let outcome = AnswerOutcome::Busy;
            let busy = Answer { request, outcome, code: 0, body: Bytes::new() };
            if room.connection.send(lane, &Message::Answer(busy)).is_err() {
                count(&shared.counters.answers_dropped);
            }
            return;
        }
        count(&shared.counters.calls_handled);
        let time = std::time::Duration::from_millis(call.timeout_ms.into()).min(CALL_TIME_MAX);
        let deadline = Instant::now() + time;
        let source = Source {
            hello: self.hello.clone(),
            remote: self.remote,
            generation: (!self.is_guest()).then_some(self.generation),
        };
        let kind = self.kind_of(&room.connection);
        let asked = Request {
            over: kind,
            group: call.group,
            what: call.what,
            body: call.body,
            timeout: time,
        };
        let mut answering = shared.above.call(source, asked);
        // Begun here, so that calls are begun in the order in which they came;
        // whoever is not done at once is polled again by its own task.
        let begun = answering.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let (session, shared) = (self.clone(), shared.clone());
        if let Poll::Ready(answered) = begun {
            let answer = Message::Answer(answer(request, answered));
            if room.connection.send(lane, &answer).is_ok() {
                session.handled.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            tokio::spawn(async move {
                session.answer(&shared, lane, &answer, room, deadline).await;
            });
            return;
        }
        tokio::spawn(async move {
            let mut over = session.over();
            let answered = tokio::select! {
                answered = timeout_at(deadline, answering) => answered.ok(),
                ended = over.wait_for(Option::is_some) => {
                    drop(ended);
                    None
                }
            };
            match answered {
                Some(answered) => {
                    let answer = Message::Answer(answer(request, answered));
                    session.answer(&shared, lane, &answer, room, deadline).await;
                }
                None => {
                    session.handled.fetch_sub(1, Ordering::Relaxed);
                }
            }
        });
    }

    /// Sends an answer as soon as there is room; then the call is dealt with.
    async fn answer(
        &self,
        shared: &Shared,
        lane: Lane,
        answer: &Message,
        room: Room,
        deadline: Instant,
    ) {
        if !room.connection.send_by(lane, answer, deadline).await {
            count(&shared.counters.answers_dropped);
        }
        self.handled.fetch_sub(1, Ordering::Relaxed);
    }

    fn kind_of(&self, connection: &Arc<Connection>) -> ConnectionKind {
        let Some(all) = self.connections.get() else { return ConnectionKind::Control };
        if Arc::ptr_eq(connection, &all.control) {
            ConnectionKind::Control
        } else if all.bulk.as_ref().is_some_and(|bulk| Arc::ptr_eq(connection, bulk)) {
            ConnectionKind::Bulk
        } else {
            ConnectionKind::Data
        }
    }
}

impl Tasks {
    /// Begins to serve a connection. What comes is held back until `up`.
    fn serve(
        &mut self,
        shared: &Arc<Shared>,
        session: &Arc<Session>,
        greeted: Greeted,
        up: &watch::Sender<bool>,
    ) -> Arc<Connection> {
        let connection = Connection::new(&greeted.established, session.traffic.clone());
        let (shared, session) = (shared.clone(), session.clone());
        let reader = connection::read(
            shared.clone(),
            session.clone(),
            connection.clone(),
            greeted.reading,
            greeted.rest,
            up.subscribe(),
        );
        self.readers.spawn(reader);
        let writer =
            connection::write(shared, session, connection.clone(), greeted.writing, greeted.first);
        self.writers.spawn(writer);
        self.all.push(connection.clone());
        connection
    }

    /// The first of them that ends.
    async fn ends(&mut self) -> Ended {
        tokio::select! {
            Some(read) = self.readers.join_next() => match read {
                Ok((ended, reading)) => {
                    // Its Goodbye is on its way.
                    self.readers.spawn(async move { (Ended::here(Reason::Finished, ""), reading) });
                    ended
                }
                Err(error) => Ended::Broken(error.to_string()),
            },
            Some(written) = self.writers.join_next() => match written {
                Ok(Ok(())) => Ended::Broken("the writer stopped".into()),
                Ok(Err(error)) => Ended::Broken(error.to_string()),
                Err(error) => Ended::Broken(error.to_string()),
            },
            else => Ended::Broken("no connection".into()),
        }
    }

    /// Ends all and waits for the readers; the rest goes on by itself.
    async fn end(mut self, why: &Ended) {
        let (reason, detail) = match why {
            Ended::Here { reason, detail } => (*reason, detail.as_str()),
            Ended::ByPeer(_) | Ended::Broken(_) => (Reason::Finished, "the session is over"),
        };
        self.all.iter().for_each(|connection| connection.end(reason, detail));
        let mut left = Vec::new();
        while let Some(read) = self.readers.join_next().await {
            if let Ok((_, reading)) = read {
                left.push(reading);
            }
        }
        let mut writers = self.writers;
        tokio::spawn(async move {
            let written = async { while writers.join_next().await.is_some() {} };
            let _: Result<(), _> = timeout(FAREWELL_TIME_MAX, written).await;
            writers.abort_all();
            let mut lingering = JoinSet::new();
            left.into_iter().for_each(|reading| {
                lingering.spawn(linger(reading));
            });
            lingering.join_all().await;
        });
    }
}

/// How a session's other connections come about.
pub(crate) enum Others {
    /// This side calls for them, at this address.
    Call(String),
    /// They are handed over as they come.
    Await(mpsc::Receiver<Greeted>),
}

/// Runs a session from its control connection to its end.
pub(crate) async fn run(
    shared: Arc<Shared>,
    session: Arc<Session>,
    control: Greeted,
    others: Others,
    before: Option<watch::Receiver<bool>>,
    done: watch::Sender<bool>,
) {
    let up = watch::Sender::new(false);
    let mut tasks = Tasks::default();
    let control = tasks.serve(&shared, &session, control, &up);
    let mut over = session.over();
    let gathered = {
        let gather = gather(&shared, &session, others);
        tokio::select! {
            gathered = timeout(GATHER_TIME_MAX, gather) => gathered.unwrap_or_else(|_| {
                Err(Ended::here(Reason::HandshakeTimeout, "the other connections did not come"))
            }),
            ended = tasks.ends() => Err(ended),
            ended = over.wait_for(Option::is_some) => Err(reason(ended.ok().as_deref())),
        }
    };
    let mut is_up = false;
    let why = match gathered {
        Err(why) => why,
        Ok((data, bulk)) => {
            let mut serve = |greeted| tasks.serve(&shared, &session, greeted, &up);
            let data = data.into_iter().map(&mut serve).collect();
            let bulk = bulk.map(serve);
            let set = session.connections.set(Connections { control, data, bulk });
            debug_assert!(set.is_ok(), "set once");
            if let Some(mut before) = before {
                // An error: it is gone, and with it what it had to say.
                let _: Result<_, _> = before.wait_for(|is_done| *is_done).await.map(drop);
            }
            // Whoever ended it meanwhile need not hear of it.
            if shared.comes_up(&session) {
                is_up = true;
                count(&shared.counters.ups);
                info!(node = %session.node(), incarnation = session.hello.incarnation,
                    generation = %session.generation, remote = %session.remote, "peer up");
                shared.above.event(Event::Up { peer: Peer(session.clone()) });
                up.send_replace(true);
            }
            tokio::select! {
                biased;
                ended = over.wait_for(Option::is_some) => reason(ended.ok().as_deref()),
                ended = tasks.ends() => ended,
            }
        }
    };
    session.end(why);
    let why = reason(Some(&*session.over.borrow()));
    shared.goes_down(&session, &why, is_up);
    tasks.end(&why).await;
    session.calls.end();
    if is_up {
        count(&shared.counters.downs);
        info!(node = %session.node(), generation = %session.generation, %why, "peer down");
        let (node, incarnation) = (session.node(), session.hello.incarnation);
        let generation = session.generation;
        shared.above.event(Event::Down { node, incarnation, generation, why });
    } else {
        debug!(node = %session.node(), %why, "no session");
    }
    done.send_replace(true);
    shared.tidy(session.node());
}

fn reason(over: Option<&Option<Ended>>) -> Ended {
    over.cloned().flatten().unwrap_or_else(|| Ended::here(Reason::Finished, "over"))
}

fn answer(request: u64, answered: Result<Bytes, Refusal>) -> Answer {
    let (outcome, code, body) = match answered {
        Ok(body) => (AnswerOutcome::Done, 0, body),
        Err(Refusal { code, detail }) => (AnswerOutcome::Refused, code, detail.into()),
    };
    Answer { request, outcome, code, body }
}

/// The data connections, in order of their stripes, and the one for bulk.
async fn gather(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    others: Others,
) -> Result<(Vec<Greeted>, Option<Greeted>), Ended> {
    let stripes = usize::from(session.stripes);
    if stripes == 0 {
        return Ok((Vec::new(), None));
    }
    let mut data: Vec<Option<Greeted>> = (0..stripes).map(|_| None).collect();
    let mut bulk = None;
    let mut calls = JoinSet::new();
    let mut handed = match others {
        Others::Await(handed) => Some(handed),
        Others::Call(address) => {
            let data = (0..session.stripes).map(|stripe| (ConnectionKind::Data, stripe));
            for (kind, stripe) in data.chain([(ConnectionKind::Bulk, 0)]) {
                let place =
                    Place { kind, stripe, stripes: session.stripes, session: session.token };
                let (shared, address) = (shared.clone(), address.clone());
                calls.spawn(async move {
                    greet::call(&shared, &address, place, greet::deadline(&shared)).await
                });
            }
            None
        }
    };
    while bulk.is_none() || data.iter().any(Option::is_none) {
        let greeted = match &mut handed {
            Some(handed) => handed.recv().await.ok_or_else(|| Ended::Broken("replaced".into()))?,
            None => match calls.join_next().await {
                Some(Ok(Ok(greeted))) => greeted,
                Some(Ok(Err(error))) => return Err(Ended::Broken(error.to_string())),
                Some(Err(error)) => return Err(Ended::Broken(error.to_string())),
                None => return Err(Ended::Broken("a connection is missing".into())),
            },
        };
        let peer = &greeted.established.peer;
        if (peer.node, peer.incarnation) != (session.node(), session.hello.incarnation) {
            greeted.refuse(Reason::WrongNode, "another process answers there").await;
            return Err(Ended::here(Reason::WrongNode, "another process answers there"));
        }
        let slot = match peer.kind {
            ConnectionKind::Bulk => &mut bulk,
            ConnectionKind::Data if usize::from(peer.stripe) < stripes => {
                &mut data[usize::from(peer.stripe)]
            }
            ConnectionKind::Data | ConnectionKind::Control => {
                return Err(Ended::here(Reason::BadHello, "not one of that session's"));
            }
        };
        *slot = Some(greeted);
    }
    Ok((data.into_iter().flatten().collect(), bulk))
}

/// Begins to serve the one connection of a guest, at either end.
pub(crate) fn open_guest(shared: &Arc<Shared>, session: &Arc<Session>, control: Greeted) -> Tasks {
    let up = watch::Sender::new(true);
    let mut tasks = Tasks::default();
    let control = tasks.serve(shared, session, control, &up);
    let all = Connections { control, data: Vec::new(), bulk: None };
    let set = session.connections.set(all);
    debug_assert!(set.is_ok(), "set once");
    tasks
}

/// Runs it to its end; nobody is told.
pub(crate) async fn run_guest(
    shared: Arc<Shared>,
    session: Arc<Session>,
    mut tasks: Tasks,
    time: std::time::Duration,
) {
    let mut over = session.over();
    let why = tokio::select! {
        ended = tasks.ends() => ended,
        ended = over.wait_for(Option::is_some) => reason(ended.ok().as_deref()),
        () = tokio::time::sleep(time) => Ended::here(Reason::Finished, "asked for too long"),
    };
    session.end(why);
    let why = reason(Some(&*session.over.borrow()));
    shared.count_end(&why, session.remote);
    tasks.end(&why).await;
    session.calls.end();
}
