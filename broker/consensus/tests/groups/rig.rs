//! Nodes with disks, a network with faults, and an oracle that all agree with.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tidegate_consensus::{
    Body, CallKind, Entries, GroupId, GroupStatus, Groups, LogId, OpenError, ProposeError,
    SnapshotSource, StateMachine, Timers, Transport, TransportError,
};
use tidegate_store::raft::{PartitionIndex, Writer, Written};
use tidegate_store::{Batch, Log, Options, Position, SimDisk};
use tokio::time::{sleep, timeout};

/// Far more than any election takes; the clock is not a real one.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) type NodeGroups = Groups<SimDisk, Desk, Link>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics in it")
}

/// What the network does to calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// One way: from, to.
    pub(crate) cut: BTreeSet<(u64, u64)>,
    /// Of a thousand calls, and of a thousand answers.
    pub(crate) dropped: u64,
    /// At most, each way.
    pub(crate) delay: Duration,
    /// Kinds that take longer, each way.
    pub(crate) slow: BTreeMap<CallKind, Duration>,
}

#[derive(Default)]
struct NetState {
    nodes: BTreeMap<u64, (u64, NodeGroups)>,
    faults: Faults,
    calls: BTreeMap<CallKind, u64>,
    random: u64,
}

/// The network.
#[derive(Clone, Default)]
pub(crate) struct Net(Arc<Mutex<NetState>>);

impl NetState {
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// How long a message takes, if it arrives.
    fn fate(&mut self, from: u64, to: u64, kind: CallKind) -> Option<Duration> {
        let most = u64::try_from(self.faults.delay.as_micros()).expect("short");
        let delay = Duration::from_micros(self.below(most + 1));
        let slow = self.faults.slow.get(&kind).copied().unwrap_or_default();
        let is_lost = self.below(1_000) < self.faults.dropped;
        (!self.faults.cut.contains(&(from, to)) && !is_lost).then_some(delay + slow)
    }
}

/// One node's side of it, in one of its lives.
#[derive(Clone)]
pub(crate) struct Link {
    net: Net,
    node: u64,
    life: u64,
}

impl Link {
    fn is_alive(state: &NetState, node: u64, life: u64) -> bool {
        state.nodes.get(&node).is_some_and(|(now, _)| *now == life)
    }
}

impl Transport for Link {
    async fn call(
        &self,
        to: u64,
        group: GroupId,
        kind: CallKind,
        body: Bytes,
    ) -> Result<Bytes, TransportError> {
        let there = {
            let mut state = lock(&self.net.0);
            if !Self::is_alive(&state, self.node, self.life) {
                return Err(TransportError::Unreachable);
            }
            *state.calls.entry(kind).or_default() += 1;
            state.fate(self.node, to, kind)
        };
        let Some(delay) = there else { return self.silence().await };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let (life, answer) = {
            let state = lock(&self.net.0);
            let Some((life, groups)) = state.nodes.get(&to) else {
                return Err(TransportError::Unreachable);
            };
            (*life, groups.handle(self.node, group, kind, body))
        };
        let answer = answer.await;
        let back = {
            let mut state = lock(&self.net.0);
            let both =
                Self::is_alive(&state, self.node, self.life) && Self::is_alive(&state, to, life);
            if both { state.fate(to, self.node, kind) } else { None }
        };
        let Some(delay) = back else { return self.silence().await };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        answer
    }
}

impl Link {
    /// Some connections end when they are cut, others just say nothing.
    async fn silence(&self) -> Result<Bytes, TransportError> {
        let ends = lock(&self.net.0).below(2) == 0;
        if !ends {
            sleep(Duration::from_secs(30)).await;
        }
        Err(TransportError::Unreachable)
    }
}

struct DeskState {
    log: Log<SimDisk>,
    waiting: Vec<(Written, io::Result<Position>)>,
    armed: bool,
}

/// A writer that syncs a while after it wrote, for many at once.
#[derive(Clone)]
pub(crate) struct Desk {
    state: Arc<Mutex<DeskState>>,
    sync: Duration,
}

