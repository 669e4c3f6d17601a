//! Mail that leaves the node, and mail that comes in from others.

use super::Shard;
use crate::conn::{Conn, Phase};
use crate::ids::{Member, Millis, ShardId};
use crate::mail::{Cross, Kind, LaneSource, Mail, MailError, MailFormat, What, parcels};
use crate::slab::Slab;

/// Whether a mail that has waited asks for what nobody wants any more, because a
/// connection is gone. A CONNECT's claim: its client may have come in elsewhere
/// since, and would be sent away by it, or lose its session to its Clean Start. What
/// is to be retained and is not acknowledged: it may have been sent again elsewhere,
/// and would replace what is newer.
pub(super) fn is_idle(here: ShardId, conns: &Slab<Conn>, kind: &Kind) -> bool {
    let (of, phase) = match kind {
        Kind::Claim(request) => (request.conn, Phase::Claiming),
        Kind::Cross(cross) if retains_for_client(here, cross) => (cross.publisher, Phase::Live),
        _other => return false,
    };
    let waits =
        |conn: &&Conn| conn.reference(here, of.slot) == of && conn.phase == phase && !conn.gone;
    conns.at(of.slot).filter(waits).is_none()
}

/// Whether a client of this shard waits until a message is retained.
fn retains_for_client(here: ShardId, cross: &Cross) -> bool {
    matches!(cross.what, What::Retain { .. })
        && cross.publisher.shard == here
        && cross.publisher.slot != u32::MAX
        && cross.lane.is_some_and(|lane| matches!(lane.source, LaneSource::Shard(_)))
}

impl Shard {
    /// Appends mail for the shards of another member to `out`, as parcels: at
    /// least one if there is any, and then no more than fit into `max_bytes`
    /// altogether, in a format that the member reads. How many.
    ///
    /// What is taken counts as sent. If it may not have come, the link is gone,
    /// and [`Shard::member_lost`] is to be called.
    pub fn outbound_to(
        &mut self,
        member: Member,
        format: MailFormat,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let (start, mut taken) = (out.len(), 0);
        let (first, last) = (ShardId::of(member, 0), ShardId::of(member, ShardId::LAST));
        let mut relieved = Vec::new();
        let mut takeover_bytes = 0;
        let (here, conns) = (self.id, &self.conns);
        for (&to, outbox) in self.remote.range_mut(first..=last) {
            while let Some(mail) = outbox.pop() {
                if is_idle(here, conns, &mail.kind) {
                    continue;
                }
                let before = out.len();
                let known = mail.encode(to, format, &self.node, out);
                debug_assert!(known, "{mail:?} never leaves its node");
                if taken > 0 && out.len() - start > max_bytes {
                    out.truncate(before);
                    outbox.put_back(vec![mail]);
                    break;
                }
                taken += usize::from(known);
                if let Kind::Granted(granted) = &mail.kind
                    && granted.taken_from.is_some()
                {
                    takeover_bytes += out.len() - before;
                }
            }
            relieved.push(to);
            if out.len() - start >= max_bytes {
                break;
            }
        }
        for to in relieved {
            self.relieve(to);
        }
        self.counters().cross_messages.add(taken as u64);
        if takeover_bytes > 0 {
            self.counters().takeover_bytes.add(takeover_bytes as u64);
        }
        taken
    }

    /// Members for whom there is mail.
    pub fn outbound_members(&self) -> impl Iterator<Item = Member> + '_ {
        let mut last = None;
        self.remote.iter().filter(|(_, outbox)| !outbox.mails.is_empty()).filter_map(
            move |(to, _)| {
                let member = to.member();
                (last.replace(member) != Some(member)).then_some(member)
            },
        )
    }

    /// Parcels that `from` has sent to this shard, in their order. What came
    /// before the first that is none is done.
    ///
    /// # Errors
    /// It is not what this version sends: the link is to be closed.
    pub fn inbound(&mut self, now: Millis, from: Member, bytes: &[u8]) -> Result<(), MailError> {
        let _ = from;
        for parcel in parcels(bytes) {
            let (_, parcel) = parcel?;
            let mail = Mail::decode(parcel, self.id, &self.node)?;
            self.transit.leave();
            self.handle(now, mail.kind);
            self.settle(now);
        }
        Ok(())
    }

    /// Mail for a member that will not come back is not kept.
    pub fn forget_mail(&mut self, member: Member) {
        let (first, last) = (ShardId::of(member, 0), ShardId::of(member, ShardId::LAST));
        let gone: Vec<ShardId> = self.remote.range(first..=last).map(|(&to, _)| to).collect();
        for to in gone {
            if let Some(outbox) = self.remote.remove(&to) {
                self.relieve_all(outbox.paused);
            }
        }
    }
}
