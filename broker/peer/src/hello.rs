//! The frames of the handshake: Hello both ways, Proof, Welcome.
//!
//! Hello is the one layout that every version, past and to come, can read: it
//! may only grow at the end of its header.

use bytes::Bytes;

use crate::auth::{AuthMethod, Nonce, PROOF_BYTES};
use crate::ids::{ClusterId, NodeId, StoreId};
use crate::layout::{BodyError, Opened, Writer};
use crate::limits::{
    ADDRESS_BYTES_MAX, LANE_CREDIT_BYTES_MIN, LANES_MIN, LINK_CREDIT_BYTES_MIN, NAME_BYTES_MAX,
    STRIPES_MAX,
};
use crate::message_type::ConnectionKind;

/// What a node is to the cluster, by its own account.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Role {
    /// Of no cluster yet; its cluster id is 0.
    Fresh = 0,
    /// Of it, without a vote in the meta group.
    Member = 1,
    /// Of it, with one.
    Voter = 2,
}

impl Role {
    fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Fresh),
            1 => Ok(Self::Member),
            2 => Ok(Self::Voter),
            got => Err(BodyError::Value { what: "a role", got: got.into() }),
        }
    }
}

/// Who speaks. Its bytes, as sent, go into both proofs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// What it is to the cluster.
    pub role: Role,
    /// The oldest version that it speaks.
    pub proto_min: u16,
    /// The newest.
    pub proto_max: u16,
    /// What it can do besides, a bit each; both sides' in common are agreed on.
    pub features: u64,
    /// Which cluster; 0: none yet.
    pub cluster: ClusterId,
    /// How often the data directory was begun anew under this cluster.
    pub generation: u64,
    /// Which node; never 0.
    pub node: NodeId,
    /// Which log.
    pub store: StoreId,
    /// Which process; grows with every start.
    pub incarnation: u64,
    /// Of the part of its config in which nodes should agree.
    pub config_hash: [u8; 32],
    /// Random, and never used twice.
    pub nonce: Nonce,
    /// What the connection is for; the called side repeats the caller's.
    pub kind: ConnectionKind,
    /// Which of several of that kind; repeated as well.
    pub stripe: u8,
    /// How many data connections the caller makes; repeated as well. At most
    /// `STRIPES_MAX`.
    pub stripes: u8,
    /// Which set of connections this one is of; repeated as well. The caller's
    /// to choose, at random; 0: of none, to ask something and hang up.
    pub session: u64,
    /// How the sender wants to be believed.
    pub auth: AuthMethod,
    /// Credit of each lane towards the sender of this Hello, before any grant.
    pub lane_credit: u32,
    /// Credit of all lanes together, before any grant.
    pub link_credit: u32,
    /// Lanes that it keeps account of.
    pub lanes_max: u16,
    /// The cluster's name. At most `NAME_BYTES_MAX`.
    pub name: String,
    /// Where it is reached, host and port. At most `ADDRESS_BYTES_MAX`.
    pub address: String,
}

impl Hello {
    const HEADER: usize = 164;

    /// The body.
    ///
    /// # Panics
    /// With a name or address longer than their bounds.
    pub fn encode(&self) -> Bytes {
        assert!(self.name.len() <= NAME_BYTES_MAX, "checked with the config");
        assert!(self.address.len() <= ADDRESS_BYTES_MAX, "checked with the config");
        let mut out = Writer::new(1, self.role as u8);
        out.u16(self.proto_min);
        out.u16(self.proto_max);
        out.u64(self.features);
        out.u128(self.cluster.0);
        out.u64(self.generation);
        out.u64(self.node.0);
        out.u128(self.store.0);
        out.u64(self.incarnation);
        out.bytes(&self.config_hash);
        out.bytes(&self.nonce.0);
        out.u8(self.kind as u8);
        out.u8(self.stripe);
        out.u8(self.auth as u8);
        out.u8(self.stripes);
        out.u32(self.lane_credit);
        out.u16(self.lanes_max);
        out.u16(u16::try_from(self.name.len()).expect("held against its bound"));
        out.u16(u16::try_from(self.address.len()).expect("held against its bound"));
        out.u16(0);
        out.u32(self.link_credit);
        out.u64(self.session);
        out.header_ends();
        out.bytes(self.name.as_bytes());
        out.bytes(self.address.as_bytes());
        out.finish()
    }

