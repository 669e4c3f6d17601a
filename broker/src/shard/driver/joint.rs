//! The shard's part in a cluster: what it is told of partitions and other nodes,
//! and what it hands out to them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use tidegate_consensus::Body;
use tidegate_core::ids::{Member, Millis, PartitionId};
use tidegate_core::mail::MailFormat;
use tidegate_core::{Applied, Fetch};
use tidegate_mesh::{MailClass, Peer};
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::Driver;
use crate::replication::machine::Painted;
use crate::replication::{BATCHES_MAX, MAIL_BYTES_MAX, Said, Word};
use crate::store::reader::{Ask, die};
use crate::store::{FETCHES_MAX, Fetched, LAZY_MS};

/// Words that are taken in one turn.
const WORDS_A_TURN: usize = 256;

/// Bytes of a state that are read at once.
const INSTALL_BYTES: usize = 1 << 20;
/// How long messages may be found nowhere while the shard has not heard where
/// they lie.
const LOST_MS: Millis = 60_000;

/// What a shard knows of one of its partitions.
#[derive(Debug)]
struct Led {
    partition: PartitionId,
    /// The term in which this node leads it.
    leads: Option<u64>,
    /// Another leader's entry has come: what is here is about to be reset.
    deposed: bool,
    /// Entries on their way.
    outstanding: u32,
    /// When records that nobody waits for have lain long enough.
    lazy_at: Option<Millis>,
    /// Who wants its state.
    wanted: Vec<oneshot::Sender<io::Result<Painted>>>,
    /// The image in which messages of its queues may lie, with its number.
    image: Option<(u32, Body)>,
    /// Images that were numbered.
    images: u32,
    /// Since when nothing was found of what was asked for.
    lost_since: Option<Millis>,
}

/// A shard's end of the cluster.
#[derive(Debug)]
pub(crate) struct Joint {
    led: Vec<Led>,
    /// The first `lazy_at` of them, as of the last turn.
    lazy_at: Option<Millis>,
    /// Who can be reached, by member.
    peers: HashMap<u16, Peer>,
    /// Members that are no more, though they may not know it yet.
    gone: HashSet<u16>,
    parcels: Vec<u8>,
    /// Messages that the reader has not been asked for, and questions that it has.
    fetches: VecDeque<Fetch>,
    fetching: usize,
}

impl Joint {
    pub(crate) fn new(partitions: impl Iterator<Item = PartitionId>) -> Joint {
        let led = partitions.map(|partition| Led {
            partition,
            leads: None,
            deposed: false,
            outstanding: 0,
            lazy_at: None,
            wanted: Vec::new(),
            image: None,
            images: 0,
            lost_since: None,
        });
        Joint {
            led: led.collect(),
            lazy_at: None,
            peers: HashMap::new(),
            gone: HashSet::new(),
            parcels: Vec::new(),
            fetches: VecDeque::new(),
            fetching: 0,
        }
    }

    /// When something is to be committed though nobody waits for it.
    pub(super) fn next_tick(&self) -> Option<Millis> {
        self.lazy_at
    }

    fn of(&mut self, partition: PartitionId) -> Option<&mut Led> {
        self.led.iter_mut().find(|led| led.partition == partition)
    }
}

impl Driver {
    /// Does what the cluster says; whether there is more.
    pub(super) fn take_words(&mut self, now: Millis) -> bool {
        if self.joint.is_none() {
            return false;
        }
        for _ in 0..WORDS_A_TURN {
            let Some(word) = self.mailbox().next_word() else { return false };
            self.take_word(now, word);
            if self.core.pressed() {
                self.flush(now);
            }
        }
        true
    }

