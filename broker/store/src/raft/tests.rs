use std::io;
use std::sync::{Arc, Mutex};

use futures_util::Stream;
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{OptionalSend, RaftLogReader, RaftSnapshotBuilder, StorageError, StorageHelper};

use super::*;
use crate::disk::SimDisk;
use crate::log::{Log, Options};
use crate::membership::push_sole_voter;
use crate::record::Kind;

openraft::declare_raft_types!(
    Types:
        D = EntryBody,
        R = String,
        NodeId = u64,
        Node = EmptyNode,
        LeaderId = LeaderId<u64, u64>,
);

type Reply = (Written, io::Result<Position>);

/// Writes at once, and answers at once or when it is told to.
#[derive(Clone)]
struct Desk {
    log: Arc<Mutex<Log<SimDisk>>>,
    held: Option<Arc<Mutex<Vec<Reply>>>>,
}

impl Writer for Desk {
    fn submit(&self, batch: Batch, durable: bool, written: Written) {
        let mut log = self.log.lock().expect("no test panics in it");
        let result = log.append(&[&batch]).map_err(io::Error::other).and_then(|appended| {
            if durable {
                log.sync().map_err(io::Error::other)?;
            }
            Ok(appended.bases[0])
        });
        drop(log);
        match &self.held {
            None => written(result),
            Some(held) => held.lock().expect("no test panics in it").push((written, result)),
        }
    }
}

impl Desk {
    fn release(&self) {
        let held = self.held.as_ref().expect("a desk that holds");
        for (written, result) in std::mem::take(&mut *held.lock().expect("as above")) {
            written(result);
        }
    }
}

/// Small segments, so that the suite crosses many.
fn options() -> Options {
    Options::new(1).create().segment_bytes(4096)
}

const PARTITION: u16 = 12;

fn open(disk: &SimDisk, hold: bool) -> (Desk, RaftLog<SimDisk, Desk>) {
    let (log, _) = Log::open(disk.clone(), options()).expect("undamaged");
    let mut index = PartitionIndex::default();
    let mut scan = log.scan(log.first()).expect("there");
    while let Some((at, record)) = scan.next_record().expect("undamaged") {
        if record.partition == PARTITION {
            index.replay(at, &record).expect("in order");
        }
    }
    index.check().expect("whole");
    let reader = log.reader();
    let held = hold.then(Arc::default);
    let desk = Desk { log: Arc::new(Mutex::new(log)), held };
    (desk.clone(), RaftLog::new(PARTITION, index, reader, desk))
}

struct Builder;

impl StoreBuilder<Types, RaftLog<SimDisk, Desk>, Machine> for Builder {
    async fn build(&self) -> Result<((), RaftLog<SimDisk, Desk>, Machine), StorageError<Types>> {
        Ok(((), open(&SimDisk::new(1), false).1, Machine::default()))
    }
}

#[test]
fn openrafts_own_storage_suite_passes() {
    Types::run(async { Suite::test_all(Builder).await }).expect("the suite");
}

fn entry(term: u64, index: u64, body: &'static [u8]) -> Entry<CommittedLeaderId<u64>, Payload> {
    let log_id = openraft::LogId { leader_id: CommittedLeaderId::new(term), index };
    let bytes = Bytes::from_static(body);
    Entry { log_id, payload: EntryPayload::Normal(EntryBody { flags: 5, bytes }) }
}

async fn append(
    log: &mut RaftLog<SimDisk, Desk>,
    entries: Vec<Entry<CommittedLeaderId<u64>, Payload>>,
) {
    RaftLogStorage::<Types>::append(log, entries, IOFlushed::noop()).await.expect("room");
}

async fn all(log: &mut RaftLog<SimDisk, Desk>) -> Vec<String> {
    let read = RaftLogReader::<Types>::try_get_log_entries(log, ..).await.expect("readable");
    read.iter().map(ToString::to_string).collect()
}

