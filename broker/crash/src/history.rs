//! What happened, in order, as the clients and the killer saw it.
//!
//! The judge reads nothing else, so a test can write a history with a loss in
//! it and ask whether the judge sees the loss. Nothing in here is what the
//! broker says of itself.

use std::fmt::{self, Write as _};
use std::time::Instant;

use crate::cast::{Cast, ClientId, FilterId, MessageId, TopicId};
use crate::judge::Concern;

/// How a connection ended, from the client's side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The client said DISCONNECT, and saw the broker close.
    Goodbye,
    /// The client dropped the socket.
    Dropped,
    /// The broker closed or was gone.
    Broker,
}

/// What is done to a cluster. Nodes have numbers from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mark {
    /// SIGKILL to a node.
    Killed(u8),
    /// SIGKILL to all.
    AllKilled,
    /// SIGTERM to a node.
    Stopped(u8),
    /// A process is started.
    Started(u8),
    /// A process ended because its cluster had given it up, and is started again.
    Reborn(u8),
    /// SIGSTOP.
    Paused(u8),
    /// SIGCONT.
    Resumed(u8),
    /// Links are cut.
    Cut,
    /// The links of a node become slow.
    Slowed(u8),
    /// All links are whole again.
    Healed,
    /// Its data directory is removed.
    Wiped(u8),
    /// A byte of its log is changed.
    Corrupted(u8),
    /// It is told to leave.
    Left(u8),
    /// Every node has another address.
    Moved,
    /// The load ends.
    Calm,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Killed(node) => write!(f, "node {node} is killed"),
            Mark::AllKilled => write!(f, "all nodes are killed"),
            Mark::Stopped(node) => write!(f, "node {node} is stopped"),
            Mark::Started(node) => write!(f, "node {node} is started"),
            Mark::Reborn(node) => write!(f, "node {node} begins a new life by itself"),
            Mark::Paused(node) => write!(f, "node {node} is paused"),
            Mark::Resumed(node) => write!(f, "node {node} goes on"),
            Mark::Cut => write!(f, "links are cut"),
            Mark::Slowed(node) => write!(f, "node {node} has slow links"),
            Mark::Healed => write!(f, "all links are whole"),
            Mark::Wiped(node) => write!(f, "node {node} has lost its disk"),
            Mark::Corrupted(node) => write!(f, "node {node} has a damaged disk"),
            Mark::Left(node) => write!(f, "node {node} leaves"),
            Mark::Moved => write!(f, "all nodes have new addresses"),
            Mark::Calm => write!(f, "the load ends"),
        }
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum What {
    /// The broker says that it is ready.
    Ready,
    /// SIGKILL is sent, or the process ended by itself.
    Down,
    /// From here on every sync of a file fails, until the next `Ready`.
    SyncBroken,
    /// Something was done to a cluster, after which acknowledgements have to
    /// come again within so many milliseconds, if it says so.
    Done {
        mark: Mark,
        within_ms: Option<u32>,
    },
    /// CONNECT leaves; with this will.
    ConnectSent {
        client: ClientId,
        will: Option<MessageId>,
    },
    /// CONNACK with success.
    Connected {
        client: ClientId,
        present: bool,
    },
    /// CONNACK with a failure.
    Refused {
        client: ClientId,
        code: u8,
    },
    /// The connection is over.
    Closed {
        client: ClientId,
        how: End,
    },
    /// PUBLISH leaves; `again` with DUP.
    Sent {
        message: MessageId,
        again: bool,
    },
    /// PUBACK or PUBREC with success: the broker answers for it.
    Acked {
        message: MessageId,
    },
    /// PUBCOMP, and at QoS 1 the PUBACK: the publisher is through with it.
    Completed {
        message: MessageId,
    },
    /// PUBACK or PUBREC with a failure.
    Rejected {
        message: MessageId,
        code: u8,
    },
    SubscribeSent {
        client: ClientId,
        filter: FilterId,
    },
    Subscribed {
        client: ClientId,
        filter: FilterId,
        granted: u8,
    },
    UnsubscribeSent {
        client: ClientId,
        filter: FilterId,
    },
    Unsubscribed {
        client: ClientId,
        filter: FilterId,
    },
    /// PUBLISH to a client. `suppressed`: its QoS 2 state says that the
    /// application has it already.
    Delivered {
        client: ClientId,
        message: MessageId,
        id: u16,
        qos: u8,
        dup: bool,
        suppressed: bool,
        expiry: Option<u32>,
    },
    /// PUBREL to a client.
    Released {
        client: ClientId,
        message: Option<MessageId>,
        id: u16,
    },
    /// The client's PUBACK (4), PUBREC (5) or PUBCOMP (7) leaves.
    Answered {
        client: ClientId,
        message: Option<MessageId>,
        kind: u8,
        id: u16,
    },
    /// A new client asks for the retained messages.
    ReadBegan {
        client: ClientId,
    },
    /// It got one.
    Read {
        client: ClientId,
        topic: TopicId,
        message: MessageId,
    },
    /// It is through; `whole`: it would have got all there are.
    ReadEnded {
        client: ClientId,
        whole: bool,
    },
    /// A payload that nobody sent, or a packet that no broker may send.
    Damaged {
        client: ClientId,
    },
}

