//! Messages in flight: what each publisher sent, and what came of it.
//!
//! A lane is a publisher and its subscribers. In a closed loop a lane may have
//! W messages outstanding; one counts as outstanding until every subscriber of
//! a fan-out (one of a pair or of a shared group) has it and, at QoS 1 and 2,
//! the publisher's handshake is over as well.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::net::Net;
use benches::wire::{self, Frame, PAYLOAD_TAIL, Template};

/// An open loop that falls this far behind on a lane cannot keep its rate.
const OUTSTANDING_MAX: u64 = 4096;

/// One publisher, before the traffic begins.
#[derive(Debug)]
pub(crate) struct LaneSpec {
    /// Connection of the publisher.
    pub(crate) publisher: usize,
    /// Connections of the subscribers.
    pub(crate) subscribers: Vec<usize>,
    /// First topic number and how many follow it.
    pub(crate) topics: (usize, usize),
}

/// How all lanes of a traffic send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// QoS of the messages.
    pub(crate) qos: u8,
    /// Messages outstanding a publisher.
    pub(crate) window: u64,
    /// Bytes of payload.
    pub(crate) payload: usize,
    /// Whether each subscriber gets each message (else one of them does).
    pub(crate) fan_out: bool,
}

/// All lanes, and what they have done so far.
#[derive(Debug)]
pub(crate) struct Traffic {
    manner: Manner,
    template: Template,
    lanes: Vec<Lane>,
    /// Lane and place of each connection.
    seats: Vec<Option<Seat>>,
    touched: Vec<usize>,
    began: Instant,
    /// Messages that reached a subscriber.
    pub(crate) deliveries: u64,
    /// Nanoseconds from due to delivered, while being recorded.
    pub(crate) latencies: Option<Vec<u64>>,
}

#[derive(Debug)]
struct Lane {
    publisher: usize,
    subscribers: u32,
    topics: (usize, usize),
    topic_next: usize,
    sent: u64,
    acknowledged: u64,
    delivered: u64,
    /// Of a fan-out: how many subscribers each outstanding message still misses.
    missing: VecDeque<u32>,
    touched: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    lane: usize,
    publisher: bool,
    received: u64,
}

impl Traffic {
    /// No message sent yet.
    pub(crate) fn new(
        manner: Manner,
        template: Template,
        connections: usize,
        specs: Vec<LaneSpec>,
    ) -> Self {
        let mut seats = vec![None; connections];
        for (lane, spec) in specs.iter().enumerate() {
            seats[spec.publisher] = Some(Seat { lane, publisher: true, received: 0 });
            for &subscriber in &spec.subscribers {
                seats[subscriber] = Some(Seat { lane, publisher: false, received: 0 });
            }
        }
        let lanes = specs
            .into_iter()
            .map(|spec| Lane {
                publisher: spec.publisher,
                subscribers: spec.subscribers.len() as u32,
                topics: spec.topics,
                topic_next: 0,
                sent: 0,
                acknowledged: 0,
                delivered: 0,
                missing: VecDeque::new(),
                touched: false,
            })
            .collect();
        Self {
            manner,
            template,
            lanes,
            seats,
            touched: Vec::new(),
            began: Instant::now(),
            deliveries: 0,
            latencies: None,
        }
    }

    /// How many publishers there are.
    pub(crate) fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// When the traffic began; due times count from here.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Fills every window.
    pub(crate) fn start(&mut self, net: &mut Net) {
        for lane in 0..self.lanes.len() {
            self.touch(lane);
        }
        self.refill(net);
    }

    /// Sends what the windows of the lanes touched since the last call allow.
    pub(crate) fn refill(&mut self, net: &mut Net) {
        while let Some(index) = self.touched.pop() {
            self.lanes[index].touched = false;
            while self.outstanding(index) < self.manner.window {
                self.send(net, index);
            }
        }
    }

    /// Sends one message that was due `nanoseconds` after the beginning.
    pub(crate) fn send_due(&mut self, net: &mut Net, lane: usize, nanoseconds: u64) -> Result<()> {
        let outstanding = self.outstanding(lane);
        ensure!(outstanding < OUTSTANDING_MAX, "the broker cannot keep up: {outstanding} wait");
        self.template.stamp(nanoseconds);
        self.send(net, lane);
        Ok(())
    }

