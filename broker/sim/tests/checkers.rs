//! The checkers are checked: a history without a fault is changed a little, and
//! the promise that it breaks then is named.
#![allow(missing_docs)]

use tidegate_sim::check;
use tidegate_sim::history::{Entry, Event, History};
use tidegate_sim::run;

/// Tries calm runs until `tamper` finds something to change, and requires that
/// the change is seen.
fn sees(promise: &str, tamper: impl Fn(&mut History) -> bool) {
    let mut changed = 0;
    for seed in (0..80).step_by(4) {
        let mut history = run(seed, None).history;
        if !tamper(&mut history) {
            continue;
        }
        changed += 1;
        if check::all(&history).iter().any(|failure| failure.check == promise) {
            return;
        }
    }
    panic!("{promise} did not see any of {changed} changes");
}

fn received(history: &History, find: impl Fn(&Entry, u8, bool) -> bool) -> Option<usize> {
    history.entries.iter().position(|entry| match entry.event {
        Event::Received { qos, retain, .. } => find(entry, qos, retain),
        _ => false,
    })
}

fn message(entry: &Entry) -> Option<u32> {
    match entry.event {
        Event::Received { message, .. } => Some(message),
        _ => None,
    }
}

/// Takes away all receipts of the first message that `pick` wants.
fn lose(history: &mut History, pick: impl Fn(&History, &Entry, bool) -> bool) -> bool {
    let of = received(history, |entry, _, retain| pick(history, entry, retain));
    let Some(lost) = of.and_then(|at| message(&history.entries[at])) else { return false };
    history.entries.retain(|entry| message(entry) != Some(lost));
    true
}

/// Says a receipt once more.
fn twice(history: &mut History, find: impl Fn(&Entry, u8, bool) -> bool) -> bool {
    let Some(at) = received(history, find) else { return false };
    let again = history.entries[at].clone();
    history.entries.insert(at + 1, again);
    true
}

fn is_shared(entry: &Entry) -> bool {
    matches!(&entry.event, Event::Received { topic, .. } if topic.starts_with("s/"))
}

#[test]
fn c1_sees_a_message_that_did_not_come() {
    sees("C1", |history| {
        lose(history, |history, entry, retain| {
            let id = message(entry);
            let of = id.and_then(|id| history.messages.get(id as usize));
            !retain && of.is_some_and(|m| m.qos == 2 && m.will.is_none() && m.expiry.is_none())
        })
    });
}

#[test]
fn c2_sees_a_message_that_came_twice() {
    sees("C2", |history| twice(history, |_, qos, retain| qos == 2 && !retain));
}

#[test]
fn c3_sees_a_repetition_on_one_connection() {
    sees("C3", |history| twice(history, |_, qos, retain| qos == 1 && !retain));
}

#[test]
fn c4_sees_two_messages_in_the_wrong_order() {
    sees("C4", |history| {
        for at in 1..history.entries.len() {
            let (one, two) = (&history.entries[at - 1], &history.entries[at]);
            let of = |entry: &Entry| {
                let message = history.messages.get(message(entry)? as usize)?;
                Some((entry.conn, message.publisher, message.topic.clone(), message.qos))
            };
            if one.client == two.client && of(one).is_some() && of(one) == of(two) {
                history.entries.swap(at - 1, at);
                return true;
            }
        }
        false
    });
}

#[test]
fn c5_sees_what_nobody_asked_for() {
    sees("C5", |history| {
        let Some(at) = received(history, |_, _, _| true) else { return false };
        if let Event::Received { topic, .. } = &mut history.entries[at].event {
            *topic = "of/nobody".into();
        }
        true
    });
}

#[test]
fn c6_sees_a_retained_message_that_is_gone() {
    sees("C6", |history| {
        let before = history.entries.len();
        let of_topic = |entry: &Entry| match &entry.event {
            Event::Received { topic, .. } => topic.starts_with("r/"),
            _ => false,
        };
        history.entries.retain(|entry| !of_topic(entry));
        history.entries.len() < before
    });
}

#[test]
fn c7_sees_two_connections() {
    sees("C7", |history| {
        let before = history.entries.len();
        history.entries.retain(|entry| entry.event != Event::Closed);
        history.entries.len() < before
    });
}

#[test]
fn c8_sees_a_session_that_is_denied() {
    sees("C8", |history| {
        let there = |entry: &&mut Entry| entry.event == Event::Connack { present: true };
        let Some(entry) = history.entries.iter_mut().find(there) else { return false };
        entry.event = Event::Connack { present: false };
        true
    });
}

#[test]
fn c9_sees_a_will_that_did_not_come_and_one_that_came_twice() {
    let will = |history: &History, entry: &Entry| {
        let of = message(entry).and_then(|id| history.messages.get(id as usize));
        of.is_some_and(|message| message.will.is_some())
    };
    sees("C9", |history| lose(history, |history, entry, _| will(history, entry)));
    sees("C9", |history| {
        let all = history.clone();
        twice(history, |entry, _, _| will(&all, entry))
    });
}

#[test]
fn c9_sees_a_will_after_a_farewell() {
    sees("C9", |history| {
        // Who let go of the connection had said farewell before.
        for at in 0..history.entries.len() {
            if history.entries[at].event == Event::Abort {
                history.entries[at].event = Event::Disconnect;
            }
        }
        true
    });
}

#[test]
fn c10_sees_a_message_at_two_members_and_at_none() {
    sees("C10", |history| {
        let members: Vec<(usize, u32)> = history
            .entries
            .iter()
            .filter(
                |entry| matches!(entry.event, Event::Suback { filter } if filter.starts_with('$')),
            )
            .map(|entry| (entry.client, entry.conn))
            .collect();
        let is_member = |who: usize| members.iter().any(|(member, _)| *member == who);
        let at = received(history, |entry, _, _| is_shared(entry) && is_member(entry.client));
        let Some(at) = at else { return false };
        let taker = history.entries[at].client;
        let Some((other, conn)) = members.iter().find(|(member, _)| *member != taker) else {
            return false;
        };
        let copy = Entry { client: *other, conn: *conn, ..history.entries[at].clone() };
        history.entries.push(copy);
        true
    });
    sees("C10", |history| {
        let before = history.entries.len();
        history.entries.retain(|entry| !is_shared(entry));
        history.entries.len() < before
    });
}

#[test]
fn c11_sees_what_comes_after_unsuback() {
    sees("C11", |history| {
        // The client had taken back all it ever subscribed to, before the
        // message was published.
        let at = received(history, |entry, _, retain| {
            let of = message(entry).and_then(|id| history.messages.get(id as usize));
            !retain && of.is_some_and(|message| message.will.is_none())
        });
        let Some(at) = at else { return false };
        let (who, conn) = (history.entries[at].client, history.entries[at].conn);
        let id = message(&history.entries[at]);
        let first = history.entries.iter().position(
            |entry| matches!(entry.event, Event::Publish { message, .. } if Some(message) == id),
        );
        let Some(first) = first else { return false };
        let filters: Vec<&'static str> = history.entries[..first]
            .iter()
            .filter(|entry| entry.client == who)
            .filter_map(|entry| match entry.event {
                Event::Subscribe { filter, .. } => Some(filter),
                _ => None,
            })
            .collect();
        for filter in filters {
            let ms = history.entries[first].ms;
            for event in [Event::Unsuback { filter }, Event::Unsubscribe { filter }] {
                history.entries.insert(first, Entry { ms, client: who, conn, event });
            }
        }
        true
    });
}
