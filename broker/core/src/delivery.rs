//! A message on its way to one session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_codec::QoS;

use crate::ids::Position;
use crate::index::{Member, ShareGroup};
use crate::message::Message;
use crate::outgoing::SubscriptionIds;

/// A shared message with what this receiver's subscriptions make of it.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    /// The lower of the publish's and the subscription's QoS [MQTT-3.8.4-8].
    pub(crate) qos: QoS,
    /// The retain flag as this receiver gets it [MQTT-3.3.1-12], [MQTT-3.3.1-13].
    pub(crate) retain: bool,
    pub(crate) ids: SubscriptionIds,
    /// Where the record lies that brought it; none: in memory alone.
    pub(crate) position: Option<Position>,
    /// Set when a shared subscription chose this receiver.
    pub(crate) ticket: Option<Arc<Ticket>>,
}

/// One message that a shared subscription gave to one of its members. While it
/// lives the message counts as outstanding for that member.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) group: Arc<ShareGroup>,
    pub(crate) member: Arc<Member>,
}

impl Ticket {
    pub(crate) fn new(group: Arc<ShareGroup>, member: Arc<Member>) -> Arc<Ticket> {
        member.outstanding.fetch_add(1, Ordering::Relaxed);
        Arc::new(Ticket { group, member })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.member.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::message::Draft;

    pub(crate) fn delivery(payload: &str, qos: QoS) -> Delivery {
        let mut draft = Draft {
            topic: "t",
            forward: &[],
            payload: payload.as_bytes(),
            qos,
            retain: false,
            origin: 0,
            expires: u64::MAX,
            id: 0,
            shared: None,
        };
        Delivery {
            message: Arc::clone(draft.share()),
            qos,
            retain: false,
            ids: SubscriptionIds::None,
            position: None,
            ticket: None,
        }
    }
}
