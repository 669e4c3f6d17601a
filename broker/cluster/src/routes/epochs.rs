//! What of the routes of others still holds.
//!
//! The routes themselves stand in the core's index alone, each with the epoch
//! under which its authority said it last. When an authority begins to say
//! everything anew, its epoch grows; when it is done, or is gone, what has an
//! older one is void at once, however much it is. The shell drops it in walks
//! over the index, a little at a time.

use std::collections::BTreeMap;

use super::Authority;

/// Epochs of an authority between two whole walks: an epoch is a u16.
const EPOCHS_UNSWEPT_MAX: u16 = 60_000;
/// Between the first epochs of two authorities: a node's number may be given to
/// another life, and what is left of the first is not that one's.
const EPOCHS_APART: u16 = 4_099;

#[derive(Clone, Debug, Default)]
pub(super) struct Epochs {
    spans: BTreeMap<Authority, Span>,
    /// The first epoch of the next authority.
    next: u16,
    /// Something may be void in the index.
    void: bool,
    /// A walk is under way, and whether something became void since it began.
    walking: bool,
    void_again: bool,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    /// What is valid.
    oldest: u16,
    /// What is said.
    newest: u16,
    /// Epochs since the last whole walk.
    unswept: u16,
    /// Forgotten once nothing of it is left.
    gone: bool,
}

impl Epochs {
    fn span(&mut self, authority: Authority) -> &mut Span {
        let next = &mut self.next;
        let span = self.spans.entry(authority).or_insert_with(|| {
            let first = *next;
            *next = first.wrapping_add(EPOCHS_APART);
            Span { oldest: first, newest: first, unswept: 0, gone: false }
        });
        span.gone = false;
        span
    }

    /// The epoch of what the authority says now.
    pub(super) fn newest(&mut self, authority: Authority) -> u16 {
        self.span(authority).newest
    }

    /// Whether what was said under an epoch holds.
    pub(super) fn is_valid(&self, authority: Authority, epoch: u16) -> bool {
        self.spans.get(&authority).is_some_and(|span| span.is_valid(epoch))
    }

    /// The authority begins to say everything anew. What it said stays valid.
    pub(super) fn begin(&mut self, authority: Authority) {
        let span = self.span(authority);
        // One that begins and never completes is covered by nothing. Under the
        // same epoch, what it does not say again stays for longer, and no more.
        if span.unswept < EPOCHS_UNSWEPT_MAX {
            span.newest = span.newest.wrapping_add(1);
            span.unswept += 1;
        }
    }

    /// It has said everything: what it said before and not again is void.
    pub(super) fn complete(&mut self, authority: Authority) {
        let Some(span) = self.spans.get_mut(&authority) else { return };
        span.oldest = span.newest;
        self.became_void();
    }

    /// The authority is gone with everything it said.
    pub(super) fn gone(&mut self, authority: Authority) {
        let Some(span) = self.spans.get_mut(&authority) else { return };
        span.newest = span.newest.wrapping_add(1);
        span.oldest = span.newest;
        span.gone = true;
        self.became_void();
    }

    fn became_void(&mut self) {
        // The walk that is under way may have passed some of it already.
        self.void_again |= self.walking;
        self.void = true;
    }

    /// Whether something may be void.
    pub(super) fn is_void(&self) -> bool {
        self.void
    }

    /// Whether a step of a walk is due, which begins with it.
    pub(super) fn walk(&mut self) -> bool {
        self.walking = self.void;
        self.void
    }

    /// A whole walk has dropped what was void when it began.
    pub(super) fn walked(&mut self) {
        self.walking = false;
        self.void = std::mem::take(&mut self.void_again);
        if self.void {
            return;
        }
        self.spans.retain(|_, span| {
            span.unswept = span.newest.wrapping_sub(span.oldest);
            !span.gone
        });
    }
}

