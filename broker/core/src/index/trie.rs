//! Filters with wildcards: a trie that is never changed, only replaced.
//!
//! Readers take the root and walk without a lock. A writer copies the nodes on
//! the way to its filter and shares all others, so what a subscribe costs does
//! not depend on how many filters there are, and there is nothing to rebuild.
//! Levels with many names below them are hash tries of 16-way branches and
//! small buckets, so that one copy stays small. A branch with a single filter
//! is not unfolded: the filter hangs there whole, and is compared as text.

use std::sync::Arc;

use super::place::Seed;
use super::subscriptions::{Change, Subscriptions};

/// A filter and who has subscribed with it.
#[derive(Clone)]
struct Leaf {
    filter: Arc<str>,
    subscriptions: Subscriptions,
}

/// A place with at least two filters below it (the root may have fewer). Its
/// own level's text stands in `sample`: a filter that led here, at the offset
/// that every filter below shares.
#[derive(Clone)]
pub(super) struct Node {
    sample: Arc<str>,
    /// The filter that ends here.
    here: Option<Arc<Leaf>>,
    /// The filter that goes on with `#`.
    rest: Option<Arc<Leaf>>,
    /// The filters that go on with `+`.
    plus: Option<Child>,
    /// The filters that go on with a name.
    names: Names,
}

#[derive(Clone)]
enum Child {
    Leaf { hash: u32, leaf: Arc<Leaf> },
    Node { hash: u32, node: Arc<Node> },
}

const _: () = assert!(size_of::<Child>() == 16);

/// Children by name.
#[derive(Clone)]
enum Names {
    Bucket(Vec<Child>),
    Branch { bits: u16, below: Vec<Arc<Names>> },
}

/// What `apply` carries down.
struct Step<'a> {
    seed: &'a Seed,
    filter: &'a Arc<str>,
    change: Change<'a>,
}

impl Node {
    pub(super) fn root() -> Node {
        Node::at(&Arc::from(""))
    }

