//! Messages to frames: splits, takes turns, keeps to the credit.
//!
//! Lane 0 goes first, always; the other lanes take turns frame by frame. So a
//! heartbeat waits for no more than what was pulled already, and a lane that
//! is slow, or out of credit, holds up no other.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::body::{Body, Cursor};
use crate::credit::SendCredit;
use crate::frame::{self, Flags};
use crate::lane::Lane;
use crate::limits::{
    FRAME_BODY_BYTES_MAX, HEADER_BYTES, LANE_QUEUE_BYTES_MAX, LINK_QUEUE_BYTES_MAX,
    MESSAGE_BYTES_MAX, PARTIAL_BYTES_MAX, PARTIALS_MAX, URGENT_QUEUE_BYTES_MAX,
};

/// Bytes of the longest frame: the least that a pull can be sure to send with.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + FRAME_BODY_BYTES_MAX;

/// What a queued message is counted with besides its bytes.
const MESSAGE_COST: usize = 64;
/// Of the length in a first frame.
const TOTAL_BYTES: usize = 4;

/// Why a message was not taken. Nothing has happened to the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SendError {
    /// Too much waits already; the source is to be stopped.
    #[error("{lane} has {queued} bytes waiting")]
    Full {
        /// Where.
        lane: Lane,
        /// How many.
        queued: usize,
    },
    /// The message is longer than its type may be. Our own fault.
    #[error("a message of {got} bytes is over the limit of {max}")]
    TooLarge {
        /// Its bytes.
        got: usize,
        /// What is allowed.
        max: usize,
    },
    /// The peer keeps account of no more lanes.
    #[error("the peer takes no more than {0} lanes")]
    TooManyLanes(u16),
    /// The type does not belong on this connection or lane. Our own fault.
    #[error("not on this connection or lane")]
    Misplaced,
    /// The connection has said its Goodbye.
    #[error("the connection ends")]
    Ending,
}

#[derive(Debug)]
struct Queued {
    code: u16,
    flags: Flags,
    body: Cursor,
    total: usize,
    /// Some of it has left.
    is_begun: bool,
}

impl Queued {
    fn cost(&self) -> usize {
        self.total + MESSAGE_COST
    }

    fn is_split(&self) -> bool {
        self.total > FRAME_BODY_BYTES_MAX
    }
}

#[derive(Debug)]
struct OutLane {
    queue: VecDeque<Queued>,
    bytes: usize,
    credit: SendCredit,
    /// It is in the ring.
    is_ready: bool,
}

/// The sending side of a connection.
#[derive(Debug)]
pub struct Outgoing {
    lanes: BTreeMap<Lane, OutLane>,
    lanes_max: u16,
    lane_credit: u32,
    /// Of all lanes together.
    credit: SendCredit,
    /// Lanes with something to send and the credit for it, in turn.
    ring: VecDeque<Lane>,
    urgent: VecDeque<(u16, Flags, Bytes)>,
    urgent_bytes: usize,
    bytes: usize,
    partials: usize,
    partial_bytes: usize,
}

impl Outgoing {
    /// At the start, with what the peer's Hello offers.
    pub fn new(lane_credit: u32, link_credit: u32, lanes_max: u16) -> Self {
        Self {
            lanes: BTreeMap::new(),
            lanes_max,
            lane_credit,
            credit: SendCredit::new(link_credit),
            ring: VecDeque::new(),
            urgent: VecDeque::new(),
            urgent_bytes: 0,
            bytes: 0,
            partials: 0,
            partial_bytes: 0,
        }
    }

    /// Queues a message on lane 0. `Full`: the peer does not read, and it is
    /// time to give the connection up.
    pub fn push_urgent(&mut self, code: u16, flags: Flags, body: Bytes) -> Result<(), SendError> {
        let (got, max) = (body.len(), FRAME_BODY_BYTES_MAX);
        if got > max {
            return Err(SendError::TooLarge { got, max });
        }
        let queued = self.urgent_bytes + got + MESSAGE_COST;
        if queued > URGENT_QUEUE_BYTES_MAX {
            return Err(SendError::Full { lane: Lane::LINK, queued: self.urgent_bytes });
        }
        self.urgent_bytes = queued;
        self.urgent.push_back((code, flags, body));
        Ok(())
    }

