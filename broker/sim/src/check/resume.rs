//! C12: when everything has healed, acknowledgements resume within ten seconds.

use std::collections::BTreeMap;

use super::Failure;
use crate::history::{Event, History};

const RESUME_MS: u64 = 10_000;

pub(super) fn check(history: &History, failures: &mut Vec<Failure>) {
    let Some((healed, _)) = history.iter().find(|(_, entry)| entry.event == Event::Heal) else {
        return;
    };
    let mut waits: BTreeMap<usize, u64> = BTreeMap::new();
    let mut served: BTreeMap<usize, u64> = BTreeMap::new();
    for (_, entry) in history.iter().skip(healed) {
        match &entry.event {
            Event::Publish { message, .. } if history.messages[*message as usize].qos > 0 => {
                waits.entry(entry.client).or_insert(entry.ms);
            }
            Event::Acked { .. } | Event::Completed { .. } | Event::Nacked { .. } => {
                served.entry(entry.client).or_insert(entry.ms);
            }
            _ => {}
        }
    }
    for (client, since) in waits {
        let late = served.get(&client).is_none_or(|&at| at > since + RESUME_MS);
        if late {
            let reason = format!(
                "client {client} published at {since} ms, was answered at {:?}",
                served.get(&client)
            );
            failures.push(Failure::new("C12", reason).of_client(client));
        }
    }
}