impl Writer for Desk {
    fn submit(&self, batch: Batch, _durable: bool, written: Written) {
        let mut state = lock(&self.state);
        let base = state.log.append(&[&batch]).map(|appended| appended.bases[0]);
        state.waiting.push((written, base.map_err(io::Error::other)));
        if !std::mem::replace(&mut state.armed, true) {
            let desk = self.clone();
            tokio::spawn(async move {
                sleep(desk.sync).await;
                desk.flush();
            });
        }
    }
}

impl Desk {
    fn flush(&self) {
        let (waiting, synced) = {
            let mut state = lock(&self.state);
            state.armed = false;
            (std::mem::take(&mut state.waiting), state.log.sync())
        };
        for (written, base) in waiting {
            written(match &synced {
                Ok(_) => base,
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
    }
}

/// What every replica ever applied, by group and index: all say the same.
#[derive(Clone, Default)]
pub(crate) struct Oracle(Arc<Mutex<Applied>>);

/// Term and payload by group and index.
type Applied = BTreeMap<(GroupId, u64), (u64, Bytes)>;

impl Oracle {
    fn agrees(&self, group: GroupId, log: LogId, payload: &Bytes) {
        let mut seen = lock(&self.0);
        let here = (log.term, payload.clone());
        let first = seen.entry((group, log.index)).or_insert_with(|| here.clone());
        assert_eq!(*first, here, "two replicas of group {group} differ at {log}");
    }
}

/// A state machine that keeps all that it was given.
#[derive(Clone)]
pub(crate) struct Recorder {
    group: GroupId,
    oracle: Oracle,
    state: Arc<Mutex<RecorderState>>,
}

#[derive(Default)]
struct RecorderState {
    entries: Vec<(LogId, Bytes)>,
    installs: usize,
    /// Nothing may come any more.
    closed: bool,
    fails: bool,
}

impl Recorder {
    fn new(group: GroupId, oracle: Oracle) -> Self {
        Self { group, oracle, state: Arc::default() }
    }

    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        lock(&self.state).entries.iter().map(|(_, payload)| payload.clone()).collect()
    }

    pub(crate) fn installs(&self) -> usize {
        lock(&self.state).installs
    }

    /// From now on a call is a fault.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
    }

    /// Its snapshots fail from now on, or no longer.
    pub(crate) fn fail(&self, fails: bool) {
        lock(&self.state).fails = fails;
    }
}

impl StateMachine for Recorder {
    fn apply(&mut self, log: LogId, payload: &Bytes) -> Vec<u8> {
        self.oracle.agrees(self.group, log, payload);
        let mut state = lock(&self.state);
        assert!(!state.closed, "an entry for a machine that is out of use");
        if let Some((before, _)) = state.entries.last() {
            assert!(*before < log && before.index < log.index, "{before} and then {log}");
        }
        state.entries.push((log, payload.clone()));
        state.entries.len().to_string().into_bytes()
    }

    fn snapshot(
        &mut self,
        _: Entries,
    ) -> impl Future<Output = io::Result<Box<dyn SnapshotSource>>> + Send + 'static {
        let state = lock(&self.state);
        let fails = state.fails;
        let entries = state.entries.clone();
        async move {
            // What is applied meanwhile must not show.
            sleep(Duration::from_millis(5)).await;
            if fails {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let mut out = Vec::new();
            for (log, payload) in entries {
                out.extend_from_slice(&log.term.to_le_bytes());
                out.extend_from_slice(&log.index.to_le_bytes());
                out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
                out.extend_from_slice(&payload);
            }
            Ok(Box::new(Bytes::from(out)) as Box<dyn SnapshotSource>)
        }
    }

