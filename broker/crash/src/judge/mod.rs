//! Holds a history against what was promised.
//!
//! Only what the broker acknowledged binds it, and only what MQTT lets a
//! client conclude is concluded: what was on its way when a process died may
//! have happened or not. Each rule counts what it looked at, so that a run in
//! which a rule had nothing to look at does not pass for a proof.

mod account;
mod messages;
pub(crate) mod resumed;
mod retained;
mod sessions;
#[cfg(test)]
mod tests;
mod wills;

use std::collections::BTreeMap;

use account::Account;

use crate::cast::{Cast, ClientId, MessageId};
use crate::history::Event;
use crate::lives::Lives;

/// A second, in the unit of a history.
const SECOND: u64 = 1_000_000;

/// Breaches of one rule that are kept with all they have to say.
const KEPT_MAX: u64 = 50;

/// What the broker is held to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Rule {
    /// An acknowledged message reaches everyone it is owed to.
    Loss,
    /// QoS 2 reaches the application once.
    Duplicate,
    /// Order per publisher, topic and QoS.
    Order,
    /// A share group gets each message, and QoS 2 once.
    Shared,
    /// An acknowledged subscription is there at the end.
    Subscription,
    /// Nothing comes from a filter after its UNSUBACK.
    Unsubscribed,
    /// The QoS of a delivery is the lower of publish and grant.
    Quality,
    /// Session Present where a session was acknowledged, and only there.
    Session,
    /// A session ends after its expiry, and not before.
    SessionExpiry,
    /// What is retained is what was acknowledged last, or later.
    Retained,
    /// A will comes when it is due.
    Will,
    /// A will that was withdrawn, or is not due, does not come.
    WillWithdrawn,
    /// Nothing expired is delivered, and the rest of an interval is right.
    Expiry,
    /// No acknowledgement while no sync succeeds.
    Synced,
    /// A full disk refuses durable publishes, nothing else, and not for ever.
    Pressure,
    /// After a fault acknowledgements come again in time.
    Resumed,
    /// Every publish is answered in the end.
    Answered,
    /// No packet that nobody sent.
    Intact,
    /// The process starts, stays, and ends as it should.
    Process,
}

impl Rule {
    /// Every rule, in the order of the table.
    pub(crate) const ALL: [Rule; 19] = [
        Rule::Loss,
        Rule::Duplicate,
        Rule::Order,
        Rule::Shared,
        Rule::Subscription,
        Rule::Unsubscribed,
        Rule::Quality,
        Rule::Session,
        Rule::SessionExpiry,
        Rule::Retained,
        Rule::Will,
        Rule::WillWithdrawn,
        Rule::Expiry,
        Rule::Synced,
        Rule::Pressure,
        Rule::Resumed,
        Rule::Answered,
        Rule::Intact,
        Rule::Process,
    ];

    /// Its name in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Rule::Loss => "loss",
            Rule::Duplicate => "duplicate",
            Rule::Order => "order",
            Rule::Shared => "shared",
            Rule::Subscription => "subscription",
            Rule::Unsubscribed => "unsubscribed",
            Rule::Quality => "quality",
            Rule::Session => "session",
            Rule::SessionExpiry => "session_expiry",
            Rule::Retained => "retained",
            Rule::Will => "will",
            Rule::WillWithdrawn => "will_withdrawn",
            Rule::Expiry => "expiry",
            Rule::Synced => "synced",
            Rule::Pressure => "pressure",
            Rule::Resumed => "resumed",
            Rule::Answered => "answered",
            Rule::Intact => "intact",
            Rule::Process => "process",
        }
    }

    /// What it asks, for the table.
    pub(crate) fn asks(self) -> &'static str {
        match self {
            Rule::Loss => "acknowledged messages reach whom they are owed to",
            Rule::Duplicate => "QoS 2 reaches the application once",
            Rule::Shared => "a share group gets each message, and QoS 2 once",
            Rule::Order => "order per publisher, topic and QoS",
            Rule::Subscription => "acknowledged subscriptions are there at the end",
            Rule::Unsubscribed => "nothing from a filter after its UNSUBACK",
            Rule::Quality => "QoS of a delivery as granted",
            Rule::Session => "Session Present where a session was acknowledged",
            Rule::SessionExpiry => "sessions end after their expiry, not before",
            Rule::Retained => "retained is the last acknowledged value, or later",
            Rule::Will => "wills come when they are due",
            Rule::WillWithdrawn => "wills that are withdrawn or not due do not come",
            Rule::Expiry => "expired messages stay away, the rest counts down",
            Rule::Synced => "no acknowledgement while no sync succeeds",
            Rule::Pressure => "a full disk refuses durable publishes, nothing else",
            Rule::Resumed => "acknowledgements come again in time after a fault",
            Rule::Answered => "every publish is answered in the end",
            Rule::Intact => "packets and payloads intact",
            Rule::Process => "the process starts, stays and ends as it should",
        }
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub(crate) struct Breach {
    /// Which.
    pub(crate) rule: Rule,
    /// In words.
    pub(crate) what: String,
    /// Whose history tells it.
    pub(crate) concern: Concern,
}

