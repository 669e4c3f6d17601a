//! Which changes are written, and which are waited for.

use super::{Change, Gone, Partition, Recipients};
use crate::ids::{PartitionId, SessionKey};
use crate::outgoing::Acked;
use tidegate_codec::QoS;

/// What a change needs before it counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    /// Nothing. It is of sessions that end with their connection, or of
    /// messages that nobody promised to keep.
    Volatile,
    /// To be written, some time. What follows from it may be done at once: lost
    /// with the node, it makes a client hear again what it heard.
    Lazy,
    /// To be durable. What follows from it is a promise.
    Wait,
    /// That what was written before it is durable.
    Barrier,
}

impl Partition {
    pub(super) fn class(&self, change: &Change) -> Class {
        match change {
            Change::Claim { slot, request } => {
                let claim = self.claims.at(*slot);
                if self.is_kept(request) || claim.is_some_and(|claim| claim.session.is_some()) {
                    Class::Wait
                } else {
                    Class::Volatile
                }
            }
            Change::Release(released) => match released.session {
                None => Class::Volatile,
                // A will that the client has taken back, a message for another
                // member: neither may depend on who leads.
                Some(_) if self.is_replicated() => Class::Wait,
                Some(_) if released.will => Class::Wait,
                Some(_) => Class::Lazy,
            },
            Change::Subscribe(_) | Change::Unsubscribe(_) | Change::Restarted => Class::Wait,
            Change::Enqueue { message, to, confirm, .. } => {
                let kept = |qos: u8| qos > 0;
                let durable = message.qos > QoS::AtMostOnce
                    && match to {
                        Recipients::Run { targets, from, to } => {
                            let mut run = targets.iter_from(*from).take(to - from);
                            run.any(|target| kept(target.options.qos()))
                        }
                        Recipients::Listed(list) => list.iter().any(|to| kept(to.options.qos())),
                    };
                match (durable, confirm) {
                    (true, _) => Class::Wait,
                    (false, Some(_)) => Class::Barrier,
                    (false, None) => Class::Volatile,
                }
            }
            Change::EnqueueOne { delivery, .. } => match delivery.qos {
                QoS::AtMostOnce => Class::Volatile,
                QoS::AtLeastOnce | QoS::ExactlyOnce => Class::Wait,
            },
            // PUBREL promises that the PUBLISH never comes again.
            Change::Acknowledge { session, packet_id, acked } if self.is_replicated() => {
                self.class_of_ack(*session, *packet_id, *acked)
            }
            Change::Acknowledge { acked: Acked::Pubrec, .. } => Class::Wait,
            Change::Acknowledge {
                acked: Acked::Puback | Acked::PubrecRefused | Acked::Pubcomp,
                ..
            } => Class::Lazy,
            Change::Incoming { confirm, .. } => match confirm {
                Some(_) => Class::Wait,
                None => Class::Lazy,
            },
            Change::Retained { deliveries, .. } => {
                match deliveries.iter().any(|delivery| delivery.qos > QoS::AtMostOnce) {
                    true => Class::Wait,
                    false => Class::Volatile,
                }
            }
            Change::Due { .. } if self.is_replicated() => Class::Wait,
            Change::Due { slot, .. } => {
                let session = self.claims.at(*slot).and_then(|claim| claim.session.as_deref());
                match session.is_some_and(|session| session.will.is_some()) {
                    true => Class::Wait,
                    false => Class::Lazy,
                }
            }
            // The broker's own values are made anew.
            Change::Retain { message, .. } if message.topic().starts_with("$SYS/") => {
                Class::Volatile
            }
            // Nobody was promised anything.
            Change::Retain { confirm: None, .. } => Class::Lazy,
            Change::Retain { message, .. } if message.qos == QoS::AtMostOnce => Class::Lazy,
            Change::Retain { .. } | Change::Errand { .. } | Change::Moved { .. } => Class::Wait,
            Change::Settled { .. } => Class::Barrier,
            // What gave way is told in a record of its own.
            Change::Trim { .. } => Class::Volatile,
            Change::Gone(Gone::Member(_) | Gone::Sessions(_)) => Class::Wait,
            Change::Dropped(_)
            | Change::CaughtUp { .. }
            | Change::Revoke { .. }
            | Change::ErrandDone { .. } => Class::Lazy,
        }
    }

    /// An acknowledgement that replicas get: only what ends or moves an exchange,
    /// since they can't tell what was sent. The packet id of an exchange whose
    /// end is not durable is not another message's [MQTT-2.2.1-3].
    fn class_of_ack(&self, key: SessionKey, packet_id: u16, acked: Acked) -> Class {
        let (_, slot) = PartitionId::split(key.slot);
        let session = self.claims.at(slot).and_then(|claim| claim.session.as_deref());
        let outgoing = session.and_then(|session| session.outgoing.as_deref());
        let exchange = outgoing.and_then(|out| Some((out, out.owed(packet_id)?)));
        match (exchange, acked) {
            (None, _) => Class::Volatile,
            (Some(_), Acked::Pubrec) => Class::Wait,
            (Some((out, number)), Acked::Puback | Acked::PubrecRefused | Acked::Pubcomp) => {
                match out.is_id_wanted(number) {
                    true => Class::Wait,
                    false => Class::Lazy,
                }
            }
        }
    }
}
