//! Which connection of a publisher is its newest, as far as is known at a node.
//!
//! What a client sends at QoS 0 by one node may wait for a link there, while the
//! client has gone on to another node and published by that. It would come
//! behind what was sent later (ORD-1), so it is dropped then: at QoS 0 it may be.
//! At QoS 1 and 2 it is not, as its publisher may know it to be acknowledged.
//!
//! One word a client, at a place that follows from the hash of its id: who else
//! has that place takes it. What is forgotten costs order at QoS 0, no message.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ids::Millis;

/// Clients that are remembered at most.
const PLACES: usize = 1 << 16;
/// Bits of a word: when it was written, and the number of the connection. The
/// others are of the hash.
const TIME_BITS: u32 = 10;
const NUMBER_BITS: u32 = 24;
/// Milliseconds of a unit of time, as a power of two.
const TIME_SHIFT: u32 = 12;
/// For how many of these a word counts: longer than a link is silent before it
/// counts as lost.
const KEPT: u64 = 8;

/// The newest connections of publishers; of a node that is alone none.
#[derive(Debug, Default)]
pub(crate) struct Newest(Box<[AtomicU64]>);

impl Newest {
    /// Of a node in a cluster.
    pub(crate) fn new() -> Newest {
        Newest((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }

    /// Notes a connection of the client with this hash; false: it has a newer one.
    /// Numbers grow with each connection of a client, and begin again some time.
    pub(crate) fn note(&self, now: Millis, client: u64, number: u32) -> bool {
        let Some(place) = self.0.get(client as usize % PLACES) else { return true };
        let (time_mask, number_mask) = ((1 << TIME_BITS) - 1, (1 << NUMBER_BITS) - 1);
        let time = (now >> TIME_SHIFT) & time_mask;
        let number = u64::from(number) & number_mask;
        let tag = client >> (TIME_BITS + NUMBER_BITS);
        let new = (tag << NUMBER_BITS | number) << TIME_BITS | time;
        let mut known = place.load(Relaxed);
        while known != new {
            let age = time.wrapping_sub(known) & time_mask;
            let ahead = (known >> TIME_BITS).wrapping_sub(number) & number_mask;
            let same = known != 0 && known >> (TIME_BITS + NUMBER_BITS) == tag;
            if same && age <= KEPT && ahead != 0 && ahead <= number_mask / 2 {
                return false;
            }
            match place.compare_exchange_weak(known, new, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(other) => known = other,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: u64 = 0x1234_5678_9abc_def0;

    #[test]
    fn an_older_connection_is_told_from_the_newest_for_half_a_minute() {
        let newest = Newest::new();
        assert!(newest.note(0, CLIENT, 7) && newest.note(0, CLIENT, 7));
        assert!(newest.note(9_000, CLIENT, 8) && !newest.note(9_000, CLIENT, 7));
        assert!(!newest.note(30_000, CLIENT, 7) && newest.note(30_000, CLIENT, 8));
        assert!(newest.note(90_000, CLIENT, 7), "it has begun again");
    }

    #[test]
    fn numbers_that_wrap_still_grow() {
        let newest = Newest::new();
        assert!(newest.note(0, CLIENT, (1 << NUMBER_BITS) - 1) && newest.note(0, CLIENT, 1 << 24));
        assert!(!newest.note(0, CLIENT, (1 << NUMBER_BITS) - 1));
    }

    #[test]
    fn clients_are_told_apart_and_a_node_that_is_alone_forgets_all() {
        let newest = Newest::new();
        assert!(newest.note(0, CLIENT, 7) && newest.note(0, CLIENT + 1, 3));
        assert!(newest.note(0, CLIENT ^ 1 << 63, 3), "it takes the place");
        assert!(newest.note(0, CLIENT, 6));
        assert!(Newest::default().note(0, CLIENT, 7) && Newest::default().note(0, CLIENT, 6));
    }
}
