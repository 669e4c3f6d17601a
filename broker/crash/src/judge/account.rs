//! A history sorted by message, subscription and delivery.

use std::collections::HashMap;

use super::{SECOND, Tally};
use crate::cast::{Cast, ClientId, FilterId, Lasting, MessageId, TopicId};
use crate::history::{Event, Mark, What};

/// What became of a message on its publisher's side.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    pub(crate) first_sent: Option<u64>,
    pub(crate) last_sent: u64,
    pub(crate) acked: Option<u64>,
    pub(crate) completed: Option<u64>,
    pub(crate) rejected: Option<u64>,
}

/// A subscription from its SUBSCRIBE to its UNSUBACK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) client: ClientId,
    pub(crate) filter: FilterId,
    pub(crate) sent: u64,
    pub(crate) acked: Option<u64>,
    pub(crate) granted: u8,
    pub(crate) ending: Option<u64>,
    pub(crate) ended: Option<u64>,
}

impl Span {
    /// Whether a message is owed that was first sent at `sent` and acknowledged
    /// at `acked`: it lies wholly within what was acknowledged.
    pub(crate) fn owes(&self, sent: u64, acked: u64) -> bool {
        self.acked.is_some_and(|since| since <= sent) && self.ending.is_none_or(|end| acked <= end)
    }

    /// Whether a message may come that was on its way between two moments.
    pub(crate) fn allows(&self, from: u64, to: u64) -> bool {
        self.sent <= to && self.ended.is_none_or(|end| from <= end)
    }
}

/// A PUBLISH to a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) at: u64,
    pub(crate) client: ClientId,
    pub(crate) message: MessageId,
    pub(crate) qos: u8,
    pub(crate) dup: bool,
    pub(crate) suppressed: bool,
    pub(crate) expiry: Option<u32>,
    /// Counts the sessions of a client whose sessions end with its connections.
    pub(crate) session: u32,
}

/// What was acknowledged so long before the end of an ephemeral subscriber's
/// connection has to have come. A node that was cut off or paused keeps its
/// clients' connections for a while, and has nothing to send them.
const EPHEMERAL: u64 = 10 * SECOND;

/// After something was done to a cluster its nodes may not know all subscriptions for
/// so long, and while links are cut, as a partition may have no majority. What is
/// acknowledged then is matched within as long, or as long after that: who
/// unsubscribes before need not get it, who subscribes before may
/// (docs/guarantees.md).
const OUTBOX: u64 = 10 * SECOND;

/// The history, sorted.
#[derive(Debug)]
pub(crate) struct Account {
    fates: Vec<Fate>,
    /// Of each topic, the subscriptions that match it.
    spans: HashMap<TopicId, Vec<Span>>,
    pub(crate) deliveries: Vec<Delivery>,
    /// When something was done to a cluster.
    done: Vec<(u64, Mark)>,
    /// How often an application got a message.
    got: HashMap<(ClientId, MessageId), u32>,
    pub(crate) tally: Tally,
}

