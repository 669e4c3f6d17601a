//! What was acknowledged, what was applied, and what is wrong with either.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tidegate_consensus::{CallKind, GroupId, LogId};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is held")
}

/// A proposal that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Acked {
    pub(crate) group: GroupId,
    pub(crate) payload: Bytes,
    /// Steps of the simulation at which it was made, and answered.
    pub(crate) made: u64,
    pub(crate) answered: u64,
    /// How many entries the state machine had then, as it said itself.
    pub(crate) place: usize,
}

/// How often something happened: a run in which nothing did shows nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Happened(pub(crate) BTreeMap<String, u64>);

#[derive(Default)]
struct State {
    step: u64,
    trace: u64,
    fault: Option<String>,
    /// Term and payload of each entry that any replica ever applied.
    applied: BTreeMap<(GroupId, u64), (u64, Bytes)>,
    acked: Vec<Acked>,
    happened: BTreeMap<String, u64>,
    /// Calls of a snapshot's pieces that are not answered, by group, leader and
    /// receiver: since which step, and how many.
    pieces: BTreeMap<(GroupId, u64, u64), (u64, u32)>,
}

/// Shared by all nodes of a run.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<State>>);

impl Ledger {
    pub(crate) fn set_step(&self, step: u64) {
        lock(&self.0).step = step;
    }

    pub(crate) fn step(&self) -> u64 {
        lock(&self.0).step
    }

    /// Part of what tells one run from another.
    pub(crate) fn trace(&self, what: &str) {
        let mut state = lock(&self.0);
        let step = state.step;
        for byte in what.bytes().chain(step.to_le_bytes()) {
            state.trace = (state.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if std::env::var_os("TIDEGATE_TURMOIL_TRACE").is_some() {
            eprintln!("{step:>6} {what}");
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        lock(&self.0).trace
    }

    pub(crate) fn count(&self, what: &str) {
        *lock(&self.0).happened.entry(what.to_owned()).or_default() += 1;
    }

    pub(crate) fn happened(&self) -> Happened {
        Happened(lock(&self.0).happened.clone())
    }

    /// The first fault is kept; the run ends with the step.
    pub(crate) fn fault(&self, what: String) {
        let mut state = lock(&self.0);
        let step = state.step;
        state.fault.get_or_insert_with(|| format!("step {step}: {what}"));
    }

    pub(crate) fn found(&self) -> Option<String> {
        lock(&self.0).fault.clone()
    }

    /// A replica has applied an entry, or got it with a snapshot.
    pub(crate) fn agrees(&self, node: u64, group: GroupId, log: LogId, payload: &Bytes) {
        let here = (log.term, payload.clone());
        let first = {
            let mut state = lock(&self.0);
            state.applied.entry((group, log.index)).or_insert_with(|| here.clone()).clone()
        };
        if first != here {
            self.fault(format!("node {node} has something else at {log} of group {group}"));
        }
    }

    pub(crate) fn acked(&self, acked: Acked) {
        lock(&self.0).acked.push(acked);
    }

    pub(crate) fn all_acked(&self) -> Vec<Acked> {
        lock(&self.0).acked.clone()
    }

    /// A call between nodes begins; `false`: it has ended.
    pub(crate) fn calls(&self, kind: CallKind, key: (GroupId, u64, u64), begins: bool) {
        let mut state = lock(&self.0);
        let step = state.step;
        if begins {
            *state.happened.entry(format!("{kind:?}")).or_default() += 1;
        }
        if kind != CallKind::SnapshotChunk {
            return;
        }
        if begins {
            state.pieces.entry(key).or_insert((step, 0)).1 += 1;
        } else if let Some((_, count)) = state.pieces.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                state.pieces.remove(&key);
            }
        }
    }

    /// A replica has a snapshot: what is still under way of it is the answer.
    pub(crate) fn installed(&self, node: u64, group: GroupId) {
        lock(&self.0).pieces.retain(|(of, _, to), _| (*of, *to) != (group, node));
    }

    /// A node is gone, and so are its calls.
    pub(crate) fn gone(&self, node: u64) {
        lock(&self.0).pieces.retain(|(_, from, _), _| *from != node);
    }

    /// Whether a piece of a snapshot has been on its way since before that step.
    pub(crate) fn installs(&self, key: (GroupId, u64, u64), before: u64) -> bool {
        lock(&self.0).pieces.get(&key).is_some_and(|(since, _)| *since < before)
    }
}

/// What must hold of the entries of a group in the end, where all was well again.
pub(crate) fn judge(group: GroupId, entries: &[Bytes], acked: &[Acked]) -> Result<(), String> {
    let mut places: BTreeMap<&Bytes, usize> = BTreeMap::new();
    for (place, payload) in entries.iter().enumerate() {
        if let Some(before) = places.insert(payload, place) {
            return Err(format!("group {group}: the same entry at {before} and {place}"));
        }
    }
    let mut found: Vec<(usize, &Acked)> = Vec::new();
    for acked in acked.iter().filter(|acked| acked.group == group) {
        let name = String::from_utf8_lossy(&acked.payload[..acked.payload.len().min(16)]);
        match places.get(&acked.payload) {
            None => return Err(format!("group {group}: {name} was acknowledged and is lost")),
            Some(place) if place + 1 != acked.place => {
                let (said, place) = (acked.place, place + 1);
                return Err(format!("group {group}: {name} was said to be {said}, and is {place}"));
            }
            Some(place) => found.push((*place, acked)),
        }
    }
    // What was made after the answer to another comes behind it.
    found.sort_by_key(|(place, _)| *place);
    let mut answered = u64::MAX;
    for (_, acked) in found.iter().rev() {
        if answered < acked.made {
            return Err(format!("group {group}: an entry is before one that was answered earlier"));
        }
        answered = answered.min(acked.answered);
    }
    Ok(())
}
