//! Packets to send, byte by byte as the test wants them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Client, Connack, Packet};

/// A protocol version, by the level byte of its CONNECT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`).
    V31,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// Every version.
pub const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];
/// The versions before 5.0.
pub const OLD: [Version; 2] = [Version::V31, Version::V311];
/// The two OASIS standards.
pub const OASIS: [Version; 2] = [Version::V311, Version::V5];

impl Version {
    /// Whether packets carry properties and reason codes.
    pub fn is_5(self) -> bool {
        self == Version::V5
    }
}

/// Property identifiers of MQTT 5.0.
#[allow(missing_docs)]
pub mod prop {
    pub const PAYLOAD_FORMAT: u8 = 0x01;
    pub const MESSAGE_EXPIRY: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_ID: u8 = 0x0b;
    pub const SESSION_EXPIRY: u8 = 0x11;
    pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTH_METHOD: u8 = 0x15;
    pub const AUTH_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub const WILL_DELAY: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1a;
    pub const SERVER_REFERENCE: u8 = 0x1c;
    pub const REASON_STRING: u8 = 0x1f;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_IDS_AVAILABLE: u8 = 0x29;
    pub const SHARED_AVAILABLE: u8 = 0x2a;
}

/// The value of a property.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Byte(u8),
    Two(u16),
    Four(u32),
    Var(u32),
    Text(String),
    Data(Vec<u8>),
    Pair(String, String),
}

/// A property: identifier and value.
pub type Property = (u8, Value);

/// A property of one byte.
pub fn byte(id: u8, n: u8) -> Property {
    (id, Value::Byte(n))
}
/// A property of two bytes.
pub fn two(id: u8, n: u16) -> Property {
    (id, Value::Two(n))
}
/// A property of four bytes.
pub fn four(id: u8, n: u32) -> Property {
    (id, Value::Four(n))
}
/// A property with a variable byte integer.
pub fn var(id: u8, n: u32) -> Property {
    (id, Value::Var(n))
}
/// A property with a string.
pub fn text(id: u8, s: &str) -> Property {
    (id, Value::Text(s.to_owned()))
}
/// A property with binary data.
pub fn data(id: u8, bytes: &[u8]) -> Property {
    (id, Value::Data(bytes.to_vec()))
}
/// A user property.
pub fn user(key: &str, value: &str) -> Property {
    (prop::USER, Value::Pair(key.to_owned(), value.to_owned()))
}

/// Properties in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Props(pub Vec<Property>);

impl<const N: usize> From<[Property; N]> for Props {
    fn from(list: [Property; N]) -> Props {
        Props(list.into())
    }
}

impl Props {
    /// The first value with this identifier.
    pub fn get(&self, id: u8) -> Option<&Value> {
        self.0.iter().find(|(i, _)| *i == id).map(|(_, v)| v)
    }

    /// Whether one with this identifier is there.
    pub fn has(&self, id: u8) -> bool {
        self.get(id).is_some()
    }

    /// The number in the first property with this identifier.
    pub fn number(&self, id: u8) -> Option<u32> {
        match self.get(id)? {
            Value::Byte(n) => Some(u32::from(*n)),
            Value::Two(n) => Some(u32::from(*n)),
            Value::Four(n) | Value::Var(n) => Some(*n),
            Value::Text(_) | Value::Data(_) | Value::Pair(..) => None,
        }
    }

    /// All the numbers of the properties with this identifier, sorted.
    pub fn numbers(&self, id: u8) -> Vec<u32> {
        let mut all: Vec<u32> = self
            .0
            .iter()
            .filter(|p| p.0 == id)
            .filter_map(|p| Props::from([p.clone()]).number(id))
            .collect();
        all.sort_unstable();
        all
    }

    /// The user properties, in order.
    pub fn users(&self) -> Vec<(String, String)> {
        self.0
            .iter()
            .filter_map(|(_, v)| match v {
                Value::Pair(k, v) => Some((k.clone(), v.clone())),
                _ => None,
            })
            .collect()
    }

    /// The list with its length in front.
    pub fn bytes(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for (id, value) in &self.0 {
            list.push(*id);
            match value {
                Value::Byte(n) => list.push(*n),
                Value::Two(n) => list.extend(n.to_be_bytes()),
                Value::Four(n) => list.extend(n.to_be_bytes()),
                Value::Var(n) => list.extend(varint(*n)),
                Value::Text(s) => list.extend(string(s)),
                Value::Data(d) => list.extend(binary(d)),
                Value::Pair(k, v) => {
                    list.extend(string(k));
                    list.extend(string(v));
                }
            }
        }
        let mut out = varint(list.len() as u32);
        out.extend(list);
        out
    }
}

