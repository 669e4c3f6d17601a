//! The routes of all other nodes and partitions.
//!
//! A target of a filter is 4 bytes: its authority and an epoch. When an
//! authority begins to say everything anew, its epoch grows; when it is done,
//! or is gone, what has an older one is void at once, however much it is, and
//! is swept a little at a time.

use std::collections::{BTreeMap, VecDeque};

use super::Authority;
use super::index::{FilterNo, Index};
use crate::limits::{FILTER_BYTES_MAX, ROUTES_MAX};

/// Bytes of all filters' texts; more is refused.
const TEXT_BYTES_MAX: usize = 3 << 30;
/// Epochs of an authority between two whole sweeps: an epoch is a u16.
const EPOCHS_UNSWEPT_MAX: u16 = 60_000;

/// Which authorities want which topics.
#[derive(Clone, Debug)]
pub struct Table {
    index: Index,
    /// By filter.
    targets: Vec<Targets>,
    /// Further targets of filters that have several.
    more: Vec<Vec<Target>>,
    more_free: Vec<u32>,
    slots: Vec<Slot>,
    by_authority: BTreeMap<Authority, u16>,
    version: u64,
    /// Where the sweep goes on, and whether something became void since it began.
    sweep_at: FilterNo,
    void: bool,
    void_again: bool,
    /// What came in and went out, if somebody keeps a copy of the table.
    told: Option<VecDeque<Told>>,
}

/// A target of a filter that the table has from now on, or has no longer. What
/// is void goes when it is swept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// Whose.
    pub authority: Authority,
    /// The filter.
    pub filter: Box<str>,
    /// Whether it came.
    pub added: bool,
}

/// The table has no room: what was to be added is not in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the table of routes is full")]
pub struct Full;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Target {
    slot: u16,
    epoch: u16,
}

#[derive(Clone, Copy, Debug)]
struct Targets {
    first: Option<Target>,
    more: u32,
}

const NO_MORE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Slot {
    authority: Authority,
    /// Free once nothing of it is left.
    gone: bool,
    /// What is valid.
    oldest: u16,
    /// What is written.
    newest: u16,
    /// Epochs since the last whole sweep.
    unswept: u16,
    free: bool,
}

impl Table {
    /// An empty one. The seed keeps foreign filters from choosing their places.
    pub fn new(seed: u64) -> Table {
        Table {
            index: Index::new(seed),
            targets: Vec::new(),
            more: Vec::new(),
            more_free: Vec::new(),
            slots: Vec::new(),
            by_authority: BTreeMap::new(),
            version: 0,
            sweep_at: 0,
            void: false,
            void_again: false,
            told: None,
        }
    }

    /// One that tells what changes in it, see [`Table::take_told`].
    pub fn telling(seed: u64) -> Table {
        Table { told: Some(VecDeque::new()), ..Table::new(seed) }
    }

    /// The oldest change that was not taken yet. To be taken until there is none
    /// after every batch and every sweep, which bounds what waits.
    pub fn take_told(&mut self) -> Option<Told> {
        self.told.as_mut()?.pop_front()
    }

    /// Whether nothing is void or untold any more.
    pub fn has_told_all(&self) -> bool {
        !self.void && self.told.as_ref().is_none_or(VecDeque::is_empty)
    }

    fn tell(&mut self, authority: Authority, filter: &str, added: bool) {
        if let Some(told) = &mut self.told {
            told.push_back(Told { authority, filter: filter.into(), added });
        }
    }

    /// Grows with every change that a match may show: what is cached of an
    /// earlier one is void.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Bytes of memory, by the capacities of what it is made of.
    pub fn memory_bytes(&self) -> usize {
        let lists: usize = self.more.iter().map(|list| list.capacity() * size_of::<Target>()).sum();
        self.index.memory_bytes()
            + self.targets.capacity() * size_of::<Targets>()
            + self.more.capacity() * size_of::<Vec<Target>>()
            + self.more_free.capacity() * size_of::<u32>()
            + lists
    }

