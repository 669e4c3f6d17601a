use std::collections::VecDeque;

use super::*;
use crate::ids::{Incarnation, NodeId};
use crate::seeded::Seeded;

const LIFE: Life = Life { node: NodeId(1), incarnation: Incarnation(1) };

fn stamp(lane: Lane, number: u64, after: u64) -> Stamp {
    Stamp { lane, number, after }
}

#[test]
fn a_repeat_is_acknowledged_again_and_a_gap_refused() {
    let mut arrivals = Arrivals::default();
    let lane = Lane::Publish(LIFE);
    assert_eq!(arrivals.apply(stamp(lane, 2, 1)), Offer::Gap { position: 0 });
    assert_eq!(arrivals.apply(stamp(lane, 1, 0)), Offer::Take);
    assert_eq!(arrivals.apply(stamp(lane, 1, 0)), Offer::Repeat);
    assert_eq!(arrivals.apply(stamp(lane, 2, 1)), Offer::Take);
    assert_eq!(arrivals.position(lane), 2);
}

#[test]
fn numbers_of_an_outbox_have_holes_and_predecessors_do_not() {
    let mut arrivals = Arrivals::default();
    let lane = Lane::Outbox(PartitionId(3));
    assert_eq!(arrivals.apply(stamp(lane, 57, 0)), Offer::Take);
    assert_eq!(arrivals.apply(stamp(lane, 90, 71)), Offer::Gap { position: 57 });
    assert_eq!(arrivals.apply(stamp(lane, 71, 57)), Offer::Take);
    assert_eq!(arrivals.apply(stamp(lane, 90, 71)), Offer::Take);
}

#[test]
fn a_life_that_is_over_enqueues_nothing_any_more() {
    let mut arrivals = Arrivals::default();
    let next = Life { incarnation: Incarnation(2), ..LIFE };
    assert_eq!(arrivals.apply(stamp(Lane::Publish(LIFE), 1, 0)), Offer::Take);
    assert_eq!(arrivals.apply(stamp(Lane::Publish(next), 1, 0)), Offer::Take);
    arrivals.gone(LIFE);
    assert_eq!(arrivals.apply(stamp(Lane::Publish(LIFE), 1, 0)), Offer::Over);
    assert_eq!(arrivals.apply(stamp(Lane::Publish(next), 2, 1)), Offer::Take);
    let restored = Arrivals::restore(&arrivals.snapshot()).expect("our own bytes");
    assert_eq!(restored, arrivals);
    for cut in 0..arrivals.snapshot().len() {
        assert!(Arrivals::restore(&arrivals.snapshot()[..cut]).is_err());
    }
}

#[test]
fn a_new_leader_of_an_outbox_sends_nothing_before_it_knows_the_position() {
    let mut lane = OutboxLane::new(PartitionId(0));
    [5, 8, 11].into_iter().for_each(|index| lane.record(index).expect("room"));
    assert_eq!(lane.next_to_send(), None, "it follows");
    lane.lead();
    assert!(lane.asks());
    assert_eq!(lane.next_to_send(), None);
    assert_eq!(lane.position(8), Ok(Some(8)), "what is below is only acknowledged again");
    assert_eq!(lane.next_to_send(), Some(stamp(Lane::Outbox(PartitionId(0)), 11, 8)));
    assert_eq!(lane.acked(11), Some(11));
    lane.settle(11);
    assert!(lane.is_empty());
    lane.record(20).expect("room");
    assert_eq!(lane.next_to_send(), Some(stamp(Lane::Outbox(PartitionId(0)), 20, 11)));
}

#[test]
fn a_position_of_another_log_is_noticed() {
    let mut lane = OutboxLane::new(PartitionId(0));
    [5, 8].into_iter().for_each(|index| lane.record(index).expect("room"));
    lane.lead();
    assert_eq!(lane.position(6), Err(Diverged { position: 6 }));
    assert_eq!(lane.position(9), Err(Diverged { position: 9 }));
}

#[test]
fn the_window_of_a_lane_is_bounded() {
    let mut lane = Publishing::new(LIFE);
    for _ in 0..crate::limits::LANE_WINDOW_MAX {
        lane.push(()).expect("room");
    }
    assert_eq!(lane.push(()), Err(LaneFull));
    assert_eq!(lane.acked(1).count(), 1);
    assert!(lane.push(()).is_ok());
    assert_eq!(lane.gap(0), Err(TargetLost { position: 0, acked: 1 }));
}

