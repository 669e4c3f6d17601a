//! A round: everything moves a little.

use tidegate_core::ids::{PARTITIONS, PartitionId};

use super::hole::Hole;
use super::meta::{Fact, Known};
use super::running::{Outside, Running, Word};
use super::world::{WALL, World};
use crate::check::Failure;
use crate::client::{Pen, Wish};
use crate::node::{Arrival, START, Wire};

/// A node is told its lease at least so often.
const RENEW_MS: u64 = 400;
/// Without one it is down after this.
const DOWN_MS: u64 = 2_500;
/// A link that is silent breaks after this.
const SILENT_MS: u64 = 1_500;
/// How often elections are looked at.
const ELECTIONS_MS: u64 = 20;

impl World {
    /// One round; `settles`: nobody is slow any more. Whether anything was done.
    pub(super) fn round(&mut self, settles: bool) -> bool {
        self.clocks();
        self.stale_reads();
        let mut busy = self.arrivals();
        busy |= self.sessions(settles);
        self.metadata();
        for at in 0..self.places.len() {
            if self.is_awake(at) && (settles || self.dice.chance(85)) {
                busy |= self.node(at, settles);
            }
        }
        busy |= self.consensus(settles);
        if !settles {
            for _ in 0..self.dice.below(self.plan.acts + 1) {
                let who = self.dice.below(self.clients.len());
                self.client(who, false);
            }
            self.ms += match self.dice.below(100) {
                0..80 => self.dice.below(6),
                80..99 => self.dice.below(40),
                _ => self.dice.below(300),
            } as u64;
        }
        busy
    }

    fn clocks(&mut self) {
        for at in 0..self.places.len() {
            if self.is_awake(at) {
                let ms = self.ms;
                if let Some(run) = &mut self.places[at].run {
                    run.set_clock(ms);
                }
            }
            if self.places[at].starts_at.is_some_and(|starts| starts <= self.ms)
                && self.reaches_most(at)
            {
                self.start(at);
            }
        }
        for (until, from, to) in std::mem::take(&mut self.heals) {
            if until > self.ms {
                self.heals.push((until, from, to));
            } else {
                self.net.cut.remove(&(from, to));
            }
        }
    }

    /// A node that stood still in the middle of a turn reads on with its time.
    fn stale_reads(&mut self) {
        for at in 0..self.places.len() {
            if !self.is_awake(at) {
                continue;
            }
            let Some(stale) = self.places[at].stale.take() else { continue };
            let Some(run) = &mut self.places[at].run else { continue };
            let now = std::mem::replace(&mut run.node.now, stale);
            let keys: Vec<(usize, u32)> = run.node.wires.keys().copied().collect();
            keys.into_iter().for_each(|key| run.node.receive(key, usize::MAX));
            run.node.now = now;
        }
    }

    pub(super) fn is_awake(&self, at: usize) -> bool {
        self.places[at].run.is_some() && self.places[at].paused_until <= self.ms
    }

    /// Whether a question goes and an answer comes.
    pub(super) fn reaches(&self, a: usize, b: usize) -> bool {
        a == b
            || (self.is_awake(a)
                && self.is_awake(b)
                && !self.net.is_cut(a, b)
                && !self.net.is_cut(b, a))
    }

    /// Whether the machine of a node, with whatever runs there, reaches most.
    fn reaches_most(&self, at: usize) -> bool {
        let ways = (0..self.places.len()).filter(|&other| {
            other != at
                && self.places[other].paused_until <= self.ms
                && !self.net.is_cut(at, other)
                && !self.net.is_cut(other, at)
        });
        2 * (ways.count() + 1) > self.places.len()
    }

    /// A process begins and becomes a member.
    pub(super) fn start(&mut self, at: usize) {
        let known = self.meta.join(at);
        self.places[at].starts_at = None;
        self.places[at].granted_at = self.ms;
        let mut run = Running::new(&known, self.plan.shards, self.plan.place, WALL, self.ms);
        run.forget_gone = self.hole == Some(Hole::NoNodeGone);
        run.task.without_lease = self.hole == Some(Hole::RoutesWithoutLease);
        run.trace = self.trace;
        run.task.fickle = !self.plan.calm;
        run.task.hasty = self.hole == Some(Hole::AckBeforeCommit);
        for fact in self.meta.facts.clone() {
            run.task.view.take(fact);
        }
        let new: Vec<u16> = run.task.view.members.iter().map(|known| known.member).collect();
        run.see(&[], &new);
        self.places[at].run = Some(run);
        for group in &mut self.groups {
            if group.voters().contains(&at) {
                group.reopen(at, true);
            }
        }
        self.tell(|| format!("node {at} is member {}", known.member));
    }

