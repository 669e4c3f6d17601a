//! How fast clients are handed over, and to whom.
//!
//! The rate is one of the whole cluster, shared among the nodes that drain. It
//! falls by half when the survivors take long to accept, and rises by a step
//! when they do not: slow enough that they are never flooded, and no setting to
//! get right.

use crate::ids::{Millis, NodeId};

/// An accept that takes longer than this says that the survivors are busy.
const ACCEPT_LATENCY_MAX_MS: u32 = 250;
/// How often the rate may change.
const ADAPT_MS: Millis = 1_000;
/// What may be handed over at once, in milliseconds of the rate.
const BURST_MS: u64 = 200;

/// A bucket of clients to hand over.
#[derive(Clone, Debug)]
pub struct Pace {
    max_per_second: u32,
    per_second: u32,
    /// Thousandths of a client.
    level: u64,
    at: Millis,
    adapted: Millis,
}

impl Pace {
    /// Begins at a tenth of this node's share of the cluster's rate.
    pub fn new(cluster_per_second_max: u32, draining: u32, now: Millis) -> Pace {
        let max_per_second = (cluster_per_second_max / draining.max(1)).max(1);
        let per_second = (max_per_second / 10).max(1);
        Pace { max_per_second, per_second, level: 0, at: now, adapted: now }
    }

    /// Other nodes drain too, or the setting has changed.
    pub fn share(&mut self, cluster_per_second_max: u32, draining: u32) {
        self.max_per_second = (cluster_per_second_max / draining.max(1)).max(1);
        self.per_second = self.per_second.min(self.max_per_second);
    }

    /// The slowest survivor's time from CONNECT to CONNACK, the mean of its last
    /// second; `None`: none is known to be there, so nobody is sent away.
    pub fn adapt(&mut self, accept_ms: Option<u32>, now: Millis) {
        if now < self.adapted + ADAPT_MS {
            return;
        }
        self.adapted = now;
        self.per_second = match accept_ms {
            None => 0,
            Some(ms) if ms > ACCEPT_LATENCY_MAX_MS => (self.per_second / 2).max(1),
            Some(_) => {
                let step = (self.max_per_second / 10).max(1);
                self.per_second.saturating_add(step).min(self.max_per_second)
            }
        };
    }

    /// How many clients may be sent away now, at most `wanted`.
    pub fn take(&mut self, wanted: u32, now: Millis) -> u32 {
        let passed = now.saturating_sub(self.at).min(BURST_MS);
        self.at = now;
        let most = (u64::from(self.per_second) * BURST_MS).max(1_000);
        self.level = (self.level + passed * u64::from(self.per_second)).min(most);
        let taken = wanted.min(u32::try_from(self.level / 1_000).unwrap_or(u32::MAX));
        self.level -= u64::from(taken) * 1_000;
        taken
    }

    /// Clients a second, at present.
    pub fn per_second(&self) -> u32 {
        self.per_second
    }
}

/// A node that takes clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Survivor {
    /// Which.
    pub node: NodeId,
    /// Its clients.
    pub clients: u32,
    /// Its share, next to others'; 0: it takes none.
    pub weight: u16,
}

/// Whose name `count` clients get as their Server Reference: the emptiest by
/// weight, counting those that were sent there just now.
pub fn place(survivors: &mut [Survivor], count: u32) -> Vec<NodeId> {
    let mut placed = Vec::new();
    for _ in 0..count {
        let takes = survivors.iter_mut().filter(|survivor| survivor.weight > 0);
        let fullness = |survivor: &&mut Survivor| {
            let share = (u64::from(survivor.clients) << 20) / u64::from(survivor.weight);
            (share, survivor.node)
        };
        let Some(emptiest) = takes.min_by_key(fullness) else { break };
        emptiest.clients = emptiest.clients.saturating_add(1);
        placed.push(emptiest.node);
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn the_rate_rises_by_steps_and_falls_by_half() {
        let mut pace = Pace::new(1_000, 1, 0);
        assert_eq!(pace.per_second(), 100);
        for second in 1..=20 {
            pace.adapt(Some(10), second * 1_000);
        }
        assert_eq!(pace.per_second(), 1_000, "and not above its share");
        pace.adapt(Some(251), 21_000);
        pace.adapt(Some(251), 21_500);
        assert_eq!(pace.per_second(), 500, "once a second");
        pace.adapt(None, 23_000);
        assert_eq!(pace.take(100, 23_000), 0, "nobody is there to take them");
        pace.adapt(Some(1), 24_000);
        assert_eq!(pace.per_second(), 100);
    }

    #[test]
    fn two_that_drain_share_the_rate() {
        let mut one = Pace::new(1_000, 2, 0);
        for second in 1..=20 {
            one.adapt(Some(1), second * 1_000);
        }
        assert_eq!(one.per_second(), 500);
        one.share(1_000, 4);
        assert_eq!(one.per_second(), 250);
    }

    #[test]
    fn no_second_sees_more_than_the_rate_and_a_burst() {
        for seed in 0..50 {
            let mut random = Seeded::new(seed);
            let mut pace = Pace::new(500, 1, 0);
            let (mut now, mut taken) = (0, Vec::new());
            while now < 60_000 {
                now += random.below(400);
                pace.adapt(Some(random.below(300) as u32), now);
                taken.push((now, pace.take(1_000, now)));
            }
            for (from, _) in &taken {
                let second = taken.iter().filter(|(at, _)| (from..&(from + 1_000)).contains(&at));
                let sum: u32 = second.map(|(_, count)| count).sum();
                assert!(sum <= 500 + 100, "seed {seed}: {sum} in a second");
            }
        }
    }

    #[test]
    fn clients_are_spread_by_weight() {
        let survivor = |node, clients, weight| Survivor { node: NodeId(node), clients, weight };
        let mut survivors =
            [survivor(1, 0, 100), survivor(2, 0, 300), survivor(3, 0, 0), survivor(4, 100, 100)];
        let placed = place(&mut survivors, 100);
        let of = |node| placed.iter().filter(|at| **at == NodeId(node)).count();
        assert_eq!([of(1), of(2), of(3), of(4)], [25, 75, 0, 0]);
        assert_eq!(place(&mut [], 5), []);
    }
}
