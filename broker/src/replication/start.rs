//! The thread of partitions: their Raft groups, their mail, the routes.
//!
//! Apart from the thread of the membership, so that a burst of messages delays
//! no lease; both share the connections between nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use bytes::Bytes;
use tidegate_cluster::ids::{self as theirs, Incarnation, Life, NodeId};
use tidegate_consensus::{Groups, Timers};
use tidegate_core::ids::{Member, PARTITIONS};
use tidegate_mesh::{MailClass, Mesh, Peer, Room};
use tidegate_store::{FileDisk, Log};
use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use super::routes::{self, RouteEvent};
use super::run::{self, Replication};
use super::transport::{self, Answering, MeshTransport, read_back};
use super::{Said, Word, bodies, homes, post};
use crate::cluster::{Cluster, LinkEvent, View};
use crate::shard::Shared;
use crate::store::desk::Desk;
use crate::store::{Held, Store, reader};

/// Below the data directory.
pub(crate) const SNAPSHOTS: &str = "snapshots";

/// What the thread works with.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Arc<Store>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) log: Log<FileDisk>,
    /// What has to be held as long as the log is used.
    pub(crate) held: Held,
    pub(crate) mesh: Mesh,
    /// What the shards say.
    pub(crate) said: mpsc::UnboundedReceiver<Said>,
    /// What happens between nodes.
    pub(crate) links: mpsc::UnboundedReceiver<LinkEvent>,
    /// Of this node, as all that is kept.
    pub(crate) seed: u64,
}

/// Starts the thread; `answering` is given what answers the calls of others.
///
/// # Errors
/// When the log cannot be read, or there can be no thread.
pub(crate) fn start(
    parts: Parts,
    data_dir: &Path,
    answering: impl FnOnce(Answering) + Send + 'static,
) -> anyhow::Result<()> {
    let indexes = read_back(&parts.log)?;
    let path = data_dir.join(SNAPSHOTS);
    let snapshots = FileDisk::open(&path).with_context(|| format!("{}", path.display()))?;
    let reader = parts.log.reader();
    let Parts { shared, store, cluster, log, held, mesh, said, mut links, seed } = parts;
    let reserve = Some(held.reserve());
    let (desk, _) =
        Desk::start(log, reserve, Arc::clone(&store)).context("cannot start the store's thread")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = async move {
        let me = cluster.view().me;
        let transport = MeshTransport(mesh);
        let timers = Timers::default();
        let groups = Groups::new(me.node.0, timers, reader, desk.clone(), snapshots, transport);
        let read = bodies::reading(groups.clone());
        if let Err(error) = reader::start(Arc::clone(&shared), store, read) {
            error!(%error, "there can be no thread that reads messages back");
            crate::telemetry::log::flush();
            std::process::exit(crate::node::EXIT_SHARD_FAILED);
        }
        answering(transport::answering(groups.clone()));
        let (tell_views, views) = watch::channel(run::View::default());
        let (tell_links, run_links) = mpsc::unbounded_channel();
        let (tell_routes, route_events) = mpsc::unbounded_channel();
        let wake = shared.outlet.as_ref().map(super::Outlet::routes).unwrap_or_default();
        tokio::spawn(routes::run(
            Arc::clone(&shared),
            Arc::clone(&cluster),
            seed,
            wake.clone(),
            route_events,
        ));
        let sorted = Sorted {
            shared: Arc::clone(&shared),
            links: tell_links,
            routes: tell_routes.clone(),
            up: HashMap::new(),
        };
        tokio::spawn(async move {
            let mut sorted = sorted;
            while let Some(event) = links.recv().await {
                sorted.take(event);
            }
        });
        tokio::spawn(super::isolation::watch(Arc::clone(&shared), Arc::clone(&cluster)));
        tokio::spawn(super::handover::watch(Arc::clone(&shared), Arc::clone(&cluster)));
        tokio::spawn(look(Arc::clone(&cluster), tell_views, tell_routes));
        let ready = move |ready| cluster.set_may_serve(ready);
        let announce: run::Announce = Box::new(|peer: &Peer, bytes| {
            // A link that is full hears of it with the next one, in a second.
            let _ = peer.send(MailClass::Meta, bytes);
        });
        let remove_before = Box::new(move |position| desk.remove_before(position));
        Replication::run(
            shared,
            groups,
            indexes,
            announce,
            remove_before,
            Box::new(ready),
            said,
            views,
            run_links,
        )
        .await;
        error!("the thread of partitions has ended");
        drop(held);
    };
    thread::Builder::new()
        .name("partitions".to_owned())
        .spawn(move || runtime.block_on(run))
        .context("cannot start the thread of partitions")?;
    Ok(())
}

/// Sorts what happens between nodes. The shards hear of links from here, in the
/// order of the mail that comes over them: mail of a link comes after word of it,
/// and before word of its end. Routes are listened to once a link has said how
/// many shards are at its other end: without that nothing could be sent there.
struct Sorted {
    shared: Arc<Shared>,
    links: mpsc::UnboundedSender<run::LinkEvent>,
    routes: mpsc::UnboundedSender<RouteEvent>,
    /// The links, by member.
    up: HashMap<u16, Link>,
}

