//! C10: a message for a share group goes to one member; when nodes or disks
//! fail, to at least one.

use super::Failure;
use super::lives::{Life, Lives};
use crate::client::SHARED;
use crate::history::{History, MessageId};

pub(super) fn check(history: &History, lives: &Lives, failures: &mut Vec<Failure>) {
    let is_member = |life: &&Life| life.subs.iter().any(|sub| sub.filter == SHARED);
    let members: Vec<&Life> = lives.lives.iter().filter(is_member).collect();
    let stays = |life: &&Life| {
        life.to == usize::MAX
            && life.subs.iter().all(|sub| sub.filter != SHARED || sub.ending.is_none())
    };
    let stable = members.iter().all(stays);
    if !stable {
        return; // what is with a member that leaves may be lost, or come again
    }
    for (id, (message, sent)) in history.messages.iter().zip(&lives.sent).enumerate() {
        let id = id as MessageId;
        let (Some(first), true) = (sent.first, message.topic.starts_with("s/")) else { continue };
        if message.qos == 0 || message.expiry.is_some() || message.clear {
            continue;
        }
        let there = members.iter().any(|life| {
            let granted = |sub: &super::lives::Sub| sub.granted.is_some_and(|at| at < first);
            life.subs.iter().any(|sub| sub.filter == SHARED && granted(sub))
        });
        let takers = |life: &&&Life| life.receipts.iter().any(|r| r.message == id);
        let takers: Vec<usize> = members.iter().filter(takers).map(|life| life.client).collect();
        if there && sent.acked.is_some() && takers.is_empty() {
            let reason = format!("message {id} came to no member of the group");
            failures.push(Failure::new("C10", reason).of_message(id));
        }
        if history.calm && takers.len() > 1 && sent.sends < 2 {
            let reason = format!("message {id} came to members {takers:?}");
            failures.push(Failure::new("C10", reason).of_message(id));
        }
    }
}
