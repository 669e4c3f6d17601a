//! What each mail asks of a shard.

use std::sync::Arc;

use super::Shard;
use super::distribute::Job;
use crate::ids::{Millis, PartitionId};
use crate::mail::Kind;
use crate::partition::Change;

impl Shard {
    pub(super) fn handle(&mut self, now: Millis, kind: Kind) {
        let kind = match self.node.is_alone() {
            true => kind,
            false => match self.sift(now, kind) {
                Some(kind) => kind,
                None => return,
            },
        };
        match kind {
            Kind::Claim(request) => {
                let at = self.local_number(PartitionId::of(request.hash));
                self.with_partition(now, at, |partition, cx| {
                    partition.request_claim(now, request, cx);
                });
            }
            Kind::Release(request) => {
                let at = self.local_number(request.partition);
                self.with_partition(now, at, |partition, cx| {
                    partition.request_release(now, &request, cx);
                });
            }
            Kind::Subscribe(request) => {
                let (partition, _) = PartitionId::split(request.session.slot);
                self.propose(now, partition, Change::Subscribe(request));
            }
            Kind::Unsubscribe(request) => {
                let (partition, _) = PartitionId::split(request.session.slot);
                self.propose(now, partition, Change::Unsubscribe(request));
            }
            Kind::Recheck(request) => self.recheck_session(now, &request),
            Kind::Reclaim(request) => {
                let at = self.local_number(PartitionId::of(request.hash));
                self.with_partition(now, at, |partition, cx| {
                    partition.request_reclaim(now, *request, cx);
                });
            }
            Kind::Acknowledge { session, conn: _, packet_id, acked } => {
                let (partition, _) = PartitionId::split(session.slot);
                self.propose(now, partition, Change::Acknowledge { session, packet_id, acked });
            }
            Kind::Incoming { session, conn: _, packet_id, held, message, confirm } => {
                let (partition, _) = PartitionId::split(session.slot);
                let change = Change::Incoming { session, packet_id, held, message, confirm };
                self.propose(now, partition, change);
            }
            Kind::Granted(granted) => self.granted(now, *granted),
            Kind::Refused { conn, reason } => self.claim_refused(now, conn, reason),
            Kind::Evict { conn, partition, claim } => self.evict(now, conn, partition, claim),
            Kind::Released { conn } => self.released(now, conn),
            Kind::Subscribed { conn, packet_id, codes, ticket: _ } => {
                self.subscribed(now, conn, packet_id, &codes);
            }
            Kind::Unsubscribed { conn, packet_id, codes } => {
                self.unsubscribed(now, conn, packet_id, &codes);
            }
            Kind::Push { conn, packet_id, dup, delivery } => {
                self.push(now, conn, packet_id, dup, delivery);
            }
            Kind::Owe { conn, packet_id, reason } => self.owe(conn, packet_id, reason),
            Kind::Mismatch { conn } => self.mismatch(now, conn),
            Kind::Lost { conn } => self.session_lost(now, conn),
            Kind::Confirmed(confirm) => self.confirmed(now, confirm),
            Kind::Undone(confirm) => self.undone(now, confirm),
            Kind::Relieved => self.relieved(),
            Kind::NotRetained(confirm) => self.not_retained(now, confirm),
            Kind::JobDone { conn } => self.job_done(conn),
            Kind::Pace { conn, replay } => self.pace(now, conn, replay),
            Kind::Deliver { message, targets, durable, publisher, lane, confirm, report } => {
                let origin = self.transit.origin();
                self.fan_out(
                    now,
                    Job {
                        message,
                        targets,
                        durable,
                        at: 0,
                        publisher,
                        lane,
                        confirm: confirm.map(Arc::new),
                        report,
                        origin,
                    },
                );
            }
            Kind::DeliverShared { session, delivery, lane, confirm } => {
                self.deliver_shared(now, session, delivery, lane, confirm);
            }
            Kind::Retain { message, clear, lane, confirm } => {
                self.propose_retain(now, message, clear, lane, confirm);
            }
            Kind::Cross(cross) => self.crossed(now, *cross),
            Kind::Query(replay) => self.queried(replay),
            Kind::Returned { conn, replay } => self.replay_returned(now, conn, replay),
            Kind::Answer { replay, messages, more } => self.replayed(now, replay, messages, more),
        }
    }
}