/// One that is up.
struct Link {
    life: Life,
    peer: Peer,
    /// Whether it has said how many shards its node has.
    greeted: bool,
    /// What it said of its routes before; bounded by its credit.
    waiting: Vec<(Bytes, Room)>,
}

impl Sorted {
    fn tell_all(&self, word: impl Fn() -> Word) {
        self.shared.mailboxes.iter().for_each(|mailbox| mailbox.say(word()));
    }

    /// Takes what an announcement says of its sender. What is wrong with it is
    /// told by whoever reads the rest.
    fn greet(&mut self, member: Member, body: &[u8]) {
        let gone = self.shared.outlet.as_ref().is_some_and(|outlet| outlet.is_gone(member));
        let (Some(link), Ok((shards, _)), false) =
            (self.up.get_mut(&member.0), homes::decode(body), gone)
        else {
            return;
        };
        self.shared.node.peer_up(member, shards.into());
        if std::mem::replace(&mut link.greeted, true) {
            return;
        }
        let _ = self.routes.send(RouteEvent::Up(link.life, member, link.peer.clone()));
        for (body, room) in link.waiting.drain(..) {
            let _ = self.routes.send(RouteEvent::Said(link.life, body, room));
        }
    }

    fn take(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(member, peer) => {
                let node = NodeId(peer.node().0);
                let life = Life { node, incarnation: Incarnation(peer.incarnation()) };
                let link = Link { life, peer: peer.clone(), greeted: false, waiting: Vec::new() };
                if let Some(before) = self.up.insert(member.0, link) {
                    self.tell_all(|| Word::MemberLost(Member(member.0)));
                    if before.greeted {
                        let _ = self.routes.send(RouteEvent::Down(before.life));
                    }
                }
                self.tell_all(|| Word::MemberUp(Member(member.0), peer.clone()));
                let _ = self.links.send(run::LinkEvent::Up(Member(member.0), peer));
            }
            LinkEvent::Down(member) => {
                self.tell_all(|| Word::MemberLost(Member(member.0)));
                let _ = self.links.send(run::LinkEvent::Down(Member(member.0)));
                if let Some(link) = self.up.remove(&member.0).filter(|link| link.greeted) {
                    let _ = self.routes.send(RouteEvent::Down(link.life));
                }
            }
            LinkEvent::Writable(_, class) => match class {
                MailClass::Shard(_) => self.tell_all(|| Word::Writable),
                MailClass::Routes => {
                    if let Some(outlet) = &self.shared.outlet {
                        outlet.wake_routes();
                    }
                }
                MailClass::Meta => {}
            },
            LinkEvent::Mail(member, class, body, room) => match class {
                MailClass::Shard(_) => {
                    let from = Member(member.0);
                    if let Err(error) = post::deliver(&self.shared, from, &body, room) {
                        warn!(member = member.0, %error, "mail of another node is damaged");
                        if let Some(Link { peer, .. }) = self.up.get(&member.0) {
                            peer.disconnect("mail that is damaged");
                        }
                    }
                }
                MailClass::Routes => {
                    let Some(link) = self.up.get_mut(&member.0) else { return };
                    if link.greeted {
                        let _ = self.routes.send(RouteEvent::Said(link.life, body, room));
                    } else {
                        link.waiting.push((body, room));
                    }
                }
                MailClass::Meta => {
                    self.greet(Member(member.0), &body);
                    let _ = self.links.send(run::LinkEvent::Homes(Member(member.0), body));
                    drop(room);
                }
            },
        }
    }
}

/// Tells what the metadata says, whenever it says something new.
async fn look(
    cluster: Arc<Cluster>,
    views: watch::Sender<run::View>,
    routes: mpsc::UnboundedSender<RouteEvent>,
) {
    let mut seen = cluster.watch();
    let mut alive: BTreeSet<Life> = BTreeSet::new();
    loop {
        let view: Arc<View> = seen.borrow_and_update().clone();
        let now: BTreeSet<Life> = view.members().map(|(_, life)| life).collect();
        for gone in alive.difference(&now) {
            let _ = routes.send(RouteEvent::Gone(*gone));
        }
        alive = now;
        let me = view.me;
        let serving = view.meta.lives_with_clients().filter(|life| *life != me).collect();
        let _ = routes.send(RouteEvent::Serving(serving));
        let _ = routes.send(RouteEvent::Level(view.meta.level()));
        let members: BTreeMap<u16, u64> =
            view.members().map(|(member, life)| (member.0, life.node.0)).collect();
        let wanted = (0..PARTITIONS)
            .map(theirs::PartitionId)
            .map(|partition| view.meta.wanted(partition).iter().map(|node| node.0).collect());
        let mut coming = vec![None; usize::from(PARTITIONS)];
        for (partition, of) in view.meta.moves() {
            if let Some(slot) = coming.get_mut(partition.index()) {
                *slot = of.add.map(|node| node.0);
            }
        }
        let next = run::View { members, wanted: wanted.collect(), coming };
        views.send_if_modified(|view| {
            let news = *view != next;
            *view = next;
            news
        });
        if seen.changed().await.is_err() {
            return;
        }
    }
}
