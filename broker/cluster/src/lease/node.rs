//! The node lease.
//!
//! Upholds: of two nodes that each think they own a client id, one has closed or
//! is silent before the other is told that it may begin.

use std::collections::BTreeMap;

use crate::ids::{Incarnation, Life, Millis, NodeId};
use crate::limits::{
    ISOLATED_CLOSE_MS, NODE_ASKS_MS, NODE_DOWN_AGAIN_MS, NODE_DOWN_MS, NODE_LEASE_MS,
    NODE_LEASE_RENEW_MS,
};

/// The lease of this node.
#[derive(Clone, Debug)]
pub struct Holder {
    life: Life,
    /// The request that is under way or was answered last, and when it was sent.
    sent: Option<(u64, Millis)>,
    /// Requests so far: their numbers are never used again.
    requests: u64,
    /// The end of the lease.
    until: Option<Millis>,
    /// The newest term of a leader that has granted.
    term: u64,
    /// Metadata that the granter had and this node has to know before it counts.
    needs: u64,
}

/// A request for the lease, to be sent to the leader of the meta group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Asked {
    /// Who asks.
    pub life: Life,
    /// The number of the request; the answer repeats it.
    pub request: u64,
}

/// The answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// To whom.
    pub life: Life,
    /// The request that it answers.
    pub request: u64,
    /// The leader's term.
    pub term: u64,
    /// The metadata of then: the holder must have applied as much.
    pub index: u64,
}

/// What the node may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hold {
    /// Serve clients.
    Serving,
    /// Neither read from nor deliver to clients.
    Silent,
    /// Close them.
    Isolated,
}

impl Holder {
    /// For a process that begins, without a lease.
    pub fn new(life: Life) -> Holder {
        Holder { life, sent: None, requests: 0, until: None, term: 0, needs: 0 }
    }

    /// The next request, if it is time.
    pub fn ask(&mut self, now: Millis) -> Option<Asked> {
        let due = self.sent.is_none_or(|(_, sent)| now >= sent + NODE_LEASE_RENEW_MS);
        if !due {
            return None;
        }
        self.requests += 1;
        self.sent = Some((self.requests, now));
        Some(Asked { life: self.life, request: self.requests })
    }

    /// When to ask next.
    pub fn next_ask(&self, now: Millis) -> Millis {
        self.sent.map_or(now, |(_, sent)| sent + NODE_LEASE_RENEW_MS)
    }

    /// An answer has come. It counts from when its request was sent; answers to
    /// earlier requests, to other lives and from earlier leaders do not count.
    pub fn granted(&mut self, grant: &Grant) -> bool {
        let Some((request, sent)) = self.sent else { return false };
        if grant.request != request || grant.life != self.life || grant.term < self.term {
            return false;
        }
        self.term = grant.term;
        self.needs = self.needs.max(grant.index);
        let until = sent + NODE_LEASE_MS;
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
        true
    }

    /// What the node may do, at a time that was read after whatever it decides
    /// about, with the metadata that it has applied.
    pub fn hold(&self, fresh_now: Millis, applied: u64) -> Hold {
        match self.until {
            Some(until) if fresh_now < until && applied >= self.needs => Hold::Serving,
            Some(until) if fresh_now < until + ISOLATED_CLOSE_MS => Hold::Silent,
            // Without a lease yet nobody has come in.
            Some(_) | None => Hold::Isolated,
        }
    }

    /// The end of the lease, if there was one.
    pub fn until(&self) -> Option<Millis> {
        self.until
    }
}

/// The leases that a leader of the meta group has granted.
///
/// An answer leaves only after the leader has made sure that it still leads
/// ([`Granter::begin_round`], a ReadIndex, [`Granter::confirmed`]). Otherwise one that was
/// deposed could go on granting while its successor counts to Down.
#[derive(Clone, Debug)]
pub struct Granter {
    term: u64,
    /// Since when this leader leads; nobody is Down for `NODE_DOWN_MS` from then,
    /// but for who is out of reach.
    since: Millis,
    /// Nothing that a leader before this one has granted was asked for later, as
    /// far as that is known.
    before: Option<Millis>,
    /// Whether the members were told.
    told: bool,
    /// Who counts, and when it was last answered.
    nodes: BTreeMap<NodeId, Granted>,
    /// Requests that wait for the next round, and for the one under way.
    waiting: Vec<Asked>,
    under_way: Vec<Asked>,
    pub(super) round: u64,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    incarnation: Incarnation,
    last: Millis,
    /// It was there when this leader began, and has not asked it yet.
    inherited: bool,
    /// Down was proposed, last at this time: there is no way back for this life.
    over: Option<Millis>,
    /// It gets no grant any more, and so is down in a while.
    expelled: bool,
}

