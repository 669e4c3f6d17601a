//! Partitions whose leader changes, and nodes that are lost.
//!
//! What a connection has asked of the leader of its partition may not have come,
//! or have died with that leader. A CONNECT is asked again. A connection whose
//! session ends with it tells the new leader that it is there. One of a durable
//! session is closed: the new leader knows the session, and what of it had been
//! told to the client is settled by its resuming it. All this is done in steps,
//! for one partition or sixty-four at once; none of it is ever the case on a
//! node that is alone.

use std::collections::BTreeMap;

use tidegate_codec::{ReasonCode, Version};

use super::links::is_idle;
use super::{FOR_PAUSE, Shard};
use crate::conn::{Conn, Phase};
use crate::counters::{CloseReason, DropReason};
use crate::ids::{ConnRef, Member, Millis, PARTITIONS, PartitionId};
use crate::keepalive::{TICK_MS, tick_of};
use crate::limits::ASK_AGAIN_MS;
use crate::mail::{ClaimRef, ClaimRequest, Kind, Mail, Reclaim, ReleaseRequest};
use crate::partition::Partition;

/// Connections looked at in one step.
const LOOKS_MAX: u32 = 1_024;

/// What is to be done because leaders have changed or links were lost.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Partitions whose connections are being looked at, a bit each: for the
    /// first time since the leader changed, and again.
    fresh: u64,
    again: u64,
    /// The next slot of that.
    next: u32,
    /// Partitions to whose leaders connections have told that they are there,
    /// and which not all have answered yet.
    open: u64,
    /// When these are looked at again.
    due: Millis,
    /// Ends of connections that their leaders have not noted.
    releases: BTreeMap<ConnRef, ReleaseRequest>,
}

impl Moves {
    #[inline]
    pub(super) fn is_walking(&self) -> bool {
        self.fresh | self.again != 0
    }

    /// When there is something to look at again.
    #[inline]
    pub(super) fn due(&self) -> Option<Millis> {
        (self.open != 0).then_some(self.due)
    }
}

impl Shard {
    /// Partition `p` has another leader, or none, or the same one after a break:
    /// to be called on every shard after [`Node::set_home`](crate::Node::set_home).
    pub fn home_moved(&mut self, now: Millis, p: PartitionId) {
        if self.node.is_alone() {
            return;
        }
        self.transit.leave();
        self.moves.open &= !p.bit();
        self.moves.fresh |= p.bit();
        self.moves.next = 0;
        if self.node.home(p).is_some()
            && let Some(mut outbox) = self.homeless.remove(&p.0)
        {
            while let Some(Mail { kind, .. }) = outbox.pop() {
                if !is_idle(self.id, &self.conns, &kind) {
                    self.send_home(p, kind);
                }
            }
            self.relieve_all(std::mem::take(&mut outbox.paused));
        }
        self.crossings_moved(now, p);
        // What an earlier leader was told may be lost with it.
        if self.node.home(p).is_some() {
            let open = self.moves.releases.values().filter(|request| request.partition == p);
            for request in open.copied().collect::<Vec<_>>() {
                self.send_home(p, Kind::Release(Box::new(request)));
            }
        }
        self.settle(now);
    }

    /// The link to a member is lost, or the member: what was sent to it may not
    /// have come, and what it sent may not come.
    pub fn member_lost(&mut self, now: Millis, member: Member) {
        self.transit.leave();
        for slot in 0..self.conns.slots() {
            let Some(conn) = self.conns.at(slot) else { continue };
            let home = self.node.home(PartitionId::of(conn.hash));
            if home.is_none_or(|home| home.member() != member) {
                continue;
            }
            match conn.phase {
                // What its leader had for it may be lost on the way.
                Phase::Live if conn.session_durable => self.end_moved(now, slot),
                Phase::Claiming => self.claim_again(slot),
                Phase::Live | Phase::HalfOpen | Phase::Closing => {}
            }
        }
        // Nor may it have heard of those whose sessions end with them.
        for p in (0..PARTITIONS as u8).map(PartitionId) {
            let there = self.node.home(p).is_some_and(|home| home.member() == member);
            if there && self.moves.open & p.bit() != 0 {
                self.moves.open &= !p.bit();
                self.moves.again |= p.bit();
                self.moves.next = 0;
            }
        }
        let releases: Vec<ReleaseRequest> = self.moves.releases.values().copied().collect();
        for request in releases {
            if self.node.home(request.partition).is_some_and(|home| home.member() == member) {
                self.send_home(request.partition, Kind::Release(Box::new(request)));
            }
        }
        self.crossings_lost(now, member);
        self.settle(now);
    }

