//! Frames to messages: puts together what was split.
//!
//! Frames of one message follow each other on its lane; other lanes' may come
//! between them. The first says how long the message is, which is held against
//! its bound, and against what may be partly through at once, before a byte of
//! it is kept; and room is made only as its bytes come.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};

use crate::frame::{Flags, FrameError, Header};
use crate::lane::Lane;
use crate::limits::{MESSAGE_BYTES_MAX, PARTIAL_BYTES_MAX, PARTIALS_MAX};
use crate::message_type::MessageType;

/// What a frame came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Assembled {
    /// A message began, and more of it is to come.
    Begun {
        /// Bytes of all of it.
        total: usize,
    },
    /// A message went on, and more of it is to come.
    More,
    /// A message is whole.
    Whole {
        /// Its type; none: it is not known, but optional, and its body is gone.
        kind: Option<MessageType>,
        /// Its body.
        body: Bytes,
        /// Bytes of all of it.
        total: usize,
        /// Whether it began with this frame.
        is_single: bool,
    },
}

#[derive(Debug)]
struct Partial {
    code: u16,
    /// None: it is skipped.
    kind: Option<MessageType>,
    total: usize,
    came: usize,
    bytes: BytesMut,
}

/// Puts messages together, for one direction of one connection.
#[derive(Debug, Default)]
pub struct Assembler {
    partials: BTreeMap<Lane, Partial>,
    /// Of all partials when complete.
    bytes: usize,
}

impl Assembler {
    /// Takes a frame whose checksum was right.
    pub fn take(&mut self, header: &Header, body: Bytes) -> Result<Assembled, FrameError> {
        if header.flags.has(Flags::CONTINUED) {
            return self.go_on(header, &body);
        }
        let lane = header.lane;
        if self.partials.contains_key(&lane) {
            return Err(FrameError::Fragment { lane, what: "a message begins within another" });
        }
        let kind = MessageType::from_code(header.kind);
        if kind.is_none() && !header.flags.has(Flags::OPTIONAL) {
            return Err(FrameError::UnknownType(header.kind));
        }
        if header.flags.has(Flags::MORE) {
            return self.begin(header, kind, body);
        }
        let max = kind.map_or(MESSAGE_BYTES_MAX, MessageType::bytes_max);
        if body.len() > max {
            return Err(too_large(header.len, max));
        }
        let total = body.len();
        let body = if kind.is_some() { body } else { Bytes::new() };
        Ok(Assembled::Whole { kind, body, total, is_single: true })
    }

    /// Bytes that are held for messages which are not whole.
    pub fn held(&self) -> usize {
        self.partials.values().map(|partial| partial.bytes.len()).sum()
    }

    fn begin(
        &mut self,
        header: &Header,
        kind: Option<MessageType>,
        mut body: Bytes,
    ) -> Result<Assembled, FrameError> {
        let lane = header.lane;
        let wrong = |what| Err(FrameError::Fragment { lane, what });
        if lane == Lane::LINK {
            return wrong("messages of lane 0 are not split");
        }
        let Ok(said) = body.try_get_u32_le() else { return wrong("no length in a first frame") };
        let total = said as usize;
        let max = kind.map_or(MESSAGE_BYTES_MAX, MessageType::bytes_max);
        if total > max {
            return Err(too_large(said, max));
        }
        if body.is_empty() {
            return wrong("a frame without a byte of its message");
        }
        if body.len() >= total {
            return wrong("more is announced and nothing is missing");
        }
        let (partials, bytes) = (self.partials.len() + 1, self.bytes + total);
        if partials > PARTIALS_MAX || bytes > PARTIAL_BYTES_MAX {
            return Err(FrameError::TooManyPartials { partials, bytes });
        }
        let mut partial =
            Partial { code: header.kind, kind, total, came: 0, bytes: BytesMut::new() };
        partial.add(&body);
        self.partials.insert(lane, partial);
        self.bytes = bytes;
        Ok(Assembled::Begun { total })
    }

    fn go_on(&mut self, header: &Header, body: &Bytes) -> Result<Assembled, FrameError> {
        let lane = header.lane;
        let wrong = |what| Err(FrameError::Fragment { lane, what });
        let Some(partial) = self.partials.get_mut(&lane) else {
            return wrong("nothing is there to go on with");
        };
        if partial.code != header.kind {
            return wrong("a message goes on as another type");
        }
        if body.is_empty() {
            return wrong("a frame without a byte of its message");
        }
        let missing = partial.total - partial.came;
        if body.len() > missing {
            return wrong("more comes than was announced");
        }
        if header.flags.has(Flags::MORE) == (body.len() == missing) {
            return wrong("the last frame is not the last");
        }
        partial.add(body);
        if body.len() < missing {
            return Ok(Assembled::More);
        }
        let Some(whole) = self.partials.remove(&lane) else {
            return wrong("nothing is there to go on with");
        };
        self.bytes -= whole.total;
        let (kind, total) = (whole.kind, whole.total);
        Ok(Assembled::Whole { kind, body: whole.bytes.freeze(), total, is_single: false })
    }
}

