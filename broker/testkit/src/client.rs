//! A packet builder and reader for tests, and a client made of them.
//!
//! Written apart from the broker's codec on purpose: a fault that both ends
//! share would be invisible. It checks what it reads (reserved bits, lengths,
//! property types), so every test also shows that what the broker sends is
//! well formed; and it sends whatever it is told to, however wrong.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Broker, Got, QUIET, Raw};

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

/// A CONNACK.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Connack {
    pub flags: u8,
    pub code: u8,
    pub props: Props,
    /// Bytes on the wire.
    pub size: usize,
}

impl Connack {
    /// Session Present.
    pub fn present(&self) -> bool {
        self.flags & 1 == 1
    }
}

/// What a broker may send, read and checked.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Packet {
    Connack(Connack),
    Publish(Publish),
    /// `kind` is [`PUBACK`] to [`PUBCOMP`].
    Ack {
        kind: u8,
        id: u16,
        reason: u8,
        props: Props,
        size: usize,
    },
    Suback {
        id: u16,
        codes: Vec<u8>,
        props: Props,
        size: usize,
    },
    Unsuback {
        id: u16,
        codes: Vec<u8>,
        props: Props,
        size: usize,
    },
    Pingresp,
    Disconnect {
        reason: u8,
        props: Props,
        size: usize,
    },
    Auth(Vec<u8>),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        assert!(self.0.len() >= n, "the broker sent a packet that is too short");
        let (a, b) = self.0.split_at(n);
        self.0 = b;
        a
    }
    fn one(&mut self) -> u8 {
        self.take(1)[0]
    }
    fn two(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes were taken"))
    }
    fn four(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes were taken"))
    }
    fn var(&mut self) -> u32 {
        let (mut n, mut shift) = (0u32, 0);
        loop {
            let b = self.one();
            n |= u32::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                assert!(shift == 0 || b != 0, "a variable byte integer that is not minimal");
                return n;
            }
            shift += 7;
            assert!(shift <= 21, "a variable byte integer that is too long");
        }
    }
    fn data(&mut self) -> &'a [u8] {
        let n = self.two();
        self.take(usize::from(n))
    }
    fn text(&mut self) -> String {
        let s = String::from_utf8(self.data().to_vec()).expect("the broker's strings are UTF-8");
        assert!(!s.contains('\0'), "the broker sent a NUL in a string");
        s
    }
    fn props(&mut self) -> Props {
        let n = self.var() as usize;
        let mut list = Reader(self.take(n));
        let mut out = Vec::new();
        while !list.0.is_empty() {
            let id = list.var() as u8;
            let value = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => Value::Byte(list.one()),
                0x13 | 0x21 | 0x22 | 0x23 => Value::Two(list.two()),
                0x02 | 0x11 | 0x18 | 0x27 => Value::Four(list.four()),
                0x0b => Value::Var(list.var()),
                0x03 | 0x08 | 0x12 | 0x15 | 0x1a | 0x1c | 0x1f => Value::Text(list.text()),
                0x09 | 0x16 => Value::Data(list.data().to_vec()),
                0x26 => Value::Pair(list.text(), list.text()),
                other => panic!("the broker sent an unknown property {other:#04x}"),
            };
            assert!(
                matches!(id, 0x26 | 0x0b) || out.iter().all(|(i, _)| *i != id),
                "the broker repeats property {id:#04x}"
            );
            out.push((id, value));
        }
        Props(out)
    }
    fn only(props: Props, allowed: &[u8], packet: &str) -> Props {
        for (id, _) in &props.0 {
            assert!(allowed.contains(id), "property {id:#04x} does not belong in {packet}");
        }
        props
    }
}

