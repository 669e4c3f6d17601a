//! Wills: due after the delay, once, and not at all if they were withdrawn.
//!
//! When the broker learns of the end of a connection nobody tells us; if it
//! is killed at that moment it learns of it at the next start. The rules here
//! speak only where every such doubt is out of the way.

use std::collections::HashMap;

use super::account::Account;
use super::{Concern, Rule, SECOND, Verdict};
use crate::cast::{Cast, ClientId, Kind, MessageId};
use crate::history::{End, Event, What};
use crate::lives::Lives;

/// By how much a delay of whole seconds may be early.
const EARLY: u64 = SECOND + SECOND / 5;

/// How long the broker must have been up at a stretch once a will was due.
const STRETCH: u64 = 2 * SECOND;

/// One connection with a will.
#[derive(Clone, Copy, Debug)]
struct Armed {
    will: MessageId,
    connected: Option<u64>,
    ended: Option<(u64, End)>,
    /// The next CONNECT of the client left.
    back: Option<u64>,
    /// And was answered.
    resumed: Option<u64>,
}

pub(crate) fn judge(
    cast: &Cast,
    events: &[Event],
    account: &Account,
    lives: &Lives,
    verdict: &mut Verdict,
) {
    let mut armed: Vec<Armed> = Vec::new();
    let mut newest: HashMap<ClientId, usize> = HashMap::new();
    let mut before: HashMap<ClientId, usize> = HashMap::new();
    for event in events {
        let Some(client) = event.what.client() else { continue };
        match event.what {
            What::ConnectSent { will: Some(will), .. } => {
                if let Some(old) = newest.insert(client, armed.len()) {
                    armed[old].back.get_or_insert(event.at);
                    // The one whose connection was answered is the one that waits.
                    if armed[old].connected.is_some() {
                        before.insert(client, old);
                    }
                }
                armed.push(Armed { will, connected: None, ended: None, back: None, resumed: None });
            }
            What::Connected { .. } => {
                if let Some(&now) = newest.get(&client) {
                    armed[now].connected = Some(event.at);
                    if let Some(&old) = before.get(&client) {
                        armed[old].resumed.get_or_insert(event.at);
                    }
                }
            }
            What::Closed { how, .. } => {
                if let Some(&now) = newest.get(&client) {
                    armed[now].ended.get_or_insert((event.at, how));
                }
            }
            _ => {}
        }
    }
    let end = events.last().map_or(0, |event| event.at);
    let mut came: HashMap<MessageId, u64> = HashMap::new();
    for delivery in &account.deliveries {
        came.entry(delivery.message).or_insert(delivery.at);
    }
    for one in &armed {
        let Some(message) = cast.get(one.will) else { continue };
        let Kind::Will { delay_seconds } = message.kind else { continue };
        let watched =
            |from: u64| account.spans(message.topic).iter().any(|span| span.owes(from, end));
        let (Some(connected), Some((ended, how))) = (one.connected, one.ended) else { continue };
        if !watched(connected) {
            continue;
        }
        let delay = u64::from(delay_seconds) * SECOND;
        let came = came.get(&one.will).copied();
        let back = one.back.unwrap_or(end);
        let name = &cast.of(message.publisher).name;
        let story = format!(
            "will {} of {name}, delay {delay_seconds} s, connection ended at {:.3} s ({how:?})",
            one.will,
            ended as f64 / 1e6
        );
        let mut breach = |rule, what| {
            verdict.check(rule);
            if let Some(what) = what {
                let what = format!("{story}: {what}");
                verdict.breach(rule, Concern::of(one.will, message.publisher), what);
            }
        };
        if how == End::Goodbye {
            // [MQTT-3.1.2-8]: deleted on DISCONNECT with Normal Disconnection.
            if lives.remembers(ended) {
                breach(Rule::WillWithdrawn, came.map(|_| "came after DISCONNECT".to_owned()));
            }
            continue;
        }
        let due = lives.settles(ended).saturating_add(delay + lives.grace());
        if lives.up_for(STRETCH, due, back) {
            breach(Rule::Will, came.is_none().then(|| "never came".to_owned()));
        }
        // [MQTT-3.1.3-9]: not if the client is back before the delay has passed.
        let in_time =
            one.resumed.is_some_and(|at| at + SECOND < ended + delay && lives.remembers(at));
        if in_time {
            breach(Rule::WillWithdrawn, came.map(|_| "came though its client was back".to_owned()));
        } else if let Some(came) = came {
            let early = came + EARLY < ended + delay;
            breach(
                Rule::WillWithdrawn,
                early.then(|| format!("came at {:.3} s", came as f64 / 1e6)),
            );
        }
    }
}