    fn at(sample: &Arc<str>) -> Node {
        Node {
            sample: Arc::clone(sample),
            here: None,
            rest: None,
            plus: None,
            names: Names::Bucket(Vec::new()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.here.is_none() && self.rest.is_none() && self.plus.is_none() && self.names.is_empty()
    }

    /// Whether something was added that was new, or removed that was there.
    /// The latter must be `concerned` (a vain walk would copy for nothing).
    pub(super) fn apply(&mut self, seed: &Seed, filter: &Arc<str>, change: Change<'_>) -> bool {
        self.apply_at(0, Step { seed, filter, change })
    }

    /// What stands for exactly this filter.
    pub(super) fn find(&self, seed: &Seed, filter: &str) -> Option<&Subscriptions> {
        let mut node = self;
        let mut at = 0;
        loop {
            let child = match filter.get(at..) {
                None => return node.here.as_deref().map(|leaf| &leaf.subscriptions),
                Some("#") => return node.rest.as_deref().map(|leaf| &leaf.subscriptions),
                Some(rest) => {
                    let level = level(rest);
                    let child = match level {
                        "+" => node.plus.as_ref()?,
                        _ => node.names.find(seed.hash(level) as u32, level, at)?,
                    };
                    at += level.len() + 1;
                    child
                }
            };
            match child {
                Child::Leaf { leaf, .. } => {
                    return (*leaf.filter == *filter).then_some(&leaf.subscriptions);
                }
                Child::Node { node: below, .. } => node = below,
            }
        }
    }

    /// Adds the subscriptions of every filter that matches. A `$` topic must
    /// not be shown a trie of filters whose first level has a wildcard.
    pub(super) fn matches(&self, seed: &Seed, topic: &str, found: &mut Vec<Subscriptions>) {
        self.matches_at(seed, topic, 0, 0, found);
    }

    /// `at` is how far the topic is read, `filter_at` how far the filters are:
    /// where they have a `+` the topic may have more or fewer bytes.
    fn matches_at(
        &self,
        seed: &Seed,
        topic: &str,
        at: usize,
        filter_at: usize,
        found: &mut Vec<Subscriptions>,
    ) {
        // `a/#` matches `a` as well.
        if let Some(leaf) = &self.rest {
            found.push(leaf.subscriptions.clone());
        }
        let Some(rest) = topic.get(at..) else {
            if let Some(leaf) = &self.here {
                found.push(leaf.subscriptions.clone());
            }
            return;
        };
        let level = level(rest);
        let after = at + level.len() + 1;
        if let Some(child) = &self.plus {
            child.matches_at(seed, topic, after, filter_at + 2, found);
        }
        if !self.names.is_empty()
            && let Some(child) = self.names.find(seed.hash(level) as u32, level, filter_at)
        {
            child.matches_at(seed, topic, after, filter_at + level.len() + 1, found);
        }
    }

    fn apply_at(&mut self, at: usize, step: Step<'_>) -> bool {
        let rest = match step.filter.get(at..) {
            None => return apply_leaf(&mut self.here, step),
            Some("#") => return apply_leaf(&mut self.rest, step),
            Some(rest) => rest,
        };
        let level = level(rest);
        let after = at + level.len() + 1;
        if level != "+" {
            let hash = step.seed.hash(level) as u32;
            return self.names.apply(0, hash, at, after, step);
        }
        let Some(child) = &mut self.plus else {
            return Child::add(0, step).is_some_and(|child| {
                self.plus = Some(child);
                true
            });
        };
        let changed = child.apply(after, step);
        if child.is_empty() {
            self.plus = None;
        }
        changed
    }

    /// Hangs `leaf` into a node that was made for it.
    fn hang(&mut self, seed: &Seed, at: usize, leaf: Arc<Leaf>) {
        match leaf.filter.get(at..) {
            None => self.here = Some(leaf),
            Some("#") => self.rest = Some(leaf),
            Some(rest) => match level(rest) {
                "+" => self.plus = Some(Child::Leaf { hash: 0, leaf }),
                level => {
                    let hash = seed.hash(level) as u32;
                    self.names = Names::Bucket(vec![Child::Leaf { hash, leaf }]);
                }
            },
        }
    }

    /// The only filter below, if there is but one: then the node can go.
    fn only(&self) -> Option<&Arc<Leaf>> {
        let names = match &self.names {
            Names::Bucket(children) => children.as_slice(),
            Names::Branch { .. } => return None,
        };
        let children = self.plus.iter().chain(names);
        let ends = self.here.iter().chain(&self.rest);
        match (ends.clone().count(), children.clone().count()) {
            (1, 0) => ends.clone().next(),
            (0, 1) => match children.clone().next() {
                Some(Child::Leaf { leaf, .. }) => Some(leaf),
                Some(Child::Node { .. }) | None => None,
            },
            _ => None,
        }
    }

    /// Nodes and filters below, this node included.
    pub(super) fn count(&self) -> usize {
        let ends = usize::from(self.here.is_some()) + usize::from(self.rest.is_some());
        1 + ends + self.plus.as_ref().map_or(0, Child::count) + self.names.count()
    }
}

impl Child {
    /// A new filter; nothing if the change is a removal.
    fn add(hash: u32, step: Step<'_>) -> Option<Child> {
        Leaf::add(step).map(|leaf| Child::Leaf { hash, leaf })
    }

    fn open(&self) -> Open {
        match self {
            Child::Leaf { leaf, .. } => Open::Leaf(Arc::clone(leaf)),
            Child::Node { node, .. } => Open::Node(Arc::clone(node)),
        }
    }

    fn hash(&self) -> u32 {
        match self {
            Child::Leaf { hash, .. } | Child::Node { hash, .. } => *hash,
        }
    }

    /// Whether its name, which begins at `at`, is `name`.
    fn is(&self, hash: u32, name: &str, at: usize) -> bool {
        let (own, text) = match self {
            Child::Leaf { hash, leaf } => (*hash, &leaf.filter),
            Child::Node { hash, node } => (*hash, &node.sample),
        };
        own == hash && text.get(at..).is_some_and(|rest| level(rest) == name)
    }

    fn is_empty(&self) -> bool {
        match self {
            Child::Leaf { leaf, .. } => leaf.subscriptions.is_empty(),
            Child::Node { node, .. } => node.is_empty(),
        }
    }

    /// `after` is where the level below begins.
    fn apply(&mut self, after: usize, step: Step<'_>) -> bool {
        match self {
            Child::Leaf { leaf, .. } if leaf.filter == *step.filter => {
                Arc::make_mut(leaf).subscriptions.apply(step.change)
            }
            Child::Leaf { hash, leaf } => {
                let mut node = Node::at(&leaf.filter);
                node.hang(step.seed, after, Arc::clone(leaf));
                let changed = node.apply_at(after, step);
                *self = Child::Node { hash: *hash, node: Arc::new(node) };
                changed
            }
            Child::Node { hash, node } => {
                let changed = Arc::make_mut(node).apply_at(after, step);
                if let Some(leaf) = node.only() {
                    *self = Child::Leaf { hash: *hash, leaf: Arc::clone(leaf) };
                }
                changed
            }
        }
    }

    fn matches_at(
        &self,
        seed: &Seed,
        topic: &str,
        at: usize,
        filter_at: usize,
        found: &mut Vec<Subscriptions>,
    ) {
        match self {
            Child::Leaf { leaf, .. } => {
                if rest_matches(leaf.filter.get(filter_at..), topic.get(at..)) {
                    found.push(leaf.subscriptions.clone());
                }
            }
            Child::Node { node, .. } => node.matches_at(seed, topic, at, filter_at, found),
        }
    }

    fn count(&self) -> usize {
        match self {
            Child::Leaf { .. } => 1,
            Child::Node { node, .. } => node.count(),
        }
    }
}

/// A walk over the filters of a trie, as they were when it began.
pub(super) struct Walk {
    open: Vec<Open>,
}

enum Open {
    Leaf(Arc<Leaf>),
    Node(Arc<Node>),
    Names(Arc<Names>),
}

impl Walk {
    pub(super) fn of(root: Option<Arc<Node>>) -> Walk {
        Walk { open: root.into_iter().map(Open::Node).collect() }
    }

    /// Hands out the next filter; whether there was one.
    pub(super) fn next(&mut self, visit: impl FnOnce(&Arc<str>, &Subscriptions)) -> bool {
        while let Some(open) = self.open.pop() {
            match open {
                Open::Leaf(leaf) => {
                    visit(&leaf.filter, &leaf.subscriptions);
                    return true;
                }
                Open::Node(node) => {
                    let ends = node.here.iter().chain(&node.rest);
                    self.open.extend(ends.cloned().map(Open::Leaf));
                    self.open.extend(node.plus.as_ref().map(Child::open));
                    self.names(&node.names);
                }
                Open::Names(names) => self.names(&names),
            }
        }
        false
    }

    fn names(&mut self, names: &Names) {
        match names {
            Names::Bucket(children) => self.open.extend(children.iter().map(Child::open)),
            Names::Branch { below, .. } => {
                self.open.extend(below.iter().cloned().map(Open::Names));
            }
        }
    }
}

impl Leaf {
    fn add(step: Step<'_>) -> Option<Arc<Leaf>> {
        let mut subscriptions = Subscriptions::None;
        let added = subscriptions.apply(step.change);
        added.then(|| Arc::new(Leaf { filter: Arc::clone(step.filter), subscriptions }))
    }
}

fn apply_leaf(place: &mut Option<Arc<Leaf>>, step: Step<'_>) -> bool {
    let Some(leaf) = place else {
        *place = Leaf::add(step);
        return place.is_some();
    };
    let leaf = Arc::make_mut(leaf);
    let changed = leaf.subscriptions.apply(step.change);
    if leaf.subscriptions.is_empty() {
        *place = None;
    }
    changed
}

impl Names {
    /// Children in a bucket before it becomes a branch.
    const BUCKET: usize = 8;
    /// Bits of the hash that one branch goes by.
    const BITS: u32 = 4;

    fn is_empty(&self) -> bool {
        match self {
            Names::Bucket(children) => children.is_empty(),
            Names::Branch { below, .. } => below.is_empty(),
        }
    }

    fn find(&self, hash: u32, name: &str, at: usize) -> Option<&Child> {
        let mut names = self;
        let mut shift = 0;
        loop {
            match names {
                Names::Bucket(children) => {
                    return children.iter().find(|child| child.is(hash, name, at));
                }
                Names::Branch { bits, below } => {
                    let (bit, index) = turn(*bits, hash, shift);
                    if bits & bit == 0 {
                        return None;
                    }
                    names = &below[index];
                    shift += Names::BITS;
                }
            }
        }
    }

    /// `at` is where the name of the children begins, `after` where what
    /// follows it does.
    fn apply(&mut self, shift: u32, hash: u32, at: usize, after: usize, step: Step<'_>) -> bool {
        match self {
            Names::Bucket(children) => {
                let name = step.filter.get(at..).map_or("", level);
                let Some(index) = children.iter().position(|child| child.is(hash, name, at)) else {
                    let Some(child) = Child::add(hash, step) else { return false };
                    children.reserve_exact(1);
                    children.push(child);
                    self.split_if_full(shift);
                    return true;
                };
                let changed = children[index].apply(after, step);
                if children[index].is_empty() {
                    children.swap_remove(index);
                }
                changed
            }
            Names::Branch { bits, below } => {
                let (bit, index) = turn(*bits, hash, shift);
                if *bits & bit == 0 {
                    let Some(child) = Child::add(hash, step) else { return false };
                    below.reserve_exact(1);
                    below.insert(index, Arc::new(Names::Bucket(vec![child])));
                    *bits |= bit;
                    return true;
                }
                let names = Arc::make_mut(&mut below[index]);
                let changed = names.apply(shift + Names::BITS, hash, at, after, step);
                if names.is_empty() {
                    below.remove(index);
                    *bits &= !bit;
                }
                self.join_if_thin();
                changed
            }
        }
    }

    fn split_if_full(&mut self, shift: u32) {
        let Names::Bucket(children) = self else { return };
        // 32 bits spent: names that collide in all of them share a bucket.
        if children.len() <= Names::BUCKET || shift >= u32::BITS {
            return;
        }
        let mut parts: [Vec<Child>; 16] = Default::default();
        for child in children.drain(..) {
            parts[digit(child.hash(), shift)].push(child);
        }
        let mut bits = 0;
        let mut below = Vec::with_capacity(parts.iter().filter(|part| !part.is_empty()).count());
        for (digit, mut part) in parts.into_iter().enumerate() {
            if !part.is_empty() {
                part.shrink_to_fit();
                bits |= 1 << digit;
                let mut names = Names::Bucket(part);
                names.split_if_full(shift + Names::BITS);
                below.push(Arc::new(names));
            }
        }
        *self = Names::Branch { bits, below };
    }

    /// A branch that has lost most of its children becomes a bucket again.
    fn join_if_thin(&mut self) {
        let Names::Branch { below, .. } = self else { return };
        let mut left = Names::BUCKET / 2;
        for names in below.iter() {
            match &**names {
                Names::Bucket(children) if children.len() <= left => left -= children.len(),
                Names::Bucket(_) | Names::Branch { .. } => return,
            }
        }
        let mut joined = Vec::with_capacity(Names::BUCKET / 2 - left);
        for names in below.iter() {
            match &**names {
                Names::Bucket(children) => joined.extend_from_slice(children),
                Names::Branch { .. } => {}
            }
        }
        *self = Names::Bucket(joined);
    }

    fn count(&self) -> usize {
        match self {
            Names::Bucket(children) => children.iter().map(Child::count).sum(),
            Names::Branch { below, .. } => 1 + below.iter().map(|b| b.count()).sum::<usize>(),
        }
    }
}

fn digit(hash: u32, shift: u32) -> usize {
    (hash >> shift) as usize & 0xF
}

/// The bit of a hash's digit in a branch, and where its child stands.
fn turn(bits: u16, hash: u32, shift: u32) -> (u16, usize) {
    let bit = 1u16 << digit(hash, shift);
    (bit, (bits & (bit - 1)).count_ones() as usize)
}

/// The first level of what is left of a topic or filter.
fn level(rest: &str) -> &str {
    rest.split_once('/').map_or(rest, |(level, _)| level)
}

/// Whether what is left of a filter matches what is left of a topic; `None`
/// is behind the last level, which is not the same as an empty level.
pub(super) fn rest_matches(filter: Option<&str>, topic: Option<&str>) -> bool {
    let mut filter = filter.into_iter().flat_map(|filter| filter.split('/'));
    let mut topic = topic.into_iter().flat_map(|topic| topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            (Some(_) | None, Some(_)) | (Some(_), None) => return false,
        }
    }
}