/// Something that happened, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    /// Microseconds since the run began.
    pub(crate) at: u64,
    /// What.
    pub(crate) what: What,
}

/// Everything that happened so far.
#[derive(Debug)]
pub(crate) struct History {
    began: Instant,
    events: Vec<Event>,
}

impl History {
    /// An empty one.
    pub(crate) fn new(began: Instant) -> History {
        History { began, events: Vec::new() }
    }

    /// Enters what happens now.
    pub(crate) fn enter(&mut self, what: What) {
        self.enter_at(Instant::now(), what);
    }

    /// Enters what happened at `when`.
    pub(crate) fn enter_at(&mut self, when: Instant, what: What) {
        let at = when.saturating_duration_since(self.began).as_micros() as u64;
        self.events.push(Event { at, what });
    }

    /// The number of events.
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    /// All of it in the order of time.
    pub(crate) fn into_events(mut self) -> Vec<Event> {
        self.events.sort_by_key(|event| event.at);
        self.events
    }
}

impl What {
    /// The message that it is about.
    pub(crate) fn message(self) -> Option<MessageId> {
        match self {
            What::Sent { message, .. }
            | What::Acked { message }
            | What::Completed { message }
            | What::Rejected { message, .. }
            | What::Delivered { message, .. }
            | What::Read { message, .. } => Some(message),
            What::ConnectSent { will, .. } => will,
            What::Released { message, .. } | What::Answered { message, .. } => message,
            What::Ready
            | What::Down
            | What::SyncBroken
            | What::Done { .. }
            | What::Connected { .. }
            | What::Refused { .. }
            | What::Closed { .. }
            | What::SubscribeSent { .. }
            | What::Subscribed { .. }
            | What::UnsubscribeSent { .. }
            | What::Unsubscribed { .. }
            | What::ReadBegan { .. }
            | What::ReadEnded { .. }
            | What::Damaged { .. } => None,
        }
    }

    /// The client that it happened to, where the message does not say it.
    pub(crate) fn client(self) -> Option<ClientId> {
        match self {
            What::ConnectSent { client, .. }
            | What::Connected { client, .. }
            | What::Refused { client, .. }
            | What::Closed { client, .. }
            | What::SubscribeSent { client, .. }
            | What::Subscribed { client, .. }
            | What::UnsubscribeSent { client, .. }
            | What::Unsubscribed { client, .. }
            | What::Delivered { client, .. }
            | What::Released { client, .. }
            | What::Answered { client, .. }
            | What::ReadBegan { client }
            | What::Read { client, .. }
            | What::ReadEnded { client, .. }
            | What::Damaged { client } => Some(client),
            What::Ready
            | What::Down
            | What::SyncBroken
            | What::Done { .. }
            | What::Sent { .. }
            | What::Acked { .. }
            | What::Completed { .. }
            | What::Rejected { .. } => None,
        }
    }

    fn is_of_the_broker(self) -> bool {
        matches!(self, What::Ready | What::Down | What::SyncBroken | What::Done { .. })
    }

    fn is_of_the_connection(self) -> bool {
        matches!(
            self,
            What::ConnectSent { .. }
                | What::Connected { .. }
                | What::Refused { .. }
                | What::Closed { .. }
                | What::SubscribeSent { .. }
                | What::Subscribed { .. }
                | What::UnsubscribeSent { .. }
                | What::Unsubscribed { .. }
                | What::ReadBegan { .. }
                | What::ReadEnded { .. }
        )
    }
}

/// Lines of a story: beyond them the middle is left out.
const STORY_LINES_MAX: usize = 60;

/// How much of a story comes before and after what it is about.
const BEFORE_US: u64 = 5_000_000;
const AFTER_US: u64 = 3_000_000;