/// Why a request gets no answer that grants.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoGrant {
    /// The metadata does not have that life as one that lives.
    #[error("{0} is not a living member: it has to register with a new incarnation")]
    NotAMember(Life),
    /// It is to begin anew, once it reaches all that serve.
    #[error("{0} does not reach a node that serves: it has to begin anew when it does")]
    CutOff(Life),
    /// Its end is being committed.
    #[error("{0} was silent for too long: it has to register with a new incarnation")]
    Over(Life),
}

impl Granter {
    /// For a leader that begins.
    pub fn new(term: u64, now: Millis) -> Granter {
        Granter {
            term,
            since: now,
            before: None,
            told: false,
            nodes: BTreeMap::new(),
            waiting: Vec::new(),
            under_way: Vec::new(),
            round: 0,
        }
    }

    /// The lives that count, from the metadata: to be called after each change.
    /// One that is new has as long as if it had just been answered. The first call
    /// names those whom this leader has from the one before it.
    pub fn members(&mut self, lives: impl Iterator<Item = Life>, now: Millis) {
        let inherited = !std::mem::replace(&mut self.told, true);
        let lives: BTreeMap<_, _> = lives.map(|life| (life.node, life.incarnation)).collect();
        self.nodes.retain(|node, known| lives.get(node) == Some(&known.incarnation));
        for (node, incarnation) in lives {
            self.nodes.entry(node).or_insert(Granted {
                incarnation,
                last: now,
                inherited,
                over: None,
                expelled: false,
            });
        }
        let is_known = |asked: &Asked| {
            self.nodes.get(&asked.life.node).map(|known| known.incarnation)
                == Some(asked.life.incarnation)
        };
        self.waiting.retain(is_known);
    }

    /// A request has come: it is answered after the next round.
    ///
    /// # Errors
    /// Why it will not be.
    pub fn asked(&mut self, asked: Asked) -> Result<(), NoGrant> {
        let known = self.nodes.get_mut(&asked.life.node);
        let Some(known) = known.filter(|known| known.incarnation == asked.life.incarnation) else {
            return Err(NoGrant::NotAMember(asked.life));
        };
        known.inherited = false;
        if known.over.is_some() {
            return Err(NoGrant::Over(asked.life));
        }
        if known.expelled {
            return Err(NoGrant::CutOff(asked.life));
        }
        // One a node: an earlier one of it is not worth an answer any more.
        self.waiting.retain(|other| other.life.node != asked.life.node);
        self.waiting.push(asked);
        Ok(())
    }

    /// Begins a round, if somebody waits and none is under way: the caller makes
    /// sure now that it leads, and says so with this number.
    pub fn begin_round(&mut self) -> Option<u64> {
        if self.waiting.is_empty() || !self.under_way.is_empty() {
            return None;
        }
        self.round += 1;
        self.under_way = std::mem::take(&mut self.waiting);
        Some(self.round)
    }

    /// It did lead at some time since the round began: these answers may leave,
    /// now and not later.
    pub fn confirmed(&mut self, round: u64, index: u64, now: Millis) -> Vec<Grant> {
        if round != self.round {
            return Vec::new();
        }
        let mut grants = Vec::new();
        for asked in std::mem::take(&mut self.under_way) {
            let Some(known) = self.nodes.get_mut(&asked.life.node) else { continue };
            if known.incarnation != asked.life.incarnation || known.over.is_some() || known.expelled
            {
                continue;
            }
            known.last = now;
            grants.push(Grant { life: asked.life, request: asked.request, term: self.term, index });
        }
        grants
    }

    /// The confirmation failed: the requests are dropped, their nodes ask again.
    pub fn failed(&mut self, round: u64) {
        if round == self.round {
            self.under_way.clear();
        }
    }

