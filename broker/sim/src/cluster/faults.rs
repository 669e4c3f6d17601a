//! What goes wrong.

use super::hole::Hole;
use super::world::World;

impl World {
    /// Something goes wrong, perhaps.
    pub(super) fn faults(&mut self) {
        let mut comes = |of: usize| self.dice.below(10_000) < of;
        let plan = &self.plan;
        let (crash, pause) = (comes(plan.crashes), comes(plan.pauses));
        let (cut, sever) = (comes(plan.cuts), comes(plan.breaks));
        let (election, disaster) = (comes(plan.elections), comes(plan.disasters));
        let at = self.dice.below(self.places.len());
        if crash && self.spare(at) {
            self.stats.faults += 1;
            let wait = match self.dice.below(3) {
                0 => self.dice.below(6_000),
                _ => self.dice.below(900),
            };
            let soft = self.dice.chance(60);
            self.crash(at, soft, wait as u64);
        }
        if pause && self.spare(at) && self.is_awake(at) {
            self.stats.faults += 1;
            let least = if self.plan.long_pauses { 3_000 } else { 100 };
            let long = (least + self.dice.below(6_000)) as u64;
            self.tell(|| format!("node {at} stands still for {long} ms"));
            self.places[at].paused_until = self.ms + long;
            if self.hole == Some(Hole::CachedNow) {
                let run = self.places[at].run.as_ref();
                self.places[at].stale = run.map(|run| run.node.now);
            }
        }
        if cut {
            self.stats.faults += 1;
            self.cut(at);
        }
        if sever {
            self.stats.faults += 1;
            self.sever();
        }
        if election {
            self.transfer();
        }
        if disaster {
            self.stats.faults += 1;
            match self.dice.below(2) {
                0 => self.all_restart(),
                _ => self.wipe(at),
            }
        }
    }

    /// Whether most nodes stay if this one does not; now and then it does not
    /// matter.
    fn spare(&mut self, at: usize) -> bool {
        let up = (0..self.places.len()).filter(|&other| other != at && self.is_awake(other));
        2 * up.count() > self.places.len() || self.dice.chance(10)
    }

    fn cut(&mut self, at: usize) {
        let until = self.ms + 50 + self.dice.below(5_000) as u64;
        let others: Vec<usize> = (0..self.places.len()).filter(|&other| other != at).collect();
        let (mut out, mut back) = (true, true);
        match self.dice.below(3) {
            0 => out = false,
            1 => back = false,
            _ => {}
        }
        let one = self.dice.chance(50).then(|| *self.dice.pick(&others));
        self.tell(|| format!("node {at} and {one:?} are cut off: out {out}, back {back}"));
        for other in others.into_iter().filter(|other| one.is_none_or(|one| one == *other)) {
            for (from, to, is) in [(at, other, out), (other, at, back)] {
                if is {
                    self.net.cut.insert((from, to));
                    self.heals.push((until, from, to));
                }
            }
        }
    }

    /// A link breaks, which its ends notice each at their time.
    fn sever(&mut self) {
        let ids: Vec<u64> = self.net.sessions.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = *self.dice.pick(&ids);
        let dice = &mut self.dice;
        let left = [dice.below(6), dice.below(6)];
        let down = [0; 2].map(|_: u64| {
            self.ms + if dice.chance(70) { dice.below(60) } else { dice.below(2_000) } as u64
        });
        if let Some(session) = self.net.sessions.get_mut(&id) {
            session.sever(left, down);
        }
        self.tell(|| format!("link {id} breaks, noticed at {down:?}"));
    }

    /// Partitions change their leaders though nothing is wrong.
    fn transfer(&mut self) {
        let many = if self.dice.chance(30) { 64 } else { 1 + self.dice.below(4) };
        for _ in 0..many {
            let p = self.dice.below(self.groups.len());
            let voters = self.groups[p].voters().to_vec();
            let to = *self.dice.pick(&voters);
            if self.is_awake(to) && !self.groups[p].is_leading(to) {
                self.elect(p, to);
            }
        }
    }

    /// The power fails.
    pub(super) fn all_restart(&mut self) {
        for at in 0..self.places.len() {
            let wait = self.dice.below(1_000) as u64;
            self.crash(at, false, wait);
        }
    }

    /// A disk is lost; what comes back is another node.
    fn wipe(&mut self, at: usize) {
        let others = (0..self.places.len()).filter(|&other| other != at);
        let all_up = others.clone().all(|other| self.is_awake(other));
        let uncut = self.net.cut.is_empty();
        if !all_up || !uncut || !self.groups.iter().all(|group| group.may_wipe(at)) {
            return;
        }
        let wait = self.dice.below(4_000) as u64;
        self.crash(at, false, wait);
        self.tell(|| format!("the disk of node {at} is lost"));
        for group in &mut self.groups {
            group.wipe(at, self.hole == Some(Hole::WipedVotes));
        }
    }
}