/// Reads one packet as a client of `version` must, and panics if it is not as
/// the standard wants it.
pub fn read(version: Version, bytes: &[u8]) -> Packet {
    let size = bytes.len();
    let mut r = Reader(&bytes[1..]);
    let length = r.var() as usize;
    assert_eq!(r.0.len(), length, "a framing fault of the test kit");
    let (kind, flags) = (bytes[0] >> 4, bytes[0] & 15);
    let fixed = if kind == PUBREL { 2 } else { 0 };
    assert!(kind == 3 || flags == fixed, "reserved flags in {bytes:02x?}");
    let v5 = version.is_5();
    let optional = |r: &mut Reader<'_>, allowed: &[u8], name: &str| -> (u8, Props) {
        if !v5 {
            return (0, Props::default());
        }
        let reason = if r.0.is_empty() { 0 } else { r.one() };
        let props = if r.0.is_empty() { Props::default() } else { r.props() };
        (reason, Reader::only(props, allowed, name))
    };
    let told = [prop::REASON_STRING, prop::USER];
    let read = match kind {
        2 => {
            let (flags, code) = (r.one(), r.one());
            // A refusal of an unknown level may come in either form.
            let props = if v5 && !r.0.is_empty() { r.props() } else { Props::default() };
            let allowed = [
                0x11, 0x12, 0x13, 0x15, 0x16, 0x1a, 0x1c, 0x1f, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27,
                0x28, 0x29, 0x2a,
            ];
            Packet::Connack(Connack {
                flags,
                code,
                props: Reader::only(props, &allowed, "CONNACK"),
                size,
            })
        }
        3 => {
            let qos = flags >> 1 & 3;
            assert!(qos < 3, "the broker sent QoS 3");
            let topic = r.text();
            let id = if qos > 0 { r.two() } else { 0 };
            assert!(qos == 0 || id != 0, "the broker sent packet id 0");
            let props = if v5 { r.props() } else { Props::default() };
            let allowed = [0x01, 0x02, 0x03, 0x08, 0x09, 0x0b, 0x23, 0x26];
            let props = Reader::only(props, &allowed, "PUBLISH");
            let payload = std::mem::take(&mut r.0).to_vec();
            let (dup, retain) = (flags & 8 != 0, flags & 1 != 0);
            assert!(qos > 0 || !dup, "the broker sent DUP with QoS 0");
            Packet::Publish(Publish { dup, qos, retain, topic, id, props, payload })
        }
        PUBACK..=PUBCOMP => {
            let id = r.two();
            assert!(id != 0, "an acknowledgement of packet id 0");
            let (reason, props) = optional(&mut r, &told, "an acknowledgement");
            Packet::Ack { kind, id, reason, props, size }
        }
        9 | 11 => {
            let id = r.two();
            let props =
                if v5 { Reader::only(r.props(), &told, "SUBACK") } else { Props::default() };
            let codes = std::mem::take(&mut r.0).to_vec();
            if kind == 9 {
                Packet::Suback { id, codes, props, size }
            } else {
                Packet::Unsuback { id, codes, props, size }
            }
        }
        13 => Packet::Pingresp,
        14 => {
            assert!(v5, "DISCONNECT to a client before 5.0");
            let told = [prop::REASON_STRING, prop::USER, prop::SERVER_REFERENCE];
            let (reason, props) = optional(&mut r, &told, "DISCONNECT");
            Packet::Disconnect { reason, props, size }
        }
        15 => {
            assert!(v5, "AUTH to a client before 5.0");
            Packet::Auth(std::mem::take(&mut r.0).to_vec())
        }
        _ => panic!("a broker never sends {bytes:02x?}"),
    };
    assert!(r.0.is_empty(), "trailing bytes in {bytes:02x?}");
    read
}

/// A connection that speaks one version.
#[derive(Debug)]
pub struct Client {
    raw: Raw,
    /// What it speaks.
    pub version: Version,
    /// The client id it gave.
    pub id: String,
    /// What the CONNECT was answered with.
    pub connack: Connack,
    next: u16,
    ahead: VecDeque<Packet>,
}

