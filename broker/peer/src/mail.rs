//! Mail: what one node tells another, in order and unanswered.
//!
//! A class is a stream with an order and a credit of its own, so that one whose
//! receiver is slow holds up no other. What is in it belongs to the layers
//! above, and is neither looked at nor copied here.

use bytes::Bytes;

use crate::body::Body;
use crate::lane::{Lane, LaneClass};
use crate::layout::{BodyError, Opened, Writer};

/// A stream of mail from one node to another.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum MailClass {
    /// Of the sender's shard with that index, to shards of the receiver.
    Shard(u16),
    /// Changes of the sender's routes, and what is said about them.
    Routes,
    /// What the meta group has committed.
    Meta,
}

impl MailClass {
    fn code(self) -> (u8, u16) {
        match self {
            Self::Shard(shard) => (0, shard),
            Self::Routes => (1, 0),
            Self::Meta => (2, 0),
        }
    }

    /// The lane on which it goes.
    pub fn lane(self) -> Lane {
        let (class, source) = self.code();
        Lane::new(LaneClass::Mail, u32::from(class) << 16 | u32::from(source))
    }
}

/// A piece of mail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mail {
    /// Of which stream.
    pub class: MailClass,
    /// What is said.
    pub body: Bytes,
}

impl Mail {
    const HEADER: usize = 8;

    /// The body.
    pub fn encode(&self) -> Body {
        let (class, source) = self.class.code();
        let mut out = Writer::new(1, class);
        out.u16(source);
        out.u16(0);
        out.header_ends();
        let mut body = Body::from(out.finish());
        body.push(self.body.clone());
        body
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let source = open.u16()?;
        open.u16()?;
        let class = match (open.fourth, source) {
            (0, shard) => MailClass::Shard(shard),
            (1, 0) => MailClass::Routes,
            (2, 0) => MailClass::Meta,
            (1 | 2, got) => {
                return Err(BodyError::Value { what: "the source of such mail", got: got.into() });
            }
            (got, _) => return Err(BodyError::Value { what: "a class of mail", got: got.into() }),
        };
        Ok(Self { class, body: open.payload() })
    }
}
