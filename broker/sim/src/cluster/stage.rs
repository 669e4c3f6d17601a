//! What some holes need, brought about on purpose: chance alone takes hundreds of
//! seeds to have a SUBACK and a PUBLISH meet at the one moment that shows them.

use super::hole::Hole;
use super::world::World;
use crate::client::{Pen, Role, Wish};

/// Filters, each of one topic, that nobody else speaks of.
const TOPICS: [&str; 12] =
    ["q/c", "q/d", "q/e", "q/f", "q/g", "q/h", "q/i", "q/j", "q/k", "q/l", "q/m", "q/n"];
/// Rounds at the end of a run in which sessions that end with their connection
/// are likely to last.
const LAST_ROUNDS: usize = 120;

/// How long a node has to stand still for a SUBACK to come meanwhile: until its lease
/// of routes has run out.
const STILL_MS: u64 = 3_500;

/// Which topic is next, and what is under way.
#[derive(Debug, Default)]
pub(super) struct Stage {
    next: usize,
    scene: Option<Scene>,
}

/// Somebody subscribes; once that is answered somebody at another node publishes.
#[derive(Debug)]
struct Scene {
    topic: &'static str,
    /// With the connections that they ask by.
    subscribers: Vec<(usize, u32)>,
    publisher: usize,
    /// Where the publisher is connected.
    at: usize,
}

impl Stage {
    /// Whether a client has a part in what is played, and does nothing else.
    pub(super) fn has(&self, who: usize) -> bool {
        self.scene.as_ref().is_some_and(|scene| {
            scene.publisher == who || scene.subscribers.iter().any(|&(other, _)| other == who)
        })
    }
}

impl World {
    /// Who a run has for a hole that is shown by scenes.
    pub(super) fn cast(favour: Option<Hole>) -> Option<&'static [Role]> {
        match favour? {
            Hole::CachedNow => {
                Some(&[Role::Durable, Role::Durable, Role::Durable, Role::Ephemeral, Role::Durable])
            }
            Hole::SecondSubscriber => Some(&[
                Role::Durable,
                Role::Ephemeral,
                Role::Ephemeral,
                Role::Ephemeral,
                Role::Ephemeral,
                Role::Durable,
            ]),
            _other => None,
        }
    }

    /// A step of the scene that shows what is favoured.
    pub(super) fn play(&mut self, round: usize) {
        let Some(hole) = self.favour else { return };
        if let Some(scene) = self.stage.scene.take() {
            self.go_on(hole, scene);
            return;
        }
        let Some(&topic) = TOPICS.get(self.stage.next) else { return };
        let scene = match hole {
            Hole::CachedNow => self.while_one_stands_still(topic),
            Hole::SecondSubscriber if round + LAST_ROUNDS > self.plan.rounds => {
                self.two_at_one_node(topic)
            }
            _other => None,
        };
        let Some(scene) = scene else { return };
        self.stage.next += 1;
        self.tell(|| format!("a scene: {scene:?}"));
        for &(who, _) in &scene.subscribers {
            self.asks(who, |client, pen| client.subscribe_to(topic, 1, pen));
        }
        self.stage.scene = Some(scene);
    }

    fn go_on(&mut self, hole: Hole, scene: Scene) {
        let Scene { topic, publisher, at, .. } = scene;
        let stands = self.places[at].paused_until > self.ms;
        let there = self.is_connected_to(publisher) == Some(at);
        let line = |who: usize| self.clients[who].line.as_ref().map(|line| line.conn);
        let all = scene.subscribers.iter().all(|&(who, conn)| line(who) == Some(conn));
        if !there || !all || (hole == Hole::CachedNow && !stands) {
            self.tell(|| format!("it ends: {there}, {all}, {stands}"));
            return;
        }
        if scene.subscribers.iter().all(|&(who, _)| self.clients[who].is_asking()) {
            self.stage.scene = Some(scene);
            return;
        }
        self.tell(|| format!("client {publisher} publishes to {topic}"));
        self.asks(publisher, |client, pen| client.say(topic, pen));
    }

    /// A node stands still with a publisher's bytes to come; elsewhere somebody
    /// subscribes.
    fn while_one_stands_still(&mut self, topic: &'static str) -> Option<Scene> {
        let still = (0..self.places.len()).find(|&at| {
            let place = &self.places[at];
            place.run.is_some() && place.paused_until > self.ms + STILL_MS
        })?;
        let connected = |who: &usize| Some((*who, self.is_connected_to(*who)?));
        let all: Vec<(usize, usize)> =
            (0..self.clients.len()).filter_map(|w| connected(&w)).collect();
        let &(publisher, at) = all.iter().find(|&&(_, at)| at == still)?;
        // The node that stands still leads not its session: that would move.
        let elsewhere = |&&(who, at): &&(usize, usize)| {
            at != still
                && self.is_awake(at)
                && self.is_free(who, Role::Durable)
                && self.leads_session(who).is_some_and(|leader| leader != still)
        };
        let &(subscriber, _) = all.iter().find(elsewhere)?;
        let conn = self.clients[subscriber].line.as_ref()?.conn;
        Some(Scene { topic, subscribers: vec![(subscriber, conn)], publisher, at })
    }

    /// Two at one node subscribe at once, where nobody has yet.
    fn two_at_one_node(&mut self, topic: &'static str) -> Option<Scene> {
        let node = self.dice.below(self.places.len());
        let of = |who: &usize| {
            self.is_connected_to(*who) == Some(node) && self.is_free(*who, Role::Ephemeral)
        };
        let conn = |who: usize| Some((who, self.clients[who].line.as_ref()?.conn));
        let two: Vec<(usize, u32)> =
            (0..self.clients.len()).filter(of).filter_map(conn).take(2).collect();
        let away = |who: &usize| self.is_connected_to(*who).is_some_and(|at| at != node);
        let publisher = (0..self.clients.len()).find(away)?;
        let at = self.is_connected_to(publisher)?;
        (two.len() == 2).then_some(Scene { topic, subscribers: two, publisher, at })
    }

    /// The node that leads the partition of a client's session.
    fn leads_session(&self, who: usize) -> Option<usize> {
        let run = self.places.iter().find_map(|place| place.run.as_ref())?;
        let p = run.core.partition_of_client(&format!("client-{who}"));
        self.groups[usize::from(p.0)].leader()
    }

    fn is_free(&self, who: usize, role: Role) -> bool {
        self.clients[who].role == role && !self.clients[who].is_asking()
    }

    /// The node that a client's session is connected to.
    fn is_connected_to(&self, who: usize) -> Option<usize> {
        let line = self.clients[who].line.as_ref().filter(|line| line.connacked)?;
        let has = |run: &super::running::Running| {
            run.node.wires.values().any(|wire| wire.conn == line.conn)
        };
        self.places.iter().position(|place| place.run.as_ref().is_some_and(has))
    }

    fn asks(
        &mut self,
        who: usize,
        act: impl FnOnce(&mut crate::client::Client, &mut Pen<'_>) -> Wish,
    ) {
        let before = self.clients[who].line.as_ref().map(|line| line.conn);
        let mut pen = Pen { history: &mut self.history, ms: self.ms, conns: &mut self.conns };
        let wish = act(&mut self.clients[who], &mut pen);
        self.grant(who, wish, before);
    }
}
