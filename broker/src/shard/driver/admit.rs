//! Connections that come: accepted for a share of the turn, held against their
//! listener's limits, and made clients of the core.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use tidegate_core::counters::RejectReason;
use tidegate_core::ids::Millis;
use tidegate_core::{Hangup, Opening};

use super::{Driver, SOCKETS_A_LOOK, TURN_NANOS_MAX};
use crate::net::stack::Stack;
use crate::shard::acceptor::ACCEPTS_MAX;
use crate::shard::clock::Reading;

/// How long a turn accepts connections: an accept costs some tens of
/// microseconds, and in a storm clients wait for the end of the turn.
const ACCEPT_NANOS_MAX: u64 = TURN_NANOS_MAX / 10;

impl Driver {
    /// Counts a connection that is closed before it is one.
    fn refuse(&self, reason: RejectReason) {
        let counters = &self.node().counters[self.id.index()];
        counters.connections_accepted.add(1);
        counters.connections_rejected[reason as usize].add(1);
    }

    pub(super) fn accept(&mut self, now: Millis) {
        self.acceptor.hold_layered(&self.greeter, &self.shared.doors, &self.poller);
        let start = Reading::take();
        for count in 1..=ACCEPTS_MAX {
            if count % SOCKETS_A_LOOK == 0 && Reading::take().nanos_since(start) >= ACCEPT_NANOS_MAX
            {
                return;
            }
            let meters = &self.shared.meters[self.id.index()];
            let Some((listener, socket, from)) = self.acceptor.accept(now, &self.poller, meters)
            else {
                return;
            };
            // Those of a Unix socket are not given to shards by anybody.
            if from.is_some() {
                self.gauge.accepted();
            }
            if let Err(reason) = self.take_in(now, listener, socket, from) {
                if let Some(reason) = reason {
                    self.refuse(reason);
                }
                if from.is_some() {
                    self.gauge.closed();
                }
            }
        }
    }

    /// Makes an accepted socket a connection. If not, it is closed, for the
    /// reason given, or one that the core has counted.
    fn take_in(
        &mut self,
        now: Millis,
        listener: u16,
        socket: OwnedFd,
        from: Option<IpAddr>,
    ) -> Result<(), Option<RejectReason>> {
        let door = &self.shared.doors[usize::from(listener)];
        if !door.takes(from) {
            return Err(Some(RejectReason::Untrusted));
        }
        // What a proxy will tell of is held against its rate then.
        let source = from.filter(|from| !door.is_told_by(*from));
        door.admission.enter(source, self.now_micros)?;
        let Ok(stack) = Stack::new(door, from) else {
            door.admission.leave();
            return Err(Some(RejectReason::Protocol));
        };
        let [messages_per_second, bytes_per_second] = door.admission.client_rates();
        let guarded = self.shared.is_guarded(door);
        let cluster = self.shared.cluster.as_ref();
        let local_barrier = cluster.is_some_and(|cluster| cluster.policy().local_barrier);
        let opening = Opening { guarded, messages_per_second, bytes_per_second, local_barrier };
        let Ok(conn) = self.core.open_as(now, opening) else {
            door.admission.leave();
            return Err(None);
        };
        let watched = self.poller.watch(&socket, conn.slot, conn.generation);
        if stack.is_some() {
            let timeout = door.listener.handshake_timeout.as_millis() as Millis;
            self.greeter.begin(listener, now + timeout, conn);
        }
        self.table.insert(conn.slot, conn.generation, listener, socket, stack);
        let table_bytes = self.core.connection_bytes() + self.table.bytes();
        self.meters().table_bytes.set(table_bytes as u64);
        if let Some(counts) = self.meters().listeners.get(usize::from(listener)) {
            counts.accepted.add(1);
            counts.connections.add(1);
        }
        if watched.is_err() {
            self.hang_up(now, conn.slot, Hangup::Error);
        }
        Ok(())
    }
}
