//! Leases while leaders of the metadata change: three voters, a node that asks
//! for its lease, messages that are late, processes that begin again, clocks that
//! run 10 % apart, and a new leader that goes by what the voters have confirmed.

use super::{Asked, Grant, Granter, Hold, Holder};
use crate::ids::{Incarnation, Life, Millis, NodeId};
use crate::limits::NODE_DOWN_MS;
use crate::seeded::Seeded;

const LIFE: Life = Life { node: NodeId(9), incarnation: Incarnation(1) };
const VOTERS: usize = 3;
/// The clock of the node that asks.
const HOLDER: usize = VOTERS;

/// What a new leader goes by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rule {
    /// What a majority, itself among them, says.
    Majority,
    /// What it has confirmed itself.
    Alone,
    /// As the first, but a process answers for the one before it.
    Forgetful,
    /// As the first, but a voter answers that may still follow an earlier leader.
    Undecided,
    /// As the first, but a leader does not count what it granted itself.
    Selfless,
}

/// Of one voter.
struct Voter {
    term: u64,
    /// Since when its process runs, by its clock; and what it has heard of leaders.
    began: Millis,
    heard: Vec<(usize, Millis)>,
    /// When it granted last.
    granted: Option<Millis>,
    desk: Option<Desk>,
    /// Nothing that a leader says comes here for now.
    deaf: bool,
}

/// Of one that leads, or thinks so.
struct Desk {
    term: u64,
    since: Millis,
    granter: Granter,
    told: bool,
}

enum Message {
    Ask { to: usize, asked: Asked },
    Granted(Grant),
    Beat { from: usize, to: usize, term: u64, round: u64 },
    Ack { to: usize, term: u64, round: u64 },
    Silent { from: usize, to: usize, term: u64 },
    Silence { to: usize, term: u64, age: Millis },
}

struct World {
    rule: Rule,
    random: Seeded,
    at: Millis,
    clocks: Vec<(u64, u64)>,
    voters: Vec<Voter>,
    holder: Holder,
    messages: Vec<(Millis, Message)>,
    leads: usize,
    /// Whom the node asks.
    asks: usize,
    is_down: bool,
    /// Ends that came before a leader had led for as long as a lease lasts.
    early: usize,
}

impl World {
    fn new(rule: Rule, seed: u64) -> World {
        let mut random = Seeded::new(seed);
        let clocks: Vec<_> =
            (0..=VOTERS).map(|_| (random.below(1_000_000), 95 + random.below(11))).collect();
        let voter = |_| Voter {
            term: 0,
            began: 0,
            heard: Vec::new(),
            granted: None,
            desk: None,
            deaf: false,
        };
        let voters = (0..VOTERS).map(voter).collect();
        let holder = Holder::new(LIFE);
        let messages = Vec::new();
        let (at, leads, asks, is_down, early) = (0, 0, 0, false, 0);
        let mut world = World {
            rule,
            random,
            at,
            clocks,
            voters,
            holder,
            messages,
            leads,
            asks,
            is_down,
            early,
        };
        for voter in 0..VOTERS {
            world.voters[voter].began = world.clock(voter);
        }
        world.elect();
        world
    }

    fn clock(&self, of: usize) -> Millis {
        let (origin, rate) = self.clocks[of];
        origin + self.at * rate / 100
    }

    /// Says something that comes within so long, if it comes.
    fn say(&mut self, within: u64, message: Message) {
        let at = self.at + self.random.below(within);
        if self.random.chance(85) {
            self.messages.push((at, message));
        }
    }

    /// Another one is voted for, by one other voter. The third does not know.
    fn elect(&mut self) {
        let leader = self.random.below(VOTERS as u64) as usize;
        let other = (leader + 1 + self.random.below(2) as usize) % VOTERS;
        let term = 1 + self.voters.iter().map(|voter| voter.term).max().expect("three");
        let since = self.clock(leader);
        let mut granter = Granter::new(term, since);
        granter.members([LIFE].into_iter().filter(|_| !self.is_down), since);
        self.voters[leader].term = term;
        self.voters[other].term = term;
        self.voters[leader].desk = Some(Desk { term, since, granter, told: false });
        self.leads = leader;
        if self.random.chance(30) {
            self.asks = leader;
        }
    }

