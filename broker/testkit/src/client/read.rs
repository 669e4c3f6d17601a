//! Packets that came, read as strictly as the standard is written.

use super::build::{PUBACK, PUBCOMP, PUBREL, Props, Publish, Value, Version, prop};

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
