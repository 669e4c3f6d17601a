//! Found a cluster, join one, come back, wait, or refuse.
//!
//! [`decide`] is asked again after each round of probes, and whenever what it
//! waits for may have changed. Its one rule: that nobody was found is never a
//! reason to found. Who founds is settled by something that all nodes share: an
//! object of Kubernetes, an operator's command, or a list that all have alike
//! and of which everybody has answered.
//!
//! A node that has a cluster id never founds: with all pods restarting at once
//! it is plain recovery. One whose log was lost is a new node of the same cluster.

mod claim;
mod discovery;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::ids::{ClusterId, StoreId};
use crate::placement::mix;

pub use claim::{Claim, ClaimView, ClaimWrite};
pub use discovery::{AddressBook, Peers};

/// What the data directory says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Local {
    /// It is new.
    Fresh,
    /// It is that of a node that was alone, which has kept something there. Such
    /// a node founds the cluster or stays out of it: two sets of data cannot be
    /// made one.
    Alone,
    /// It is a member's, and its log is whole.
    Member {
        /// Of this cluster.
        cluster: ClusterId,
    },
    /// It was a member's, and its log is lost or corrupt: that node never votes
    /// again.
    LogLost {
        /// Of this cluster.
        cluster: ClusterId,
    },
}

/// How the first cluster comes about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mode {
    /// This node alone; peers are a mistake.
    Single,
    /// A list that every node has alike.
    Static {
        /// All addresses.
        list: Vec<String>,
        /// Which of them is this node.
        me: String,
    },
    /// An operator says so, once, at any node.
    Init {
        /// He has said so at this one.
        asked: bool,
        /// And that peers that do not answer are to be disregarded.
        despite_silent: bool,
    },
    /// A ConfigMap that can be created once.
    Kubernetes {
        /// As it was read last.
        view: ClaimView,
    },
}

/// What a peer said when it was asked who it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Where it was asked.
    pub address: String,
    /// What it said.
    pub answer: Answer,
}

/// An answer to a probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// None came.
    Silent,
    /// It was this process.
    Myself,
    /// Its cluster has another name.
    OtherName(String),
    /// It does not accept the secret or certificate, or its own is not accepted.
    NotTrusted,
    /// It belongs to no cluster yet.
    Fresh {
        /// Its data directory.
        store: StoreId,
        /// The hash of its static list, if it has one.
        list: Option<u64>,
        /// An operator has told it to found one.
        asked: bool,
        /// It has kept something, from when it was alone.
        keeps: bool,
    },
    /// It belongs to a cluster.
    Member(ClusterId),
}

/// What to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Found the cluster, as its first node.
    Found(ClusterId),
    /// Ask these to register this node, with a new node id.
    Join {
        /// The cluster.
        cluster: ClusterId,
        /// Members that answered.
        via: Vec<String>,
    },
    /// Go on as the member that it is; these answered, maybe none.
    Rejoin {
        /// Members that answered.
        via: Vec<String>,
    },
    /// Write the shared object, and ask again with what became of it.
    Write(ClaimWrite),
    /// Not yet: probe again.
    Wait(Reason),
    /// Not at all, until an operator changes something.
    Refuse(Reason),
}

