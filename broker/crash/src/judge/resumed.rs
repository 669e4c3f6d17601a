//! How long publishers wait for an acknowledgement after something was done to
//! the cluster that they publish to.

use std::collections::BTreeMap;

use super::{Concern, Rule, Verdict};
use crate::cast::{Cast, ClientId};
use crate::history::{Event, Mark, What};

/// The longest time without an acknowledgement after a mark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resumption {
    /// What was done.
    pub(crate) mark: Mark,
    /// When, in microseconds of the run.
    pub(crate) at: u64,
    /// How long it may take at most.
    within_ms: Option<u32>,
    /// How long somebody waited, in microseconds.
    pub(crate) longest: u64,
    /// Who.
    pub(crate) client: ClientId,
    /// Whether it was still waiting when the next thing was done.
    pub(crate) open: bool,
}

/// Of each mark, whoever waited longest for an acknowledgement. Looked at are
/// those who had one before, until the next mark.
pub(crate) fn times(cast: &Cast, events: &[Event]) -> Vec<Resumption> {
    let mut found = Vec::new();
    let mut last: BTreeMap<ClientId, u64> = BTreeMap::new();
    let mut now: Option<Resumption> = None;
    for event in events {
        match event.what {
            What::Acked { message } => {
                let Some(message) = cast.get(message) else { continue };
                let before = last.insert(message.publisher, event.at);
                if let (Some(now), Some(before)) = (&mut now, before) {
                    now.wait(message.publisher, before, event.at, false);
                }
            }
            // Nobody did that: it belongs to what was done before.
            What::Done { mark: Mark::Reborn(_), .. } => {}
            What::Done { mark, within_ms } => {
                if let Some(mut now) = now.take() {
                    last.iter().for_each(|(&who, &since)| now.wait(who, since, event.at, true));
                    found.push(now);
                }
                let Some((&client, _)) = last.first_key_value() else { continue };
                let (at, longest, open) = (event.at, 0, false);
                // Once the load has ended nobody waits for anything.
                if mark != Mark::Calm {
                    now = Some(Resumption { mark, at, within_ms, longest, client, open });
                }
            }
            _ => {}
        }
    }
    found
}

impl Resumption {
    /// Somebody waited between two moments.
    fn wait(&mut self, client: ClientId, from: u64, to: u64, open: bool) {
        let waited = to.saturating_sub(from.max(self.at));
        if waited > self.longest {
            (self.longest, self.client, self.open) = (waited, client, open);
        }
    }

    /// For a person.
    pub(crate) fn told(&self, cast: &Cast) -> String {
        let (seconds, who) = (self.longest as f64 / 1e6, &cast.of(self.client).name);
        let still = if self.open { ", and still waited" } else { "" };
        let most = self.within_ms.map(|ms| format!(" (to be {} s)", f64::from(ms) / 1e3));
        format!("{seconds:.2} s{}, {who}{still}", most.unwrap_or_default())
    }
}

/// Holds the times against what they may be.
pub(crate) fn judge(cast: &Cast, times: &[Resumption], verdict: &mut Verdict) {
    for time in times {
        let Some(within) = time.within_ms else { continue };
        verdict.check(Rule::Resumed);
        if time.longest > u64::from(within) * 1_000 {
            let what = format!("{}: {}", time.mark, time.told(cast));
            verdict.breach(Rule::Resumed, Concern::at(time.client, time.at), what);
        }
    }
}

#[cfg(test)]
mod tests {
    use testkit::client::Version;

    use super::*;
    use crate::cast::{Kind, Lasting, Message};

    /// A node is killed at 10 s; Alice has an acknowledgement at each of these.
    fn run(acks: &[u64]) -> (Cast, Vec<Event>) {
        let mut cast = Cast::default();
        let publisher = cast.client("alice", Version::V5, Lasting::Always);
        let topic = cast.topic("t");
        let mut events = Vec::new();
        for &at in acks {
            let message = cast.message(Message { publisher, topic, qos: 1, kind: Kind::Plain });
            events.push(Event { at, what: What::Acked { message } });
        }
        let killed = What::Done { mark: Mark::Killed(1), within_ms: Some(3_000) };
        events.push(Event { at: 10_000_000, what: killed });
        let calm = What::Done { mark: Mark::Calm, within_ms: None };
        events.push(Event { at: 20_000_000, what: calm });
        events.sort_by_key(|event| event.at);
        (cast, events)
    }

    fn breaches(acks: &[u64]) -> u64 {
        let (cast, events) = run(acks);
        let mut verdict = Verdict::default();
        judge(&cast, &times(&cast, &events), &mut verdict);
        verdict.row(Rule::Resumed).breaches
    }

    #[test]
    fn a_wait_counts_from_the_kill_and_wherever_it_lies() {
        let calm: Vec<u64> = (8..20).map(|second| second * 1_000_000).collect();
        assert_eq!(breaches(&calm), 0);
        let late: Vec<u64> =
            calm.iter().copied().filter(|at| !(11_000_000..15_000_000).contains(at)).collect();
        assert_eq!(breaches(&late), 1);
        let (cast, events) = run(&late);
        assert_eq!(times(&cast, &events)[0].longest, 5_000_000);
    }

    #[test]
    fn a_node_that_begins_anew_meanwhile_does_not_end_the_wait() {
        let (cast, mut events) = run(&[9_000_000, 19_000_000]);
        let what = What::Done { mark: Mark::Reborn(2), within_ms: None };
        events.push(Event { at: 12_000_000, what });
        events.sort_by_key(|event| event.at);
        assert_eq!(times(&cast, &events)[0].longest, 9_000_000);
    }

    #[test]
    fn acknowledgements_that_never_come_again_are_seen() {
        let (cast, events) = run(&[9_000_000, 10_500_000]);
        let time = times(&cast, &events)[0];
        assert!(time.open);
        assert_eq!(time.longest, 9_500_000);
        assert_eq!(breaches(&[9_000_000, 10_500_000]), 1);
    }
}
