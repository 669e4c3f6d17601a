//! How other threads reach a shard: two bounded queues and one eventfd.
//!
//! Mail from the other shards comes in batches; orders from the node come
//! through a queue of their own, so that a flood of mail cannot delay a drain;
//! and so do the batches that the store has made durable.
//! Nobody blocks: a full queue gives the item back.
//!
//! The eventfd is written only when the shard is not known to be awake. The
//! protocol is Dekker's: the shard says "asleep" and then looks at the queues
//! once more; a sender pushes and then looks at "asleep". The fences make it
//! impossible that both miss the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::{ArrayQueue, SegQueue};
use crossbeam_utils::CachePadded;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use tidegate_core::ids::{Millis, ShardId};
use tidegate_core::limits::MAILBOX_BATCHES_MAX;
use tidegate_core::{Away, Opened, Verdict};

use crate::replication::Word;
use crate::store::{FETCHES_MAX, Fetched, SUBMISSIONS_MAX, Submission};

/// Orders that may wait for one shard.
const ORDERS_MAX: usize = 64;

/// What the node asks of a shard.
#[derive(Debug)]
pub enum Order {
    /// Run a turn, so that `turns` moves: `/livez` asks an idle shard for a
    /// sign of life this way.
    Ping,
    /// Publish `$SYS` topics (retained): topic and payload.
    PublishSystem(Vec<(String, String)>),
    /// Close the listeners, refuse new clients, end the connections; all of
    /// them by `until`.
    Drain {
        /// The node's deadline.
        until: Millis,
    },
    /// The node is cut off from its cluster, and was for so long that its clients
    /// go, step by step; or it is not any more.
    Isolated(bool),
    /// The node drains: new clients are sent away, and so many of those that it
    /// has; or, with none, new ones are welcome again.
    Away(Option<Away>, usize),
    /// The access rules have changed: hold subscriptions against them.
    Recheck,
    /// Write the state of this partition.
    WriteState(u8),
    /// Write again what queues of this partition need and what lies below.
    Relocate {
        /// Which.
        partition: u8,
        /// The position.
        limit: u64,
    },
    /// What became of a CONNECT that was looked into.
    Verdict(Opened, Verdict),
    /// End the shard's loop.
    Stop,
}

/// A shard's letter box. `M` is what other shards send.
#[derive(Debug)]
pub struct Mailbox<M> {
    mail: ArrayQueue<(ShardId, Vec<M>)>,
    orders: ArrayQueue<Order>,
    completions: ArrayQueue<Submission>,
    fetched: ArrayQueue<Fetched>,
    /// Of the cluster; bounded by what its groups and links have on their way.
    words: SegQueue<Word>,
    asleep: CachePadded<AtomicBool>,
    wake: OwnedFd,
}

impl<M> Mailbox<M> {
    /// An empty mailbox of a shard that counts as awake.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> Result<Mailbox<M>, Errno> {
        Ok(Mailbox {
            mail: ArrayQueue::new(MAILBOX_BATCHES_MAX),
            orders: ArrayQueue::new(ORDERS_MAX),
            completions: ArrayQueue::new(SUBMISSIONS_MAX),
            fetched: ArrayQueue::new(FETCHES_MAX),
            words: SegQueue::new(),
            asleep: CachePadded::new(AtomicBool::new(false)),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Puts a batch in. Does not wake the shard: the sender does that once,
    /// after its last batch of the turn.
    ///
    /// # Errors
    /// The batch comes back when the mailbox is full.
    pub fn post(&self, from: ShardId, batch: Vec<M>) -> Result<(), Vec<M>> {
        self.mail.push((from, batch)).map_err(|(_, batch)| batch)
    }

    /// Gives an order and wakes the shard.
    ///
    /// # Errors
    /// The order comes back when too many wait already.
    pub fn order(&self, order: Order) -> Result<(), Order> {
        self.orders.push(order)?;
        self.wake();
        Ok(())
    }

    /// Gives back a batch that is durable. Does not wake the shard.
    ///
    /// # Panics
    /// When more come back than a shard may have on their way.
    pub fn complete(&self, submission: Submission) {
        let room = self.completions.push(submission);
        assert!(room.is_ok(), "no more come back than were sent");
    }

    /// Brings what the shard asked for. Does not wake it.
    ///
    /// # Panics
    /// When more comes than a shard may ask for.
    pub fn bring(&self, fetched: Fetched) {
        let room = self.fetched.push(fetched);
        assert!(room.is_ok(), "no more comes than was asked for");
    }

    /// Says something of the cluster, and wakes the shard.
    pub(crate) fn say(&self, word: Word) {
        self.words.push(word);
        self.wake();
    }

    /// The next thing that was said.
    pub(crate) fn next_word(&self) -> Option<Word> {
        self.words.pop()
    }

    /// Wakes the shard if it sleeps; whether it did.
    pub fn wake(&self) -> bool {
        fence(Ordering::SeqCst);
        // The plain load first: most of the time the shard is awake, and a
        // swap would take the cache line from it.
        let sleeps =
            self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst);
        if sleeps {
            // It fails only if the counter overflows, and then the shard's
            // edge is there already.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
        sleeps
    }

    /// The shard is about to sleep. False: something came meanwhile, stay awake.
    pub fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.wake_up();
        false
    }

    /// The shard is awake, whatever woke it.
    pub fn wake_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.mail.is_empty()
            && self.orders.is_empty()
            && self.completions.is_empty()
            && self.fetched.is_empty()
            && self.words.is_empty()
    }

