//! Byte credit a lane: how a receiver slows one sender down and nobody else.
//!
//! Both sides count body bytes of a lane since the connection began. The
//! receiver says how far the count may go; totals instead of amounts, so that a
//! grant may be repeated or overtaken. A message may begin while the count is
//! below the limit and is then charged whole: otherwise one that is longer
//! than the credit could never be sent.

use crate::limits::{LANE_CREDIT_BYTES_MIN, MESSAGE_BYTES_MAX};

/// The sender's half of a lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SendCredit {
    sent: u64,
    limit: u64,
}

impl SendCredit {
    /// At the start: what the peer's Hello says of each lane.
    pub fn new(initial: u32) -> Self {
        Self { sent: 0, limit: initial.into() }
    }

    /// Whether a message may begin.
    pub fn is_open(&self) -> bool {
        self.sent < self.limit
    }

    /// Charges a message of `len` bytes that begins. An empty one costs a byte:
    /// what takes up room must cost.
    pub fn charge(&mut self, len: usize) {
        self.sent = self.sent.saturating_add(cost(len));
    }

    /// The peer's grant. True if it opens the lane.
    pub fn grant(&mut self, limit: u64) -> bool {
        let was_open = self.is_open();
        self.limit = self.limit.max(limit);
        !was_open && self.is_open()
    }
}

/// The receiver's half of a lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReceiveCredit {
    received: u64,
    /// Given up by whoever took the messages.
    released: u64,
    granted: u64,
    window: u32,
}

/// A message was begun without credit. The sender's fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{received} bytes were received and {granted} granted")]
pub struct NoCredit {
    /// Before the message.
    pub received: u64,
    /// The limit.
    pub granted: u64,
}

impl ReceiveCredit {
    /// At the start: `window` is what our Hello says of each lane. At most
    /// `window` and one message wait here at any time.
    pub fn new(window: u32) -> Self {
        let window = window.max(LANE_CREDIT_BYTES_MIN);
        Self { received: 0, released: 0, granted: window.into(), window }
    }

    /// A message of `len` bytes begins.
    pub fn receive(&mut self, len: usize) -> Result<(), NoCredit> {
        if self.received >= self.granted {
            return Err(NoCredit { received: self.received, granted: self.granted });
        }
        self.received = self.received.saturating_add(cost(len));
        Ok(())
    }

    /// A message of `len` bytes was taken, and its room is free. Some: the
    /// limit that the sender is to be told; said once half a window is free, so
    /// that grants stay rare.
    pub fn release(&mut self, len: usize) -> Option<u64> {
        // No more than came: a message released twice would open the gates.
        self.released = self.released.saturating_add(cost(len)).min(self.received);
        let limit = self.released.saturating_add(self.window.into());
        if limit.saturating_sub(self.granted) < u64::from(self.window / 2) {
            return None;
        }
        self.granted = limit;
        Some(limit)
    }

    /// Bytes that came and were not taken; at most the window and one message.
    pub fn waiting(&self) -> u64 {
        self.received - self.released
    }
}

const _: () = assert!(MESSAGE_BYTES_MAX < u32::MAX as usize, "so sums of u64 do not overflow");

fn cost(len: usize) -> u64 {
    (len as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u32 = LANE_CREDIT_BYTES_MIN;

    #[test]
    fn a_sender_that_keeps_to_its_credit_is_never_refused_nor_stuck() {
        let (mut sender, mut receiver) = (SendCredit::new(WINDOW), ReceiveCredit::new(WINDOW));
        let mut waiting = Vec::new();
        for round in 0..1_000_usize {
            // One that is longer than the whole window among them.
            let len = [0, 1, 700, 65_536, 1 << 20][round % 5];
            while !sender.is_open() {
                let taken = waiting.pop().expect("a closed lane has something to take");
                if let Some(limit) = receiver.release(taken) {
                    sender.grant(limit);
                }
            }
            sender.charge(len);
            receiver.receive(len).expect("within the credit");
            waiting.push(len);
            assert!(receiver.waiting() <= u64::from(WINDOW) + (1 << 20));
        }
    }

    #[test]
    fn a_message_without_credit_is_refused() {
        let mut receiver = ReceiveCredit::new(WINDOW);
        receiver.receive(WINDOW as usize).expect("all of it");
        let said = receiver.receive(1).expect_err("beyond it");
        assert_eq!(said, NoCredit { received: WINDOW.into(), granted: WINDOW.into() });
    }

    #[test]
    fn an_old_grant_takes_nothing_back_and_a_double_release_gives_nothing() {
        let mut sender = SendCredit::new(10);
        sender.charge(10);
        assert!(sender.grant(30) && !sender.grant(20) && sender.is_open());
        let mut receiver = ReceiveCredit::new(WINDOW);
        receiver.receive(40_000).expect("credit");
        assert_eq!(receiver.release(40_000), Some(105_536));
        assert_eq!(receiver.release(40_000), None);
    }
}