    /// Reads a body, and refuses one that contradicts itself.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let role = Role::from_code(open.fourth)?;
        let (proto_min, proto_max) = (open.u16()?, open.u16()?);
        let features = open.u64()?;
        let cluster = ClusterId(open.u128()?);
        let generation = open.u64()?;
        let node = NodeId(open.u64()?);
        let store = StoreId(open.u128()?);
        let incarnation = open.u64()?;
        let config_hash = open.block()?;
        let nonce = Nonce(open.block()?);
        let kind = open.u8()?;
        let kind = ConnectionKind::from_code(kind)
            .ok_or(BodyError::Value { what: "a connection's kind", got: kind.into() })?;
        let stripe = open.u8()?;
        let auth = AuthMethod::from_code(open.u8()?)?;
        let stripes = open.u8()?;
        let lane_credit = open.u32()?;
        let lanes_max = open.u16()?;
        let name_len = bounded(open.u16()?, "the cluster's name", NAME_BYTES_MAX)?;
        let address_len = bounded(open.u16()?, "the address", ADDRESS_BYTES_MAX)?;
        open.u16()?;
        let link_credit = open.u32()?;
        let session = open.u64()?;
        let name = open.text(name_len, "the cluster's name")?;
        let address = open.text(address_len, "the address")?;
        open.ends()?;
        let hello = Self {
            role,
            proto_min,
            proto_max,
            features,
            cluster,
            generation,
            node,
            store,
            incarnation,
            config_hash,
            nonce,
            kind,
            stripe,
            stripes,
            session,
            auth,
            lane_credit,
            link_credit,
            lanes_max,
            name,
            address,
        };
        hello.check()?;
        Ok(hello)
    }

    fn check(&self) -> Result<(), BodyError> {
        let value = |what, got: u64| Err(BodyError::Value { what, got });
        if self.proto_min == 0 || self.proto_min > self.proto_max {
            return value("the oldest version", self.proto_min.into());
        }
        if self.node.0 == 0 {
            return value("the node", 0);
        }
        if (self.role == Role::Fresh) != (self.cluster.0 == 0) {
            return value("the role in that cluster", self.role as u64);
        }
        if self.role == Role::Fresh && self.kind != ConnectionKind::Control {
            return value("the connection of a fresh node", self.kind as u64);
        }
        if self.stripes > STRIPES_MAX {
            return value("the number of data connections", self.stripes.into());
        }
        if self.kind == ConnectionKind::Data && self.stripe >= self.stripes {
            return value("the stripe of a data connection", self.stripe.into());
        }
        if self.kind != ConnectionKind::Control && self.session == 0 {
            return value("the session of such a connection", 0);
        }
        if self.lane_credit < LANE_CREDIT_BYTES_MIN {
            return value("the credit of a lane", self.lane_credit.into());
        }
        if self.link_credit < LINK_CREDIT_BYTES_MIN {
            return value("the credit of all lanes", self.link_credit.into());
        }
        if self.lanes_max < LANES_MIN {
            return value("the number of lanes", self.lanes_max.into());
        }
        Ok(())
    }
}

fn bounded(got: u16, what: &'static str, max: usize) -> Result<usize, BodyError> {
    let got = usize::from(got);
    if got > max {
        return Err(BodyError::TooMany { what, got, max });
    }
    Ok(got)
}

/// That the caller knows the secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Proof {
    /// How.
    pub auth: AuthMethod,
    /// Zeros with TLS.
    pub proof: [u8; PROOF_BYTES],
}

impl Proof {
    const HEADER: usize = 36;

    /// The body.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new(1, self.auth as u8);
        out.bytes(&self.proof);
        out.header_ends();
        out.finish()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let auth = AuthMethod::from_code(open.fourth)?;
        let proof = open.block()?;
        open.ends()?;
        Ok(Self { auth, proof })
    }
}

/// That the called side does too, and what was agreed on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Welcome {
    /// How.
    pub auth: AuthMethod,
    /// The version from now on.
    pub proto: u16,
    /// The features in common.
    pub features: u64,
    /// Zeros with TLS.
    pub proof: [u8; PROOF_BYTES],
}

impl Welcome {
    const HEADER: usize = 48;

    /// The body.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new(1, self.auth as u8);
        out.u16(self.proto);
        out.u16(0);
        out.u64(self.features);
        out.bytes(&self.proof);
        out.header_ends();
        out.finish()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let auth = AuthMethod::from_code(open.fourth)?;
        let proto = open.u16()?;
        open.u16()?;
        let features = open.u64()?;
        let proof = open.block()?;
        open.ends()?;
        Ok(Self { auth, proto, features, proof })
    }
}
