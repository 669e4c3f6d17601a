//! The object that all pods share: who may found, agreed by two writes.
//!
//! Create-if-absent names the founder; a second write, on the version that it
//! read, confirms it. Only a confirmed founder founds. Until it has confirmed,
//! another may take its place if it is seen nowhere, on the same version: one of
//! the two writes fails. After that nobody founds but that data directory,
//! whatever becomes of it.

use super::{Answer, Decision, Probe, Reason};
use crate::ids::{ClusterId, Millis, StoreId};
use crate::limits::FOUNDER_SILENT_MS;

/// What the object says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The cluster that is to be, or is.
    pub cluster: ClusterId,
    /// The data directory of who founds it.
    pub founder: StoreId,
    /// The founder has read its own claim again.
    pub confirmed: bool,
}

/// The object as this node read it last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClaimView {
    /// It can't be read, or was not yet.
    Unknown,
    /// It is not there.
    Absent,
    /// It is there.
    Present {
        /// What it says.
        claim: Claim,
        /// Its version: a write names it, and fails if it is another by then.
        version: String,
        /// For how long it has been the same while its founder was not seen.
        unseen_ms: Millis,
    },
}

/// A write of the object. If it fails because somebody else was first, read it
/// again and decide again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClaimWrite {
    /// Create it; it must not be there.
    Create(Claim),
    /// Replace it; it must be of this version.
    Replace {
        /// The version that was read.
        version: String,
        /// What it shall say.
        claim: Claim,
    },
}

impl ClaimView {
    /// The cluster, if it is settled.
    pub fn confirmed(&self) -> Option<ClusterId> {
        match self {
            Self::Unknown | Self::Absent => None,
            Self::Present { claim, .. } => claim.confirmed.then_some(claim.cluster),
        }
    }

    /// `keeps`: this node has data of its own; `keeper`: that one has.
    pub(super) fn decide(
        &self,
        keeps: bool,
        keeper: Option<String>,
        store: StoreId,
        probes: &[Probe],
        draw: ClusterId,
    ) -> Decision {
        let mine = Claim { cluster: draw, founder: store, confirmed: false };
        let (claim, version, unseen_ms) = match self {
            Self::Unknown => return Decision::Wait(Reason::ClaimUnknown),
            Self::Absent => {
                return match keeper {
                    Some(keeper) => Decision::Wait(Reason::OtherFounds(keeper)),
                    None => Decision::Write(ClaimWrite::Create(mine)),
                };
            }
            Self::Present { claim, version, unseen_ms } => (claim, version.clone(), *unseen_ms),
        };
        if claim.founder == store {
            if claim.confirmed {
                return Decision::Found(claim.cluster);
            }
            if let Some(keeper) = keeper {
                return Decision::Wait(Reason::OtherFounds(keeper));
            }
            let claim = Claim { confirmed: true, ..claim.clone() };
            return Decision::Write(ClaimWrite::Replace { version, claim });
        }
        if claim.confirmed {
            return match keeps {
                true => Decision::Refuse(Reason::OwnData(claim.cluster)),
                false => Decision::Wait(Reason::ClusterSilent(claim.cluster)),
            };
        }
        if let Some(keeper) = keeper {
            return Decision::Wait(Reason::OtherFounds(keeper));
        }
        let seen = probes.iter().any(
            |probe| matches!(probe.answer, Answer::Fresh { store, .. } if store == claim.founder),
        );
        // Who has data takes the place of who has none, whose next write fails then.
        if !keeps && (seen || unseen_ms < FOUNDER_SILENT_MS) {
            return Decision::Wait(Reason::Claimed(claim.founder));
        }
        Decision::Write(ClaimWrite::Replace { version, claim: mine })
    }
}