#[test]
fn what_openraft_wrote_is_there_after_a_crash() {
    Types::run(async {
        let disk = SimDisk::new(3);
        let (_, mut log) = open(&disk, false);
        let vote = Vote::<LeaderId<u64, u64>>::new_committed(4, 77);
        RaftLogStorage::<Types>::save_vote(&mut log, &vote).await.expect("room");
        append(&mut log, (0..50).map(|i| entry(4, i, &[7; 300])).collect()).await;
        let after = |index| Some(entry(4, index, b"").log_id);
        RaftLogStorage::<Types>::truncate_after(&mut log, after(29)).await.expect("room");
        append(&mut log, (30..40).map(|i| entry(6, i, b"new")).collect()).await;
        RaftLogStorage::<Types>::purge(&mut log, entry(4, 9, b"").log_id).await.expect("room");
        RaftLogStorage::<Types>::save_committed(&mut log, after(20)).await.expect("room");
        append(&mut log, vec![entry(6, 40, b"last")]).await;
        let before = all(&mut log).await;
        assert_eq!(before.len(), 31);
        drop(log);

        disk.crash();
        let (_, mut log) = open(&disk, false);
        assert_eq!(all(&mut log).await, before);
        assert_eq!(RaftLogReader::<Types>::read_vote(&mut log).await.expect("there"), Some(vote));
        let state = RaftLogStorage::<Types>::get_log_state(&mut log).await.expect("there");
        assert_eq!(state.last_purged_log_id, Some(entry(4, 9, b"").log_id));
        assert_eq!(state.last_log_id, Some(entry(6, 40, b"").log_id));
        let committed = RaftLogStorage::<Types>::read_committed(&mut log).await.expect("there");
        assert_eq!(committed, after(20));
    });
}

#[test]
fn segments_that_openraft_no_longer_needs_can_go() {
    Types::run(async {
        let disk = SimDisk::new(3);
        let (desk, mut log) = open(&disk, false);
        let vote = Vote::<LeaderId<u64, u64>>::new(9, 5);
        RaftLogStorage::<Types>::save_vote(&mut log, &vote).await.expect("room");
        for i in 0..100 {
            append(&mut log, vec![entry(9, i, &[7; 300])]).await;
        }
        RaftLogStorage::<Types>::purge(&mut log, entry(9, 80, b"").log_id).await.expect("room");
        append(&mut log, vec![entry(9, 100, b"x")]).await;
        let oldest = log.oldest().expect("twenty are left");
        let removed = desk.log.lock().expect("free").remove_before(oldest).expect("room");
        assert!(removed.segments > 4);
        let before = all(&mut log).await;
        assert_eq!(before.len(), 20);
        drop((desk, log));

        disk.crash();
        let (_, mut log) = open(&disk, false);
        assert_eq!(all(&mut log).await, before);
        assert_eq!(RaftLogReader::<Types>::read_vote(&mut log).await.expect("there"), Some(vote));
    });
}

#[test]
fn segments_go_again_and_again_and_the_rest_is_read_back() {
    Types::run(async {
        let disk = SimDisk::new(3);
        let (desk, mut log) = open(&disk, false);
        let mut removed = 0;
        for i in 0..300 {
            append(&mut log, vec![entry(9, i, &[7; 300])]).await;
            if i % 7 == 6 {
                // A segment begins with what was purged then, and not with what was later.
                let purged = entry(9, i - 5, b"").log_id;
                RaftLogStorage::<Types>::purge(&mut log, purged).await.expect("room");
                let oldest = log.oldest().expect("some are left");
                let mut at_desk = desk.log.lock().expect("free");
                removed += at_desk.remove_before(oldest).expect("room").segments;
            }
            if i % 50 == 49 {
                let before = all(&mut log).await;
                let (_, mut again) = open(&disk.fork(1), false);
                assert_eq!(all(&mut again).await, before, "after entry {i}");
            }
        }
        assert!(removed > 10);
    });
}

