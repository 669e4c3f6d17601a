//! One run: clients, a node, a disk, and chance, which decides what happens
//! next and what goes wrong.

use tidegate_codec::Version;
use tidegate_store::disk::Fault;
use tidegate_store::{Disk, SimDisk};

use crate::check::{self, Failure};
use crate::client::{Client, Pen, Role, Wish};
use crate::dice::Dice;
use crate::history::{Event, History, NODE};
use crate::node::{Arrival, Node};
use crate::plant::Plant;
use crate::store::{StartError, Stop, Store};

/// The wall clock when a run begins.
const WALL: u64 = 1_700_000_000_000;
/// A batch is written after this, whatever chance says.
const WRITE_AFTER_MS: u64 = 400;
/// Rounds in which everything has to come to rest.
const ROUNDS_MAX: usize = 30_000;
/// Attempts to start on a disk that may fail meanwhile.
const STARTS_MAX: usize = 20;
/// What is waited for at the end: longer than wills and expiring sessions take.
const SETTLE_MS: u64 = 20_000;

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Choices of chance.
    pub steps: u64,
    /// Starts after a crash.
    pub restarts: u64,
    /// Faults, crashes among them.
    pub faults: u64,
    /// Messages published.
    pub messages: u64,
    /// Events in the history.
    pub events: u64,
    /// Segments given back.
    pub removed: u64,
}

impl Stats {
    /// Counts another run's as well.
    pub fn add(&mut self, other: &Stats) {
        self.steps += other.steps;
        self.restarts += other.restarts;
        self.faults += other.faults;
        self.messages += other.messages;
        self.events += other.events;
        self.removed += other.removed;
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What happened.
    pub stats: Stats,
    /// What clients saw.
    pub history: History,
    /// The promises that were broken.
    pub failures: Vec<Failure>,
}

/// What a seed decides before anything happens.
#[derive(Clone, Debug)]
struct Plan {
    steps: usize,
    shards: u16,
    calm: bool,
    segment_bytes: u64,
    /// Of a thousand steps.
    crashes: usize,
    disk_faults: usize,
    states: usize,
    compactions: usize,
    slow: usize,
    /// How often the store does its part, against the clients: in percent.
    eager: usize,
}

impl Plan {
    fn new(seed: u64, dice: &mut Dice) -> Plan {
        let calm = seed.is_multiple_of(4);
        Plan {
            steps: 800 + dice.below(3_000),
            shards: 1 + dice.below(3) as u16,
            calm,
            segment_bytes: 4_096 << dice.below(4),
            crashes: if calm { 0 } else { 1 + dice.below(3) },
            disk_faults: if calm { 0 } else { dice.below(3) },
            states: dice.below(12),
            compactions: dice.below(40),
            slow: dice.below(30),
            eager: 10 + dice.below(90),
        }
    }
}

struct World {
    dice: Dice,
    plan: Plan,
    plant: Option<Plant>,
    disk: SimDisk,
    node: Node,
    store: Store,
    clients: Vec<Client>,
    history: History,
    conns: u32,
    /// The true time when the node's clock stood at 0.
    since: i64,
    /// How far the wall clock is behind the true time.
    behind: u64,
    full_until: usize,
    stats: Stats,
    failures: Vec<Failure>,
}

/// Runs one seed.
pub fn run(seed: u64, plant: Option<Plant>) -> Outcome {
    let mut dice = Dice::new(seed ^ 0x51de_ca57);
    let plan = Plan::new(seed, &mut dice);
    let disk = SimDisk::new(dice.roll());
    if plant == Some(Plant::SkipDirSync) {
        disk.skip_dir_syncs();
    }
    let started = Store::start(&disk, plan.shards, WALL, true, plan.segment_bytes, plant);
    let (node, store) = match started {
        Ok(started) => started,
        Err(error) => {
            let failures = vec![Failure::new("start", error.to_string())];
            return Outcome { stats: Stats::default(), history: History::default(), failures };
        }
    };
    let mut clients = Vec::new();
    let roles = [
        Role::Durable,
        Role::Durable,
        Role::Durable,
        Role::Expiring,
        Role::Ephemeral,
        Role::Member,
        Role::Watcher,
        Role::Ephemeral,
        Role::Member,
        Role::Watcher,
        Role::Durable,
        Role::Expiring,
    ];
    for role in &roles[..4 + dice.below(9)] {
        clients.push(Client::new(clients.len(), *role, dice.chance(60)));
    }
    let mut world = World {
        since: -(node.now as i64),
        history: History { calm: plan.calm, ..History::default() },
        dice,
        plan,
        plant,
        disk,
        node,
        store,
        clients,
        conns: 0,
        behind: 0,
        full_until: 0,
        stats: Stats::default(),
        failures: Vec::new(),
    };
    // A panic of core or store is a broken promise like any other.
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.live())).is_err() {
        world.failures.push(Failure::new("panic", "the node panicked".into()));
    }
    world.stats.messages = world.history.messages.len() as u64;
    world.stats.events = world.history.entries.len() as u64;
    world.stats.removed += world.store.removed as u64;
    if world.failures.is_empty() {
        world.failures = check::all(&world.history);
    }
    Outcome { stats: world.stats, history: world.history, failures: world.failures }
}

