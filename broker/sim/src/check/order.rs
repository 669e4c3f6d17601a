//! C4: what one client publishes to one topic at one QoS, in one session, comes
//! to a session in that order.

use std::collections::{HashMap, HashSet};

use super::Failure;
use super::lives::Lives;
use crate::history::{History, MessageId};

pub(super) fn check(history: &History, lives: &Lives, failures: &mut Vec<Failure>) {
    for life in &lives.lives {
        if life.subs.iter().any(|sub| sub.filter.starts_with('$')) {
            continue; // a group gives no order
        }
        let mut seen: HashSet<MessageId> = HashSet::new();
        let mut last: HashMap<_, (usize, MessageId)> = HashMap::new();
        for receipt in life.receipts.iter().filter(|r| r.new && !r.retain) {
            let id = receipt.message;
            let Some((message, sent)) =
                history.messages.get(id as usize).zip(lives.sent.get(id as usize))
            else {
                continue;
            };
            let Some(first) = sent.first else { continue };
            // One that has expired in a queue may come when it is sent again.
            let expires = message.expiry.is_some() && sent.sends > 1;
            if message.will.is_some() || sent.tainted || expires || !seen.insert(id) {
                continue;
            }
            // One that was sent again, or (the broker's own at QoS 2) routed again
            // after a crash, may come to a subscription that was not there yet
            // when it came first, or to one that was not there then any more; and
            // nobody promises that the first copy came at QoS 0.
            let sure = |sub: &super::lives::Sub| {
                sub.granted.is_some_and(|granted| granted < first)
                    && sub.ending.is_none_or(|ending| ending > receipt.at)
                    && sub.qos >= receipt.qos
                    && receipt.qos > 0
                    && tidegate_codec::matches(sub.filter, &message.topic)
            };
            let again = sent.sends > 1
                || (message.qos == 2 && history.crashes(first, receipt.at).next().is_some());
            if again && !life.subs.iter().any(sure) {
                continue;
            }
            let key = (sent.life, message.publisher, &*message.topic, message.qos, receipt.qos);
            if let Some(&(before, other)) = last.get(&key)
                && before > first
            {
                let who = life.client;
                let reason = format!("client {who} got message {id} after {other}, sent later");
                failures.push(Failure::new("C4", reason).of_message(id).of_client(who));
            }
            last.insert(key, (first, id));
        }
    }
}