/// Why nothing is done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    /// Members of two clusters answer.
    #[error("peers belong to two clusters, {0} and {1}: discovery names nodes of both")]
    TwoClusters(ClusterId, ClusterId),
    /// Those who answer belong to another cluster.
    #[error("this node belongs to cluster {ours}, and its peers to {theirs}")]
    OtherCluster {
        /// This node's.
        ours: ClusterId,
        /// Theirs.
        theirs: ClusterId,
    },
    /// A peer's cluster has another name.
    #[error("{address} belongs to a cluster named {name:?}")]
    OtherName {
        /// Who.
        address: String,
        /// The name.
        name: String,
    },
    /// A peer and this node do not trust each other.
    #[error("{address} and this node do not trust each other: the secret or certificates differ")]
    NotTrusted {
        /// Who.
        address: String,
    },
    /// Nobody of the cluster that it belongs to answers.
    #[error("no member of cluster {0} answers")]
    ClusterSilent(ClusterId),
    /// Peers that might belong to a cluster do not answer.
    #[error("no answer from {0:?}: they might belong to a cluster")]
    PeersSilent(Vec<String>),
    /// `bootstrap = single` and peers.
    #[error("bootstrap = \"single\" and yet there are peers, such as {0}")]
    SingleWithPeers(String),
    /// The list is not the same everywhere.
    #[error("{0} has another list of peers: bootstrap = \"static\" needs the same everywhere")]
    ListsDiffer(String),
    /// This node is not in its own list.
    #[error("{0} is not in the list of peers")]
    NotInList(String),
    /// Another founds.
    #[error("{0} founds the cluster")]
    OtherFounds(String),
    /// Nobody said so.
    #[error("`tidegate cluster init` was not called yet")]
    NotAsked,
    /// This node has data of its own, and cannot join.
    #[error(
        "this node has kept data of its own from when it was alone, and cannot join cluster {0}, \
         which has others: two sets of data cannot be made one"
    )]
    OwnData(ClusterId),
    /// Two nodes that have data of their own.
    #[error(
        "this node and {0} both have kept data of their own from when they were alone: two sets of \
         data cannot be made one"
    )]
    TwoWithData(String),
    /// Another has data, and has to found.
    #[error(
        "{0} has kept data from when it was alone, and has to found the cluster: call `tidegate \
         cluster init` there"
    )]
    OtherHasData(String),
    /// The shared object can't be read.
    #[error("the ConfigMap can't be read")]
    ClaimUnknown,
    /// Somebody has claimed it and is at work.
    #[error("the node with the store {0} is about to found the cluster")]
    Claimed(StoreId),
    /// The shared object names another cluster than the peers.
    #[error("the ConfigMap names cluster {claimed}, and the peers belong to {found}")]
    ClaimDiffers {
        /// What the object says.
        claimed: ClusterId,
        /// What the peers say.
        found: ClusterId,
    },
}

/// What to do now. `store` is this data directory; `draw` a random cluster id,
/// used if this node founds.
pub fn decide(
    local: &Local,
    store: StoreId,
    mode: &Mode,
    probes: &[Probe],
    draw: ClusterId,
) -> Decision {
    let members = |of: ClusterId| {
        let there = probes.iter().filter(|probe| probe.answer == Answer::Member(of));
        there.map(|probe| probe.address.clone()).collect::<Vec<_>>()
    };
    let clusters: BTreeSet<ClusterId> = probes
        .iter()
        .filter_map(|probe| match &probe.answer {
            Answer::Member(cluster) => Some(*cluster),
            Answer::Silent
            | Answer::Myself
            | Answer::OtherName(_)
            | Answer::NotTrusted
            | Answer::Fresh { .. } => None,
        })
        .collect();
    let other = |ours: ClusterId| clusters.iter().copied().find(|theirs| *theirs != ours);
    match local {
        Local::Member { cluster } => {
            let via = members(*cluster);
            match other(*cluster) {
                // It keeps asking: its own peers may only be late.
                Some(theirs) if via.is_empty() => {
                    Decision::Wait(Reason::OtherCluster { ours: *cluster, theirs })
                }
                Some(_) | None => Decision::Rejoin { via },
            }
        }
        Local::LogLost { cluster } => {
            let via = members(*cluster);
            if !via.is_empty() {
                return Decision::Join { cluster: *cluster, via };
            }
            match other(*cluster) {
                Some(theirs) => Decision::Refuse(Reason::OtherCluster { ours: *cluster, theirs }),
                None => Decision::Wait(Reason::ClusterSilent(*cluster)),
            }
        }
        Local::Fresh => {
            let mut clusters = clusters.into_iter();
            match (clusters.next(), clusters.next()) {
                (Some(one), Some(two)) => Decision::Refuse(Reason::TwoClusters(one, two)),
                (Some(cluster), None) => join(cluster, members(cluster), mode),
                (None, _) => found(false, store, mode, probes, draw),
            }
        }
        Local::Alone => match clusters.first() {
            Some(cluster) => Decision::Refuse(Reason::OwnData(*cluster)),
            None => found(true, store, mode, probes, draw),
        },
    }
}

fn join(cluster: ClusterId, via: Vec<String>, mode: &Mode) -> Decision {
    match mode {
        Mode::Single => {
            let first = via.into_iter().next().expect("somebody said which cluster");
            Decision::Refuse(Reason::SingleWithPeers(first))
        }
        Mode::Kubernetes { view } => match view.confirmed() {
            Some(claimed) if claimed != cluster => {
                Decision::Refuse(Reason::ClaimDiffers { claimed, found: cluster })
            }
            Some(_) | None => Decision::Join { cluster, via },
        },
        Mode::Static { .. } | Mode::Init { .. } => Decision::Join { cluster, via },
    }
}

