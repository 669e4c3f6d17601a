//! Messages: lost, doubled, out of order, from nowhere, too late, too early
//! acknowledged.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::account::{Account, Delivery, Span};
use super::{Concern, Rule, SECOND, Verdict};
use crate::cast::{
    Cast, ClientId, FilterId, Kind, LONG_EXPIRY_SECONDS, Lasting, Message, MessageId, TopicId,
};
use crate::history::{Event, What};

/// By how much a clock of whole seconds and a busy machine may be off.
const SLACK: u64 = 2 * SECOND;

pub(crate) fn judge(cast: &Cast, events: &[Event], account: &Account, verdict: &mut Verdict) {
    lost(cast, account, verdict);
    shared(cast, account, verdict);
    deliveries(cast, account, verdict);
    answered(cast, account, verdict);
    synced(cast, events, account, verdict);
    for event in events {
        if let What::Delivered { .. } | What::Damaged { .. } = event.what {
            verdict.check(Rule::Intact);
        }
        if let What::Damaged { client } = event.what {
            let what = format!("{} got a packet that nobody sent", cast.of(client).name);
            verdict.breach(Rule::Intact, Concern::at(client, event.at), what);
        }
    }
}

/// Acknowledged, owed, and never came.
fn lost(cast: &Cast, account: &Account, verdict: &mut Verdict) {
    for (id, message) in cast.messages().filter(|(_, message)| message.kind.is_owed()) {
        let fate = account.fate(id);
        let (Some(sent), Some(acked)) = (fate.first_sent, fate.acked) else { continue };
        let rule = if message.kind == Kind::Probe { Rule::Subscription } else { Rule::Loss };
        // What was granted at QoS 0 is owed to nobody.
        let owed = |span: &&Span| span.granted > 0 && !cast.is_shared(span.filter);
        let own = account.spans(message.topic).iter().filter(owed);
        let matched = account.matched(sent, acked);
        for span in own.filter(|span| span.owes(sent, matched)) {
            verdict.check(rule);
            if account.got(span.client, id) > 0 {
                continue;
            }
            let what = format!(
                "{id}, QoS {} of {} on {}, acknowledged at {:.3} s, never reached {}, subscribed to {}",
                message.qos,
                cast.of(message.publisher).name,
                cast.topic_name(message.topic),
                acked as f64 / 1e6,
                cast.of(span.client).name,
                cast.filter_name(span.filter),
            );
            verdict.breach(rule, Concern::of(id, span.client), what);
        }
    }
}

/// A share group gets what it is owed, and QoS 2 only one of its members.
/// [MQTT-4.8.2-4]: the session of the one who has it, and no other.
fn shared(cast: &Cast, account: &Account, verdict: &mut Verdict) {
    for (id, message) in cast.messages().filter(|(_, message)| message.kind.is_owed()) {
        let fate = account.fate(id);
        let (Some(sent), Some(acked)) = (fate.first_sent, fate.acked) else { continue };
        let spans = account.spans(message.topic);
        let groups: BTreeSet<FilterId> =
            spans.iter().map(|span| span.filter).filter(|&of| cast.is_shared(of)).collect();
        for group in groups {
            let members = || spans.iter().filter(|span| span.filter == group);
            // To an ephemeral member it may be lost with the member's session.
            let stays = |span: &&Span| cast.of(span.client).lasting != Lasting::Not;
            if !members().filter(stays).any(|span| span.owes(sent, acked)) {
                continue;
            }
            verdict.check(Rule::Shared);
            let clients: BTreeSet<ClientId> = members().map(|span| span.client).collect();
            let got: u32 = clients.iter().map(|&client| account.got(client, id)).sum();
            let lasting = members().all(|span| stays(&span));
            if got == 1 || got > 1 && !(message.qos == 2 && lasting) {
                continue;
            }
            // One whose connection ended meanwhile may have had it, and took it along.
            let may = |span: &&Span| span.allows(sent, acked) && !span.owes(sent, acked);
            if got == 0 && members().any(|span| !stays(&span) && may(&span)) {
                continue;
            }
            let what = format!(
                "{id}, QoS {} of {} on {}, acknowledged at {:.3} s, came {got} times to {}",
                message.qos,
                cast.of(message.publisher).name,
                cast.topic_name(message.topic),
                acked as f64 / 1e6,
                cast.filter_name(group),
            );
            let one = clients.iter().copied().find(|&client| account.got(client, id) > 0);
            let concern = Concern::of(id, one.unwrap_or(message.publisher));
            verdict.breach(Rule::Shared, concern, what);
        }
    }
}

