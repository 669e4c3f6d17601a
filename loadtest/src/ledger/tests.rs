//! A broker is played by hand, and misbehaves.

use super::*;

const RUN: u32 = 7;

/// One publisher and one subscriber with a broker between them that does
/// exactly what the test tells it to.
struct Rig {
    ledger: Ledger,
    qos: QoS,
    stream: StreamId,
}

impl Rig {
    fn new(qos: QoS) -> Self {
        Self::granted(qos, qos)
    }

    fn granted(qos: QoS, granted: QoS) -> Self {
        let mut ledger = Ledger::new(RUN);
        let stream = ledger.stream(1, qos);
        ledger.expect(&expectation(9, 1, qos, granted));
        Self { ledger, qos, stream }
    }

    /// Publishes `n` messages, all acknowledged if the QoS has that.
    fn publish(&mut self, n: u64) {
        for _ in 0..n {
            let sequence = self.ledger.publish(self.stream);
            if self.qos != QoS::AtMostOnce {
                self.ledger.acknowledge(self.stream, sequence);
            }
        }
    }

    fn deliver(&mut self, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            self.ledger.deliver(9, &Ok(message(1, self.qos, sequence)));
        }
    }

    fn tally(&self) -> Tally {
        let report = self.ledger.report();
        let at = report.qos.iter().position(|tally| tally.expected > 0);
        report.qos[at.expect("something was published")]
    }

    fn breaches(&self) -> Vec<(Promise, u64)> {
        match self.ledger.report().verdict {
            Verdict::Bad(breaches) => breaches.iter().map(|b| (b.promise, b.count)).collect(),
            Verdict::Good => Vec::new(),
            other @ (Verdict::Unjudged | Verdict::Inconclusive { .. }) => panic!("{other:?}"),
        }
    }
}

fn expectation(receiver: u32, publisher: u32, published: QoS, granted: QoS) -> Expectation {
    Expectation { receiver, publisher, published, granted, ordered: true, from: 0 }
}

fn message(publisher: u32, qos: QoS, sequence: u64) -> Identity {
    Identity { run: RUN, publisher, qos, sequence, due_ns: 0 }
}

const ALL: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn a_broker_that_keeps_its_promises_is_good() {
    for qos in ALL {
        let mut rig = Rig::new(qos);
        rig.publish(1_000);
        rig.deliver(0..1_000);
        assert_eq!(rig.breaches(), []);
        let tally = rig.tally();
        assert_eq!((tally.expected, tally.delivered, tally.lost), (1_000, 1_000, 0));
        assert_eq!(rig.ledger.outstanding(), 0);
    }
}

#[test]
fn planted_loss_is_found_and_condemned_where_it_was_acknowledged() {
    for qos in ALL {
        let mut rig = Rig::new(qos);
        rig.publish(100);
        rig.deliver((0..100).filter(|n| ![0, 41, 42, 99].contains(n)));
        assert_eq!(rig.tally().lost, 4);
        assert_eq!(rig.ledger.outstanding(), 4);
        match qos {
            QoS::AtMostOnce => assert_eq!(rig.breaches(), [], "QoS 0 may lose"),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                assert_eq!(rig.breaches(), [(Promise::Delivery, 4)]);
            }
        }
    }
}

#[test]
fn a_message_never_acknowledged_is_owed_to_nobody() {
    let mut rig = Rig::new(QoS::AtLeastOnce);
    rig.publish(10);
    let unanswered = rig.ledger.publish(rig.stream);
    assert_eq!(unanswered, 10);
    rig.deliver(0..10);
    assert_eq!(rig.breaches(), []);
    let tally = rig.tally();
    assert_eq!((tally.lost, tally.unacknowledged), (0, 1));
}

#[test]
fn planted_duplicates_are_found_and_forgiven_at_qos_1_alone() {
    for qos in ALL {
        let mut rig = Rig::new(qos);
        rig.publish(10);
        rig.deliver(0..10);
        rig.deliver([3, 3, 9]);
        assert_eq!(rig.tally().duplicated, 3);
        assert_eq!(rig.tally().delivered, 10, "each counts once");
        match qos {
            QoS::AtLeastOnce => assert_eq!(rig.breaches(), []),
            QoS::AtMostOnce | QoS::ExactlyOnce => {
                assert_eq!(rig.breaches(), [(Promise::Once, 3)]);
            }
        }
    }
}

