//! What the shards of a node share. Locks only where the path is cold.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use foldhash::quality::FixedState;

use tidegate_codec::Filter;

use crate::access::{Access, Who};
use crate::counters::Counters;
use crate::full::{Elsewhere, FullQueues};
use crate::ids::{Member, Millis, PARTITIONS, PartitionId, ShardId};
use crate::index::Index;
use crate::limits::{Limits, SHARDS_MAX};
use crate::newest::Newest;
use crate::pressure::{Stage, last, tight};
use crate::room::Room;
use crate::settings::Settings;
use crate::sources::Buckets;

/// Node-wide totals that limits are held against.
#[derive(Debug, Default)]
pub struct Totals {
    /// Open connections.
    pub connections: AtomicU64,
    /// Of these, without a complete CONNECT.
    pub half_open: AtomicU64,
    /// Durable sessions.
    pub sessions: AtomicU64,
    /// Retained messages.
    pub retained_messages: AtomicU64,
    /// Bytes of them.
    pub retained_bytes: AtomicU64,
}

impl Totals {
    /// Counts one more unless `max` is reached.
    pub(crate) fn take(total: &AtomicU64, max: u64) -> bool {
        total.fetch_update(Relaxed, Relaxed, |n| (n < max).then(|| n + 1)).is_ok()
    }
}

/// One broker node.
#[derive(Debug)]
pub struct Node {
    /// What it offers.
    pub settings: Settings,
    /// Who wants which topic.
    pub index: Index,
    /// One a shard.
    pub counters: Box<[Counters]>,
    /// Node-wide totals.
    pub totals: Totals,
    /// What a client may do.
    pub access: Box<dyn Access>,
    /// CONNECTs by client id.
    pub(crate) connects: Buckets,
    /// The bounds while memory is short, and while it is nearly used up.
    tight: Limits,
    last: Limits,
    pressure: AtomicU8,
    room: AtomicU8,
    /// Bytes that resumes may still write while there is no room.
    resume_bytes: AtomicU64,
    /// Queues that take no more.
    pub(crate) full: FullQueues,
    /// By shard: what waits at the others.
    pub(crate) elsewhere: Box<[Elsewhere]>,
    /// Counts CONNECTs that ask for a claim.
    claims: AtomicU64,
    pub(crate) shards: u16,
    pub(crate) seed: u64,
    /// Milliseconds of the wall clock when the shell's clock stood at 0.
    pub(crate) epoch: Millis,
    /// By shard: whether its journal is behind, see `press`.
    pub(crate) behind: Box<[AtomicBool]>,
    /// The partitions led here whose journals are behind, a bit each.
    pub(crate) behind_of: AtomicU64,
    member: Member,
    /// By partition: the shard of its leader; [`NO_HOME`]: not known.
    homes: Box<[AtomicU32]>,
    /// By member: how many shards it has; 0: gone for good, or not known yet.
    peers: Box<[AtomicU8]>,
    /// Until when it is certain that all routes of other nodes are known here.
    covered_until: AtomicU64,
    /// Whether all members know errands of other nodes.
    errands: AtomicBool,
    /// Of publishers that may go from node to node.
    pub(crate) newest: Newest,
}

/// Since this feature level of a cluster its members know errands of other nodes.
const ERRANDS_LEVEL: u16 = 2;

/// No shard has this number.
const NO_HOME: u32 = u32::MAX;

impl Node {
    /// A node of `shards` shards. `seed` must be unpredictable: it keeps clients
    /// from choosing topics and ids that collide.
    ///
    /// # Panics
    /// When `shards` is 0 or above [`SHARDS_MAX`].
    pub fn new(settings: Settings, shards: u16, seed: u64, access: Box<dyn Access>) -> Arc<Node> {
        Arc::new(Node::kept(settings, shards, seed, access, 0))
    }