/// Every delivery, in the order in which they came.
fn deliveries(cast: &Cast, account: &Account, verdict: &mut Verdict) {
    let mut seen: HashSet<(ClientId, MessageId)> = HashSet::new();
    let mut had: HashSet<(ClientId, u32, MessageId)> = HashSet::new();
    let mut last: HashMap<(ClientId, ClientId, TopicId, u8), MessageId> = HashMap::new();
    for delivery in account.deliveries.iter().filter(|delivery| !delivery.suppressed) {
        let id = delivery.message;
        let Some(message) = cast.get(id) else { continue };
        let first = seen.insert((delivery.client, id));
        quality(cast, account, delivery, message, verdict);
        if delivery.qos == 2 {
            verdict.check(Rule::Duplicate);
            // Another session knows nothing of what the one before it had.
            if !had.insert((delivery.client, delivery.session, id)) {
                let what = format!(
                    "{id} of {} reached the application of {} {} times at QoS 2",
                    cast.of(message.publisher).name,
                    cast.of(delivery.client).name,
                    account.got(delivery.client, id),
                );
                verdict.breach(Rule::Duplicate, Concern::of(id, delivery.client), what);
            }
        }
        if !first || matches!(message.kind, Kind::Will { .. }) {
            continue;
        }
        if let Kind::Expiring { seconds } = message.kind {
            expiry(cast, account, delivery, seconds, verdict);
        }
        // What a member of a group has left behind comes to another one late.
        let mut spans = account.spans(message.topic).iter();
        let shares = |span: &Span| span.client == delivery.client && cast.is_shared(span.filter);
        if !ordered(message.kind) || spans.any(shares) {
            continue;
        }
        // What was first sent before the subscription was there comes when it is
        // sent again, behind what was sent between.
        let fate = account.fate(id);
        let first_sent = fate.first_sent.unwrap_or(delivery.at);
        let there =
            |span: &Span| span.client == delivery.client && span.owes(first_sent, delivery.at);
        let again = fate.last_sent > first_sent;
        if again && !account.spans(message.topic).iter().any(there) {
            continue;
        }
        verdict.check(Rule::Order);
        let stream = (delivery.client, message.publisher, message.topic, message.qos);
        let before = last.entry(stream).or_insert(id);
        if *before > id {
            let what = format!(
                "{id} of {} on {} came to {} after {before}, which was sent later",
                cast.of(message.publisher).name,
                cast.topic_name(message.topic),
                cast.of(delivery.client).name,
            );
            verdict.breach(Rule::Order, Concern::of(id, delivery.client), what);
        }
        *before = id.max(*before);
    }
}

/// Whether its first delivery has to come before those of later ones. What was
/// retained comes before what its publisher sends again, and what expired in
/// the queue comes for the first time when it is sent again.
fn ordered(kind: Kind) -> bool {
    match kind {
        Kind::Plain | Kind::Probe => true,
        Kind::Expiring { seconds } => seconds >= LONG_EXPIRY_SECONDS,
        Kind::Set | Kind::Clear | Kind::Will { .. } => false,
    }
}

/// Whether there was a subscription for it, and its QoS.
fn quality(
    cast: &Cast,
    account: &Account,
    delivery: &Delivery,
    message: &Message,
    verdict: &mut Verdict,
) {
    let id = delivery.message;
    if matches!(message.kind, Kind::Will { .. } | Kind::Set | Kind::Clear) {
        // When a will was published only the broker knows, and what is
        // retained is older than the subscription that gets it.
        return;
    }
    let fate = account.fate(id);
    let from = fate.first_sent.unwrap_or(0);
    let to = fate.completed.map_or(u64::MAX, |completed| account.matched(from, completed));
    let own = account.spans(message.topic).iter().filter(|span| span.client == delivery.client);
    let allowed: Vec<_> = own.filter(|span| span.allows(from, to)).collect();
    verdict.check(Rule::Unsubscribed);
    if allowed.is_empty() {
        let what = format!(
            "{id} on {}, sent at {:.3} s, reached {}, which was not subscribed then",
            cast.topic_name(message.topic),
            from as f64 / 1e6,
            cast.of(delivery.client).name,
        );
        verdict.breach(Rule::Unsubscribed, Concern::of(id, delivery.client), what);
        return;
    }
    let mut granted = allowed.iter().filter(|span| span.acked.is_some()).map(|span| span.granted);
    let Some(most) = granted.clone().max() else { return };
    verdict.check(Rule::Quality);
    if !granted.any(|granted| granted.min(message.qos) == delivery.qos) {
        let what = format!(
            "{id}, sent at QoS {} and granted {most}, reached {} at QoS {}",
            message.qos,
            cast.of(delivery.client).name,
            delivery.qos,
        );
        verdict.breach(Rule::Quality, Concern::of(id, delivery.client), what);
    }
}

