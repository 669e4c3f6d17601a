//! A model of the cluster's metadata: which lives of nodes there are. One log,
//! which each node sees late and at its own time.

use tidegate_cluster::ids::{Incarnation, Life, NodeId};

/// Something that the metadata says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fact {
    /// A process has become a member; the earlier life of its node is over.
    Joined(Known),
    /// A member is no more.
    Gone(u16),
    /// A member has clients from now on.
    Serves(u16),
}

/// A member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Known {
    pub(super) member: u16,
    /// Where it runs.
    pub(super) at: usize,
    pub(super) life: Life,
    pub(super) serves: bool,
}

/// What all agree on.
#[derive(Debug, Default)]
pub(super) struct Meta {
    pub(super) facts: Vec<Fact>,
    /// All of them taken.
    pub(super) now: View,
    members: u16,
}

/// What one node has seen of it.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) seen: usize,
    pub(super) members: Vec<Known>,
}

impl View {
    pub(super) fn get(&self, member: u16) -> Option<&Known> {
        self.members.iter().find(|known| known.member == member)
    }

    /// Takes one more; who is gone by it.
    pub(super) fn take(&mut self, fact: Fact) -> Vec<Known> {
        self.seen += 1;
        let over = |known: &Known| match fact {
            Fact::Joined(new) => new.at == known.at,
            Fact::Gone(member) => known.member == member,
            Fact::Serves(_) => false,
        };
        let (gone, stay) = self.members.iter().partition(|known| over(known));
        self.members = stay;
        match fact {
            Fact::Joined(new) => self.members.push(new),
            Fact::Serves(member) => {
                for known in self.members.iter_mut().filter(|known| known.member == member) {
                    known.serves = true;
                }
            }
            Fact::Gone(_) => {}
        }
        gone
    }
}

impl Meta {
    pub(super) fn say(&mut self, fact: Fact) {
        self.facts.push(fact);
        self.now.take(fact);
    }

    /// A process at this place becomes a member.
    pub(super) fn join(&mut self, at: usize) -> Known {
        self.members += 1;
        let life =
            Life { node: NodeId(at as u64 + 1), incarnation: Incarnation(u64::from(self.members)) };
        let known = Known { member: self.members, at, life, serves: false };
        self.say(Fact::Joined(known));
        known
    }
}