#[test]
fn first_entries_that_are_missing_without_a_reason_are_found() {
    let mut batch = Batch::new();
    batch.push(Kind::Compacted, 0, PARTITION, 9, 13, |_| {});
    batch.push(Kind::Entry, 0, PARTITION, 9, 16, |_| {});
    let disk = SimDisk::new(3);
    let options = Options::new(1).create();
    let (mut log, _) = Log::open(disk, options).expect("new");
    log.append(&[&batch]).expect("room");
    let index = |log: &Log<SimDisk>| {
        let mut index = PartitionIndex::default();
        let mut scan = log.scan(log.first()).expect("there");
        while let Some((at, record)) = scan.next_record().expect("undamaged") {
            index.replay(at, &record).expect("in order");
        }
        index
    };
    assert_eq!(index(&log).check(), Err(IndexError { expected: 14, found: 16 }));
    let mut batch = Batch::new();
    batch.push(Kind::Compacted, 0, PARTITION, 9, 15, |_| {});
    log.append(&[&batch]).expect("room");
    assert_eq!(index(&log).check(), Ok(()));
}

#[test]
fn what_says_that_segments_may_go_is_durable_before_they_go() {
    Types::run(async {
        for seed in 0..20 {
            let disk = SimDisk::new(seed);
            let (desk, mut log) = open(&disk, false);
            for i in 0..100 {
                append(&mut log, vec![entry(9, i, &[7; 300])]).await;
            }
            // Nothing is synced behind it.
            RaftLogStorage::<Types>::purge(&mut log, entry(9, 80, b"").log_id).await.expect("room");
            let before = all(&mut log).await;
            let oldest = log.oldest().expect("twenty are left");
            let removed = desk.log.lock().expect("free").remove_before(oldest).expect("room");
            assert!(removed.segments > 4);
            drop((desk, log));
            disk.crash();
            let (_, mut log) = open(&disk, false);
            assert_eq!(all(&mut log).await, before, "seed {seed}");
        }
    });
}

#[test]
fn a_partition_that_was_given_up_keeps_its_vote_and_may_begin_anew() {
    Types::run(async {
        let disk = SimDisk::new(3);
        let (desk, mut log) = open(&disk, false);
        let vote = Vote::<LeaderId<u64, u64>>::new(9, 5);
        RaftLogStorage::<Types>::save_vote(&mut log, &vote).await.expect("room");
        append(&mut log, (0..60).map(|i| entry(9, i, &[7; 300])).collect()).await;
        RaftLogStorage::<Types>::purge(&mut log, entry(9, 40, b"").log_id).await.expect("room");
        log.empty(|result| result.expect("room")).expect("it has not failed");
        assert!(all(&mut log).await.is_empty() && log.oldest().is_none());

        // It comes back with the same indexes, over many segments.
        append(&mut log, (0..60).map(|i| entry(9, i, &[8; 300])).collect()).await;
        let again = all(&mut log).await;
        assert_eq!(again.len(), 60);
        let oldest = log.oldest().expect("all of them");
        desk.log.lock().expect("free").remove_before(oldest).expect("room");
        drop((desk, log));
        disk.crash();
        let (_, mut log) = open(&disk, false);
        assert_eq!(all(&mut log).await, again, "what is repeated in segments voids nothing");
        assert_eq!(RaftLogReader::<Types>::read_vote(&mut log).await.expect("there"), Some(vote));
        let state = RaftLogStorage::<Types>::get_log_state(&mut log).await.expect("there");
        assert_eq!(state.last_purged_log_id, None);
    });
}

#[test]
fn entries_are_readable_before_they_are_durable() {
    Types::run(async {
        let (desk, mut log) = open(&SimDisk::new(3), true);
        append(&mut log, vec![entry(1, 0, b"a"), entry(1, 1, b"b")]).await;
        append(&mut log, vec![entry(1, 2, b"c")]).await;
        // An entry that is cut while it is on its way, and what takes its place.
        let keep = Some(entry(1, 1, b"").log_id);
        RaftLogStorage::<Types>::truncate_after(&mut log, keep).await.expect("room");
        append(&mut log, vec![entry(2, 2, b"d")]).await;
        let unflushed = all(&mut log).await;
        assert_eq!(unflushed.len(), 3);
        assert!(log.tail_bytes() == 3 && log.oldest().is_none());
        desk.release();
        assert_eq!(log.tail_bytes(), 0);
        assert_eq!(all(&mut log).await, unflushed);
    });
}