/// The first delivery of a message with an expiry. One that was on its way
/// before (DUP) may come late. [MQTT-3.3.2-5]
fn expiry(
    cast: &Cast,
    account: &Account,
    delivery: &Delivery,
    seconds: u32,
    verdict: &mut Verdict,
) {
    let (id, fate) = (delivery.message, account.fate(delivery.message));
    // Whenever it was sent again its time may have begun again.
    let sent = delivery.at.saturating_sub(fate.last_sent);
    // It may have waited in the socket: the broker has it when it says so.
    let age = fate.acked.map_or(sent, |acked| sent.min(delivery.at.saturating_sub(acked)));
    verdict.check(Rule::Expiry);
    let name = &cast.of(delivery.client).name;
    let mut breach = |what| verdict.breach(Rule::Expiry, Concern::of(id, delivery.client), what);
    let life = u64::from(seconds) * SECOND;
    if !delivery.dup && age > life + SLACK {
        breach(format!(
            "{id} came to {name} {} s old, with an expiry of {seconds} s",
            age / SECOND
        ));
        return;
    }
    let Some(left) = delivery.expiry else {
        if cast.of(delivery.client).version.is_5() {
            breach(format!("{id} came to {name} without its expiry of {seconds} s"));
        }
        return;
    };
    // [MQTT-3.3.2-6]: what was received less what it waited.
    let most = life.saturating_sub(age) + SLACK;
    let oldest = delivery.at.saturating_sub(fate.first_sent.unwrap_or(0));
    let least = life.saturating_sub(oldest + SLACK);
    let left = u64::from(left) * SECOND;
    let long = seconds >= LONG_EXPIRY_SECONDS;
    if left > most || (long && left < least) {
        breach(format!(
            "{id}, {} s old, came to {name} with {} s left of {seconds} s",
            age / SECOND,
            left / SECOND
        ));
    }
}

/// Sent, and never answered, though its publisher waited to the end.
fn answered(cast: &Cast, account: &Account, verdict: &mut Verdict) {
    for (id, message) in cast.messages() {
        let fate = account.fate(id);
        let asks = message.qos > 0 && !matches!(message.kind, Kind::Will { .. });
        if !asks || fate.first_sent.is_none() {
            continue;
        }
        verdict.check(Rule::Answered);
        if fate.completed.is_none() && fate.rejected.is_none() {
            let publisher = message.publisher;
            let what = format!("{id} of {} was never answered", cast.of(publisher).name);
            verdict.breach(Rule::Answered, Concern::of(id, publisher), what);
        }
    }
}

/// Sent after the last sync that could succeed, and acknowledged all the same.
fn synced(cast: &Cast, events: &[Event], account: &Account, verdict: &mut Verdict) {
    let mut broken: Option<u64> = None;
    for event in events {
        match event.what {
            What::SyncBroken => broken = Some(event.at),
            What::Ready => broken = None,
            What::Sent { message, again: false } if broken.is_some() => {
                let durable = cast.get(message).is_some_and(|sent| {
                    account.spans(sent.topic).iter().any(|span| span.owes(event.at, event.at))
                });
                if durable {
                    verdict.check(Rule::Synced);
                }
            }
            What::Acked { message } => {
                let sent = account.fate(message).first_sent;
                let Some(known) = cast.get(message) else { continue };
                let (Some(broken), Some(sent)) = (broken, sent) else { continue };
                let mut spans = account.spans(known.topic).iter();
                if sent > broken && spans.any(|span| span.owes(sent, event.at)) {
                    let what = format!(
                        "{id} of {} was sent and acknowledged while no sync could succeed",
                        cast.of(known.publisher).name,
                        id = message,
                    );
                    verdict.breach(Rule::Synced, Concern::of(message, known.publisher), what);
                }
            }
            _ => {}
        }
    }
}
