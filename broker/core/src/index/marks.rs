//! What other nodes and partitions have, and when they said it.
//!
//! The index is the only place that holds the filters of others. A subscription
//! of a [`Remote`] carries, where a session's has its identifier, the epoch under
//! which it was said last. Who follows the others' words (`Exchange` of the
//! cluster crate) knows which epochs still hold; what has another one is dropped
//! in a walk over all filters, a few at a time.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tidegate_codec::Filter;

use super::place::{self, EXACT, TRIES};
use super::subscriber::Subscriber;
use super::subscriptions::{Change, Subscriptions};
use super::trie::{self, Node};
use super::{Index, Member, Remote, has_wildcard};
use crate::ids::SessionKey;
use crate::mail::is_system;

/// When a subscription of a remote was said. It takes the place of a subscription
/// identifier, so 28 bits are all there is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark(pub(super) u32);

impl Mark {
    /// The lower 16 bits are an epoch.
    const SAID: u32 = 1 << 16;
    /// A shard of this node led the partition until now, and who follows the
    /// others has not heard of that: it stays, whatever was said.
    const KEPT: u32 = 1 << 17;

    fn said(epoch: u16) -> Mark {
        Mark(Mark::SAID | u32::from(epoch))
    }

    fn epoch(self) -> Option<u16> {
        (self.0 & Mark::SAID != 0).then_some(self.0 as u16)
    }

    fn is_kept(self) -> bool {
        self.0 & Mark::KEPT != 0
    }

    fn is_void(self, is_void: impl FnOnce(u16) -> bool) -> bool {
        !self.is_kept() && self.epoch().is_none_or(is_void)
    }
}

/// Where a walk over all that remotes have goes on.
#[derive(Default)]
pub struct RemoteWalk {
    /// Exact partitions, then tries.
    part: usize,
    /// Entries of the partition from this one on were looked at.
    below: Option<usize>,
    trie: Option<trie::Walk>,
}

impl fmt::Debug for RemoteWalk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteWalk").field("part", &self.part).finish_non_exhaustive()
    }
}

/// Something that was found in a walk: a group's name, a filter, whose it is.
type Found = (Option<Arc<str>>, Arc<str>, SessionKey, Mark);

impl Index {
    /// Another node, or a partition that is led elsewhere, has a filter, as was
    /// said under this epoch; none: it has it no longer. The filter has
    /// `$share/NAME/` in front if it is a group's. Returns whether that is new;
    /// what is no filter is nothing.
    pub fn set_remote(&self, remote: Remote, text: &str, epoch: Option<u16>) -> bool {
        self.mark_text(remote, text, |old| {
            let kept = old.map_or(0, |mark| mark.0 & Mark::KEPT);
            epoch.map(|epoch| Mark(Mark::said(epoch).0 | kept))
        })
    }

    /// A partition that was led here until now has a filter. It stays until
    /// [`settle_remote`](Index::settle_remote), whatever is said of it meanwhile
    /// but that it has it no longer.
    pub(crate) fn keep_remote(&self, remote: Remote, text: &str) {
        self.mark_text(remote, text, |old| Some(Mark(old.map_or(0, |mark| mark.0) | Mark::KEPT)));
    }

    /// What a shard of this node said of a partition's filter when it led it no
    /// longer is known to who follows the others. With an epoch it stays under
    /// that one; without, by what was said of it, unless that is void.
    pub fn settle_remote(
        &self,
        remote: Remote,
        text: &str,
        epoch: Option<u16>,
        is_void: impl FnOnce(u16) -> bool,
    ) {
        self.mark_text(remote, text, |old| {
            let said = old.map(|mark| Mark(mark.0 & !Mark::KEPT));
            epoch.map(Mark::said).or_else(|| said.filter(|mark| !mark.is_void(is_void)))
        });
    }