    /// Keeps mail for a partition that nobody leads, as far as is known here.
    #[cold]
    pub(super) fn wait_for_home(&mut self, partition: PartitionId, kind: Kind) {
        if matches!(kind, Kind::Query(_)) {
            return; // its owner asks again
        }
        let outbox = self.homeless.entry(partition.0).or_default();
        if outbox.is_homeless_over() {
            match &kind {
                Kind::Claim(request) => {
                    let (conn, reason) = (request.conn, ReasonCode::ServerBusy);
                    return self.send(conn.shard, Kind::Refused { conn, reason });
                }
                Kind::Retain { confirm: None, .. } => {
                    return self.counters().dropped(DropReason::PeerBuffer, 1);
                }
                _other => {} // of connections that are not read on
            }
        }
        self.homeless.entry(partition.0).or_default().push(Mail { kind, read_at: None });
    }

    /// Pauses a client whose mail waits for a leader.
    #[cold]
    pub(super) fn press_homeless(&mut self, partition: PartitionId, publisher: ConnRef) {
        let over = |outbox: &super::Outbox| outbox.is_homeless_over();
        if publisher.shard != self.id || !self.homeless.get(&partition.0).is_some_and(over) {
            return;
        }
        let Some(conn) = self.conn(publisher) else { return };
        if conn.pause & crate::conn::pause::OUTBOX == 0 {
            conn.pause |= crate::conn::pause::OUTBOX;
            self.counters().mailbox_pauses.add(1);
            self.homeless.entry(partition.0).or_default().paused.push(publisher);
        }
    }

    /// Whether this shard leads a partition, and the node knows it. One that is
    /// not promoted yet has nobody in the index, and would take a message for one
    /// that nobody wants.
    pub(super) fn leads(&self, partition: PartitionId) -> bool {
        self.node.home(partition) == Some(self.id)
            && self.partitions.get(self.local_number(partition)).is_some_and(Partition::leads)
    }

    /// Mail as this shard may handle it. What is for the leader of a partition
    /// that is led elsewhere is not: whoever sent it will know that soon, and
    /// ask again, or is told that it is lost.
    pub(super) fn sift(&mut self, now: Millis, mut kind: Kind) -> Option<Kind> {
        let _ = now;
        let here = self.id;
        let session = match &mut kind {
            Kind::Claim(request) => {
                return self.leads(PartitionId::of(request.hash)).then_some(kind);
            }
            Kind::Reclaim(request) => {
                return self.leads(PartitionId::of(request.hash)).then_some(kind);
            }
            Kind::Release(request) => {
                // That it is noted is said once it is committed.
                return self.leads(request.partition).then_some(kind);
            }
            Kind::Subscribe(request) => Some((&mut request.session, Some(request.conn))),
            Kind::Unsubscribe(request) => Some((&mut request.session, Some(request.conn))),
            Kind::Recheck(request) => Some((&mut request.session, None)),
            Kind::Acknowledge { session, conn, .. } | Kind::Incoming { session, conn, .. } => {
                Some((session, Some(*conn)))
            }
            Kind::Returned { replay, .. } | Kind::Answer { replay, .. } => {
                replay.owner.durable.then_some((&mut replay.owner, None))
            }
            Kind::Retain { message, .. } => {
                let partition = self.node.retained_partition(message.topic());
                let keeps = crate::mail::is_system(message.topic()) || self.leads(partition);
                return keeps.then_some(kind);
            }
            Kind::Granted(_)
            | Kind::Refused { .. }
            | Kind::Evict { .. }
            | Kind::Released { .. }
            | Kind::Subscribed { .. }
            | Kind::Unsubscribed { .. }
            | Kind::Push { .. }
            | Kind::Owe { .. }
            | Kind::Mismatch { .. }
            | Kind::Lost { .. }
            | Kind::Confirmed(_)
            | Kind::Undone(_)
            | Kind::Relieved
            | Kind::NotRetained(_)
            | Kind::JobDone { .. }
            | Kind::Pace { .. }
            | Kind::Deliver { .. }
            | Kind::DeliverShared { .. }
            | Kind::Cross(_)
            | Kind::Query(_) => None,
        };
        let Some((session, conn)) = session else { return Some(kind) };
        // Under another leader it had another shard.
        session.shard = here;
        let session = *session;
        let (partition, _) = PartitionId::split(session.slot);
        let at = self.local_number(partition);
        let known = self.leads(partition)
            && conn.is_none_or(|conn| {
                self.partitions.get(at).is_some_and(|partition| partition.speaks(session, conn))
            });
        if known {
            return Some(kind);
        }
        if let Some(conn) = conn {
            self.send(conn.shard, Kind::Lost { conn });
        }
        None
    }

