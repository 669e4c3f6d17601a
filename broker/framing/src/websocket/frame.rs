//! Frames: unwrapped where they lie, wrapped by a header in front.

use std::fmt;

/// The status of an orderly end.
pub const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED: u16 = 1003;
const INVALID_TEXT: u16 = 1007;

/// Payload of a control frame (RFC 6455, section 5.5).
const CONTROL_BYTES_MAX: usize = 125;
/// Answers that may wait; a ping beyond is not answered, as it need not be when
/// a later one is (section 5.5.3).
const REPLIES_BYTES_MAX: usize = 4 << 10;
/// The longest header of a frame from a client.
const HEADER_BYTES_MAX: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
const OPCODE: u8 = 0x0F;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// How a WebSocket ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Close {
    /// The peer said so; it has been answered.
    Peer {
        /// Its status; none if it gave none.
        code: Option<u16>,
    },
    /// The peer broke a rule; it has been told the status.
    Fault {
        /// The status.
        code: u16,
        /// Which rule.
        why: &'static str,
    },
}

impl Close {
    /// Whether the peer ended it by the rules.
    pub fn is_orderly(self) -> bool {
        matches!(self, Close::Peer { .. })
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Close::Peer { code: Some(code) } => write!(f, "closed by the peer with {code}"),
            Close::Peer { code: None } => f.write_str("closed by the peer"),
            Close::Fault { code, why } => write!(f, "{why} ({code})"),
        }
    }
}

/// What some bytes from a WebSocket came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unwrapped {
    /// Bytes of payload, at the front.
    pub payload: usize,
    /// The WebSocket is over, after that payload.
    pub ended: Option<Close>,
}

/// The receiving side of an open WebSocket.
#[derive(Debug, Default)]
pub struct WebSocket {
    /// Bytes of the frame's payload that have not come.
    left: u64,
    mask: [u8; 4],
    /// Where in the mask the next byte is.
    phase: u8,
    /// The first byte of the frame.
    first: u8,
    /// A binary message goes on in the next data frame.
    fragmented: bool,
    /// In the payload of a frame.
    inside: bool,
    /// The header or the control frame that has not come whole.
    partial: Option<Box<Partial>>,
}

const _: () = assert!(size_of::<WebSocket>() <= 32, "every idle WebSocket pays for this");

#[derive(Debug, Default)]
struct Partial {
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    control: Vec<u8>,
}

/// A frame's first bytes.
enum Head {
    Incomplete,
    Frame { bytes: usize, first: u8, payload: u64, mask: [u8; 4] },
}

impl WebSocket {
    /// Takes `bytes`, however the frames are cut, and moves the payload of
    /// binary messages, unmasked, to the front. What is to be sent at once
    /// (pong, close) is added to `replies`. What comes behind an end is dropped.
    pub fn unwrap(&mut self, bytes: &mut [u8], replies: &mut Vec<u8>) -> Unwrapped {
        let mut payload = 0;
        let ended = self.unwrap_all(bytes, &mut payload, replies).err();
        if let Some(Close::Fault { code, .. }) = ended {
            replies.extend_from_slice(&close_frame(code));
        }
        Unwrapped { payload, ended }
    }

    fn unwrap_all(
        &mut self,
        bytes: &mut [u8],
        payload: &mut usize,
        replies: &mut Vec<u8>,
    ) -> Result<(), Close> {
        let mut at = 0;
        while at < bytes.len() {
            if !self.inside {
                match self.begin(&bytes[at..])? {
                    Some(used) => at += used,
                    None => break,
                }
                if self.left > 0 {
                    continue;
                }
            }
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            let part = &mut bytes[at..at + count];
            unmask(part, self.mask, &mut self.phase);
            self.left -= count as u64;
            if self.first & 0x08 != 0 {
                if self.left == 0 && self.partial.is_none() {
                    self.control(&bytes[at..at + count], replies)?;
                } else {
                    let partial = self.partial.get_or_insert_default();
                    partial.control.extend_from_slice(&bytes[at..at + count]);
                    if self.left == 0 {
                        let control = self.partial.take().unwrap_or_default().control;
                        self.control(&control, replies)?;
                    }
                }
            } else {
                bytes.copy_within(at..at + count, *payload);
                *payload += count;
            }
            at += count;
            self.inside = self.left > 0;
        }
        Ok(())
    }

    /// Reads a header; how many bytes of `bytes` were its, or none if it has not
    /// come whole.
    fn begin(&mut self, bytes: &[u8]) -> Result<Option<usize>, Close> {
        let kept = self.partial.as_ref().map_or(0, |partial| usize::from(partial.header_len));
        let mut joined = [0; HEADER_BYTES_MAX];
        let fresh = bytes.len().min(HEADER_BYTES_MAX - kept);
        if let Some(partial) = &self.partial {
            joined[..kept].copy_from_slice(&partial.header[..kept]);
        }
        joined[kept..kept + fresh].copy_from_slice(&bytes[..fresh]);
        match head(&joined[..kept + fresh], self.fragmented)? {
            Head::Incomplete => {
                let partial = self.partial.get_or_insert_default();
                partial.header = joined;
                partial.header_len = (kept + fresh) as u8;
                Ok(None)
            }
            Head::Frame { bytes: used, first, payload, mask } => {
                self.partial = None;
                (self.first, self.left, self.mask, self.phase) = (first, payload, mask, 0);
                self.inside = true;
                if first & 0x08 == 0 {
                    self.fragmented = first & FIN == 0;
                }
                Ok(Some(used - kept))
            }
        }
    }

