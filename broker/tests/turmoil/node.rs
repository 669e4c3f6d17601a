//! A node: the mesh over the simulated network, Raft groups over a simulated disk.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tidegate::replication::transport::{Answering, MeshTransport, answering, is_ours, read_back};
use tidegate_consensus::{
    Body, CallKind, Entries, GroupId, Groups, LogId, SnapshotSource, StateMachine, Timers,
    Transport, TransportError,
};
use tidegate_mesh::{
    ClusterId, Event, Handler, Identity, MailClass, Mesh, MeshConfig, NodeId, PROTO_MAX, Peer,
    PeerAddress, Refusal, Request, Role, Room, Secret, Source, StoreId, Trust,
};
use tidegate_store::raft::{PartitionIndex, Writer, Written};
use tidegate_store::{Batch, Log, Options, Position, SimDisk};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::ledger::{Ledger, lock};
use crate::net::Simulated;

pub(crate) const PORT: u16 = 7883;
/// How long a state machine takes for a snapshot of itself.
const SNAPSHOT_TIME: Duration = Duration::from_millis(5);

/// A fault that is put in on purpose, and has to be found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Plant {
    /// What is written is said to be durable before it is synced.
    Early,
    /// A snapshot lacks the last entry.
    Short,
    /// A replica that has installed a snapshot applies the next entry twice.
    Twice,
}

impl Plant {
    pub(crate) const ALL: [Self; 3] = [Self::Early, Self::Short, Self::Twice];
}

pub(crate) type NodeGroups = Groups<SimDisk, Desk, Watched>;
pub(crate) type Job = Box<
    dyn FnOnce(NodeGroups) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> + Send + 'static,
>;

pub(crate) fn host(node: u64) -> String {
    format!("node-{node}")
}

/// What of a node outlives its processes, and how to reach the one that runs.
pub(crate) struct Seat {
    pub(crate) node: u64,
    pub(crate) nodes: u64,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) ledger: Ledger,
    pub(crate) plant: Option<Plant>,
    pub(crate) log: SimDisk,
    pub(crate) snapshots: SimDisk,
    pub(crate) sync: Duration,
    pub(crate) bulk: u64,
    pub(crate) lives: AtomicU64,
    pub(crate) live: Mutex<Option<Live>>,
}

/// A process.
pub(crate) struct Live {
    pub(crate) groups: NodeGroups,
    pub(crate) mesh: Mesh,
    pub(crate) machines: BTreeMap<GroupId, Recorder>,
    pub(crate) jobs: mpsc::UnboundedSender<Job>,
}

/// A node's process, from its start to its crash.
pub(crate) async fn run(seat: Arc<Seat>) -> turmoil::Result {
    let life = seat.lives.fetch_add(1, Ordering::Relaxed) + 1;
    let options = Options::new(u128::from(seat.node)).create().segment_bytes(64 << 10);
    let (log, _) = Log::open(seat.log.clone(), options)?;
    let mut indexes = read_back(&log).map_err(|error| format!("{error:#}"))?;
    let reader = log.reader();
    let state = DeskState { log, waiting: Vec::new(), armed: false };
    let desk = Desk {
        state: Arc::new(Mutex::new(state)),
        sync: seat.sync,
        is_early: seat.plant == Some(Plant::Early),
    };
    let above = Arc::new(Above::default());
    let mesh = Mesh::start(config(&seat, life), above.clone()).await?;
    let transport =
        Watched { to: MeshTransport(mesh.clone()), from: seat.node, ledger: seat.ledger.clone() };
    let timers = Timers::default();
    let snapshots = seat.snapshots.clone();
    let groups = Groups::new(seat.node, timers, reader, desk.clone(), snapshots, transport);
    let answers = answering(groups.clone());
    let lost = groups.clone();
    let set = above.0.set((answers, Box::new(move |node| lost.lost(node))));
    assert!(set.is_ok(), "once");
    let peer = |node| PeerAddress { node: NodeId(node), address: format!("{}:{PORT}", host(node)) };
    mesh.set_peers((1..=seat.nodes).map(peer).collect());
    let mut machines = BTreeMap::new();
    for &group in &seat.groups {
        let machine = Recorder::new(&seat, group);
        groups.open(group, indexes.remove(&group).unwrap_or_default(), machine.clone()).await?;
        machines.insert(group, machine);
    }
    let (jobs, mut came) = mpsc::unbounded_channel::<Job>();
    *lock(&seat.live) = Some(Live { groups: groups.clone(), mesh, machines, jobs });
    seat.ledger.trace(&format!("node {} runs", seat.node));
    let oldest = groups.clone();
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(1)).await;
            if let Some(position) = oldest.oldest() {
                // What is in use stays.
                let _ = lock(&desk.state).log.remove_before(position);
            }
        }
    });
    while let Some(job) = came.recv().await {
        tokio::spawn(job(groups.clone()));
    }
    Ok(())
}

