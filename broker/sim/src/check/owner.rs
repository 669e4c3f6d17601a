//! C7: one live connection a client id; and nothing comes that is no answer.

use std::collections::HashMap;

use super::Failure;
use super::lives::Lives;
use crate::history::{Event, History};

pub(super) fn check(history: &History, failures: &mut Vec<Failure>) {
    for (at, entry) in history.iter() {
        let what = match &entry.event {
            Event::Unasked { what } | Event::Garbage { what } => what,
            _ => continue,
        };
        let reason = format!("client {} at {at}: {what}", entry.client);
        failures.push(Failure::new("C7", reason).of_client(entry.client));
    }
    let lives = Lives::of(history);
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