    /// What its leader was asked is not done, and was not answered.
    pub(super) fn session_lost(&mut self, now: Millis, at: ConnRef) {
        if self.conn(at).is_some_and(|conn| conn.session_durable) {
            self.end_moved(now, at.slot);
        }
    }

    /// Closes a connection whose session is better resumed.
    pub(super) fn end_moved(&mut self, now: Millis, slot: u32) {
        let Some(conn) = self.conns.at(slot).filter(|conn| conn.phase == Phase::Live) else {
            return;
        };
        if conn.version == Version::V5 && !conn.blocked {
            self.say_disconnect(slot, ReasonCode::ServerBusy);
        }
        self.end(now, slot, CloseReason::Moved, true);
    }

    /// Asks for a claim, at first and again: whoever has asked is known by its
    /// connection, and nothing is granted twice.
    pub(super) fn claim_again(&mut self, slot: u32) {
        let id = self.id;
        let waits = |conn: &&Conn| conn.phase == Phase::Claiming && !conn.gone;
        let Some(conn) = self.conns.at(slot).filter(waits) else { return };
        let Some(client) = conn.client.clone() else { return };
        let request = ClaimRequest {
            conn: conn.reference(id, slot),
            client,
            hash: conn.hash,
            clean_start: conn.clean_start,
            expiry: conn.expiry,
            window: conn.window,
            will: conn.will.clone(),
            counted: false,
            came: 0,
            order: self.node.claim_order(),
        };
        self.send_home(PartitionId::of(request.hash), Kind::Claim(Box::new(request)));
    }

    /// A partition is led here no more: grants that wait for a link are void, and are
    /// asked for again.
    pub(super) fn forget_grants(&mut self, p: PartitionId) {
        let is_one = |mail: &Mail| match &mail.kind {
            Kind::Granted(granted) => granted.partition == p,
            _other => false,
        };
        for outbox in self.remote.values_mut() {
            outbox.drop_if(is_one);
        }
    }

    /// Looks after a CONNECT that has not been answered.
    pub(super) fn watch_claim(&mut self, now: Millis, slot: u32) {
        if self.node.is_alone() {
            return;
        }
        if let Some(conn) = self.conns.at(slot).filter(|conn| conn.phase == Phase::Claiming) {
            let watched = (slot, conn.generation | FOR_PAUSE);
            self.wheel.insert(watched, tick_of(now + ASK_AGAIN_MS) + 1);
        }
    }

    /// A claim came for a connection that has no use for it.
    pub(super) fn decline(&mut self, conn: ConnRef, partition: PartitionId, claim: ClaimRef) {
        if self.node.is_alone() {
            return;
        }
        // How it ended was said before, to this leader or to an earlier one.
        let (expiry, will, moved) = (None, true, false);
        let request = match self.moves.releases.get(&conn) {
            Some(known) => ReleaseRequest { claim, ..*known },
            None => ReleaseRequest { partition, conn, claim, expiry, will, moved },
        };
        self.give_up(request);
    }

