//! The client's half of a session, which outlives its connections: what it
//! sent and has no answer for, and which QoS 2 packet ids it holds.
//!
//! Does what the standard asks of a client, to the letter: what is open is
//! sent again in its order [MQTT-4.4.0-1], a QoS 2 id is held until its PUBREL
//! [MQTT-4.3.3-10], acknowledgements leave in the order of the publishes
//! [MQTT-4.6.0-2]. So what the application sees twice, the broker did twice.

use std::collections::{HashMap, VecDeque};

use testkit::client::{
    Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Props, Publish, Version, Will, ack, four,
    prop, subscribe, two, unsubscribe,
};

use crate::cast::{Cast, ClientId, FilterId, Kind, Lasting, MessageId, payload, recognise};
use crate::history::{History, What};
use crate::line::Manner;

/// The run as its clients see it.
#[derive(Debug)]
pub(crate) struct World {
    /// Who takes part.
    pub(crate) cast: Cast,
    /// What happens.
    pub(crate) history: History,
    /// A number in every payload, so that another run's are told apart.
    pub(crate) run: u64,
    /// How clients deal with brokers that do not answer.
    pub(crate) manner: Manner,
}

/// A message without its last answer.
#[derive(Clone, Copy, Debug)]
struct Flight {
    id: u16,
    message: MessageId,
    bytes: usize,
    /// PUBREC has come; what is sent again is the PUBREL.
    released: bool,
}

/// A SUBSCRIBE or UNSUBSCRIBE without its answer.
#[derive(Clone, Copy, Debug)]
struct Request {
    id: u16,
    filter: FilterId,
    adds: bool,
}

/// What a packet meant to the one who owns the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    /// Nothing that it must know.
    Nothing,
    /// The CONNACK, and whether the session is the one it was.
    Welcome { kept: bool },
    /// A CONNACK with a failure, or DISCONNECT.
    Goodbye,
    /// SUBACK or UNSUBACK.
    Answer { filter: FilterId, adds: bool, done: bool },
}

/// A client's session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Whose.
    pub(crate) me: ClientId,
    version: Version,
    lasting: Lasting,
    name: String,
    receive_maximum: Option<u16>,
    flights: VecDeque<Flight>,
    held_ids: HashMap<u16, Option<MessageId>>,
    requests: Vec<Request>,
    next_id: u16,
    established: bool,
    /// Bytes to be written.
    pub(crate) out: Vec<u8>,
    /// Answers that wait until the client takes its time no longer.
    late: VecDeque<What>,
    /// Whether it takes its time.
    pub(crate) slow: bool,
    /// Deliveries to the application so far.
    pub(crate) got: u64,
    /// Refusals by reason code 0x97 so far.
    pub(crate) quota_refusals: u64,
    /// Acknowledgements so far.
    pub(crate) acks: u64,
}

impl Session {
    /// One that no broker knows of yet.
    pub(crate) fn new(cast: &Cast, me: ClientId, receive_maximum: Option<u16>) -> Session {
        let client = cast.of(me);
        Session {
            me,
            version: client.version,
            lasting: client.lasting,
            name: client.name.clone(),
            receive_maximum,
            flights: VecDeque::new(),
            held_ids: HashMap::new(),
            requests: Vec::new(),
            next_id: 0,
            established: false,
            out: Vec::new(),
            late: VecDeque::new(),
            slow: false,
            got: 0,
            quota_refusals: 0,
            acks: 0,
        }
    }

    /// Messages without their last answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// The connection is gone, and with it what was not written.
    pub(crate) fn disconnected(&mut self) {
        self.out.clear();
        self.late.clear();
        self.requests.clear();
    }

    /// Writes the CONNECT.
    pub(crate) fn connect(&mut self, world: &mut World, will: Option<MessageId>) {
        let mut connect = match self.lasting {
            Lasting::Not => Connect::new(self.version, &self.name),
            Lasting::Seconds(seconds) => {
                Connect::new(self.version, &self.name).resume().expiry(seconds)
            }
            Lasting::Always => Connect::new(self.version, &self.name).resume().expiry(u32::MAX),
        };
        if let Some(most) = self.receive_maximum {
            connect = connect.prop(two(prop::RECEIVE_MAXIMUM, most));
        }
        if let Some((id, message)) = will.and_then(|id| Some((id, *world.cast.get(id)?))) {
            let topic = world.cast.topic_name(message.topic);
            let mut will = Will::new(topic, &payload(world.run, id, 40)).qos(message.qos);
            if let Kind::Will { delay_seconds } = message.kind {
                will = will.props([four(prop::WILL_DELAY, delay_seconds)]);
            }
            connect = connect.will(will);
        }
        world.history.enter(What::ConnectSent { client: self.me, will });
        self.out.extend(connect.bytes());
    }