impl Client {
    /// A connection on which nothing was sent.
    pub fn bare(address: SocketAddr, version: Version) -> Client {
        let (raw, ahead) = (Raw::open(address), VecDeque::new());
        Client { raw, version, id: String::new(), connack: Connack::default(), next: 0, ahead }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.raw.send(bytes);
    }

    /// The next packet; none is a failure.
    #[track_caller]
    pub fn recv(&mut self) -> Packet {
        if let Some(packet) = self.ahead.pop_front() {
            return packet;
        }
        match self.raw.recv() {
            Got::Packet(bytes) => read(self.version, &bytes),
            Got::Closed => panic!("{} ({:?}): the broker closed", self.id, self.version),
            Got::Silence => panic!("{} ({:?}): nothing came", self.id, self.version),
        }
    }

    /// The next packet as it came.
    #[track_caller]
    pub fn recv_bytes(&mut self) -> Vec<u8> {
        match self.raw.recv() {
            Got::Packet(bytes) => bytes,
            other => panic!("{} ({:?}): {other:?} in place of a packet", self.id, self.version),
        }
    }

    /// The next packet that is not a PUBLISH; those are kept for later.
    #[track_caller]
    fn answer(&mut self) -> Packet {
        let mut kept = VecDeque::new();
        let packet = loop {
            match self.recv() {
                p @ Packet::Publish(_) => kept.push_back(p),
                p => break p,
            }
        };
        kept.append(&mut self.ahead);
        self.ahead = kept;
        packet
    }

    /// What comes within `patience`, or nothing; a close is a failure.
    #[track_caller]
    pub fn within(&mut self, patience: Duration) -> Option<Packet> {
        if let Some(packet) = self.ahead.pop_front() {
            return Some(packet);
        }
        match self.raw.recv_within(patience) {
            Got::Packet(bytes) => Some(read(self.version, &bytes)),
            Got::Silence => None,
            Got::Closed => panic!("{} ({:?}): the broker closed", self.id, self.version),
        }
    }

    /// Requires that nothing comes for [`QUIET`].
    #[track_caller]
    pub fn quiet(&mut self) {
        if let Some(packet) = self.within(QUIET) {
            panic!("{} ({:?}): expected nothing, got {packet:?}", self.id, self.version);
        }
    }