#[test]
fn one_read_stops_at_a_mebibyte_and_returns_something() {
    static BODY: [u8; 400_000] = [1; 400_000];
    Types::run(async {
        let (_, mut log) = open(&SimDisk::new(3), false);
        append(&mut log, (0..5).map(|i| entry(1, i, &BODY)).collect()).await;
        let read = RaftLogReader::<Types>::limited_get_log_entries(&mut log, 0, 5).await;
        assert_eq!(read.expect("readable").len(), 2);
    });
}

#[test]
fn a_hole_is_refused() {
    Types::run(async {
        let (_, mut log) = open(&SimDisk::new(3), false);
        append(&mut log, vec![entry(1, 0, b"a")]).await;
        let hole = vec![entry(1, 2, b"c")];
        let hole = RaftLogStorage::<Types>::append(&mut log, hole, IOFlushed::noop()).await;
        assert!(hole.is_err());
    });
}

#[test]
fn a_failed_sync_reaches_openraft_and_ends_the_storage() {
    Types::run(async {
        let disk = SimDisk::new(3);
        let (_, mut log) = open(&disk, false);
        disk.plant(1, crate::disk::Fault::SyncError);
        let vote = Vote::<LeaderId<u64, u64>>::new(9, 5);
        assert!(RaftLogStorage::<Types>::save_vote(&mut log, &vote).await.is_err());
        let next = vec![entry(1, 0, b"a")];
        let next = RaftLogStorage::<Types>::append(&mut log, next, IOFlushed::noop()).await;
        assert!(next.is_err());
    });
}

#[test]
fn a_node_alone_can_become_one_of_a_cluster() {
    Types::run(async {
        let disk = SimDisk::new(3);
        let (desk, log) = open(&disk, false);
        drop(log);
        let mut batch = Batch::new();
        push_sole_voter(&mut batch, PARTITION, 77);
        batch.push(crate::Kind::Entry, 0, PARTITION, 1, 2, |out| out.push(1));
        {
            let mut writer = desk.log.lock().expect("free");
            writer.append(&[&batch]).expect("room");
            writer.sync().expect("works");
        }
        drop(desk);
        disk.reopen();

        let (_, mut log) = open(&disk, false);
        let mut machine = Machine::default();
        let mut helper = StorageHelper::new(&mut log, &mut machine).with_id(77);
        let state = helper.get_initial_state().await.expect("readable");
        let effective = state.membership_state.effective();
        assert_eq!(effective.voter_ids().collect::<Vec<_>>(), [77]);
        assert_eq!(effective.log_id(), &Some(entry(0, 0, b"").log_id));
        let vote = RaftLogReader::<Types>::read_vote(&mut log).await.expect("there");
        assert_eq!(vote, Some(Vote::new_committed(1, 77)));
        let ends = RaftLogStorage::<Types>::get_log_state(&mut log).await.expect("there");
        assert_eq!(ends.last_log_id, Some(entry(1, 2, b"").log_id));
    });
}

/// The least state machine that the suite accepts.
#[derive(Clone, Default)]
struct Machine {
    applied: Option<LogIdOf<Types>>,
    membership: StoredMembershipOf<Types>,
    snapshot: Arc<Mutex<Option<SnapshotMetaOf<Types>>>>,
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<Types, ()>, io::Error> {
        let meta = SnapshotMetaOf::<Types> {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        *self.snapshot.lock().expect("no test panics in it") = Some(meta.clone());
        Ok(openraft::Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut next = async || {
            std::future::poll_fn(|cx| std::pin::Pin::new(&mut entries).poll_next(cx)).await
        };
        while let Some(next) = next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            if let Some(membership) = entry.get_membership() {
                self.membership = StoredMembershipOf::<Types>::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(String::new());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Types>,
        (): (),
    ) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock().expect("no test panics in it") = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<Types, ()>>, io::Error> {
        let meta = self.snapshot.lock().expect("no test panics in it").clone();
        Ok(meta.map(|meta| openraft::Snapshot { meta, snapshot: () }))
    }
}
