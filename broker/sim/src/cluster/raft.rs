//! A model of the Raft group of one partition: terms, logs that survive as far as
//! they were synced, commits by a majority in the leader's own term, tails that
//! are cut off, snapshots. A call to another replica and its answer are one step;
//! when, and whether, it comes is for the world to say.

use std::rc::Rc;

/// An entry's payload; shared by the replicas.
pub(super) type Payload = Rc<[u8]>;

/// An entry of a log.
#[derive(Clone, Debug)]
struct Entry {
    term: u64,
    /// None: the first of a leader's term.
    payload: Option<Payload>,
}

/// What happens at a replica next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Its state is this.
    Install(Payload),
    /// An entry is committed.
    Apply(Payload),
}

/// One replica. Entries are counted from 1.
#[derive(Clone, Debug, Default)]
struct Replica {
    term: u64,
    /// Entries in front of the log, and the term of the last of them.
    base: usize,
    base_term: u64,
    image: Option<Payload>,
    entries: Vec<Entry>,
    /// What a power cut leaves at least.
    durable: usize,
    /// What it says that it keeps.
    flushed: usize,
    commit: usize,
    applied: usize,
    /// The image has to be given to the machine first.
    install: bool,
    leading: bool,
    /// The last term whose leader it has heard of, which it notes with its vote.
    heard: u64,
    /// By replica, while it leads.
    matched: Vec<usize>,
}

impl Replica {
    fn last(&self) -> usize {
        self.base + self.entries.len()
    }

    fn term_at(&self, index: usize) -> Option<u64> {
        match index.checked_sub(self.base)? {
            0 => Some(self.base_term),
            n => self.entries.get(n - 1).map(|entry| entry.term),
        }
    }

    fn last_term(&self) -> u64 {
        self.term_at(self.last()).unwrap_or(0)
    }

    fn flush(&mut self) {
        self.durable = self.last();
        self.flushed = self.last();
    }

    /// Leads no more; the machine begins anew.
    fn rewind(&mut self) {
        self.leading = false;
        self.applied = self.base;
        self.install = self.base > 0;
        self.commit = self.commit.clamp(self.base, self.last());
    }
}

/// The group of a partition.
#[derive(Debug)]
pub(super) struct Group {
    replicas: Vec<Replica>,
    voters: Vec<usize>,
    /// A voter whose disk was lost: it is counted and never heard of again.
    dead: Option<usize>,
    /// A vote is said to be kept with all that was written before it, and is
    /// kept elsewhere.
    votes_outside: bool,
    /// When a leader was last seen to reach a majority.
    pub(super) calm_at: u64,
    /// The next election, after that.
    pub(super) patience: u64,
    /// Something has happened that somebody may have to look at.
    pub(super) hot: bool,
}

impl Group {
    pub(super) fn new(nodes: usize, voters: Vec<usize>, votes_outside: bool) -> Group {
        let replicas = vec![Replica::default(); nodes];
        Group { replicas, voters, dead: None, votes_outside, calm_at: 0, patience: 600, hot: true }
    }

    pub(super) fn voters(&self) -> &[usize] {
        &self.voters
    }

    fn may_vote(&self, at: usize) -> bool {
        self.voters.contains(&at) && self.dead != Some(at)
    }

    fn majority(&self, n: usize) -> bool {
        2 * n > self.voters.len()
    }

    /// The term in which it leads, and has applied the first entry of.
    pub(super) fn leads(&self, at: usize) -> Option<u64> {
        let replica = &self.replicas[at];
        let own = replica.leading
            && !replica.install
            && replica.term_at(replica.applied) == Some(replica.term);
        own.then_some(replica.term)
    }

    /// A replica, for one who looks for a fault.
    pub(super) fn state(&self, at: usize) -> String {
        let Replica { term, base, durable, flushed, commit, applied, leading, .. } =
            &self.replicas[at];
        let last = self.replicas[at].last();
        format!(
            "replica {at} of {:?} (dead {:?}): term {term}, base {base}, last {last}, durable \
             {durable}, flushed {flushed}, commit {commit}, applied {applied}, leading {leading}, \
             hot {}",
            self.voters, self.dead, self.hot
        )
    }

    /// Whether it believes that it leads.
    pub(super) fn is_leading(&self, at: usize) -> bool {
        self.replicas[at].leading
    }

    /// Whether those whom it reaches say that it leads (ReadIndex).
    pub(super) fn proves(&self, at: usize, reaches: impl Fn(usize) -> bool) -> bool {
        let term = self.replicas[at].term;
        let says = |&&voter: &&usize| {
            voter == at
                || (self.may_vote(voter) && reaches(voter) && self.replicas[voter].term <= term)
        };
        let all = self.voters.iter().all(|&v| !reaches(v) || self.replicas[v].term <= term);
        all && self.leads(at).is_some() && self.majority(self.voters.iter().filter(says).count())
    }

    /// The newest that believes so.
    pub(super) fn leader(&self) -> Option<usize> {
        let leading = (0..self.replicas.len()).filter(|&at| self.replicas[at].leading);
        leading.max_by_key(|&at| self.replicas[at].term)
    }

