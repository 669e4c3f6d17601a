//! The steps of a drain.
//!
//! Readiness and steering first, so that nobody new comes; then leaderships, so
//! that no client waits for a partition in the middle of its move; then clients,
//! paced; then, if the node is to be empty, its replicas.

use crate::ids::Millis;

use super::Pace;

/// Leaderships that are handed over at a time.
const TRANSFERS_MAX: u32 = 8;

/// A drain of this node.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Replicas have to go too.
    empty: bool,
    deadline: Option<Millis>,
    pace: Pace,
    closed: bool,
}

/// What is still here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Left {
    /// Partitions that this node leads.
    pub leaderships: u32,
    /// Of them, those that no other replica could take over now.
    pub leaderships_stuck: u32,
    /// Transfers under way.
    pub transfers: u32,
    /// Clients that are connected.
    pub clients: u32,
    /// Partitions that count on this node's replica.
    pub replicas: u32,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// Say that it is not ready, and steer nobody to this node.
    TurnAway,
    /// Begin so many transfers of leadership.
    Transfer(u32),
    /// Send so many clients away, with DISCONNECT 0x9C and a Server Reference.
    Send(u32),
}

/// How far it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// There is more to do.
    Going,
    /// Nothing is left.
    Done,
    /// The time is over with this left: the process may end, nothing that was
    /// acknowledged is lost by that.
    OutOfTime(Left),
}

impl Drain {
    /// Begins; `empty`: replicas have to go too.
    pub fn new(empty: bool, deadline: Option<Millis>, pace: Pace) -> Drain {
        Drain { empty, deadline, pace, closed: false }
    }

    /// What to do now, from what is left.
    pub fn next(&mut self, left: &Left, now: Millis) -> (Vec<Act>, Progress) {
        let mut acts = Vec::new();
        if !self.closed {
            self.closed = true;
            acts.push(Act::TurnAway);
        }
        let movable = left.leaderships.saturating_sub(left.leaderships_stuck);
        let transfers = movable
            .saturating_sub(left.transfers)
            .min(TRANSFERS_MAX.saturating_sub(left.transfers));
        if transfers > 0 {
            acts.push(Act::Transfer(transfers));
        }
        // A leadership that nobody can take does not hold up the clients.
        if movable == 0 && left.clients > 0 {
            let clients = self.pace.take(left.clients, now);
            if clients > 0 {
                acts.push(Act::Send(clients));
            }
        }
        let replicas = if self.empty { left.replicas } else { 0 };
        let progress = if left.leaderships == 0 && left.clients == 0 && replicas == 0 {
            Progress::Done
        } else if self.deadline.is_some_and(|deadline| now >= deadline) {
            Progress::OutOfTime(*left)
        } else {
            Progress::Going
        };
        (acts, progress)
    }

    /// The pace, to adapt it.
    pub fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(empty: bool, deadline: Option<Millis>) -> Drain {
        Drain::new(empty, deadline, Pace::new(1_000, 1, 0))
    }

    #[test]
    fn leaderships_go_before_clients_and_clients_at_the_pace() {
        let mut drain = drain(false, None);
        let mut left = Left { leaderships: 20, clients: 1_000, replicas: 64, ..Left::default() };
        let (acts, _) = drain.next(&left, 0);
        assert_eq!(acts, [Act::TurnAway, Act::Transfer(8)]);
        left.transfers = 8;
        assert_eq!(drain.next(&left, 50).0, []);
        (left.leaderships, left.transfers) = (0, 0);
        let mut now = 1_000;
        while left.clients > 0 {
            now += 100;
            drain.pace().adapt(Some(1), now);
            let (acts, progress) = drain.next(&left, now);
            assert_eq!(progress, Progress::Going);
            for act in acts {
                let Act::Send(clients) = act else { panic!("{act:?}") };
                left.clients -= clients;
            }
        }
        assert!((2_500..6_000).contains(&now), "{now} ms for 1,000 clients");
        assert_eq!(drain.next(&left, now).1, Progress::Done, "its replicas stay for a restart");
    }

    #[test]
    fn a_node_that_is_to_be_empty_waits_for_its_replicas() {
        let mut drain = drain(true, None);
        let mut left = Left { replicas: 1, ..Left::default() };
        assert_eq!(drain.next(&left, 0).1, Progress::Going);
        left.replicas = 0;
        assert_eq!(drain.next(&left, 1).1, Progress::Done);
    }

    #[test]
    fn a_leadership_that_nobody_can_take_does_not_hold_up_the_clients() {
        let mut drain = drain(false, Some(10_000));
        let left = Left { leaderships: 1, leaderships_stuck: 1, clients: 5, ..Left::default() };
        let (acts, progress) = drain.next(&left, 1_000);
        assert_eq!(acts, [Act::TurnAway, Act::Send(5)]);
        assert_eq!(progress, Progress::Going);
        let left = Left { clients: 0, ..left };
        assert_eq!(drain.next(&left, 10_000).1, Progress::OutOfTime(left));
    }
}
