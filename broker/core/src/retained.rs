//! Retained messages of one shard, in an order made for filters.
//!
//! `/` sorts below every other byte, so that a topic and all topics below it
//! are neighbours. A filter is then a walk that seeks past what cannot match:
//! `a/+/b` costs two seeks a name, not a look at every topic below `a`.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// The messages by topic. Bytes and expiry are the owner's business.
pub struct Retained<V> {
    topics: BTreeMap<Topic, V>,
}

impl<V> Retained<V> {
    /// Nothing retained.
    pub const fn new() -> Retained<V> {
        Retained { topics: BTreeMap::new() }
    }

    /// Stores, and returns what it replaces.
    pub fn set(&mut self, topic: Arc<str>, value: V) -> Option<V> {
        self.topics.insert(Topic(topic), value)
    }

    /// Removes, and returns what was there.
    pub fn remove(&mut self, topic: &str) -> Option<V> {
        self.topics.remove(&topic as &dyn Text)
    }

    /// What is stored for `topic`.
    pub fn get(&self, topic: &str) -> Option<&V> {
        self.topics.get(&topic as &dyn Text)
    }

    /// How many topics.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Everything, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.topics.iter().map(|(topic, value)| (&topic.0, value))
    }

    /// Looks at `budget` topics from `from` on and drops those that `gone`
    /// says, handing them to `dropped`. Returns whether the end was reached;
    /// `from` is then back at the start, and otherwise where to go on.
    pub fn sweep(
        &mut self,
        from: &mut Sweep,
        budget: usize,
        mut gone: impl FnMut(&Arc<str>, &V) -> bool,
        mut dropped: impl FnMut(Arc<str>, V),
    ) -> bool {
        let after = from.after.take();
        let start =
            after.as_ref().map_or(Bound::Unbounded, |topic| Bound::Excluded(topic as &dyn Text));
        let mut doomed = Vec::new();
        let mut last = None;
        let range = self.topics.range::<dyn Text, _>((start, Bound::Unbounded));
        let mut looked = 0;
        for (topic, value) in range.take(budget) {
            looked += 1;
            last = Some(topic);
            if gone(&topic.0, value) {
                doomed.push(topic.0.clone());
            }
        }
        let ended = looked < budget;
        if !ended {
            from.after = last.map(|topic| Arc::clone(&topic.0)).or(after);
        }
        for topic in doomed {
            if let Some((topic, value)) = self.topics.remove_entry(&&*topic as &dyn Text) {
                dropped(topic.0, value);
            }
        }
        ended
    }
}

impl<V> Default for Retained<V> {
    fn default() -> Retained<V> {
        Retained::new()
    }
}

/// How far a [`Retained::sweep`] has come. The store may change in between.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    after: Option<Arc<str>>,
}

/// A walk over the topics that match a filter, which can be left at any point
/// and taken up again. The store may change in between: what is there all
/// along is found once, what comes or goes meanwhile may be found or not.
#[derive(Clone, Debug)]
pub struct Cursor {
    filter: Arc<str>,
    next: Seek,
}

/// Where a walk goes on.
#[derive(Clone, Debug)]
enum Seek {
    /// At this text or behind it.
    From(String),
    /// Behind this topic.
    After(Arc<str>),
    /// Nowhere.
    End,
}

/// What one step of a walk came to.
#[derive(Debug, Eq, PartialEq)]
pub enum Step<'a, V> {
    /// A topic that matches.
    Item(&'a Arc<str>, &'a V),
    /// The budget is spent.
    Pause,
    /// There are no more.
    End,
}

impl Cursor {
    /// Over the topics that match `filter`, which is well formed and without
    /// `$share`.
    pub fn new(filter: Arc<str>) -> Cursor {
        // Up to the first wildcard there is nothing to look at.
        let literal = filter.find(['+', '#']).unwrap_or(filter.len());
        let literal = &filter[..literal];
        // `a/#` matches `a` too.
        let literal = match filter[literal.len()..].starts_with('#') {
            true => literal.strip_suffix('/').unwrap_or(literal),
            false => literal,
        };
        Cursor { next: Seek::From(literal.into()), filter }
    }

    /// Where the walk goes on, as a kind and a text.
    pub(crate) fn place(&self) -> (u8, &str) {
        match &self.next {
            Seek::From(text) => (0, text),
            Seek::After(topic) => (1, topic),
            Seek::End => (2, ""),
        }
    }

    /// The reverse of `place`; `None` for a kind that there is not.
    pub(crate) fn at(filter: Arc<str>, kind: u8, text: &str) -> Option<Cursor> {
        let next = match kind {
            0 => Seek::From(text.into()),
            1 => Seek::After(text.into()),
            2 => Seek::End,
            3.. => return None,
        };
        Some(Cursor { filter, next })
    }

