//! Who takes part in a run and what they have to say: clients, topics,
//! filters, and every message that was ever given to the broker.
//!
//! The history names them by number; this is where the numbers mean something.

use std::fmt;

use testkit::client::Version;

/// A client.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct ClientId(pub(crate) u16);

/// A topic that is published to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct TopicId(pub(crate) u16);

/// A filter that is subscribed to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct FilterId(pub(crate) u16);

/// A message, in the order in which they were first sent.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct MessageId(pub(crate) u32);

/// How long a session outlives its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lasting {
    /// Clean session; gone with the connection.
    Not,
    /// 5.0: for these seconds.
    Seconds(u32),
    /// As long as anything here.
    Always,
}

/// A client of the run.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Its client id.
    pub(crate) name: String,
    /// What it speaks.
    pub(crate) version: Version,
    /// What becomes of its session.
    pub(crate) lasting: Lasting,
}

/// What is particular about a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Nothing.
    Plain,
    /// Sent when all kills are over, to see which subscriptions are there.
    Probe,
    /// 5.0: has this Message Expiry Interval.
    Expiring {
        /// The interval.
        seconds: u32,
    },
    /// Sets the retained message of its topic.
    Set,
    /// Clears it: an empty payload, which nobody can tell from another one.
    Clear,
    /// A will.
    Will {
        /// 5.0: Will Delay Interval; otherwise 0.
        delay_seconds: u32,
    },
}

impl Kind {
    /// Whether a subscriber is owed it once it is acknowledged, however late.
    pub(crate) fn is_owed(self) -> bool {
        match self {
            Kind::Plain | Kind::Probe => true,
            Kind::Expiring { seconds } => seconds >= LONG_EXPIRY_SECONDS,
            Kind::Set | Kind::Clear | Kind::Will { .. } => false,
        }
    }
}

/// How the filter of a share group begins.
const SHARE: &str = "$share/";

/// An expiry that no run lives to see.
pub(crate) const LONG_EXPIRY_SECONDS: u32 = 36_000;

/// A message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// Who gives it to the broker.
    pub(crate) publisher: ClientId,
    /// Where.
    pub(crate) topic: TopicId,
    /// At which QoS.
    pub(crate) qos: u8,
    /// What is particular about it.
    pub(crate) kind: Kind,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Cast {
    clients: Vec<Client>,
    topics: Vec<String>,
    filters: Vec<String>,
    messages: Vec<Message>,
}

impl Cast {
    /// Takes a client in.
    pub(crate) fn client(&mut self, name: &str, version: Version, lasting: Lasting) -> ClientId {
        let id = ClientId(number(self.clients.len()));
        self.clients.push(Client { name: name.to_owned(), version, lasting });
        id
    }

    /// The number of a topic.
    pub(crate) fn topic(&mut self, name: &str) -> TopicId {
        TopicId(place(&mut self.topics, name))
    }

    /// The number of a filter.
    pub(crate) fn filter(&mut self, name: &str) -> FilterId {
        FilterId(place(&mut self.filters, name))
    }

    /// A new message.
    pub(crate) fn message(&mut self, message: Message) -> MessageId {
        let id = MessageId(u32::try_from(self.messages.len()).expect("a run has an end"));
        self.messages.push(message);
        id
    }

    /// A client by number.
    pub(crate) fn of(&self, id: ClientId) -> &Client {
        &self.clients[usize::from(id.0)]
    }

    /// A topic by number.
    pub(crate) fn topic_name(&self, id: TopicId) -> &str {
        &self.topics[usize::from(id.0)]
    }

    /// The number of a topic that is known.
    pub(crate) fn known_topic(&self, name: &str) -> Option<TopicId> {
        self.topics.iter().position(|known| known == name).map(|at| TopicId(number(at)))
    }

    /// A filter by number.
    pub(crate) fn filter_name(&self, id: FilterId) -> &str {
        &self.filters[usize::from(id.0)]
    }

    /// A message by number; none if there was no such message.
    pub(crate) fn get(&self, id: MessageId) -> Option<&Message> {
        self.messages.get(id.0 as usize)
    }

    /// Every message with its number.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (MessageId, &Message)> {
        self.messages.iter().enumerate().map(|(at, message)| (MessageId(at as u32), message))
    }

    /// Every client with its number.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (ClientId, &Client)> {
        self.clients.iter().enumerate().map(|(at, client)| (ClientId(number(at)), client))
    }

    /// How many topics there are.
    pub(crate) fn topics(&self) -> impl Iterator<Item = TopicId> + use<> {
        (0..number(self.topics.len())).map(TopicId)
    }

    /// Whether those who subscribe to it share what matches.
    pub(crate) fn is_shared(&self, filter: FilterId) -> bool {
        self.filter_name(filter).starts_with(SHARE)
    }

    /// Whether a filter matches a topic.
    pub(crate) fn matches(&self, filter: FilterId, topic: TopicId) -> bool {
        let name = self.filter_name(filter);
        let name =
            name.strip_prefix(SHARE).and_then(|rest| rest.split_once('/')).map_or(name, |of| of.1);
        let mut levels = self.topic_name(topic).split('/');
        for want in name.split('/') {
            if want == "#" {
                return true;
            }
            let Some(level) = levels.next() else { return false };
            if want != "+" && want != level {
                return false;
            }
        }
        levels.next().is_none()
    }
}

fn number(at: usize) -> u16 {
    u16::try_from(at).expect("a run has a few hundred of them")
}

fn place(list: &mut Vec<String>, name: &str) -> u16 {
    let at = list.iter().position(|known| known == name).unwrap_or_else(|| {
        list.push(name.to_owned());
        list.len() - 1
    });
    number(at)
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The payload of a message: who it is, then bytes that follow from that, so
/// that a changed one is seen.
pub(crate) fn payload(run: u64, id: MessageId, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length.max(12));
    bytes.extend(run.to_be_bytes());
    bytes.extend(id.0.to_be_bytes());
    let mut state = run ^ u64::from(id.0);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.push((state >> 56) as u8);
    }
    bytes
}

/// The message that a payload is of; none if it is damaged or of another run.
pub(crate) fn recognise(run: u64, bytes: &[u8]) -> Option<MessageId> {
    let id = MessageId(u32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?));
    (payload(run, id, bytes.len()) == bytes).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_of_a_payload_is_seen() {
        let whole = payload(7, MessageId(3), 60);
        assert_eq!(recognise(7, &whole), Some(MessageId(3)));
        assert_eq!(recognise(8, &whole), None);
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_ne!(recognise(7, &changed), Some(MessageId(3)), "byte {at}");
        }
        assert_eq!(recognise(7, &whole[..11]), None);
    }

    #[test]
    fn filters_match_level_by_level() {
        let mut cast = Cast::default();
        let topic = cast.topic("a/b");
        for (filter, wanted) in
            [("a/b", true), ("a/+", true), ("+/b", true), ("#", true), ("a/#", true), ("a", false)]
        {
            let filter = cast.filter(filter);
            assert_eq!(cast.matches(filter, topic), wanted, "{filter:?}");
        }
        let shared = cast.filter("$share/g/a/+");
        assert!(cast.is_shared(shared) && cast.matches(shared, topic));
        let longer = cast.filter("a/b/c");
        assert!(!cast.matches(longer, topic));
    }
}
