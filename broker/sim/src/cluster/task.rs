//! What a node does besides its shards: it follows its Raft groups, the metadata
//! and the links, says to the shards what has become of partitions and members,
//! and exchanges routes. As `broker/src/replication` does it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use tidegate_cluster::ids::{self, Life};
use tidegate_cluster::limits::ROUTE_SWEEP_MAX;
use tidegate_cluster::routes::{self, Call, Exchange, Own, Target};
use tidegate_core::ids::{Member, Millis, PARTITIONS, PartitionId, ShardId};
use tidegate_core::index::{Index, Remote, RemoteWalk, RouteChange};

use super::meta::{Known, View};
use super::net::Load;
use super::raft::{Group, Step};
use super::running::{Outside, Running, Said, Word};

/// How often leaders are told again.
const LOOK_MS: u64 = 1_000;
/// Entries after which a snapshot is taken, by chance.
const SNAPSHOT_ENTRIES: usize = 6;

/// That a shard leads a partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Home {
    p: u8,
    term: u64,
    shard: ShardId,
}

/// Something that the task learns of.
#[derive(Clone, Debug)]
pub(super) enum Notice {
    Up(u16, u64),
    Down(u16),
    Homes(u16, u16, Rc<[Home]>),
    /// The metadata has changed: who is gone, who is new.
    Meta(Vec<u16>, Vec<u16>),
}

/// What the task of routes learns of.
#[derive(Clone, Debug)]
pub(super) enum RouteNotice {
    Up(Life, u16, u64),
    Down(Life),
    Gone(Life),
    Said(Life, Vec<u8>),
    Serving(Vec<Life>),
}

/// Both tasks of a node.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) notices: VecDeque<Notice>,
    /// Terms in which this node leads, as its shards were told.
    led: Vec<Option<u64>>,
    homes: Vec<Option<Home>>,
    /// Proposals that are not committed, by partition: the index.
    pending: Vec<VecDeque<usize>>,
    failed: VecDeque<(u8, u64)>,
    peers: BTreeMap<u16, u64>,
    /// Links, as those who sort what comes know them.
    up: BTreeMap<u16, (Life, u64)>,
    look_at: u64,
    pub(super) view: View,
    exchange: Exchange,
    walk: RemoteWalk,
    pub(super) routes: VecDeque<RouteNotice>,
    route_peers: BTreeMap<Life, u64>,
    passed: u64,
    covered: Option<Millis>,
    next_routes: Millis,
    more: bool,
    /// A snapshot is being written.
    writing: BTreeSet<u8>,
    /// What a quorum is to say, by shard.
    pub(super) proofs: Vec<(usize, u64)>,
    /// Publishes are acknowledged whatever is known of others.
    pub(super) without_lease: bool,
    /// Proposals fail now and then, or are given up while they are on their way.
    pub(super) fickle: bool,
    /// An entry counts as committed when it was proposed.
    pub(super) hasty: bool,
    early: BTreeSet<(u8, usize)>,
}

impl Task {
    pub(super) fn new(seed: u64) -> Task {
        let all = usize::from(PARTITIONS);
        Task {
            notices: VecDeque::new(),
            led: vec![None; all],
            homes: vec![None; all],
            pending: vec![VecDeque::new(); all],
            failed: VecDeque::new(),
            peers: BTreeMap::new(),
            up: BTreeMap::new(),
            look_at: 0,
            view: View::default(),
            exchange: Exchange::new(seed, PARTITIONS),
            walk: RemoteWalk::default(),
            routes: VecDeque::new(),
            route_peers: BTreeMap::new(),
            passed: 0,
            covered: None,
            next_routes: 0,
            more: false,
            writing: BTreeSet::new(),
            proofs: Vec::new(),
            without_lease: false,
            fickle: false,
            hasty: false,
            early: BTreeSet::new(),
        }
    }

