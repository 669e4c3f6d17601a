//! Calls: something is asked of a node, and answered.
//!
//! An envelope for what the layers above agree on: requests of consensus, of
//! the metadata, of operators. What is in them is in their encodings, and is
//! neither looked at nor copied here.

use bytes::Bytes;

use crate::body::Body;
use crate::layout::{BodyError, Opened, Writer};

/// Something is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// The caller's to choose, repeated in the answer; of one connection.
    pub request: u64,
    /// Of which group; 0xFFFF: the meta group.
    pub group: u16,
    /// What is asked: the layers' above to number.
    pub what: u16,
    /// How long the caller waits for the answer; then nobody wants it.
    pub timeout_ms: u32,
    /// The question.
    pub body: Bytes,
}

impl Call {
    const HEADER: usize = 24;

    /// The body.
    pub fn encode(&self) -> Body {
        let mut out = Writer::new(1, 0);
        out.u16(self.group);
        out.u16(self.what);
        out.u64(self.request);
        out.u32(self.timeout_ms);
        out.u32(0);
        out.header_ends();
        let mut body = Body::from(out.finish());
        body.push(self.body.clone());
        body
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let (group, what) = (open.u16()?, open.u16()?);
        let request = open.u64()?;
        let timeout_ms = open.u32()?;
        open.u32()?;
        Ok(Self { request, group, what, timeout_ms, body: open.payload() })
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum AnswerOutcome {
    /// The body is the answer.
    Done = 0,
    /// The node does not do that; `code` says why, and the body, for people.
    Refused = 1,
    /// Too much is asked of the node at once; nothing was done.
    Busy = 2,
}

/// The answer to a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Of the call.
    pub request: u64,
    /// What became of it.
    pub outcome: AnswerOutcome,
    /// If refused: why, as the layers above number it; else 0.
    pub code: u16,
    /// The answer.
    pub body: Bytes,
}

impl Answer {
    const HEADER: usize = 16;

    /// The body.
    pub fn encode(&self) -> Body {
        let mut out = Writer::new(1, self.outcome as u8);
        out.u16(self.code);
        out.u16(0);
        out.u64(self.request);
        out.header_ends();
        let mut body = Body::from(out.finish());
        body.push(self.body.clone());
        body
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let outcome = match open.fourth {
            0 => AnswerOutcome::Done,
            1 => AnswerOutcome::Refused,
            2 => AnswerOutcome::Busy,
            got => return Err(BodyError::Value { what: "an outcome", got: got.into() }),
        };
        let code = open.u16()?;
        open.u16()?;
        let request = open.u64()?;
        Ok(Self { request, outcome, code, body: open.payload() })
    }
}
