//! What nodes ask each other about membership, and its bytes.
//!
//! They are the bodies of calls of the meta group, beside those of Raft. Little
//! endian; nothing of a length that was not held against its bound.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidegate_cluster::DecodeError;
use tidegate_cluster::drain::Reach;
use tidegate_cluster::ids::{ClusterId, Incarnation, Life, Millis, NodeId, StoreId};
use tidegate_cluster::lease::{Asked, Grant};
use tidegate_cluster::limits::{ADDRESS_BYTES_MAX, NODES_MAX};
use tidegate_cluster::meta::Refused;

/// What is asked; below are the numbers of Raft's own calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub(crate) enum Question {
    /// Who is there: [`Presence`].
    Presence = 100,
    /// A command for the metadata, as an `Entry`: [`Outcome`].
    Propose = 101,
    /// The node lease: [`LeaseAnswer`].
    Lease = 102,
    /// Metadata that is newer than what one has: [`News`].
    News = 103,
    /// To balance the loads without waiting for more joins: [`Outcome`].
    Rebalance = 104,
    /// How it fares: [`About`](super::about::About).
    About = 105,
    /// For how long it has confirmed no leader but the one that asks: [`Silence`].
    Silence = 106,
}

impl Question {
    pub(crate) fn from_code(code: u16) -> Option<Question> {
        use Question::{About, Lease, News, Presence, Propose, Rebalance, Silence};
        [Presence, Propose, Lease, News, Rebalance, About, Silence]
            .into_iter()
            .find(|question| *question as u16 == code)
    }
}

/// What a node is to its cluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Presence {
    /// Of none yet.
    Fresh { store: StoreId, list: Option<u64>, asked: bool, keeps: bool },
    /// A member, or about to found it.
    Member(ClusterId),
}

/// Why the metadata refuses a command, as far as somebody has to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// The life is over: the process has to begin anew.
    LifeOver,
    /// The data directory is void for this cluster.
    Void,
    /// Somebody began to serve meanwhile: look again.
    Outpaced,
    /// Anything else.
    Other,
}

impl Kind {
    pub(crate) fn of(refused: &Refused) -> Kind {
        match refused {
            Refused::LifeOver { .. } => Kind::LifeOver,
            Refused::Forgotten(_)
            | Refused::StoreChanged { .. }
            | Refused::StoreCopied { .. }
            | Refused::WrongCluster { .. } => Kind::Void,
            Refused::Outpaced { .. } => Kind::Outpaced,
            _other_reasons_are_told_in_words => Kind::Other,
        }
    }
}

/// What became of a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It is applied, at this index.
    Done(u64),
    /// It changed nothing.
    Refused(Kind, String),
    /// Not asked of the leader; who that is, as far as known.
    Elsewhere(Option<Leader>),
}

/// The leader of the meta group, for who looks for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Leader {
    pub(crate) node: NodeId,
    /// Empty if it is not known.
    pub(crate) address: String,
}

/// An answer to a request for the lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum LeaseAnswer {
    Granted(Grant),
    /// There is none for that life.
    Over(String),
    Elsewhere(Option<Leader>),
}

/// The metadata and its group, as somebody else has them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct News {
    pub(crate) term: u64,
    pub(crate) leader: Option<NodeId>,
    pub(crate) voters: Vec<NodeId>,
    /// A snapshot of the metadata; empty: nothing newer.
    pub(crate) meta: Bytes,
}

/// What a leader that begins asks the voters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Silence {
    pub(crate) leader: NodeId,
    pub(crate) term: u64,
}

/// Voters of the group, those of a change included.
const VOTERS_MAX: usize = 16;
const TEXT_MAX: usize = 1_024;

#[derive(Default)]
pub(super) struct Out(Vec<u8>);

