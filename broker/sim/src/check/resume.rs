//! C12: when everything has healed, acknowledgements resume within ten seconds.

use std::collections::BTreeMap;

use super::Failure;
use crate::history::{Event, History};

const RESUME_MS: u64 = 10_000;

pub(super) fn check(history: &History, failures: &mut Vec<Failure>) {
    let Some((healed, _)) = history.iter().find(|(_, entry)| entry.event == Event::Heal) else {
        return;
    };
    let mut waits: BTreeMap<usize, Wait> = BTreeMap::new();
    for (_, entry) in history.iter().skip(healed) {
        let wait = waits.get_mut(&entry.client).filter(|wait| wait.over.is_none());
        match &entry.event {
            Event::Publish { message, .. } if history.messages[*message as usize].qos > 0 => {
                let new = Wait { since: entry.ms, conn: entry.conn, closed: None, over: None };
                let wait = waits.entry(entry.client).or_insert(new);
                (wait.conn, wait.closed) = (entry.conn, None);
            }
            Event::Acked { .. } | Event::Completed { .. } | Event::Nacked { .. } => {
                if let Some(wait) = wait {
                    wait.over = Some(entry.ms);
                }
            }
            // It has nothing to send again.
            Event::Connack { present: false } => {
                let gave_up =
                    |wait: &mut Wait| wait.closed.is_some_and(|at| at <= wait.since + RESUME_MS);
                if wait.is_some_and(gave_up) {
                    waits.remove(&entry.client);
                }
            }
            Event::Closed | Event::Abort | Event::Disconnect => {
                if let Some(wait) = wait.filter(|wait| wait.conn == entry.conn) {
                    wait.closed.get_or_insert(entry.ms);
                }
            }
            _ => {}
        }
    }
    for (client, wait) in waits {
        // Who lost the connection and never came back to it has given up.
        let last = wait.over.or(wait.closed);
        if last.is_none_or(|at| at > wait.since + RESUME_MS) {
            let Wait { since, over, .. } = wait;
            let reason =
                format!("client {client} published at {since} ms, was answered at {over:?}");
            failures.push(Failure::new("C12", reason).of_client(client));
        }
    }
}

/// A client that has published since the heal.
struct Wait {
    /// When it did so first.
    since: u64,
    /// The connection that it did so by last, and the end of it.
    conn: u32,
    closed: Option<u64>,
    /// When an answer came.
    over: Option<u64>,
}