    /// For how long a voter has confirmed nobody but that leader.
    fn silence(&self, of: usize, leader: usize) -> Millis {
        let voter = &self.voters[of];
        let heard = voter.heard.iter().filter(|(from, _)| *from != leader).map(|(_, at)| *at);
        let heard = heard.chain(voter.granted.filter(|_| self.rule != Rule::Selfless)).max();
        let began = if self.rule == Rule::Forgetful { self.clocks[of].0 } else { voter.began };
        self.clock(of) - heard.unwrap_or(began).max(began)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Ask { to, asked } => {
                if let Some(desk) = &mut self.voters[to].desk {
                    let _ = desk.granter.asked(asked);
                }
            }
            Message::Granted(grant) => drop(self.holder.granted(&grant)),
            Message::Beat { from, to, term, round } => {
                let now = self.clock(to);
                let voter = &mut self.voters[to];
                if voter.deaf {
                    return;
                }
                voter.heard.push((from, now));
                if term >= voter.term {
                    voter.term = term;
                    self.say(200, Message::Ack { to: from, term, round });
                }
            }
            Message::Ack { to, term, round } => {
                let now = self.clock(to);
                let Some(desk) = &mut self.voters[to].desk else { return };
                if desk.term != term {
                    return;
                }
                let grants = desk.granter.confirmed(round, 0, now);
                if !grants.is_empty() {
                    self.voters[to].granted = Some(now);
                }
                grants.into_iter().for_each(|grant| self.say(900, Message::Granted(grant)));
            }
            Message::Silent { from, to, term } => {
                if self.voters[to].term >= term || self.rule == Rule::Undecided {
                    let age = self.silence(to, from);
                    self.say(100, Message::Silence { to: from, term, age });
                }
            }
            Message::Silence { to, term, age } => {
                let now = self.clock(to);
                // Itself too, as it was when it began to lead.
                let own = self.voters[to].desk.as_ref().map(|desk| desk.since);
                let Some(since) = own else { return };
                let own = self.silence(to, to).min(now - since + self.own_silence(to, since));
                let Some(desk) = &mut self.voters[to].desk else { return };
                if desk.term == term && !desk.told {
                    desk.told = true;
                    desk.granter.silent_since(now.saturating_sub(age.min(own)));
                }
            }
        }
    }

    /// The silence of a leader itself when it began to lead.
    fn own_silence(&self, of: usize, since: Millis) -> Millis {
        let voter = &self.voters[of];
        let heard = voter.heard.iter().filter(|(_, at)| *at <= since).map(|(_, at)| *at).max();
        let granted = voter.granted.filter(|at| *at <= since && self.rule != Rule::Selfless);
        let began = if self.rule == Rule::Forgetful { self.clocks[of].0 } else { voter.began };
        since - heard.max(granted).unwrap_or(began).max(began)
    }

    fn step(&mut self) {
        self.at += 10;
        if self.random.below(200) == 0 {
            self.elect();
        }
        if self.random.below(300) == 0 {
            let again = self.random.below(VOTERS as u64) as usize;
            let began = self.clock(again);
            let voter = &mut self.voters[again];
            (voter.began, voter.granted, voter.desk) = (began, None, None);
            voter.heard.clear();
        }
        if let Some(asked) = self.holder.ask(self.clock(HOLDER)) {
            self.say(300, Message::Ask { to: self.asks, asked });
        }
        if self.random.below(100) == 0 {
            self.asks = self.random.below(VOTERS as u64) as usize;
        }
        if self.random.below(100) == 0 {
            let one = self.random.below(VOTERS as u64) as usize;
            self.voters[one].deaf = !self.voters[one].deaf;
        }
        for of in 0..VOTERS {
            let Some(desk) = &mut self.voters[of].desk else { continue };
            let (term, told) = (desk.term, desk.told);
            let round = desk.granter.begin_round();
            let others = (0..VOTERS).filter(|to| *to != of);
            for to in others {
                if let Some(round) = round {
                    self.say(300, Message::Beat { from: of, to, term, round });
                }
                if !told && self.rule != Rule::Alone {
                    self.say(100, Message::Silent { from: of, to, term });
                }
            }
            if round.is_none() && self.random.below(30) == 0 {
                // What was asked came to nothing.
                let desk = self.voters[of].desk.as_mut().expect("looked at above");
                let last = desk.granter.round;
                desk.granter.failed(last);
            }
            if !told && self.rule == Rule::Alone {
                let age = self.own_silence(of, self.voters[of].desk.as_ref().expect("it").since);
                self.say(100, Message::Silence { to: of, term, age });
            }
        }
        let (due, later) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at <= self.at);
        self.messages = later;
        due.into_iter().for_each(|(_, message)| self.take(message));
        // Only who leads can commit it.
        let now = self.clock(self.leads);
        if let Some(desk) = &mut self.voters[self.leads].desk
            && !desk.granter.down(now, |_| false).is_empty()
            && !self.is_down
        {
            self.is_down = true;
            self.early += usize::from(now < desk.since + NODE_DOWN_MS);
        }
    }

    /// Whether it served although it was down.
    fn is_broken(&self) -> bool {
        self.is_down && self.holder.hold(self.clock(HOLDER), 0) == Hold::Serving
    }
}

/// Of so many worlds, how many broke, and in how many the end came early.
fn run(rule: Rule, worlds: u64) -> (usize, usize) {
    let (mut broken, mut early) = (0, 0);
    for seed in 0..worlds {
        let mut world = World::new(rule, seed);
        for _ in 0..1_500 {
            world.step();
            if world.is_broken() {
                broken += 1;
                break;
            }
        }
        early += world.early;
    }
    (broken, early)
}

#[test]
fn nobody_serves_when_a_new_leader_goes_by_what_a_majority_has_confirmed() {
    let (broken, early) = run(Rule::Majority, 600);
    assert_eq!(broken, 0, "a node served that was down");
    assert!(early > 50, "only {early} ends came before a new lease's time");
}

#[test]
fn each_hole_in_that_rule_is_found() {
    for rule in [Rule::Alone, Rule::Forgetful, Rule::Undecided, Rule::Selfless] {
        assert!(run(rule, 2_000).0 > 0, "{rule:?} is not found");
    }
}
