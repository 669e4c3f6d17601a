//! The network between nodes: sessions that keep the order of what is sent, and
//! that break at their two ends at different times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::task::Home;

/// Something on its way.
#[derive(Clone, Debug)]
pub(super) enum Load {
    /// Parcels between shards.
    Mail(Vec<u8>),
    /// A word of routes.
    Routes(Vec<u8>),
    /// How many shards the sender has, and what it leads.
    Homes(u16, Rc<[Home]>),
}

/// One end of a session.
#[derive(Debug)]
pub(super) struct End {
    /// The place of the node, and the life that it has.
    pub(super) at: usize,
    pub(super) member: u16,
    /// It was told that the session is there.
    pub(super) up: bool,
    /// What comes to it, and when.
    pub(super) queue: VecDeque<(u64, Load)>,
    /// When it notices the end.
    pub(super) down_at: Option<u64>,
    /// Since when nothing comes that should.
    pub(super) silent: Option<u64>,
    /// Its process is gone, or it has noticed.
    pub(super) over: bool,
}

/// A connection between two nodes.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) ends: [End; 2],
}

impl Session {
    pub(super) fn is_broken(&self) -> bool {
        self.ends.iter().any(|end| end.down_at.is_some())
    }

    /// Which end is at a place.
    pub(super) fn end_of(&self, at: usize) -> Option<usize> {
        self.ends.iter().position(|end| end.at == at)
    }

    /// It breaks: of what is on its way some is still read, and each end notices
    /// when it does.
    pub(super) fn sever(&mut self, left: [usize; 2], down_at: [u64; 2]) {
        if self.is_broken() {
            return;
        }
        for (n, end) in self.ends.iter_mut().enumerate() {
            let left = left[n].min(end.queue.len());
            end.queue.truncate(left);
            end.down_at = Some(down_at[n]);
        }
    }
}

/// All sessions, and what is cut.
#[derive(Debug, Default)]
pub(super) struct Net {
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) next: u64,
    /// Ways that nothing takes, from and to.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Milliseconds that a load is under way at most.
    pub(super) late: usize,
}

impl Net {
    pub(super) fn open(&mut self, ends: [(usize, u16); 2]) -> u64 {
        self.next += 1;
        let end = |(at, member)| End {
            at,
            member,
            up: false,
            queue: VecDeque::new(),
            down_at: None,
            silent: None,
            over: false,
        };
        self.sessions.insert(self.next, Session { ends: ends.map(end) });
        self.next
    }

    /// Whether two places have a session that is not over at both ends.
    pub(super) fn between(&self, a: usize, b: usize) -> Option<u64> {
        let of = |session: &Session| session.end_of(a).is_some() && session.end_of(b).is_some();
        self.sessions.iter().find(|(_, session)| of(session)).map(|(id, _)| *id)
    }

    /// Sends over a session; one that is broken loses it.
    pub(super) fn send(&mut self, id: u64, from: usize, load: Load, due: u64) {
        let Some(session) = self.sessions.get_mut(&id).filter(|s| !s.is_broken()) else { return };
        let Some(own) = session.end_of(from) else { return };
        let end = &mut session.ends[1 - own];
        let due = end.queue.back().map_or(due, |(last, _)| due.max(*last));
        end.queue.push_back((due, load));
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut.contains(&(from, to))
    }
}
