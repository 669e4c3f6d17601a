//! The judge judged: a history in which all is well, and the same with one
//! thing wrong, which must be found, or one thing that looks wrong, which must
//! be let pass.

use testkit::client::Version::V5;

use super::{Rule, SECOND, Verdict, judge};
use crate::cast::{
    Cast, ClientId, FilterId, Kind, LONG_EXPIRY_SECONDS, Lasting, Message, MessageId,
};
use crate::history::{End, Event, Mark, What};

/// A history that is being written. Every step takes a millisecond.
struct Tale {
    cast: Cast,
    events: Vec<Event>,
    now: u64,
    alice: ClientId,
    bob: ClientId,
    filter: FilterId,
}

impl Tale {
    /// Alice publishes, and Bob is subscribed to all of it.
    fn new() -> Tale {
        let mut cast = Cast::default();
        let alice = cast.client("alice", V5, Lasting::Always);
        let bob = cast.client("bob", V5, Lasting::Always);
        let filter = cast.filter("+");
        let mut tale = Tale { cast, events: Vec::new(), now: 0, alice, bob, filter };
        tale.happens(What::Ready);
        tale.connects(alice, false);
        tale.connects(bob, false);
        tale.subscribes(bob);
        tale
    }

    fn happens(&mut self, what: What) {
        self.now += 1_000;
        self.events.push(Event { at: self.now, what });
    }

    fn passes(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
    }

    fn connects(&mut self, client: ClientId, present: bool) {
        self.happens(What::ConnectSent { client, will: None });
        self.happens(What::Connected { client, present });
    }

    fn subscribes(&mut self, client: ClientId) {
        let filter = self.filter;
        self.happens(What::SubscribeSent { client, filter });
        self.happens(What::Subscribed { client, filter, granted: 2 });
    }

    fn unsubscribes(&mut self, client: ClientId) {
        let filter = self.filter;
        self.happens(What::UnsubscribeSent { client, filter });
        self.happens(What::Unsubscribed { client, filter });
    }

    fn restarts(&mut self) {
        self.happens(What::Down);
        for client in [self.alice, self.bob] {
            self.happens(What::Closed { client, how: End::Broker });
        }
        self.happens(What::Ready);
        for client in [self.alice, self.bob] {
            self.connects(client, true);
        }
    }

    fn sends(&mut self, topic: &str, qos: u8, kind: Kind) -> MessageId {
        let topic = self.cast.topic(topic);
        let message = self.cast.message(Message { publisher: self.alice, topic, qos, kind });
        self.happens(What::Sent { message, again: false });
        message
    }

    fn is_answered(&mut self, message: MessageId) {
        self.happens(What::Acked { message });
        self.happens(What::Completed { message });
    }

    /// Sent and answered.
    fn publishes(&mut self, topic: &str, qos: u8, kind: Kind) -> MessageId {
        let message = self.sends(topic, qos, kind);
        self.is_answered(message);
        message
    }

    fn gets(&mut self, client: ClientId, message: MessageId, qos: u8) {
        self.gets_with(client, message, qos, None);
    }

    fn gets_with(&mut self, client: ClientId, message: MessageId, qos: u8, expiry: Option<u32>) {
        let (id, dup, suppressed) = (1, false, false);
        self.happens(What::Delivered { client, message, id, qos, dup, suppressed, expiry });
    }

    /// A new client reads what is retained at "r".
    fn reads(&mut self, found: Option<MessageId>) {
        let client = self.cast.client("reader", V5, Lasting::Not);
        let topic = self.cast.topic("r");
        self.happens(What::ReadBegan { client });
        if let Some(message) = found {
            self.happens(What::Read { client, topic, message });
        }
        self.happens(What::ReadEnded { client, whole: true });
    }

    /// Someone connects with a will of this delay.
    fn mortal(&mut self, delay_seconds: u32) -> (ClientId, MessageId) {
        let client = self.cast.client("mortal", V5, Lasting::Always);
        let will = self.arms(client, delay_seconds);
        (client, will)
    }