    /// Until when all routes are known, or whose are not.
    pub(super) fn known(&self) -> String {
        match self.exchange.covered_until(Millis::MAX) {
            Ok(until) => format!("until {until}"),
            Err(error) => error.to_string(),
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.notices.is_empty() && self.routes.is_empty() && self.failed.is_empty() && !self.more
    }
}

impl Running {
    /// Whether it knows a leader of each partition.
    pub(super) fn may_serve(&self) -> bool {
        (0..PARTITIONS).all(|p| self.core.home(PartitionId(p as u8)).is_some())
    }

    pub(super) fn knows(&self, member: u16, life: Life) -> bool {
        self.task.view.get(member).is_some_and(|known| known.life == life)
    }

    /// What the links of a node say, in their order.
    pub(super) fn link_up(&mut self, member: u16, life: Life, session: u64) {
        self.tell(|| format!("link {session} to member {member}"));
        if self.task.up.insert(member, (life, session)).is_some() {
            self.tell_all(&Word::MemberLost(member));
        }
        self.tell_all(&Word::MemberUp(member, session));
        self.task.notices.push_back(Notice::Up(member, session));
        self.task.routes.push_back(RouteNotice::Up(life, member, session));
    }

    pub(super) fn link_down(&mut self, member: u16) {
        self.tell(|| format!("no link to member {member}"));
        self.tell_all(&Word::MemberLost(member));
        self.task.notices.push_back(Notice::Down(member));
        if let Some((life, _)) = self.task.up.remove(&member) {
            self.task.routes.push_back(RouteNotice::Down(life));
        }
    }

    pub(super) fn arrived(&mut self, member: u16, load: Load) {
        match load {
            Load::Mail(body) => self.deliver(member, &body),
            Load::Routes(bytes) => {
                if let Some((life, _)) = self.task.up.get(&member) {
                    self.task.routes.push_back(RouteNotice::Said(*life, bytes));
                }
            }
            Load::Homes(shards, homes) => {
                self.task.notices.push_back(Notice::Homes(member, shards, homes));
            }
        }
    }

    /// The node has seen more of the metadata.
    pub(super) fn see(&mut self, gone: &[Known], new: &[u16]) {
        let own = self.member.0;
        let gone: Vec<Known> = gone.iter().copied().filter(|known| known.member != own).collect();
        for known in &gone {
            self.task.routes.push_back(RouteNotice::Gone(known.life));
        }
        let members = &self.task.view.members;
        let serving = members.iter().filter(|known| known.serves && known.member != own);
        let serving = serving.map(|known| known.life).collect();
        self.task.routes.push_back(RouteNotice::Serving(serving));
        let gone = gone.iter().map(|known| known.member).collect();
        self.task.notices.push_back(Notice::Meta(gone, new.to_vec()));
    }

    /// The next thing that the task of partitions does; false: nothing.
    pub(super) fn work(&mut self, groups: &mut [Group], out: &mut Outside<'_>) -> bool {
        if let Some(notice) = self.task.notices.pop_front() {
            self.notice(notice, out);
            return true;
        }
        if let Some((p, term)) = self.task.failed.pop_front() {
            if self.task.led[usize::from(p)] == Some(term) {
                self.demote(p, groups);
            }
            return true;
        }
        if let Some(said) = self.said.pop_front() {
            self.heard(said, groups, out);
            return true;
        }
        if self.task.look_at <= out.ms {
            self.task.look_at = out.ms + LOOK_MS;
            let homes = self.own_homes();
            for session in self.task.peers.values() {
                let load = Load::Homes(self.core.shards(), Rc::clone(&homes));
                let due = out.ms + out.dice.below(out.net.late + 1) as u64;
                out.net.send(*session, self.at, load, due);
            }
        }
        false
    }