    /// Queues a message on another lane.
    pub fn push(
        &mut self,
        lane: Lane,
        code: u16,
        flags: Flags,
        body: Body,
    ) -> Result<(), SendError> {
        let total = body.len();
        if lane == Lane::LINK {
            return self.push_urgent(code, flags, body.to_bytes());
        }
        if total > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLarge { got: total, max: MESSAGE_BYTES_MAX });
        }
        let cost = total + MESSAGE_COST;
        if self.bytes > 0 && self.bytes + cost > LINK_QUEUE_BYTES_MAX {
            return Err(SendError::Full { lane, queued: self.bytes });
        }
        let is_known = self.lanes.contains_key(&lane);
        if !is_known && self.lanes.len() >= usize::from(self.lanes_max) {
            return Err(SendError::TooManyLanes(self.lanes_max));
        }
        let credit = SendCredit::new(self.lane_credit);
        let out = self.lanes.entry(lane).or_insert_with(|| OutLane {
            queue: VecDeque::new(),
            bytes: 0,
            credit,
            is_ready: false,
        });
        if out.bytes > 0 && out.bytes + cost > LANE_QUEUE_BYTES_MAX {
            return Err(SendError::Full { lane, queued: out.bytes });
        }
        out.bytes += cost;
        self.bytes += cost;
        let body = Cursor::new(body);
        out.queue.push_back(Queued { code, flags, body, total, is_begun: false });
        out.stand_in(lane, &mut self.ring);
        Ok(())
    }

    /// The peer's grant. One for a lane that was never used is void: only what
    /// came can have been released.
    pub fn grant(&mut self, lane: Lane, limit: u64) {
        if lane == Lane::ALL {
            self.credit.grant(limit);
        } else if let Some(out) = self.lanes.get_mut(&lane)
            && out.credit.grant(limit)
        {
            out.stand_in(lane, &mut self.ring);
        }
    }

    /// Bytes that wait, each message counted with 64 more.
    pub fn queued_bytes(&self) -> usize {
        self.bytes + self.urgent_bytes
    }

    /// The same, on one lane.
    pub fn queued_on(&self, lane: Lane) -> usize {
        self.lanes.get(&lane).map_or(0, |out| out.bytes)
    }

    /// Whether a pull would yield something.
    pub fn is_ready(&self) -> bool {
        // What has begun goes on, and is in the ring.
        let goes = self.credit.is_open() || self.partials > 0;
        !self.urgent.is_empty() || goes && !self.ring.is_empty()
    }

    /// Drops all that has not been pulled.
    pub fn clear(&mut self) {
        self.lanes.clear();
        self.ring.clear();
        self.urgent.clear();
        (self.urgent_bytes, self.bytes, self.partials, self.partial_bytes) = (0, 0, 0, 0);
    }

    /// The same as `pull`, of lane 0 alone: what does not wait for a rate cap.
    pub fn pull_urgent(&mut self, bytes_max: usize, out: &mut Vec<Bytes>) -> usize {
        let mut pulled = 0;
        while let Some((_, _, body)) = self.urgent.front() {
            if pulled + HEADER_BYTES + body.len() > bytes_max {
                return pulled;
            }
            let Some((code, flags, body)) = self.urgent.pop_front() else { break };
            self.urgent_bytes -= body.len() + MESSAGE_COST;
            let head = frame::header(code, flags, Lane::LINK, [&body[..]]);
            out.push(Bytes::copy_from_slice(&head));
            pulled += HEADER_BYTES + body.len();
            if !body.is_empty() {
                out.push(body);
            }
        }
        pulled
    }

    /// Appends frames of at most `bytes_max` bytes together to `out`, to be
    /// written in that order; returns their bytes. With `FRAME_BYTES_MAX` or
    /// more, something comes unless there is nothing.
    pub fn pull(&mut self, bytes_max: usize, out: &mut Vec<Bytes>) -> usize {
        let mut pulled = self.pull_urgent(bytes_max, out);
        if !self.urgent.is_empty() {
            return pulled;
        }
        // Lanes that were passed over since the last frame left.
        let mut passed = 0;
        while passed < self.ring.len()
            && let Some(lane) = self.ring.pop_front()
        {
            match self.pull_frame(lane, bytes_max - pulled, out) {
                0 => passed += 1,
                bytes => {
                    passed = 0;
                    pulled += bytes;
                }
            }
        }
        pulled
    }

    /// The next frame of a lane that has been taken out of the ring, if it is
    /// short enough and may be sent; puts the lane back if it has more.
    fn pull_frame(&mut self, lane: Lane, room: usize, out: &mut Vec<Bytes>) -> usize {
        let Some(of_lane) = self.lanes.get_mut(&lane) else { return 0 };
        of_lane.is_ready = false;
        let Some(message) = of_lane.queue.front_mut() else { return 0 };
        let is_first = !message.is_begun;
        let prefix = if is_first && message.is_split() { TOTAL_BYTES } else { 0 };
        let len = message.body.left().min(FRAME_BODY_BYTES_MAX - prefix);
        let begins_partial = is_first && message.is_split();
        let has_room =
            self.partials < PARTIALS_MAX && self.partial_bytes + message.total <= PARTIAL_BYTES_MAX;
        let has_turn = !is_first || self.credit.is_open() && (!begins_partial || has_room);
        if HEADER_BYTES + prefix + len > room || !has_turn {
            of_lane.stand_in(lane, &mut self.ring);
            return 0;
        }
        if is_first {
            of_lane.credit.charge(message.total);
            self.credit.charge(message.total);
            message.is_begun = true;
        }
        if begins_partial {
            self.partials += 1;
            self.partial_bytes += message.total;
        }
        let is_last = len == message.body.left();
        let mut flags = message.flags;
        if !is_last {
            flags = flags | Flags::MORE;
        }
        if !is_first {
            flags = flags | Flags::CONTINUED;
        }
        let total = (message.total as u64).to_le_bytes();
        let at = out.len();
        out.push(Bytes::new());
        message.body.take(len, out);
        let parts = out[at + 1..].iter().map(|part| &part[..]);
        let parts = std::iter::once(&total[..prefix]).chain(parts);
        let head = frame::header(message.code, flags, lane, parts);
        out[at] = [&head[..], &total[..prefix]].concat().into();
        if is_last {
            if message.is_split() {
                self.partials -= 1;
                self.partial_bytes -= message.total;
            }
            let cost = message.cost();
            of_lane.bytes -= cost;
            self.bytes -= cost;
            of_lane.queue.pop_front();
        }
        of_lane.stand_in(lane, &mut self.ring);
        HEADER_BYTES + prefix + len
    }
}

