//! What a node that is alone keeps, for when it becomes one of a cluster: a
//! shard that has read all records back writes each partition as its first
//! replica is to have it.

use std::sync::Arc;

use super::Shard;
use crate::ids::{Millis, PartitionId};
use crate::partition::{Image, Keeps, Partition, RecordError};

impl Shard {
    /// All records were read back, by a shard that keeps ([`Shard::keep`]) and
    /// does nothing else: the connections of before end, as at a start.
    ///
    /// # Errors
    /// Our own record is not understood.
    pub fn end_alone(&mut self, now: Millis) -> Result<(), RecordError> {
        for at in 0..self.partitions.len() {
            let ended = self.with_replayed(at, None, &mut Vec::new(), |partition, cx| {
                partition.end_alone(now, cx)
            });
            ended.transpose()?;
        }
        Ok(())
    }

    /// How much this shard's partitions keep.
    pub fn keeps_alone(&self) -> Keeps {
        let mut all = Keeps::default();
        for (partition, retained) in self.partitions.iter().zip(&self.retained_of) {
            let keeps = partition.keeps();
            all.sessions += keeps.sessions;
            all.messages += keeps.messages;
            all.bytes += keeps.bytes;
            all.errands += keeps.errands;
            all.retained += retained.len() as u64;
        }
        all
    }

    /// The state of a partition as its first replica is to have it, of the only
    /// shard of a node: it looks at the others of it.
    pub fn image_alone(&self, now: Millis, p: PartitionId) -> Image {
        let at = self.local_number(p);
        let Shard { node, partitions, retained, retained_of, .. } = self;
        let mut topics: Vec<&Arc<str>> = retained_of[at].iter().collect();
        topics.sort_unstable();
        let messages = topics.into_iter().filter_map(|topic| retained.get(topic));
        let open: Vec<_> = partitions.iter().map(Partition::open_errands).collect();
        partitions[at].image_alone(now, node, messages, &open)
    }
}
