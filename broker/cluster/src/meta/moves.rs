//! A replica on its way from one node to another.

use crate::ids::NodeId;
use crate::wire::{DecodeError, Reader, Writer};

/// A change of one partition's replicas. Raft's membership is the truth; this
/// is where it is meant to go, and how far it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Move {
    /// Who gets a replica.
    pub add: Option<NodeId>,
    /// Who gives one up.
    pub remove: Option<NodeId>,
    /// How far it is.
    pub step: MoveStep,
}

/// How far a move is. It only goes forward, one step at a time.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum MoveStep {
    /// The newcomer learns, without a vote.
    Learner,
    /// The newcomer has caught up.
    CaughtUp,
    /// The change of the membership is under way and can't be called off.
    Joint,
}

impl MoveStep {
    /// The word that people are shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Learner => "learns",
            Self::CaughtUp => "caught up",
            Self::Joint => "changes votes",
        }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Learner => 1,
            Self::CaughtUp => 2,
            Self::Joint => 3,
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<MoveStep, DecodeError> {
        Ok(match from.u8("move step")? {
            1 => Self::Learner,
            2 => Self::CaughtUp,
            3 => Self::Joint,
            value => return Err(DecodeError::Unknown { what: "move step", value: value.into() }),
        })
    }

    pub(super) fn follows(self, other: MoveStep) -> bool {
        self.code() == other.code() + 1
    }
}

impl Move {
    /// The replicas once it is done. The newcomer takes the place of who leaves,
    /// so the order in which the others should lead stays.
    pub fn done(&self, replicas: &[NodeId]) -> Vec<NodeId> {
        let mut after = replicas.to_vec();
        match (self.remove.and_then(|gone| after.iter().position(|at| *at == gone)), self.add) {
            (Some(place), Some(add)) => after[place] = add,
            (Some(place), None) => drop(after.remove(place)),
            (None, Some(add)) => after.push(add),
            (None, None) => {}
        }
        after
    }

    pub(super) fn write(&self, to: &mut Writer) {
        write_end(self.add, to);
        write_end(self.remove, to);
        to.u8(self.step.code());
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Move, DecodeError> {
        Ok(Move { add: read_end(from)?, remove: read_end(from)?, step: MoveStep::read(from)? })
    }
}

pub(super) fn write_end(end: Option<NodeId>, to: &mut Writer) {
    to.u8(end.is_some().into());
    if let Some(node) = end {
        to.u64(node.0);
    }
}

pub(super) fn read_end(from: &mut Reader<'_>) -> Result<Option<NodeId>, DecodeError> {
    Ok(if from.flag("end of a move")? { Some(from.node()?) } else { None })
}