    /// Filters of remotes, each counted for each remote that has it, and the
    /// bytes of their texts.
    pub fn remotes(&self) -> (usize, usize) {
        let [filters, bytes] = &self.remotes;
        (filters.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed))
    }

    /// Looks at about `most` filters and drops what is void of them. Says whether
    /// there is more to look at; if not, everything that was void when the walk
    /// began is gone, and `walk` is at the beginning again.
    pub fn sweep_remotes(
        &self,
        walk: &mut RemoteWalk,
        most: usize,
        is_void: impl Fn(Remote, u16) -> bool,
    ) -> bool {
        let mut left = most.max(1);
        let mut found: Vec<Found> = Vec::new();
        while left > 0 && walk.part < EXACT + TRIES {
            left = self.look(walk, left, |group, filter, session, mark| {
                let Some(remote) = Remote::of(session) else { return };
                if mark.is_void(|epoch| is_void(remote, epoch)) {
                    found.push((group.cloned(), Arc::clone(filter), session, mark));
                }
            });
            for (group, filter, session, seen) in found.drain(..) {
                // Unless it was said again since.
                let still = |mark: Option<Mark>| mark.filter(|mark| *mark != seen);
                self.mark(session, group.as_deref(), &filter, still);
            }
        }
        if walk.part < EXACT + TRIES {
            return true;
        }
        *walk = RemoteWalk::default();
        false
    }

    /// Looks at `most` filters of the walk's part at most; how many are left of that.
    fn look(
        &self,
        walk: &mut RemoteWalk,
        most: usize,
        mut visit: impl FnMut(Option<&Arc<str>>, &Arc<str>, SessionKey, Mark),
    ) -> usize {
        let mut left = most;
        let is_done = if walk.part < EXACT {
            let part = self.exact[walk.part].read().unwrap_or_else(PoisonError::into_inner);
            // From the end, where what is new is added, and what goes is replaced
            // by the last: nothing that was not looked at gets behind the walk.
            let end = walk.below.map_or(part.len(), |below| below.min(part.len()));
            let begin = end.saturating_sub(most);
            for (filter, subscriptions) in (begin..end).map(|index| part.entry(index)) {
                subscriptions.each_remote(|group, session, mark| {
                    visit(group, filter, session, mark);
                });
            }
            walk.below = Some(begin);
            left -= end - begin;
            begin == 0
        } else {
            let root = || self.tries[walk.part - EXACT].root.load_full();
            let trie = walk.trie.get_or_insert_with(|| trie::Walk::of(root()));
            let mut more = true;
            while left > 0 && more {
                left -= 1;
                more = trie.next(|filter, subscriptions| {
                    subscriptions.each_remote(|group, session, mark| {
                        visit(group, filter, session, mark);
                    });
                });
            }
            !more
        };
        if is_done {
            (walk.part, walk.below, walk.trie) = (walk.part + 1, None, None);
        }
        left.min(most - 1)
    }

    fn mark_text(
        &self,
        remote: Remote,
        text: &str,
        decide: impl FnOnce(Option<Mark>) -> Option<Mark>,
    ) -> bool {
        let Ok(filter) = Filter::parse(text) else { return false };
        if is_system(filter.filter()) {
            return false; // a node says that to its own clients alone
        }
        self.mark(remote.key(), filter.share(), filter.filter(), decide)
    }

    /// Sets or removes the subscription of a remote by what it was, in one step.
    /// Returns whether it came or went.
    fn mark(
        &self,
        session: SessionKey,
        group: Option<&str>,
        filter: &str,
        decide: impl FnOnce(Option<Mark>) -> Option<Mark>,
    ) -> bool {
        let mark = match has_wildcard(filter) {
            true => Index::mark_trie,
            false => Index::mark_exact,
        };
        let Some(came) = mark(self, session, group, filter, decide) else { return false };
        let [filters, bytes] = &self.remotes;
        for (counter, n) in [(&self.len, 1), (filters, 1), (bytes, filter.len())] {
            match came {
                true => counter.fetch_add(n, Ordering::Relaxed),
                false => counter.fetch_sub(n, Ordering::Relaxed),
            };
        }
        true
    }

    fn mark_exact(
        &self,
        session: SessionKey,
        group: Option<&str>,
        filter: &str,
        decide: impl FnOnce(Option<Mark>) -> Option<Mark>,
    ) -> Option<bool> {
        let hash = self.seed.hash(filter);
        let partition = place::partition(hash);
        let mut part = self.exact[partition].write().unwrap_or_else(PoisonError::into_inner);
        let subscriptions = part.find(hash, filter);
        let (new, came) = decided(subscriptions, group, session, decide)?;
        let text = group.map(|_| Arc::from(filter));
        part.apply(hash, filter, || Arc::from(filter), change(session, group, text.as_ref(), new));
        if came.is_some() {
            // Under the lock: nobody may see the change and the version before it.
            self.versions.partition_changed(partition);
        }
        came
    }

    fn mark_trie(
        &self,
        session: SessionKey,
        group: Option<&str>,
        filter: &str,
        decide: impl FnOnce(Option<Mark>) -> Option<Mark>,
    ) -> Option<bool> {
        let number = place::trie_of(&self.seed, filter);
        let trie = &self.tries[number];
        let writer = trie.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = trie.root.load_full();
        let subscriptions = before.as_deref().and_then(|root| root.find(&self.seed, filter));
        let (new, came) = decided(subscriptions, group, session, decide)?;
        let text: Arc<str> = filter.into();
        let mut root = before.as_deref().map_or_else(Node::root, Node::clone);
        root.apply(&self.seed, &text, change(session, group, Some(&text), new));
        trie.root.store((!root.is_empty()).then(|| Arc::new(root)));
        if came.is_some() {
            self.versions.trie_changed(number);
        }
        drop(writer);
        // What the new root no longer shares is freed here, after the lock.
        drop(before);
        came
    }
}

