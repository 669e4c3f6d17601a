//! The task that moves partitions: opens their groups, and says to the shards
//! what has become of them.
//!
//! One task for all partitions of a node. What it does for a partition is in the
//! order in which it learned of it, and a group is closed before its shard is
//! told to forget: no entry of before can come after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_consensus::{GroupId, GroupStatus, Groups, ProposeError, Transport};
use tidegate_core::ids::{Member, PARTITIONS, PartitionId, ShardId};
use tidegate_mesh::Peer;
use tidegate_store::raft::{PartitionIndex, Writer};
use tidegate_store::{Disk, Position};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::homes::{self, Home, Homes};
use super::machine::{Machine, say};
use super::moving::{self, Moving};
use super::{Said, Word};
use crate::shard::Shared;

/// Entries behind a snapshot after which the next one is taken.
const SNAPSHOT_ENTRIES: u64 = 8_192;
/// A snapshot of more bytes is taken so many times more seldom: all of it is
/// written again, however little of it has changed.
const SNAPSHOT_BYTES: u64 = 256 << 20;
/// How often that is looked at, and leaders are told again.
const LOOK: Duration = Duration::from_secs(1);
/// How long a quorum may take to say that this node leads.
const PROOF: Duration = Duration::from_millis(250);
/// How soon a group that could not be opened is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What the cluster's metadata says, as far as partitions are concerned.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct View {
    /// Nodes that have a number and are not down: node id by member.
    pub(crate) members: BTreeMap<u16, u64>,
    /// Replicas of each partition, the preferred leader first; empty: not placed.
    pub(crate) wanted: Vec<Vec<u64>>,
    /// Who gets a replica of each partition, while one moves.
    pub(crate) coming: Vec<Option<u64>>,
}

impl View {
    /// Whether a node has, or gets, a replica of a partition; none: nobody does,
    /// or it is not known here.
    pub(super) fn holds(&self, partition: PartitionId, node: u64) -> Option<bool> {
        let at = usize::from(partition.0);
        let wanted = self.wanted.get(at).filter(|wanted| !wanted.is_empty())?;
        let comes = self.coming.get(at).is_some_and(|coming| *coming == Some(node));
        Some(comes || wanted.contains(&node))
    }
}

/// What happens on the links.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A member can be reached.
    Up(Member, Peer),
    /// It cannot any more: what was sent may not have come.
    Down(Member),
    /// An announcement of its leaders.
    Homes(Member, Bytes),
}

/// Hands an announcement to a peer.
pub(crate) type Announce = Box<dyn Fn(&Peer, Bytes) + Send>;

/// What the task works with.
pub(crate) struct Replication<D: Disk, W: Writer, T: Transport> {
    pub(super) shared: Arc<Shared>,
    pub(super) groups: Groups<D, W, T>,
    pub(super) member: Member,
    pub(super) node: u64,
    /// What each partition's records of the log were replayed into.
    pub(super) indexes: HashMap<u16, PartitionIndex>,
    announce: Announce,
    /// Gives back what lies before in the log.
    remove_before: Box<dyn Fn(Position) + Send>,
    /// Says whether this node may have clients.
    ready: Box<dyn Fn(bool) + Send>,
    peers: BTreeMap<u16, Peer>,
    /// Members that are no more; their numbers are given again after long.
    gone: BTreeSet<u16>,
    homes: Homes,
    pub(super) replicas: Vec<Replica>,
    pub(super) view: View,
    pub(super) moving: Moving,
    /// Partitions whose group has something new.
    changed: mpsc::UnboundedSender<PartitionId>,
}

/// What is known of one partition.
#[derive(Debug, Default)]
pub(super) struct Replica {
    pub(super) open: bool,
    /// The group was opened in this process, and not given up since.
    pub(super) known: bool,
    /// The term in which the shard was told that it leads.
    pub(super) led: Option<u64>,
    /// A snapshot is being written.
    writing: Arc<AtomicBool>,
}

