//! Keeps a session with one peer: calls it whenever there is none.

use std::time::Duration;

use tidegate_peer::{ConnectionKind, NodeId, Reason};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::backoff::backoff;
use crate::config::Place;
use crate::greet::{self, SharedRef};
use crate::settle::settle;
use crate::shared::Shared;

/// Until the peer is taken off the list.
pub(crate) async fn keep(shared: SharedRef, node: NodeId) {
    loop {
        wait(&shared, node).await;
        let address = shared.nodes().get(&node).and_then(|node| node.address.clone());
        let Some(address) = address else { return };
        if let Err(error) = call(&shared, node, &address).await {
            debug!(%node, address, %error, "peer not reached");
            let mut nodes = shared.nodes();
            if let Some(node) = nodes.get_mut(&node) {
                node.failures = node.failures.saturating_add(1);
                node.last_error = Some(error);
            }
        }
    }
}

/// Until there is no session, and it is time to call.
async fn wait(shared: &Shared, node: NodeId) {
    // Those who lost each other should not meet half way.
    let mut since = None;
    loop {
        let (kick, failures, has_session) = {
            let mut nodes = shared.nodes();
            let Some(node) = nodes.get_mut(&node) else { return };
            (node.kick.clone(), node.failures, node.session.is_some())
        };
        if has_session {
            since = None;
            kick.notified().await;
            continue;
        }
        let (since_failures, then) = match since {
            Some((of, then)) if of == failures => (of, then),
            Some(_) | None => {
                let wait = match failures {
                    0 => {
                        backoff(1, (Duration::ZERO, shared.config.backoff.0), 0)
                            + shared
                                .config
                                .backoff
                                .0
                                .mul_f64(shared.chance.u64() as f64 / u64::MAX as f64)
                    }
                    failures => backoff(failures, shared.config.backoff, shared.chance.u64()),
                };
                (failures, Instant::now() + wait)
            }
        };
        since = Some((since_failures, then));
        tokio::select! {
            () = sleep_until(then) => return,
            () = kick.notified() => {}
        }
    }
}

async fn call(shared: &SharedRef, node: NodeId, address: &str) -> Result<(), String> {
    let is_fresh = shared.identity().cluster.0 == 0;
    let stripes = if is_fresh { 0 } else { shared.config.stripes };
    let place = Place {
        kind: ConnectionKind::Control,
        stripe: 0,
        stripes,
        session: shared.chance.session(),
    };
    let called = greet::call(shared, address, place, greet::deadline(shared)).await;
    let greeted = called.map_err(|error| error.to_string())?;
    let found = greeted.established.peer.node;
    if found != node {
        let detail = format!("node {found} answers there");
        greeted.refuse(Reason::WrongNode, "another node was called").await;
        return Err(detail);
    }
    settle(shared, greeted).await;
    Ok(())
}
