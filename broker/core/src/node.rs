//! What the shards of a node share. Locks only where the path is cold.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use foldhash::quality::FixedState;

use tidegate_codec::Filter;

use crate::access::{Access, Who};
use crate::counters::Counters;
use crate::ids::{Millis, PARTITIONS, PartitionId, ShardId};
use crate::index::Index;
use crate::limits::{Limits, SHARDS_MAX};
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
        total.fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
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
    pub(crate) shards: u16,
    pub(crate) seed: u64,
    /// Milliseconds of the wall clock when the shell's clock stood at 0.
    pub(crate) epoch: Millis,
    /// By shard: whether its journal is behind, see `press`.
    pub(crate) behind: Box<[AtomicBool]>,
}

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
            settings,
            shards,
            seed,
            epoch,
            behind: (0..shards).map(|_| AtomicBool::new(false)).collect(),
        }
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

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards
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

    /// The shard that keeps the retained message of a topic.
    pub(crate) fn retained_shard(&self, topic: &str) -> ShardId {
        self.retained_partition(topic).shard(self.shards)
    }

    /// The hash of a share group, for lanes.
    pub(crate) fn share_hash(&self, name: &str, filter: &str) -> u64 {
        hash(name, self.seed) ^ hash(filter, !self.seed)
    }

    /// The partitions pinned to a shard, in the order of their local number.
    pub(crate) fn partitions_of(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> {
        (shard.0..PARTITIONS).step_by(usize::from(self.shards)).map(|p| PartitionId(p as u8))
    }
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
