//! What a partition's Raft group applies its entries to: the shard that has the
//! partition, by words through its mailbox.

use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_consensus::{LogId, StateMachine};
use tidegate_core::ids::{Member, PartitionId};
use tokio::sync::oneshot;

use super::Word;
use crate::shard::Shared;

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
    fn apply(&mut self, _: LogId, payload: &Bytes) -> Vec<u8> {
        self.say(Word::Committed { partition: self.partition, payload: payload.clone() });
        Vec::new()
    }

    fn snapshot(&mut self) -> impl Future<Output = io::Result<Bytes>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        self.say(Word::Snapshot(self.partition, answer));
        async move { answered.await.map_err(|_| io::Error::other("the shard has ended"))? }
    }

    fn install(&mut self, bytes: Bytes) -> io::Result<()> {
        self.say(Word::Reset(self.partition));
        self.say(Word::Install(self.partition, bytes));
        Ok(())
    }
}