/// What happened to a message and to a client, with what happened to the
/// broker in between, as lines for a person.
pub(crate) fn story(cast: &Cast, events: &[Event], concern: Concern) -> Vec<String> {
    let Concern { message, client, at } = concern;
    let publisher = message.and_then(|id| cast.get(id)).map(|message| message.publisher);
    let concerned = |who: Option<ClientId>| who.is_some() && (who == client || who == publisher);
    // Of all who got the message only the one concerned.
    let of_message = |what: What| {
        message.is_some()
            && what.message() == message
            && (client.is_none() || what.client().is_none() || concerned(what.client()))
    };
    let own = |event: &&Event| of_message(event.what);
    let first = events.iter().find(own).map(|event| event.at).or(at);
    let last = events.iter().rfind(own).map(|event| event.at).or(at);
    let (Some(first), Some(last)) = (first, last) else { return Vec::new() };
    // Somewhat before and after what concerns the message itself.
    let (from, to) = (first.saturating_sub(BEFORE_US), last + AFTER_US);
    let mut lines = Vec::new();
    for event in events.iter().filter(|event| (from..=to).contains(&event.at)) {
        let what = event.what;
        let around = what.is_of_the_connection() && concerned(what.client());
        if of_message(what) || around || what.is_of_the_broker() {
            lines.push(line(cast, event));
        }
    }
    if lines.len() > STORY_LINES_MAX {
        let cut = lines.len() - STORY_LINES_MAX;
        let half = STORY_LINES_MAX / 2;
        lines.splice(half..half + cut, [format!("... {cut} lines left out ...")]);
    }
    lines
}

/// One event for a person.
pub(crate) fn line(cast: &Cast, event: &Event) -> String {
    let name = |id: ClientId| cast.of(id).name.as_str();
    let of = |message: MessageId| {
        let known = cast.get(message);
        known.map_or("", |known| name(known.publisher))
    };
    let mut text = format!("{:>12.6}  ", event.at as f64 / 1e6);
    let _ = match event.what {
        What::Ready => write!(text, "---- the broker is ready"),
        What::Down => write!(text, "---- the broker is down"),
        What::Done { mark, .. } => write!(text, "---- {mark}"),
        What::SyncBroken => write!(text, "---- every sync fails from here"),
        What::ConnectSent { client, will: None } => write!(text, "{} -> CONNECT", name(client)),
        What::ConnectSent { client, will: Some(will) } => {
            write!(text, "{} -> CONNECT with will {will}", name(client))
        }
        What::Connected { client, present } => {
            write!(text, "{} <- CONNACK, session present {}", name(client), u8::from(present))
        }
        What::Refused { client, code } => write!(text, "{} <- CONNACK {code:#04x}", name(client)),
        What::Closed { client, how } => write!(text, "{} closed: {how:?}", name(client)),
        What::Sent { message, again } => {
            let dup = if again { " DUP" } else { "" };
            write!(text, "{} -> PUBLISH {message}{dup}", of(message))
        }
        What::Acked { message } => write!(text, "{} <- PUBACK/PUBREC {message}", of(message)),
        What::Completed { message } => write!(text, "{} is through with {message}", of(message)),
        What::Rejected { message, code } => {
            write!(text, "{} <- refusal {code:#04x} of {message}", of(message))
        }
        What::SubscribeSent { client, filter } => {
            write!(text, "{} -> SUBSCRIBE {}", name(client), cast.filter_name(filter))
        }
        What::Subscribed { client, filter, granted } => {
            write!(text, "{} <- SUBACK {} QoS {granted}", name(client), cast.filter_name(filter))
        }
        What::UnsubscribeSent { client, filter } => {
            write!(text, "{} -> UNSUBSCRIBE {}", name(client), cast.filter_name(filter))
        }
        What::Unsubscribed { client, filter } => {
            write!(text, "{} <- UNSUBACK {}", name(client), cast.filter_name(filter))
        }
        What::Delivered { client, message, id, qos, dup, suppressed, expiry } => {
            let dup = if dup { " DUP" } else { "" };
            let known = if suppressed { ", known" } else { "" };
            let expiry = expiry.map(|left| format!(", expires in {left}")).unwrap_or_default();
            write!(
                text,
                "{} <- PUBLISH {message} QoS {qos} id {id}{dup}{known}{expiry}",
                name(client)
            )
        }
        What::Released { client, id, .. } => write!(text, "{} <- PUBREL id {id}", name(client)),
        What::Answered { client, kind, id, .. } => {
            let kind = match kind {
                4 => "PUBACK",
                5 => "PUBREC",
                _ => "PUBCOMP",
            };
            write!(text, "{} -> {kind} id {id}", name(client))
        }
        What::ReadBegan { client } => write!(text, "{} asks for what is retained", name(client)),
        What::Read { client, topic, message } => {
            write!(text, "{} <- retained {message} of {}", name(client), cast.topic_name(topic))
        }
        What::ReadEnded { client, whole } => write!(text, "{} read, whole: {whole}", name(client)),
        What::Damaged { client } => write!(text, "{} <- a packet that nobody sent", name(client)),
    };
    text
}
