//! C9: a will comes once when its connection ends badly, and never when it
//! ended with a farewell or not at all.

use super::Failure;
use super::lives::{Conn, LAZY_MS, Lives, SLACK_MS};
use crate::history::{Event, History, MessageId};

/// In a cluster: what it takes at most until all know that a connection has
/// ended, and the moment that its client has then.
const LATE_MS: u64 = 11_000;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Due {
    Yes,
    Never,
    Perhaps,
}

pub(super) fn check(history: &History, lives: &Lives, failures: &mut Vec<Failure>) {
    for conn in lives.conns.values() {
        let Some(will) = conn.will.filter(|_| conn.connack.is_some()) else { continue };
        let due = due(history, lives, conn);
        for life in &lives.lives {
            let who = life.client;
            let fail = |what: &str| {
                let reason = format!("will {will} of client {}: {what} client {who}", conn.client);
                Failure::new("C9", reason).of_message(will).of_client(conn.client)
            };
            let mut came = life.receipts.iter().filter(|receipt| receipt.message == will);
            let fresh = came.clone().filter(|receipt| receipt.new && !receipt.dup).count();
            let any = came.next().is_some();
            if fresh > 1 {
                failures.push(fail("came more than once to"));
            }
            if any && due == Due::Never {
                failures.push(fail("was not due and came to"));
            }
            let topic = &history.messages[will as usize].topic;
            if !any && due == Due::Yes && Lives::is_owed(life, topic, conn.sent).is_some() {
                failures.push(fail("was due and never came to"));
            }
        }
    }
}

fn due(history: &History, lives: &Lives, conn: &Conn) -> Due {
    let entries = &history.entries;
    let Some(end) = conn.end else { return Due::Never };
    let delay = delay_of(history, conn.will);
    let next = lives.conns.values().find(|o| o.client == conn.client && o.sent > conn.sent);
    let next_sent = next.map_or(usize::MAX, |next| next.sent);
    let crashes = |from: usize, to: usize| history.crashes(from, to).next().is_some();
    // A CONNECT that was sent before and overtaken on its way may have come
    // afterwards: it goes on with the session inside the delay, or ends the
    // connection before its farewell is read.
    let overtaken = |other: &&Conn| {
        other.client == conn.client
            && other.sent < conn.sent
            && other.connack.is_none_or(|at| at > conn.sent)
            && other.closed.is_none_or(|at| Some(at) > conn.connack)
    };
    let overtaken = lives.conns.values().any(|other| overtaken(&other));
    if history.cluster && !history.calm {
        return match overtaken {
            true => Due::Perhaps,
            false => due_of_many(history, conn, delay, next_sent),
        };
    }
    if entries[end].event == Event::Disconnect {
        let Some(closed) = conn.closed.filter(|&closed| closed < next_sent) else {
            return Due::Perhaps; // it may never have been read
        };
        let soon = entries[closed].ms + LAZY_MS;
        let lost = entries[end..]
            .iter()
            .any(|entry| entry.event == Event::Crash && (entry.ms < soon || history.full));
        return if lost || overtaken || crashes(end, closed) { Due::Perhaps } else { Due::Never };
    }
    if conn.expiry == 0 {
        // It is kept nowhere: a node that ends takes it along.
        return if history.calm { Due::Yes } else { Due::Perhaps };
    }
    if delay == 0 {
        return Due::Yes;
    }
    if overtaken {
        return Due::Perhaps;
    }
    // It comes if nobody came back in time.
    let Some(next) = next else { return Due::Perhaps };
    let restarts = entries[end..next.sent].iter().filter(|e| e.event == Event::Restart);
    let closed = conn.closed.filter(|&closed| closed < next.sent).map(|closed| entries[closed].ms);
    let Some(latest) = restarts.map(|entry| entry.ms).chain(closed).max() else {
        return Due::Perhaps;
    };
    let wait = u64::from(delay.min(conn.expiry)) * 1000;
    let late = entries[next.sent].ms > latest + wait + 2 * SLACK_MS;
    // A node that could not write may not have noted that it had started.
    if late && !history.clock_back && !history.full { Due::Yes } else { Due::Perhaps }
}

/// The same in a cluster with faults. Who is told of the end of a connection by
/// the end of its node, or cannot be told, gives the client time to come back.
fn due_of_many(history: &History, conn: &Conn, delay: u32, next: usize) -> Due {
    let entries = &history.entries;
    let Some(end) = conn.end else { return Due::Never };
    if entries[end].event == Event::Disconnect {
        let Some(closed) = conn.closed.filter(|&closed| closed < next) else {
            return Due::Perhaps; // it may never have been read
        };
        if conn.unread {
            // A farewell counts on its receipt [MQTT-3.14.4-3]: a node that has lost
            // its link to the leader, or hears of another, closes first.
            return Due::Perhaps;
        }
        let soon = entries[closed].ms + LATE_MS;
        let lost = |entry: &crate::history::Entry| entry.event == Event::Crash && entry.ms < soon;
        return if entries[end..].iter().any(lost) { Due::Perhaps } else { Due::Never };
    }
    if conn.expiry == 0 {
        return Due::Perhaps; // it is kept nowhere
    }
    let wait = u64::from(delay.min(conn.expiry)) * 1000 + LATE_MS;
    let Some(last) = entries.last() else { return Due::Perhaps };
    let back = entries.get(next).map_or(last.ms, |entry| entry.ms);
    let until = next.min(entries.len());
    let calm = entries[..until]
        .iter()
        .rfind(|entry| matches!(entry.event, Event::Heal | Event::Crash | Event::Restart));
    // Before everything healed nobody knows what was cut.
    let healed = entries[..until].iter().any(|entry| entry.event == Event::Heal);
    match calm.filter(|_| healed) {
        Some(calm) if back > calm.ms.max(entries[end].ms) + wait => Due::Yes,
        Some(_) | None => Due::Perhaps,
    }
}

fn delay_of(history: &History, will: Option<MessageId>) -> u32 {
    let will = will.and_then(|id| history.messages.get(id as usize));
    will.and_then(|message| message.will).map_or(0, |will| will.delay)
}