    /// Tells a leader that a connection has ended, until one has noted it.
    pub(super) fn give_up(&mut self, request: ReleaseRequest) {
        let partition = request.partition;
        if !self.node.is_alone() {
            self.moves.releases.insert(request.conn, request);
        }
        self.send_home(partition, Kind::Release(Box::new(request)));
    }

    /// It has. Of one that has withdrawn its CONNECT nothing will come, or comes to
    /// be given back.
    pub(super) fn released(&mut self, now: Millis, conn: ConnRef) {
        self.moves.releases.remove(&conn);
        if self.conn(conn).is_some_and(|conn| conn.phase == Phase::Claiming && conn.gone) {
            self.claim_refused(now, conn, ReasonCode::ServerBusy);
        }
    }

    /// A connection is gone whose claim may be on its way: as long as it is not
    /// granted nobody is to be sent away for it.
    pub(super) fn withdraw(&mut self, slot: u32) {
        let Some(conn) = self.conns.at(slot).filter(|_| !self.node.is_alone()) else { return };
        self.give_up(ReleaseRequest {
            partition: PartitionId::of(conn.hash),
            conn: conn.reference(self.id, slot),
            claim: ClaimRef::NONE,
            expiry: Some(conn.expiry),
            will: conn.will.is_some(),
            moved: false,
        });
    }

    /// Ends of connections that their leaders have not noted.
    pub fn open_releases(&self) -> usize {
        self.moves.releases.len()
    }

    /// A step of the look at the connections whose partitions have moved.
    pub(super) fn walk_some(&mut self, now: Millis) {
        if !self.moves.is_walking() {
            return;
        }
        let slots = self.conns.slots();
        let to = self.moves.next.saturating_add(LOOKS_MAX).min(slots);
        for slot in self.moves.next..to {
            self.moved_one(now, slot);
        }
        self.moves.next = to;
        if to >= slots {
            (self.moves.fresh, self.moves.again, self.moves.next) = (0, 0, 0);
            self.moves.due = now + ASK_AGAIN_MS;
        }
    }

    /// Looks again at partitions whose leaders have not answered all.
    pub(super) fn walk_again(&mut self, now: Millis) {
        if self.moves.due().is_some_and(|due| due <= now) {
            self.moves.again |= std::mem::take(&mut self.moves.open);
            self.moves.next = 0;
        }
    }

    fn moved_one(&mut self, now: Millis, slot: u32) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let partition = PartitionId::of(conn.hash);
        let fresh = self.moves.fresh & partition.bit() != 0;
        if !fresh && self.moves.again & partition.bit() == 0 {
            return;
        }
        match conn.phase {
            Phase::HalfOpen | Phase::Closing => {}
            Phase::Claiming if fresh => {
                conn.claim = ClaimRef::NONE; // see `granted`
                self.claim_again(slot);
            }
            Phase::Claiming => {}
            Phase::Live if conn.session_durable && fresh => self.end_moved(now, slot),
            Phase::Live if conn.session_durable => {}
            Phase::Live => {
                if fresh {
                    conn.claim = ClaimRef::NONE;
                }
                self.reclaim(slot, partition);
            }
        }
    }

    /// A connection of a session that ends with it has a claim that may be an earlier
    /// leader's: it tells the present one that it is there.
    pub(super) fn reclaim_late(&mut self, now: Millis, slot: u32, partition: PartitionId) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        conn.claim = ClaimRef::NONE;
        if self.moves.open == 0 {
            self.moves.due = now + ASK_AGAIN_MS;
        }
        self.reclaim(slot, partition);
    }

    /// A connection without a claim tells the leader that it is there.
    fn reclaim(&mut self, slot: u32, partition: PartitionId) {
        let Some(conn) = self.conns.at(slot).filter(|conn| conn.claim == ClaimRef::NONE) else {
            return;
        };
        let (Some(client), Some(home)) = (conn.client.clone(), self.node.home(partition)) else {
            return;
        };
        let since = self.node.epoch + Millis::from(conn.session.0) * TICK_MS;
        let request =
            Reclaim { conn: conn.reference(self.id, slot), client, hash: conn.hash, since };
        self.moves.open |= partition.bit();
        self.send(home, Kind::Reclaim(Box::new(request)));
    }
}
