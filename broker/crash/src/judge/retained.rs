//! Retained messages as registers: one writer a topic, and what a new
//! subscriber reads is the last acknowledged value or a later one.

use std::collections::HashMap;

use super::account::Account;
use super::{Concern, Rule, Verdict};
use crate::cast::{Cast, ClientId, Kind, MessageId, TopicId};
use crate::history::{Event, What};

/// What a reader has read so far.
#[derive(Debug, Default)]
struct Reading {
    began: u64,
    values: HashMap<TopicId, (u64, MessageId)>,
}

pub(crate) fn judge(cast: &Cast, events: &[Event], account: &Account, verdict: &mut Verdict) {
    let mut registers: HashMap<TopicId, Vec<MessageId>> = HashMap::new();
    for (id, message) in cast.messages() {
        if matches!(message.kind, Kind::Set | Kind::Clear) {
            registers.entry(message.topic).or_default().push(id);
        }
    }
    let mut readings: HashMap<ClientId, Reading> = HashMap::new();
    for event in events {
        match event.what {
            What::ReadBegan { client } => {
                readings.insert(client, Reading { began: event.at, ..Reading::default() });
            }
            What::Read { client, topic, message } => {
                if let Some(reading) = readings.get_mut(&client) {
                    reading.values.insert(topic, (event.at, message));
                }
            }
            What::ReadEnded { client, whole } => {
                let Some(reading) = readings.remove(&client) else { continue };
                for (&topic, writes) in &registers {
                    let value = reading.values.get(&topic).copied();
                    if value.is_none() && !whole {
                        continue;
                    }
                    verdict.check(Rule::Retained);
                    let end = value.map_or(event.at, |(at, _)| at);
                    let value = value.map(|(_, message)| message);
                    let strict = Window::at(account, writes, reading.began, end);
                    if strict.allows(cast, value) {
                        continue;
                    }
                    strict.breach(cast, client, event.at, topic, value, verdict);
                }
            }
            _ => {}
        }
    }
}

/// The writes of one topic that a reader may find.
struct Window<'a> {
    /// The last that was acknowledged before the reader asked.
    settled: Option<MessageId>,
    /// Those that were on their way after it.
    later: &'a [MessageId],
}

impl<'a> Window<'a> {
    fn at(account: &Account, writes: &'a [MessageId], began: u64, end: u64) -> Window<'a> {
        let settled = |id: &MessageId| account.fate(*id).completed.is_some_and(|at| at < began);
        let sent = |id: &MessageId| account.fate(*id).first_sent.is_some_and(|at| at <= end);
        let last = writes.iter().rposition(settled);
        let to = writes.iter().rposition(sent).map_or(0, |at| at + 1);
        let from = last.map_or(0, |at| at + 1);
        Window { settled: last.map(|at| writes[at]), later: &writes[from..to.max(from)] }
    }

    fn allows(&self, cast: &Cast, value: Option<MessageId>) -> bool {
        let clears = |id: &MessageId| cast.get(*id).is_some_and(|m| m.kind == Kind::Clear);
        let mut any = self.settled.iter().chain(self.later);
        match value {
            Some(value) => any.any(|id| *id == value && !clears(id)),
            // Nothing is there before the first write, and after a clear.
            None => self.settled.is_none() || any.any(clears),
        }
    }

    fn breach(
        &self,
        cast: &Cast,
        client: ClientId,
        at: u64,
        topic: TopicId,
        value: Option<MessageId>,
        verdict: &mut Verdict,
    ) {
        let kind = |id: MessageId| {
            let clear = cast.get(id).is_some_and(|message| message.kind == Kind::Clear);
            if clear { format!("{id} (clear)") } else { id.to_string() }
        };
        let what = format!(
            "{} read {} at {}; acknowledged last was {}, and {} sent after it",
            cast.of(client).name,
            value.map_or("nothing".to_owned(), |id| id.to_string()),
            cast.topic_name(topic),
            self.settled.map_or("nothing".to_owned(), kind),
            self.later.len(),
        );
        let concern = match self.settled.or(value) {
            Some(message) => Concern::of(message, client),
            None => Concern::at(client, at),
        };
        verdict.breach(Rule::Retained, concern, what);
    }
}