    fn heard(&mut self, said: Said, groups: &mut [Group], out: &mut Outside<'_>) {
        match said {
            Said::Propose(p, term, payload) => {
                if self.task.led[usize::from(p)] != Some(term) {
                    return;
                }
                let group = &mut groups[usize::from(p)];
                // Too much is on its way, now and then.
                let busy = self.task.fickle && out.dice.below(1_000) == 0;
                let index = match busy {
                    true => None,
                    false => group.propose(self.at, Rc::clone(&payload)),
                };
                match index {
                    Some(index) => {
                        self.task.pending[usize::from(p)].push_back(index);
                        if self.task.hasty {
                            self.task.early.insert((p, index));
                            self.say(p, Word::Committed(p, index, payload));
                        }
                        // It is in the log, and nobody waited so long.
                        if self.task.fickle && out.dice.below(1_000) == 0 {
                            self.task.failed.push_back((p, term));
                        }
                    }
                    None => self.task.failed.push_back((p, term)),
                }
            }
            Said::Deposed(p, term) => {
                if self.task.led[usize::from(p)] == Some(term) {
                    self.demote(p, groups);
                }
            }
            Said::Prove(shard, partitions) => self.task.proofs.push((shard, partitions)),
            Said::Promoted(p, term) => self.promoted(p, term, out),
            Said::Image(p, index, image) => {
                self.task.writing.remove(&p);
                let bytes = Rc::clone(&image.bytes);
                groups[usize::from(p)].snapshot(self.at, index, bytes);
                self.say(p, Word::Saved(p, index, image));
            }
        }
    }

    /// A group of the node goes on: entries are applied, and who leads is seen.
    pub(super) fn follow(&mut self, p: u8, group: &mut Group, out: &mut Outside<'_>) -> bool {
        let mut busy = false;
        while let Some(step) = group.next(self.at) {
            busy = true;
            match step {
                Step::Install(image) => {
                    self.say(p, Word::Reset(p));
                    self.say(p, Word::Install(p, image));
                    self.task.writing.remove(&p);
                }
                Step::Apply(payload) => {
                    let index = group.applied(self.at);
                    if !self.task.early.remove(&(p, index)) {
                        self.say(p, Word::Committed(p, index, payload));
                    }
                }
            }
        }
        let at = usize::from(p);
        let applied = group.applied(self.at);
        while self.task.pending[at].front().is_some_and(|&index| index <= applied) {
            self.task.pending[at].pop_front();
        }
        if !group.is_leading(self.at) && !self.task.pending[at].is_empty() {
            self.task.pending[at].clear();
            if let Some(term) = self.task.led[at] {
                self.task.failed.push_back((p, term));
            }
        }
        let leads = group.leads(self.at);
        match (self.task.led[at], leads) {
            (Some(led), Some(term)) if led == term => {}
            (Some(_), _) if out.dice.chance(70) => {
                busy = true;
                self.demote_in(p, group);
            }
            (Some(_), _) => {}
            (None, Some(term)) => {
                busy = true;
                self.promote(p, term);
            }
            (None, None) => {}
        }
        // One that was reset meanwhile has nothing of it yet.
        if applied > 0
            && out.dice.below(SNAPSHOT_ENTRIES * 40) == 0
            && busy
            && group.applied(self.at) == applied
            && self.task.writing.insert(p)
        {
            self.say(p, Word::Snapshot(p, applied));
        }
        busy
    }

    /// Whether its shards believe something else than the group says.
    pub(super) fn is_astray(&self, p: u8, group: &Group) -> bool {
        self.task.led[usize::from(p)] != group.leads(self.at)
    }

    fn promote(&mut self, p: u8, term: u64) {
        self.task.led[usize::from(p)] = Some(term);
        if term > 1 {
            self.tell(|| format!("leads partition {p} in term {term}"));
        }
        self.say(p, Word::Promote(p, term));
    }

