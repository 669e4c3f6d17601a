//! C7: one live connection a client id; and nothing comes that is no answer.

use std::collections::HashMap;

use super::Failure;
use super::lives::{Conn, Lives};
use crate::history::{Event, History};

/// In which, once all nodes reach each other, a connection of which no leader
/// knew is told to one.
const TOLD_MS: u64 = 5_000;

pub(super) fn check(history: &History, failures: &mut Vec<Failure>) {
    let lives = Lives::of(history);
    for (at, entry) in history.iter() {
        let what = match &entry.event {
            Event::Unasked { what } | Event::Garbage { what } => what,
            Event::StillServed
                if lives
                    .conns
                    .get(&entry.conn)
                    .is_some_and(|old| may_be_unknown(history, old, entry.ms)) =>
            {
                continue;
            }
            Event::StillServed => "an old connection is still served",
            _ => continue,
        };
        let reason = format!("client {} at {at}: {what}", entry.client);
        failures.push(Failure::new("C7", reason).of_client(entry.client));
    }
    let mut open: HashMap<usize, Vec<u32>> = HashMap::new();
    for (&number, conn) in &lives.conns {
        if conn.closed.is_none() {
            open.entry(conn.client).or_default().push(number);
        }
    }
    for (client, conns) in open {
        if conns.len() > 1 {
            let reason = format!("client {client} has connections {conns:?} at the end");
            failures.push(Failure::new("C7", reason).of_client(client));
        }
    }
}

/// Whether a leader may not know of a connection: that of a session which ends with
/// it is in no log, and a node that is cut off from the next leader of its partition
/// cannot tell it (docs/guarantees.md). With a will it is in the log.
fn may_be_unknown(history: &History, old: &Conn, ms: u64) -> bool {
    let healed = history.entries.iter().find(|entry| entry.event == Event::Heal);
    history.cluster
        && !history.calm
        && old.expiry == 0
        && old.will.is_none()
        && healed.is_none_or(|heal| ms < heal.ms + TOLD_MS)
}