    /// Publishes a message that is new.
    pub(crate) fn publish(&mut self, world: &mut World, message: MessageId, bytes: usize) {
        let Some(qos) = world.cast.get(message).map(|message| message.qos) else { return };
        let id = if qos == 0 { 0 } else { self.fresh_id() };
        let flight = Flight { id, message, bytes, released: false };
        self.send(world, flight, false);
        if qos > 0 {
            self.flights.push_back(flight);
        }
    }

    fn send(&mut self, world: &mut World, flight: Flight, again: bool) {
        let Some(message) = world.cast.get(flight.message) else { return };
        let clear = message.kind == Kind::Clear;
        let body =
            if clear { Vec::new() } else { payload(world.run, flight.message, flight.bytes) };
        let topic = world.cast.topic_name(message.topic);
        let mut publish = Publish::new(topic, message.qos, &body).id(flight.id);
        publish.retain = clear || message.kind == Kind::Set;
        publish.dup = again;
        if let Kind::Expiring { seconds } = message.kind {
            publish = publish.props([four(prop::MESSAGE_EXPIRY, seconds)]);
        }
        world.history.enter(What::Sent { message: flight.message, again });
        self.out.extend(publish.bytes(self.version));
    }

    /// Asks for a subscription, or for its end.
    pub(crate) fn request(&mut self, world: &mut World, filter: FilterId, adds: bool, qos: u8) {
        let (id, client) = (self.fresh_id(), self.me);
        let name = world.cast.filter_name(filter);
        if adds {
            self.out.extend(subscribe(self.version, id, &Props::default(), &[(name, qos)]));
            world.history.enter(What::SubscribeSent { client, filter });
        } else {
            self.out.extend(unsubscribe(self.version, id, &[name]));
            world.history.enter(What::UnsubscribeSent { client, filter });
        }
        self.requests.push(Request { id, filter, adds });
    }

    /// Whether a filter waits for an answer.
    pub(crate) fn asks_for(&self, filter: FilterId) -> bool {
        self.requests.iter().any(|request| request.filter == filter)
    }

    /// Takes a packet.
    pub(crate) fn hear(&mut self, world: &mut World, packet: Packet) -> Heard {
        match packet {
            Packet::Connack(connack) if connack.code == 0 => self.welcome(world, connack.present()),
            Packet::Connack(connack) => {
                let what = What::Refused { client: self.me, code: connack.code };
                world.history.enter(what);
                Heard::Goodbye
            }
            Packet::Publish(publish) => {
                self.deliver(world, &publish);
                Heard::Nothing
            }
            Packet::Ack { kind: PUBREL, id, .. } => {
                let message = self.held_ids.remove(&id).flatten();
                world.history.enter(What::Released { client: self.me, message, id });
                self.answer(world, PUBCOMP, id, message);
                Heard::Nothing
            }
            Packet::Ack { kind, id, reason, .. } => {
                self.acknowledged(world, kind, id, reason);
                Heard::Nothing
            }
            Packet::Suback { id, codes, .. } => {
                let code = codes.first().copied().unwrap_or(0x80);
                self.answered(world, id, (code < 0x80).then_some(code))
            }
            Packet::Unsuback { id, codes, .. } => {
                let done = codes.first().is_none_or(|code| *code < 0x80);
                self.answered(world, id, done.then_some(0))
            }
            Packet::Disconnect { reason, .. } => {
                self.quota_refusals += u64::from(reason == 0x97);
                Heard::Goodbye
            }
            Packet::Pingresp | Packet::Auth(_) => Heard::Nothing,
        }
    }

    fn welcome(&mut self, world: &mut World, present: bool) -> Heard {
        world.history.enter(What::Connected { client: self.me, present });
        let kept = present || !self.established;
        self.established = true;
        if !present {
            self.held_ids.clear();
        }
        let flights: Vec<Flight> = self.flights.drain(..).collect();
        for flight in flights {
            if flight.released && !present {
                // It was taken; there is nobody left to release it to.
                world.history.enter(What::Completed { message: flight.message });
                continue;
            }
            if flight.released {
                self.out.extend(ack(PUBREL, flight.id));
            } else {
                self.send(world, flight, present);
            }
            self.flights.push_back(flight);
        }
        Heard::Welcome { kept }
    }