    /// The same for a node whose state is kept. `seed` is then the one that
    /// its records were written with; `epoch` is what the wall clock showed, in
    /// milliseconds since 1970, when the shell's clock stood at 0.
    ///
    /// # Panics
    /// As [`Node::new`].
    pub fn kept(
        settings: Settings,
        shards: u16,
        seed: u64,
        access: Box<dyn Access>,
        epoch: Millis,
    ) -> Node {
        assert!((1..=SHARDS_MAX as u16).contains(&shards), "{shards} shards: 1 to {SHARDS_MAX}");
        Node {
            index: Index::new(seed),
            counters: (0..shards).map(|_| Counters::default()).collect(),
            totals: Totals::default(),
            access,
            connects: Buckets::new(seed ^ 0x636c_6965_6e74),
            tight: tight(&settings.limits),
            last: last(&settings.limits),
            pressure: AtomicU8::new(Stage::Calm as u8),
            room: AtomicU8::new(Room::Enough as u8),
            resume_bytes: AtomicU64::new(0),
            full: FullQueues::default(),
            elsewhere: (0..shards).map(|_| Elsewhere::default()).collect(),
            claims: AtomicU64::new(0),
            settings,
            shards,
            seed,
            epoch,
            behind: (0..shards).map(|_| AtomicBool::new(false)).collect(),
            behind_of: AtomicU64::new(0),
            member: Member::ALONE,
            homes: homes(|p| u32::from(p.shard(Member::ALONE, shards).0)),
            peers: Box::default(),
            covered_until: AtomicU64::new(Millis::MAX),
            errands: AtomicBool::new(false),
            newest: Newest::default(),
        }
    }

    /// The same as a member of a cluster, whose nodes all have one seed. Nobody
    /// knows yet who leads which partition: see [`Node::set_home`]. To be said
    /// before there are shards.
    #[must_use]
    pub fn in_cluster(self, member: Member) -> Node {
        self.index.watch();
        let homes = homes(|_| NO_HOME);
        let peers = (0..=Member::MAX.0).map(|_| AtomicU8::new(0)).collect();
        let newest = Newest::new();
        Node { member, homes, peers, covered_until: AtomicU64::new(0), newest, ..self }
    }

    /// Which member of its cluster it is.
    #[inline]
    pub fn member(&self) -> Member {
        self.member
    }