    /// The next match. Each topic looked at, matching or not, takes 1 from
    /// `budget`; at 0 the walk pauses.
    pub fn next<'a, V>(&mut self, store: &'a Retained<V>, budget: &mut usize) -> Step<'a, V> {
        let mut item = None;
        let ended = self.walk(store, budget, |topic, value| {
            item = Some((topic, value));
            ControlFlow::Break(())
        });
        match item {
            Some((topic, value)) => Step::Item(topic, value),
            None if ended => Step::End,
            None => Step::Pause,
        }
    }

    /// Hands every match to `found` until that breaks, the budget is spent or
    /// the end is reached, and returns whether it was the end. Cheaper than
    /// [`next`](Cursor::next) where many neighbours match.
    pub fn walk<'a, V>(
        &mut self,
        store: &'a Retained<V>,
        budget: &mut usize,
        mut found: impl FnMut(&'a Arc<str>, &'a V) -> ControlFlow<()>,
    ) -> bool {
        loop {
            let start: Bound<&dyn Text> = match &self.next {
                Seek::From(text) => Bound::Included(text),
                Seek::After(topic) => Bound::Excluded(topic),
                Seek::End => return true,
            };
            let mut range = store.topics.range::<dyn Text, _>((start, Bound::Unbounded));
            let mut last = None;
            // As long as neighbours match there is nothing to seek.
            self.next = loop {
                if *budget == 0 {
                    if let Some(topic) = last {
                        self.next = Seek::After(Arc::clone(topic));
                    }
                    return false;
                }
                let Some((Topic(topic), value)) = range.next() else { break Seek::End };
                *budget -= 1;
                match look(&self.filter, topic) {
                    Look::Match(next) => {
                        if found(topic, value).is_break() {
                            self.next = next.unwrap_or_else(|| Seek::After(Arc::clone(topic)));
                            return false;
                        }
                        match next {
                            Some(next) => break next,
                            None => last = Some(topic),
                        }
                    }
                    Look::Skip(next) => break next,
                }
            };
        }
    }
}

enum Look {
    /// The next match is the neighbour, or else not before this.
    Match(Option<Seek>),
    Skip(Seek),
}

/// Whether `topic` matches, and the next place where one can.
fn look(filter: &str, topic: &str) -> Look {
    // Wildcards in the first level do not match `$` topics [MQTT-4.7.2-1];
    // '%' is the byte after '$'.
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return Look::Skip(Seek::From("%".into()));
    }
    let mut names = topic.split('/');
    // The end of the last name that a `+` stands for: when nothing more can
    // match below it, the walk goes on with its next value.
    let mut plus = None;
    let mut at = 0;
    let past_plus = |plus: Option<usize>| match plus {
        Some(end) => past(&topic[..end]),
        None => Seek::End,
    };
    for level in filter.split('/') {
        if level == "#" {
            return Look::Match(None);
        }
        let Some(name) = names.next() else {
            // A parent of what could match: go down.
            let wanted = if level == "+" { "" } else { level };
            return Look::Skip(Seek::From(format!("{topic}/{wanted}")));
        };
        let end = at + name.len();
        if level == "+" {
            plus = Some(end);
        } else {
            match order(name, level) {
                Ordering::Equal => {}
                Ordering::Less => {
                    return Look::Skip(Seek::From(format!("{}{level}", &topic[..at])));
                }
                Ordering::Greater => return Look::Skip(past_plus(plus)),
            }
        }
        at = end + 1;
    }
    match names.next() {
        None => Look::Match(Some(past_plus(plus))),
        Some(_) => Look::Skip(past_plus(plus)),
    }
}

/// Behind `topic` and all that is below it: no topic has a NUL, and every
/// byte but `/` sorts at or above it.
fn past(topic: &str) -> Seek {
    Seek::From(format!("{topic}\0"))
}

#[derive(Debug)]
struct Topic(Arc<str>);

/// Lets the map be asked with any text, in its own order.
trait Text {
    fn text(&self) -> &str;
}

impl Text for Topic {
    fn text(&self) -> &str {
        &self.0
    }
}

impl Text for &str {
    fn text(&self) -> &str {
        self
    }
}

impl Text for String {
    fn text(&self) -> &str {
        self
    }
}

impl Text for Arc<str> {
    fn text(&self) -> &str {
        self
    }
}

impl<'a> Borrow<dyn Text + 'a> for Topic {
    fn borrow(&self) -> &(dyn Text + 'a) {
        self
    }
}

impl Ord for dyn Text + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.text(), other.text())
    }
}

impl PartialOrd for dyn Text + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for dyn Text + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for dyn Text + '_ {}

impl Ord for Topic {
    fn cmp(&self, other: &Self) -> Ordering {
        order(&self.0, &other.0)
    }
}

impl PartialOrd for Topic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Topic {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Topic {}

/// By bytes, with `/` below all others.
fn order(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let rank = |byte: u8| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) => rank(*a).cmp(&rank(*b)),
        None => a.len().cmp(&b.len()),
    }
}