    /// The shard leads: now everybody may know.
    fn promoted(&mut self, p: u8, term: u64, out: &mut Outside<'_>) {
        if self.task.led[usize::from(p)] != Some(term) {
            return;
        }
        let shard = self.core.place(PartitionId(p));
        let home = Home { p, term, shard };
        self.learn(home);
        let homes: Rc<[Home]> = Rc::from([home]);
        for session in self.task.peers.values() {
            let load = Load::Homes(self.core.shards(), Rc::clone(&homes));
            let due = out.ms + out.dice.below(out.net.late + 1) as u64;
            out.net.send(*session, self.at, load, due);
        }
    }

    fn demote(&mut self, p: u8, groups: &mut [Group]) {
        self.demote_in(p, &mut groups[usize::from(p)]);
    }

    fn demote_in(&mut self, p: u8, group: &mut Group) {
        let at = usize::from(p);
        if self.task.led[at].take().is_none() {
            return;
        }
        let own = self.core.place(PartitionId(p));
        let was_home = self.core.home(PartitionId(p)) == Some(own);
        self.tell(|| format!("leads partition {p} no more, was its home: {was_home}"));
        if was_home {
            self.core.set_home(PartitionId(p), None);
        }
        self.task.pending[at].clear();
        self.task.writing.remove(&p);
        self.task.early.retain(|(of, _)| *of != p);
        self.say(p, Word::Reset(p));
        if was_home {
            self.tell_all(&Word::HomeMoved(p));
        }
        group.reopen(self.at, false);
    }

    fn own_homes(&self) -> Rc<[Home]> {
        let own = |home: &Home| home.shard.member() == self.member;
        self.task.homes.iter().flatten().copied().filter(own).collect()
    }

    fn learn(&mut self, home: Home) {
        let known = &mut self.task.homes[usize::from(home.p)];
        let news = known.is_none_or(|known| {
            home.term > known.term || (home.term == known.term && home.shard != known.shard)
        });
        if news {
            *known = Some(home);
            if home.term > 1 {
                self.tell(|| format!("knows that partition {} is at {:?}", home.p, home.shard));
            }
            self.set_home(home.p, Some(home.shard));
        }
    }

    fn set_home(&mut self, p: u8, home: Option<ShardId>) {
        self.core.set_home(PartitionId(p), home);
        self.tell_all(&Word::HomeMoved(p));
    }

    fn notice(&mut self, notice: Notice, out: &mut Outside<'_>) {
        match notice {
            Notice::Up(member, session) => {
                let load = Load::Homes(self.core.shards(), self.own_homes());
                out.net.send(session, self.at, load, out.ms);
                self.task.peers.insert(member, session);
            }
            Notice::Down(member) => {
                self.task.peers.remove(&member);
            }
            Notice::Homes(member, shards, homes) => {
                self.core.peer_up(Member(member), shards);
                for home in homes.iter().filter(|home| home.shard.member() == Member(member)) {
                    self.learn(*home);
                }
            }
            Notice::Meta(gone, new) => {
                self.alive = self.task.view.members.iter().map(|known| known.member).collect();
                for member in gone {
                    self.tell(|| format!("member {member} is gone"));
                    self.core.peer_gone(Member(member));
                    for at in 0..self.task.homes.len() {
                        let Some(home) = &mut self.task.homes[at] else { continue };
                        if home.shard.member() == Member(member) {
                            home.shard = ShardId::of(Member::ALONE, 0);
                            let p = home.p;
                            self.set_home(p, None);
                        }
                    }
                    self.tell_all(&Word::MemberGone(member));
                }
                for member in new {
                    self.tell_all(&Word::MemberNew(member));
                }
            }
        }
    }

