//! C6: the retained message of a topic is a register: a new subscription sees
//! the last value, or one that was written meanwhile.

use std::collections::HashMap;

use super::Failure;
use super::lives::{LAZY_MS, Life, Lives};
use crate::history::{Event, History, MessageId};

/// How long a link that is silent lasts, and what is behind it.
const UNDER_WAY_MS: u64 = 2_000;

struct Write {
    id: MessageId,
    first: usize,
    /// From here on it is known to have happened.
    done: Option<usize>,
    /// From here on once and for all: nothing of it is under way any more.
    past: Option<usize>,
    /// From here on it is known to have had effect.
    seen: Option<usize>,
    /// Here it may have been lost with the node: at QoS 0 nobody was promised
    /// that it is kept.
    lost: Option<usize>,
    clear: bool,
    expires: bool,
}

pub(super) fn check(history: &History, lives: &Lives, failures: &mut Vec<Failure>) {
    let mut topics: HashMap<&str, Vec<Write>> = HashMap::new();
    let mut seen: HashMap<MessageId, usize> = HashMap::new();
    for receipt in lives.lives.iter().flat_map(|life| &life.receipts).filter(|r| r.retain) {
        let at = seen.entry(receipt.message).or_insert(receipt.at);
        *at = (*at).min(receipt.at);
    }
    for (id, (message, sent)) in history.messages.iter().zip(&lives.sent).enumerate() {
        let (true, Some(first)) = (message.retain, sent.first) else { continue };
        let id = id as MessageId;
        // At QoS 2 the message is the broker's from PUBREC on, and at work at the
        // latest when the exchange is over.
        let done = if message.qos == 2 { sent.completed } else { sent.acked };
        let past = match history.cluster && !history.calm && message.qos == 1 {
            true => done.and_then(|done| past(history, lives, id, done)),
            false => done,
        };
        let seen = seen.get(&id).copied();
        let seen = seen.into_iter().chain(done).min();
        let lost = seen.filter(|_| message.qos == 0).and_then(|seen| loss(history, seen));
        topics.entry(&message.topic).or_default().push(Write {
            id,
            first,
            done,
            past,
            seen,
            lost,
            clear: message.clear,
            expires: message.expiry.is_some(),
        });
    }
    for (topic, writes) in &topics {
        for life in lives.lives.iter().filter(|life| life.solid) {
            check_life(topic, writes, life, failures);
        }
    }
}

/// From where on no copy of what is acknowledged at QoS 1 is under way. One that was
/// sent on an earlier connection comes as late as a link lets it, which breaks if
/// it stands still for longer: at QoS 1 it counts once more (docs/guarantees.md).
fn past(history: &History, lives: &Lives, id: MessageId, done: usize) -> Option<usize> {
    let copies = history.iter().filter_map(|(_, entry)| match entry.event {
        Event::Publish { message, .. } if message == id => Some(entry.conn),
        _ => None,
    });
    let last = history.entries[done].conn;
    let mut from = history.entries[done].ms;
    for conn in copies.filter(|&conn| conn != last) {
        let closed = lives.conns.get(&conn)?.closed?;
        from = from.max(history.entries[closed].ms + UNDER_WAY_MS);
    }
    (done..history.entries.len()).find(|&at| history.entries[at].ms >= from)
}

/// Another value that took its place before `at`.
fn is_over<'w>(write: &Write, writes: &'w [Write], at: usize) -> Option<&'w Write> {
    writes.iter().find(|other| {
        write.past.is_some_and(|past| past < other.first)
            && other.seen.is_some_and(|seen| seen < at)
            && other.lost.is_none_or(|lost| lost > at)
    })
}

/// The first end of the node after which what was seen and not waited for may
/// be gone.
fn loss(history: &History, seen: usize) -> Option<usize> {
    let soon = history.entries[seen].ms + LAZY_MS;
    (seen..history.entries.len()).find(|&at| {
        let entry = &history.entries[at];
        entry.event == Event::Crash && (entry.ms < soon || history.full)
    })
}

fn check_life(topic: &str, writes: &[Write], life: &Life, failures: &mut Vec<Failure>) {
    let asks = |sub: &&super::lives::Sub| {
        !sub.filter.starts_with('$') && tidegate_codec::matches(sub.filter, topic)
    };
    let Some(since) = life.subs.iter().filter(asks).map(|sub| sub.sent).min() else { return };
    let who = life.client;
    for receipt in life.receipts.iter().filter(|receipt| receipt.retain) {
        let Some(write) = writes.iter().find(|write| write.id == receipt.message) else {
            continue;
        };
        if let Some(other) = is_over(write, writes, since) {
            let (id, new, clear) = (write.id, other.id, other.clear);
            let reason = format!(
                "client {who} got retained {id}, replaced by {new} long before (clear: {clear})"
            );
            failures.push(Failure::new("C6", reason).of_message(id).of_client(who));
        }
    }
    // One that did not move, and got an answer: there has to be a value if the
    // topic certainly has one. An UNSUBSCRIBE ends what is on its way.
    let stays = |sub: &super::lives::Sub| sub.granted.is_some() && sub.ending.is_none();
    let granted = life.subs.iter().filter(asks).any(stays);
    if life.to != usize::MAX || life.conns != 1 || !granted {
        return;
    }
    let mut last = writes.iter().filter(|write| is_over(write, writes, since).is_none()).peekable();
    let Some(sample) = last.peek().map(|write| write.id) else { return };
    let before = |write: &Write| write.done.is_some_and(|done| done < since);
    let (mut there, mut maybe_not) = (false, false);
    for write in last {
        there |= before(write) && !write.clear;
        maybe_not |= write.clear || write.expires;
    }
    let got = life.receipts.iter().any(|receipt| {
        receipt.at > since && writes.iter().any(|write| write.id == receipt.message)
    });
    if there && !maybe_not && !got {
        let reason = format!("client {who} found nothing retained at {topic}");
        failures.push(Failure::new("C6", reason).of_message(sample).of_client(who));
    }
}