    fn install(&mut self, body: Body) -> io::Result<()> {
        let mut bytes = body.read_all()?;
        let mut entries = Vec::new();
        let number = |bytes: &mut Bytes| {
            u64::from_le_bytes(bytes.split_to(8)[..].try_into().expect("eight"))
        };
        while !bytes.is_empty() {
            let log = LogId { term: number(&mut bytes), index: number(&mut bytes) };
            let len = number(&mut bytes) as usize;
            let payload = bytes.split_to(len);
            self.oracle.agrees(self.group, log, &payload);
            entries.push((log, payload));
        }
        let mut state = lock(&self.state);
        assert!(!state.closed, "a snapshot for a machine that is out of use");
        state.entries = entries;
        state.installs += 1;
        Ok(())
    }
}

pub(crate) struct Node {
    pub(crate) groups: NodeGroups,
    pub(crate) machines: BTreeMap<GroupId, Recorder>,
}

/// A cluster. Every group is on every node; node ids count from 1.
pub(crate) struct Rig {
    pub(crate) net: Net,
    oracle: Oracle,
    disks: BTreeMap<u64, (SimDisk, SimDisk)>,
    pub(crate) nodes: BTreeMap<u64, Node>,
    group_ids: Vec<GroupId>,
    sync: Duration,
    lives: u64,
    seed: u64,
}

impl Rig {
    /// Nodes that know nothing yet.
    pub(crate) async fn empty(seed: u64, nodes: u64, groups: &[GroupId]) -> Self {
        let net = Net::default();
        lock(&net.0).random = seed;
        let mut rig = Self {
            net,
            oracle: Oracle::default(),
            disks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            group_ids: groups.to_vec(),
            sync: Duration::from_millis(1),
            lives: 0,
            seed,
        };
        for node in 1..=nodes {
            let disk = |what| SimDisk::new(seed.wrapping_mul(1_000) + node * 10 + what);
            rig.disks.insert(node, (disk(0), disk(1)));
            rig.start(node).await;
        }
        rig
    }

    /// A cluster in which the first `voters` nodes vote in all groups.
    pub(crate) async fn new(seed: u64, nodes: u64, voters: u64, groups: &[GroupId]) -> Self {
        let rig = Self::empty(seed, nodes, groups).await;
        for (i, &group) in groups.iter().enumerate() {
            let first = 1 + i as u64 % voters;
            let voters = (1..=voters).collect();
            let new = rig.groups(first).initialize(group, voters).await.expect("a new group");
            assert!(new, "it has no past");
        }
        rig
    }

    pub(crate) fn groups(&self, node: u64) -> &NodeGroups {
        &self.nodes[&node].groups
    }

    pub(crate) fn machine(&self, node: u64, group: GroupId) -> &Recorder {
        &self.nodes[&node].machines[&group]
    }

    pub(crate) fn status(&self, node: u64, group: GroupId) -> GroupStatus {
        self.groups(node).status(group)
    }

    pub(crate) fn recorder(&self, group: GroupId) -> Recorder {
        Recorder::new(group, self.oracle.clone())
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut lock(&self.net.0).faults);
    }

    pub(crate) fn heal(&self) {
        self.faults(|faults| *faults = Faults::default());
    }

    /// Cuts a node off from all others, both ways.
    pub(crate) fn isolate(&self, node: u64) {
        let others: Vec<u64> = self.disks.keys().copied().filter(|other| *other != node).collect();
        self.faults(|faults| {
            for other in others {
                faults.cut.extend([(node, other), (other, node)]);
            }
        });
    }

    pub(crate) fn calls(&self, kind: CallKind) -> u64 {
        lock(&self.net.0).calls.get(&kind).copied().unwrap_or_default()
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        lock(&self.net.0).below(bound)
    }

    pub(crate) fn disk(&self, node: u64) -> &SimDisk {
        &self.disks[&node].0
    }

    pub(crate) fn snapshot_disk(&self, node: u64) -> &SimDisk {
        &self.disks[&node].1
    }

    /// Starts a node from its disks.
    pub(crate) async fn start(&mut self, node: u64) {
        self.try_start(node).await.expect("what it wrote is good");
    }