/// Whom a breach concerns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Concern {
    /// The message.
    pub(crate) message: Option<MessageId>,
    /// The client.
    pub(crate) client: Option<ClientId>,
    /// When, if no message says it.
    pub(crate) at: Option<u64>,
}

impl Concern {
    /// Nobody in particular.
    pub(crate) const NOBODY: Concern = Concern { message: None, client: None, at: None };

    /// What a message and a client went through.
    pub(crate) fn of(message: MessageId, client: ClientId) -> Concern {
        Concern { message: Some(message), client: Some(client), at: None }
    }

    /// What a client went through then.
    pub(crate) fn at(client: ClientId, at: u64) -> Concern {
        Concern { message: None, client: Some(client), at: Some(at) }
    }
}

/// How one rule fared.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Row {
    /// Cases looked at.
    pub(crate) checked: u64,
    /// Breaches among them.
    pub(crate) breaches: u64,
}

/// Numbers that say how much there was to get wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Messages given to the broker, wills included.
    pub(crate) published: u64,
    /// Of them acknowledged.
    pub(crate) acknowledged: u64,
    /// Refused with a reason code.
    pub(crate) rejected: u64,
    /// Deliveries to an application.
    pub(crate) delivered: u64,
    /// Of them repeated, which only QoS 1 may.
    pub(crate) repeated: u64,
    /// QoS 2 deliveries that the client knew and kept from its application.
    pub(crate) suppressed: u64,
    /// PUBLISHes that publishers sent again.
    pub(crate) resent: u64,
    /// Lives of the broker.
    pub(crate) lives: u64,
}

/// What the judge says.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    rows: BTreeMap<Rule, Row>,
    /// The first breaches of each rule.
    pub(crate) breaches: Vec<Breach>,
    /// How much there was to get wrong.
    pub(crate) tally: Tally,
}

impl Verdict {
    /// How a rule fared.
    pub(crate) fn row(&self, rule: Rule) -> Row {
        self.rows.get(&rule).copied().unwrap_or_default()
    }

    /// Breaches of all rules.
    pub(crate) fn breaches(&self) -> u64 {
        self.rows.values().map(|row| row.breaches).sum()
    }

    /// A case was looked at.
    pub(crate) fn check(&mut self, rule: Rule) {
        self.rows.entry(rule).or_default().checked += 1;
    }

    /// The case last looked at is a breach.
    pub(crate) fn breach(&mut self, rule: Rule, concern: Concern, what: String) {
        let row = self.rows.entry(rule).or_default();
        row.breaches += 1;
        if row.breaches <= KEPT_MAX {
            self.breaches.push(Breach { rule, what, concern });
        }
    }
}

/// Judges a history, whose events are in the order of time. `grace`: what a
/// cluster has to find out that one of its own is gone, in microseconds.
pub(crate) fn judge(cast: &Cast, events: &[Event], grace: u64) -> Verdict {
    let lives = Lives::read(events, grace);
    let account = Account::read(cast, events);
    let mut verdict = Verdict { tally: account.tally, ..Verdict::default() };
    verdict.tally.lives = lives.count() as u64;
    messages::judge(cast, events, &account, &mut verdict);
    sessions::judge(cast, events, &lives, &mut verdict);
    retained::judge(cast, events, &account, &mut verdict);
    wills::judge(cast, events, &account, &lives, &mut verdict);
    verdict
}