    fn take_word(&mut self, now: Millis, word: Word) {
        let member = self.node().member();
        let Some(joint) = &mut self.joint else { return };
        match word {
            Word::Committed { partition, index, payload } => {
                self.committed(now, partition, index, &payload);
            }
            Word::Promote(partition, term) => {
                let Some(led) = joint.of(partition) else { return };
                (led.leads, led.deposed, led.outstanding) = (Some(term), false, 0);
                self.core.promote(now, partition);
                self.node().index.lead(partition, term);
                if let Some(outlet) = &self.shared.outlet {
                    outlet.say(Said::Leads(partition, term));
                }
                // Whoever went before this node led has not been told to it.
                for holder in self.core.members_of(partition) {
                    let alive = self.shared.outlet.as_ref().is_none_or(|o| o.is_alive(holder));
                    if holder != member && !alive {
                        self.core.node_gone_of(now, partition, holder);
                    }
                }
            }
            Word::Moved(partition) => self.core.count_moved(partition),
            Word::Reset(partition) => {
                let Some(led) = joint.of(partition) else { return };
                (led.leads, led.deposed, led.outstanding) = (None, false, 0);
                led.lazy_at = None;
                for wanted in led.wanted.drain(..) {
                    let _ = wanted.send(Err(io::Error::other("the partition was reset")));
                }
                (led.image, led.lost_since) = (None, None);
                self.core.reset(now, partition);
            }
            Word::Snapshot(partition, answer) => {
                let Some(led) = joint.of(partition) else { return };
                led.wanted.push(answer);
                self.give_image(now, partition);
            }
            Word::Install(partition, body) => self.install(now, partition, body),
            Word::Saved { partition, generation, places, body } => {
                let Some(led) = joint.of(partition) else { return };
                if self.core.saved(partition, generation, &places) {
                    (led.image, led.lost_since) = (Some((generation, body)), None);
                }
            }
            Word::Oldest(partition, answer) => {
                // Who asked may have gone.
                let _ = answer.send(self.core.oldest_entry(partition));
            }
            Word::Mail { from, parcels, room } => {
                self.read_mail(now, from, &parcels);
                drop(room);
            }
            Word::HomeMoved(partition) => self.core.home_moved(now, partition),
            Word::MemberUp(up, peer) => {
                joint.peers.insert(up.0, peer);
            }
            Word::MemberLost(lost) => {
                joint.peers.remove(&lost.0);
                // As if it had been on its way.
                self.core.forget_mail(lost);
                self.core.member_lost(now, lost);
            }
            Word::MemberNew(new) => {
                joint.gone.remove(&new.0);
            }
            Word::MemberGone(gone) if gone != member => {
                joint.gone.insert(gone.0);
                self.core.peer_gone(now, gone);
                self.core.forget_mail(gone);
                self.core.node_gone(now, gone);
            }
            Word::RoutesMoved => self.core.routes_moved(now),
            Word::Proven(partitions) => self.core.proven(partitions),
            Word::MemberGone(_) | Word::Writable => {}
        }
    }

    fn read_mail(&mut self, now: Millis, from: Member, parcels: &[u8]) {
        let Some(joint) = &self.joint else { return };
        let refused = if joint.gone.contains(&from.0) {
            // It has been replaced in all that it was; it will hear of it.
            "this node is no member any more"
        } else if let Err(error) = self.core.inbound(now, from, parcels) {
            // Its checksum was right: another version, or our own mistake.
            warn!(member = from.0, %error, "mail of another node was not understood");
            "mail that was not understood"
        } else {
            return;
        };
        if let Some(peer) = self.joint.as_ref().and_then(|joint| joint.peers.get(&from.0)) {
            peer.disconnect(refused);
        }
    }

    /// An entry of a partition was committed, of whomever.
    fn committed(&mut self, now: Millis, partition: PartitionId, index: u64, payload: &[u8]) {
        let Some(led) = self.joint.as_mut().and_then(|joint| joint.of(partition)) else { return };
        if led.deposed {
            return;
        }
        let leads = led.leads;
        match self.core.committed(now, partition, index, payload) {
            Ok(Applied::Own) => led.outstanding = led.outstanding.saturating_sub(1),
            Ok(Applied::Followed(_) | Applied::Void) => {}
            Ok(Applied::Deposed) => {
                (led.deposed, led.lazy_at) = (true, None);
                if let (Some(outlet), Some(term)) = (&self.shared.outlet, leads) {
                    outlet.say(Said::Deposed(partition, term));
                }
            }
            Err(error) => self.fail(partition, &error),
        }
        self.give_image(now, partition);
    }

    /// Writes the state of a partition out for whoever wants it, unless entries
    /// are on their way: then after the next.
    fn give_image(&mut self, now: Millis, partition: PartitionId) {
        let Some(led) = self.joint.as_mut().and_then(|joint| joint.of(partition)) else { return };
        if led.wanted.is_empty() || led.deposed {
            return;
        }
        let generation = led.images + 1;
        let Some(image) = self.core.image_of(now, partition, generation) else { return };
        led.images = generation;
        let (image, before) = (Arc::new(image), led.image.clone());
        let painted = Painted { image, generation, before };
        for wanted in led.wanted.drain(..) {
            // Who asked may have gone.
            let _ = wanted.send(Ok(painted.clone()));
        }
    }