impl World {
    /// The true time.
    fn ms(&self) -> u64 {
        (self.node.now as i64 + self.since) as u64
    }

    fn live(&mut self) {
        for step in 0..self.plan.steps {
            self.stats.steps += 1;
            if let Err(stop) = self.step(step)
                && !self.stopped(&stop)
            {
                return;
            }
            if !self.failures.is_empty() {
                return;
            }
        }
        self.disk.set_capacity(u64::MAX);
        self.store.stalled = false;
        if !self.plan.calm {
            // With what is still planted in the disk.
            self.disk.reopen();
            self.crash();
        }
        let ms = self.ms();
        self.history.add(ms, NODE, 0, Event::Heal);
        self.settle();
        if !self.plan.calm && self.failures.is_empty() {
            self.disk.crash();
            self.crash();
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

    /// The log has failed, or cannot be opened: the node ends. False: that was
    /// no fault of the disk.
    fn stopped(&mut self, stop: &Stop) -> bool {
        let said = stop.to_string();
        if said.starts_with("BROKEN") {
            self.failures.push(Failure::new("store", said));
            return false;
        }
        self.stats.faults += 1;
        if self.dice.chance(50) {
            self.disk.crash()
        } else {
            self.disk.reopen()
        }
        self.crash();
        true
    }

    fn step(&mut self, step: usize) -> Result<(), Stop> {
        self.arrivals();
        if step == self.full_until {
            self.disk.set_capacity(u64::MAX);
            self.store.stalled = false;
        }
        if self.dice.below(2_000) < self.plan.crashes {
            self.power_or_process_ends();
            return Ok(());
        }
        if self.dice.below(2_000) < self.plan.disk_faults {
            self.fault(step);
        }
        if self.dice.below(1_000) < self.plan.states {
            let partition = self.dice.below(64);
            let shard = partition % self.node.shards.len();
            self.node.shards[shard].write_state(self.node.now, partition as u8);
        }
        if self.dice.below(1_000) < self.plan.compactions {
            for _ in 0..2 {
                self.write_all()?;
                while self.store.answer(&mut self.node, &mut self.dice)? {}
            }
            self.store.note()?;
            self.store.compact(&mut self.node)?;
        }
        if self.store.age(self.node.now) > WRITE_AFTER_MS && !self.store.stalled {
            self.write_all()?;
        }
        match self.dice.below(100) {
            0..25 => {
                let who = self.dice.below(self.clients.len());
                self.client(who, false);
            }
            25..45 => self.network(),
            45..70 => {
                let shard = self.dice.below(self.node.shards.len());
                self.node.turn(shard);
                if self.dice.chance(70) {
                    self.store.take(&mut self.node, shard);
                }
            }
            70..82 => {
                let shard = self.dice.below(self.node.shards.len());
                self.node.mail(shard, &mut self.dice);
            }
            82..96 if self.dice.chance(self.plan.eager) => self.store_step()?,
            82..96 => {}
            _ => self.time()?,
        }
        Ok(())
    }

    fn store_step(&mut self) -> Result<(), Stop> {
        match self.dice.below(10) {
            0..3 => self.store.append(1 + self.dice.below(4))?,
            3..5 => self.store.sync()?,
            5..8 => {
                let shard = self.dice.below(self.node.shards.len());
                self.store.tell(&mut self.node, shard);
            }
            8 => {
                self.store.answer(&mut self.node, &mut self.dice)?;
            }
            _ => self.store.note()?,
        }
        Ok(())
    }

    fn time(&mut self) -> Result<(), Stop> {
        let ms = match self.dice.below(20) {
            0 => 1_000 + self.dice.below(3_000),
            1..4 => self.dice.below(300),
            _ => self.dice.below(10),
        };
        if ms > 100 {
            self.timers();
        }
        if ms > 300 {
            self.write_all()?;
        }
        self.node.now += ms as u64;
        if ms > 100 {
            self.timers();
        }
        Ok(())
    }

    /// Timers go off before anybody comes, and mail takes no seconds: as in a shell.
    fn timers(&mut self) {
        for _ in 0..3 {
            for shard in 0..self.node.shards.len() {
                self.node.turn(shard);
                while self.node.mail(shard, &mut self.dice) {}
            }
        }
    }

    fn write_all(&mut self) -> Result<(), Stop> {
        for shard in 0..self.node.shards.len() {
            self.store.take(&mut self.node, shard);
        }
        self.store.append(usize::MAX)?;
        self.store.sync()?;
        for shard in 0..self.node.shards.len() {
            while self.store.tell(&mut self.node, shard) {}
        }
        Ok(())
    }

    fn network(&mut self) {
        let keys: Vec<(usize, u32)> = self.node.wires.keys().copied().collect();
        if keys.is_empty() {
            return;
        }
        let key = *self.dice.pick(&keys);
        if self.dice.below(300) < self.plan.slow {
            let room = self.dice.below(200);
            self.node.set_room(key, room);
        } else {
            self.node.set_room(key, usize::MAX);
        }
        let bytes = if self.dice.chance(70) { usize::MAX } else { self.dice.below(40) };
        self.node.receive(key, bytes);
    }

    /// Something that the disk does wrong, now or soon.
    fn fault(&mut self, step: usize) {
        self.stats.faults += 1;
        let soon = 1 + self.dice.below(6) as u64;
        match self.dice.below(5) {
            0 => self.disk.plant(soon, Fault::SyncError),
            1 => self.disk.plant(soon, Fault::WriteError),
            2 => self.disk.plant(soon, Fault::PowerCut),
            3 if step >= self.full_until => {
                let used = u64::MAX - self.disk.space().map_or(0, |space| space.free);
                self.disk.set_capacity(used + self.dice.below(6_000) as u64);
                self.history.full = true;
                self.full_until = step + 50 + self.dice.below(300);
            }
            _ => {
                self.store.stalled = true;
                self.history.full = true;
                self.full_until = step + 20 + self.dice.below(200);
            }
        }
    }

    fn power_or_process_ends(&mut self) {
        self.stats.faults += 1;
        if self.dice.chance(60) {
            self.disk.crash()
        } else {
            self.disk.reopen()
        }
        self.crash();
    }

    /// The node is gone without a word, and starts again.
    fn crash(&mut self) {
        let ms = self.ms();
        self.history.add(ms, NODE, 0, Event::Crash);
        self.stats.restarts += 1;
        self.stats.removed += self.store.removed as u64;
        for wire in std::mem::take(&mut self.node.wires).into_values() {
            let mut pen = Pen { history: &mut self.history, ms, conns: &mut self.conns };
            self.clients[wire.client].closed(wire.conn, false, &mut pen);
        }
        for arrival in std::mem::take(&mut self.node.arrivals) {
            // What was said is lost with the node; that it is gone is seen.
            if let Arrival::Closed { client, conn, unread } = arrival {
                let mut pen = Pen { history: &mut self.history, ms, conns: &mut self.conns };
                self.clients[client].closed(conn, unread, &mut pen);
            }
        }
        let wait = match self.dice.below(4) {
            0 => self.dice.below(8_000) as u64,
            _ => self.dice.below(300) as u64,
        };
        if self.dice.chance(5) {
            self.behind += self.dice.below(5_000) as u64;
            self.history.clock_back = true;
        }
        let ms = ms + wait;
        if self.dice.chance(50) {
            self.plan.shards = 1 + self.dice.below(3) as u16;
        }
        let (shards, segment) = (self.plan.shards, self.plan.segment_bytes);
        for attempt in 0..STARTS_MAX {
            // A disk that fails while the log is read back.
            if attempt < 3 && !self.plan.calm && self.dice.chance(25) {
                let soon = 1 + self.dice.below(6) as u64;
                self.disk.plant(soon, Fault::PowerCut);
                self.stats.faults += 1;
            }
            let wall = WALL + ms - self.behind;
            match Store::start(&self.disk, shards, wall, false, segment, self.plant) {
                Ok((node, store)) => {
                    self.since = ms as i64 - node.now as i64;
                    (self.node, self.store) = (node, store);
                    self.history.add(ms, NODE, 0, Event::Restart);
                    self.timers();
                    return;
                }
                Err(error) if error.is_io() => self.disk.crash(),
                Err(error @ (StartError::Open(_) | StartError::Read(_))) => {
                    return self.failures.push(Failure::new("start", error.to_string()));
                }
                Err(error @ StartError::Record { .. }) => {
                    return self.failures.push(Failure::new("start", error.to_string()));
                }
            }
        }
        self.failures.push(Failure::new("start", "the disk fails for ever".into()));
    }

    fn client(&mut self, who: usize, finish: bool) -> bool {
        let ms = self.ms();
        let client = &mut self.clients[who];
        let before = client.line.as_ref().map(|line| line.conn);
        let mut pen = Pen { history: &mut self.history, ms, conns: &mut self.conns };
        let wish = match finish {
            true => client.finish(&mut self.dice, &mut pen),
            false => client.act(&mut self.dice, &mut pen),
        };
        match (wish, before) {
            (Wish::Rest, _) => return false,
            (Wish::Send(bytes), Some(conn)) => self.send(conn, &bytes),
            (Wish::Leave(bytes), Some(conn)) => {
                self.send(conn, &bytes);
                self.clients[who].line = None;
            }
            (Wish::Abort, Some(conn)) => {
                let heard = if self.dice.chance(50) { usize::MAX } else { self.dice.below(60) };
                self.clients[who].line = None;
                self.node.abort(conn, heard);
            }
            (Wish::Connect(bytes, version), _) => self.connect(who, &bytes, version),
            (Wish::Send(_) | Wish::Leave(_) | Wish::Abort, None) => return false,
        }
        true
    }

    fn connect(&mut self, who: usize, bytes: &[u8], version: Version) {
        let shard = self.dice.below(self.node.shards.len());
        let Some(conn) = self.clients[who].line.as_ref().map(|line| line.conn) else { return };
        if self.node.open(shard, who, conn, version) {
            self.send(conn, bytes);
        } else {
            self.clients[who].line = None;
        }
    }

    fn send(&mut self, conn: u32, bytes: &[u8]) {
        if let Some(wire) = self.node.wire(conn) {
            wire.up.extend_from_slice(bytes);
        }
    }

    /// What reached the clients' hosts.
    fn arrivals(&mut self) -> bool {
        let mut any = false;
        while let Some(arrival) = self.node.arrivals.pop_front() {
            any = true;
            let ms = self.ms();
            let mut pen = Pen { history: &mut self.history, ms, conns: &mut self.conns };
            match arrival {
                Arrival::Closed { client, conn, unread } => {
                    self.clients[client].closed(conn, unread, &mut pen);
                }
                Arrival::Packet { client: who, conn, version, bytes } => {
                    let client = &mut self.clients[who];
                    let was = client.line.as_ref().is_some_and(|line| line.connacked);
                    let answer = client.hear(conn, version, &bytes, &mut pen);
                    let is = client.line.as_ref().is_some_and(|line| line.connacked);
                    if let Some(answer) = answer {
                        self.send(conn, &answer);
                    }
                    if is && !was {
                        if let Some(wire) = self.node.wire(conn) {
                            wire.greeted = true;
                        }
                        if self.dice.chance(50) {
                            self.haunt(who, conn, version);
                        }
                    }
                }
            }
        }
        any
    }

    /// The client's older connections, if any is open, try to go on.
    fn haunt(&mut self, who: usize, conn: u32, version: Version) {
        let ghost = self.clients[who].ghost(version);
        for wire in self.node.wires.values_mut() {
            // One that ends with a farewell says no more.
            let old = wire.client == who && wire.conn != conn && wire.greeted;
            if old && wire.up.is_empty() {
                wire.up.extend_from_slice(&ghost);
            }
        }
    }

    /// Everything comes to rest, and everybody who can has what is owed.
    fn settle(&mut self) {
        let end = self.node.now + SETTLE_MS;
        let mut end = end as i64 + self.since;
        for _ in 0..ROUNDS_MAX {
            match self.round() {
                Ok(true) => {}
                Ok(false) if self.ms() as i64 >= end => break,
                Ok(false) => self.node.now += 250,
                Err(stop) => {
                    if !self.stopped(&stop) {
                        return;
                    }
                    end = self.ms() as i64 + SETTLE_MS as i64;
                }
            }
            if !self.failures.is_empty() {
                return;
            }
        }
        let restless = self.clients.iter().find(|client| !client.is_content());
        if let Some(client) = restless {
            let reason = format!("an answer never came: {}", client.wants());
            self.failures.push(Failure::new("alive", reason).of_client(client.id));
        } else if !self.node.is_quiet() || !self.store.is_quiet() {
            self.failures.push(Failure::new("alive", "the node does not come to rest".into()));
        }
    }

    /// Everybody does once what there is to do; whether anything was done.
    fn round(&mut self) -> Result<bool, Stop> {
        let mut busy = self.arrivals();
        for who in 0..self.clients.len() {
            busy |= self.client(who, true);
        }
        let keys: Vec<(usize, u32)> = self.node.wires.keys().copied().collect();
        for key in keys {
            let wire = &self.node.wires[&key];
            if wire.room != usize::MAX {
                busy = true;
                self.node.set_room(key, usize::MAX);
            }
            if self.node.wires.get(&key).is_some_and(|wire| !wire.up.is_empty()) {
                busy = true;
                self.node.receive(key, usize::MAX);
            }
        }
        for shard in 0..self.node.shards.len() {
            busy |= self.node.turn(shard);
            while self.node.mail(shard, &mut self.dice) {
                busy = true;
            }
            self.store.take(&mut self.node, shard);
        }
        busy |= !self.store.is_quiet();
        self.store.append(usize::MAX)?;
        self.store.sync()?;
        for shard in 0..self.node.shards.len() {
            while self.store.tell(&mut self.node, shard) {}
        }
        while self.store.answer(&mut self.node, &mut self.dice)? {}
        self.store.note()?;
        Ok(busy)
    }
}
