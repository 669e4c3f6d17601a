//! What a connection says for itself on lane 0, besides heartbeats.

use bytes::Bytes;

use crate::lane::Lane;
use crate::layout::{BodyError, Opened, Row, Writer};
use crate::limits::GRANTS_MAX;

/// Are you there? And the answer, which repeats it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ping {
    /// The asker's clock.
    pub sent_ns: u64,
}

impl Ping {
    const HEADER: usize = 12;

    /// The body, of a Ping and of a Pong.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new(1, 0);
        out.u64(self.sent_ns);
        out.header_ends();
        out.finish()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let sent_ns = open.u64()?;
        open.ends()?;
        Ok(Self { sent_ns })
    }
}

/// How far a lane may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The lane, of the direction towards the granter.
    pub lane: Lane,
    /// Body bytes since the connection began. A lower one than before is void.
    pub limit: u64,
}

/// Grants of credit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Credit {
    /// At most `GRANTS_MAX`.
    pub grants: Vec<Grant>,
}

impl Credit {
    const HEADER: usize = 8;
    const ROW: usize = 12;

    /// The body.
    ///
    /// # Panics
    /// With more than `GRANTS_MAX` grants.
    pub fn encode(&self) -> Bytes {
        assert!(self.grants.len() <= GRANTS_MAX, "more take further frames");
        let mut out = Writer::new(1, 0);
        out.count(self.grants.len());
        out.header_ends();
        for grant in &self.grants {
            out.u32(grant.lane.as_u32());
            out.u64(grant.limit);
        }
        out.finish()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let count = open.count("grants", GRANTS_MAX)?;
        let rows = open.rows::<{ Self::ROW }>(count, "grants")?;
        let grant = |row: &[u8; Self::ROW]| {
            let row = Row(row);
            Grant { lane: Lane::from_u32(row.u32(0)), limit: row.u64(4) }
        };
        let grants = rows.iter().map(grant).collect();
        open.ends()?;
        Ok(Self { grants })
    }
}