impl OutLane {
    /// Puts the lane into the ring, at its end, if it has something to send and
    /// may: a message that has begun goes on whatever the credit.
    fn stand_in(&mut self, lane: Lane, ring: &mut VecDeque<Lane>) {
        let Some(next) = self.queue.front() else { return };
        if !self.is_ready && (next.is_begun || self.credit.is_open()) {
            self.is_ready = true;
            ring.push_back(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Header, Parsed, parse};
    use crate::lane::LaneClass;

    const CODE: u16 = 0x0110;

    fn lane(number: u32) -> Lane {
        Lane::new(LaneClass::Enqueue, number)
    }

    fn body(len: usize) -> Body {
        Bytes::from(vec![7; len]).into()
    }

    fn headers(frames: &[Bytes]) -> Vec<Header> {
        let all = frames.concat();
        let (mut rest, mut found) = (&all[..], Vec::new());
        while !rest.is_empty() {
            let Ok(Parsed::Frame(header)) = parse(rest, FRAME_BODY_BYTES_MAX) else {
                panic!("a whole frame");
            };
            rest = &rest[HEADER_BYTES + header.len as usize..];
            found.push(header);
        }
        found
    }

    #[test]
    fn a_heartbeat_goes_before_the_rest_of_a_long_message() {
        let mut outgoing = Outgoing::new(1 << 20, 1 << 30, 16);
        outgoing.push(lane(1), CODE, Flags::NONE, body(16 << 20)).expect("room");
        let mut out = Vec::new();
        assert!(outgoing.pull(FRAME_BYTES_MAX, &mut out) > 0);
        outgoing.push_urgent(0x0010, Flags::NONE, Bytes::from_static(b"beat")).expect("room");
        out.clear();
        outgoing.pull(2 * FRAME_BYTES_MAX, &mut out);
        let frames = headers(&out);
        assert_eq!(frames[0].lane, Lane::LINK);
        assert_eq!(frames[1].flags, Flags::MORE | Flags::CONTINUED);
    }

    #[test]
    fn lanes_take_turns_frame_by_frame() {
        let mut outgoing = Outgoing::new(1 << 20, 1 << 30, 16);
        for number in 0..3 {
            outgoing.push(lane(number), CODE, Flags::NONE, body(200_000)).expect("room");
        }
        let mut out = Vec::new();
        outgoing.pull(usize::MAX, &mut out);
        let lanes: Vec<_> = headers(&out).iter().map(|header| header.lane).collect();
        assert_eq!(lanes[..4], [lane(0), lane(1), lane(2), lane(0)]);
        assert_eq!(lanes.len(), 12, "200,000 bytes and a length take four frames");
        assert_eq!(outgoing.queued_bytes(), 0);
    }

    #[test]
    fn a_lane_without_credit_waits_and_holds_up_no_other() {
        let mut outgoing = Outgoing::new(100, 1 << 30, 16);
        let mut out = Vec::new();
        for _ in 0..3 {
            outgoing.push(lane(1), CODE, Flags::NONE, body(60)).expect("room");
        }
        outgoing.pull(usize::MAX, &mut out);
        assert_eq!(headers(&out).len(), 2, "the second overdraws, the third may not begin");
        assert!(!outgoing.is_ready());
        outgoing.push(lane(2), CODE, Flags::NONE, body(60)).expect("room");
        outgoing.pull(usize::MAX, &mut out);
        assert_eq!(headers(&out).len(), 3);
        outgoing.grant(lane(1), 120);
        assert!(!outgoing.is_ready(), "all of it is used up");
        outgoing.grant(lane(1), 121);
        outgoing.pull(usize::MAX, &mut out);
        assert_eq!(headers(&out).len(), 4);
    }

    #[test]
    fn without_credit_of_the_whole_connection_nothing_new_begins() {
        let mut outgoing = Outgoing::new(1 << 20, 100_000, 16);
        let mut out = Vec::new();
        outgoing.push(lane(1), CODE, Flags::NONE, body(150_000)).expect("room");
        outgoing.push(lane(2), CODE, Flags::NONE, body(10)).expect("room");
        outgoing.pull(FRAME_BYTES_MAX, &mut out);
        assert!(outgoing.is_ready(), "what has begun goes on");
        outgoing.pull(usize::MAX, &mut out);
        assert!(headers(&out).iter().all(|header| header.lane == lane(1)));
        assert!(!outgoing.is_ready() && outgoing.queued_on(lane(2)) > 0);
        outgoing.grant(Lane::ALL, 150_001);
        assert!(outgoing.is_ready());
        outgoing.pull(usize::MAX, &mut out);
        assert_eq!(outgoing.queued_bytes(), 0);
    }

    #[test]
    fn no_more_messages_are_begun_than_may_be_partly_through() {
        let mut outgoing = Outgoing::new(1 << 20, 1 << 30, 64);
        for number in 0..4 {
            outgoing.push(lane(number), CODE, Flags::NONE, body(15 << 20)).expect("room");
        }
        for number in 4..40 {
            outgoing.push(lane(number), CODE, Flags::NONE, body(80_000)).expect("room");
        }
        let mut assembler = crate::assemble::Assembler::default();
        let mut out = Vec::new();
        let mut whole = 0;
        while outgoing.pull(FRAME_BYTES_MAX, &mut out) > 0 {
            let all = Bytes::from(out.concat());
            let mut at = 0;
            for header in headers(&out) {
                let end = at + HEADER_BYTES + header.len as usize;
                let taken = assembler.take(&header, all.slice(at + HEADER_BYTES..end));
                let taken = taken.expect("a receiver takes all that we send");
                whole += usize::from(matches!(taken, crate::assemble::Assembled::Whole { .. }));
                at = end;
            }
            out.clear();
        }
        assert_eq!(whole, 40);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut outgoing = Outgoing::new(1 << 20, 1 << 30, 2);
        outgoing.push(lane(1), CODE, Flags::NONE, body(16 << 20)).expect("one of any size");
        let said = outgoing.push(lane(1), CODE, Flags::NONE, body(1));
        assert!(matches!(said, Err(SendError::Full { .. })), "{said:?}");
        let said = outgoing.push(lane(1), CODE, Flags::NONE, body((16 << 20) + 1));
        assert!(matches!(said, Err(SendError::TooLarge { .. })), "{said:?}");
        outgoing.push(lane(2), CODE, Flags::NONE, body(1)).expect("another lane");
        let said = outgoing.push(lane(3), CODE, Flags::NONE, body(1));
        assert_eq!(said, Err(SendError::TooManyLanes(2)));
        let beat = || Bytes::from(vec![0; 60_000]);
        let sent = (0..).take_while(|_| outgoing.push_urgent(5, Flags::NONE, beat()).is_ok());
        assert_eq!(sent.count(), 17);
    }
}