/// Gives up a replica that does not count any more, and opens it anew.
pub(crate) async fn begin_anew(seat: Arc<Seat>, groups: NodeGroups, group: GroupId) {
    let Ok(index): Result<PartitionIndex, _> = groups.give_up(group).await else { return };
    let machine = Recorder::new(&seat, group);
    match groups.open(group, index, machine.clone()).await {
        Ok(()) => {
            if let Some(live) = lock(&seat.live).as_mut() {
                live.machines.insert(group, machine);
            }
            seat.ledger.count("given up");
            seat.ledger.trace(&format!("{} gives up its replica of {group}", seat.node));
        }
        Err(error) => seat.ledger.fault(format!("node {}: group {group}: {error}", seat.node)),
    }
}

fn config(seat: &Seat, life: u64) -> MeshConfig {
    let identity = Identity {
        name: "plant".into(),
        cluster: ClusterId(0xC1),
        generation: 1,
        node: NodeId(seat.node),
        store: StoreId(u128::from(seat.node) << 64),
        incarnation: life,
        role: Role::Member,
        address: format!("{}:{PORT}", host(seat.node)),
        config_hash: [0; 32],
        features: 0,
        proto_max: PROTO_MAX,
    };
    let secret = Secret::new(b"correct horse battery staple").expect("long enough");
    let bind = format!("0.0.0.0:{PORT}").parse().expect("an address");
    let mut config = MeshConfig::new(bind, identity, Trust::Secret(secret));
    config.net = Arc::new(Simulated);
    config.bulk_bytes_per_second = seat.bulk;
    config
}

type Lost = Box<dyn Fn(u64) + Send + Sync>;

/// What comes over the mesh goes to the groups, as in the broker.
#[derive(Default)]
struct Above(OnceLock<(Answering, Lost)>);

impl Handler for Above {
    fn call(
        &self,
        from: Source,
        request: Request,
    ) -> impl Future<Output = Result<Bytes, Refusal>> + Send + 'static {
        let Request { group, what, body, .. } = request;
        let above = self.0.get().filter(|_| is_ours(what));
        let answer = above.map(|(answers, _)| answers(from.hello.node.0, group, what, body));
        async move {
            let starting = || Refusal { code: 0, detail: "the node is starting".into() };
            let answer = answer.ok_or_else(starting)?;
            answer.await.map_err(|(code, detail)| Refusal { code, detail })
        }
    }

    fn mail(&self, _from: &Peer, _class: MailClass, _body: Bytes, _room: Room) {}

    fn event(&self, event: Event) {
        if let (Event::Down { node, .. }, Some((_, lost))) = (event, self.0.get()) {
            lost(node.0);
        }
    }
}

/// The transport, watched.
#[derive(Clone)]
pub(crate) struct Watched {
    to: MeshTransport,
    from: u64,
    ledger: Ledger,
}

/// A call that is not over.
struct Call(Ledger, CallKind, (GroupId, u64, u64));

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls(self.1, self.2, false);
    }
}