    /// Requires that the broker answers PINGREQ, and nothing comes before that.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(&PINGREQ);
        assert_eq!(self.recv(), Packet::Pingresp, "{} ({:?})", self.id, self.version);
    }

    /// Requires the close, and nothing before it.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        assert!(self.ahead.is_empty(), "unread: {:?}", self.ahead);
        let got = self.raw.recv();
        assert_eq!(got, Got::Closed, "{} ({:?})", self.id, self.version);
    }

    /// Requires what ends a connection for a fault of the client: DISCONNECT
    /// with `reason` and the close in 5.0, the bare close before.
    #[track_caller]
    pub fn expect_end(&mut self, reason: u8) {
        if self.version.is_5() {
            match self.recv() {
                Packet::Disconnect { reason: got, .. } => assert_eq!(
                    got, reason,
                    "{}: DISCONNECT {got:#04x} in place of {reason:#04x}",
                    self.id
                ),
                other => panic!("{}: {other:?} in place of DISCONNECT {reason:#04x}", self.id),
            }
        }
        self.expect_closed();
    }

    /// Requires a CONNACK with `code`, then the close.
    #[track_caller]
    pub fn expect_refusal(&mut self, code: u8) -> Connack {
        let Packet::Connack(connack) = self.recv() else { panic!("no CONNACK") };
        assert_eq!(connack.code, code, "CONNACK {:#04x}, not {code:#04x}", connack.code);
        assert_eq!(connack.flags, 0, "Session Present in a refusal");
        self.expect_closed();
        connack
    }

    /// Requires what ends a malformed CONNECT: CONNACK with `code` and the
    /// close in 5.0, the bare close before.
    #[track_caller]
    pub fn expect_connect_end(&mut self, code: u8) {
        if self.version.is_5() {
            self.expect_refusal(code);
        } else {
            self.expect_closed();
        }
    }

    /// A packet id not used before on this connection.
    pub fn next_id(&mut self) -> u16 {
        self.next += 1;
        self.next
    }

    /// Subscribes and requires that the QoS is granted.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) {
        let codes = self.subscribe_all(&Props::default(), &[(filter, options)]);
        assert_eq!(codes, [options & 3], "SUBACK for {filter}");
    }

    /// Subscribes with a Subscription Identifier.
    #[track_caller]
    pub fn subscribe_id(&mut self, filter: &str, options: u8, id: u32) {
        let props = Props::from([var(prop::SUBSCRIPTION_ID, id)]);
        let codes = self.subscribe_all(&props, &[(filter, options)]);
        assert_eq!(codes, [options & 3], "SUBACK for {filter}");
    }

    /// Subscribes and returns the codes of the SUBACK.
    #[track_caller]
    pub fn subscribe_all(&mut self, props: &Props, filters: &[(&str, u8)]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&subscribe(self.version, id, props, filters));
        match self.answer() {
            Packet::Suback { id: got, codes, .. } => {
                assert_eq!(got, id, "the packet id of the SUBACK");
                codes
            }
            other => panic!("{other:?} in place of SUBACK"),
        }
    }

    /// Unsubscribes and returns the codes of the UNSUBACK (none before 5.0).
    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&unsubscribe(self.version, id, filters));
        match self.answer() {
            Packet::Unsuback { id: got, codes, .. } => {
                assert_eq!(got, id, "the packet id of the UNSUBACK");
                codes
            }
            other => panic!("{other:?} in place of UNSUBACK"),
        }
    }

    /// Publishes and completes the exchange.
    #[track_caller]
    pub fn publish(&mut self, topic: &str, qos: u8, payload: &[u8]) {
        self.put(Publish::new(topic, qos, payload));
    }

    /// As [`Client::publish`], retained.
    #[track_caller]
    pub fn retain(&mut self, topic: &str, qos: u8, payload: &[u8]) {
        self.put(Publish::new(topic, qos, payload).retain());
    }

    /// Sends a PUBLISH (with a packet id of its own) and completes the exchange.
    #[track_caller]
    pub fn put(&mut self, mut publish: Publish) {
        if publish.qos > 0 {
            publish.id = self.next_id();
        }
        self.send(&publish.bytes(self.version));
        match publish.qos {
            0 => {}
            1 => drop(self.expect_ack(PUBACK, publish.id)),
            _ => {
                self.expect_ack(PUBREC, publish.id);
                self.send(&ack(PUBREL, publish.id));
                self.expect_ack(PUBCOMP, publish.id);
            }
        }
    }

    /// Requires an acknowledgement that is no error; returns its reason.
    #[track_caller]
    pub fn expect_ack(&mut self, kind: u8, id: u16) -> u8 {
        let reason = self.expect_answer(kind, id);
        assert!(reason < 0x80, "an acknowledgement with {reason:#04x}");
        reason
    }

    /// Requires an acknowledgement of this kind and packet id; returns its reason.
    #[track_caller]
    pub fn expect_answer(&mut self, kind: u8, id: u16) -> u8 {
        match self.answer() {
            Packet::Ack { kind: k, id: i, reason, .. } => {
                assert_eq!((k, i), (kind, id), "(kind, packet id) of the acknowledgement");
                reason
            }
            other => panic!("{other:?} in place of acknowledgement {kind} of {id}"),
        }
    }

    /// The next message; it is not acknowledged.
    #[track_caller]
    pub fn message(&mut self) -> Publish {
        match self.recv() {
            Packet::Publish(p) => p,
            other => panic!("{} ({:?}): {other:?} in place of PUBLISH", self.id, self.version),
        }
    }

    /// The next message, and its exchange completed.
    #[track_caller]
    pub fn take(&mut self) -> Publish {
        let message = self.message();
        self.finish(&message);
        message
    }

    /// Completes the exchange of a received message.
    #[track_caller]
    pub fn finish(&mut self, message: &Publish) {
        match message.qos {
            0 => {}
            1 => self.send(&ack(PUBACK, message.id)),
            _ => {
                self.send(&ack(PUBREC, message.id));
                self.expect_ack(PUBREL, message.id);
                self.send(&ack(PUBCOMP, message.id));
            }
        }
    }

    /// Requires a message with this payload next, and completes its exchange.
    #[track_caller]
    pub fn hears(&mut self, payload: &str) -> Publish {
        let message = self.take();
        assert_eq!(message.said(), payload, "{} ({:?}): {message:?}", self.id, self.version);
        message
    }

    /// Leaves with a DISCONNECT, and waits until the broker has closed.
    #[track_caller]
    pub fn leave(mut self) {
        self.send(&DISCONNECT);
        self.gone();
    }

    /// Leaves with a 5.0 DISCONNECT.
    #[track_caller]
    pub fn leave_with(mut self, reason: u8, props: impl Into<Props>) {
        self.send(&disconnect(reason, props));
        self.gone();
    }

    /// Closes without a word. The broker may need a moment to see it.
    pub fn lose(self) {
        self.raw.abort();
    }

    /// Ends the client's half of the connection (an end without DISCONNECT)
    /// and waits until the broker has closed the other.
    #[track_caller]
    pub fn drop_and_wait(mut self) {
        let _ = self.raw.stream().shutdown(std::net::Shutdown::Write);
        self.gone();
    }

    #[track_caller]
    fn gone(&mut self) {
        loop {
            match self.raw.recv() {
                Got::Closed => return,
                Got::Packet(_) => {}
                Got::Silence => {
                    panic!("{} ({:?}): the broker does not close", self.id, self.version)
                }
            }
        }
    }

    /// The connection below.
    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }
}

