//! The membership of this node: what its tasks share, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tidegate_cluster::bootstrap::{AddressBook, Answer, Probe, list_hash};
use tidegate_cluster::ids::{ClusterId, Life, NodeId, StoreId, UnixMillis};
use tidegate_cluster::meta::{Command, Entry, Meta, Node, NodeSpec, NodeState};
use tidegate_consensus::{CallKind, Groups, META, ProposeError};
use tidegate_store::{FileDisk, IdentityFile};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::about::About;
use super::lead::Desk;
use super::log::LogWriter;
use super::question::{
    Kind, Leader, LeaseAnswer, News, Outcome, Presence, Question, decode_asked, decode_have,
};
use super::view::{Cluster, Phase};
use super::wire::{CallFailed, RaftWire, Seen, Unanswered, Wire};
use crate::config::{self, Discovery};
use crate::shard::clock::Reading;

/// For one question to one node.
pub(super) const ASK_PATIENCE: Duration = Duration::from_millis(1_500);
/// For a command, elections included.
const PROPOSE_PATIENCE: Duration = Duration::from_secs(8);
/// How long news are waited for before 'nothing new' is answered.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// Addresses of which it is remembered what was logged.
const TOLD_MAX: usize = 512;

/// This node's Raft groups; the writer is that of the log that they are in.
pub(crate) type MetaGroups<W> = Groups<FileDisk, LogWriter, RaftWire<W>>;

/// Why this process cannot go on as it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// This life is over for the cluster: a new process is a new one.
    LifeOver(String),
    /// The data directory is void for the cluster.
    Void(String),
}

pub(crate) struct Core<W> {
    pub(super) config: config::Cluster,
    pub(super) me: Life,
    pub(super) store: StoreId,
    /// Set if this node has kept data from when it was alone: the seed that they
    /// were written with.
    pub(super) keeps: Option<u64>,
    pub(super) identity: Arc<IdentityFile>,
    pub(super) wire: W,
    pub(super) groups: MetaGroups<W>,
    pub(super) cluster: Arc<Cluster>,
    /// The metadata of this node's own replica of the group.
    pub(super) own: watch::Receiver<Arc<Meta>>,
    /// Where it is shown, by whoever applies it, and whether it is news.
    pub(super) shown: watch::Sender<Arc<Meta>>,
    pub(super) telling: Arc<AtomicBool>,
    pub(super) book: Mutex<AddressBook>,
    /// What this node says when it is asked who it is.
    pub(super) presence: Mutex<Presence>,
    pub(super) desk: Mutex<Option<Desk>>,
    /// Who leads the meta group, by what others said.
    pub(super) hint: Mutex<Option<Leader>>,
    /// The leader has counted this life's lease from then on.
    pub(super) registered: AtomicBool,
    pub(super) asked: AtomicBool,
    pub(super) despite_silent: AtomicBool,
    /// An operator has asked this node, as the leader, to balance the loads now.
    pub(super) hurry: AtomicBool,
    /// Peers that an operator named.
    pub(super) named: Mutex<BTreeSet<String>>,
    /// What was logged of each address.
    pub(super) told: Mutex<BTreeMap<String, String>>,
    pub(super) ended: Box<dyn Fn(End) + Send + Sync>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn unix_millis() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as UnixMillis)
}

impl<W: Wire> Core<W> {
    /// This process cannot go on; unless it is about to end anyway.
    pub(super) fn end(&self, end: End) {
        if !self.cluster.is_leaving() {
            (self.ended)(end);
        }
    }

    /// What this node says of itself when it registers.
    pub(super) fn spec(&self) -> NodeSpec {
        NodeSpec {
            id: self.me.node,
            incarnation: self.me.incarnation,
            store: self.store,
            zone: self.config.zone.clone(),
            address: self.config.advertise.clone(),
            name: self.config.node.clone(),
            weight: 100,
            level_min: 1,
            level_max: self.config.protocol_max,
        }
    }

    pub(super) fn list_hash(&self) -> Option<u64> {
        match &self.config.discovery {
            Some(Discovery::Static(list)) => Some(list_hash(list)),
            Some(Discovery::Dns { .. } | Discovery::File(_)) | None => None,
        }
    }

    pub(super) fn set_presence(&self, cluster: ClusterId) {
        *lock(&self.presence) = Presence::Member(cluster);
    }