/// The mark that a remote gets in a list, and whether it comes or goes with that: under
/// another mark a route shows the same. None: the list need not be written.
fn decided(
    list: Option<&Subscriptions>,
    group: Option<&str>,
    session: SessionKey,
    decide: impl FnOnce(Option<Mark>) -> Option<Mark>,
) -> Option<(Option<Mark>, Option<bool>)> {
    let old = list.and_then(|list| list.mark(group, session));
    let new = decide(old);
    if old == new || list.is_some_and(|list| list.remark(group, session, new)) {
        return None;
    }
    Some((new, (old.is_some() != new.is_some()).then_some(new.is_some())))
}

/// What makes `new` of a remote's subscription.
fn change<'a>(
    session: SessionKey,
    group: Option<&'a str>,
    filter: Option<&'a Arc<str>>,
    new: Option<Mark>,
) -> Change<'a> {
    let options = Remote::OPTIONS;
    match (group.zip(filter), new) {
        (None, Some(Mark(subscription_id))) => {
            Change::Subscribe(Subscriber { session, options, subscription_id })
        }
        (None, None) => Change::Unsubscribe(session),
        (Some((group, filter)), Some(mark)) => {
            let member = Member::new(session, options, 0);
            member.mark.store(mark.0, Ordering::Relaxed);
            Change::Join { group, filter, member: Arc::new(member) }
        }
        (Some((group, _)), None) => Change::Leave { group, session },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PartitionId;

    const PARTITION: Remote = Remote::Partition(PartitionId(5));
    const TEXTS: [&str; 4] = ["a/b", "a/+", "$share/g/a/b", "$share/g/a/+"];

    fn swept(index: &Index, is_void: impl Fn(u16) -> bool) -> usize {
        let mut walk = RemoteWalk::default();
        while index.sweep_remotes(&mut walk, 7, |_, epoch| is_void(epoch)) {}
        index.remotes().0
    }

    #[test]
    fn what_a_shard_keeps_no_walk_drops_until_it_is_settled() {
        let index = Index::new(1);
        for text in TEXTS {
            index.keep_remote(PARTITION, text);
        }
        assert_eq!(swept(&index, |_| true), 4);
        for text in TEXTS {
            index.settle_remote(PARTITION, text, Some(3), |_| true);
        }
        assert_eq!(swept(&index, |epoch| epoch != 3), 4);
        assert_eq!(swept(&index, |epoch| epoch == 3), 0);
    }

    #[test]
    fn what_a_shard_keeps_and_no_other_leader_says_goes_when_it_is_settled() {
        let index = Index::new(1);
        for text in TEXTS {
            // Void, and not dropped yet; then the next leader says every second.
            index.set_remote(PARTITION, text, Some(1));
            index.keep_remote(PARTITION, text);
        }
        for text in [TEXTS[0], TEXTS[3]] {
            index.set_remote(PARTITION, text, Some(2));
        }
        assert_eq!(swept(&index, |epoch| epoch < 2), 4);
        for text in TEXTS {
            index.settle_remote(PARTITION, text, None, |epoch| epoch < 2);
        }
        assert_eq!(index.remotes(), (2, 6));
        for text in TEXTS {
            index.keep_remote(PARTITION, text);
            index.set_remote(PARTITION, text, None);
        }
        assert_eq!(index.remotes(), (0, 0), "a leader says that it has it no longer");
    }
}
