//! What clients saw and did, in the order in which it happened: all that the
//! checkers know.

use std::fmt;

/// A message: a number that no other has; it is in the payload.
pub type MessageId = u32;

/// The client of events that are the node's.
pub const NODE: usize = usize::MAX;

/// What was published, or left as a will.
#[derive(Clone, Debug)]
pub struct Message {
    /// Who published it.
    pub publisher: usize,
    /// Where.
    pub topic: String,
    /// At which QoS.
    pub qos: u8,
    /// To be kept for the topic.
    pub retain: bool,
    /// It has no payload and so clears the topic.
    pub clear: bool,
    /// Seconds after which it is of no use.
    pub expiry: Option<u32>,
    /// It is the will of this connection.
    pub will: Option<Will>,
}

/// A will of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Will {
    /// Whose.
    pub conn: u32,
    /// Seconds.
    pub delay: u32,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The true time.
    pub ms: u64,
    /// Whose it is, or [`NODE`].
    pub client: usize,
    /// On which connection; 0: on none.
    pub conn: u32,
    /// What happened.
    pub event: Event,
}

/// What can happen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A CONNECT was sent.
    Connect {
        /// Clean Start, before 5.0 Clean Session.
        clean: bool,
        /// Seconds that the session outlives the connection.
        expiry: u32,
        /// What it leaves.
        will: Option<MessageId>,
    },
    /// It was accepted.
    Connack {
        /// Session Present.
        present: bool,
    },
    /// It was refused.
    Refused,
    /// A PUBLISH was sent.
    Publish {
        /// What.
        message: MessageId,
        /// Once more.
        dup: bool,
    },
    /// A PUBACK or PUBREC came: the broker has it.
    Acked {
        /// What.
        message: MessageId,
    },
    /// A PUBCOMP came: the exchange is over.
    Completed {
        /// What.
        message: MessageId,
    },
    /// The broker would not take it.
    Nacked {
        /// What.
        message: MessageId,
    },
    /// An acknowledgement for what nobody had sent on this connection.
    Unasked {
        /// Which.
        what: String,
    },
    /// An acknowledgement came on a connection that a newer one has taken over.
    StillServed,
    /// A SUBSCRIBE was sent.
    Subscribe {
        /// To what.
        filter: &'static str,
        /// At most at this QoS.
        qos: u8,
    },
    /// It was answered.
    Suback {
        /// To what.
        filter: &'static str,
    },
    /// An UNSUBSCRIBE was sent.
    Unsubscribe {
        /// From what.
        filter: &'static str,
    },
    /// It was answered.
    Unsuback {
        /// From what.
        filter: &'static str,
    },
    /// A PUBLISH came.
    Received {
        /// What its payload says.
        message: MessageId,
        /// Its topic.
        topic: String,
        /// Its QoS.
        qos: u8,
        /// Its retain flag.
        retain: bool,
        /// Its DUP flag.
        dup: bool,
        /// Whether the client takes it for a new one: at QoS 2, a packet id
        /// that it has not taken yet.
        new: bool,
    },
    /// Bytes came that are no packet, or no payload that anybody sent.
    Garbage {
        /// What was wrong.
        what: String,
    },
    /// A DISCONNECT was sent.
    Disconnect,
    /// The client let go of the connection.
    Abort,
    /// The node closed the connection, and had not read all that was sent on it.
    Unread,
    /// The connection's end was seen by the client.
    Closed,
    /// The node ended without a word.
    Crash,
    /// The node serves again.
    Restart,
    /// From here on nothing goes wrong any more.
    Heal,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In order.
    pub entries: Vec<Entry>,
    /// By [`MessageId`].
    pub messages: Vec<Message>,
    /// The run had no fault of a disk or node.
    pub calm: bool,
    /// The disk was full for some time: what may be late was late.
    pub full: bool,
    /// The wall clock was set back at a restart.
    pub clock_back: bool,
    /// The events of nodes are those of several: what one of them ends, others
    /// learn late.
    pub cluster: bool,
}

impl History {
    /// Adds an event.
    pub fn add(&mut self, ms: u64, client: usize, conn: u32, event: Event) {
        self.entries.push(Entry { ms, client, conn, event });
    }

    /// The number of a new message.
    pub fn message(&mut self, message: Message) -> MessageId {
        self.messages.push(message);
        (self.messages.len() - 1) as MessageId
    }

    /// Events with their place.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate()
    }

    /// The ends of the node between two places.
    pub fn crashes(&self, from: usize, to: usize) -> impl Iterator<Item = &Entry> {
        let to = to.min(self.entries.len());
        self.entries[from.min(to)..to].iter().filter(|entry| entry.event == Event::Crash)
    }

    /// What concerns a message or a client, to be read by people.
    pub fn story(&self, message: Option<MessageId>, client: Option<usize>) -> Vec<String> {
        let topic = message.and_then(|id| self.messages.get(id as usize)).map(|m| &m.topic);
        let of_message = |event: &Event| match event {
            Event::Publish { message: id, .. }
            | Event::Acked { message: id }
            | Event::Completed { message: id }
            | Event::Nacked { message: id }
            | Event::Received { message: id, .. }
            | Event::Connect { will: Some(id), .. } => Some(*id) == message,
            Event::Subscribe { filter, .. }
            | Event::Suback { filter }
            | Event::Unsubscribe { filter }
            | Event::Unsuback { filter } => {
                topic.is_some_and(|topic| tidegate_codec::matches(filter, topic))
            }
            Event::Crash | Event::Restart | Event::Heal => true,
            Event::Connect { .. }
            | Event::Connack { .. }
            | Event::Refused
            | Event::Unasked { .. }
            | Event::StillServed
            | Event::Garbage { .. }
            | Event::Disconnect
            | Event::Abort
            | Event::Unread
            | Event::Closed => false,
        };
        let of_client = |entry: &Entry| {
            Some(entry.client) == client
                && match entry.event {
                    Event::Publish { .. }
                    | Event::Acked { .. }
                    | Event::Completed { .. }
                    | Event::Received { .. } => message.is_none(),
                    Event::Connect { .. }
                    | Event::Connack { .. }
                    | Event::Refused
                    | Event::Nacked { .. }
                    | Event::Unasked { .. }
                    | Event::StillServed
                    | Event::Subscribe { .. }
                    | Event::Suback { .. }
                    | Event::Unsubscribe { .. }
                    | Event::Unsuback { .. }
                    | Event::Garbage { .. }
                    | Event::Disconnect
                    | Event::Abort
                    | Event::Unread
                    | Event::Closed
                    | Event::Crash
                    | Event::Restart
                    | Event::Heal => true,
                }
        };
        let told = self.iter().filter(|(_, e)| of_message(&e.event) || of_client(e));
        let mut lines: Vec<String> = message
            .and_then(|id| Some(format!("message {id}: {:?}", self.messages.get(id as usize)?)))
            .into_iter()
            .collect();
        lines.extend(told.map(|(at, entry)| format!("{at:6} {entry}")));
        lines
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client {
            NODE => write!(f, "{:8} node            {:?}", self.ms, self.event),
            who => write!(f, "{:8} client {who:2} #{:<5}{:?}", self.ms, self.conn, self.event),
        }
    }
}