    /// Whether it is in no cluster.
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.member == Member::ALONE
    }

    /// The shard that leads a partition, of this node or another; none: nobody
    /// does at present, as far as is known here.
    #[inline]
    pub fn home(&self, partition: PartitionId) -> Option<ShardId> {
        let home = self.homes.get(usize::from(partition.0))?.load(Relaxed);
        u16::try_from(home).ok().map(ShardId)
    }

    /// Says who leads a partition. Every shard is to be told with
    /// [`Shard::home_moved`](crate::Shard::home_moved) then.
    pub fn set_home(&self, partition: PartitionId, home: Option<ShardId>) {
        if let Some(of) = self.homes.get(usize::from(partition.0)) {
            of.store(home.map_or(NO_HOME, |shard| u32::from(shard.0)), Relaxed);
        }
    }

    /// Another member is there and has so many shards. To be said before what it
    /// announces is told to the [`Index`].
    pub fn peer_up(&self, member: Member, shards: u16) {
        if let Some(peer) = self.peers.get(usize::from(member.0)) {
            peer.store(shards.clamp(1, SHARDS_MAX as u16) as u8, Relaxed);
        }
    }

    /// A member is gone for good: nothing is sent to it any more. Every shard is
    /// to be told with [`Shard::peer_gone`](crate::Shard::peer_gone) then.
    pub fn peer_gone(&self, member: Member) {
        if let Some(peer) = self.peers.get(usize::from(member.0)) {
            peer.store(0, Relaxed);
        }
    }

    /// How many shards another member has; none: it is gone.
    pub(crate) fn shards_of(&self, member: Member) -> Option<u8> {
        let shards = self.peers.get(usize::from(member.0))?.load(Relaxed);
        (shards > 0).then_some(shards)
    }

    /// Until when it is certain that the routes of all other nodes are known here
    /// (R1); none: it is not. PUBLISHes of QoS 1 and 2 wait otherwise. When that
    /// ends, every shard is to be told with
    /// [`Shard::routes_moved`](crate::Shard::routes_moved).
    pub fn set_covered(&self, until: Option<Millis>) {
        self.covered_until.store(until.unwrap_or(0), Relaxed);
    }

    /// The feature level of the cluster: what all of its members can read. It never
    /// falls.
    pub fn set_feature_level(&self, level: u16) {
        self.errands.store(level >= ERRANDS_LEVEL, Relaxed);
    }

    /// Whether the partition of a publisher may be asked to route its messages.
    pub(crate) fn takes_errands(&self) -> bool {
        self.errands.load(Relaxed)
    }

    /// Whether publishes may be acknowledged by what is known here. Always, for a
    /// node that is alone.
    #[inline]
    pub(crate) fn is_covered(&self, now: Millis) -> bool {
        now < self.covered_until.load(Relaxed)
    }

    /// The shard of this node that has a partition, which it leads or follows.
    #[inline]
    pub fn place(&self, partition: PartitionId) -> ShardId {
        partition.shard(self.member, self.shards)
    }

    /// The number of the next CONNECT that asks for a claim, in the order in
    /// which they were read.
    pub(crate) fn claim_order(&self) -> u64 {
        self.claims.fetch_add(1, Relaxed) + 1
    }

    /// Whether `who` may not have a subscription that it has.
    pub(crate) fn denies(&self, who: Who<'_>, text: &str) -> bool {
        // Stored filters were parsed when they came.
        Filter::parse(text).is_ok_and(|filter| self.access.subscribe(who, filter.filter()).is_err())
    }

    /// How short memory is.
    pub fn pressure(&self) -> Stage {
        Stage::of(self.pressure.load(Relaxed))
    }

    /// Says how short memory is.
    pub fn set_pressure(&self, stage: Stage) {
        self.pressure.store(stage as u8, Relaxed);
    }

    /// How much room the disk has.
    #[inline]
    pub fn room(&self) -> Room {
        Room::of(self.room.load(Relaxed))
    }

    /// Says how much room the disk has.
    pub fn set_room(&self, room: Room) {
        self.room.store(room as u8, Relaxed);
    }

    /// Says how many bytes clients may make us write, while there is no room,
    /// who come back to a session to fetch what waits for them.
    pub fn set_resume_bytes(&self, bytes: u64) {
        self.resume_bytes.store(bytes, Relaxed);
    }

    /// Whether a session that is there may be resumed though there is no room.
    pub(crate) fn may_resume(&self) -> bool {
        self.resume_bytes.load(Relaxed) > 0
    }

    /// Takes bytes for a resume; false: there are not so many any more.
    pub(crate) fn take_resume_bytes(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        self.resume_bytes.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// The bounds in effect.
    #[inline]
    pub(crate) fn limits(&self) -> &Limits {
        let stage = self.pressure.load(Relaxed);
        if stage < Stage::Shrink as u8 {
            &self.settings.limits
        } else if stage < Stage::Shed as u8 {
            &self.tight
        } else {
            &self.last
        }
    }

    /// What places client ids and topics.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The partition of the session of a client id.
    pub fn partition_of_client(&self, client: &str) -> PartitionId {
        PartitionId::of(self.client_hash(client))
    }

    /// The partition of the retained message of a topic.
    pub fn partition_of_topic(&self, topic: &str) -> PartitionId {
        self.retained_partition(topic)
    }

    /// The hash that places a client id, and that No Local compares.
    pub(crate) fn client_hash(&self, client: &str) -> u64 {
        hash(client, self.seed)
    }

    /// The hash that places a retained topic.
    pub(crate) fn topic_hash(&self, topic: &str) -> u64 {
        hash(topic, !self.seed)
    }

    /// The partition of the retained message of a topic.
    pub(crate) fn retained_partition(&self, topic: &str) -> PartitionId {
        PartitionId::of(self.topic_hash(topic))
    }

    /// The hash of a share group, for lanes.
    pub(crate) fn share_hash(&self, name: &str, filter: &str) -> u64 {
        hash(name, self.seed) ^ hash(filter, !self.seed)
    }

    /// The partitions pinned to a shard, in the order of their local number.
    pub(crate) fn partitions_of(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> {
        (shard.index() as u16..PARTITIONS)
            .step_by(usize::from(self.shards))
            .map(|p| PartitionId(p as u8))
    }
}

fn homes(of: impl Fn(PartitionId) -> u32) -> Box<[AtomicU32]> {
    (0..PARTITIONS).map(|p| AtomicU32::new(of(PartitionId(p as u8)))).collect()
}

fn hash(text: &str, seed: u64) -> u64 {
    // foldhash's quality variant, seeded: cheap, and not to be steered by clients.
    FixedState::with_seed(seed).hash_one(Bytes(text))
}

struct Bytes<'a>(&'a str);

impl Hash for Bytes<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write(self.0.as_bytes());
    }
}