#[test]
fn a_publisher_at_qos_1_may_repeat_itself_to_a_subscriber_at_qos_0() {
    let mut rig = Rig::granted(QoS::AtLeastOnce, QoS::AtMostOnce);
    rig.publish(2);
    rig.deliver([0, 0, 1]);
    assert_eq!(rig.breaches(), []);

    let mut rig = Rig::granted(QoS::ExactlyOnce, QoS::AtMostOnce);
    rig.publish(2);
    rig.deliver([0, 0, 1]);
    assert_eq!(rig.breaches(), [(Promise::Once, 1)], "from QoS 2 nothing may repeat");
}

#[test]
fn loss_at_a_subscription_granted_qos_0_is_forgiven() {
    let mut rig = Rig::granted(QoS::ExactlyOnce, QoS::AtMostOnce);
    rig.publish(3);
    rig.deliver([0, 2]);
    assert_eq!(rig.tally().lost, 1);
    assert_eq!(rig.breaches(), []);
}

#[test]
fn planted_reordering_is_found_at_every_qos() {
    for qos in ALL {
        let mut rig = Rig::new(qos);
        rig.publish(6);
        rig.deliver([0, 2, 1, 3, 5, 4]);
        assert_eq!(rig.tally().reordered, 2);
        assert_eq!(rig.breaches(), [(Promise::Order, 2)]);
    }
}

#[test]
fn a_retransmission_is_no_reordering() {
    let mut rig = Rig::new(QoS::AtLeastOnce);
    rig.publish(5);
    rig.deliver([0, 1, 2, 1, 2, 3, 4]);
    assert_eq!(rig.tally().reordered, 0);
    assert_eq!(rig.tally().duplicated, 2);
    assert_eq!(rig.breaches(), []);
}

#[test]
fn a_shared_subscription_promises_no_order() {
    let mut rig = Rig::new(QoS::AtLeastOnce);
    rig.ledger.routes[0].ordered = false;
    rig.publish(2);
    rig.deliver([1, 0]);
    assert_eq!(rig.breaches(), []);
}

#[test]
fn a_message_nobody_published_is_an_invention() {
    let mut rig = Rig::new(QoS::AtMostOnce);
    rig.publish(2);
    rig.deliver([0, 1, 2, 77]);
    assert_eq!(rig.breaches(), [(Promise::Authenticity, 2)]);
    assert_eq!(rig.tally().delivered, 2);
}

#[test]
fn a_delivery_to_a_stranger_is_misrouted() {
    let mut rig = Rig::new(QoS::AtMostOnce);
    rig.publish(1);
    rig.deliver([0]);
    let stranger = rig.ledger.deliver(8, &Ok(message(1, QoS::AtMostOnce, 0)));
    assert_eq!(stranger, Arrival::Misrouted);
    assert_eq!(rig.breaches(), [(Promise::Routing, 1)]);
}

#[test]
fn a_damaged_payload_condemns_and_a_foreign_one_does_not() {
    let mut rig = Rig::new(QoS::AtMostOnce);
    rig.publish(1);
    rig.deliver([0]);
    let leftover = Identity { run: RUN + 1, ..message(1, QoS::AtMostOnce, 0) };
    assert_eq!(rig.ledger.deliver(9, &Ok(leftover)), Arrival::Foreign);
    assert_eq!(rig.ledger.deliver(9, &Identity::decode(b"hello")), Arrival::Foreign);
    assert_eq!(rig.breaches(), []);

    let mut payload = message(1, QoS::AtMostOnce, 0).encode();
    payload[17] ^= 4;
    assert_eq!(rig.ledger.deliver(9, &Identity::decode(&payload)), Arrival::Damaged);
    assert_eq!(rig.breaches(), [(Promise::Integrity, 1)]);
}

