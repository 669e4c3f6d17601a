//! An admin port on loopback, over counts that the test sets.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate::admin::{AdminState, serve};
use tidegate::config::{Mode, Overlay, Policy, load};
use tidegate::steering::{ListenerStatus, Status};
use tidegate::system::sampler::{Buffers, Conntrack, Queue, Snapshot, Sockets, Tcp};
use tidegate::telemetry::health::{Health, Phase};
use tidegate::telemetry::histogram::{ConnectTimings, StoreTimings, Timings};
use tidegate::telemetry::source::{
    LayerCounts, ListenerCounts, Observed, OverloadCounts, PasswordCounts, ShellCounts, Source,
    TlsCounts,
};
use tidegate::telemetry::storage::StorageCounts;
use tidegate_core::counters::Counters;
use tidegate_kernel::program::Facts;
use tidegate_kernel::steering::{Counts, Load};
use tidegate_kernel::tcpstat::Stats;
use tidegate_system::conntrack::Operations;
use tidegate_system::preflight;

type ByListener = fn(usize, usize) -> Option<ListenerCounts>;

struct Shards {
    counters: Vec<Counters>,
    timings: Vec<Timings>,
    store: StoreTimings,
    /// Of each shard's first listener.
    connects: Vec<ConnectTimings>,
    by_listener: ByListener,
    /// Whether a ping makes the shards take a turn.
    alive: AtomicBool,
}

impl Source for Shards {
    fn counters(&self) -> &[Counters] {
        &self.counters
    }
    fn shell(&self, _shard: usize) -> ShellCounts {
        ShellCounts { mailbox_depth: Some(0), table_bytes: 1_024, ..ShellCounts::default() }
    }
    fn listener(&self, shard: usize, listener: usize) -> Option<ListenerCounts> {
        (self.by_listener)(shard, listener)
    }
    fn timings(&self, shard: usize) -> &Timings {
        &self.timings[shard]
    }
    fn connect_timings(&self, shard: usize, listener: usize) -> Option<&ConnectTimings> {
        (listener == 0).then(|| &self.connects[shard])
    }
    fn layers(&self) -> Vec<LayerCounts> {
        let tls = TlsCounts { handshakes: [1, 2, 3], expires: 1_800_000_000, reloads: [4, 5] };
        vec![LayerCounts { tls: Some(tls), proxy: Some([6, 7]), websocket: Some([8, 9]) }]
    }
    fn passwords(&self) -> Option<PasswordCounts> {
        Some(PasswordCounts { results: [1, 2, 3, 4], waiting: 5, nanos: 1_500_000_000 })
    }
    fn storage(&self) -> Option<StorageCounts<'_>> {
        Some(StorageCounts {
            volume: [30, 100],
            stage: 1,
            operations: [7, 6, 5],
            written_bytes: 4_000,
            read_bytes: 300,
            checkpoints: 2,
            append_errors: 1,
            records: 20,
            record_bytes: 3_000,
            segments: 3,
            log_bytes: 2_000,
            live_bytes: Some(500),
            recovery: [11, 1_500_000],
            waiting_bytes: 9,
            timings: &self.store,
        })
    }
    fn overload(&self) -> Option<OverloadCounts> {
        Some(OverloadCounts { stage: 2, memory_used: 93, memory_limit: 100 })
    }
    fn steering(&self) -> Option<Status> {
        let program = Facts {
            name: "p".into(),
            runs: Some(9),
            run_nanos: Some(2_000_000_000),
            ..Facts::default()
        };
        let shards = self.counters.len();
        Some(Status {
            mode: Mode::Auto,
            shards,
            why: None,
            program: Some(program),
            tried: Vec::new(),
            loads: vec![Load { pending: 3, ..Load::default() }; shards],
            listeners: vec![ListenerStatus {
                name: "default".into(),
                address: None,
                policy: Policy::Least,
                effective: Some(Policy::Least),
                why: None,
                weights: vec![50; shards],
                picked: vec![7; shards],
                counts: Some(Counts { refused_rate: 4, ..Counts::default() }),
            }],
        })
    }
    fn observed(&self) -> Option<Observed> {
        let program = Facts {
            name: "p".into(),
            runs: Some(9),
            run_nanos: Some(2_000_000_000),
            ..Facts::default()
        };
        Some(Observed {
            connections: vec![Stats { retransmitted_segments: 5, ..Stats::ZERO }],
            resets: true,
            tracking: vec![("new", 6)],
            objects: vec![("tcpstat", Some(vec![program])), ("conntrack", None)],
        })
    }

    fn system(&self) -> Option<Arc<Snapshot>> {
        let queue = |shard| Queue { listener: 0, shard, length: 3, limit: 128 };
        let sockets = Sockets {
            states: [Some(4); 11],
            memory: Some(Buffers { receive: 768, send: 2_304 }),
            queues: (0..self.counters.len()).map(queue).collect(),
        };
        let tcp = Tcp {
            listen_overflows: Some(1),
            listen_drops: Some(2),
            retransmits: Some(3),
            resets_sent: Some(4),
            memory_pages: Some(5),
            memory_limit_pages: Some(6),
        };
        let operations = Some(Operations([Some(7); 9]));
        let conntrack = Conntrack { entries: 25, limit: 100, predicted: 150, operations };
        Some(Arc::new(Snapshot {
            sockets: Ok(sockets),
            tcp: Ok(tcp),
            conntrack: Ok(conntrack),
            checks: Arc::new(preflight::assess(&Default::default(), &Default::default())),
        }))
    }
    fn ping(&self) {
        if self.alive.load(Ordering::Relaxed) {
            self.counters.iter().for_each(|counters| counters.turns.add(1));
        }
    }
}