impl<D, W, T> Replication<D, W, T>
where
    D: Disk + Send + Sync + 'static,
    D::File: Send + Sync,
    W: Writer,
    T: Transport,
{
    /// Runs until its inputs end.
    #[expect(clippy::too_many_arguments, reason = "each is one of a node's parts")]
    pub(crate) async fn run(
        shared: Arc<Shared>,
        groups: Groups<D, W, T>,
        indexes: HashMap<u16, PartitionIndex>,
        announce: Announce,
        remove_before: Box<dyn Fn(Position) + Send>,
        ready: Box<dyn Fn(bool) + Send>,
        mut said: mpsc::UnboundedReceiver<Said>,
        mut views: watch::Receiver<View>,
        mut links: mpsc::UnboundedReceiver<LinkEvent>,
    ) {
        let (changed, mut changes) = mpsc::unbounded_channel();
        let (failed, mut failures) = mpsc::unbounded_channel();
        let (ended, mut ends) = mpsc::unbounded_channel();
        let member = shared.node.member();
        let node = groups.node();
        let replicas = (0..PARTITIONS).map(|_| Replica::default()).collect();
        let mut own = Replication {
            shared,
            groups,
            member,
            node,
            indexes,
            announce,
            remove_before,
            ready,
            peers: BTreeMap::new(),
            gone: BTreeSet::new(),
            homes: Homes::new(),
            replicas,
            view: View::default(),
            moving: Moving::new(ended),
            changed,
        };
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pace = moving::pace();
        let view = views.borrow_and_update().clone();
        own.see(view).await;
        loop {
            tokio::select! {
                biased;
                Some(event) = links.recv() => own.link(event),
                Some(partition) = changes.recv() => own.look_at(partition).await,
                Some((partition, term)) = failures.recv() => own.deposed(partition, term).await,
                Some(end) = ends.recv() => own.ended(end, &failed).await,
                seen = views.changed() => {
                    if seen.is_err() {
                        return;
                    }
                    let view = views.borrow_and_update().clone();
                    own.see(view).await;
                }
                said = said.recv() => match said {
                    Some(Said::Propose(partition, term, payload)) => {
                        own.propose(partition, term, payload, &failed);
                    }
                    Some(Said::Deposed(partition, term)) => own.deposed(partition, term).await,
                    Some(Said::Leads(partition, term)) => own.leads(partition, term),
                    Some(Said::Prove(shard, partitions)) => own.prove(shard, partitions),
                    None => return,
                },
                _ = look.tick() => own.look_after().await,
                _ = pace.tick() => own.go_on().await,
            }
        }
    }

    pub(super) fn propose(
        &mut self,
        partition: PartitionId,
        term: u64,
        payload: Bytes,
        failed: &mpsc::UnboundedSender<(PartitionId, u64)>,
    ) {
        // The shard has thrown away, or is about to, what it said as an earlier leader.
        if self.replicas[usize::from(partition.0)].led != Some(term) {
            return;
        }
        let Some(payload) = self.moving.hold(partition, term, payload) else { return };
        let began = Instant::now();
        let outcome = self.groups.propose(group(partition), payload);
        let (failed, shared) = (failed.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            match outcome.await {
                Ok(_) => {
                    if let Some(outlet) = &shared.outlet {
                        let micros = began.elapsed().as_micros();
                        outlet.timings.ack.observe(u64::try_from(micros).unwrap_or(u64::MAX), 1);
                    }
                }
                Err(
                    error @ (ProposeError::NotLeader { .. }
                    | ProposeError::HandingOver
                    | ProposeError::Lost
                    | ProposeError::Closed
                    | ProposeError::Busy
                    | ProposeError::TooLarge { .. }),
                ) => {
                    debug!(partition = partition.0, %error, "a batch was not committed");
                    // The next one must not be committed without this one.
                    let _ = failed.send((partition, term));
                }
            }
        });
    }

    /// The metadata has changed.
    async fn see(&mut self, view: View) {
        let gone: Vec<u16> =
            self.view.members.keys().filter(|m| !view.members.contains_key(m)).copied().collect();
        let new: Vec<u16> =
            view.members.keys().filter(|m| !self.view.members.contains_key(m)).copied().collect();
        self.view = view;
        if let Some(outlet) = &self.shared.outlet {
            outlet.set_alive(self.view.members.keys().copied().collect());
            self.gone.extend(&gone);
            self.gone.retain(|member| !self.view.members.contains_key(member));
            outlet.set_gone(self.gone.clone());
        }
        for member in gone {
            self.member_gone(Member(member));
        }
        for member in new {
            self.tell_all(|| Word::MemberNew(Member(member)));
        }
        self.discard_strays().await;
        for partition in all() {
            self.open_if_wanted(partition).await;
        }
    }

    async fn open_if_wanted(&mut self, partition: PartitionId) {
        let here = self.view.holds(partition, self.node) == Some(true);
        let open = self.replicas[usize::from(partition.0)].open;
        if here && !open && !self.moving.gives_up(partition) {
            self.open(partition).await;
        }
    }

    async fn open(&mut self, partition: PartitionId) {
        let at = usize::from(partition.0);
        let machine = Machine::new(partition, Arc::clone(&self.shared));
        let known = self.replicas[at].known;
        let opened = if known {
            self.groups.reopen(group(partition), machine).await
        } else {
            let index = self.indexes.get(&group(partition)).cloned().unwrap_or_default();
            self.groups.open(group(partition), index, machine).await
        };
        if let Err(error) = opened {
            warn!(partition = partition.0, %error, "the replica of a partition cannot be opened");
            return;
        }
        self.indexes.remove(&group(partition));
        self.moving.opened(partition);
        (self.replicas[at].open, self.replicas[at].known) = (true, true);
        if known {
            let _ = self.changed.send(partition);
            return;
        }
        if let Some(mut status) = self.groups.watch(group(partition)) {
            let changed = self.changed.clone();
            tokio::spawn(async move {
                while status.changed().await.is_ok() {
                    status.borrow_and_update();
                    if changed.send(partition).is_err() {
                        return;
                    }
                }
            });
        }
        let wanted = self.view.wanted.get(at).cloned().unwrap_or_default();
        let first = wanted.first() == Some(&self.node);
        let fresh = self.groups.status(group(partition)).last.is_none();
        // With the same set on each of them it does not matter who is the first.
        // What somebody leads was begun long ago, and its first replica may be new.
        if fresh && first && self.shared.node.home(partition).is_none() {
            let voters = wanted.iter().copied().collect();
            if let Err(error) = self.groups.initialize(group(partition), voters).await {
                debug!(partition = partition.0, %error, "a partition was not begun here");
            }
        }
        let _ = self.changed.send(partition);
    }

    /// A group has something new.
    pub(super) async fn look_at(&mut self, partition: PartitionId) {
        let at = usize::from(partition.0);
        let GroupStatus { term, leads, leader, .. } = self.groups.status(group(partition));
        match self.replicas[at].led {
            Some(led) if led == term && leads => {}
            // The successor counts on this node's vote until it leads.
            Some(_) if leader.is_none() && self.moving.hands_over(partition) => {}
            Some(_) => self.demote(partition).await,
            None if leads => self.promote(partition, term),
            None => {}
        }
    }

    fn promote(&mut self, partition: PartitionId, term: u64) {
        self.replicas[usize::from(partition.0)].led = Some(term);
        say(&self.shared, partition, Word::Promote(partition, term));
    }

    /// The shard has done so. Only now may anything be sent to it: before, it
    /// would find nobody who wants a message.
    fn leads(&mut self, partition: PartitionId, term: u64) {
        if self.replicas[usize::from(partition.0)].led != Some(term) {
            return;
        }
        let shard = partition.shard(self.member, self.shared.node.shards());
        self.learn(Home { partition, term, shard });
        debug!(partition = partition.0, term, "this node leads a partition");
        let bytes = self.announcement(&[Home { partition, term, shard }]);
        self.peers.values().for_each(|peer| (self.announce)(peer, bytes.clone()));
    }

    /// Asks a quorum whether this node still leads.
    fn prove(&self, shard: ShardId, partitions: u64) {
        let (groups, shared) = (self.groups.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            let mut reads = JoinSet::new();
            for partition in all().filter(|p| partitions & p.bit() != 0) {
                let groups = groups.clone();
                reads.spawn(async move { (partition, groups.read_index(group(partition)).await) });
            }
            let mut proven = 0;
            let end = Instant::now() + PROOF;
            // Who answers late holds nobody else up: it is asked again.
            while let Ok(Some(read)) = timeout_at(end, reads.join_next()).await {
                match read {
                    Ok((partition, Ok(_))) => proven |= partition.bit(),
                    Ok((partition, Err(error))) => {
                        debug!(partition = partition.0, %error, "a read was not answered");
                    }
                    Err(error) => warn!(%error, "a read was not answered"),
                }
            }
            shared.mailboxes[shard.index()].say(Word::Proven(proven));
        });
    }

    /// The same, if that leadership is still the present one.
    async fn deposed(&mut self, partition: PartitionId, term: u64) {
        if self.replicas[usize::from(partition.0)].led == Some(term) {
            self.demote(partition).await;
        }
    }

    /// This node leads no more, or a batch of it was not committed: what the
    /// shard has beyond the log is void.
    async fn demote(&mut self, partition: PartitionId) {
        let at = usize::from(partition.0);
        if self.replicas[at].led.take().is_none() {
            return;
        }
        debug!(partition = partition.0, "this node no longer leads a partition");
        self.close_home(partition).await;
        self.reopen(partition).await;
        self.look_again(partition);
    }

    /// Something may be new of a partition.
    pub(super) fn look_again(&self, partition: PartitionId) {
        let _ = self.changed.send(partition);
    }

    /// Opens the group of a partition again, however often it takes.
    pub(super) async fn reopen(&mut self, partition: PartitionId) {
        let began = Instant::now();
        loop {
            let machine = Machine::new(partition, Arc::clone(&self.shared));
            match self.groups.reopen(group(partition), machine).await {
                Ok(()) => break,
                Err(error) if began.elapsed() < Duration::from_secs(30) => {
                    warn!(partition = partition.0, %error, "a replica cannot be opened again");
                    sleep(RETRY).await;
                }
                Err(error) => {
                    // As a new process it begins from what is on the disk.
                    tracing::error!(partition = partition.0, %error, "a replica is lost");
                    crate::telemetry::log::flush();
                    std::process::exit(crate::node::EXIT_SHARD_FAILED);
                }
            }
        }
    }

    fn announcement(&self, homes: &[Home]) -> Bytes {
        homes::encode(self.shared.node.shards() as u8, homes).into()
    }

    fn learn(&mut self, home: Home) {
        if self.homes.learn(home) {
            self.set_home(home.partition, Some(home.shard));
        }
    }

    fn set_home(&self, partition: PartitionId, home: Option<ShardId>) {
        self.shared.node.set_home(partition, home);
        self.tell_all(|| Word::HomeMoved(partition));
    }

    pub(super) fn tell_all(&self, word: impl Fn() -> Word) {
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.say(word()));
    }

    fn link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(member, peer) => {
                (self.announce)(&peer, self.announcement(&self.homes.of(self.member)));
                self.peers.insert(member.0, peer);
            }
            LinkEvent::Down(member) => {
                if let Some(peer) = self.peers.remove(&member.0) {
                    self.groups.lost(peer.node().0);
                }
            }
            LinkEvent::Homes(member, bytes) => match homes::decode(&bytes) {
                Ok(_) if self.gone.contains(&member.0) => {}
                Ok((_, homes)) => {
                    // Each speaks for itself alone.
                    homes
                        .into_iter()
                        .filter(|home| home.shard.member() == member)
                        .for_each(|home| self.learn(home));
                }
                Err(error) => {
                    warn!(member = member.0, %error, "an announcement was not understood");
                    if let Some(peer) = self.peers.get(&member.0) {
                        peer.disconnect("an announcement was not understood");
                    }
                }
            },
        }
    }

    fn member_gone(&mut self, gone: Member) {
        info!(member = gone.0, "a member of the cluster is gone");
        self.shared.node.peer_gone(gone);
        for partition in self.homes.forget(gone) {
            self.set_home(partition, None);
        }
        self.tell_all(|| Word::MemberGone(gone));
    }

    /// What is due from time to time.
    async fn look_after(&mut self) {
        for partition in all() {
            self.open_if_wanted(partition).await;
            if !self.replicas[usize::from(partition.0)].open {
                continue;
            }
            let group = group(partition);
            let status = self.groups.status(group);
            let index = |id: Option<tidegate_consensus::LogId>| id.map_or(0, |id| id.index);
            let (applied, snapshot) = (index(status.applied), index(status.snapshot));
            let writing = Arc::clone(&self.replicas[usize::from(partition.0)].writing);
            let entries =
                SNAPSHOT_ENTRIES * (1 + self.groups.snapshot_bytes(group) / SNAPSHOT_BYTES);
            if applied < snapshot + entries || writing.swap(true, Ordering::AcqRel) {
                continue;
            }
            // It asks the shard, which has other things to do: not in this task.
            let (groups, number) = (self.groups.clone(), partition.0);
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                match groups.snapshot(group).await {
                    Ok(Some(held)) => {
                        // The shard has heard of the snapshot by then: what it
                        // still needs of the log is not in there.
                        let (answer, answered) = oneshot::channel();
                        say(&shared, partition, Word::Oldest(partition, answer));
                        let needed = answered.await.unwrap_or(Some(0)).unwrap_or(u64::MAX);
                        let up_to = held.index.min(needed.saturating_sub(1));
                        // Of nothing there is nothing to forget.
                        if up_to > 0
                            && let Err(error) = groups.purge(group, up_to).await
                        {
                            debug!(partition = number, %error, "entries stay in the log");
                        }
                    }
                    Ok(None) => {}
                    Err(error) => debug!(partition = number, %error, "no snapshot"),
                }
                writing.store(false, Ordering::Release);
            });
        }
        self.bring_back().await;
        self.show();
        // Clients would wait for a partition that nobody leads. What this node is
        // to have a replica of may have one too few until it votes there.
        let is_in_sync = |partition: PartitionId| {
            let wanted = self.view.wanted.get(usize::from(partition.0));
            let votes = || self.groups.status(group(partition)).is_voter(self.node);
            self.shared.node.home(partition).is_some()
                && (!wanted.is_some_and(|wanted| wanted.contains(&self.node)) || votes())
        };
        (self.ready)(all().all(is_in_sync));
        if let Some(oldest) = self.groups.oldest() {
            (self.remove_before)(oldest);
        }
        let homes = self.announcement(&self.homes.of(self.member));
        self.peers.values().for_each(|peer| (self.announce)(peer, homes.clone()));
    }
}

pub(super) fn all() -> impl Iterator<Item = PartitionId> {
    (0..PARTITIONS).map(|partition| PartitionId(partition as u8))
}

pub(super) fn group(partition: PartitionId) -> GroupId {
    GroupId::from(partition.0)
}