#[test]
fn what_a_clean_session_missed_is_not_owed() {
    let mut rig = Rig::new(QoS::AtLeastOnce);
    let route = rig.ledger.expect(&expectation(9, 1, rig.qos, rig.qos));
    rig.publish(10);
    rig.deliver([0, 1, 2, 7, 8, 9]);
    rig.ledger.excuse(route, (3, 7));
    assert_eq!(rig.breaches(), []);
    assert_eq!(rig.tally().expected, 6);
}

#[test]
fn an_absence_excuses_what_was_missed_and_nothing_before_or_after() {
    let mut rig = Rig::new(QoS::AtLeastOnce);
    rig.publish(10);
    // The last two are lost with the connection, and what follows until it is back.
    rig.deliver((0..8).filter(|n| *n != 3));
    rig.ledger.absent(9);
    rig.publish(5);
    rig.ledger.present(9, 0);
    rig.publish(5);
    rig.deliver([15, 16, 19]);
    assert_eq!(rig.breaches(), [(Promise::Delivery, 3)], "3, 17 and 18");
    assert_eq!(rig.tally().expected, 13);
}

#[test]
fn an_absence_seen_by_another_worker_is_excused_by_the_times_of_publishes() {
    let second = 1_000_000_000_u64;
    let mut publisher = Ledger::new(RUN);
    let stream = publisher.stream(1, QoS::AtLeastOnce);
    for number in 0..100 {
        publisher.publish_at(stream, number * second);
        publisher.acknowledge(stream, number);
    }
    let mut subscriber = Ledger::new(RUN);
    subscriber.expect(&expectation(9, 1, QoS::AtLeastOnce, QoS::AtLeastOnce));
    let deliver = |ledger: &mut Ledger, numbers: std::ops::Range<u64>| {
        for number in numbers {
            ledger.deliver(9, &Ok(message(1, QoS::AtLeastOnce, number)));
        }
    };
    deliver(&mut subscriber, 0..20);
    subscriber.absent(9);
    // Its clock is an hour ahead.
    subscriber.present(9, 3_600 * second + 30 * second + 1);
    deliver(&mut subscriber, 33..100);
    let mut part = subscriber.part();
    part.set_clock(3_600 * second as i64);
    // In whatever order they come.
    for parts in [[&publisher.part(), &part], [&part, &publisher.part()]] {
        let mut merged = Ledger::new(RUN);
        for part in parts {
            merged.absorb(part).expect("the same run");
        }
        let tally = merged.report().qos[1];
        assert_eq!((tally.expected, tally.lost), (89, 2), "31 and 32 came after the SUBACK");
    }
}

#[test]
fn an_absence_to_the_end_is_owed_nothing_and_one_of_a_stranger_changes_nothing() {
    let mut rig = Rig::new(QoS::AtLeastOnce);
    rig.publish(3);
    rig.deliver(0..2);
    rig.ledger.absent(8);
    assert_eq!(rig.breaches(), [(Promise::Delivery, 1)]);
    rig.ledger.absent(9);
    rig.publish(3);
    assert_eq!(rig.breaches(), []);
}

#[test]
fn a_forgotten_session_is_a_broken_promise() {
    let mut rig = Rig::new(QoS::AtLeastOnce);
    rig.publish(1);
    rig.deliver(0..1);
    rig.ledger.forget();
    assert_eq!(rig.breaches(), [(Promise::Session, 1)]);
}

#[test]
fn a_late_subscriber_is_owed_what_follows() {
    let mut ledger = Ledger::new(RUN);
    let stream = ledger.stream(1, QoS::AtMostOnce);
    for _ in 0..5 {
        ledger.publish(stream);
    }
    let from = ledger.published(stream);
    ledger.expect(&Expectation { from, ..expectation(9, 1, QoS::AtMostOnce, QoS::AtMostOnce) });
    ledger.publish(stream);
    assert_eq!(ledger.report().qos[0].expected, 1);
}