    fn arms(&mut self, client: ClientId, delay_seconds: u32) -> MessageId {
        let (topic, kind) = (self.cast.topic("w"), Kind::Will { delay_seconds });
        let will = self.cast.message(Message { publisher: client, topic, qos: 2, kind });
        self.happens(What::ConnectSent { client, will: Some(will) });
        let present = self
            .events
            .iter()
            .any(|event| matches!(event.what, What::Closed { client: gone, .. } if gone == client));
        self.happens(What::Connected { client, present });
        will
    }

    fn leaves(&mut self, client: ClientId, how: End) {
        self.happens(What::Closed { client, how });
    }

    fn verdict(&self) -> Verdict {
        judge(&self.cast, &self.events, 0)
    }

    /// This rule was broken so often, was looked at, and no other was broken.
    #[track_caller]
    fn breaks(&self, rule: Rule, times: u64) {
        let verdict = self.verdict();
        for other in Rule::ALL {
            let wanted = if other == rule { times } else { 0 };
            assert_eq!(verdict.row(other).breaches, wanted, "{other:?}: {:?}", verdict.breaches);
        }
        assert!(verdict.row(rule).checked >= times.max(1), "{rule:?} had nothing to check");
    }
}

#[test]
fn a_history_in_which_all_is_well_has_no_breach() {
    let mut tale = Tale::new();
    for qos in [1, 2] {
        let before = tale.publishes("a", qos, Kind::Plain);
        tale.gets(tale.bob, before, qos);
        let across = tale.publishes("a", qos, Kind::Plain);
        tale.restarts();
        tale.gets(tale.bob, across, qos);
    }
    let verdict = tale.verdict();
    assert_eq!(verdict.breaches(), 0, "{:?}", verdict.breaches);
    assert_eq!(verdict.row(Rule::Loss).checked, 4);
    assert_eq!(verdict.tally.lives, 3);
}

#[test]
fn an_acknowledged_message_that_never_comes_is_lost() {
    for qos in [1, 2] {
        let mut tale = Tale::new();
        tale.publishes("a", qos, Kind::Plain);
        tale.restarts();
        tale.breaks(Rule::Loss, 1);
    }
}

#[test]
fn a_subscriber_at_qos_0_is_owed_nothing() {
    let mut tale = Tale::new();
    tale.unsubscribes(tale.bob);
    let (client, filter) = (tale.bob, tale.filter);
    tale.happens(What::SubscribeSent { client, filter });
    tale.happens(What::Subscribed { client, filter, granted: 0 });
    tale.publishes("a", 1, Kind::Plain);
    tale.breaks(Rule::Answered, 0);
}

#[test]
fn a_pubrec_is_an_acknowledgement() {
    let mut tale = Tale::new();
    let message = tale.sends("a", 2, Kind::Plain);
    tale.happens(What::Acked { message });
    tale.restarts();
    tale.happens(What::Completed { message });
    tale.breaks(Rule::Loss, 1);
}

#[test]
fn a_message_without_acknowledgement_may_be_lost_but_must_be_answered() {
    let mut tale = Tale::new();
    tale.sends("a", 1, Kind::Plain);
    tale.restarts();
    tale.breaks(Rule::Answered, 1);
}

#[test]
fn a_refused_message_is_owed_to_nobody() {
    let mut tale = Tale::new();
    let message = tale.sends("a", 1, Kind::Plain);
    tale.happens(What::Rejected { message, code: 0x97 });
    tale.breaks(Rule::Answered, 0);
}

