//! C11: what is published after UNSUBACK does not come.

use super::Failure;
use super::lives::Lives;
use crate::history::History;

pub(super) fn check(history: &History, lives: &Lives, failures: &mut Vec<Failure>) {
    for life in lives.lives.iter().filter(|life| life.solid) {
        for receipt in &life.receipts {
            let id = receipt.message;
            let Some(message) = history.messages.get(id as usize) else { continue };
            let Some(first) = lives.sent[id as usize].first else { continue };
            if message.will.is_some() {
                continue; // nobody knows when it was published
            }
            let share = |filter: &'static str| filter.strip_prefix("$share/g/").unwrap_or(filter);
            let mut matching = life
                .subs
                .iter()
                .filter(|sub| {
                    sub.sent < receipt.at
                        && tidegate_codec::matches(share(sub.filter), &message.topic)
                })
                .peekable();
            if matching.peek().is_some()
                && matching.all(|sub| sub.ended.is_some_and(|ended| ended < first))
            {
                let who = life.client;
                let reason = format!("client {who} got message {id} after it had unsubscribed");
                failures.push(Failure::new("C11", reason).of_message(id).of_client(who));
            }
        }
    }
}