    pub(crate) async fn try_start(&mut self, node: u64) -> Result<(), OpenError> {
        let (disk, snapshots) = self.disks[&node].clone();
        let options = Options::new(u128::from(node)).create().segment_bytes(64 << 10);
        let (log, _) = Log::open(disk, options).expect("undamaged");
        let mut indexes = BTreeMap::<GroupId, PartitionIndex>::new();
        let mut scan = log.scan(log.first()).expect("there");
        while let Some((at, record)) = scan.next_record().expect("undamaged") {
            let index = indexes.entry(record.partition).or_default();
            index.replay(at, &record).expect("in order");
        }
        let reader = log.reader();
        let state = DeskState { log, waiting: Vec::new(), armed: false };
        let desk = Desk { state: Arc::new(Mutex::new(state)), sync: self.sync };
        self.lives += 1;
        let link = Link { net: self.net.clone(), node, life: self.lives };
        let groups = Groups::new(node, Timers::default(), reader, desk, snapshots, link);
        lock(&self.net.0).nodes.insert(node, (self.lives, groups.clone()));
        let mut machines = BTreeMap::new();
        for &group in &self.group_ids {
            let machine = self.recorder(group);
            let index = indexes.remove(&group).unwrap_or_default();
            groups.open(group, index, machine.clone()).await?;
            machines.insert(group, machine);
        }
        self.nodes.insert(node, Node { groups, machines });
        Ok(())
    }

    /// The power of a node fails: what was not synced is lost.
    pub(crate) async fn crash(&mut self, node: u64) {
        lock(&self.net.0).nodes.remove(&node);
        let gone = self.nodes.remove(&node).expect("it runs");
        let (disk, snapshots) = &self.disks[&node];
        disk.crash();
        snapshots.crash();
        // What still runs can neither write nor speak.
        gone.groups.shutdown().await;
    }

    /// The same, and it is back at once.
    pub(crate) async fn restart(&mut self, node: u64) {
        self.crash(node).await;
        self.start(node).await;
    }

    /// Waits for a node that leads and is not one of these.
    /// Who leads a group, but for these, if somebody does.
    pub(crate) fn leader_now(&self, group: GroupId, not: &[u64]) -> Option<u64> {
        let leads = |node: &&u64| !not.contains(node) && self.status(**node, group).leads;
        let leading = self.nodes.keys().filter(leads).copied();
        // One that was deposed may not know it; the newest term counts.
        leading.max_by_key(|node| self.status(*node, group).term)
    }

    pub(crate) async fn leader_but(&self, group: GroupId, not: &[u64]) -> u64 {
        let found = async {
            loop {
                if let Some(node) = self.leader_now(group, not) {
                    return node;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("no leader:\n{}", self.report(group)))
    }

    pub(crate) async fn leader(&self, group: GroupId) -> u64 {
        self.leader_but(group, &[]).await
    }

    /// Proposes until a leader other than these acknowledges it.
    pub(crate) async fn commit_but(&self, group: GroupId, payload: &str, not: &[u64]) -> u64 {
        let done = async {
            loop {
                let leader = self.leader_but(group, not).await;
                let proposed = self.groups(leader).propose(group, payload.to_owned().into());
                match timeout(Duration::from_secs(2), proposed).await {
                    Ok(Ok(_)) => return leader,
                    Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        };
        timeout(PATIENCE, done)
            .await
            .unwrap_or_else(|_| panic!("no commit:\n{}", self.report(group)))
    }

    pub(crate) async fn commit(&self, group: GroupId, payload: &str) -> u64 {
        self.commit_but(group, payload, &[]).await
    }

    pub(crate) async fn propose(
        &self,
        node: u64,
        group: GroupId,
        payload: &str,
    ) -> Result<Vec<u8>, ProposeError> {
        self.groups(node).propose(group, payload.to_owned().into()).await
    }

    /// Whether a node has applied a payload.
    pub(crate) fn has(&self, node: u64, group: GroupId, payload: &str) -> bool {
        self.machine(node, group).payloads().iter().any(|got| got == payload.as_bytes())
    }

    /// Waits until these nodes have applied a payload.
    pub(crate) async fn reaches(&self, nodes: &[u64], group: GroupId, payload: &str) {
        let what = format!("{payload} at {nodes:?}");
        self.until(group, &what, || nodes.iter().all(|node| self.has(*node, group, payload))).await;
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, group: GroupId, what: &str, is_so: impl Fn() -> bool) {
        let waited = async {
            while !is_so() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(PATIENCE, waited).await.is_err() {
            panic!("not so: {what}\n{}", self.report(group));
        }
    }

    fn report(&self, group: GroupId) -> String {
        let line = |node: &u64| format!("{node}: {:?}\n", self.status(*node, group));
        let lines: String = self.nodes.keys().map(line).collect();
        format!("seed {}, group {group}:\n{lines}", self.seed)
    }
}
