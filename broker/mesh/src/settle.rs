//! What a new connection is to the session that is there, if there is one.

use std::sync::Arc;

use tidegate_peer::{ConnectionKind, Reason, stays};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::greet::Greeted;
use crate::handler::Ended;
use crate::limits::{GUEST_TIME_MAX, PEERS_MAX};
use crate::peer::Generation;
use crate::session::{Others, Session, open_guest, run, run_guest};
use crate::shared::{Current, Shared};

/// Gives a connection its place; what has none is refused.
pub(crate) async fn settle(shared: &Arc<Shared>, greeted: Greeted) {
    let peer = &greeted.established.peer;
    outdate(shared, peer.node);
    let place = match (peer.kind, peer.session) {
        (ConnectionKind::Control, 0) => guest(shared, greeted),
        (ConnectionKind::Control, _) => control(shared, greeted),
        (ConnectionKind::Data | ConnectionKind::Bulk, _) => other(shared, greeted),
    };
    if let Err(unwanted) = place {
        let Unwanted { greeted, reason, detail } = *unwanted;
        let remote = greeted.remote;
        shared.count_end(&Ended::here(reason, detail), remote);
        greeted.refuse(reason, detail).await;
    }
}

type Placed = Result<(), Box<Unwanted>>;

/// A connection that was greeted and is not taken.
struct Unwanted {
    greeted: Greeted,
    reason: Reason,
    detail: &'static str,
}

fn refuse(greeted: Greeted, reason: Reason, detail: &'static str) -> Placed {
    Err(Box::new(Unwanted { greeted, reason, detail }))
}

/// Somebody asks without a session.
fn guest(shared: &Arc<Shared>, greeted: Greeted) -> Placed {
    let Ok(permit) = shared.guests.clone().try_acquire_owned() else {
        return refuse(greeted, Reason::Overloaded, "too many ask at a time");
    };
    let session = Session::new(&greeted, Generation(0), 0, 0, Arc::default());
    let tasks = open_guest(shared, &session, greeted);
    let shared = shared.clone();
    tokio::spawn(async move {
        run_guest(shared, session, tasks, GUEST_TIME_MAX).await;
        drop(permit);
    });
    Ok(())
}

/// A control connection: a new session, unless the one that is there stays.
fn control(shared: &Arc<Shared>, greeted: Greeted) -> Placed {
    let established = &greeted.established;
    let peer = &established.peer;
    let own = shared.identity();
    let known = shared.met().known(peer.node);
    if known.is_some_and(|known| known.is_forgotten) {
        return refuse(greeted, Reason::Forgotten, "the node is no longer of the cluster");
    }
    if known.is_some_and(|known| known.incarnation > peer.incarnation) {
        return refuse(greeted, Reason::StaleIncarnation, "a newer process is known");
    }
    if *shared.stopping.borrow() {
        return refuse(greeted, Reason::Leaving, "this node stops");
    }
    let is_fresh = own.cluster.0 == 0 || peer.cluster.0 == 0;
    let stripes = if is_fresh { 0 } else { peer.stripes };
    let mut nodes = shared.nodes();
    let sessions = nodes.values().filter(|node| node.session.is_some()).count();
    let node = nodes.entry(peer.node).or_default();
    let refused = match &node.session {
        Some(old) => {
            let old = &old.session;
            let is_same = (old.hello.incarnation, old.store()) == (peer.incarnation, peer.store);
            let is_same_way = old.is_caller == established.is_caller;
            // Of two that the same side called the newer stays: that side has
            // given the older up.
            (is_same && !is_same_way && !old.is_over() && !stays(own.node, established))
                .then_some((Reason::Duplicate, "there is a session"))
        }
        None if sessions >= PEERS_MAX => Some((Reason::Overloaded, "too many sessions")),
        None => None,
    };
    if let Some((reason, detail)) = refused {
        if node.is_idle() {
            nodes.remove(&greeted.established.peer.node);
        }
        return refuse(greeted, reason, detail);
    }
    let before = match node.session.take() {
        Some(old) => {
            let is_older = old.session.hello.incarnation < peer.incarnation;
            let (reason, detail) = match is_older {
                true => (Reason::StaleIncarnation, "a newer process is there"),
                false => (Reason::Duplicate, "another connection took its place"),
            };
            old.session.end(Ended::here(reason, detail));
            Some(old.done)
        }
        None => node.before.take(),
    };
    let queue = shared.config.class_queue_bytes;
    let traffic = node.traffic.clone();
    let session = Session::new(&greeted, shared.generation(), stripes, queue, traffic);
    let (done, done_receiver) = watch::channel(false);
    let (others, sender) = if session.is_caller {
        // Where this one went, whatever the name may stand for by now.
        (Others::Call(greeted.remote.to_string()), None)
    } else {
        let (sender, receiver) = mpsc::channel(usize::from(stripes) + 1);
        (Others::Await(receiver), Some(sender))
    };
    let current = Current { session: session.clone(), others: sender, done: done_receiver };
    node.session = Some(current);
    node.kick.notify_one();
    drop(nodes);
    tokio::spawn(run(shared.clone(), session, greeted, others, before, done));
    Ok(())
}

/// A data or bulk connection of a session that the peer called.
fn other(shared: &Arc<Shared>, greeted: Greeted) -> Placed {
    let peer = &greeted.established.peer;
    let nodes = shared.nodes();
    let current = nodes.get(&peer.node).and_then(|node| node.session.as_ref());
    let sender = current.filter(|current| {
        let session = &current.session;
        session.token == peer.session
            && session.hello.incarnation == peer.incarnation
            && session.stripes == peer.stripes
    });
    let Some(sender) = sender.and_then(|current| current.others.clone()) else {
        drop(nodes);
        return refuse(greeted, Reason::NoSession, "no control connection with that session");
    };
    drop(nodes);
    match sender.try_send(greeted) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(greeted) | TrySendError::Closed(greeted)) => {
            refuse(greeted, Reason::Duplicate, "the session has that connection")
        }
    }
}

/// A newer process, or the end of a node, ends its session.
pub(crate) fn outdate(shared: &Shared, node: tidegate_peer::NodeId) {
    let Some(known) = shared.met().known(node) else { return };
    let nodes = shared.nodes();
    let Some(current) = nodes.get(&node).and_then(|node| node.session.as_ref()) else { return };
    if known.is_forgotten {
        let why = Ended::here(Reason::Forgotten, "the node is no longer of the cluster");
        current.session.end(why);
    } else if known.incarnation > current.session.hello.incarnation {
        let why = Ended::here(Reason::StaleIncarnation, "a newer process is known");
        current.session.end(why);
    }
}