    /// Distinct filters.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who wants a topic: each authority once, in order. `targets` is emptied first.
    pub fn matches(&self, topic: &str, targets: &mut Vec<Authority>) {
        targets.clear();
        self.index.matches(topic, |filter| {
            self.each(filter, |target| {
                let slot = self.slots[usize::from(target.slot)];
                if slot.is_valid(target.epoch) {
                    targets.push(slot.authority);
                }
            })
        });
        targets.sort_unstable();
        targets.dedup();
    }

    /// Whether an authority has a filter.
    pub fn has(&self, authority: Authority, filter: &str) -> bool {
        let Some(slot) = self.by_authority.get(&authority) else { return false };
        let Some(filter) = self.index.find(filter) else { return false };
        let mut has = false;
        self.each(filter, |target| {
            has |= target.slot == *slot && self.slots[usize::from(*slot)].is_valid(target.epoch);
        });
        has
    }

    fn each(&self, filter: FilterNo, mut found: impl FnMut(Target)) {
        let Targets { first, more } = self.targets[filter as usize];
        first.into_iter().for_each(&mut found);
        if more != NO_MORE {
            self.more[more as usize].iter().copied().for_each(found);
        }
    }

    /// The authority has a subscriber of the filter.
    ///
    /// # Errors
    /// There is no room for one more.
    pub fn add(&mut self, authority: Authority, filter: &str) -> Result<(), Full> {
        let known = self.index.find(filter);
        let full = self.index.len() >= ROUTES_MAX
            || self.index.text_bytes() + filter.len() > TEXT_BYTES_MAX
            || filter.len() > FILTER_BYTES_MAX;
        if known.is_none() && full {
            return Err(Full);
        }
        let number = self.slot(authority)?;
        let epoch = self.slots[usize::from(number)].newest;
        let place = known.unwrap_or_else(|| self.index.insert(filter));
        if place as usize >= self.targets.len() {
            self.targets.resize(place as usize + 1, Targets { first: None, more: NO_MORE });
        }
        if self.put(place, Target { slot: number, epoch }) {
            self.tell(authority, filter, true);
        }
        self.version += 1;
        Ok(())
    }

    /// Whether nothing of the authority was there, not even what is void.
    fn put(&mut self, filter: FilterNo, target: Target) -> bool {
        let Targets { first, more } = &mut self.targets[filter as usize];
        match first {
            Some(known) if known.slot == target.slot => {
                *known = target;
                return false;
            }
            None if *more == NO_MORE => *first = Some(target),
            None | Some(_) => {
                if *more == NO_MORE {
                    *more = self.more_free.pop().unwrap_or_else(|| {
                        self.more.push(Vec::new());
                        (self.more.len() - 1) as u32
                    });
                }
                let list = &mut self.more[*more as usize];
                match list.iter_mut().find(|known| known.slot == target.slot) {
                    Some(known) => {
                        *known = target;
                        return false;
                    }
                    None => list.push(target),
                }
            }
        }
        true
    }

    /// Says that the table does not have this, if it has not.
    pub fn deny(&mut self, authority: Authority, filter: &str) {
        let slot = self.by_authority.get(&authority).copied();
        let known = self.index.find(filter).zip(slot);
        let mut there = false;
        if let Some((filter, slot)) = known {
            self.each(filter, |target| there |= target.slot == slot);
        }
        if !there {
            self.tell(authority, filter, false);
        }
    }

    /// The authority has lost its last subscriber of the filter.
    pub fn remove(&mut self, authority: Authority, filter: &str) {
        let Some(slot) = self.by_authority.get(&authority).copied() else { return };
        let Some(filter) = self.index.find(filter) else { return };
        self.keep(filter, |target| target.slot != slot);
        self.version += 1;
    }

    /// Keeps some targets of a filter, and the filter if it has any left.
    fn keep(&mut self, filter: FilterNo, keep: impl Fn(&Target) -> bool) {
        if self.told.is_some() {
            self.tell_dropped(filter, &keep);
        }
        let Targets { first, more } = &mut self.targets[filter as usize];
        *first = first.filter(&keep);
        if *more != NO_MORE {
            let list = &mut self.more[*more as usize];
            list.retain(&keep);
            if first.is_none() {
                *first = list.pop();
            }
            if list.is_empty() {
                *list = Vec::new();
                self.more_free.push(*more);
                *more = NO_MORE;
            }
        }
        if first.is_none() {
            self.index.remove(filter);
        }
    }

