//! A run: what a seed decides, nodes and clients, and its end.

use tidegate_codec::Version;

use super::hole::Hole;
use super::meta::Meta;
use super::net::Net;
use super::raft::Group;
use super::running::Running;
use super::stage::Stage;
use crate::check::{self, Failure};
use crate::client::{Client, Role};
use crate::dice::Dice;
use crate::history::{Event, History, NODE};
use crate::world::{Outcome, Stats};
use tidegate_core::ids::PARTITIONS;

/// The wall clock when a run begins.
pub(super) const WALL: u64 = 1_700_000_000_000;

/// What a seed decides before anything happens.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) shards: u16,
    pub(super) rounds: usize,
    pub(super) calm: bool,
    /// What places client ids and topics.
    pub(super) place: u64,
    /// Of ten thousand rounds.
    pub(super) crashes: usize,
    pub(super) pauses: usize,
    pub(super) cuts: usize,
    pub(super) breaks: usize,
    pub(super) elections: usize,
    pub(super) disasters: usize,
    /// In percent: how eager disks, links and tasks are.
    pub(super) eager: usize,
    /// Clients that act in a round, at most.
    pub(super) acts: usize,
    /// Milliseconds that what goes between nodes is under way, at most.
    pub(super) late: usize,
    /// Nodes stand still for longer than leases last.
    pub(super) long_pauses: bool,
}

impl Plan {
    fn new(seed: u64, dice: &mut Dice) -> Plan {
        let calm = seed.is_multiple_of(5);
        let rate = |dice: &mut Dice, most: usize| match calm || dice.chance(30) {
            true => 0,
            false => 1 + dice.below(most),
        };
        Plan {
            nodes: [3, 3, 3, 4, 5][dice.below(5)],
            shards: 1 + dice.below(2) as u16,
            rounds: 500 + dice.below(1_500),
            calm,
            place: dice.roll(),
            crashes: rate(dice, 40),
            pauses: rate(dice, 20),
            cuts: rate(dice, 40),
            breaks: rate(dice, 60),
            elections: rate(dice, 80),
            disasters: rate(dice, 6),
            eager: 25 + dice.below(70),
            acts: 1 + dice.below(3),
            late: 1 + dice.below(8),
            long_pauses: false,
        }
    }
}

impl Plan {
    /// What has to happen often for a hole to show.
    fn favour(&mut self, hole: Hole) {
        match hole {
            Hole::CachedNow => {
                (self.crashes, self.cuts, self.breaks) = (0, 0, 0);
                (self.elections, self.disasters) = (0, 0);
                (self.pauses, self.long_pauses, self.acts) = (150, true, 3);
                self.rounds = 2_000;
            }
            Hole::VotesOutside => {
                (self.elections, self.disasters, self.eager) = (300, 60, 40);
                self.acts = 3;
            }
            Hole::WipedVotes => self.disasters = 20,
            Hole::NoNodeGone => self.crashes = 40,
            Hole::SecondSubscriber => {
                (self.crashes, self.pauses, self.cuts, self.breaks) = (0, 0, 0, 0);
                (self.elections, self.disasters) = (0, 0);
                (self.late, self.acts) = (60, 3);
            }
            Hole::AckBeforeCommit
            | Hole::RetainedLastWriter
            | Hole::LocalQos2
            | Hole::EarlyPacketId
            | Hole::LanesByIncarnation
            | Hole::RoutesWithoutLease => return,
        }
        self.calm = false;
    }
}

/// Where a node can run.
#[derive(Default)]
pub(super) struct Place {
    pub(super) run: Option<Running>,
    /// When the next process starts.
    pub(super) starts_at: Option<u64>,
    pub(super) paused_until: u64,
    /// When its lease was granted last.
    pub(super) granted_at: u64,
    /// What it takes for the time of its next reads, if that is an old one.
    pub(super) stale: Option<u64>,
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) plan: Plan,
    pub(super) hole: Option<Hole>,
    pub(super) favour: Option<Hole>,
    pub(super) stage: Stage,
    pub(super) ms: u64,
    pub(super) places: Vec<Place>,
    pub(super) groups: Vec<Group>,
    pub(super) net: Net,
    pub(super) meta: Meta,
    /// Since when most nodes reach each other.
    pub(super) quorum_since: Option<u64>,
    pub(super) elections_at: u64,
    pub(super) heals: Vec<(u64, usize, usize)>,
    pub(super) clients: Vec<Client>,
    pub(super) history: History,
    pub(super) conns: u32,
    pub(super) stats: Stats,
    pub(super) failures: Vec<Failure>,
    /// What happens is told as it does.
    pub(super) trace: bool,
}

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A hole that is open.
    pub hole: Option<Hole>,
    /// What shows this hole happens often, open or not.
    pub favour: Option<Hole>,
    /// What nodes and links do is told on the way.
    pub trace: bool,
}