impl Partial {
    fn add(&mut self, body: &[u8]) {
        self.came += body.len();
        if self.kind.is_none() {
            return;
        }
        if self.bytes.capacity() < self.came {
            // Twice what came, never more than will come.
            let room = self.total.min(self.came * 2);
            self.bytes.reserve(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(body);
    }
}

fn too_large(got: u32, max: usize) -> FrameError {
    FrameError::MessageTooLarge { got, max: u32::try_from(max).unwrap_or(u32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::LaneClass;

    const LANE: Lane = Lane::new(LaneClass::Enqueue, 1);
    const CODE: u16 = MessageType::Enqueue as u16;

    fn take(
        assembler: &mut Assembler,
        lane: Lane,
        kind: u16,
        flags: Flags,
        body: &[u8],
    ) -> Result<Assembled, FrameError> {
        let header = Header { len: body.len() as u32, kind, flags, lane, crc: 0 };
        assembler.take(&header, Bytes::copy_from_slice(body))
    }

    fn first(total: u32, bytes: &[u8]) -> Vec<u8> {
        [&total.to_le_bytes(), bytes].concat()
    }

    #[test]
    fn frames_of_other_lanes_may_come_between() {
        let mut assembler = Assembler::default();
        let other = Lane::new(LaneClass::Enqueue, 2);
        let more = Flags::MORE;
        let begun = take(&mut assembler, LANE, CODE, more, &first(5, b"he"));
        assert_eq!(begun, Ok(Assembled::Begun { total: 5 }));
        let single = take(&mut assembler, other, CODE, Flags::NONE, b"x").expect("whole");
        assert!(matches!(single, Assembled::Whole { is_single: true, .. }));
        let went = take(&mut assembler, LANE, CODE, more | Flags::CONTINUED, b"l");
        assert_eq!(went, Ok(Assembled::More));
        assert_eq!(assembler.held(), 3);
        let whole = take(&mut assembler, LANE, CODE, Flags::CONTINUED, b"lo");
        let body = Bytes::from_static(b"hello");
        let kind = Some(MessageType::Enqueue);
        assert_eq!(whole, Ok(Assembled::Whole { kind, body, total: 5, is_single: false }));
        assert_eq!(assembler.held(), 0);
    }

    #[test]
    fn rows_of_frames_that_make_no_message_are_refused() {
        type Frames<'a> = &'a [(Flags, Vec<u8>)];
        let cases: [(&str, Frames<'_>); 8] = [
            ("no beginning", &[(Flags::CONTINUED, b"x".to_vec())]),
            ("no length", &[(Flags::MORE, b"xyz".to_vec())]),
            ("nothing in it", &[(Flags::MORE, first(5, b""))]),
            ("nothing missing", &[(Flags::MORE, first(2, b"ab"))]),
            ("begun twice", &[(Flags::MORE, first(5, b"a")), (Flags::MORE, first(5, b"a"))]),
            ("too much", &[(Flags::MORE, first(3, b"a")), (Flags::CONTINUED, b"abc".to_vec())]),
            ("ends early", &[(Flags::MORE, first(3, b"a")), (Flags::CONTINUED, b"a".to_vec())]),
            (
                "does not end",
                &[(Flags::MORE, first(2, b"a")), (Flags::MORE | Flags::CONTINUED, b"a".to_vec())],
            ),
        ];
        for (name, frames) in cases {
            let mut assembler = Assembler::default();
            let mut last = Ok(Assembled::More);
            for (flags, body) in frames {
                assert!(last.is_ok(), "{name}: {last:?}");
                last = take(&mut assembler, LANE, CODE, *flags, body);
            }
            assert!(matches!(last, Err(FrameError::Fragment { .. })), "{name}: {last:?}");
        }
    }

    #[test]
    fn a_message_goes_on_as_what_it_began() {
        let mut assembler = Assembler::default();
        take(&mut assembler, LANE, CODE, Flags::MORE, &first(2, b"a")).expect("begun");
        let said = take(&mut assembler, LANE, CODE + 1, Flags::CONTINUED, b"b");
        assert!(matches!(said, Err(FrameError::Fragment { .. })), "{said:?}");
    }

    #[test]
    fn what_is_partly_through_is_bounded_before_it_is_kept() {
        let mut assembler = Assembler::default();
        let over = first(MESSAGE_BYTES_MAX as u32 + 1, b"a");
        let said = take(&mut assembler, LANE, CODE, Flags::MORE, &over);
        assert!(matches!(said, Err(FrameError::MessageTooLarge { .. })), "{said:?}");
        let most = first(MESSAGE_BYTES_MAX as u32, b"a");
        for lane in 0..4 {
            let lane = Lane::new(LaneClass::Enqueue, lane);
            take(&mut assembler, lane, CODE, Flags::MORE, &most).expect("four of them");
        }
        let said = take(&mut assembler, Lane::new(LaneClass::Ask, 0), CODE, Flags::MORE, &most);
        assert!(matches!(said, Err(FrameError::TooManyPartials { .. })), "{said:?}");
        assert_eq!(assembler.held(), 4);
        let room: usize = assembler.partials.values().map(|p| p.bytes.capacity()).sum();
        assert!(room < 1024, "{room} bytes of room for four bytes");
    }

    #[test]
    fn what_is_optional_and_not_known_is_skipped_and_all_else_not() {
        let mut assembler = Assembler::default();
        let (unknown, optional) = (0x7777, Flags::OPTIONAL);
        let said = take(&mut assembler, LANE, unknown, Flags::NONE, b"x");
        assert_eq!(said, Err(FrameError::UnknownType(unknown)));
        take(&mut assembler, LANE, unknown, optional | Flags::MORE, &first(3, b"a")).expect("on");
        assert_eq!(assembler.held(), 0, "nothing of it is kept");
        let said = take(&mut assembler, LANE, unknown, optional | Flags::CONTINUED, b"bc");
        let body = Bytes::new();
        assert_eq!(said, Ok(Assembled::Whole { kind: None, body, total: 3, is_single: false }));
    }
}