    /// A control frame that is whole.
    fn control(&mut self, payload: &[u8], replies: &mut Vec<u8>) -> Result<(), Close> {
        match self.first & OPCODE {
            PING => {
                if replies.len() + 2 + payload.len() <= REPLIES_BYTES_MAX {
                    replies.extend_from_slice(&[FIN | PONG, payload.len() as u8]);
                    replies.extend_from_slice(payload);
                }
                Ok(())
            }
            PONG => Ok(()),
            _close => Err(closed(payload, replies)),
        }
    }
}

/// The peer closes: answered with its own status.
fn closed(payload: &[u8], replies: &mut Vec<u8>) -> Close {
    let fault = |code, why| Close::Fault { code, why };
    match payload {
        [] => {
            replies.extend_from_slice(&close_frame(NORMAL));
            Close::Peer { code: None }
        }
        [_] => fault(PROTOCOL_ERROR, "a close frame with half a status"),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            // Section 7.4: what may be sent.
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return fault(PROTOCOL_ERROR, "a close frame with a status that is none");
            }
            if std::str::from_utf8(reason).is_err() {
                return fault(INVALID_TEXT, "a close frame whose reason is not UTF-8");
            }
            replies.extend_from_slice(&close_frame(code));
            Close::Peer { code: Some(code) }
        }
    }
}

fn head(bytes: &[u8], fragmented: bool) -> Result<Head, Close> {
    let fault = |code, why| Err(Close::Fault { code, why });
    let Some(&first) = bytes.first() else { return Ok(Head::Incomplete) };
    if first & RESERVED != 0 {
        return fault(PROTOCOL_ERROR, "a frame with a reserved bit, but no extension was agreed");
    }
    let (opcode, fin) = (first & OPCODE, first & FIN != 0);
    match opcode {
        CONTINUATION if !fragmented => {
            return fault(PROTOCOL_ERROR, "a continuation of no message");
        }
        BINARY | TEXT if fragmented => {
            return fault(PROTOCOL_ERROR, "a message within a fragmented one");
        }
        // [MQTT-6.0.0-1]
        TEXT => return fault(UNSUPPORTED, "a text frame; MQTT is binary"),
        CONTINUATION | BINARY => {}
        CLOSE | PING | PONG if fin => {}
        CLOSE | PING | PONG => return fault(PROTOCOL_ERROR, "a control frame in fragments"),
        _other => return fault(PROTOCOL_ERROR, "a frame with an unknown opcode"),
    }
    let Some(&second) = bytes.get(1) else { return Ok(Head::Incomplete) };
    if second & MASKED == 0 {
        return fault(PROTOCOL_ERROR, "a frame without a mask");
    }
    let short = second & !MASKED;
    if opcode >= CLOSE && usize::from(short) > CONTROL_BYTES_MAX {
        return fault(PROTOCOL_ERROR, "a control frame above 125 bytes");
    }
    let (wide, at) = match short {
        126 => (2, 4),
        127 => (8, 10),
        _len => (0, 2),
    };
    let Some(digits) = bytes.get(2..2 + wide) else { return Ok(Head::Incomplete) };
    let payload = match wide {
        0 => u64::from(short),
        _some => digits.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
    };
    let least = match wide {
        0 => 0,
        2 => 126,
        _eight => 1 << 16,
    };
    if payload < least || payload >> 63 != 0 {
        return fault(PROTOCOL_ERROR, "a length that is not the shortest, or negative");
    }
    let Some(mask) = bytes.get(at..at + 4).and_then(|mask| mask.try_into().ok()) else {
        return Ok(Head::Incomplete);
    };
    Ok(Head::Frame { bytes: at + 4, first, payload, mask })
}

/// Unmasks in words, from where in the mask the last call ended.
fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: &mut u8) {
    let turned: [u8; 4] = std::array::from_fn(|n| mask[(usize::from(*phase) + n) % 4]);
    let word = u64::from_ne_bytes([turned, turned].concat().try_into().unwrap_or_default());
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (n, byte) in rest.iter_mut().enumerate() {
        *byte ^= turned[n % 4];
    }
    *phase = ((usize::from(*phase) + rest.len()) % 4) as u8;
}

/// The header of a binary frame from a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FrameHeader {
    bytes: [u8; 10],
    len: u8,
}

impl FrameHeader {
    /// As it is sent, in front of the payload.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The header of a whole binary message of `len` bytes.
pub fn header(len: usize) -> FrameHeader {
    let mut bytes = [0; 10];
    bytes[0] = FIN | BINARY;
    let used = match len {
        0..=125 => {
            bytes[1] = len as u8;
            2
        }
        126..=0xFFFF => {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            4
        }
        _more => {
            bytes[1] = 127;
            bytes[2..].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    FrameHeader { bytes, len: used }
}

/// A close frame from a server.
pub fn close_frame(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [FIN | CLOSE, 2, high, low]
}
