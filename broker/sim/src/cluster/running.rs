//! A node that runs: its shards, and what they are told of the cluster and say
//! to it, as the broker's shell does it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use tidegate_cluster::ids::Life;
use tidegate_core::access::Open;
use tidegate_core::ids::{Member, Millis, PartitionId};
use tidegate_core::limits::Limits;
use tidegate_core::mail::{MailFormat, parcels};
use tidegate_core::settings::Settings;
use tidegate_core::{Applied, Fetch};

use super::keep::{Kept, Written};
use super::meta::Known;
use super::net::{Load, Net};
use super::raft::Payload;
use super::task::Task;
use crate::dice::Dice;
use crate::node::{Node, START};

/// How long a node's lease lasts.
const LEASE_MS: u64 = 2_000;
/// Batches of a partition on their way to their commit.
const BATCHES_MAX: u32 = 64;
/// How long records lie that nobody waits for.
const LAZY_MS: Millis = 50;
/// Bytes of mail in one piece.
const MAIL_BYTES_MAX: usize = 4 << 10;

/// What a shard is told.
#[derive(Clone, Debug)]
pub(super) enum Word {
    /// The entry with this number.
    Committed(u8, usize, Payload),
    Promote(u8, u64),
    Reset(u8),
    /// The state is wanted, for the entry with this number.
    Snapshot(u8, usize),
    Install(u8, Payload),
    /// An image as of an entry is durable.
    Saved(u8, usize, Written),
    Mail(u16, Vec<u8>),
    HomeMoved(u8),
    MemberUp(u16, u64),
    MemberLost(u16),
    MemberNew(u16),
    MemberGone(u16),
    RoutesMoved,
    /// A quorum has said that this node leads these, a bit each.
    Proven(u64),
}

/// What a shard says of a partition, and the term in which it was told to lead.
#[derive(Clone, Debug)]
pub(super) enum Said {
    Propose(u8, u64, Payload),
    Deposed(u8, u64),
    /// It leads: its sessions are in the index.
    Promoted(u8, u64),
    /// Whether this node still leads these partitions of a shard, a bit each.
    Prove(usize, u64),
    /// The state as of an entry.
    Image(u8, usize, Written),
}

/// What a shard knows of one of its partitions.
#[derive(Debug, Default)]
struct Led {
    leads: Option<u64>,
    deposed: bool,
    outstanding: u32,
    /// When records that nobody waits for have lain long enough.
    lazy_at: Option<Millis>,
    wanted: Vec<usize>,
}

/// A shard's end of the cluster.
#[derive(Debug, Default)]
struct Joint {
    words: VecDeque<Word>,
    led: BTreeMap<u8, Led>,
    peers: BTreeMap<u16, u64>,
    gone: BTreeSet<u16>,
    /// What can be read of its partitions.
    kept: BTreeMap<u8, Kept>,
    /// Reads that are under way.
    fetches: Vec<Fetch>,
}

/// What is given to a shard that takes its turn.
pub(super) struct Outside<'a> {
    pub(super) net: &'a mut Net,
    pub(super) dice: &'a mut Dice,
    /// The true time.
    pub(super) ms: u64,
}

/// A node that runs.
pub(super) struct Running {
    pub(super) at: usize,
    pub(super) member: Member,
    pub(super) life: Life,
    pub(super) node: Node,
    pub(super) core: Arc<tidegate_core::Node>,
    joints: Vec<Joint>,
    pub(super) said: VecDeque<Said>,
    pub(super) task: Task,
    /// Members that are not down.
    pub(super) alive: BTreeSet<u16>,
    /// The true time when its clock stood at `START`.
    began: u64,
    /// When its lease ends, by its clock.
    pub(super) lease_until: Millis,
    /// A claim of a node that is gone is not ended.
    pub(super) forget_gone: bool,
    /// It has been told that its life is over, or something cannot be.
    pub(super) ends: Option<&'static str>,
    /// What it does is told.
    pub(super) trace: bool,
}