    /// The present life of a node is to end: it gets no lease any more, and is
    /// down when the last one has run out.
    pub fn expel(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.expelled = true;
        }
    }

    /// A majority of the voters, this leader among them, has confirmed no leader
    /// before this one since `at`, and never will again. As a leader grants what it
    /// was asked for before a majority confirmed it, nothing was granted that was
    /// asked for later.
    pub fn silent_since(&mut self, at: Millis) {
        self.before = Some(self.before.map_or(at, |before| before.min(at)));
    }

    /// A quorum confirms this leader again, after a while in which none did: who
    /// could not be answered has as long as under a new leader.
    pub fn regained(&mut self, now: Millis) {
        self.since = now;
    }

    /// The lives whose Down is to be proposed now, each again a second later. They
    /// get no grant any more, whatever becomes of the proposal: not to be called
    /// while it could not be committed. `reached`: with whom there is a connection.
    pub fn down(&mut self, now: Millis, reached: impl Fn(NodeId) -> bool) -> Vec<Life> {
        let (since, before) = (self.since, self.before);
        let ran_out = |node: NodeId, known: &Granted| match known.over {
            None => now >= known.end(since, before.filter(|_| !reached(node))),
            Some(said) => now >= said + NODE_DOWN_AGAIN_MS,
        };
        let mut down = Vec::new();
        for (node, known) in &mut self.nodes {
            if ran_out(*node, known) {
                known.over = Some(now);
                down.push(Life { node: *node, incarnation: known.incarnation });
            }
        }
        down
    }
}

