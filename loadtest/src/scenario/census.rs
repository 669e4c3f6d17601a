//! A census: every connection of a large crowd is reached once.
//!
//! A message goes to each subscriber over topics that a slice of them shares,
//! and at the end each connection is asked with a PINGREQ. The slices keep a
//! publish from being a delivery to a million; a bound on the pings that are
//! not answered keeps the question from being a flood.

use crate::engine::clock::MILLISECOND;
use crate::engine::{Net, Said};
use crate::scenario::fleet::Fleet;
use crate::scenario::plan::Plan;
use crate::scenario::tally::Tally;

/// Clients that a step looks at; then the socket events have their turn.
const CLIENTS_A_STEP: u32 = 256;
/// Beyond it a turn would be too short for the milliseconds in which a plan counts.
const PUBLISHES_A_SECOND_MAX: f64 = 400.0;
/// PINGREQs of a worker that may be without an answer.
const UNANSWERED_MAX: u64 = 1_024;

/// Turns the plan of a fan-out into a message to each of `clients` subscribers: a publisher for
/// each `slice` of them, who publishes once, and pings to all at the end.
pub(crate) fn fill(mut plan: Plan, clients: u32, slice: u32, deliveries_a_second: f64) -> Plan {
    plan.publishers = clients.div_ceil(slice.max(1));
    plan.subscribers = clients;
    plan.rate = (deliveries_a_second / f64::from(slice.max(1))).min(PUBLISHES_A_SECOND_MAX);
    // Half a turn short of a second round: each publisher's turn comes once.
    let seconds = (f64::from(plan.publishers) - 0.5) / plan.rate;
    plan.duration_ms = (seconds * 1e3) as u64;
    plan.window = 1;
    plan.ping_all = true;
    plan
}

/// The question to all, as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Roll {
    /// Clients that are still to be asked, counted from the last.
    left: u32,
}

impl Roll {
    /// From the last client on.
    pub(crate) fn begin(&mut self, fleet: &Fleet) {
        self.left = fleet.len();
    }

    /// Asks some; says when it wants to be called again.
    pub(crate) fn step(
        &mut self,
        net: &mut Net,
        fleet: &Fleet,
        now: u64,
        tally: &mut Tally,
    ) -> u64 {
        for _ in 0..CLIENTS_A_STEP {
            if self.left == 0 {
                return u64::MAX;
            }
            if tally.pings >= tally.pongs + UNANSWERED_MAX {
                // The answers wake us; this is for one that was lost.
                return now + MILLISECOND;
            }
            self.left -= 1;
            if fleet.is_up(self.left) {
                net.say(self.left, &Said::Pingreq);
                tally.pings += 1;
            }
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::plan::Scenario;
    use crate::scenario::plan::tests::plan;

    #[test]
    fn each_publisher_has_one_turn_whoever_it_works_for() {
        for (clients, slice) in [(1_000_000, 1_000), (2_500, 1_000), (7, 1_000), (100, 1)] {
            let plan = fill(plan(Scenario::FanOut, 0, 0), clients, slice, 20_000.0);
            let copies: u64 = (0..plan.publishers).map(|publisher| plan.copies(publisher)).sum();
            assert_eq!(copies, u64::from(clients));
            let turns = plan.rate * plan.duration_ms as f64 / 1e3;
            let publishers = f64::from(plan.publishers);
            assert!(turns > publishers - 1.0 && turns < publishers, "{turns} of {publishers}");
        }
    }
}
