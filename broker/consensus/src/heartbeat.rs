//! Heartbeats of all groups, one message a peer.
//!
//! openraft sends those of each group by itself. They wait here for a moment,
//! and what has come together by then leaves at once; so do the questions of
//! [`Groups::read_index`](crate::Groups::read_index), which are heartbeats too. What
//! tells a follower no more than that more is committed rides along: the next
//! heartbeat of its group says so as well, and its answer is one to both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tidegate_peer::{AppendAck, Coalescer, Group, HeartbeatAcks, Heartbeats, Lead};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::limits::COALESCE;
use crate::log_id::META;
use crate::transport::{CallKind, Transport, TransportError};

/// What waits for one peer.
#[derive(Default)]
struct Waiting {
    coalescer: Coalescer,
    /// By request, of all heartbeats that have no answer yet.
    replies: BTreeMap<u64, oneshot::Sender<AppendAck>>,
    next: u64,
    /// By group, who waits for the answer to its next heartbeat.
    riders: BTreeMap<Group, Vec<oneshot::Sender<AppendAck>>>,
    /// Whether someone will send what is in.
    armed: bool,
}

/// The heartbeats of a node's groups.
pub(crate) struct Beats<T> {
    transport: T,
    peers: Mutex<BTreeMap<u64, Waiting>>,
    begin: Instant,
    time_max: Duration,
}

impl<T: Transport> Beats<T> {
    /// `time_max`: how long an answer may take.
    pub(crate) fn new(transport: T, time_max: Duration) -> Self {
        Self { transport, peers: Mutex::default(), begin: Instant::now(), time_max }
    }

    /// Sends a heartbeat with those of other groups, and waits for its answer.
    pub(crate) async fn beat(
        self: &Arc<Self>,
        to: u64,
        mut lead: Lead,
    ) -> Result<AppendAck, TransportError> {
        let (tx, rx) = oneshot::channel();
        let is_first = {
            let mut peers = self.lock();
            let waiting = peers.entry(to).or_default();
            waiting.next += 1;
            lead.request = waiting.next;
            waiting.replies.insert(lead.request, tx);
            if let Some(replaced) = waiting.coalescer.beat(lead) {
                waiting.replies.remove(&replaced);
            }
            !std::mem::replace(&mut waiting.armed, true)
        };
        if is_first {
            let beats = self.clone();
            tokio::spawn(async move { beats.flush(to).await });
        }
        rx.await.map_err(|_| TransportError::Lost)
    }

    /// Waits for the answer to the group's next heartbeat to that node.
    pub(crate) async fn ride(&self, to: u64, group: Group) -> Result<AppendAck, TransportError> {
        let (tx, rx) = oneshot::channel();
        {
            let mut peers = self.lock();
            let riders = peers.entry(to).or_default().riders.entry(group).or_default();
            // Who was told by something else.
            riders.retain(|rider| !rider.is_closed());
            riders.push(tx);
        }
        rx.await.map_err(|_| TransportError::Lost)
    }

    async fn flush(&self, to: u64) {
        sleep(COALESCE).await;
        let sent_ns = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (beats, riders) = {
            let mut peers = self.lock();
            let waiting = peers.entry(to).or_default();
            waiting.armed = false;
            let beats = waiting.coalescer.take_beats(sent_ns);
            let of = |beats: &Heartbeats| -> BTreeMap<u64, Vec<_>> {
                let each = beats.beats.iter();
                let with = each.map(|beat| (beat.request, waiting.riders.remove(&beat.group)));
                with.filter_map(|(request, riders)| Some((request, riders?))).collect()
            };
            let riders = beats.as_ref().map(of).unwrap_or_default();
            (beats, riders)
        };
        let Some(beats) = beats else { return };
        let answer = self.transport.call(to, META, CallKind::Heartbeats, beats.encode().to_bytes());
        let answer = timeout(self.time_max, answer).await;
        let acks = match answer {
            Ok(Ok(body)) => HeartbeatAcks::decode(&body).map(|acks| acks.acks).unwrap_or_default(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        self.settle(to, &beats, riders, acks);
    }

    /// Who has an answer gets it; who has none by now gets none any more.
    fn settle(
        &self,
        to: u64,
        beats: &Heartbeats,
        mut riders: BTreeMap<u64, Vec<oneshot::Sender<AppendAck>>>,
        acks: Vec<AppendAck>,
    ) {
        let mut peers = self.lock();
        let waiting = peers.entry(to).or_default();
        for ack in acks {
            let is_ours = |beat: &Lead| beat.group == ack.group && beat.request == ack.request;
            if !beats.beats.iter().any(is_ours) {
                continue;
            }
            for rider in riders.remove(&ack.request).into_iter().flatten() {
                let _ = rider.send(ack);
            }
            if let Some(reply) = waiting.replies.remove(&ack.request) {
                // Who asked may have given up.
                let _ = reply.send(ack);
            }
        }
        for beat in &beats.beats {
            waiting.replies.remove(&beat.request);
        }
        if waiting.replies.is_empty() && waiting.riders.is_empty() && !waiting.armed {
            peers.remove(&to);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is sent back for heartbeats.
pub(crate) fn acks_body(sent_ns: u64, acks: Vec<AppendAck>) -> Bytes {
    HeartbeatAcks { sent_ns, acks }.encode().to_bytes()
}
