//! The sending end of a lane that lives with its node.

use std::collections::VecDeque;

use super::{Lane, Stamp};
use crate::ids::Life;
use crate::limits::LANE_WINDOW_MAX;

/// Messages of this life of a node for one partition, until they are acknowledged.
#[derive(Clone, Debug)]
pub struct Publishing<T> {
    life: Life,
    /// The number of the last one that was acknowledged.
    acked: u64,
    /// Those after it, in order.
    unacked: VecDeque<T>,
    /// How many of them were sent to the leader of now.
    sent: usize,
}

/// The lane is full: the publisher's message goes to the outbox, or its socket
/// is not read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many messages are under way to that partition")]
pub struct LaneFull;

/// The target says that it does not have what it acknowledged. A late word of an
/// earlier leader, or, if the present one says so again, a lost log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the target is at {position} although it had acknowledged {acked}")]
pub struct TargetLost {
    /// What it says now.
    pub position: u64,
    /// What it had said.
    pub acked: u64,
}

impl<T> Publishing<T> {
    /// For a life that begins.
    pub fn new(life: Life) -> Publishing<T> {
        Publishing { life, acked: 0, unacked: VecDeque::new(), sent: 0 }
    }

    /// One more message; returns its number.
    ///
    /// # Errors
    /// There is no room.
    pub fn push(&mut self, message: T) -> Result<u64, LaneFull> {
        if self.unacked.len() >= LANE_WINDOW_MAX {
            return Err(LaneFull);
        }
        self.unacked.push_back(message);
        Ok(self.acked + self.unacked.len() as u64)
    }

    /// The next message to send to the partition's leader.
    pub fn next_to_send(&mut self) -> Option<(Stamp, &T)> {
        let message = self.unacked.get(self.sent)?;
        self.sent += 1;
        let number = self.acked + self.sent as u64;
        let lane = Lane::Publish(self.life);
        Some((Stamp { lane, number, after: number - 1 }, message))
    }

    /// The target has taken everything up to a number. Returns what that settles,
    /// in order.
    pub fn acked(&mut self, number: u64) -> impl Iterator<Item = T> + '_ {
        let news = number.saturating_sub(self.acked).min(self.unacked.len() as u64);
        self.acked += news;
        self.sent = self.sent.saturating_sub(news as usize);
        self.unacked.drain(..news as usize)
    }

    /// There is a new leader, or the outcome is unknown: all that is not
    /// acknowledged is sent again with the same numbers.
    pub fn again(&mut self) {
        self.sent = 0;
    }

    /// The target refused one with a gap: it has everything up to its position,
    /// which settles the returned ones; the others are sent again.
    ///
    /// # Errors
    /// The target has less than it had acknowledged; nothing is changed.
    pub fn gap(&mut self, position: u64) -> Result<Vec<T>, TargetLost> {
        if position < self.acked {
            return Err(TargetLost { position, acked: self.acked });
        }
        let settled = self.acked(position).collect();
        self.again();
        Ok(settled)
    }

    /// Messages that are not acknowledged.
    pub fn len(&self) -> usize {
        self.unacked.len()
    }

    /// Whether all are.
    pub fn is_empty(&self) -> bool {
        self.unacked.is_empty()
    }
}
