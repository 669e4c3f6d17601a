//! C2: QoS 2 comes at most once. C3: QoS 1 comes again only as MQTT allows: on
//! another connection, and marked.

use std::collections::HashMap;

use super::Failure;
use super::lives::{Lives, Receipt};
use crate::history::History;

pub(super) fn check(history: &History, lives: &Lives, failures: &mut Vec<Failure>) {
    for life in &lives.lives {
        let mut taken: HashMap<u32, &Receipt> = HashMap::new();
        let mut heard: HashMap<u32, &Receipt> = HashMap::new();
        let shares = life.subs.iter().any(|sub| sub.filter.starts_with('$'));
        for receipt in life.receipts.iter().filter(|receipt| !receipt.retain) {
            let id = receipt.message;
            let Some(sent) = lives.sent.get(id as usize) else { continue };
            if sent.tainted || history.messages[id as usize].clear {
                continue;
            }
            let say = |check: &'static str, what: &str, before: &Receipt| {
                let reason = format!(
                    "message {id} came to client {} at {} and {what} at {}",
                    life.client, before.at, receipt.at
                );
                Failure::new(check, reason).of_message(id).of_client(life.client)
            };
            if receipt.qos == 2
                && receipt.new
                && let Some(before) = taken.insert(id, receipt)
            {
                failures.push(say("C2", "as a new one of QoS 2", before));
            }
            // A publisher that says it again publishes it again.
            if receipt.qos == 1
                && sent.sends < 2
                && !shares
                && let Some(before) = heard.insert(id, receipt)
            {
                if before.conn == receipt.conn {
                    failures.push(say("C3", "on the same connection", before));
                } else if !receipt.dup {
                    failures.push(say("C3", "without DUP", before));
                }
            }
        }
    }
}