#[test]
fn what_is_acknowledged_after_a_fault_of_a_cluster_is_matched_a_while_later() {
    for (after, breaches) in [(8, 0), (12, 1)] {
        let mut tale = Tale::new();
        tale.happens(What::Done { mark: Mark::Killed(1), within_ms: None });
        tale.passes(after);
        // Bob has gone when it is, or has come.
        tale.publishes("a", 1, Kind::Plain);
        tale.unsubscribes(tale.bob);
        assert_eq!(tale.verdict().row(Rule::Loss).breaches, breaches, "{after} s");
        let early = tale.publishes("a", 1, Kind::Plain);
        tale.subscribes(tale.bob);
        tale.gets(tale.bob, early, 1);
        assert_eq!(tale.verdict().row(Rule::Unsubscribed).breaches, breaches, "{after} s");
    }
    // As long as links are cut, and as long again.
    for (after, breaches) in [(8, 0), (12, 1)] {
        let mut tale = Tale::new();
        tale.happens(What::Done { mark: Mark::Cut, within_ms: None });
        tale.passes(20);
        tale.publishes("a", 1, Kind::Plain);
        tale.happens(What::Done { mark: Mark::Healed, within_ms: None });
        tale.passes(after);
        tale.unsubscribes(tale.bob);
        assert_eq!(tale.verdict().row(Rule::Loss).breaches, breaches, "{after} s");
    }
    // Who stays is owed it.
    let mut tale = Tale::new();
    tale.happens(What::Done { mark: Mark::Killed(1), within_ms: None });
    tale.publishes("a", 1, Kind::Plain);
    tale.breaks(Rule::Loss, 1);
}

#[test]
fn a_message_is_owed_only_within_an_acknowledged_subscription() {
    let mut tale = Tale::new();
    // Acknowledged only after Bob had begun to unsubscribe.
    let late = tale.sends("a", 1, Kind::Plain);
    let (client, filter) = (tale.bob, tale.filter);
    tale.happens(What::UnsubscribeSent { client, filter });
    tale.is_answered(late);
    tale.happens(What::Unsubscribed { client, filter });
    // Sent before the new SUBACK.
    tale.happens(What::SubscribeSent { client, filter });
    let early = tale.sends("a", 1, Kind::Plain);
    tale.happens(What::Subscribed { client, filter, granted: 1 });
    tale.is_answered(early);
    assert_eq!(tale.verdict().breaches(), 0);
    // And this is within it.
    tale.publishes("a", 1, Kind::Plain);
    tale.breaks(Rule::Loss, 1);
}

#[test]
fn qos_2_twice_is_a_duplicate_and_qos_1_is_not() {
    for qos in [1, 2] {
        let mut tale = Tale::new();
        let message = tale.publishes("a", qos, Kind::Plain);
        tale.gets(tale.bob, message, qos);
        tale.restarts();
        tale.gets(tale.bob, message, qos);
        match qos {
            1 => assert_eq!(tale.verdict().breaches(), 0),
            _ => tale.breaks(Rule::Duplicate, 1),
        }
        assert_eq!(tale.verdict().tally.repeated, 1);
    }
}

#[test]
fn qos_2_that_the_client_recognised_is_no_duplicate() {
    let mut tale = Tale::new();
    let (message, client) = (tale.publishes("a", 2, Kind::Plain), tale.bob);
    tale.gets(client, message, 2);
    tale.restarts();
    tale.happens(What::Delivered {
        client,
        message,
        id: 1,
        qos: 2,
        dup: true,
        suppressed: true,
        expiry: None,
    });
    tale.breaks(Rule::Duplicate, 0);
}

#[test]
fn a_later_message_before_an_earlier_one_is_out_of_order() {
    let mut tale = Tale::new();
    let first = tale.publishes("a", 1, Kind::Plain);
    let second = tale.publishes("a", 1, Kind::Plain);
    tale.gets(tale.bob, second, 1);
    tale.gets(tale.bob, first, 1);
    tale.breaks(Rule::Order, 1);
}

#[test]
fn repeated_rounds_of_qos_1_are_in_order() {
    let mut tale = Tale::new();
    let messages = [1, 1, 1].map(|qos| tale.publishes("a", qos, Kind::Plain));
    for message in [messages[0], messages[1], messages[0], messages[1], messages[2]] {
        tale.gets(tale.bob, message, 1);
    }
    tale.breaks(Rule::Order, 0);
}

