//! Heartbeats of all groups of a link, in one frame.
//!
//! A node has one timer for them; at its tick the groups that it leads put
//! their heartbeats in here, and one frame a link leaves. With 64 partitions
//! that is one frame where there would be 64.

use bytes::Bytes;

use crate::append::{AppendAck, Lead};
use crate::body::Body;
use crate::layout::{BodyError, Opened, Row, Writer};
use crate::limits::GROUPS_MAX;

/// Heartbeats of groups that the sender leads.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Heartbeats {
    /// The sender's clock, repeated in the answer: for the round trip's time.
    pub sent_ns: u64,
    /// At most `GROUPS_MAX`, a group once.
    pub beats: Vec<Lead>,
}

impl Heartbeats {
    const HEADER: usize = 16;
    const ROW: usize = 80;

    /// The body.
    ///
    /// # Panics
    /// With more than `GROUPS_MAX` beats.
    pub fn encode(&self) -> Body {
        let mut out = begin(self.beats.len(), self.sent_ns);
        for beat in &self.beats {
            out.u32(beat.group.0);
            out.u8(beat.flags());
            out.zeros(3);
            out.u64(beat.request);
            beat.write_places(&mut out);
        }
        out.finish().into()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let count = open.count("groups", GROUPS_MAX)?;
        let sent_ns = open.u64()?;
        let rows = open.rows::<{ Self::ROW }>(count, "groups")?;
        let beats = rows.iter().map(|row| Lead::from_row(&Row(row))).collect();
        open.ends()?;
        Ok(Self { sent_ns, beats })
    }
}

/// The answers to Heartbeats.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HeartbeatAcks {
    /// From the Heartbeats.
    pub sent_ns: u64,
    /// At most `GROUPS_MAX`.
    pub acks: Vec<AppendAck>,
}

impl HeartbeatAcks {
    const HEADER: usize = 16;
    const ROW: usize = 56;

    /// The body.
    ///
    /// # Panics
    /// With more than `GROUPS_MAX` answers.
    pub fn encode(&self) -> Body {
        let mut out = begin(self.acks.len(), self.sent_ns);
        for ack in &self.acks {
            out.u32(ack.group.0);
            out.u8(ack.flags());
            out.u8(ack.outcome as u8);
            out.zeros(2);
            out.u64(ack.request);
            ack.write_places(&mut out);
        }
        out.finish().into()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let count = open.count("groups", GROUPS_MAX)?;
        let sent_ns = open.u64()?;
        let rows = open.rows::<{ Self::ROW }>(count, "groups")?;
        let acks = rows.iter().map(|row| AppendAck::from_row(&Row(row)));
        let acks = acks.collect::<Result<_, _>>()?;
        open.ends()?;
        Ok(Self { sent_ns, acks })
    }
}

fn begin(count: usize, sent_ns: u64) -> Writer {
    assert!(count <= GROUPS_MAX, "a node has fewer groups");
    let mut out = Writer::new(1, 0);
    out.count(count);
    out.u64(sent_ns);
    out.header_ends();
    out
}

/// Collects what one link's groups have to say until the node's timer sends it.
#[derive(Debug, Default)]
pub struct Coalescer {
    beats: Vec<Lead>,
    acks: Vec<AppendAck>,
}

impl Coalescer {
    /// A group's heartbeat. A newer one takes the place of one not yet sent,
    /// in which case that one's request is returned: it gets no answer. When
    /// `GROUPS_MAX` groups are in already, so is that of this one.
    pub fn beat(&mut self, lead: Lead) -> Option<u64> {
        if let Some(old) = self.beats.iter_mut().find(|old| old.group == lead.group) {
            return Some(std::mem::replace(old, lead).request);
        }
        if self.beats.len() == GROUPS_MAX {
            return Some(lead.request);
        }
        self.beats.push(lead);
        None
    }

    /// A group's answer to a heartbeat; a newer one takes an older one's place,
    /// whose request is returned.
    pub fn ack(&mut self, ack: AppendAck) -> Option<u64> {
        if let Some(old) = self.acks.iter_mut().find(|old| old.group == ack.group) {
            return Some(std::mem::replace(old, ack).request);
        }
        if self.acks.len() == GROUPS_MAX {
            return Some(ack.request);
        }
        self.acks.push(ack);
        None
    }

    /// What is to be sent at a tick of the node's timer; none if no group beat.
    pub fn take_beats(&mut self, sent_ns: u64) -> Option<Heartbeats> {
        let beats = std::mem::take(&mut self.beats);
        (!beats.is_empty()).then_some(Heartbeats { sent_ns, beats })
    }

    /// What is to be answered to Heartbeats sent at `sent_ns`.
    pub fn take_acks(&mut self, sent_ns: u64) -> Option<HeartbeatAcks> {
        let acks = std::mem::take(&mut self.acks);
        (!acks.is_empty()).then_some(HeartbeatAcks { sent_ns, acks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Group;
    use crate::limits::FRAME_BODY_BYTES_MAX;

    fn lead(group: u32, request: u64) -> Lead {
        Lead { group: Group(group), request, ..Lead::default() }
    }

    #[test]
    fn all_groups_of_a_link_beat_in_one_frame() {
        let mut link = Coalescer::default();
        for group in 0..GROUPS_MAX as u32 {
            assert_eq!(link.beat(lead(group, 1)), None);
        }
        assert_eq!(link.beat(lead(7, 2)), Some(1), "the newer one takes its place");
        assert_eq!(link.beat(lead(9_999, 3)), Some(3), "no more groups than fit");
        let beats = link.take_beats(5).expect("beats");
        assert!(beats.encode().len() <= FRAME_BODY_BYTES_MAX);
        assert_eq!(beats.beats.len(), GROUPS_MAX);
        assert_eq!(beats.beats[7].request, 2);
        assert_eq!(link.take_beats(6), None);
    }
}
