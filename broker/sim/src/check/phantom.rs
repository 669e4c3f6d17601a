//! C5: nothing comes that was not published, not asked for, or is of no use
//! any more.

use super::Failure;
use super::lives::{Life, Lives, Receipt, SLACK_MS};
use crate::history::{Event, History};

pub(super) fn check(history: &History, lives: &Lives, failures: &mut Vec<Failure>) {
    for life in &lives.lives {
        for receipt in &life.receipts {
            if let Some(what) = fault(history, lives, life, receipt) {
                let reason = format!(
                    "client {} got message {} at {}: {what}",
                    life.client, receipt.message, receipt.at
                );
                let failure = Failure::new("C5", reason).of_message(receipt.message);
                failures.push(failure.of_client(life.client));
            }
        }
    }
}

fn fault(history: &History, lives: &Lives, life: &Life, receipt: &Receipt) -> Option<&'static str> {
    let id = receipt.message as usize;
    let Some(message) = history.messages.get(id) else { return Some("nobody wrote it") };
    let sent = &lives.sent[id];
    if sent.first.is_none_or(|first| first > receipt.at) {
        return Some("it was not published yet");
    }
    let Event::Received { topic, .. } = &history.entries[receipt.at].event else { return None };
    if *topic != message.topic || message.clear {
        return Some("with another topic or payload");
    }
    if receipt.retain && !message.retain {
        return Some("as retained, which it is not");
    }
    if receipt.qos > message.qos {
        return Some("at a higher QoS");
    }
    if life.solid {
        let share = |filter: &'static str| filter.strip_prefix("$share/g/").unwrap_or(filter);
        let wanted = life.subs.iter().filter(|sub| {
            sub.sent < receipt.at && tidegate_codec::matches(share(sub.filter), topic)
        });
        match wanted.map(|sub| sub.qos).max() {
            None => return Some("without a subscription"),
            Some(most) if receipt.qos > most => return Some("at a higher QoS than asked for"),
            Some(_) => {}
        }
    }
    // What was begun to be sent may come again, marked, whenever.
    if let (Some(expiry), Some(acked), false) = (message.expiry, sent.acked, receipt.dup)
        && !history.clock_back
        && let Some(conn) = lives.conns.get(&receipt.conn)
    {
        let over = history.entries[acked].ms + u64::from(expiry) * 1000 + 2 * SLACK_MS;
        if history.entries[conn.sent].ms > over {
            return Some("after it had expired");
        }
    }
    None
}