impl Out {
    pub(super) fn text(mut self, text: &str) -> Out {
        let mut end = text.len().min(TEXT_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.0.extend((end as u16).to_le_bytes());
        self.0.extend(&text.as_bytes()[..end]);
        self
    }

    pub(super) fn u8(mut self, value: u8) -> Out {
        self.0.push(value);
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Out {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u128(mut self, value: u128) -> Out {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn leader(self, leader: Option<&Leader>) -> Out {
        let node = leader.map_or(0, |leader| leader.node.0);
        self.u64(node).text(leader.map_or("", |leader| leader.address.as_str()))
    }

    pub(super) fn end(self) -> Bytes {
        self.0.into()
    }
}

pub(super) struct In<'a>(pub(super) &'a [u8]);

impl<'a> In<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short(what))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N, what)?.try_into().expect("as many were taken"))
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn u128(&mut self, what: &'static str) -> Result<u128, DecodeError> {
        self.array(what).map(u128::from_le_bytes)
    }

    pub(super) fn text(&mut self, what: &'static str, max: usize) -> Result<String, DecodeError> {
        let len = usize::from(u16::from_le_bytes(self.array(what)?));
        if len > max {
            return Err(DecodeError::TooMany { what, got: len as u64, max: max as u64 });
        }
        let bytes = self.take(len, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::NotUtf8(what))
    }

    fn leader(&mut self) -> Result<Option<Leader>, DecodeError> {
        let node = NodeId(self.u64("leader")?);
        let address = self.text("address", ADDRESS_BYTES_MAX)?;
        Ok((node.0 != 0).then_some(Leader { node, address }))
    }

    fn end<T>(self, value: T) -> Result<T, DecodeError> {
        if self.0.is_empty() { Ok(value) } else { Err(DecodeError::Left(self.0.len())) }
    }
}

fn unknown(what: &'static str, value: u8) -> DecodeError {
    DecodeError::Unknown { what, value: value.into() }
}

impl Presence {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Presence::Fresh { store, list, asked, keeps } => Out::default()
                .u8(0)
                .u128(store.0)
                .u8(list.is_some().into())
                .u64(list.unwrap_or(0))
                .u8(u8::from(*asked) | u8::from(*keeps) << 1)
                .end(),
            Presence::Member(cluster) => Out::default().u8(1).u128(cluster.0).end(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Presence, DecodeError> {
        let mut from = In(bytes);
        let presence = match from.u8("presence")? {
            0 => {
                let store = StoreId(from.u128("store")?);
                let has_list = from.u8("list")? == 1;
                let list = from.u64("list")?;
                let flags = from.u8("asked")?;
                let (asked, keeps) = (flags & 1 != 0, flags & 2 != 0);
                Presence::Fresh { store, list: has_list.then_some(list), asked, keeps }
            }
            1 => Presence::Member(ClusterId(from.u128("cluster")?)),
            other => return Err(unknown("presence", other)),
        };
        from.end(presence)
    }
}

impl Outcome {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            Outcome::Done(index) => Out::default().u8(0).u64(*index).end(),
            Outcome::Refused(kind, why) => {
                let kind = match kind {
                    Kind::LifeOver => 0,
                    Kind::Void => 1,
                    Kind::Outpaced => 2,
                    Kind::Other => 3,
                };
                Out::default().u8(1).u8(kind).text(why).end()
            }
            Outcome::Elsewhere(leader) => Out::default().u8(2).leader(leader.as_ref()).end(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Outcome, DecodeError> {
        let mut from = In(bytes);
        let outcome = match from.u8("outcome")? {
            0 => Outcome::Done(from.u64("index")?),
            1 => {
                let kind = match from.u8("refusal")? {
                    0 => Kind::LifeOver,
                    1 => Kind::Void,
                    2 => Kind::Outpaced,
                    3 => Kind::Other,
                    other => return Err(unknown("refusal", other)),
                };
                Outcome::Refused(kind, from.text("reason", TEXT_MAX)?)
            }
            2 => Outcome::Elsewhere(from.leader()?),
            other => return Err(unknown("outcome", other)),
        };
        from.end(outcome)
    }
}

/// A request for the lease, with whom the node reaches.
pub(crate) fn encode_asked(asked: Asked, clients: u32, peers: &BTreeSet<NodeId>) -> Bytes {
    let Asked { life, request } = asked;
    let out = Out::default().u64(life.node.0).u64(life.incarnation.0).u64(request);
    let out = out.u64(clients.into()).u8(peers.len().min(NODES_MAX) as u8);
    peers.iter().take(NODES_MAX).fold(out, |out, peer| out.u64(peer.0)).end()
}

pub(crate) fn decode_asked(bytes: &[u8]) -> Result<(Asked, Reach), DecodeError> {
    let mut from = In(bytes);
    let life = Life {
        node: NodeId(from.u64("node")?),
        incarnation: Incarnation(from.u64("incarnation")?),
    };
    let request = from.u64("request")?;
    let clients = u32::try_from(from.u64("clients")?).unwrap_or(u32::MAX);
    let count = usize::from(from.u8("peers")?);
    if count > NODES_MAX {
        let (got, max) = (count as u64, NODES_MAX as u64);
        return Err(DecodeError::TooMany { what: "peers", got, max });
    }
    let peers = (0..count).map(|_| from.u64("peer").map(NodeId)).collect::<Result<_, _>>()?;
    let reach = Reach { node: life.node, leads: false, clients, peers };
    from.end((Asked { life, request }, reach))
}

impl LeaseAnswer {
    pub(crate) fn encode(&self) -> Bytes {
        match self {
            LeaseAnswer::Granted(Grant { life, request, term, index }) => Out::default()
                .u8(0)
                .u64(life.node.0)
                .u64(life.incarnation.0)
                .u64(*request)
                .u64(*term)
                .u64(*index)
                .end(),
            LeaseAnswer::Over(why) => Out::default().u8(1).text(why).end(),
            LeaseAnswer::Elsewhere(leader) => Out::default().u8(2).leader(leader.as_ref()).end(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<LeaseAnswer, DecodeError> {
        let mut from = In(bytes);
        let answer = match from.u8("answer")? {
            0 => {
                let (node, life) = (from.u64("node")?, from.u64("incarnation")?);
                let life = Life { node: NodeId(node), incarnation: Incarnation(life) };
                let (request, term) = (from.u64("request")?, from.u64("term")?);
                LeaseAnswer::Granted(Grant { life, request, term, index: from.u64("index")? })
            }
            1 => LeaseAnswer::Over(from.text("reason", TEXT_MAX)?),
            2 => LeaseAnswer::Elsewhere(from.leader()?),
            other => return Err(unknown("answer", other)),
        };
        from.end(answer)
    }
}

pub(crate) fn encode_have(have: u64) -> Bytes {
    Out::default().u64(have).end()
}

pub(crate) fn decode_have(bytes: &[u8]) -> Result<u64, DecodeError> {
    let mut from = In(bytes);
    let have = from.u64("index")?;
    from.end(have)
}

impl Silence {
    pub(crate) fn encode(&self) -> Bytes {
        Out::default().u64(self.leader.0).u64(self.term).end()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Silence, DecodeError> {
        let mut from = In(bytes);
        let silence = Silence { leader: NodeId(from.u64("leader")?), term: from.u64("term")? };
        from.end(silence)
    }
}

/// Its answer in milliseconds; none: it may still confirm an earlier one.
pub(crate) fn encode_silence(silence: Option<Millis>) -> Bytes {
    Out::default().u8(silence.is_some().into()).u64(silence.unwrap_or(0)).end()
}

pub(crate) fn decode_silence(bytes: &[u8]) -> Result<Option<Millis>, DecodeError> {
    let mut from = In(bytes);
    let is_known = from.u8("silence")? == 1;
    let silence = from.u64("milliseconds")?;
    from.end(is_known.then_some(silence))
}

impl News {
    pub(crate) fn encode(&self) -> Bytes {
        let leader = self.leader.map_or(0, |leader| leader.0);
        let voters = &self.voters[..self.voters.len().min(VOTERS_MAX)];
        let mut out = Out::default().u64(self.term).u64(leader).u8(voters.len() as u8);
        for voter in voters {
            out = out.u64(voter.0);
        }
        out.0.extend(&self.meta);
        out.end()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<News, DecodeError> {
        let mut from = In(bytes);
        let (term, leader) = (from.u64("term")?, from.u64("leader")?);
        let count = usize::from(from.u8("voters")?);
        if count > VOTERS_MAX {
            let (got, max) = (count as u64, VOTERS_MAX as u64);
            return Err(DecodeError::TooMany { what: "voters", got, max });
        }
        let voters = (0..count).map(|_| from.u64("voter").map(NodeId)).collect::<Result<_, _>>()?;
        let meta = bytes.slice(bytes.len() - from.0.len()..);
        Ok(News { term, leader: (leader != 0).then_some(NodeId(leader)), voters, meta })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Life = Life { node: NodeId(3), incarnation: Incarnation(4) };

    #[test]
    fn what_is_said_is_heard_and_what_is_cut_is_refused() {
        let leader = Leader { node: NodeId(7), address: "a:1".into() };
        let outcomes = [
            Outcome::Done(5),
            Outcome::Refused(Kind::Void, "because".into()),
            Outcome::Elsewhere(Some(leader.clone())),
            Outcome::Elsewhere(None),
        ];
        for outcome in outcomes {
            let bytes = outcome.encode();
            assert_eq!(Outcome::decode(&bytes), Ok(outcome));
            (0..bytes.len()).for_each(|cut| assert!(Outcome::decode(&bytes[..cut]).is_err()));
        }
        let answers = [
            LeaseAnswer::Granted(Grant { life: LIFE, request: 1, term: 2, index: 3 }),
            LeaseAnswer::Over("over".into()),
            LeaseAnswer::Elsewhere(Some(leader)),
        ];
        for answer in answers {
            let bytes = answer.encode();
            assert_eq!(LeaseAnswer::decode(&bytes), Ok(answer));
            (0..bytes.len()).for_each(|cut| assert!(LeaseAnswer::decode(&bytes[..cut]).is_err()));
        }
        let presences = [
            Presence::Fresh { store: StoreId(1), list: Some(2), asked: true, keeps: false },
            Presence::Fresh { store: StoreId(1), list: None, asked: false, keeps: true },
            Presence::Member(ClusterId(9)),
        ];
        for presence in presences {
            let bytes = presence.encode();
            assert_eq!(Presence::decode(&bytes), Ok(presence));
            (0..bytes.len()).for_each(|cut| assert!(Presence::decode(&bytes[..cut]).is_err()));
        }
        let asked = Asked { life: LIFE, request: 9 };
        let peers = BTreeSet::from([NodeId(1), NodeId(2)]);
        let bytes = encode_asked(asked, 7, &peers);
        let reach = Reach { node: LIFE.node, leads: false, clients: 7, peers };
        assert_eq!(decode_asked(&bytes), Ok((asked, reach)));
        (0..bytes.len()).for_each(|cut| assert!(decode_asked(&bytes[..cut]).is_err()));
        assert_eq!(decode_have(&encode_have(8)), Ok(8));
        let silence = Silence { leader: NodeId(4), term: 5 };
        let bytes = silence.encode();
        assert_eq!(Silence::decode(&bytes), Ok(silence));
        (0..bytes.len()).for_each(|cut| assert!(Silence::decode(&bytes[..cut]).is_err()));
        for answer in [None, Some(900)] {
            let bytes = encode_silence(answer);
            assert_eq!(decode_silence(&bytes), Ok(answer));
            (0..bytes.len()).for_each(|cut| assert!(decode_silence(&bytes[..cut]).is_err()));
        }
        let news = News {
            term: 1,
            leader: Some(NodeId(2)),
            voters: vec![NodeId(2), NodeId(3)],
            meta: Bytes::from_static(b"meta"),
        };
        assert_eq!(News::decode(&news.encode()), Ok(news));
    }
}