impl Running {
    /// A process that has become a member.
    pub(super) fn new(known: &Known, shards: u16, seed: u64, wall: u64, ms: u64) -> Running {
        let limits = Limits {
            queue_messages_max: 1_000_000,
            queue_bytes_max: u64::MAX / 2,
            ..Limits::default()
        };
        let settings = Settings { limits, ..Settings::default() };
        let epoch = wall + ms - START;
        let core = tidegate_core::Node::kept(settings, shards, seed, Box::new(Open), epoch);
        let core = Arc::new(core.in_cluster(Member(known.member)));
        // In some an older program is among the nodes.
        core.set_feature_level(if seed.is_multiple_of(8) { 1 } else { 2 });
        let mut node = Node::of(&core, None);
        for shard in &mut node.shards {
            shard.replicate();
            shard.want_proofs();
        }
        Running {
            at: known.at,
            member: Member(known.member),
            life: known.life,
            node,
            joints: (0..shards).map(|_| Joint::default()).collect(),
            said: VecDeque::new(),
            task: Task::new(seed),
            alive: BTreeSet::new(),
            began: ms,
            lease_until: START + LEASE_MS,
            core,
            forget_gone: false,
            ends: None,
            trace: false,
        }
    }

    /// The time is this.
    pub(super) fn set_clock(&mut self, ms: u64) {
        self.node.now = START + (ms - self.began);
    }