    /// This node belongs to the cluster for good.
    pub(super) fn belong(&self, cluster: ClusterId) -> anyhow::Result<()> {
        self.identity.set_cluster(cluster.0)?;
        self.set_presence(cluster);
        self.wire.joined(cluster);
        self.cluster.change(|view| {
            view.cluster = Some(cluster);
            view.phase = Phase::Registering("registers with its cluster".into());
            true
        });
        Ok(())
    }

    /// Answers what another node asks. The part before the future keeps the
    /// order of Raft's calls.
    pub(crate) fn answer(
        self: &Arc<Self>,
        from: NodeId,
        group: u16,
        what: u16,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, (u16, String)>> + Send + use<W> {
        let raft = u8::try_from(what).ok().and_then(CallKind::from_code);
        let raft = raft.map(|kind| self.groups.handle(from.0, group, kind, body.clone()));
        let core = Arc::clone(self);
        async move {
            match raft {
                Some(answer) => {
                    answer.await.map_err(|error| (error.code().into(), error.to_string()))
                }
                None => core.answer_question(what, &body).await.map_err(|why| (0, why)),
            }
        }
    }

    async fn answer_question(self: Arc<Self>, what: u16, body: &Bytes) -> Result<Bytes, String> {
        let bad = |error: tidegate_cluster::DecodeError| error.to_string();
        match Question::from_code(what).ok_or("a question that this version does not know")? {
            Question::Presence => {
                let mut presence = *lock(&self.presence);
                if let Presence::Fresh { asked, .. } = &mut presence {
                    *asked = self.asked.load(Ordering::Acquire);
                }
                Ok(presence.encode())
            }
            Question::Propose => {
                let entry = Entry::decode(body).map_err(bad)?;
                Ok(self.commit(entry.command).await.encode())
            }
            Question::Lease => {
                let (asked, reach) = decode_asked(body).map_err(bad)?;
                let waits = match lock(&self.desk).as_mut() {
                    Some(desk) => desk.asked(asked, reach, Reading::take().millis()),
                    None => return Ok(LeaseAnswer::Elsewhere(self.leader()).encode()),
                };
                let waits = match waits {
                    Ok(waits) => waits,
                    Err(why) => return Ok(LeaseAnswer::Over(why.to_string()).encode()),
                };
                let grant = waits.await.map_err(|_| "no quorum confirms this leader")?;
                Ok(LeaseAnswer::Granted(grant).encode())
            }
            Question::Rebalance => Ok(self.hurry().encode()),
            Question::About => {
                let about = About::clone(&self.cluster.about());
                let last = self.groups.status(META).last;
                let meta_last = last.map_or((0, 0), |last| (last.term, last.index));
                let stuck = BTreeMap::clone(&self.cluster.stuck());
                Ok(About { meta_last, stuck, ..about }.encode())
            }
            Question::News => {
                let have = decode_have(body).map_err(bad)?;
                let mut changed = self.cluster.watch();
                // That nothing came is an answer as well.
                let newer = changed.wait_for(|view| view.meta.applied() > have);
                let _ = timeout(NEWS_PATIENCE, newer).await;
                let view = self.cluster.view();
                let is_newer = view.meta.applied() > have;
                let meta = if is_newer { view.meta.snapshot().into() } else { Bytes::new() };
                let voters = view.voters.iter().copied().collect();
                Ok(News { term: view.term, leader: view.leader, voters, meta }.encode())
            }
        }
    }

    /// The leader of the meta group, as far as known.
    pub(super) fn leader(&self) -> Option<Leader> {
        let status = self.groups.status(META);
        // Who led and was voted out may not know more than that.
        let knows = |leader: &u64| *leader != self.me.node.0 || status.leads;
        let by_raft = status.leader.filter(knows).filter(|_| status.is_voter(self.me.node.0));
        let by_raft = by_raft.map(NodeId);
        let Some(node) = by_raft else { return lock(&self.hint).clone() };
        let address = lock(&self.book).address(node).unwrap_or_default().to_owned();
        Some(Leader { node, address })
    }

    /// Has this node's own group commit a command, if it leads.
    pub(super) async fn commit(&self, command: Command) -> Outcome {
        if !self.groups.status(META).leads {
            return Outcome::Elsewhere(self.leader());
        }
        let entry = Entry { at: unix_millis(), command };
        match self.groups.propose(META, entry.encode().into()).await {
            Ok(answer) => Outcome::decode(&answer).unwrap_or_else(|error| {
                Outcome::Refused(Kind::Other, format!("an outcome that is none: {error}"))
            }),
            Err(ProposeError::TooLarge { bytes }) => {
                Outcome::Refused(Kind::Other, format!("a command of {bytes} bytes is too large"))
            }
            Err(
                ProposeError::NotLeader { .. }
                | ProposeError::HandingOver
                | ProposeError::Lost
                | ProposeError::Closed
                | ProposeError::Busy,
            ) => Outcome::Elsewhere(None),
        }
    }

    /// Has the next plan of this node not wait for joins, if it leads.
    fn hurry(&self) -> Outcome {
        if !self.groups.status(META).leads {
            return Outcome::Elsewhere(self.leader());
        }
        self.hurry.store(true, Ordering::Release);
        Outcome::Done(self.own.borrow().applied())
    }

    /// The same of whoever leads.
    pub(super) async fn rebalance(&self) -> Outcome {
        let until = Instant::now() + PROPOSE_PATIENCE;
        let mut turn = 0;
        loop {
            let leader = match self.hurry() {
                Outcome::Elsewhere(leader) => leader,
                done => return done,
            };
            let other = leader.filter(|leader| leader.node != self.me.node);
            let answer = match other.or_else(|| self.someone(turn)) {
                Some(other) => self.reach(&other, Question::Rebalance, Bytes::new()).await,
                None => None,
            };
            match answer.and_then(|answer| Outcome::decode(&answer).ok()) {
                Some(outcome @ (Outcome::Done(_) | Outcome::Refused(..))) => return outcome,
                Some(Outcome::Elsewhere(leader)) => *lock(&self.hint) = leader,
                None => {}
            }
            if Instant::now() >= until {
                return Outcome::Elsewhere(None);
            }
            turn += 1;
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Has a command committed by whoever leads, as long as it takes within
    /// bounds. Commands may be said twice: each is refused or does nothing then.
    pub(super) async fn propose(&self, command: Command) -> Outcome {
        let until = Instant::now() + PROPOSE_PATIENCE;
        let mut turn = 0;
        loop {
            let outcome = self.propose_once(&command, turn).await;
            match outcome {
                Outcome::Elsewhere(leader) => *lock(&self.hint) = leader,
                Outcome::Done(_) | Outcome::Refused(..) => return outcome,
            }
            if Instant::now() >= until {
                return Outcome::Elsewhere(None);
            }
            turn += 1;
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn propose_once(&self, command: &Command, turn: usize) -> Outcome {
        if self.groups.status(META).leads {
            return self.commit(command.clone()).await;
        }
        let entry = Entry { at: 0, command: command.clone() }.encode();
        let answer = match self.someone(turn) {
            Some(leader) => self.reach(&leader, Question::Propose, entry.into()).await,
            None => None,
        };
        match answer.map(|answer| Outcome::decode(&answer)) {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                warn!(%error, "an outcome of a peer cannot be read");
                Outcome::Elsewhere(None)
            }
            None => Outcome::Elsewhere(None),
        }
    }

    /// Whom to ask: who leads, or else one after the other, those first to which
    /// there is a link: who leads may be out of reach of this node alone.
    pub(super) fn someone(&self, turn: usize) -> Option<Leader> {
        let leader = self.leader().filter(|leader| leader.node != self.me.node);
        let view = self.cluster.view();
        let is_up = |leader: &Leader| view.up.contains(&leader.node);
        let turns = |leader: &Leader| if is_up(leader) { 2 } else { 1 };
        if let Some(leader) = leader.filter(|leader| turn % 3 < turns(leader)) {
            return Some(leader);
        }
        let book = lock(&self.book);
        let others = view.meta.nodes().map(|node| node.spec.id).filter(|id| *id != self.me.node);
        let known: Vec<Leader> = others
            .filter_map(|node| Some(Leader { node, address: book.address(node)?.to_owned() }))
            .chain(book.all().into_iter().map(|address| Leader { node: NodeId(0), address }))
            .filter(|leader| leader.address != self.config.advertise)
            .collect();
        let linked: Vec<Leader> = known.iter().filter(|other| is_up(other)).cloned().collect();
        let among = if linked.is_empty() || turn % 6 == 5 { known } else { linked };
        (!among.is_empty()).then(|| among[turn % among.len()].clone())
    }

    /// Asks a member by its connection, or else at its address.
    pub(super) async fn reach(
        &self,
        to: &Leader,
        question: Question,
        body: Bytes,
    ) -> Option<Bytes> {
        let what = question as u16;
        if to.node.0 != 0 {
            match self.wire.call(to.node, META, what, body.clone(), ASK_PATIENCE).await {
                Ok(answer) => return Some(answer),
                Err(CallFailed::NotConnected) => {}
                Err(CallFailed::Lost | CallFailed::Busy | CallFailed::Refused { .. }) => {
                    return None;
                }
            }
        }
        let known = lock(&self.book).address(to.node).map(str::to_owned);
        let address = known.filter(|_| to.address.is_empty()).unwrap_or(to.address.clone());
        if address.is_empty() {
            return None;
        }
        let (seen, answer) = self.wire.ask(&address, what, body, ASK_PATIENCE).await.ok()?;
        self.learn(&seen);
        Some(answer)
    }

    /// A node said where it is.
    pub(super) fn learn(&self, seen: &Seen) {
        let life = Life { node: seen.node, incarnation: seen.incarnation };
        if seen.node != self.me.node && !seen.address.is_empty() {
            lock(&self.book).learn(life, &seen.address);
        }
    }

    /// Asks all of them who they are.
    pub(super) async fn probe(self: &Arc<Self>, addresses: Vec<String>) -> Vec<Probe> {
        let mut asking = JoinSet::new();
        for address in addresses {
            let core = Arc::clone(self);
            asking.spawn(async move {
                let what = Question::Presence as u16;
                let asked = core.wire.ask(&address, what, Bytes::new(), ASK_PATIENCE).await;
                let answer = match asked {
                    Ok((seen, bytes)) => match Presence::decode(&bytes) {
                        Ok(Presence::Member(cluster)) => {
                            core.learn(&seen);
                            Answer::Member(cluster)
                        }
                        Ok(Presence::Fresh { store, list, asked, keeps }) => {
                            Answer::Fresh { store, list, asked, keeps }
                        }
                        Err(error) => {
                            warn!(address, %error, "a peer's answer cannot be read");
                            Answer::Silent
                        }
                    },
                    Err(unanswered) => core.unanswered(&address, unanswered),
                };
                Probe { address, answer }
            });
        }
        let mut probes = asking.join_all().await;
        probes.sort_by(|a, b| a.address.cmp(&b.address));
        probes
    }

    fn unanswered(&self, address: &str, unanswered: Unanswered) -> Answer {
        let (answer, what) = match &unanswered {
            Unanswered::Silent(_) => (Answer::Silent, None),
            Unanswered::Myself => (Answer::Myself, None),
            Unanswered::OtherName(name) => (
                Answer::OtherName(name.clone()),
                Some("a peer belongs to a cluster of another name"),
            ),
            Unanswered::NotTrusted(_) => {
                (Answer::NotTrusted, Some("a peer and this node do not trust each other"))
            }
            // It is there, and may belong to a cluster.
            Unanswered::Refused(_) => (Answer::Silent, Some("a peer refuses this node")),
        };
        let why = unanswered.to_string();
        // Once each, however often it is asked.
        let mut told = lock(&self.told);
        match what {
            Some(what) if told.get(address) != Some(&why) => {
                warn!(address, why, "{what}");
                if told.len() < TOLD_MAX {
                    told.insert(address.to_owned(), why);
                }
            }
            Some(_) => {}
            None => {
                told.remove(address);
            }
        }
        answer
    }

    /// Keeps connections with all that are known, at the newest address of each.
    pub(super) fn keep(&self, meta: &Meta) {
        let mut book = lock(&self.book);
        for node in meta.nodes() {
            if node.spec.id == self.me.node {
                continue;
            }
            book.learn(node.spec.life(), &node.spec.address);
            self.wire.learn(node.spec.id, node.spec.store, node.spec.incarnation);
        }
        // A node that is gone may have left its address to another one.
        let others = meta.nodes().filter(|node| node.spec.id != self.me.node);
        let mut others: Vec<_> = others.filter(|node| node.state != NodeState::Left).collect();
        others.sort_by_key(|node| !node.state.is_alive());
        let mut taken = BTreeSet::from([self.config.advertise.clone()]);
        let peer = |node: &&Node| {
            let address = book.address(node.spec.id)?.to_owned();
            taken.insert(address.clone()).then_some((node.spec.id, address))
        };
        let peers: Vec<_> = others.iter().filter_map(peer).collect();
        drop(book);
        self.wire.keep(peers);
        let forgotten = self.wire.up().into_iter().filter(|node| meta.is_forgotten(*node));
        for node in forgotten {
            lock(&self.book).forget(node);
            self.wire.forget(node);
        }
    }
}
