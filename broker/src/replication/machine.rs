//! What a partition's Raft group applies its entries to: the shard that has the
//! partition, by words through its mailbox.

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_consensus::{Body, Entries, LogId, Put, SnapshotSource, StateMachine};
use tidegate_core::Image;
use tidegate_core::ids::{Member, PartitionId};
use tokio::sync::oneshot;

use super::Word;
use super::bodies::{self, BodyError};
use crate::shard::Shared;
use crate::store::reader::die;

/// One replica of a partition.
pub(crate) struct Machine {
    partition: PartitionId,
    shared: Arc<Shared>,
}

impl Machine {
    /// The shard's state of the partition has to be empty.
    pub(crate) fn new(partition: PartitionId, shared: Arc<Shared>) -> Machine {
        Machine { partition, shared }
    }

    fn say(&self, word: Word) {
        say(&self.shared, self.partition, word);
    }
}

/// Says something to the shard of a partition.
pub(crate) fn say(shared: &Shared, partition: PartitionId, word: Word) {
    let shard = partition.shard(Member::ALONE, shared.node.shards());
    shared.mailboxes[shard.index()].say(word);
}

impl StateMachine for Machine {
    fn apply(&mut self, log: LogId, payload: &Bytes) -> Vec<u8> {
        let (index, payload) = (log.index, payload.clone());
        self.say(Word::Committed { partition: self.partition, index, payload });
        Vec::new()
    }

    fn snapshot(
        &mut self,
        entries: Entries,
    ) -> impl Future<Output = io::Result<Box<dyn SnapshotSource>>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        self.say(Word::Snapshot(self.partition, answer));
        let (partition, shared) = (self.partition, Arc::clone(&self.shared));
        async move {
            let painted = answered.await.map_err(|_| io::Error::other("the shard has ended"))??;
            let source = ImageSource { partition, shared, painted, entries, places: Vec::new() };
            Ok(Box::new(source) as Box<dyn SnapshotSource>)
        }
    }

    fn install(&mut self, body: Body) -> io::Result<()> {
        self.say(Word::Reset(self.partition));
        self.say(Word::Install(self.partition, body));
        Ok(())
    }
}

/// The state of a partition as its shard gave it out.
#[derive(Clone, Debug)]
pub(crate) struct Painted {
    pub(crate) image: Arc<Image>,
    /// Its number.
    pub(crate) generation: u32,
    /// The image before, in which some of its messages lie.
    pub(crate) before: Option<(u32, Body)>,
}

/// An image on its way to its file.
struct ImageSource {
    partition: PartitionId,
    shared: Arc<Shared>,
    painted: Painted,
    entries: Entries,
    /// Where its records lie in it.
    places: Vec<u64>,
}

impl SnapshotSource for ImageSource {
    fn write(&mut self, put: Put<'_>) -> io::Result<()> {
        let Painted { image, before, .. } = &self.painted;
        let entries = &mut self.entries;
        let read = |position| match bodies::read(position, entries, before.as_ref()) {
            Ok(Some(body)) => Ok(body),
            // All has been forgotten meanwhile: nobody wants this image.
            Ok(None) => Err(BodyError::Gone(position)),
            Err(error) => die(&error),
        };
        let put = |piece: &[u8]| put(piece).map_err(BodyError::Io);
        self.places = image.write(read, crc32c::crc32c, put).map_err(io::Error::other)?;
        Ok(())
    }

    fn saved(self: Box<Self>, body: Body) {
        let ImageSource { partition, shared, painted, places, .. } = *self;
        let generation = painted.generation;
        say(&shared, partition, Word::Saved { partition, generation, places, body });
    }
}