/// An admin port that runs.
pub(crate) struct Rig {
    shards: Arc<Shards>,
    health: Arc<Health>,
    addr: SocketAddr,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
}

impl Rig {
    pub(crate) fn new(shards: usize) -> Rig {
        Rig::with(shards, "", |_, _| None)
    }

    pub(crate) fn with(shards: usize, config: &str, by_listener: ByListener) -> Rig {
        let config = load(config, &Overlay::default()).expect("a good config");
        let shards = Arc::new(Shards {
            counters: (0..shards).map(|_| Counters::default()).collect(),
            store: StoreTimings::default(),
            timings: (0..shards).map(|_| Timings::default()).collect(),
            connects: (0..shards).map(|_| ConnectTimings::default()).collect(),
            by_listener,
            alive: AtomicBool::new(true),
        });
        let health = Arc::new(Health::default());
        let state = Arc::new(AdminState::new(&config, shards.clone(), health.clone()));
        let (tell, told) = std::sync::mpsc::channel();
        // Serves until the test's process ends.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("a free port");
                tell.send(listener.local_addr().expect("bound")).expect("the rig waits");
                serve(listener, state).await.expect("serves");
            });
        });
        let addr = told.recv().expect("the thread tells");
        Rig { shards, health, addr }
    }

    pub(crate) fn counters(&self) -> &[Counters] {
        &self.shards.counters
    }

    pub(crate) fn timings(&self, shard: usize) -> &Timings {
        &self.shards.timings[shard]
    }

    pub(crate) fn connects(&self, shard: usize) -> &ConnectTimings {
        &self.shards.connects[shard]
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.health.enter(phase);
    }

    pub(crate) fn hang_shards(&self) {
        self.shards.alive.store(false, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "*/*")
    }

    pub(crate) fn get_accepting(&self, path: &str, accept: &str) -> Answer {
        self.request("GET", path, accept)
    }

    pub(crate) fn open(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).expect("the port is open");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    }

    pub(crate) fn request(&self, method: &str, path: &str, accept: &str) -> Answer {
        let mut stream = self.open();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        let mut answer = String::new();
        // To the end: the port closes after its answer.
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}
