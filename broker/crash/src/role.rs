//! What a client does of its own accord: when it is there, what it publishes,
//! what it subscribes to.

use std::time::{Duration, Instant};

use crate::cast::{FilterId, Kind, TopicId};
use crate::dice::Dice;

/// A time between two bounds, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(pub(crate) u64, pub(crate) u64);

impl Span {
    /// One of them.
    pub(crate) fn throw(self, dice: &mut Dice) -> Duration {
        Duration::from_millis(dice.within(self.0, self.1))
    }
}

/// When a client is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presence {
    /// How long it stays; none: it never leaves by itself.
    pub(crate) stays: Option<Span>,
    /// How long it is away, most times.
    pub(crate) away: Span,
    /// And else, in so many of a hundred cases.
    pub(crate) otherwise: (u64, Span),
    /// In how many of a hundred cases it says DISCONNECT.
    pub(crate) goodbyes: u64,
}

impl Presence {
    /// Always there; when its connection breaks, back at once.
    pub(crate) const ALWAYS: Presence =
        Presence { stays: None, away: Span(0, 30), otherwise: (0, Span(0, 1)), goodbyes: 0 };
}

/// What a client publishes.
#[derive(Clone, Debug)]
pub(crate) struct Publishing {
    /// Where.
    pub(crate) topics: Vec<TopicId>,
    /// At one of these.
    pub(crate) qos: Vec<u8>,
    /// What kind of message, one of these.
    pub(crate) kinds: Vec<Kind>,
    /// Payload bytes, between these.
    pub(crate) bytes: (u64, u64),
    /// Messages a second.
    pub(crate) rate: u64,
    /// Messages without their last answer, at most.
    pub(crate) window: usize,
    /// When the next one is due.
    pub(crate) next: Instant,
}

/// A filter that a client wants, or no longer wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) filter: FilterId,
    pub(crate) qos: u8,
    /// What it wants.
    pub(crate) wanted: bool,
    /// What the broker has acknowledged.
    pub(crate) actual: bool,
    /// Whether it changes its mind from time to time.
    pub(crate) turns: bool,
    /// After a refusal, when to ask again.
    pub(crate) retry: Option<Instant>,
}

/// All that a client does.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) presence: Presence,
    pub(crate) publishing: Option<Publishing>,
    pub(crate) standing: Vec<Standing>,
    /// Topic and delay of its will.
    pub(crate) will: Option<(TopicId, u32)>,
    /// Keeps its answers back now and then.
    pub(crate) slow: bool,
    /// Has nothing to do once the kills are over.
    pub(crate) retires: bool,
}

impl Role {
    /// One that is always there and does nothing.
    pub(crate) fn idle() -> Role {
        Role {
            presence: Presence::ALWAYS,
            publishing: None,
            standing: Vec::new(),
            will: None,
            slow: false,
            retires: false,
        }
    }

    /// With these subscriptions.
    pub(crate) fn wants(mut self, filters: &[FilterId], qos: u8, turns: bool) -> Role {
        self.standing.extend(filters.iter().map(|&filter| Standing {
            filter,
            qos,
            wanted: true,
            actual: false,
            turns,
            retry: None,
        }));
        self
    }

    /// With this presence.
    pub(crate) fn present(mut self, presence: Presence) -> Role {
        self.presence = presence;
        self
    }

    /// Whether all subscriptions are as wanted.
    pub(crate) fn settled(&self) -> bool {
        self.standing.iter().all(|standing| standing.wanted == standing.actual)
    }
}