/// Runs one seed.
pub fn run(seed: u64, options: Options) -> Outcome {
    let Options { hole, favour, trace } = options;
    tidegate_core::hole::open(hole.and_then(Hole::of_the_core));
    let mut dice = Dice::new(seed ^ 0xc1a5_7e25);
    let mut plan = Plan::new(seed, &mut dice);
    if let Some(favour) = favour {
        plan.favour(favour);
    }
    let mut clients = Vec::new();
    let roles = [
        Role::Durable,
        Role::Durable,
        Role::Ephemeral,
        Role::Watcher,
        Role::Member,
        Role::Durable,
        Role::Expiring,
        Role::Member,
        Role::Ephemeral,
        Role::Watcher,
    ];
    let some = &roles[..3 + dice.below(8)];
    for role in World::cast(favour).unwrap_or(some) {
        clients.push(Client::new(clients.len(), *role, dice.chance(60)));
    }
    let groups = (0..usize::from(PARTITIONS)).map(|p| {
        let voters = (0..3).map(|n| (p + n) % plan.nodes).collect();
        Group::new(plan.nodes, voters, hole == Some(Hole::VotesOutside))
    });
    let mut world = World {
        ms: 0,
        places: (0..plan.nodes).map(|_| Place::default()).collect(),
        groups: groups.collect(),
        net: Net { late: plan.late, ..Net::default() },
        meta: Meta::default(),
        quorum_since: Some(0),
        elections_at: 0,
        heals: Vec::new(),
        clients,
        history: History { calm: plan.calm, cluster: true, ..History::default() },
        conns: 0,
        stats: Stats::default(),
        failures: Vec::new(),
        dice,
        plan,
        hole,
        favour,
        stage: Stage::default(),
        trace,
    };
    // A panic of the core is a broken promise like any other.
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.live())).is_err() {
        world.failures.push(Failure::new("panic", "a node panicked".into()));
    }
    tidegate_core::hole::open(None);
    world.stats.messages = world.history.messages.len() as u64;
    world.stats.events = world.history.entries.len() as u64;
    if world.failures.is_empty() {
        world.failures = check::all(&world.history);
    }
    Outcome { stats: world.stats, history: world.history, failures: world.failures }
}

impl World {
    fn live(&mut self) {
        for at in 0..self.places.len() {
            self.start(at);
        }
        // The first of each partition's replicas leads at first.
        for group in &mut self.groups {
            let first = group.voters()[0];
            group.elect(first, |_| true);
        }
        self.wait_until_served();
        for who in 0..self.clients.len() {
            let run = self.places[0].run.as_ref();
            let p = run.map_or(0, |run| run.core.partition_of_client(&format!("client-{who}")).0);
            self.tell(|| format!("client {who} ({:?}): partition {p}", self.clients[who].role));
        }
        for round in 0..self.plan.rounds {
            self.stats.steps += 1;
            self.faults();
            self.play(round);
            self.round(false);
            if !self.failures.is_empty() {
                return;
            }
        }
        self.heal();
        let ms = self.ms;
        self.history.add(ms, NODE, 0, Event::Heal);
        self.settle();
        if !self.plan.calm && self.failures.is_empty() && self.dice.chance(30) {
            self.all_restart();
            self.heal();
            self.settle();
        }
        if self.failures.is_empty() {
            // Somebody new, who looks at everything that is retained.
            for _ in 0..2 {
                self.clients.push(Client::new(self.clients.len(), Role::Watcher, true));
            }
            self.settle();
        }
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            let line = what();
            #[expect(clippy::print_stdout, reason = "a trace is for a terminal")]
            {
                println!("{:8} {line}", self.ms);
            }
        }
    }

    /// What a client has sent, on its connection.
    pub(super) fn send(&mut self, conn: u32, bytes: &[u8]) {
        for place in &mut self.places {
            if let Some(wire) = place.run.as_mut().and_then(|run| run.node.wire(conn)) {
                wire.up.extend_from_slice(bytes);
                return;
            }
        }
        let of = |client: &&Client| client.line.as_ref().is_some_and(|line| line.conn == conn);
        if let Some(who) = self.clients.iter().find(of).map(|client| client.id) {
            self.history.add(self.ms, who, conn, Event::Unread);
        }
    }

    /// The client's older connections, if any is open, try to go on.
    pub(super) fn haunt(&mut self, who: usize, conn: u32, version: Version) {
        let ghost = self.clients[who].ghost(version);
        for run in self.places.iter_mut().filter_map(|place| place.run.as_mut()) {
            for wire in run.node.wires.values_mut() {
                // One that ends with a farewell says no more.
                let old = wire.client == who && wire.conn != conn && wire.greeted;
                if old && wire.up.is_empty() {
                    wire.up.extend_from_slice(&ghost);
                }
            }
        }
    }
}