#[test]
fn past_its_bound_the_ledger_says_that_it_cannot_tell() {
    let mut ledger = Ledger::with_limit(RUN, 3);
    let stream = ledger.stream(1, QoS::AtMostOnce);
    ledger.expect(&expectation(9, 1, QoS::AtMostOnce, QoS::AtMostOnce));
    for _ in 0..20 {
        ledger.publish(stream);
    }
    for sequence in (0..20).step_by(2) {
        ledger.deliver(9, &Ok(message(1, QoS::AtMostOnce, sequence)));
    }
    let report = ledger.report();
    assert_eq!(report.verdict, Verdict::Inconclusive { unrecorded: 7 });
    assert_eq!((report.qos[0].delivered, report.qos[0].lost), (10, 10));
    assert!(ledger.count_intervals() <= 3);
}

#[test]
fn a_run_without_messages_is_not_judged() {
    assert_eq!(Ledger::new(RUN).report().verdict, Verdict::Unjudged);
}

/// Plays a fan-out of four publishers to four subscribers with losses,
/// repeats and disorder, into the ledgers that `of` picks.
fn play(ledgers: &mut [Ledger], of: impl Fn(u32) -> usize) {
    let qos = QoS::AtLeastOnce;
    for publisher in 0..4 {
        let home = &mut ledgers[of(publisher)];
        let stream = home.stream(publisher, qos);
        for sequence in 0..200 {
            home.publish(stream);
            if sequence % 50 != 49 {
                home.acknowledge(stream, sequence);
            }
        }
        for receiver in 0..4 {
            let home = &mut ledgers[of(receiver)];
            home.expect(&expectation(receiver, publisher, qos, qos));
            for sequence in 0..200_u64 {
                let sequence = sequence ^ u64::from(receiver == 2);
                if (sequence + u64::from(publisher)).is_multiple_of(33) {
                    continue;
                }
                home.deliver(receiver, &Ok(message(publisher, qos, sequence)));
                if sequence.is_multiple_of(40) {
                    home.deliver(receiver, &Ok(message(publisher, qos, sequence)));
                }
            }
        }
    }
}

#[test]
fn four_workers_merge_to_what_one_would_have_said() {
    let mut one = [Ledger::new(RUN)];
    play(&mut one, |_| 0);
    let mut four: Vec<Ledger> = (0..4).map(|_| Ledger::new(RUN)).collect();
    play(&mut four, |who| who as usize);

    let mut merged = Ledger::new(RUN);
    for worker in &four {
        let text = serde_json::to_string(&worker.part()).expect("plain data");
        let part = serde_json::from_str(&text).expect("our own");
        merged.absorb(&part).expect("the same run");
    }
    let report = one[0].report();
    assert_eq!(merged.report(), report);
    let tally = report.qos[1];
    assert!(tally.lost > 0 && tally.duplicated > 0 && tally.reordered > 0, "{tally:?}");
}

#[test]
fn one_message_to_two_members_of_a_group_is_a_duplicate_after_the_merge() {
    let member = |sequences: &[u64]| {
        let mut ledger = Ledger::new(RUN);
        ledger.expect(&expectation(9, 1, QoS::ExactlyOnce, QoS::ExactlyOnce));
        for &sequence in sequences {
            ledger.deliver(9, &Ok(message(1, QoS::ExactlyOnce, sequence)));
        }
        ledger.part()
    };
    let mut merged = Ledger::new(RUN);
    let stream = merged.stream(1, QoS::ExactlyOnce);
    for _ in 0..4 {
        merged.publish(stream);
    }
    merged.absorb(&member(&[0, 2])).expect("the same run");
    merged.absorb(&member(&[1, 2, 3])).expect("the same run");
    assert_eq!(merged.report().qos[2].duplicated, 1);
}

#[test]
fn a_part_that_makes_no_sense_is_refused() {
    let mut ledger = Ledger::new(RUN);
    let stranger = Ledger::new(RUN + 1).part();
    assert_eq!(ledger.absorb(&stranger), Err(MergeError::OtherRun { ours: RUN, theirs: RUN + 1 }));
    let mut rig = Rig::new(QoS::AtLeastOnce);
    rig.publish(3);
    let mut part = rig.ledger.part();
    part.streams[0].acknowledged = vec![(5, 2)];
    assert_eq!(ledger.absorb(&part), Err(MergeError::BadIntervals));
}

