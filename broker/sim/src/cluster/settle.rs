//! Everything heals and comes to rest.

use super::world::World;
use crate::check::Failure;
use crate::client::{Pen, Role};

/// What is waited for at the end: longer than wills and expiring sessions take.
const SETTLE_MS: u64 = 20_000;
/// How long some stay away: longer than their wills may take.
const AWAY_MS: u64 = 17_500;
/// In which everybody has to have what is owed.
const REST_MS: u64 = 60_000;
/// Rounds until the first clients come.
const START_ROUNDS: usize = 3_000;

impl World {
    /// All nodes serve, before clients come.
    pub(super) fn wait_until_served(&mut self) {
        for _ in 0..START_ROUNDS {
            self.quiet_round();
            let serves = |at: usize| {
                self.places[at].run.as_ref().is_some_and(|run| {
                    run.task.view.members.iter().filter(|known| known.serves).count()
                        == self.places.len()
                })
            };
            if (0..self.places.len()).all(serves) {
                return;
            }
        }
        self.failures.push(Failure::new("alive", "the cluster does not form".into()));
    }

    fn quiet_round(&mut self) -> bool {
        let busy = self.round_without_clients();
        self.ms += if busy { 2 } else { 20 };
        busy
    }

    fn round_without_clients(&mut self) -> bool {
        let clients = std::mem::take(&mut self.clients);
        let busy = self.round(true);
        self.clients = clients;
        busy
    }

    /// Nothing is wrong any more, and everybody is there.
    pub(super) fn heal(&mut self) {
        self.tell(|| "everything heals".into());
        self.net.cut.clear();
        self.heals.clear();
        for place in &mut self.places {
            place.paused_until = 0;
            place.starts_at = place.starts_at.map(|at| at.min(self.ms + 200));
        }
    }

    /// Some clients leave without a word, and stay away until their wills are due.
    fn send_away(&mut self) -> Vec<bool> {
        let mut away = vec![false; self.clients.len()];
        for (who, away) in away.iter_mut().enumerate() {
            let client = &mut self.clients[who];
            let leaves = matches!(client.role, Role::Durable | Role::Expiring | Role::Watcher);
            if !leaves || client.line.is_none() || !self.dice.chance(30) {
                continue;
            }
            *away = true;
            let before = client.line.as_ref().map(|line| line.conn);
            let mut pen = Pen { history: &mut self.history, ms: self.ms, conns: &mut self.conns };
            let wish = client.abort(&mut pen);
            self.grant(who, wish, before);
        }
        away
    }

    /// Everything comes to rest, and everybody who can has what is owed.
    pub(super) fn settle(&mut self) {
        let begin = self.ms;
        let away = self.send_away();
        let mut probed = vec![false; self.clients.len()];
        while self.ms < begin + REST_MS {
            let mut busy = self.round(true);
            for (who, away) in away.iter().enumerate() {
                if *away && self.ms < begin + AWAY_MS {
                    continue;
                }
                busy |= self.client(who, true);
            }
            for (who, probed) in probed.iter_mut().enumerate() {
                if !*probed && self.clients[who].line.as_ref().is_some_and(|l| l.connacked) {
                    *probed = true;
                    busy = true;
                    let before = self.clients[who].line.as_ref().map(|line| line.conn);
                    let mut pen =
                        Pen { history: &mut self.history, ms: self.ms, conns: &mut self.conns };
                    let wish = self.clients[who].probe(&mut pen);
                    self.grant(who, wish, before);
                }
            }
            self.ms += if busy { 3 } else { 50 };
            if !self.failures.is_empty() {
                return;
            }
            let content = self.clients.iter().all(|client| client.is_content());
            if self.ms >= begin + SETTLE_MS && content && !busy {
                return;
            }
        }
        match self.clients.iter().find(|client| !client.is_content()) {
            Some(client) => {
                let reason = format!("an answer never came: {}", client.wants());
                let id = format!("client-{}", client.id);
                for run in self.places.iter().filter_map(|place| place.run.as_ref()) {
                    let p = run.core.partition_of_client(&id).0;
                    self.tell(|| format!("partition {p}: {}", run.state(p)));
                    self.tell(|| self.groups[usize::from(p)].state(run.at));
                }
                self.failures.push(Failure::new("alive", reason).of_client(client.id));
            }
            None => {
                let quiet = |place: &super::world::Place| {
                    place.run.as_ref().is_some_and(|run| run.is_quiet() && run.task.is_quiet())
                };
                if !self.places.iter().all(quiet) {
                    let reason = "the cluster does not come to rest".into();
                    self.failures.push(Failure::new("alive", reason));
                }
            }
        }
    }
}
