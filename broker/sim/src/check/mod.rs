//! One checker a promise; each reads client histories only.

mod lives;
mod loss;
mod once;
mod order;
mod owner;
mod phantom;
mod present;
mod resume;
mod retained;
mod shared;
mod unsubscribed;
mod will;

use std::fmt;

use crate::history::{History, MessageId};
use lives::Lives;

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which: C1 to C12, or what did not even come to rest.
    pub check: &'static str,
    /// How.
    pub reason: String,
    /// With which message, if it is one.
    pub message: Option<MessageId>,
    /// Towards which client.
    pub client: Option<usize>,
}

impl Failure {
    /// A broken promise.
    pub fn new(check: &'static str, reason: String) -> Failure {
        Failure { check, reason, message: None, client: None }
    }

    /// The same, of this message.
    #[must_use]
    pub fn of_message(self, message: MessageId) -> Failure {
        Failure { message: Some(message), ..self }
    }

    /// The same, towards this client.
    #[must_use]
    pub fn of_client(self, client: usize) -> Failure {
        Failure { client: Some(client), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.reason)
    }
}

/// Holds a history against every promise.
pub fn all(history: &History) -> Vec<Failure> {
    let mut failures = Vec::new();
    let lives = Lives::of(history);
    loss::check(history, &lives, &mut failures);
    once::check(history, &lives, &mut failures);
    order::check(history, &lives, &mut failures);
    phantom::check(history, &lives, &mut failures);
    retained::check(history, &lives, &mut failures);
    owner::check(history, &mut failures);
    present::check(&lives, &mut failures);
    will::check(history, &lives, &mut failures);
    shared::check(history, &lives, &mut failures);
    unsubscribed::check(history, &lives, &mut failures);
    if history.cluster {
        resume::check(history, &mut failures);
    }
    failures
}
