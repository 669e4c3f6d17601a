//! C1: what was acknowledged reaches every session that wanted it.

use std::collections::HashSet;

use super::Failure;
use super::lives::Lives;
use crate::history::{History, MessageId};

pub(super) fn check(history: &History, lives: &Lives, failures: &mut Vec<Failure>) {
    for life in lives.lives.iter().filter(|life| life.to == usize::MAX) {
        let got: HashSet<MessageId> = life.receipts.iter().map(|r| r.message).collect();
        for (id, (message, sent)) in history.messages.iter().zip(&lives.sent).enumerate() {
            let id = id as MessageId;
            let (Some(first), Some(acked)) = (sent.first, sent.acked) else { continue };
            if message.clear || message.expiry.is_some() || message.qos == 0 || got.contains(&id) {
                continue;
            }
            if Lives::is_owed(life, &message.topic, first).is_some() {
                let who = life.client;
                let reason =
                    format!("message {id}, acknowledged at {acked}, never came to client {who}");
                failures.push(Failure::new("C1", reason).of_message(id).of_client(who));
            }
        }
    }
}
