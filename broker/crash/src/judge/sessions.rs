//! Session Present, and how long a session outlives its connection.

use std::collections::HashMap;

use super::{Concern, Rule, SECOND, Verdict};
use crate::cast::{Cast, ClientId, Lasting};
use crate::history::{End, Event, What};
use crate::lives::Lives;

/// What is known of a client's session.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// There is none.
    #[default]
    None,
    /// The first CONNECT is on its way.
    Asked,
    /// A CONNECT left, and nobody knows what became of it.
    Maybe,
    /// The broker has said CONNACK.
    Here,
    /// The same, and the connection ended then.
    Left { at: u64, how: End },
}

pub(crate) fn judge(cast: &Cast, events: &[Event], lives: &Lives, verdict: &mut Verdict) {
    let mut states: HashMap<ClientId, State> = HashMap::new();
    for event in events {
        let Some(client) = event.what.client() else { continue };
        let lasting = cast.of(client).lasting;
        if lasting == Lasting::Not {
            continue;
        }
        let state = states.entry(client).or_default();
        match event.what {
            What::ConnectSent { .. } => {
                if matches!(state, State::None) {
                    *state = State::Asked;
                }
            }
            What::Connected { present, .. } => {
                connected(cast, client, *state, event.at, present, lives, verdict);
                *state = State::Here;
            }
            What::Closed { how, .. } => match *state {
                State::Here => *state = State::Left { at: event.at, how },
                // Of a CONNECT that was not answered: the broker may have
                // resumed the session, and its time begins again.
                State::Left { how: was, .. } => {
                    let how = if was == End::Goodbye { End::Dropped } else { was };
                    *state = State::Left { at: event.at, how };
                    if lasting != Lasting::Always {
                        *state = State::Maybe;
                    }
                }
                State::Asked => *state = State::Maybe,
                State::None | State::Maybe => {}
            },
            _ => {}
        }
    }
}

fn connected(
    cast: &Cast,
    client: ClientId,
    state: State,
    at: u64,
    present: bool,
    lives: &Lives,
    verdict: &mut Verdict,
) {
    let name = &cast.of(client).name;
    let seconds = match cast.of(client).lasting {
        Lasting::Not => return,
        Lasting::Always => None,
        Lasting::Seconds(seconds) => Some(u64::from(seconds)),
    };
    let (left, wanted, rule) = match (state, seconds) {
        (State::Maybe, _) => return,
        (State::None | State::Asked, _) => (at, Some(false), Rule::Session),
        // A connection of the same client that the history has not seen end.
        (State::Here, _) => (at, Some(true), Rule::Session),
        (State::Left { at: left, .. }, None) => (left, Some(true), Rule::Session),
        (State::Left { at: left, .. }, Some(seconds)) => {
            // At the latest the broker noticed the end in a life that lasted.
            let counted = lives.settles(left);
            let wanted = if at.saturating_sub(left) + SECOND < seconds * SECOND {
                Some(true)
            } else if at > counted.saturating_add((seconds + 2) * SECOND + lives.grace()) {
                Some(false)
            } else {
                None
            };
            (left, wanted, Rule::SessionExpiry)
        }
    };
    let Some(wanted) = wanted else { return };
    verdict.check(rule);
    if wanted != present {
        let what = format!(
            "{name} came back at {:.3} s, {:.3} s after it left: session present {}, to be {}",
            at as f64 / 1e6,
            at.saturating_sub(left) as f64 / 1e6,
            u8::from(present),
            u8::from(wanted),
        );
        verdict.breach(rule, Concern::at(client, at), what);
    }
}