impl Span {
    fn is_valid(self, epoch: u16) -> bool {
        !self.gone && self.newest.wrapping_sub(epoch) <= self.newest.wrapping_sub(self.oldest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::ids::{Incarnation, Life, NodeId, PartitionId};
    use crate::seeded::Seeded;

    fn life(id: u64) -> Life {
        Life { node: NodeId(id), incarnation: Incarnation(1) }
    }

    #[test]
    fn what_random_words_leave_valid_is_what_the_plain_rule_says() {
        for seed in 0..60 {
            let mut random = Seeded::new(seed);
            let mut epochs = Epochs::default();
            let mut kept: BTreeMap<(Authority, u64), u16> = BTreeMap::new();
            let mut left: Vec<(Authority, u64)> = Vec::new();
            let mut walking = false;
            // Valid ones, and by authority those that were said since it began anew.
            let mut model: BTreeMap<Authority, BTreeSet<u64>> = BTreeMap::new();
            let mut anew: BTreeMap<Authority, BTreeSet<u64>> = BTreeMap::new();
            for _ in 0..1_500 {
                let authority = match random.below(5) {
                    n @ 0..3 => Authority::Partition(PartitionId(n as u16)),
                    n => Authority::Node(life(n)),
                };
                let filter = random.below(8);
                match random.below(14) {
                    0..=5 => {
                        kept.insert((authority, filter), epochs.newest(authority));
                        model.entry(authority).or_default().insert(filter);
                        if let Some(anew) = anew.get_mut(&authority) {
                            anew.insert(filter);
                        }
                    }
                    6..=8 => {
                        kept.remove(&(authority, filter));
                        model.entry(authority).or_default().remove(&filter);
                        if let Some(anew) = anew.get_mut(&authority) {
                            anew.remove(&filter);
                        }
                    }
                    9 => {
                        epochs.begin(authority);
                        anew.insert(authority, BTreeSet::new());
                    }
                    10 => {
                        if let Some(said) = anew.remove(&authority) {
                            epochs.complete(authority);
                            model.insert(authority, said);
                        }
                    }
                    11 if random.chance(20) => {
                        epochs.gone(authority);
                        model.remove(&authority);
                        anew.remove(&authority);
                    }
                    _ => {
                        if !walking && epochs.walk() {
                            walking = true;
                            left = kept.keys().copied().collect();
                        }
                        for key in left.split_off(left.len().saturating_sub(5)) {
                            if kept.get(&key).is_some_and(|epoch| !epochs.is_valid(key.0, *epoch)) {
                                kept.remove(&key);
                            }
                        }
                        if walking && left.is_empty() {
                            walking = false;
                            epochs.walked();
                        }
                    }
                }
                let valid = kept.iter().filter(|((who, _), epoch)| epochs.is_valid(*who, **epoch));
                let valid: BTreeSet<_> = valid.map(|(key, _)| *key).collect();
                let expected =
                    model.iter().flat_map(|(who, has)| has.iter().map(|one| (*who, *one)));
                assert_eq!(valid, expected.collect(), "seed {seed}");
            }
            model.keys().for_each(|authority| epochs.gone(*authority));
            for _ in 0..2 {
                if epochs.walk() {
                    kept.retain(|(who, _), epoch| epochs.is_valid(*who, *epoch));
                    epochs.walked();
                }
            }
            assert!(kept.is_empty() && !epochs.is_void(), "seed {seed}: something is left");
        }
    }

    #[test]
    fn one_that_begins_and_never_completes_loses_nothing() {
        let mut epochs = Epochs::default();
        let who = Authority::Partition(PartitionId(0));
        let first = epochs.newest(who);
        for _ in 0..200_000 {
            epochs.begin(who);
            assert!(epochs.is_valid(who, first));
        }
        let newest = epochs.newest(who);
        epochs.complete(who);
        assert!(!epochs.is_valid(who, first) && epochs.is_valid(who, newest));
    }
}