    fn tell_dropped(&mut self, filter: FilterNo, keep: impl Fn(&Target) -> bool) {
        let mut dropped = Vec::new();
        self.each(filter, |target| {
            if !keep(&target) {
                dropped.push(self.slots[usize::from(target.slot)].authority);
            }
        });
        if dropped.is_empty() {
            return;
        }
        let Some(text) = self.index.text(filter) else { return };
        for authority in dropped {
            self.tell(authority, &text, false);
        }
    }

    fn slot(&mut self, authority: Authority) -> Result<u16, Full> {
        if let Some(slot) = self.by_authority.get(&authority) {
            return Ok(*slot);
        }
        let new = Slot { authority, gone: false, oldest: 0, newest: 0, unswept: 0, free: false };
        let number = match self.slots.iter().position(|slot| slot.free) {
            Some(number) => {
                // Nothing of its last tenant is left, so it may begin anew.
                self.slots[number] = new;
                number as u16
            }
            None => {
                let number = u16::try_from(self.slots.len()).map_err(|_| Full)?;
                self.slots.push(new);
                number
            }
        };
        self.by_authority.insert(authority, number);
        Ok(number)
    }

    /// The authority begins to say everything anew. What it said stays valid.
    pub fn begin(&mut self, authority: Authority) {
        let Ok(slot) = self.slot(authority) else { return };
        if self.slots[usize::from(slot)].unswept >= EPOCHS_UNSWEPT_MAX {
            let slot = &mut self.slots[usize::from(slot)];
            if slot.newest.wrapping_sub(slot.oldest) >= EPOCHS_UNSWEPT_MAX {
                // It begins and never completes: it is covered by nothing anyway.
                slot.oldest = slot.newest;
            }
            self.became_void();
            while self.sweep(usize::MAX) {}
        }
        let slot = &mut self.slots[usize::from(slot)];
        slot.newest = slot.newest.wrapping_add(1);
        slot.unswept += 1;
    }

    /// It has said everything: what it said before and not again is void.
    pub fn complete(&mut self, authority: Authority) {
        let Some(slot) = self.by_authority.get(&authority) else { return };
        let slot = &mut self.slots[usize::from(*slot)];
        slot.oldest = slot.newest;
        self.became_void();
    }

    /// The authority is gone with everything it said.
    pub fn gone(&mut self, authority: Authority) {
        let Some(number) = self.by_authority.remove(&authority) else { return };
        let slot = &mut self.slots[usize::from(number)];
        slot.gone = true;
        slot.newest = slot.newest.wrapping_add(1);
        slot.oldest = slot.newest;
        self.became_void();
    }

    fn became_void(&mut self) {
        self.version += 1;
        // The sweep that is under way may have passed some of it already.
        self.void_again |= self.void;
        self.void = true;
    }

    /// Looks at up to `filters_max` filters and drops what is void of them. Says
    /// whether there is more to do.
    pub fn sweep(&mut self, filters_max: usize) -> bool {
        if !self.void {
            return false;
        }
        let slots = self.slots.clone();
        let end = self
            .index
            .end()
            .min(self.sweep_at.saturating_add(u32::try_from(filters_max).unwrap_or(u32::MAX)));
        for filter in self.sweep_at..end {
            if self.targets[filter as usize].first.is_some() {
                self.keep(filter, |target| slots[usize::from(target.slot)].is_valid(target.epoch));
            }
        }
        self.sweep_at = end;
        if end < self.index.end() {
            return true;
        }
        self.sweep_at = 0;
        self.void = std::mem::take(&mut self.void_again);
        if !self.void {
            self.swept();
        }
        self.void
    }

    /// A whole sweep found everything void since the one before.
    fn swept(&mut self) {
        for slot in &mut self.slots {
            slot.unswept = slot.newest.wrapping_sub(slot.oldest);
            slot.free |= slot.gone;
        }
    }
}

impl Slot {
    fn is_valid(self, epoch: u16) -> bool {
        !self.gone && self.newest.wrapping_sub(epoch) <= self.newest.wrapping_sub(self.oldest)
    }
}