impl Transport for Watched {
    async fn call(
        &self,
        to: u64,
        group: GroupId,
        kind: CallKind,
        body: Bytes,
    ) -> Result<Bytes, TransportError> {
        let key = (group, self.from, to);
        self.ledger.calls(kind, key, true);
        let _call = Call(self.ledger.clone(), kind, key);
        self.to.call(to, group, kind, body).await
    }
}

struct DeskState {
    log: Log<SimDisk>,
    waiting: Vec<(Written, io::Result<Position>)>,
    armed: bool,
}

/// The one writer of a node's log: syncs a while after it wrote, for many groups
/// at once, and answers in order.
#[derive(Clone)]
pub(crate) struct Desk {
    state: Arc<Mutex<DeskState>>,
    sync: Duration,
    is_early: bool,
}

impl Writer for Desk {
    fn submit(&self, batch: Batch, _durable: bool, written: Written) {
        let mut state = lock(&self.state);
        let base = state.log.append(&[&batch]).map(|appended| appended.bases[0]);
        let base = base.map_err(io::Error::other);
        let armed = std::mem::replace(&mut state.armed, true);
        if self.is_early {
            drop(state);
            tokio::spawn(async move { written(base) });
        } else {
            state.waiting.push((written, base));
            drop(state);
        }
        if !armed {
            let desk = self.clone();
            // Of a planted fault, so that there is a time to fail in.
            let time = if self.is_early { Duration::from_secs(1) } else { self.sync };
            tokio::spawn(async move {
                sleep(time).await;
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

/// A state machine that keeps all that it was given.
#[derive(Clone)]
pub(crate) struct Recorder {
    node: u64,
    group: GroupId,
    ledger: Ledger,
    plant: Option<Plant>,
    state: Arc<Mutex<Recorded>>,
}

#[derive(Default)]
struct Recorded {
    entries: Vec<(LogId, Bytes)>,
    installs: usize,
}

impl Recorder {
    fn new(seat: &Seat, group: GroupId) -> Self {
        let (node, ledger, plant) = (seat.node, seat.ledger.clone(), seat.plant);
        Self { node, group, ledger, plant, state: Arc::default() }
    }

    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        lock(&self.state).entries.iter().map(|(_, payload)| payload.clone()).collect()
    }

    pub(crate) fn installs(&self) -> usize {
        lock(&self.state).installs
    }
}

impl StateMachine for Recorder {
    fn apply(&mut self, log: LogId, payload: &Bytes) -> Vec<u8> {
        let (node, group) = (self.node, self.group);
        self.ledger.agrees(node, group, log, payload);
        self.ledger.trace(&format!("{node} applies {log} of {group}"));
        let mut state = lock(&self.state);
        if let Some((before, _)) = state.entries.last()
            && before.index >= log.index
        {
            self.ledger.fault(format!("node {node}, group {group}: {before} and then {log}"));
        }
        state.entries.push((log, payload.clone()));
        if self.plant == Some(Plant::Twice) && state.installs > 0 {
            state.installs = 0;
            state.entries.push((log, payload.clone()));
        }
        state.entries.len().to_string().into_bytes()
    }

    fn snapshot(
        &mut self,
        _: Entries,
    ) -> impl Future<Output = io::Result<Box<dyn SnapshotSource>>> + Send + 'static {
        let mut entries = lock(&self.state).entries.clone();
        if self.plant == Some(Plant::Short) {
            entries.pop();
        }
        async move {
            // What is applied meanwhile must not show.
            sleep(SNAPSHOT_TIME).await;
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
            self.ledger.agrees(self.node, self.group, log, &payload);
            entries.push((log, payload));
        }
        self.ledger.installed(self.node, self.group);
        self.ledger.count("installs");
        self.ledger.trace(&format!("{} installs {} of {}", self.node, entries.len(), self.group));
        let mut state = lock(&self.state);
        state.entries = entries;
        state.installs += 1;
        Ok(())
    }
}