/// Nobody who answered belongs to a cluster. `keeps`: this node has data.
fn found(keeps: bool, store: StoreId, mode: &Mode, probes: &[Probe], draw: ClusterId) -> Decision {
    // Who does not trust this node, or has another name, may be of a cluster.
    for Probe { address, answer } in probes {
        match answer {
            Answer::OtherName(name) => {
                let (address, name) = (address.clone(), name.clone());
                return Decision::Refuse(Reason::OtherName { address, name });
            }
            Answer::NotTrusted => {
                return Decision::Refuse(Reason::NotTrusted { address: address.clone() });
            }
            Answer::Silent | Answer::Myself | Answer::Fresh { .. } | Answer::Member(_) => {}
        }
    }
    // Who has data founds, or what it has could never come in.
    let keeper = probes.iter().find(|p| matches!(p.answer, Answer::Fresh { keeps: true, .. }));
    let keeper = keeper.map(|probe| probe.address.clone());
    if let (Some(other), true) = (&keeper, keeps) {
        return Decision::Refuse(Reason::TwoWithData(other.clone()));
    }
    let silent: Vec<String> = probes
        .iter()
        .filter(|probe| probe.answer == Answer::Silent)
        .map(|probe| probe.address.clone())
        .collect();
    match mode {
        Mode::Single => match probes.iter().find(|probe| probe.answer != Answer::Myself) {
            Some(peer) => Decision::Refuse(Reason::SingleWithPeers(peer.address.clone())),
            None => Decision::Found(draw),
        },
        Mode::Static { list, me } => by_list(list, me, keeps, probes, draw),
        Mode::Init { asked: false, .. } => Decision::Wait(Reason::NotAsked),
        Mode::Init { asked: true, despite_silent } => {
            let asked = |probe: &&Probe| matches!(probe.answer, Answer::Fresh { asked: true, .. });
            if let Some(other) = probes.iter().find(asked) {
                return Decision::Refuse(Reason::OtherFounds(other.address.clone()));
            }
            if let Some(other) = keeper {
                return Decision::Refuse(Reason::OtherHasData(other));
            }
            if silent.is_empty() || *despite_silent {
                return Decision::Found(draw);
            }
            Decision::Refuse(Reason::PeersSilent(silent))
        }
        Mode::Kubernetes { view } => view.decide(keeps, keeper, store, probes, draw),
    }
}

/// The list founds when everybody in it has answered, has nothing, and has the
/// same list; then the smallest address does it, and the others join it. If one
/// of them has data, that one does.
fn by_list(list: &[String], me: &str, keeps: bool, probes: &[Probe], draw: ClusterId) -> Decision {
    if !list.iter().any(|address| address == me) {
        return Decision::Refuse(Reason::NotInList(me.to_owned()));
    }
    let hash = list_hash(list);
    let (mut silent, mut keepers) = (Vec::new(), Vec::new());
    for address in list.iter().filter(|address| *address != me) {
        let answer = probes.iter().find(|probe| probe.address == *address);
        match answer.map(|probe| &probe.answer) {
            Some(Answer::Fresh { list: Some(theirs), keeps, .. }) if *theirs == hash => {
                keepers.extend(keeps.then_some(address));
            }
            Some(Answer::Fresh { .. }) => {
                return Decision::Refuse(Reason::ListsDiffer(address.clone()));
            }
            // Two addresses of the list are this process.
            Some(Answer::Myself) => {
                return Decision::Refuse(Reason::ListsDiffer(address.clone()));
            }
            Some(Answer::Silent | Answer::OtherName(_) | Answer::NotTrusted)
            | Some(Answer::Member(_))
            | None => silent.push(address.clone()),
        }
    }
    if !silent.is_empty() {
        return Decision::Wait(Reason::PeersSilent(silent));
    }
    let founder = match keeps {
        true => me,
        // Of two that have data each refuses, and so nobody founds.
        false => keepers.into_iter().min().or(list.iter().min()).expect("this node is in it"),
    };
    if founder == me {
        Decision::Found(draw)
    } else {
        Decision::Wait(Reason::OtherFounds(founder.to_owned()))
    }
}

/// The same for lists of the same addresses, in whatever order.
pub fn list_hash(list: &[String]) -> u64 {
    let distinct: BTreeSet<&String> = list.iter().collect();
    distinct
        .into_iter()
        .flat_map(|address| address.bytes().chain([0]))
        .fold(0, |hash, byte| mix(hash ^ (u64::from(byte) + 1)))
}