/// A broker that all the tests of a file share: one of its own, or the one
/// that already runs at `TIDEGATE_TEST_ADDRESS`.
#[derive(Debug)]
pub struct Shared {
    address: SocketAddr,
    // Statics are never dropped: the guard ends the broker with the tests.
    _guard: Option<(Broker, Child)>,
}

impl Shared {
    /// Starts `binary` with `config`, or aims at `TIDEGATE_TEST_ADDRESS`.
    pub fn start(binary: &str, config: &str) -> Shared {
        if let Ok(given) = std::env::var("TIDEGATE_TEST_ADDRESS") {
            let address = given.parse().expect("TIDEGATE_TEST_ADDRESS is HOST:PORT");
            return Shared { address, _guard: None };
        }
        let broker = Broker::start(binary, config);
        let guard = Command::new("sh")
            .args(["-c", r#"read -r _; kill -9 "$1"; rm -rf "$2""#, "guard"])
            .arg(broker.pid().to_string())
            .arg(broker.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the guard");
        Shared { address: broker.mqtt, _guard: Some((broker, guard)) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A clean client with a new id.
    #[track_caller]
    pub fn join(&self, version: Version) -> Client {
        Connect::new(version, &unique("c")).open(self.address)
    }

    /// A connection on which nothing was sent.
    pub fn bare(&self, version: Version) -> Client {
        Client::bare(self.address, version)
    }
}

/// Writes all of `bytes` slowly enough that they arrive in two reads.
pub fn trickle(client: &mut Client, bytes: &[u8], at: usize) {
    let mut stream = client.raw().stream();
    let _ = stream.write_all(&bytes[..at]);
    std::thread::sleep(Duration::from_millis(20));
    let _ = stream.write_all(&bytes[at..]);
}
