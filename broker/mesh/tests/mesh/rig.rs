//! Nodes with a handler that remembers, and a wire between two of them that
//! can be cut.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidegate_mesh::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::timeout;

/// Longer than anything takes; whoever waits for it has failed.
pub(crate) const LONG: Duration = Duration::from_secs(30);
pub(crate) const SECRET: &[u8] = b"correct horse battery staple";
pub(crate) const CLUSTER: ClusterId = ClusterId(0xC1);

/// What a call asks of the handler.
pub(crate) const ECHO: u16 = 0;
pub(crate) const REFUSE: u16 = 1;
pub(crate) const NEVER: u16 = 2;
pub(crate) const GATED: u16 = 3;
pub(crate) const WHO: u16 = 4;
pub(crate) const IN_ORDER: u16 = 5;

pub(crate) struct Recorder {
    events: mpsc::UnboundedSender<Event>,
    mails: mpsc::UnboundedSender<Came>,
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) called: AtomicUsize,
    pub(crate) dropped: Arc<AtomicUsize>,
    order: Mutex<Vec<String>>,
    pub(crate) begun: Arc<Mutex<Vec<Bytes>>>,
}

/// A piece of mail.
pub(crate) struct Came {
    pub(crate) generation: Generation,
    pub(crate) class: MailClass,
    pub(crate) body: Bytes,
    pub(crate) room: Room,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Handler for Recorder {
    fn call(
        &self,
        from: Source,
        request: Request,
    ) -> impl Future<Output = Result<Bytes, Refusal>> + Send + 'static {
        self.called.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.clone();
        let counted = Counted(self.dropped.clone());
        let begun = self.begun.clone();
        async move {
            let _counted = counted;
            match request.what {
                ECHO => Ok(request.body),
                REFUSE => Err(Refusal { code: 7, detail: "not that".into() }),
                NEVER => std::future::pending().await,
                GATED => {
                    gate.acquire().await.expect("open").forget();
                    Ok(Bytes::from(request.body.len().to_string()))
                }
                WHO => {
                    let generation = from.generation.map(|generation| generation.0);
                    Ok(format!("{} {generation:?}", from.hello.node.0).into())
                }
                IN_ORDER => {
                    begun.lock().expect("whole").push(request.body.clone());
                    tokio::task::yield_now().await;
                    Ok(request.body)
                }
                other => panic!("{other}"),
            }
        }
    }

    fn mail(&self, from: &Peer, class: MailClass, body: Bytes, room: Room) {
        let generation = from.generation();
        self.order.lock().expect("whole").push(format!("mail {generation}"));
        let _ = self.mails.send(Came { generation, class, body, room });
    }

    fn event(&self, event: Event) {
        match &event {
            Event::Up { peer } => {
                self.order.lock().expect("whole").push(format!("up {}", peer.generation()));
            }
            Event::Down { generation, .. } => {
                self.order.lock().expect("whole").push(format!("down {generation}"));
            }
            Event::Writable { .. } => {}
        }
        let _ = self.events.send(event);
    }
}

/// A node.
pub(crate) struct Rig {
    pub(crate) mesh: Mesh,
    pub(crate) node: NodeId,
    pub(crate) handler: Arc<Recorder>,
    events: mpsc::UnboundedReceiver<Event>,
    waiting: VecDeque<Event>,
    mails: mpsc::UnboundedReceiver<Came>,
}

pub(crate) fn identity(node: u64) -> Identity {
    Identity {
        name: "plant".into(),
        cluster: CLUSTER,
        generation: 1,
        node: NodeId(node),
        store: StoreId(u128::from(node) << 64),
        incarnation: 1,
        role: Role::Member,
        address: String::new(),
        config_hash: [0; 32],
        features: 0,
        proto_max: tidegate_peer::PROTO_MAX,
    }
}

pub(crate) fn secret(bytes: &[u8]) -> Trust {
    Trust::Secret(Secret::new(bytes).expect("long enough"))
}

pub(crate) fn config(node: u64) -> MeshConfig {
    let bind = format!("127.0.0.{node}:0").parse().expect("an address");
    let mut config = MeshConfig::new(bind, identity(node), secret(SECRET));
    // Two cores, and many tests at a time.
    config.silent = Duration::from_secs(10);
    config
}

impl Rig {
    pub(crate) async fn start(node: u64) -> Self {
        Self::with(config(node)).await
    }

    pub(crate) async fn with(config: MeshConfig) -> Self {
        let (events_in, events) = mpsc::unbounded_channel();
        let (mails_in, mails) = mpsc::unbounded_channel();
        let handler = Arc::new(Recorder {
            events: events_in,
            mails: mails_in,
            gate: Arc::new(Semaphore::new(0)),
            called: AtomicUsize::new(0),
            dropped: Arc::default(),
            order: Mutex::default(),
            begun: Arc::default(),
        });
        let node = config.identity.node;
        let mesh = Mesh::start(config, handler.clone()).await.expect("it listens");
        Self { mesh, node, handler, events, waiting: VecDeque::new(), mails }
    }