    /// A step of the task of routes; whether it did anything.
    pub(super) fn exchange(&mut self, out: &mut Outside<'_>) -> bool {
        let now = self.node.now;
        let task = &mut self.task;
        let idle = task.routes.is_empty() && !self.core.index.has_changes() && !task.more;
        if idle && now < task.next_routes {
            return false;
        }
        let busy = !idle;
        while let Some(notice) = task.routes.pop_front() {
            match notice {
                RouteNotice::Up(life, member, session) => {
                    task.exchange.up(life, member);
                    task.route_peers.insert(life, session);
                }
                RouteNotice::Down(life) => {
                    task.exchange.down(life);
                    task.route_peers.remove(&life);
                }
                RouteNotice::Gone(life) => {
                    task.exchange.gone(life);
                    task.route_peers.remove(&life);
                }
                RouteNotice::Said(life, bytes) => {
                    let (filters, held) = self.core.index.remotes();
                    task.exchange.kept(filters, held);
                    if task.exchange.read(life, &bytes, now).is_err()
                        && let Some(session) = task.route_peers.get(&life)
                        && let Some(session) = out.net.sessions.get_mut(session)
                    {
                        session.sever([0, 0], [out.ms, out.ms]);
                    }
                }
                RouteNotice::Serving(lives) => task.exchange.serving(lives.into_iter()),
            }
        }
        for (ticket, change) in self.core.index.take_changes(1_024) {
            task.exchange.own(ticket, &own(change), now);
        }
        while let Some(call) = task.exchange.next_call() {
            make(&self.core.index, &task.exchange, &call);
        }
        if task.exchange.walk() {
            let is_void = |remote, epoch| task.exchange.is_void(target(remote), epoch);
            if !self.core.index.sweep_remotes(&mut task.walk, ROUTE_SWEEP_MAX, is_void) {
                task.exchange.walked();
            }
        }
        task.more = task.exchange.walk();
        task.exchange.tick(now);
        for (life, session) in &task.route_peers {
            while let Some(word) = task.exchange.write(*life, now) {
                let due = out.ms + out.dice.below(out.net.late + 1) as u64;
                out.net.send(*session, self.at, Load::Routes(word), due);
            }
        }
        let passed = task.exchange.passed(now);
        let mut covered = task.exchange.covered_until(self.lease_until).ok();
        if task.without_lease {
            covered = Some(Millis::MAX);
        }
        let may_go_on = passed != task.passed
            || (covered.is_some_and(|until| now < until)
                && task.covered.is_none_or(|until| until <= now));
        self.core.set_covered(covered);
        task.covered = covered;
        let passing = task.exchange.next_passing(now).unwrap_or(Millis::MAX);
        task.next_routes = passing.min(now + 100).max(now + 1);
        if passed != task.passed {
            task.passed = passed;
            self.core.index.pass(passed);
        }
        if may_go_on {
            self.tell_all(&Word::RoutesMoved);
        }
        busy
    }
}

/// Tells the index what others have.
fn make(index: &Index, exchange: &Exchange, Call { target, filter, said }: &Call) {
    let remote = match target {
        Target::Node(member) => Remote::Node(Member(*member)),
        Target::Partition(p) => Remote::Partition(PartitionId(p.0 as u8)),
    };
    match said {
        routes::Said::Has(epoch) => _ = index.set_remote(remote, filter, Some(*epoch)),
        routes::Said::HasNot => _ = index.set_remote(remote, filter, None),
        routes::Said::Had(epoch) => {
            let is_void = |epoch| exchange.is_void(*target, epoch);
            index.settle_remote(remote, filter, *epoch, is_void);
        }
    }
}

fn target(remote: Remote) -> Target {
    match remote {
        Remote::Node(member) => Target::Node(member.0),
        Remote::Partition(partition) => Target::Partition(ids::PartitionId(partition.0.into())),
    }
}

fn own(change: RouteChange) -> Own {
    let number = |partition: PartitionId| ids::PartitionId(u16::from(partition.0));
    match change {
        RouteChange::Appeared { of, filter } => Own::Appeared { of: of.map(number), filter },
        RouteChange::Vanished { of, filter } => Own::Vanished { of: of.map(number), filter },
        RouteChange::Led { partition, index } => Own::Led { partition: number(partition), index },
        RouteChange::Followed(partition) => Own::Followed(number(partition)),
    }
}
