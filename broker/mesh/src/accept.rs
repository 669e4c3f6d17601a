//! Takes in who calls.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tracing::{debug, warn};

use crate::greet::{self, SharedRef};
use crate::limits::{HANDSHAKES_MAX, HANDSHAKES_PER_SOURCE_MAX};
use crate::net::{Listening, Socket};
use crate::settle::settle;

/// Until the mesh stops.
pub(crate) async fn accept(shared: SharedRef, listener: Box<dyn Listening>) {
    let mut stopping = shared.stopping.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            stops = stopping.wait_for(|stops| *stops) => {
                drop(stops);
                return;
            }
        };
        match accepted {
            Ok((tcp, remote)) => take(&shared, tcp, remote),
            Err(error) => {
                // Out of descriptors, or a caller that was gone again.
                debug!(%error, "accept between nodes");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn take(shared: &SharedRef, tcp: Box<dyn Socket>, remote: SocketAddr) {
    let Some(slot) = Slot::take(shared, remote.ip()) else {
        if shared.counters.refuse(false, "handshakes") {
            warn!(%remote, "too many handshakes between nodes at a time");
        }
        return;
    };
    let shared = shared.clone();
    tokio::spawn(async move {
        let deadline = greet::deadline(&shared);
        let answered = greet::answer(&shared, tcp, remote, deadline).await;
        drop(slot);
        match answered {
            Ok(greeted) => settle(&shared, greeted).await,
            Err(error) => debug!(%remote, %error, "no handshake"),
        }
    });
}

/// A handshake that is not over.
struct Slot {
    shared: SharedRef,
    source: IpAddr,
}

impl Slot {
    fn take(shared: &SharedRef, source: IpAddr) -> Option<Self> {
        let mut greeting = shared.greeting.lock().expect("no panic while it is held");
        let all: usize = greeting.values().sum();
        let of_source = greeting.entry(source).or_default();
        if all >= HANDSHAKES_MAX || *of_source >= HANDSHAKES_PER_SOURCE_MAX {
            if *of_source == 0 {
                greeting.remove(&source);
            }
            return None;
        }
        *of_source += 1;
        drop(greeting);
        Some(Self { shared: shared.clone(), source })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut greeting = self.shared.greeting.lock().expect("no panic while it is held");
        if let Some(of_source) = greeting.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                greeting.remove(&self.source);
            }
        }
    }
}