#[test]
fn what_a_subscription_came_too_late_for_may_come_late() {
    for (early, breaches) in [(false, 0), (true, 1)] {
        let mut tale = Tale::new();
        let carol = tale.cast.client("carol", V5, Lasting::Always);
        tale.unsubscribes(tale.bob);
        tale.connects(carol, false);
        if early {
            tale.subscribes(carol);
        }
        let first = tale.sends("a", 1, Kind::Plain);
        if !early {
            tale.subscribes(carol);
        }
        let second = tale.sends("a", 1, Kind::Plain);
        tale.gets(carol, second, 1);
        for message in [first, second] {
            tale.happens(What::Sent { message, again: true });
            tale.is_answered(message);
            tale.gets(carol, message, 1);
        }
        tale.breaks(Rule::Order, breaches);
    }
}

#[test]
fn qos_2_is_once_a_session() {
    for (lasting, breaches) in [(Lasting::Not, 0), (Lasting::Always, 1)] {
        let mut tale = Tale::new();
        let carol = tale.cast.client("carol", V5, lasting);
        tale.unsubscribes(tale.bob);
        tale.connects(carol, false);
        tale.subscribes(carol);
        let message = tale.publishes("a", 2, Kind::Plain);
        tale.gets(carol, message, 2);
        tale.happens(What::Closed { client: carol, how: End::Broker });
        tale.connects(carol, lasting == Lasting::Always);
        tale.subscribes(carol);
        tale.gets(carol, message, 2);
        tale.breaks(Rule::Duplicate, breaches);
    }
}

#[test]
fn what_had_expired_and_is_sent_again_is_not_out_of_order() {
    let mut tale = Tale::new();
    let short = tale.sends("x", 1, Kind::Expiring { seconds: 2 });
    let long = tale.sends("x", 1, Kind::Expiring { seconds: LONG_EXPIRY_SECONDS });
    tale.passes(4);
    tale.gets_with(tale.bob, long, 1, Some(LONG_EXPIRY_SECONDS - 4));
    for message in [short, long] {
        tale.happens(What::Sent { message, again: true });
        tale.is_answered(message);
    }
    tale.gets_with(tale.bob, short, 1, Some(2));
    tale.gets_with(tale.bob, long, 1, Some(LONG_EXPIRY_SECONDS));
    tale.breaks(Rule::Order, 0);
}

#[test]
fn a_probe_that_does_not_come_is_a_lost_subscription() {
    let mut tale = Tale::new();
    tale.restarts();
    tale.publishes("a", 1, Kind::Probe);
    tale.breaks(Rule::Subscription, 1);
}

#[test]
fn a_subscription_that_comes_back_from_the_dead_is_seen() {
    let mut tale = Tale::new();
    tale.unsubscribes(tale.bob);
    tale.restarts();
    let message = tale.publishes("a", 1, Kind::Plain);
    tale.gets(tale.bob, message, 1);
    tale.breaks(Rule::Unsubscribed, 1);
}

#[test]
fn a_qos_that_was_not_granted_is_seen() {
    let mut tale = Tale::new();
    let message = tale.publishes("a", 2, Kind::Plain);
    tale.gets(tale.bob, message, 1);
    tale.breaks(Rule::Quality, 1);
}

#[test]
fn a_session_that_was_acknowledged_must_be_present() {
    let mut tale = Tale::new();
    tale.happens(What::Down);
    tale.leaves(tale.bob, End::Broker);
    tale.happens(What::Ready);
    tale.connects(tale.bob, false);
    tale.breaks(Rule::Session, 1);
}

#[test]
fn a_session_from_nowhere_is_seen() {
    let mut tale = Tale::new();
    let carol = tale.cast.client("carol", V5, Lasting::Always);
    tale.connects(carol, true);
    tale.breaks(Rule::Session, 1);
}