    pub(super) fn term(&self, at: usize) -> u64 {
        self.replicas[at].term
    }

    pub(super) fn applied(&self, at: usize) -> usize {
        self.replicas[at].applied
    }

    /// Whether not all replicas are where the leader is.
    pub(super) fn is_busy(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let own = &self.replicas[leader];
        let (last, commit, term) = (own.last(), own.commit, own.term);
        commit != last
            || self.voters.iter().any(|&at| {
                let replica = &self.replicas[at];
                replica.last() != last
                    || replica.commit != commit
                    || replica.term != term
                    || replica.flushed != replica.last()
                    || replica.applied != replica.commit
                    || replica.install
                    || (replica.leading && at != leader)
            })
    }

    /// Appends to a leader's log; none: it does not lead.
    pub(super) fn propose(&mut self, at: usize, payload: Payload) -> Option<usize> {
        self.hot = true;
        let replica = &mut self.replicas[at];
        if !replica.leading {
            return None;
        }
        replica.entries.push(Entry { term: replica.term, payload: Some(payload) });
        Some(replica.last())
    }

    /// The disk keeps what was written.
    pub(super) fn flush(&mut self, at: usize) {
        self.replicas[at].flush();
    }

    /// A leader tells a follower what it has.
    pub(super) fn replicate(&mut self, from: usize, to: usize, most: usize) {
        if from == to || !self.replicas[from].leading || self.dead == Some(to) {
            return;
        }
        if self.replicas[to].term > self.replicas[from].term {
            self.replicas[from].term = self.replicas[to].term;
            self.replicas[from].leading = false;
            return;
        }
        let own = &self.replicas[from];
        let other = &self.replicas[to];
        // The last place where both have the same.
        let mut same = own.last().min(other.last());
        let lowest = own.base.max(other.base);
        while same > lowest && own.term_at(same) != other.term_at(same) {
            same -= 1;
        }
        let term = own.term;
        if own.term_at(same).is_none() || own.term_at(same) != other.term_at(same) {
            let (base, base_term, image) = (own.base, own.base_term, own.image.clone());
            assert!(other.commit < base, "what is in an image is committed everywhere");
            self.replicas[to] = Replica {
                base,
                base_term,
                image,
                durable: base,
                flushed: base,
                commit: base,
                applied: base,
                install: true,
                ..Replica::default()
            };
            same = base;
        }
        self.replicas[to].term = term;
        self.replicas[to].leading = false;
        let own = &self.replicas[from];
        let news: Vec<Entry> = own.entries[same - own.base..].iter().take(most).cloned().collect();
        let commit = own.commit;
        let states = format!("{} and {}", self.state(from), self.state(to));
        let follower = &mut self.replicas[to];
        let beyond = follower.last() > same
            && news.first().is_some_and(|next| follower.term_at(same + 1) != Some(next.term));
        if beyond {
            assert!(follower.commit <= same, "a committed entry is cut off after {same}: {states}");
            follower.entries.truncate(same - follower.base);
            follower.durable = follower.durable.min(same);
            follower.flushed = follower.flushed.min(same);
        }
        if follower.last() == same {
            follower.entries.extend(news);
        }
        // That this leader's vote counts is noted, and synced.
        if std::mem::replace(&mut follower.heard, term) != term && self.votes_outside {
            follower.flushed = follower.last();
        }
        // What is behind its last common entry may be another leader's.
        let (own, other) = (&self.replicas[from], &self.replicas[to]);
        let whole =
            other.last() <= own.last() && own.term_at(other.last()) == Some(other.last_term());
        let agreed = if whole { other.last() } else { same };
        let follower = &mut self.replicas[to];
        follower.commit = follower.commit.max(commit.min(agreed));
        let matched = follower.flushed.min(agreed);
        self.replicas[from].matched[to] = matched;
    }

    /// A leader counts; whether more is committed.
    pub(super) fn count(&mut self, at: usize) -> bool {
        let replica = &self.replicas[at];
        if !replica.leading {
            return false;
        }
        let mut matched: Vec<usize> = self
            .voters
            .iter()
            .map(|&voter| if voter == at { replica.flushed } else { replica.matched[voter] })
            .collect();
        matched.sort_unstable();
        let reached = matched[(matched.len() - 1) / 2];
        let own = replica.term_at(reached) == Some(replica.term);
        if own && reached > replica.commit {
            self.replicas[at].commit = reached;
            return true;
        }
        false
    }

    /// What the machine of a replica has to do next.
    pub(super) fn next(&mut self, at: usize) -> Option<Step> {
        let replica = &mut self.replicas[at];
        if std::mem::take(&mut replica.install) {
            replica.applied = replica.base;
            return replica.image.clone().map(Step::Install);
        }
        while replica.applied < replica.commit {
            replica.applied += 1;
            let entry = &replica.entries[replica.applied - replica.base - 1];
            if let Some(payload) = &entry.payload {
                return Some(Step::Apply(Rc::clone(payload)));
            }
        }
        None
    }