    /// It is granted its lease now.
    pub(super) fn leased(&mut self, ms: u64) {
        self.lease_until = START + (ms - self.began) + LEASE_MS;
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            let ms = self.node.now - START + self.began;
            #[expect(clippy::print_stdout, reason = "a trace is for a terminal")]
            {
                println!("{ms:8} node {}: {}", self.at, what());
            }
        }
    }

    pub(super) fn shard_of(&self, p: u8) -> usize {
        self.core.place(PartitionId(p)).index()
    }

    pub(super) fn say(&mut self, p: u8, word: Word) {
        let shard = self.shard_of(p);
        self.joints[shard].words.push_back(word);
    }

    pub(super) fn say_to(&mut self, shard: usize, word: Word) {
        self.joints[shard].words.push_back(word);
    }

    pub(super) fn tell_all(&mut self, word: &Word) {
        self.joints.iter_mut().for_each(|joint| joint.words.push_back(word.clone()));
    }

    /// Whether nothing waits within the node.
    pub(super) fn is_quiet(&self) -> bool {
        self.node.is_quiet()
            && self.said.is_empty()
            && self.joints.iter().all(|joint| {
                joint.words.is_empty()
                    && joint.fetches.is_empty()
                    && joint.led.values().all(|led| led.lazy_at.is_none())
            })
    }

    /// What waits for what, for one who looks for a fault.
    pub(super) fn state(&self, p: u8) -> String {
        let shard = &self.node.shards[self.shard_of(p)];
        let joint = &self.joints[self.shard_of(p)];
        let open: Vec<_> = shard.entries().collect();
        format!(
            "node {} (member {}): {:?}, entries {open:?}, home {:?}, covered {} at {}, crossings {}, waiting {:?}, {:?}",
            self.at,
            self.member.0,
            joint.led.get(&p),
            self.core.home(PartitionId(p)),
            self.task.known(),
            self.node.now,
            shard.open_crossings(),
            shard.waiting_for_routes(),
            joint.peers,
        )
    }

    /// One turn of a shard; whether it did anything.
    pub(super) fn turn(&mut self, at: usize, words: usize, out: &mut Outside<'_>) -> bool {
        let mut busy = false;
        for _ in 0..words {
            let Some(word) = self.joints[at].words.pop_front() else { break };
            busy = true;
            self.take(at, word, out);
            if self.ends.is_some() {
                return true;
            }
        }
        busy |= self.read(at);
        busy |= self.node.turn(at);
        busy |= self.speak(at, out);
        busy
    }

    /// Brings what was asked for in the turn before. What is not there any more
    /// lies elsewhere by now, or was forgotten.
    fn read(&mut self, at: usize) -> bool {
        let joint = &mut self.joints[at];
        let shard = &mut self.node.shards[at];
        let fetches = std::mem::take(&mut joint.fetches);
        for fetch in &fetches {
            let kept = joint.kept.entry(fetch.partition()).or_default();
            let bodies: Option<Vec<_>> = fetch.positions.iter().map(|&p| kept.read(p)).collect();
            if shard.fetched(self.node.now, fetch, &bodies.unwrap_or_default()).is_err() {
                self.ends = Some("a message that cannot be read back");
            }
        }
        joint.fetches = shard.take_fetches();
        !fetches.is_empty() || !joint.fetches.is_empty()
    }

    fn take(&mut self, at: usize, word: Word, out: &mut Outside<'_>) {
        let now = self.node.now;
        let own = self.member.0;
        let shard = &mut self.node.shards[at];
        let joint = &mut self.joints[at];
        match word {
            Word::Committed(p, index, payload) => {
                let kept = joint.kept.entry(p).or_default();
                kept.append(index as u64, Rc::clone(&payload));
                self.committed(at, p, index as u64, &payload);
            }
            Word::Promote(p, term) => {
                let led = joint.led.entry(p).or_default();
                (led.leads, led.deposed, led.outstanding) = (Some(term), false, 0);
                shard.promote(now, PartitionId(p));
                self.core.index.lead(PartitionId(p), term);
                self.said.push_back(Said::Promoted(p, term));
                for holder in shard.members_of(PartitionId(p)) {
                    let over = holder.0 != own && !self.alive.contains(&holder.0);
                    if over && !self.forget_gone {
                        shard.node_gone_of(now, PartitionId(p), holder);
                    }
                }
            }
            Word::Reset(p) => {
                let led = joint.led.entry(p).or_default();
                (led.leads, led.deposed, led.outstanding) = (None, false, 0);
                led.lazy_at = None;
                led.wanted.clear();
                shard.reset(now, PartitionId(p));
            }
            Word::Snapshot(p, index) => {
                joint.led.entry(p).or_default().wanted.push(index);
                self.give_image(at, p);
            }
            Word::Install(p, image) => {
                let kept = joint.kept.entry(p).or_default();
                let generation = kept.next_image();
                kept.clear();
                kept.set_image(generation, Rc::clone(&image));
                match shard.install(now, PartitionId(p), generation, &image) {
                    Ok(true) => {}
                    Ok(false) => self.ends = Some("a state that is cut"),
                    Err(_) => self.ends = Some("a state that cannot be read"),
                }
            }
            Word::Saved(p, index, Written { generation, places, bytes }) => {
                let p = PartitionId(p);
                let kept = joint.kept.entry(p.0).or_default();
                if shard.saved(p, generation, &places) {
                    kept.set_image(generation, bytes);
                }
                let next = index as u64 + 1;
                kept.purge(shard.oldest_entry(p).map_or(next, |oldest| oldest.min(next)));
            }
            Word::Mail(from, bytes) => {
                let over = joint.gone.contains(&from);
                if over || shard.inbound(now, Member(from), &bytes).is_err() {
                    if !over {
                        self.ends = Some("mail that cannot be read");
                    }
                    if let Some(session) = joint.peers.get(&from)
                        && let Some(session) = out.net.sessions.get_mut(session)
                    {
                        session.sever([0, 0], [out.ms, out.ms + out.dice.below(50) as u64]);
                    }
                }
            }
            Word::HomeMoved(p) => shard.home_moved(now, PartitionId(p)),
            Word::MemberUp(member, session) => {
                joint.peers.insert(member, session);
            }
            Word::MemberLost(member) => {
                joint.peers.remove(&member);
                shard.forget_mail(Member(member));
                shard.member_lost(now, Member(member));
            }
            Word::MemberNew(member) => {
                joint.gone.remove(&member);
            }
            Word::MemberGone(member) if member != own => {
                joint.gone.insert(member);
                shard.peer_gone(now, Member(member));
                shard.forget_mail(Member(member));
                if !self.forget_gone {
                    shard.node_gone(now, Member(member));
                }
            }
            Word::MemberGone(_) => {}
            Word::RoutesMoved => shard.routes_moved(now),
            Word::Proven(partitions) => shard.proven(partitions),
        }
    }

    fn committed(&mut self, at: usize, p: u8, index: u64, payload: &[u8]) {
        let led = self.joints[at].led.entry(p).or_default();
        if led.deposed {
            return;
        }
        let now = self.node.now;
        let applied = self.node.shards[at].committed(now, PartitionId(p), index, payload);
        if matches!(applied, Ok(Applied::Void | Applied::Deposed)) {
            self.tell(|| format!("an entry of partition {p}: {applied:?}"));
        }
        let led = self.joints[at].led.entry(p).or_default();
        match applied {
            Ok(Applied::Own) => led.outstanding = led.outstanding.saturating_sub(1),
            Ok(Applied::Followed(_) | Applied::Void) => {}
            Ok(Applied::Deposed) => {
                led.deposed = true;
                if let Some(term) = led.leads {
                    self.said.push_back(Said::Deposed(p, term));
                }
            }
            Err(_) => self.ends = Some("an entry that cannot be applied"),
        }
        self.give_image(at, p);
    }

    fn give_image(&mut self, at: usize, p: u8) {
        let Joint { led, kept, .. } = &mut self.joints[at];
        let led = led.entry(p).or_default();
        if led.wanted.is_empty() || led.deposed {
            return;
        }
        let now = self.node.now;
        let kept = kept.entry(p).or_default();
        let generation = kept.next_image();
        let image = self.node.shards[at].image_of(now, PartitionId(p), generation);
        let Some(image) = image else { return };
        let Some(written) = kept.write(generation, &image) else {
            self.ends = Some("a message of an image that cannot be read");
            return;
        };
        for index in led.wanted.drain(..) {
            self.said.push_back(Said::Image(p, index, written.clone()));
        }
    }

    /// Hands out what is to be committed, and mail for other nodes.
    fn speak(&mut self, at: usize, out: &mut Outside<'_>) -> bool {
        let mut busy = false;
        let shard = &mut self.node.shards[at];
        let joint = &mut self.joints[at];
        if let Some(partitions) = shard.take_unproven() {
            self.said.push_back(Said::Prove(at, partitions));
        }
        let open: Vec<(u8, bool)> = shard.entries().map(|(p, waits)| (p.0, waits)).collect();
        for (p, waits) in open {
            let Some(led) = joint.led.get_mut(&p) else { continue };
            let Some(term) = led.leads else { continue };
            let now = self.node.now;
            if !waits && now < *led.lazy_at.get_or_insert(now + LAZY_MS) {
                continue;
            }
            led.lazy_at = None;
            while !led.deposed && led.outstanding < BATCHES_MAX {
                let Some((_, payload)) = shard.take_entry(PartitionId(p)) else { break };
                self.said.push_back(Said::Propose(p, term, Rc::from(payload)));
                led.outstanding += 1;
                busy = true;
            }
        }
        let members: Vec<Member> = shard.outbound_members().collect();
        for to in members {
            let Some(&session) = joint.peers.get(&to.0) else { continue };
            // A link that is full takes it later.
            while out.dice.below(8) > 0 {
                let mut bytes = Vec::new();
                if shard.outbound_to(to, MailFormat::default(), MAIL_BYTES_MAX, &mut bytes) == 0 {
                    break;
                }
                busy = true;
                let due = out.ms + out.dice.below(out.net.late + 1) as u64;
                out.net.send(session, self.at, Load::Mail(bytes), due);
            }
            // What is left goes next time: the world is not at rest.
            busy |= shard.outbound_members().any(|member| member == to);
        }
        busy
    }

    /// Mail of another node has come: to the shards that it is for.
    pub(super) fn deliver(&mut self, from: u16, body: &[u8]) {
        let mut by_shard: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for parcel in parcels(body) {
            match parcel {
                Ok((shard, parcel)) => {
                    by_shard.entry(usize::from(shard)).or_default().extend_from_slice(parcel);
                }
                Err(_) => self.ends = Some("parcels that cannot be read"),
            }
        }
        for (shard, parcels) in by_shard {
            if let Some(joint) = self.joints.get_mut(shard) {
                joint.words.push_back(Word::Mail(from, parcels));
            }
        }
    }
}