    fn deliver(&mut self, world: &mut World, publish: &Publish) {
        let (client, id, qos) = (self.me, publish.id, publish.qos);
        let message = recognise(world.run, &publish.payload)
            .filter(|message| world.cast.get(*message).is_some());
        let suppressed = qos == 2 && self.held_ids.contains_key(&id);
        match message {
            Some(message) => {
                let (dup, expiry) = (publish.dup, publish.props.number(prop::MESSAGE_EXPIRY));
                world.history.enter(What::Delivered {
                    client,
                    message,
                    id,
                    qos,
                    dup,
                    suppressed,
                    expiry,
                });
                let topic = world.cast.known_topic(&publish.topic);
                if publish.retain
                    && let Some(topic) = topic
                {
                    world.history.enter(What::Read { client, topic, message });
                }
                if topic != world.cast.get(message).map(|message| message.topic) {
                    world.history.enter(What::Damaged { client });
                }
            }
            // A clear is empty, and says nothing of itself.
            None if publish.payload.is_empty() => {}
            None => world.history.enter(What::Damaged { client }),
        }
        self.got += u64::from(!suppressed);
        match qos {
            0 => {}
            1 => self.answer(world, PUBACK, id, message),
            _ => {
                self.held_ids.entry(id).or_insert(message);
                self.answer(world, PUBREC, id, message);
            }
        }
    }

    fn answer(&mut self, world: &mut World, kind: u8, id: u16, message: Option<MessageId>) {
        let what = What::Answered { client: self.me, message, kind, id };
        // PUBCOMP does not wait: it would only delay its own packet id.
        if kind != PUBCOMP && (self.slow || !self.late.is_empty()) {
            self.late.push_back(what);
        } else {
            self.out.extend(ack(kind, id));
            world.history.enter(what);
        }
    }

    /// Gives the answers that were kept back.
    pub(crate) fn catch_up(&mut self, world: &mut World) {
        for what in self.late.drain(..) {
            if let What::Answered { kind, id, .. } = what {
                self.out.extend(ack(kind, id));
                world.history.enter(what);
            }
        }
    }

    fn acknowledged(&mut self, world: &mut World, kind: u8, id: u16, reason: u8) {
        let Some(at) = self.flights.iter().position(|flight| flight.id == id) else { return };
        let message = self.flights[at].message;
        if reason >= 0x80 && kind != PUBCOMP {
            self.quota_refusals += u64::from(reason == 0x97);
            world.history.enter(What::Rejected { message, code: reason });
            self.flights.remove(at);
            return;
        }
        match kind {
            PUBREC => {
                if !self.flights[at].released {
                    self.acks += 1;
                    world.history.enter(What::Acked { message });
                    self.flights[at].released = true;
                }
                self.out.extend(ack(PUBREL, id));
            }
            _ => {
                if !self.flights[at].released {
                    self.acks += 1;
                    world.history.enter(What::Acked { message });
                }
                world.history.enter(What::Completed { message });
                self.flights.remove(at);
            }
        }
    }

    fn answered(&mut self, world: &mut World, id: u16, granted: Option<u8>) -> Heard {
        let Some(at) = self.requests.iter().position(|request| request.id == id) else {
            return Heard::Nothing;
        };
        let Request { filter, adds, .. } = self.requests.remove(at);
        let client = self.me;
        match granted {
            Some(granted) if adds => {
                world.history.enter(What::Subscribed { client, filter, granted });
            }
            Some(_) => world.history.enter(What::Unsubscribed { client, filter }),
            None => {}
        }
        Heard::Answer { filter, adds, done: granted.is_some() }
    }