    /// Reads the state of a partition that was reset. Its file was just written
    /// or held against its checksum: the kernel has it.
    fn install(&mut self, now: Millis, partition: PartitionId, body: Body) {
        let Some(led) = self.joint.as_mut().and_then(|joint| joint.of(partition)) else { return };
        led.images += 1;
        let generation = led.images;
        led.image = Some((generation, body.clone()));
        let (mut at, mut ended) = (0, false);
        while at < body.bytes() {
            let piece = match body.read(at, INSTALL_BYTES) {
                Ok(piece) => piece,
                Err(error) => die(&error),
            };
            at += piece.len() as u64;
            match self.core.install(now, partition, generation, &piece) {
                Ok(is_whole) => ended = is_whole,
                Err(error) => self.fail(partition, &error),
            }
        }
        if !ended {
            self.fail(partition, &io::Error::other("a state that is cut"));
        }
    }

    /// Takes the messages of queues that the reader has brought.
    pub(super) fn take_fetched(&mut self, now: Millis) {
        let Some(joint) = &mut self.joint else { return };
        while let Some(Fetched { fetch, bodies }) =
            self.shared.mailboxes[self.id.index()].next_fetched()
        {
            joint.fetching -= 1;
            let partition = PartitionId(fetch.partition());
            if let Some(led) = joint.of(partition) {
                // They lie elsewhere, as was said since or is about to be.
                led.lost_since = bodies
                    .is_empty()
                    .then(|| led.lost_since.unwrap_or(now))
                    .filter(|_| led.leads.is_some());
                if led.lost_since.is_some_and(|since| now > since + LOST_MS) {
                    die(&format!(
                        "partition {}: neither its log nor its image has it",
                        partition.0
                    ));
                }
            }
            let outcome = self.core.fetched(now, &fetch, &bodies);
            // Its checksum was right: we wrote something else than we read.
            outcome.expect("what lies at the position of a message is a message");
        }
    }

    /// Asks the reader for messages of queues.
    pub(super) fn fetch(&mut self) {
        let (Some(joint), Some(store)) = (&mut self.joint, &self.shared.store) else { return };
        joint.fetches.extend(self.core.take_fetches());
        while joint.fetching < FETCHES_MAX
            && let Some(fetch) = joint.fetches.pop_front()
        {
            let image = joint.of(PartitionId(fetch.partition())).and_then(|led| led.image.clone());
            store.fetch(self.id, Ask { fetch, image });
            joint.fetching += 1;
        }
    }

    /// What was committed cannot be applied: this replica would be another than
    /// the rest.
    fn fail(&self, partition: PartitionId, error: &dyn std::error::Error) -> ! {
        error!(
            partition = partition.0,
            %error,
            "a committed record cannot be applied; if a newer version wrote it, start that one"
        );
        crate::telemetry::log::flush();
        std::process::exit(crate::node::EXIT_SHARD_FAILED);
    }

    /// Hands out what is to be committed, and mail for other nodes.
    pub(super) fn speak(&mut self, now: Millis) {
        let (Some(joint), Some(outlet)) = (&mut self.joint, &self.shared.outlet) else { return };
        if self.shared.node.index.has_changes() {
            outlet.wake_routes();
        }
        if let Some(partitions) = self.core.take_unproven() {
            outlet.say(Said::Prove(self.id, partitions));
        }
        joint.lazy_at = None;
        for led in &mut joint.led {
            let Some(term) = led.leads else { continue };
            match self.core.has_entry(led.partition) {
                None => {
                    led.lazy_at = None;
                    continue;
                }
                Some(true) => {}
                Some(false) => {
                    let due = *led.lazy_at.get_or_insert(now + LAZY_MS);
                    if now < due {
                        joint.lazy_at = Some(joint.lazy_at.map_or(due, |first| first.min(due)));
                        continue;
                    }
                }
            }
            led.lazy_at = None;
            while !led.deposed && led.outstanding < BATCHES_MAX {
                let Some((_, payload)) = self.core.take_entry(led.partition) else { break };
                outlet.say(Said::Propose(led.partition, term, payload.into()));
                led.outstanding += 1;
            }
        }
        let members: Vec<_> = self.core.outbound_members().collect();
        for to in members {
            // Who has no link, or a full one, gets it when there is room: a word comes.
            let class = MailClass::Shard(self.id.index() as u16);
            let Some(peer) = joint.peers.get(&to.0) else { continue };
            let format = MailFormat::of_protocol(peer.proto());
            while peer.ready(class) {
                let parcels = &mut joint.parcels;
                parcels.clear();
                if self.core.outbound_to(to, format, MAIL_BYTES_MAX, parcels) == 0 {
                    break;
                }
                // What was not taken is lost with the link, which is told apart.
                let _ = peer.send(class, std::mem::take(parcels).into());
            }
        }
    }
}