#[test]
fn a_connect_without_an_answer_leaves_both_open() {
    for present in [false, true] {
        let mut tale = Tale::new();
        let carol = tale.cast.client("carol", V5, Lasting::Always);
        tale.happens(What::ConnectSent { client: carol, will: None });
        tale.happens(What::Down);
        tale.leaves(carol, End::Broker);
        tale.happens(What::Ready);
        tale.connects(carol, present);
        assert_eq!(tale.verdict().breaches(), 0);
    }
}

/// Carol's session lasts four seconds; she stays away for some.
fn away_for(seconds: u64, present: bool, killed_at_once: bool) -> Tale {
    let mut tale = Tale::new();
    let carol = tale.cast.client("carol", V5, Lasting::Seconds(4));
    tale.connects(carol, false);
    tale.passes(2);
    tale.leaves(carol, End::Goodbye);
    if !killed_at_once {
        tale.passes(1);
    }
    tale.restarts();
    tale.passes(seconds - u64::from(!killed_at_once));
    tale.connects(carol, present);
    tale
}

#[test]
fn a_session_ends_after_its_expiry_and_not_before() {
    away_for(2, true, false).breaks(Rule::SessionExpiry, 0);
    away_for(8, false, false).breaks(Rule::SessionExpiry, 0);
    away_for(2, false, false).breaks(Rule::SessionExpiry, 1);
    away_for(8, true, false).breaks(Rule::SessionExpiry, 1);
}

#[test]
fn a_disconnect_right_before_a_kill_may_be_forgotten_but_not_for_ever() {
    away_for(8, true, true).breaks(Rule::SessionExpiry, 1);
    let tale = away_for(5, true, true);
    assert_eq!(tale.verdict().breaches(), 0);
}

#[test]
fn a_retained_value_older_than_the_acknowledged_one_is_stale() {
    let mut tale = Tale::new();
    tale.unsubscribes(tale.bob);
    let old = tale.publishes("r", 1, Kind::Set);
    tale.publishes("r", 1, Kind::Set);
    tale.restarts();
    tale.reads(Some(old));
    tale.breaks(Rule::Retained, 1);
}

#[test]
fn a_retained_value_that_was_cleared_or_is_gone_is_seen() {
    let mut tale = Tale::new();
    let value = tale.publishes("r", 1, Kind::Set);
    tale.publishes("r", 1, Kind::Clear);
    tale.restarts();
    tale.reads(Some(value));
    tale.breaks(Rule::Retained, 1);

    let mut tale = Tale::new();
    tale.publishes("r", 1, Kind::Set);
    tale.restarts();
    tale.reads(None);
    tale.breaks(Rule::Retained, 1);
}

#[test]
fn an_old_retained_value_is_stale_from_the_acknowledgement_on() {
    for qos in [1, 2] {
        let mut tale = Tale::new();
        tale.unsubscribes(tale.bob);
        let old = tale.publishes("r", qos, Kind::Set);
        tale.publishes("r", qos, Kind::Set);
        tale.reads(Some(old));
        tale.breaks(Rule::Retained, 1);
    }
}

#[test]
fn a_retained_value_may_be_the_last_acknowledged_or_any_later_one() {
    for found in [0, 1, 2] {
        let mut tale = Tale::new();
        let settled = tale.publishes("r", 1, Kind::Set);
        let clear = tale.sends("r", 1, Kind::Clear);
        let later = tale.sends("r", 1, Kind::Set);
        tale.restarts();
        tale.reads([Some(settled), None, Some(later)][found]);
        tale.is_answered(clear);
        tale.is_answered(later);
        tale.breaks(Rule::Retained, 0);
    }
}

#[test]
fn a_will_that_is_due_and_does_not_come_is_seen() {
    for killed in [false, true] {
        let mut tale = Tale::new();
        let (carol, _) = tale.mortal(2);
        tale.passes(1);
        tale.leaves(carol, End::Dropped);
        if killed {
            tale.passes(1);
            tale.restarts();
        }
        tale.passes(10);
        tale.happens(What::ReadEnded { client: carol, whole: false });
        tale.breaks(Rule::Will, 1);
    }
}