/// Messages of one life over a network that loses, repeats and delays proposals,
/// some of which commit long after their sender gave them up.
#[test]
fn what_is_published_arrives_once_and_in_order() {
    for seed in 0..200 {
        let mut random = Seeded::new(seed);
        let mut lane = Publishing::new(LIFE);
        let mut arrivals = Arrivals::default();
        let mut wire: Vec<(Stamp, u64)> = Vec::new();
        let (mut pushed, mut settled) = (0, Vec::new());
        let mut arrived = Vec::new();
        let mut steps = 0;
        while settled.len() < 100 {
            steps += 1;
            assert!(steps < 100_000, "seed {seed}: it never ends");
            if pushed < 100 && random.chance(30) {
                pushed += 1;
                lane.push(pushed).expect("room");
            }
            if let Some((stamp, message)) = lane.next_to_send() {
                let copies = if random.chance(10) { 0 } else { 1 + random.below(2) };
                (0..copies).for_each(|_| wire.push((stamp, *message)));
            }
            if random.chance(5) {
                lane.again();
            }
            if !wire.is_empty() && random.chance(60) {
                let (stamp, message) = wire.swap_remove(random.below(wire.len() as u64) as usize);
                let offer = arrivals.apply(stamp);
                if offer == Offer::Take {
                    arrived.push(message);
                }
                if random.chance(80) {
                    match offer {
                        Offer::Take | Offer::Repeat => settled.extend(lane.acked(stamp.number)),
                        Offer::Gap { position } => {
                            // A late answer may be behind what is acknowledged.
                            settled.extend(lane.gap(position).unwrap_or_default());
                        }
                        Offer::Over | Offer::TooManyLanes => panic!("{offer:?}"),
                    }
                }
            }
        }
        assert_eq!(arrived, (1..=100).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(settled, arrived, "seed {seed}");
    }
}

/// An outbox whose leader moves among three replicas, while proposals of earlier
/// leaders are still on their way. With the hole its lanes are by the leader's life.
fn outbox(seed: u64, by_life: bool) -> Result<(), String> {
    let mut random = Seeded::new(seed);
    let source = PartitionId(0);
    let mut arrivals = Arrivals::default();
    // What is committed in the source's log: records and settlements.
    let mut replicas: Vec<OutboxLane> = (0..3).map(|_| OutboxLane::new(source)).collect();
    let (mut leader, mut lives) = (0, 1);
    replicas[0].lead();
    let mut wire: VecDeque<Stamp> = VecDeque::new();
    let (mut index, mut records, mut arrived) = (10, Vec::new(), Vec::new());
    // With the hole: the numbers that this leader has given.
    let mut numbers: Vec<u64> = Vec::new();
    for step in 0..20_000 {
        if records.len() < 60 && random.chance(10) {
            index += 1 + random.below(4);
            records.push(index);
            replicas.iter_mut().for_each(|lane| lane.record(index).expect("room"));
        }
        if random.below(200) == 0 && step < 15_000 {
            replicas[leader].follow();
            leader = random.below(3) as usize;
            lives += 1;
            numbers.clear();
            replicas[leader].lead();
        }
        if random.chance(4) {
            replicas[leader].again();
        }
        let mut settle = None;
        if replicas[leader].asks() && random.chance(50) {
            // The answer may be late: others arrive meanwhile.
            let position = if by_life {
                let life = Life { node: NodeId(leader as u64), incarnation: Incarnation(lives) };
                let taken = arrivals.position(Lane::Publish(life)) as usize;
                let done = replicas[leader].parts().1.next().map_or(0, |(_, after)| after);
                if taken == 0 { done } else { numbers[taken - 1] }
            } else {
                arrivals.position(Lane::Outbox(source))
            };
            settle = replicas[leader].position(position).map_err(|fault| fault.to_string())?;
        }
        if let Some(stamp) = replicas[leader].next_to_send() {
            let copies = if random.chance(10) { 0 } else { 1 + random.below(2) };
            let stamp = if by_life {
                if !numbers.contains(&stamp.number) {
                    numbers.push(stamp.number);
                }
                stamp
            } else {
                stamp
            };
            (0..copies).for_each(|_| wire.push_back(stamp));
        }
        if !wire.is_empty() && random.chance(50) {
            let at = random.below(wire.len() as u64) as usize;
            let stamp = wire.remove(at).expect("within");
            let offered = if by_life {
                let life = Life { node: NodeId(leader as u64), incarnation: Incarnation(lives) };
                let Some(place) = numbers.iter().position(|number| *number == stamp.number) else {
                    continue;
                };
                let number = place as u64 + 1;
                Stamp { lane: Lane::Publish(life), number, after: number - 1 }
            } else {
                stamp
            };
            let offer = arrivals.apply(offered);
            if offer == Offer::Take {
                arrived.push(stamp.number);
            }
            if random.chance(80) {
                match offer {
                    Offer::Take | Offer::Repeat => settle = replicas[leader].acked(stamp.number),
                    Offer::Gap { .. } => replicas[leader].again(),
                    Offer::Over | Offer::TooManyLanes => panic!("{offer:?}"),
                }
            }
        }
        if let Some(upto) = settle
            && random.chance(80)
        {
            replicas.iter_mut().for_each(|lane| lane.settle(upto));
        }
    }
    if arrived != records {
        return Err(format!("{} records became {} messages", records.len(), arrived.len()));
    }
    Ok(())
}

#[test]
fn what_is_in_an_outbox_arrives_once_and_in_order_however_its_leader_moves() {
    for seed in 0..100 {
        outbox(seed, false).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
    }
}

#[test]
fn the_model_finds_outbox_lanes_by_incarnation() {
    assert!((0..100).any(|seed| outbox(seed, true).is_err()));
}