    /// Batches of mail that wait.
    pub fn depth(&self) -> usize {
        self.mail.len()
    }

    /// The oldest batch.
    pub fn next_batch(&self) -> Option<(ShardId, Vec<M>)> {
        self.mail.pop()
    }

    /// The oldest order.
    pub fn next_order(&self) -> Option<Order> {
        self.orders.pop()
    }

    /// The oldest batch that came back from the store.
    pub fn next_completion(&self) -> Option<Submission> {
        self.completions.pop()
    }

    /// The oldest fetch that was brought.
    pub fn next_fetched(&self) -> Option<Fetched> {
        self.fetched.pop()
    }

    /// Whether some came back.
    pub fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// What becomes readable when the shard is woken.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::time::Timespec;

    use super::*;

    const ALICE: ShardId = ShardId(0);

    #[test]
    fn a_full_mailbox_gives_the_batch_back() {
        let mailbox = Mailbox::new().expect("an eventfd");
        for n in 0..MAILBOX_BATCHES_MAX {
            mailbox.post(ALICE, vec![n]).expect("room");
        }
        assert_eq!(mailbox.post(ALICE, vec![7, 8]), Err(vec![7, 8]));
    }

    #[test]
    fn an_awake_shard_costs_the_sender_no_system_call() {
        let mailbox = Mailbox::new().expect("an eventfd");
        mailbox.post(ALICE, vec![1]).expect("room");
        assert!(!mailbox.wake());
    }

    #[test]
    fn only_the_first_sender_writes_the_eventfd() {
        let mailbox: Mailbox<u8> = Mailbox::new().expect("an eventfd");
        assert!(mailbox.fall_asleep());
        assert!(mailbox.wake());
        assert!(!mailbox.wake());
    }

    #[test]
    fn mail_that_came_before_the_nap_prevents_it() {
        let mailbox = Mailbox::new().expect("an eventfd");
        mailbox.post(ALICE, vec![1]).expect("room");
        assert!(!mailbox.fall_asleep());
    }

    #[test]
    fn no_wake_up_is_lost_between_two_threads() {
        const ROUNDS: usize = 20_000;
        let mailbox = Arc::new(Mailbox::new().expect("an eventfd"));
        let sender = std::thread::spawn({
            let mailbox = Arc::clone(&mailbox);
            move || {
                for n in 0..ROUNDS {
                    let mut batch = vec![n];
                    while let Err(back) = mailbox.post(ALICE, batch) {
                        batch = back;
                        std::thread::yield_now();
                    }
                    mailbox.wake();
                    if n % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            }
        });
        let mut seen = 0;
        while seen < ROUNDS {
            while let Some((_, batch)) = mailbox.next_batch() {
                assert_eq!(batch, [seen]);
                seen += 1;
            }
            if seen < ROUNDS && mailbox.fall_asleep() {
                let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
                let woken = poll(&mut [PollFd::new(&mailbox.wake, PollFlags::IN)], Some(&patience))
                    .expect("poll");
                assert_eq!(woken, 1, "asleep with {} of {ROUNDS} batches seen", seen);
                rustix::io::read(&mailbox.wake, &mut [0; 8]).expect("the counter");
                mailbox.wake_up();
            }
        }
        sender.join().expect("the sender");
    }
}