    pub(crate) fn address(&self) -> String {
        self.mesh.local_addr().to_string()
    }

    pub(crate) fn knows(&self, others: &[&Rig]) {
        self.mesh.set_peers(others.iter().map(|other| other.as_peer()).collect());
    }

    pub(crate) fn as_peer(&self) -> PeerAddress {
        PeerAddress { node: self.node, address: self.address() }
    }

    /// The next event that is `wanted`; others stay for later.
    pub(crate) async fn event<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let mut passed = VecDeque::new();
        while let Some(event) = self.waiting.pop_front() {
            if let Some(found) = wanted(&event) {
                passed.append(&mut self.waiting);
                self.waiting = passed;
                return found;
            }
            passed.push_back(event);
        }
        self.waiting = passed;
        loop {
            let event = timeout(LONG, self.events.recv()).await.expect("an event in time");
            let event = event.expect("the handler is there");
            if let Some(found) = wanted(&event) {
                return found;
            }
            self.waiting.push_back(event);
        }
    }

    pub(crate) async fn up(&mut self, node: NodeId) -> Peer {
        self.event(|event| match event {
            Event::Up { peer } if peer.node() == node => Some(peer.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn down(&mut self, of: &Peer) -> Ended {
        let of = of.generation();
        self.event(|event| match event {
            Event::Down { generation, why, .. } if *generation == of => Some(why.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn mail(&mut self) -> Came {
        let mail = timeout(LONG, self.mails.recv()).await.expect("mail in time");
        mail.expect("the handler is there")
    }

    pub(crate) fn has_mail(&mut self) -> bool {
        !self.mails.is_empty()
    }

    /// Ups, downs and mails, in the order in which they were told.
    pub(crate) fn order(&self) -> Vec<String> {
        self.handler.order.lock().expect("whole").clone()
    }

    pub(crate) fn refused(&self, by_peer: bool, reason: &'static str) -> u64 {
        let counts = self.mesh.counts();
        counts.refused.get(&Refused { by_peer, reason }).copied().unwrap_or(0)
    }
}

pub(crate) fn request(over: ConnectionKind, what: u16, body: impl Into<Bytes>) -> Request {
    Request { over, group: 1, what, body: body.into(), timeout: LONG }
}

pub(crate) fn echo(text: &'static str) -> Request {
    request(ConnectionKind::Control, ECHO, text)
}

/// Two that have a session; the first called.
pub(crate) async fn pair() -> (Rig, Rig, Peer, Peer) {
    pair_of(config(1), config(2)).await
}

pub(crate) async fn pair_of(a: MeshConfig, b: MeshConfig) -> (Rig, Rig, Peer, Peer) {
    let (mut a, mut b) = (Rig::with(a).await, Rig::with(b).await);
    a.knows(&[&b]);
    let (to_b, to_a) = (a.up(b.node).await, b.up(a.node).await);
    (a, b, to_b, to_a)
}

/// Until it is so.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let waited = timeout(LONG, async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// A wire to a node: forwards bytes until it swallows them, or is cut.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    state: watch::Sender<Flow>,
    cut: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flow {
    /// Bytes go through.
    Open,
    /// Bytes stay where they are; nobody is told.
    Swallows,
}

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
        let address = listener.local_addr().expect("bound");
        let state = watch::Sender::new(Flow::Open);
        let cut = Arc::new(Notify::new());
        let (flow, cuts) = (state.subscribe(), cut.clone());
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let (flow, cuts) = (flow.clone(), cuts.clone());
                tokio::spawn(async move {
                    let Ok(to) = TcpStream::connect(target).await else { return };
                    let ((from_in, from_out), (to_in, to_out)) =
                        (from.into_split(), to.into_split());
                    tokio::select! {
                        () = forward(from_in, to_out, flow.clone()) => {}
                        () = forward(to_in, from_out, flow) => {}
                        () = cuts.notified() => {}
                    }
                });
            }
        });
        Self { address, state, cut }
    }

    pub(crate) fn set(&self, flow: Flow) {
        self.state.send_replace(flow);
    }

    /// Closes all that goes through.
    pub(crate) fn cut(&self) {
        self.cut.notify_waiters();
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut flow: watch::Receiver<Flow>,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        if flow.wait_for(|flow| *flow == Flow::Open).await.is_err() {
            return;
        }
        let read = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        // What was read before the wire swallowed stays in it.
        if flow.wait_for(|flow| *flow == Flow::Open).await.is_err() {
            return;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