    fn fresh_id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            let id = self.next_id;
            let taken = self.flights.iter().any(|flight| flight.id == id)
                || self.requests.iter().any(|request| request.id == id);
            if !taken {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use testkit::client::{Connack, read};

    use super::*;
    use crate::cast::Message;

    /// A session at its first connection, and the world around it.
    fn fresh() -> (World, Session) {
        let mut cast = Cast::default();
        let me = cast.client("alice", Version::V311, Lasting::Always);
        cast.topic("t");
        let mut world =
            World { cast, history: History::new(Instant::now()), run: 7, manner: Manner::ALONE };
        let mut session = Session::new(&world.cast, me, None);
        assert_eq!(connack(&mut session, &mut world, false), Heard::Welcome { kept: true });
        (world, session)
    }

    fn connack(session: &mut Session, world: &mut World, present: bool) -> Heard {
        let connack = Connack { flags: u8::from(present), ..Connack::default() };
        session.hear(world, Packet::Connack(connack))
    }

    fn publish(session: &mut Session, world: &mut World, qos: u8) -> MessageId {
        let topic = world.cast.topic("t");
        let message = Message { publisher: session.me, topic, qos, kind: Kind::Plain };
        let id = world.cast.message(message);
        session.publish(world, id, 20);
        id
    }

    fn heard(session: &mut Session, world: &mut World, kind: u8, id: u16) {
        let ack = Packet::Ack { kind, id, reason: 0, props: Props::default(), size: 4 };
        session.hear(world, ack);
    }

    fn delivered(session: &mut Session, world: &mut World, message: MessageId, qos: u8, id: u16) {
        let body = payload(world.run, message, 20);
        let publish = Publish::new("t", qos, &body).id(id);
        session.hear(world, Packet::Publish(publish));
    }

    /// What the session has written: the kind, the packet id, and DUP.
    fn written(session: &mut Session) -> Vec<(u8, u16, bool)> {
        let (mut rest, mut found) = (std::mem::take(&mut session.out), Vec::new());
        while !rest.is_empty() {
            let one: Vec<u8> = rest.drain(..2 + usize::from(rest[1])).collect();
            found.push(match read(Version::V311, &one) {
                Packet::Publish(publish) => (3, publish.id, publish.dup),
                Packet::Ack { kind, id, .. } => (kind, id, false),
                other => panic!("{other:?} was written"),
            });
        }
        found
    }

    #[test]
    fn what_is_open_is_sent_again_in_its_order() {
        let (mut world, mut session) = fresh();
        for qos in [1, 2, 2, 1] {
            publish(&mut session, &mut world, qos);
        }
        heard(&mut session, &mut world, PUBREC, 3);
        heard(&mut session, &mut world, PUBACK, 4);
        session.disconnected();
        connack(&mut session, &mut world, true);
        let again = [(3, 1, true), (3, 2, true), (PUBREL, 3, false)];
        assert_eq!(written(&mut session), again);
        assert_eq!(session.in_flight(), 3);
    }

    #[test]
    fn where_the_session_is_gone_what_was_taken_is_not_sent_again() {
        let (mut world, mut session) = fresh();
        publish(&mut session, &mut world, 2);
        publish(&mut session, &mut world, 1);
        heard(&mut session, &mut world, PUBREC, 1);
        session.disconnected();
        assert_eq!(connack(&mut session, &mut world, false), Heard::Welcome { kept: false });
        assert_eq!(written(&mut session), [(3, 2, false)]);
    }

    #[test]
    fn a_qos_2_id_is_held_over_connections_until_its_pubrel() {
        let (mut world, mut session) = fresh();
        let message = publish(&mut session, &mut world, 2);
        written(&mut session);
        delivered(&mut session, &mut world, message, 2, 9);
        session.disconnected();
        connack(&mut session, &mut world, true);
        written(&mut session);
        delivered(&mut session, &mut world, message, 2, 9);
        assert_eq!((session.got, written(&mut session)), (1, vec![(PUBREC, 9, false)]));

        heard(&mut session, &mut world, PUBREL, 9);
        assert_eq!(written(&mut session), [(PUBCOMP, 9, false)]);
        delivered(&mut session, &mut world, message, 2, 9);
        assert_eq!(session.got, 2, "after PUBREL the id may carry another message");
    }

    #[test]
    fn answers_that_are_late_keep_their_order_and_die_with_the_connection() {
        let (mut world, mut session) = fresh();
        let message = publish(&mut session, &mut world, 1);
        written(&mut session);
        session.slow = true;
        delivered(&mut session, &mut world, message, 1, 5);
        session.slow = false;
        delivered(&mut session, &mut world, message, 1, 6);
        assert_eq!(written(&mut session), []);
        session.catch_up(&mut world);
        assert_eq!(written(&mut session), [(PUBACK, 5, false), (PUBACK, 6, false)]);

        session.slow = true;
        delivered(&mut session, &mut world, message, 1, 7);
        session.disconnected();
        session.catch_up(&mut world);
        assert_eq!(written(&mut session), []);
    }

    #[test]
    fn a_refused_publish_is_over() {
        let (mut world, mut session) = fresh();
        publish(&mut session, &mut world, 2);
        let (kind, id, reason) = (PUBREC, 1, 0x97);
        let refusal = Packet::Ack { kind, id, reason, props: Props::default(), size: 5 };
        session.hear(&mut world, refusal);
        assert_eq!((session.in_flight(), session.quota_refusals), (0, 1));
    }
}