    /// Somebody wants to lead and asks those that it reaches; whether it does.
    pub(super) fn elect(&mut self, at: usize, reaches: impl Fn(usize) -> bool) -> bool {
        self.hot = true;
        if !self.may_vote(at) {
            return false;
        }
        let term = self.replicas[at].term + 1;
        let own = (self.replicas[at].last_term(), self.replicas[at].last());
        let asked: Vec<usize> = self.voters.iter().copied().filter(|&v| self.may_vote(v)).collect();
        let asked: Vec<usize> = asked.into_iter().filter(|&v| v == at || reaches(v)).collect();
        let grants =
            |replica: &Replica| replica.term < term && (replica.last_term(), replica.last()) <= own;
        // It asks first whether it would be elected.
        let granted = asked.iter().filter(|&&v| grants(&self.replicas[v])).count();
        let newest = asked.iter().map(|&v| self.replicas[v].term).max().unwrap_or(0);
        if !self.majority(granted) {
            let replica = &mut self.replicas[at];
            if newest > replica.term {
                // One that still leads in an older term does so no longer.
                (replica.term, replica.leading) = (newest, false);
            }
            return false;
        }
        for &voter in &asked {
            if !grants(&self.replicas[voter]) {
                continue;
            }
            let outside = self.votes_outside;
            let replica = &mut self.replicas[voter];
            replica.term = term;
            replica.leading = false;
            // The vote lies behind what was written before, and is synced.
            match outside {
                true => replica.flushed = replica.last(),
                false => replica.flush(),
            }
        }
        let nodes = self.replicas.len();
        let replica = &mut self.replicas[at];
        replica.leading = true;
        replica.matched = vec![0; nodes];
        replica.entries.push(Entry { term, payload: None });
        if self.votes_outside {
            replica.flushed = replica.last();
        }
        true
    }

    /// The process ends; of what was not synced the disk has so much.
    pub(super) fn crash(&mut self, at: usize, keep: impl FnOnce(usize) -> usize) {
        self.hot = true;
        let replica = &mut self.replicas[at];
        let unsynced = replica.last() - replica.durable.min(replica.last());
        let left = replica.durable.min(replica.last()) + keep(unsynced).min(unsynced);
        replica.entries.truncate(left - replica.base);
        replica.flush();
        replica.rewind();
    }

    /// A replica is opened, after its process ended or its leadership.
    pub(super) fn reopen(&mut self, at: usize, forget: bool) {
        self.hot = true;
        let replica = &mut self.replicas[at];
        if forget {
            // How far it was committed was not synced.
            replica.commit = replica.base;
        }
        replica.rewind();
    }

    /// The state as of an entry takes the place of all up to it.
    pub(super) fn snapshot(&mut self, at: usize, index: usize, image: Payload) {
        let replica = &mut self.replicas[at];
        if index <= replica.base || index > replica.applied {
            return;
        }
        let Some(term) = replica.term_at(index) else { return };
        replica.entries.drain(..index - replica.base);
        (replica.base, replica.base_term, replica.image) = (index, term, Some(image));
        replica.durable = replica.durable.max(index);
        replica.flushed = replica.flushed.max(index);
    }

    /// A disk is lost. What comes back is another node, which votes when it has
    /// been taken in, or (`votes`) takes itself for the one that it was.
    pub(super) fn wipe(&mut self, at: usize, votes: bool) {
        self.hot = true;
        self.replicas[at] = Replica::default();
        if self.voters.contains(&at) && !votes {
            self.dead = Some(at);
        }
    }

    /// Whether a disk may be lost and the partition goes on.
    pub(super) fn may_wipe(&self, at: usize) -> bool {
        self.dead.is_none() || self.dead == Some(at) || !self.voters.contains(&at)
    }

    /// Whether a voter was lost and not replaced yet.
    pub(super) fn has_dead(&self) -> bool {
        self.dead.is_some()
    }

    /// A leader takes the new node at the dead one's place in, as soon as all who
    /// will vote have everything; whether it did.
    pub(super) fn admit(&mut self) -> bool {
        let Some(leader) = self.dead.and_then(|_| self.leader()) else { return false };
        let all = self.replicas[leader].last();
        let own = &self.replicas[leader];
        let same = |at: usize| {
            let other = &self.replicas[at];
            other.last() == all
                && other.flushed == all
                && other.term == own.term
                && other.last_term() == own.last_term()
        };
        if own.commit != all || own.flushed != all || !self.voters.iter().all(|&v| same(v)) {
            return false;
        }
        self.dead = None;
        true
    }

    /// A leader gives the successor of a dead voter what it has; it does not
    /// vote yet.
    pub(super) fn teach(&mut self, from: usize, most: usize) {
        let Some(dead) = self.dead.take() else { return };
        self.replicate(from, dead, most);
        if let Some(matched) = self.replicas[from].matched.get_mut(dead) {
            *matched = 0;
        }
        self.dead = Some(dead);
    }
}