    /// Takes in one packet from the broker.
    pub(crate) fn on_frame(&mut self, net: &mut Net, from: usize, frame: Frame<'_>) -> Result<()> {
        let Some(seat) = self.seats[from] else { bail!("connection {from} got a packet unasked") };
        match (frame.kind(), seat.publisher) {
            (3, false) => {
                self.check(&frame)?;
                match self.manner.qos {
                    0 => {}
                    1 => net.push(from, &wire::acknowledgement(0x40, frame.publish_id())),
                    _ => net.push(from, &wire::acknowledgement(0x50, frame.publish_id())),
                }
                if let Some(latencies) = &mut self.latencies {
                    let payload = &frame.body[frame.body.len() - self.manner.payload..];
                    let due = payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
                    let now = self.began.elapsed().as_nanos() as u64;
                    latencies.push(now.saturating_sub(due.unwrap_or_default()));
                }
                if self.manner.qos < 2 {
                    self.delivered(from, seat);
                }
            }
            (4 | 7, true) => {
                success(frame)?;
                self.lanes[seat.lane].acknowledged += 1;
                self.touch(seat.lane);
            }
            (5, true) => {
                success(frame)?;
                net.push(from, &wire::acknowledgement(0x62, frame.leading_id()));
            }
            (6, false) => {
                success(frame)?;
                net.push(from, &wire::acknowledgement(0x70, frame.leading_id()));
                self.delivered(from, seat);
            }
            (kind, publisher) => {
                bail!("packet type {kind} to connection {from}, publisher: {publisher}")
            }
        }
        Ok(())
    }

    fn check(&self, frame: &Frame<'_>) -> Result<()> {
        ensure!(frame.qos() == self.manner.qos, "delivered with QoS {}", frame.qos());
        ensure!(frame.body.len() > self.manner.payload, "{} bytes delivered", frame.body.len());
        ensure!(frame.body.ends_with(PAYLOAD_TAIL), "the payload's tail is missing");
        Ok(())
    }

    fn delivered(&mut self, from: usize, seat: Seat) {
        self.deliveries += 1;
        let lane = &mut self.lanes[seat.lane];
        if self.manner.fan_out {
            // This subscriber's n-th message is the lane's n-th: QoS 0 keeps its order.
            let place = (seat.received - lane.delivered) as usize;
            self.seats[from] = Some(Seat { received: seat.received + 1, ..seat });
            lane.missing[place] -= 1;
            if lane.missing.front() != Some(&0) {
                return;
            }
            while lane.missing.front() == Some(&0) {
                lane.missing.pop_front();
                lane.delivered += 1;
            }
        } else {
            lane.delivered += 1;
        }
        self.touch(seat.lane);
    }

    fn touch(&mut self, lane: usize) {
        if !self.lanes[lane].touched {
            self.lanes[lane].touched = true;
            self.touched.push(lane);
        }
    }

    fn outstanding(&self, lane: usize) -> u64 {
        let lane = &self.lanes[lane];
        let done = match self.manner.qos {
            0 => lane.delivered,
            _ => lane.delivered.min(lane.acknowledged),
        };
        lane.sent - done
    }

    fn send(&mut self, net: &mut Net, index: usize) {
        let lane = &mut self.lanes[index];
        let (first, count) = lane.topics;
        self.template.renumber(first + lane.topic_next);
        // A stride coprime to 150 and 10,000 visits all topics, neighbours far apart.
        lane.topic_next = (lane.topic_next + 77) % count;
        self.template.identify(lane.sent);
        lane.sent += 1;
        if self.manner.fan_out {
            lane.missing.push_back(lane.subscribers);
        }
        net.push(lane.publisher, self.template.bytes());
    }
}

/// An acknowledgement of MQTT 5.0 may carry a reason; it must not be an error.
fn success(frame: Frame<'_>) -> Result<()> {
    let reason = frame.body.get(2).copied().unwrap_or(0);
    ensure!(reason < 0x80, "acknowledged with reason {reason:#04x}");
    Ok(())
}
