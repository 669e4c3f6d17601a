//! Calls: what is asked, the table of those that wait, and how they fail.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tidegate_peer::{Answer, AnswerOutcome, ConnectionKind, Reason};
use tokio::sync::oneshot;

use crate::limits::CALLS_MAX;

/// What is asked of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Over which connection. Data goes by group over its stripes; a fresh node
    /// has control alone.
    pub over: ConnectionKind,
    /// Of which group; 0xFFFF: the meta group. Each has a lane of its own.
    pub group: u16,
    /// What is asked: the layers' above to number.
    pub what: u16,
    /// The question; 16 MiB at most, less 24 bytes.
    pub body: Bytes,
    /// How long the answer is waited for. In one that came: what its caller said.
    pub timeout: Duration,
}

/// Why a call has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallError {
    /// There is no session with that node, or none with such a connection.
    /// Nothing was sent.
    #[error("not connected")]
    NotConnected,
    /// The session ended before the answer came: it may have been done.
    #[error("the connection was lost")]
    Lost,
    /// No answer in time: it may have been done, or still be.
    #[error("no answer in time")]
    TimedOut,
    /// Too much waits to be sent or answered already. Nothing was sent.
    #[error("too much waits for that node")]
    Full,
    /// The peer has too much to do. Nothing was done.
    #[error("the peer is busy")]
    Busy,
    /// Longer than a message may be. Our own fault.
    #[error("a call of {got} bytes is over the limit of {max}")]
    TooLarge {
        /// Its bytes.
        got: usize,
        /// What is allowed.
        max: usize,
    },
    /// The peer does not do that.
    #[error("refused ({code}): {detail}")]
    Refused {
        /// Why, as the layers above number it.
        code: u16,
        /// For people.
        detail: String,
    },
}

/// Why whoever is at an address could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there, or does not speak.
    #[error("not reached: {0}")]
    Unreachable(#[source] io::Error),
    /// Not in time.
    #[error("no answer in time")]
    TimedOut,
    /// One does not believe the other: secrets or certificates differ.
    #[error("not trusted: {0}")]
    Untrusted(String),
    /// One refuses the other.
    #[error("refused{}: {} {detail}", if *by_peer { " by the peer" } else { "" },
        reason.map_or("unknown", Reason::name))]
    Refused {
        /// Why; none: for a reason of a newer version.
        reason: Option<Reason>,
        /// Whether it was the peer.
        by_peer: bool,
        /// For people.
        detail: String,
    },
    /// It was reached, and the call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl AskError {
    /// Whether one does not believe the other: secrets or certificates differ.
    pub fn is_distrust(&self) -> bool {
        match self {
            Self::Untrusted(_) => true,
            Self::Refused { reason, .. } => {
                matches!(reason, Some(Reason::BadProof | Reason::WrongAuth | Reason::WrongIdentity))
            }
            Self::Unreachable(_) | Self::TimedOut | Self::Call(_) => false,
        }
    }

    /// What it is counted as.
    pub(crate) fn refused(&self) -> Option<(bool, &'static str)> {
        match self {
            Self::Refused { reason, by_peer, .. } => {
                Some((*by_peer, reason.map_or("unknown", Reason::name)))
            }
            Self::Untrusted(_) => Some((false, "tls")),
            Self::Unreachable(_) | Self::TimedOut | Self::Call(_) => None,
        }
    }
}

/// Calls that wait for their answers.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_request: HashMap<u64, oneshot::Sender<Answer>>,
    is_over: bool,
}

/// A call that waits; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Pending<'a> {
    calls: &'a Calls,
    pub(crate) request: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().expect("no panic while it is held")
    }

    pub(crate) fn begin(&self) -> Result<Pending<'_>, CallError> {
        let mut waiting = self.lock();
        if waiting.is_over {
            return Err(CallError::Lost);
        }
        if waiting.by_request.len() >= CALLS_MAX {
            return Err(CallError::Full);
        }
        waiting.next += 1;
        let request = waiting.next;
        let (sender, answer) = oneshot::channel();
        waiting.by_request.insert(request, sender);
        Ok(Pending { calls: self, request, answer })
    }

    /// An answer came; says whether somebody waits for it.
    pub(crate) fn answer(&self, answer: Answer) -> bool {
        let waits = self.lock().by_request.remove(&answer.request);
        waits.is_some_and(|waits| waits.send(answer).is_ok())
    }

    /// Nothing will be answered any more.
    pub(crate) fn end(&self) {
        let mut waiting = self.lock();
        waiting.is_over = true;
        waiting.by_request.clear();
    }
}

impl Pending<'_> {
    pub(crate) async fn answer(mut self, timeout: Duration) -> Result<Bytes, CallError> {
        let answer = match tokio::time::timeout(timeout, &mut self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Err(CallError::Lost),
            Err(_) => return Err(CallError::TimedOut),
        };
        match answer.outcome {
            AnswerOutcome::Done => Ok(answer.body),
            AnswerOutcome::Busy => Err(CallError::Busy),
            AnswerOutcome::Refused => {
                let detail = String::from_utf8_lossy(&answer.body).into_owned();
                Err(CallError::Refused { code: answer.code, detail })
            }
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.calls.lock().by_request.remove(&self.request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(request: u64) -> Answer {
        Answer { request, outcome: AnswerOutcome::Done, code: 0, body: Bytes::new() }
    }

    #[test]
    fn calls_that_wait_are_bounded_and_forgotten_with_their_callers() {
        let calls = Calls::default();
        let mut waiting: Vec<_> =
            (0..CALLS_MAX).map(|_| calls.begin().expect("one of as many as allowed")).collect();
        assert_eq!(calls.begin().expect_err("one too many"), CallError::Full);
        let given_up = waiting.pop().expect("some").request;
        assert!(!calls.answer(done(given_up)), "nobody waits for it");
        let next = calls.begin().expect("its place is free");
        assert!(calls.answer(done(next.request)));
        assert!(!calls.answer(done(next.request)), "answered once");
        calls.end();
        assert!(!calls.answer(done(waiting[0].request)));
        assert_eq!(calls.begin().expect_err("over"), CallError::Lost);
    }
}