/// A group of three members, one publisher, and what each member got.
fn group(qos: QoS, cut_off: &[u32], repeats: bool, got: [&[u64]; 3]) -> Ledger {
    let mut ledger = Ledger::new(RUN);
    let stream = ledger.stream(1, qos);
    for _ in 0..6 {
        let sequence = ledger.publish(stream);
        ledger.acknowledge(stream, sequence);
    }
    if repeats {
        ledger.repeat(stream);
    }
    for (member, numbers) in (20..).zip(got) {
        ledger.expect(&Expectation { ordered: false, ..expectation(member, 1, qos, qos) });
        ledger.join(member, 0);
        for &number in numbers {
            ledger.deliver(member, &Ok(message(1, qos, number)));
        }
    }
    for &member in cut_off {
        ledger.cut_off(member);
    }
    ledger
}

fn judged(ledger: &Ledger) -> Vec<(Promise, u64)> {
    match ledger.report().verdict {
        Verdict::Bad(breaches) => breaches.iter().map(|b| (b.promise, b.count)).collect(),
        Verdict::Good => Vec::new(),
        other @ (Verdict::Unjudged | Verdict::Inconclusive { .. }) => panic!("{other:?}"),
    }
}

#[test]
fn a_group_gets_each_message_once_whichever_member_it_is() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let sound = group(qos, &[], false, [&[0, 3, 5], &[2, 1], &[4]]);
        assert_eq!(judged(&sound), []);
        assert_eq!(sound.report().qos[qos as usize].expected, 6, "not 6 for each member");

        let lost = group(qos, &[], false, [&[0, 3], &[2, 1], &[4]]);
        assert_eq!(judged(&lost), [(Promise::Delivery, 1)]);

        let twice = group(qos, &[], false, [&[0, 3, 5], &[2, 1, 0], &[4, 3]]);
        assert_eq!(judged(&twice), [(Promise::Sharing, 2)]);
        assert_eq!(twice.report().qos[qos as usize].duplicated, 2);
    }
}

#[test]
fn what_a_member_had_in_hand_when_it_was_cut_off_may_go_to_another_at_qos_1() {
    let got: [&[u64]; 3] = [&[0, 3, 5], &[2, 1, 0], &[4]];
    assert_eq!(judged(&group(QoS::AtLeastOnce, &[20], false, got)), []);
    assert_eq!(judged(&group(QoS::AtLeastOnce, &[22], false, got)), [(Promise::Sharing, 1)]);
    assert_eq!(judged(&group(QoS::AtLeastOnce, &[], true, got)), [], "it was published twice");
    let exactly = group(QoS::ExactlyOnce, &[20], true, got);
    assert_eq!(judged(&exactly), [(Promise::Sharing, 1)]);
}

#[test]
fn members_in_several_workers_are_one_group_after_the_merge() {
    let got: [&[u64]; 3] = [&[0, 3, 5], &[2, 1, 0], &[4]];
    let mut merged = Ledger::new(RUN);
    for at in 0..3 {
        let mut only: [&[u64]; 3] = [&[], &[], &[]];
        only[at] = got[at];
        merged.absorb(&group(QoS::AtLeastOnce, &[], false, only).part()).expect("the same run");
    }
    assert_eq!(judged(&merged), [(Promise::Sharing, 1)]);
}

#[test]
fn takeovers_and_retained_messages_are_judged_and_added_up() {
    let mut one = Ledger::new(RUN);
    one.taken_over(true, true);
    one.taken_over(true, false);
    one.retained.looks = 2;
    one.retained.right = 1;
    let mut other = Ledger::new(RUN);
    other.taken_over(false, false);
    other.retained.looks = 1;
    other.retained.stale = 1;
    one.absorb(&other.part()).expect("the same run");
    assert_eq!(judged(&one), [(Promise::Takeover, 2), (Promise::Retained, 1)]);
    let report = one.report();
    assert_eq!((report.takeovers.done, report.retained.looks), (3, 3));
}