#[test]
fn a_will_that_comes_when_it_is_due_is_right_and_twice_is_not() {
    let mut tale = Tale::new();
    let (carol, will) = tale.mortal(2);
    tale.passes(1);
    tale.leaves(carol, End::Dropped);
    tale.passes(2);
    tale.gets(tale.bob, will, 2);
    tale.passes(8);
    tale.restarts();
    tale.breaks(Rule::Will, 0);
    tale.gets(tale.bob, will, 2);
    tale.breaks(Rule::Duplicate, 1);
}

#[test]
fn a_will_that_was_withdrawn_must_not_come() {
    // By DISCONNECT.
    let mut tale = Tale::new();
    let (carol, will) = tale.mortal(0);
    tale.leaves(carol, End::Goodbye);
    tale.passes(2);
    tale.restarts();
    tale.gets(tale.bob, will, 2);
    tale.breaks(Rule::WillWithdrawn, 1);
    // By a return within the delay.
    let mut tale = Tale::new();
    let (carol, will) = tale.mortal(5);
    tale.leaves(carol, End::Dropped);
    tale.passes(1);
    let second = tale.arms(carol, 5);
    tale.passes(5);
    tale.leaves(carol, End::Dropped);
    tale.gets(tale.bob, will, 2);
    tale.passes(6);
    tale.gets(tale.bob, second, 2);
    tale.breaks(Rule::WillWithdrawn, 1);
    // By the delay itself.
    let mut tale = Tale::new();
    let (carol, will) = tale.mortal(5);
    tale.leaves(carol, End::Dropped);
    tale.passes(1);
    tale.gets(tale.bob, will, 2);
    tale.breaks(Rule::WillWithdrawn, 1);
}

#[test]
fn a_disconnect_right_before_a_kill_may_leave_its_will() {
    let mut tale = Tale::new();
    let (carol, will) = tale.mortal(0);
    tale.leaves(carol, End::Goodbye);
    tale.restarts();
    tale.gets(tale.bob, will, 2);
    tale.breaks(Rule::Duplicate, 0);
}

#[test]
fn what_has_expired_must_not_come() {
    let mut tale = Tale::new();
    let message = tale.publishes("x", 1, Kind::Expiring { seconds: 2 });
    tale.restarts();
    tale.passes(5);
    tale.gets_with(tale.bob, message, 1, Some(1));
    tale.breaks(Rule::Expiry, 1);
}

#[test]
fn a_restart_must_not_give_a_message_its_whole_expiry_again() {
    for (left, times) in [(LONG_EXPIRY_SECONDS, 1), (LONG_EXPIRY_SECONDS - 60, 0), (100, 1)] {
        let mut tale = Tale::new();
        let message = tale.publishes("x", 1, Kind::Expiring { seconds: LONG_EXPIRY_SECONDS });
        tale.passes(60);
        tale.restarts();
        tale.gets_with(tale.bob, message, 1, Some(left));
        tale.breaks(Rule::Expiry, times);
    }
}

#[test]
fn a_message_that_may_expire_is_owed_only_if_it_lasts() {
    let mut tale = Tale::new();
    tale.publishes("x", 1, Kind::Expiring { seconds: 2 });
    assert_eq!(tale.verdict().breaches(), 0);
    tale.publishes("x", 1, Kind::Expiring { seconds: LONG_EXPIRY_SECONDS });
    tale.breaks(Rule::Loss, 1);
}

#[test]
fn an_acknowledgement_while_no_sync_succeeds_is_seen() {
    let mut tale = Tale::new();
    let before = tale.sends("a", 1, Kind::Plain);
    tale.happens(What::SyncBroken);
    tale.is_answered(before);
    tale.gets(tale.bob, before, 1);
    let message = tale.publishes("a", 1, Kind::Plain);
    tale.gets(tale.bob, message, 1);
    tale.breaks(Rule::Synced, 1);
    tale.restarts();
    let after = tale.publishes("a", 1, Kind::Plain);
    tale.gets(tale.bob, after, 1);
    tale.breaks(Rule::Synced, 1);
}