impl Account {
    /// Sorts a history.
    pub(crate) fn read(cast: &Cast, events: &[Event]) -> Account {
        let mut fates = vec![Fate::default(); cast.messages().count()];
        let mut spans: Vec<Span> = Vec::new();
        let mut newest: HashMap<(ClientId, FilterId), usize> = HashMap::new();
        let mut deliveries = Vec::new();
        let mut got: HashMap<(ClientId, MessageId), u32> = HashMap::new();
        let mut sessions: HashMap<ClientId, u32> = HashMap::new();
        let mut tally = Tally::default();
        let mut done = Vec::new();
        for event in events {
            let at = event.at;
            match event.what {
                What::Sent { message, .. } => {
                    let fate = &mut fates[message.0 as usize];
                    tally.resent += u64::from(fate.first_sent.is_some());
                    tally.published += u64::from(fate.first_sent.is_none());
                    fate.first_sent.get_or_insert(at);
                    fate.last_sent = at;
                }
                What::ConnectSent { will: Some(message), .. } => {
                    let fate = &mut fates[message.0 as usize];
                    tally.published += u64::from(fate.first_sent.is_none());
                    fate.first_sent.get_or_insert(at);
                    fate.last_sent = at;
                }
                What::Acked { message } => {
                    let fate = &mut fates[message.0 as usize];
                    tally.acknowledged += u64::from(fate.acked.is_none());
                    fate.acked.get_or_insert(at);
                }
                What::Completed { message } => {
                    fates[message.0 as usize].completed.get_or_insert(at);
                }
                What::Rejected { message, .. } => {
                    let fate = &mut fates[message.0 as usize];
                    tally.rejected += u64::from(fate.rejected.is_none());
                    fate.rejected.get_or_insert(at);
                }
                What::SubscribeSent { client, filter } => {
                    let known = newest.get(&(client, filter));
                    // One that is there is asked for again after a lost session.
                    if known.is_none_or(|&span| spans[span].ending.is_some()) {
                        newest.insert((client, filter), spans.len());
                        spans.push(Span {
                            client,
                            filter,
                            sent: at,
                            acked: None,
                            granted: 0,
                            ending: None,
                            ended: None,
                        });
                    }
                }
                What::Subscribed { client, filter, granted } => {
                    if let Some(&span) = newest.get(&(client, filter)) {
                        spans[span].acked.get_or_insert(at);
                        spans[span].granted = granted;
                    }
                }
                What::UnsubscribeSent { client, filter } => {
                    if let Some(&span) = newest.get(&(client, filter)) {
                        spans[span].ending.get_or_insert(at);
                    }
                }
                What::Unsubscribed { client, filter } => {
                    if let Some(&span) = newest.get(&(client, filter)) {
                        spans[span].ended.get_or_insert(at);
                    }
                }
                What::Delivered { client, message, qos, dup, suppressed, expiry, .. } => {
                    let session = sessions.get(&client).copied().unwrap_or(0);
                    let delivery =
                        Delivery { at, client, message, qos, dup, suppressed, expiry, session };
                    deliveries.push(delivery);
                    if suppressed {
                        tally.suppressed += 1;
                    } else {
                        let times = got.entry((client, message)).or_default();
                        *times += 1;
                        tally.delivered += 1;
                        tally.repeated += u64::from(*times > 1);
                    }
                }
                // An ephemeral session ends with its connection.
                What::Closed { client, .. } if cast.of(client).lasting == Lasting::Not => {
                    *sessions.entry(client).or_default() += 1;
                    for span in spans.iter_mut().filter(|span| span.client == client) {
                        span.ending.get_or_insert(at.saturating_sub(EPHEMERAL));
                        span.ended.get_or_insert(at);
                    }
                }
                What::Done { mark, .. } => done.push((at, mark)),
                What::Ready
                | What::Down
                | What::SyncBroken
                | What::ConnectSent { will: None, .. }
                | What::Connected { .. }
                | What::Refused { .. }
                | What::Closed { .. }
                | What::Released { .. }
                | What::Answered { .. }
                | What::ReadBegan { .. }
                | What::Read { .. }
                | What::ReadEnded { .. }
                | What::Damaged { .. } => {}
            }
        }
        let of_topic = |topic: TopicId| {
            spans.iter().copied().filter(|span| cast.matches(span.filter, topic)).collect()
        };
        let spans = cast.topics().map(|topic| (topic, of_topic(topic))).collect();
        Account { fates, spans, deliveries, done, got, tally }
    }

    /// When a message that was sent and acknowledged then is matched at the latest.
    pub(crate) fn matched(&self, sent: u64, acked: u64) -> u64 {
        let before = self.done.partition_point(|&(done, _)| done <= acked);
        let last = before.checked_sub(1).map(|at| self.done[at]);
        match last {
            Some((_, Mark::Cut)) => {
                let next = self.done.get(before).map_or(acked, |&(next, _)| next);
                next.saturating_add(OUTBOX)
            }
            Some((done, _)) if done.saturating_add(OUTBOX) >= sent => acked.saturating_add(OUTBOX),
            Some(_) | None => acked,
        }
    }

    /// What became of a message.
    pub(crate) fn fate(&self, message: MessageId) -> Fate {
        self.fates[message.0 as usize]
    }

    /// The subscriptions that ever matched a topic.
    pub(crate) fn spans(&self, topic: TopicId) -> &[Span] {
        self.spans.get(&topic).map_or(&[], Vec::as_slice)
    }

    /// How often a client's application got a message.
    pub(crate) fn got(&self, client: ClientId, message: MessageId) -> u32 {
        self.got.get(&(client, message)).copied().unwrap_or(0)
    }
}