impl Granted {
    /// When it is down, unless it is answered before: by what this leader has
    /// granted, or began; and, of a node that is out of reach and has not asked
    /// this leader for anything, by what earlier ones may have.
    fn end(&self, since: Millis, before: Option<Millis>) -> Millis {
        let own = self.last.max(since) + NODE_DOWN_MS;
        let before = before.filter(|_| self.inherited);
        let earlier = before.map(|before| (before + NODE_DOWN_MS).max(since + NODE_ASKS_MS));
        earlier.map_or(own, |earlier| earlier.min(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    const LIFE: Life = Life { node: NodeId(1), incarnation: Incarnation(1) };

    fn granter(now: Millis) -> Granter {
        let mut granter = Granter::new(1, now);
        granter.members([LIFE].into_iter(), now);
        granter
    }

    /// Asks at `sent`, is answered at `answered`.
    fn renew(holder: &mut Holder, granter: &mut Granter, sent: Millis, answered: Millis) {
        let asked = holder.ask(sent).expect("it is time");
        granter.asked(asked).expect("a member");
        let round = granter.begin_round().expect("somebody waits");
        let grants = granter.confirmed(round, 0, answered);
        assert!(holder.granted(&grants[0]));
    }

    #[test]
    fn a_lease_counts_from_the_sending_of_its_request() {
        let (mut holder, mut granter) = (Holder::new(LIFE), granter(0));
        assert_eq!(holder.hold(0, 0), Hold::Isolated, "nobody has come in yet");
        renew(&mut holder, &mut granter, 1_000, 2_900);
        assert_eq!(holder.hold(2_999, 0), Hold::Serving);
        assert_eq!(holder.hold(3_000, 0), Hold::Silent, "1,900 ms were lost on the way");
        assert_eq!(holder.hold(12_999, 0), Hold::Silent);
        assert_eq!(holder.hold(13_000, 0), Hold::Isolated);
    }

    #[test]
    fn it_is_renewed_every_400_ms() {
        let mut holder = Holder::new(LIFE);
        assert!(holder.ask(0).is_some());
        assert!(holder.ask(399).is_none());
        assert_eq!(holder.next_ask(0), 400);
        assert!(holder.ask(400).is_some());
    }

    #[test]
    fn an_answer_to_an_earlier_request_or_of_an_earlier_leader_does_not_count() {
        let mut holder = Holder::new(LIFE);
        let first = holder.ask(0).expect("due");
        let second = holder.ask(400).expect("due");
        let grant = |request, term| Grant { life: LIFE, request, term, index: 0 };
        assert!(!holder.granted(&grant(first.request, 1)));
        assert!(holder.granted(&grant(second.request, 2)));
        let third = holder.ask(800).expect("due");
        assert!(!holder.granted(&grant(third.request, 1)), "that leader was deposed");
        assert_eq!(holder.until(), Some(2_400));
    }

    #[test]
    fn who_has_not_applied_the_granters_metadata_does_not_serve() {
        let mut holder = Holder::new(LIFE);
        let asked = holder.ask(0).expect("due");
        holder.granted(&Grant { life: LIFE, request: asked.request, term: 1, index: 9 });
        assert_eq!(holder.hold(10, 8), Hold::Silent);
        assert_eq!(holder.hold(10, 9), Hold::Serving);
    }

    #[test]
    fn a_node_is_down_2500_ms_after_its_last_answer() {
        let (mut holder, mut granter) = (Holder::new(LIFE), granter(0));
        renew(&mut holder, &mut granter, 2_000, 2_100);
        assert_eq!(granter.down(4_599, |_| true), []);
        assert_eq!(granter.down(4_600, |_| true), [LIFE]);
        assert_eq!(granter.down(5_599, |_| true), [], "not without end");
        assert_eq!(granter.down(5_600, |_| true), [LIFE], "until it is committed it is said again");
    }

    #[test]
    fn one_that_is_expelled_is_down_only_when_its_lease_has_run_out() {
        let (mut holder, mut granter) = (Holder::new(LIFE), granter(0));
        renew(&mut holder, &mut granter, 2_000, 2_100);
        granter.asked(holder.ask(2_400).expect("due")).expect("a member");
        let round = granter.begin_round().expect("somebody waits");
        granter.expel(LIFE.node);
        assert_eq!(granter.confirmed(round, 0, 2_450), []);
        let asked = holder.ask(2_800).expect("due");
        assert_eq!(granter.asked(asked), Err(NoGrant::CutOff(LIFE)));
        assert_eq!(granter.down(4_599, |_| true), []);
        assert_ne!(holder.hold(4_600, 0), Hold::Serving);
        assert_eq!(granter.down(4_600, |_| true), [LIFE]);
        let next = Life { incarnation: Incarnation(2), ..LIFE };
        granter.members([next].into_iter(), 4_700);
        assert_eq!(granter.asked(Asked { life: next, request: 1 }), Ok(()), "it begins anew");
    }

    #[test]
    fn nobody_is_down_because_its_leader_had_no_quorum() {
        let mut granter = granter(0);
        // Nobody asked for the lives that are down meanwhile.
        granter.regained(9_000);
        assert_eq!(granter.down(11_499, |_| true), []);
        assert_eq!(granter.down(11_500, |_| true), [LIFE]);
    }

    #[test]
    fn a_node_whose_down_is_proposed_gets_nothing_any_more() {
        let (mut holder, mut granter) = (Holder::new(LIFE), granter(0));
        let asked = holder.ask(2_400).expect("due");
        granter.asked(asked).expect("a member still");
        let round = granter.begin_round().expect("somebody waits");
        assert_eq!(granter.down(2_500, |_| true), [LIFE]);
        assert_eq!(granter.confirmed(round, 0, 2_501), [], "although it had asked in time");
        assert_eq!(granter.asked(asked), Err(NoGrant::Over(LIFE)));
        let next = Life { incarnation: Incarnation(2), ..LIFE };
        granter.members([next].into_iter(), 2_600);
        assert_eq!(granter.asked(Asked { life: next, request: 1 }), Ok(()));
        assert_eq!(granter.asked(asked), Err(NoGrant::NotAMember(LIFE)));
    }

    #[test]
    fn a_new_leader_declares_nobody_down_for_2500_ms() {
        let mut granter = Granter::new(2, 10_000);
        granter.members([LIFE].into_iter(), 10_000);
        assert_eq!(granter.down(12_499, |_| true), []);
        assert_eq!(granter.down(12_500, |_| true), [LIFE]);
    }

    #[test]
    fn who_is_out_of_reach_is_down_when_no_earlier_lease_can_last() {
        let other = Life { node: NodeId(2), incarnation: Incarnation(1) };
        let new = Life { node: NodeId(3), incarnation: Incarnation(1) };
        let mut granter = Granter::new(2, 10_000);
        granter.members([LIFE, other].into_iter(), 10_000);
        let nobody = |_| false;
        assert_eq!(granter.down(11_500, nobody), [], "it may have been granted a lease just now");
        granter.silent_since(9_000);
        granter.members([LIFE, other, new].into_iter(), 10_100);
        granter.asked(Asked { life: other, request: 1 }).expect("a member");
        assert_eq!(granter.down(11_499, nobody), []);
        assert_eq!(granter.down(11_500, |_| true), [], "it may still ask");
        assert_eq!(granter.down(11_500, nobody), [LIFE]);
        assert_eq!(granter.down(12_499, nobody), [], "who has asked has its time, and who is new");
        assert_eq!(granter.down(12_500, nobody).first(), Some(&LIFE), "said again");
        // All leases are over when it begins: those who live are given time to ask.
        let mut granter = Granter::new(3, 20_000);
        granter.members([LIFE].into_iter(), 20_000);
        granter.silent_since(15_000);
        assert_eq!(granter.down(20_999, nobody), []);
        assert_eq!(granter.down(21_000, nobody), [LIFE]);
    }

    #[test]
    fn an_answer_waits_for_the_proof_that_its_giver_leads() {
        let (mut holder, mut granter) = (Holder::new(LIFE), granter(0));
        granter.asked(holder.ask(0).expect("due")).expect("a member");
        let round = granter.begin_round().expect("somebody waits");
        granter.asked(holder.ask(400).expect("due")).expect("a member");
        assert_eq!(granter.begin_round(), None, "one at a time");
        granter.failed(round);
        assert_eq!(granter.confirmed(round, 0, 900), []);
        let round = granter.begin_round().expect("the later request");
        assert_eq!(granter.confirmed(round, 0, 900).len(), 1);
    }

    /// Leaders come and go, messages are late and lost, clocks run 10 % apart:
    /// no node serves under a life that a leader has declared down.
    #[test]
    fn nobody_serves_when_it_is_declared_down() {
        let mut downs = 0;
        for seed in 0..200 {
            let mut random = Seeded::new(seed);
            // True time in steps of 10 ms; three granters and one holder with
            // clocks of their own rate and origin.
            let rates: Vec<u64> = (0..4).map(|_| 95 + random.below(11)).collect();
            let origins: Vec<u64> = (0..4).map(|_| random.below(1_000_000)).collect();
            let clock = |of: usize, at: u64| origins[of] + at * rates[of] / 100;
            let mut holder = Holder::new(LIFE);
            let mut granters: Vec<Option<Granter>> = vec![None, None, None];
            // Who truly leads: proof succeeds for it alone.
            let mut leads = 0;
            let mut term = 1;
            granters[0] = Some(granter(clock(0, 0)));
            let mut to_granter: Vec<(u64, usize, Asked)> = Vec::new();
            let mut to_holder: Vec<(u64, Grant)> = Vec::new();
            let mut proofs: Vec<(u64, usize, u64, bool)> = Vec::new();
            let mut is_down = false;
            for at in (0..20_000).step_by(10) {
                if random.below(300) == 0 {
                    // A new leader; the old one does not know yet.
                    leads = (leads + 1) % 3;
                    term += 1;
                    let mut new = Granter::new(term, clock(leads, at));
                    // It knows what was committed before it.
                    let lives = [LIFE].into_iter().filter(|_| !is_down);
                    new.members(lives, clock(leads, at));
                    granters[leads] = Some(new);
                    proofs.retain(|(_, who, ..)| *who != leads);
                }
                let paused = at % 7_000 > 4_000 && seed % 2 == 0;
                if !paused && let Some(asked) = holder.ask(clock(3, at)) {
                    for to in 0..3 {
                        if random.chance(70) {
                            to_granter.push((at + random.below(900), to, asked));
                        }
                    }
                }
                to_granter.retain(|(when, to, asked)| {
                    if *when <= at
                        && let Some(granter) = &mut granters[*to]
                    {
                        let _ = granter.asked(*asked);
                    }
                    *when > at
                });
                for (who, granter) in granters.iter_mut().enumerate() {
                    let Some(granter) = granter else { continue };
                    if let Some(round) = granter.begin_round() {
                        // A quorum is asked now: it says yes to who leads now.
                        proofs.push((at + random.below(300), who, round, who == leads));
                    }
                }
                proofs.retain(|(when, who, round, good)| {
                    if *when > at {
                        return true;
                    }
                    let Some(granter) = &mut granters[*who] else { return false };
                    if *good {
                        for grant in granter.confirmed(*round, 0, clock(*who, at)) {
                            to_holder.push((at + random.below(900), grant));
                        }
                    } else {
                        granter.failed(*round);
                    }
                    false
                });
                to_holder.retain(|(when, grant)| {
                    if *when <= at {
                        holder.granted(grant);
                    }
                    *when > at
                });
                // Only who leads can commit it.
                if let Some(granter) = &mut granters[leads]
                    && !granter.down(clock(leads, at), |_| true).is_empty()
                {
                    is_down = true;
                }
                if is_down {
                    let hold = holder.hold(clock(3, at), 0);
                    assert_ne!(hold, Hold::Serving, "seed {seed}, {at} ms");
                    downs += 1;
                    if random.chance(1) {
                        break;
                    }
                }
            }
        }
        assert!(downs > 1_000, "the model has declared it down in {downs} steps only");
    }
}