#[test]
fn a_packet_that_nobody_sent_is_seen() {
    let mut tale = Tale::new();
    tale.happens(What::Damaged { client: tale.bob });
    let verdict = tale.verdict();
    assert_eq!(verdict.row(Rule::Intact).breaches, 1);
}

/// Members of a share group beside Bob, who takes what they take.
fn group(tale: &mut Tale, lasting: [Lasting; 2]) -> [ClientId; 2] {
    tale.unsubscribes(tale.bob);
    tale.filter = tale.cast.filter("$share/g/+");
    let mut names = ["carol", "dave"].into_iter();
    lasting.map(|lasting| {
        let member = tale.cast.client(names.next().unwrap_or_default(), V5, lasting);
        tale.connects(member, false);
        tale.subscribes(member);
        member
    })
}

#[test]
fn a_share_group_that_gets_nothing_or_qos_2_twice_is_seen() {
    for (times, breaches) in [(0, 1), (1, 0), (2, 1)] {
        let mut tale = Tale::new();
        let members = group(&mut tale, [Lasting::Always; 2]);
        let message = tale.publishes("a", 2, Kind::Plain);
        for member in members.into_iter().take(times) {
            tale.gets(member, message, 2);
        }
        tale.breaks(Rule::Shared, breaches);
    }
}

#[test]
fn what_a_lost_member_may_have_had_may_come_to_another_one() {
    let mut tale = Tale::new();
    let members = group(&mut tale, [Lasting::Always, Lasting::Not]);
    let message = tale.publishes("a", 2, Kind::Plain);
    for member in members {
        tale.gets(member, message, 2);
    }
    let at_least_once = tale.publishes("a", 1, Kind::Plain);
    for member in members {
        tale.gets(member, at_least_once, 1);
    }
    tale.breaks(Rule::Shared, 0);
}

#[test]
fn what_a_lost_member_has_taken_along_is_not_lost_but_what_it_has_not_is() {
    for (seconds, breaches) in [(2, 0), (12, 1)] {
        let mut tale = Tale::new();
        let [_, dave] = group(&mut tale, [Lasting::Always, Lasting::Not]);
        tale.publishes("a", 2, Kind::Plain);
        tale.passes(seconds);
        tale.leaves(dave, End::Broker);
        tale.breaks(Rule::Shared, breaches);
    }
}

/// Carol's session ends with her connection, so many seconds after a publish
/// that does not reach her.
fn ephemeral(seconds: u64) -> Tale {
    let mut tale = Tale::new();
    tale.unsubscribes(tale.bob);
    let carol = tale.cast.client("carol", V5, Lasting::Not);
    tale.connects(carol, false);
    tale.subscribes(carol);
    tale.publishes("a", 1, Kind::Plain);
    tale.passes(seconds);
    tale.leaves(carol, End::Broker);
    tale.connects(carol, false);
    tale.subscribes(carol);
    tale
}

#[test]
fn an_ephemeral_subscriber_is_owed_what_came_well_before_the_end_of_its_connection() {
    ephemeral(12).breaks(Rule::Loss, 1);
    let mut tale = ephemeral(2);
    assert_eq!(tale.verdict().breaches(), 0);
    // And again in its next session.
    tale.publishes("a", 1, Kind::Plain);
    tale.breaks(Rule::Loss, 1);
}

#[test]
fn a_cluster_has_time_to_notice_that_a_connection_is_gone_but_not_for_ever() {
    for (seconds, times) in [(4, 0), (14, 1)] {
        let mut tale = Tale::new();
        let (carol, _) = tale.mortal(0);
        tale.leaves(carol, End::Dropped);
        tale.passes(seconds);
        tale.happens(What::ReadEnded { client: carol, whole: false });
        let verdict = judge(&tale.cast, &tale.events, 8 * SECOND);
        assert_eq!(verdict.row(Rule::Will).breaches, times, "after {seconds} s");
    }
}