/// A variable byte integer in its shortest form.
pub fn varint(mut n: u32) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// A string (or anything else) with its two-byte length in front.
pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend(bytes);
    out
}

/// A string with its length in front.
pub fn string(s: &str) -> Vec<u8> {
    binary(s.as_bytes())
}

/// A packet: first byte, remaining length, body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(varint(body.len() as u32));
    out.extend(body);
    out
}

/// Several byte strings, one after the other.
pub fn concat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A name that no other test of this process uses.
pub fn unique(word: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{word}{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A will to put in a CONNECT.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Will {
    pub topic: Vec<u8>,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub props: Props,
}

impl Will {
    /// A will at QoS 0 that is not retained.
    pub fn new(topic: &str, payload: &[u8]) -> Will {
        let (topic, payload) = (topic.as_bytes().to_vec(), payload.to_vec());
        Will { topic, payload, qos: 0, retain: false, props: Props::default() }
    }
    /// With this QoS.
    pub fn qos(mut self, qos: u8) -> Will {
        self.qos = qos;
        self
    }
    /// Retained.
    pub fn retain(mut self) -> Will {
        self.retain = true;
        self
    }
    /// With these properties (5.0).
    pub fn props(mut self, props: impl Into<Props>) -> Will {
        self.props = props.into();
        self
    }
}

/// A CONNECT to build.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Connect {
    pub version: Version,
    pub id: Vec<u8>,
    pub clean: bool,
    pub keep_alive: u16,
    pub props: Props,
    pub will: Option<Will>,
    pub username: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
    /// XORed onto the connect flags, to make them wrong.
    pub flip: u8,
}

impl Connect {
    /// A clean one with keep alive 0 and nothing else.
    pub fn new(version: Version, id: &str) -> Connect {
        Connect {
            version,
            id: id.as_bytes().to_vec(),
            clean: true,
            keep_alive: 0,
            props: Props::default(),
            will: None,
            username: None,
            password: None,
            flip: 0,
        }
    }

    /// One that asks for its session to stay: clean session 0, and in 5.0 a
    /// Session Expiry Interval of ten minutes.
    pub fn lasting(version: Version, id: &str) -> Connect {
        Connect::new(version, id).resume().expiry(600)
    }

    /// Clean session (clean start) 0.
    pub fn resume(mut self) -> Connect {
        self.clean = false;
        self
    }
    /// Clean session (clean start) 1.
    pub fn clean(mut self) -> Connect {
        self.clean = true;
        self
    }
    /// Session Expiry Interval; nothing before 5.0.
    pub fn expiry(self, seconds: u32) -> Connect {
        self.prop(four(prop::SESSION_EXPIRY, seconds))
    }
    /// One more property; nothing before 5.0.
    pub fn prop(mut self, p: Property) -> Connect {
        self.props.0.retain(|(id, _)| *id != p.0 || *id == prop::USER);
        self.props.0.push(p);
        self
    }
    /// Keep alive in seconds.
    pub fn keep_alive(mut self, seconds: u16) -> Connect {
        self.keep_alive = seconds;
        self
    }
    /// With this will.
    pub fn will(mut self, will: Will) -> Connect {
        self.will = Some(will);
        self
    }
    /// With a user name.
    pub fn username(mut self, name: &str) -> Connect {
        self.username = Some(name.as_bytes().to_vec());
        self
    }
    /// With a password.
    pub fn password(mut self, word: &[u8]) -> Connect {
        self.password = Some(word.to_vec());
        self
    }
    /// With these connect flags turned over.
    pub fn flip(mut self, bits: u8) -> Connect {
        self.flip = bits;
        self
    }

    /// The connect flags.
    pub fn flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(w) = &self.will {
            flags |= 0x04 | w.qos << 3 | u8::from(w.retain) << 5;
        }
        flags |= u8::from(self.username.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        flags ^ self.flip
    }

    /// Protocol name, level, flags, keep alive and properties.
    pub fn header(&self) -> Vec<u8> {
        let (name, level) = match self.version {
            Version::V31 => ("MQIsdp", 3),
            Version::V311 => ("MQTT", 4),
            Version::V5 => ("MQTT", 5),
        };
        let mut body = string(name);
        body.extend([level, self.flags()]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version.is_5() {
            body.extend(self.props.bytes());
        }
        body
    }

    /// Everything behind the variable header.
    pub fn payload(&self) -> Vec<u8> {
        let mut body = binary(&self.id);
        if let Some(w) = &self.will {
            if self.version.is_5() {
                body.extend(w.props.bytes());
            }
            body.extend(binary(&w.topic));
            body.extend(binary(&w.payload));
        }
        if let Some(u) = &self.username {
            body.extend(binary(u));
        }
        if let Some(p) = &self.password {
            body.extend(binary(p));
        }
        body
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        packet(0x10, &concat(&[&self.header(), &self.payload()]))
    }

    /// Connects, and requires that the broker accepts.
    pub fn open(&self, address: SocketAddr) -> Client {
        let mut client = self.attempt(address);
        let Packet::Connack(connack) = client.recv() else { panic!("no CONNACK came first") };
        assert_eq!(connack.code, 0, "CONNECT refused: {connack:?}");
        client.connack = connack;
        client
    }

    /// Sends the CONNECT on a new connection and reads nothing.
    pub fn attempt(&self, address: SocketAddr) -> Client {
        let mut client = Client::bare(address, self.version);
        client.id = String::from_utf8_lossy(&self.id).into_owned();
        client.send(&self.bytes());
        client
    }

    /// Connects, and requires a CONNACK with this code and then the close.
    pub fn refused(&self, address: SocketAddr, code: u8) -> Connack {
        self.attempt(address).expect_refusal(code)
    }
}

/// A PUBLISH, to send or received.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub id: u16,
    pub props: Props,
    pub payload: Vec<u8>,
}

impl Publish {
    /// A plain one with packet id 1 (none at QoS 0).
    pub fn new(topic: &str, qos: u8, payload: &[u8]) -> Publish {
        Publish {
            dup: false,
            qos,
            retain: false,
            topic: topic.to_owned(),
            id: u16::from(qos > 0),
            props: Props::default(),
            payload: payload.to_vec(),
        }
    }
    /// With the RETAIN flag.
    pub fn retain(mut self) -> Publish {
        self.retain = true;
        self
    }
    /// With the DUP flag.
    pub fn dup(mut self) -> Publish {
        self.dup = true;
        self
    }
    /// With this packet id.
    pub fn id(mut self, id: u16) -> Publish {
        self.id = id;
        self
    }
    /// With these properties (5.0).
    pub fn props(mut self, props: impl Into<Props>) -> Publish {
        self.props = props.into();
        self
    }
    /// The packet.
    pub fn bytes(&self, version: Version) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = string(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version.is_5() {
            body.extend(self.props.bytes());
        }
        body.extend(&self.payload);
        packet(first, &body)
    }
    /// The payload as text.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// Types of the acknowledgements of a PUBLISH, as the high nibble of byte 1.
pub const PUBACK: u8 = 4;
/// See [`PUBACK`].
pub const PUBREC: u8 = 5;
/// See [`PUBACK`].
pub const PUBREL: u8 = 6;
/// See [`PUBACK`].
pub const PUBCOMP: u8 = 7;

/// PUBACK, PUBREC, PUBREL or PUBCOMP with success, in the shortest form.
pub fn ack(kind: u8, id: u16) -> Vec<u8> {
    packet(kind << 4 | if kind == PUBREL { 2 } else { 0 }, &id.to_be_bytes())
}

/// The same with a reason code (5.0).
pub fn ack_reason(kind: u8, id: u16, reason: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(reason);
    packet(kind << 4 | if kind == PUBREL { 2 } else { 0 }, &body)
}

/// SUBSCRIBE for pairs of filter and options.
pub fn subscribe(version: Version, id: u16, props: &Props, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version.is_5() {
        body.extend(props.bytes());
    }
    for (filter, options) in filters {
        body.extend(string(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version.is_5() {
        body.push(0);
    }
    for filter in filters {
        body.extend(string(filter));
    }
    packet(0xa2, &body)
}

/// DISCONNECT with nothing in it.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];
/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xc0, 0];

/// DISCONNECT of 5.0 with a reason and properties.
pub fn disconnect(reason: u8, props: impl Into<Props>) -> Vec<u8> {
    packet(0xe0, &concat(&[&[reason], &props.into().bytes()]))
}