    /// What reached the clients' hosts.
    pub(super) fn arrivals(&mut self) -> bool {
        let mut any = false;
        for at in 0..self.places.len() {
            while let Some(arrival) =
                self.places[at].run.as_mut().and_then(|run| run.node.arrivals.pop_front())
            {
                any = true;
                self.arrival(arrival);
            }
        }
        any
    }

    pub(super) fn arrival(&mut self, arrival: Arrival) {
        let mut pen = Pen { history: &mut self.history, ms: self.ms, conns: &mut self.conns };
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
                    let runs = self.places.iter_mut().filter_map(|place| place.run.as_mut());
                    if let Some(wire) = runs.filter_map(|run| run.node.wire(conn)).next() {
                        wire.greeted = true;
                    }
                    if self.dice.chance(50) {
                        self.haunt(who, conn, version);
                    }
                }
            }
        }
    }

    /// A node's tasks and shards.
    fn node(&mut self, at: usize, settles: bool) -> bool {
        let reached: Vec<bool> =
            (0..self.places.len()).map(|other| self.reaches(at, other)).collect();
        let Some(mut run) = self.places[at].run.take() else { return false };
        let mut busy = self.prove(&mut run, &reached);
        let eager = if settles { 100 } else { self.plan.eager };
        let mut out = Outside { net: &mut self.net, dice: &mut self.dice, ms: self.ms };
        for _ in 0..if settles { 64 } else { 4 } {
            if !out.dice.chance(eager) || !run.work(&mut self.groups, &mut out) {
                break;
            }
            busy = true;
        }
        if out.dice.chance(eager) {
            busy |= run.exchange(&mut out);
        }
        for shard in 0..run.node.shards.len() {
            if !out.dice.chance(eager.max(60)) {
                continue;
            }
            let keys: Vec<(usize, u32)> =
                run.node.wires.range((shard, 0)..=(shard, u32::MAX)).map(|(k, _)| *k).collect();
            for key in keys {
                let wire = &run.node.wires[&key];
                if wire.up.is_empty() || !(settles || out.dice.chance(80)) {
                    continue;
                }
                busy = true;
                let bytes = match settles || out.dice.chance(90) {
                    true => usize::MAX,
                    false => out.dice.below(40),
                };
                run.node.receive(key, bytes);
            }
            let words = if settles { usize::MAX } else { out.dice.below(24) };
            busy |= run.turn(shard, words, &mut out);
            while run.node.mail(shard, out.dice) {
                busy = true;
                if !out.dice.chance(eager) {
                    break;
                }
            }
        }
        let ends = run.ends;
        self.places[at].run = Some(run);
        if let Some(why) = ends {
            self.failures.push(Failure::new("node", format!("node {at}: {why}")));
        }
        busy
    }

    /// A quorum says, or does not, that a node still leads.
    fn prove(&mut self, run: &mut Running, reached: &[bool]) -> bool {
        let mut busy = false;
        for (shard, asked) in std::mem::take(&mut run.task.proofs) {
            busy = true;
            let mut proven = 0;
            for p in (0..PARTITIONS as u8).filter(|p| asked & PartitionId(*p).bit() != 0) {
                let group = &mut self.groups[usize::from(p)];
                if group.proves(run.at, |voter| reached[voter]) {
                    proven |= PartitionId(p).bit();
                    let mut out = Outside { net: &mut self.net, dice: &mut self.dice, ms: self.ms };
                    run.follow(p, group, &mut out);
                }
            }
            run.say_to(shard, Word::Proven(proven));
        }
        busy
    }

    /// Links between nodes: they come, carry, fall silent and break.
    fn sessions(&mut self, settles: bool) -> bool {
        let mut busy = false;
        let ids: Vec<u64> = self.net.sessions.keys().copied().collect();
        for id in ids {
            for n in 0..2 {
                busy |= self.end(id, n, settles);
            }
            let over = self.net.sessions.get(&id).is_some_and(|s| s.ends.iter().all(|e| e.over));
            if over {
                self.net.sessions.remove(&id);
            }
        }
        for a in 0..self.places.len() {
            for b in 0..a {
                let (Some(one), Some(two)) = (&self.places[a].run, &self.places[b].run) else {
                    continue;
                };
                let ends = [(a, one.member.0), (b, two.member.0)];
                if self.reaches(a, b)
                    && self.net.between(a, b).is_none()
                    && (settles || self.dice.chance(20))
                {
                    self.net.open(ends);
                    busy = true;
                }
            }
        }
        busy
    }

    /// One end of a session.
    fn end(&mut self, id: u64, n: usize, settles: bool) -> bool {
        let Some(session) = self.net.sessions.get(&id) else { return false };
        let (own, other) = (&session.ends[n], &session.ends[1 - n]);
        if own.over {
            return false;
        }
        let (at, from, member) = (own.at, other.at, other.member);
        if !self.is_awake(at) {
            return false;
        }
        let silent = self.net.is_cut(from, at) || self.places[from].paused_until > self.ms;
        let broken = session.is_broken();
        let life = self.meta_life(member);
        let Some(run) = &mut self.places[at].run else { return false };
        let Some(session) = self.net.sessions.get_mut(&id) else { return false };
        let own = &mut session.ends[n];
        let mut busy = false;
        if !own.up
            && !broken
            && let Some(life) = life.filter(|life| run.knows(member, *life))
        {
            own.up = true;
            busy = true;
            run.link_up(member, life, id);
        }
        if own.up && (settles || self.dice.chance(self.plan.eager.max(50))) {
            while let Some((due, _)) = own.queue.front()
                && *due <= self.ms
                && (!silent || broken)
            {
                let Some((_, load)) = own.queue.pop_front() else { break };
                busy = true;
                run.arrived(member, load);
            }
        }
        busy |= !own.queue.is_empty();
        if own.down_at.is_some_and(|at| at <= self.ms) {
            own.over = true;
            own.queue.clear();
            if own.up {
                run.link_down(member);
            }
            return true;
        }
        if !silent {
            own.silent = None;
        } else if own.silent.get_or_insert(self.ms).saturating_add(SILENT_MS) <= self.ms {
            let late = self.ms + self.dice.below(2_000) as u64;
            let mut down = [late; 2];
            down[n] = self.ms;
            session.sever([0, 0], down);
        }
        busy
    }

    fn meta_life(&self, member: u16) -> Option<tidegate_cluster::ids::Life> {
        let lives = self.places.iter().filter_map(|place| place.run.as_ref());
        lives.filter(|run| run.member.0 == member).map(|run| run.life).next()
    }

    /// Leases, and what nodes see of the metadata.
    fn metadata(&mut self) {
        let nodes = self.places.len();
        let reached = |at: usize| (0..nodes).filter(|&other| self.reaches(at, other)).count();
        let most: Vec<bool> =
            (0..nodes).map(|at| self.is_awake(at) && 2 * reached(at) > nodes).collect();
        let quorum = most.iter().any(|most| *most);
        match quorum {
            true => {
                self.quorum_since.get_or_insert(self.ms);
            }
            false => self.quorum_since = None,
        }
        let leads_long = self.quorum_since.is_some_and(|since| since + DOWN_MS <= self.ms);
        for (at, &most) in most.iter().enumerate() {
            if most && self.places[at].granted_at + RENEW_MS <= self.ms {
                self.places[at].granted_at = self.ms;
                // There is no way back for one that is down.
                if let Some(run) = &mut self.places[at].run
                    && self.meta.now.get(run.member.0).is_some()
                {
                    run.leased(self.ms);
                }
            }
            if most && self.dice.chance(30) {
                self.look(at);
            }
        }
        if leads_long {
            let down = |known: &Known| self.places[known.at].granted_at + DOWN_MS < self.ms;
            let down: Vec<u16> =
                self.meta.now.members.iter().filter(|k| down(k)).map(|k| k.member).collect();
            for member in down {
                self.tell(|| format!("member {member} is down"));
                self.meta.say(Fact::Gone(member));
            }
        }
        for (at, &most) in most.iter().enumerate() {
            let Some(run) = &self.places[at].run else { continue };
            let member = run.member.0;
            let known = self.meta.now.get(member);
            if known.is_some_and(|known| !known.serves) && most && run.may_serve() {
                self.meta.say(Fact::Serves(member));
            }
        }
    }

    /// A node sees what has happened meanwhile.
    pub(super) fn look(&mut self, at: usize) {
        let Some(run) = &mut self.places[at].run else { return };
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let from = run.task.view.seen;
        if from == self.meta.facts.len() {
            return;
        }
        for fact in &self.meta.facts[from..] {
            gone.extend(run.task.view.take(*fact));
            if let Fact::Joined(known) = fact {
                new.push(known.member);
            }
        }
        let still = |member: &u16| run.task.view.get(*member).is_some();
        new.retain(still);
        run.see(&gone, &new);
        if run.task.view.get(run.member.0).is_none() {
            // Its life is over, and so it ends.
            let wait = self.dice.below(500) as u64;
            self.crash(at, true, wait);
        }
    }

    /// The Raft groups.
    fn consensus(&mut self, settles: bool) -> bool {
        let mut busy = false;
        let eager = if settles { 100 } else { self.plan.eager };
        for p in 0..PARTITIONS as u8 {
            if !self.groups[usize::from(p)].hot {
                continue;
            }
            busy = true;
            self.group(p, eager);
        }
        if self.elections_at <= self.ms {
            self.elections_at = self.ms + ELECTIONS_MS;
            self.elections();
        }
        busy
    }

    fn group(&mut self, p: u8, eager: usize) {
        let at = usize::from(p);
        let voters = self.groups[at].voters().to_vec();
        for &voter in &voters {
            if self.is_awake(voter) && self.dice.chance(eager) {
                self.groups[at].flush(voter);
            }
        }
        for &leader in &voters {
            if !self.groups[at].is_leading(leader) || !self.is_awake(leader) {
                continue;
            }
            for &other in &voters {
                if self.reaches(leader, other) && self.dice.chance(eager) {
                    let most = if eager == 100 { usize::MAX } else { 1 + self.dice.below(8) };
                    self.groups[at].replicate(leader, other, most);
                }
            }
            self.groups[at].count(leader);
        }
        if self.groups[at].has_dead()
            && let Some(leader) = self.groups[at].leader().filter(|&l| self.is_awake(l))
        {
            self.groups[at].teach(leader, usize::MAX);
            if self.groups[at].admit() {
                self.tell(|| format!("partition {p} has taken a new node in"));
            }
        }
        let mut moved = false;
        for &voter in &voters {
            if !self.is_awake(voter) {
                continue;
            }
            if let Some(run) = &mut self.places[voter].run {
                let mut out = Outside { net: &mut self.net, dice: &mut self.dice, ms: self.ms };
                moved |= run.follow(p, &mut self.groups[at], &mut out);
            }
        }
        let group = &mut self.groups[at];
        group.hot = moved || group.is_busy() || group.has_dead();
        for &voter in &voters {
            let run = self.places[voter].run.as_ref();
            self.groups[at].hot |= run.is_some_and(|run| run.is_astray(p, &self.groups[at]));
        }
    }

    fn elections(&mut self) {
        for p in 0..self.groups.len() {
            let voters = self.groups[p].voters().to_vec();
            if let Some(leader) = self.groups[p].leader().filter(|&leader| self.is_awake(leader)) {
                let reached = voters.iter().filter(|&&other| self.reaches(leader, other)).count();
                if 2 * reached > voters.len() {
                    self.groups[p].calm_at = self.ms;
                    continue;
                }
            }
            let group = &self.groups[p];
            if group.calm_at + group.patience > self.ms {
                continue;
            }
            let awake: Vec<usize> = voters.into_iter().filter(|&v| self.is_awake(v)).collect();
            if !awake.is_empty() {
                let candidate = *self.dice.pick(&awake);
                self.elect(p, candidate);
            }
            self.groups[p].calm_at = self.ms;
            self.groups[p].patience = 300 + self.dice.below(400) as u64;
        }
    }

    pub(super) fn elect(&mut self, p: usize, candidate: usize) {
        let reached: Vec<bool> =
            (0..self.places.len()).map(|other| self.reaches(candidate, other)).collect();
        if self.groups[p].elect(candidate, |other| reached[other]) {
            let term = self.groups[p].term(candidate);
            self.tell(|| format!("partition {p}: node {candidate} is elected in term {term}"));
        }
    }

    /// A client does something.
    pub(super) fn client(&mut self, who: usize, finish: bool) -> bool {
        let client = &mut self.clients[who];
        let before = client.line.as_ref().map(|line| line.conn);
        let mut pen = Pen { history: &mut self.history, ms: self.ms, conns: &mut self.conns };
        let wish = match finish {
            true => client.finish(&mut self.dice, &mut pen),
            false => client.act(&mut self.dice, &mut pen),
        };
        self.grant(who, wish, before)
    }

    pub(super) fn grant(&mut self, who: usize, wish: Wish, before: Option<u32>) -> bool {
        match (wish, before) {
            (Wish::Rest, _) => return false,
            (Wish::Send(bytes), Some(conn)) => self.send(conn, &bytes),
            (Wish::Leave(bytes), Some(conn)) => {
                self.send(conn, &bytes);
                self.clients[who].line = None;
            }
            (Wish::Abort, Some(conn)) => {
                self.abort(conn);
                self.clients[who].line = None;
            }
            (Wish::Connect(bytes, version), before) => {
                if let Some(before) = before.filter(|_| self.dice.chance(50)) {
                    self.abort(before);
                }
                let conn = self.conns;
                let serves = |at: &usize| {
                    let run = self.places[*at].run.as_ref();
                    run.is_some_and(|run| {
                        let own = run.task.view.get(run.member.0);
                        own.is_some_and(|own| own.serves)
                    })
                };
                let open: Vec<usize> = (0..self.places.len()).filter(serves).collect();
                let mut opened = false;
                if !open.is_empty() {
                    let at = *self.dice.pick(&open);
                    let shard = self.dice.below(self.plan.shards.into());
                    if let Some(run) = &mut self.places[at].run {
                        opened = run.node.open(shard, who, conn, version);
                    }
                    self.tell(|| format!("client {who} #{conn} at node {at}"));
                }
                if opened {
                    self.send(conn, &bytes);
                } else {
                    let mut pen =
                        Pen { history: &mut self.history, ms: self.ms, conns: &mut self.conns };
                    self.clients[who].closed(conn, false, &mut pen);
                }
            }
            (Wish::Send(_) | Wish::Leave(_) | Wish::Abort, None) => return false,
        }
        true
    }

    fn abort(&mut self, conn: u32) {
        let heard = if self.dice.chance(50) { usize::MAX } else { self.dice.below(60) };
        for at in 0..self.places.len() {
            // A node that stands still sees it later; what it was sent stays.
            if let Some(run) = &mut self.places[at].run
                && run.node.wire(conn).is_some()
            {
                run.node.abort(conn, heard);
            }
        }
    }

    /// The process of a node ends; the next one starts after a while.
    pub(super) fn crash(&mut self, at: usize, soft: bool, wait: u64) {
        use crate::history::{Event, NODE};
        let Some(mut run) = self.places[at].run.take() else { return };
        self.tell(|| format!("node {at} ends, for {wait} ms"));
        self.stats.restarts += 1;
        self.history.add(self.ms, NODE, 0, Event::Crash);
        for arrival in std::mem::take(&mut run.node.arrivals) {
            // What was said is lost with the node; that it is gone is seen.
            if matches!(arrival, Arrival::Closed { .. }) {
                self.arrival(arrival);
            }
        }
        for wire in std::mem::take(&mut run.node.wires).into_values() {
            let Wire { client, conn, .. } = wire;
            self.arrival(Arrival::Closed { client, conn, unread: false });
        }
        let dice = &mut self.dice;
        for group in &mut self.groups {
            group.crash(at, |unsynced| if soft { unsynced } else { dice.below(unsynced + 1) });
        }
        let (ms, quick) = (self.ms, if soft { 60 } else { 1_500 });
        for session in self.net.sessions.values_mut() {
            let Some(own) = session.end_of(at) else { continue };
            let left = dice.below(8);
            let noticed = ms + dice.below(quick) as u64;
            session.sever([left, left], [noticed; 2]);
            session.ends[own].over = true;
        }
        self.places[at].paused_until = 0;
        self.places[at].stale = None;
        self.places[at].starts_at = Some(self.ms + wait);
        let _ = START;
    }
}
