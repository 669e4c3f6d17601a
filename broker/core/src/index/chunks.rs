//! An ordered list that is cheap to snapshot and cheap to change.
//!
//! A filter may have a million subscribers, and routes hold on to the list as
//! it was when they were looked up. So it is a B+ tree with shared nodes: a
//! snapshot copies the root alone, and a change copies one chunk and the few
//! nodes above it, and only while a snapshot still shares them.

use std::sync::Arc;

/// Has a place in the order. `CHUNK` bounds what one change copies.
pub(crate) trait Keyed: Clone {
    /// What the list is ordered by; unique within it.
    type Key: Copy + Ord;
    /// Items in one chunk at most.
    const CHUNK: usize;
    fn key(&self) -> Self::Key;
}

/// Children of an inner node at most.
const FAN: usize = 64;

#[derive(Clone)]
pub(crate) struct Chunks<T: Keyed> {
    root: Tree<T>,
    len: usize,
}

#[derive(Clone)]
enum Tree<T: Keyed> {
    Chunk(Vec<T>),
    Inner(Vec<Edge<T>>),
}

#[derive(Clone)]
struct Edge<T: Keyed> {
    /// No item below it has a lesser key (the first one's may be greater).
    first: T::Key,
    len: usize,
    tree: Arc<Tree<T>>,
}

impl<T: Keyed> Chunks<T> {
    pub(crate) const fn new() -> Chunks<T> {
        Chunks { root: Tree::Chunk(Vec::new()), len: 0 }
    }

    /// `items` are in order, without two of the same key.
    pub(crate) fn from_sorted(items: Vec<T>) -> Chunks<T> {
        debug_assert!(items.is_sorted_by(|a, b| a.key() < b.key()));
        let len = items.len();
        if len <= T::CHUNK {
            return Chunks { root: Tree::Chunk(items), len };
        }
        let mut edges = Vec::with_capacity(len.div_ceil(T::CHUNK));
        let mut items = items.into_iter();
        loop {
            let chunk: Vec<T> = items.by_ref().take(T::CHUNK).collect();
            if chunk.is_empty() {
                break;
            }
            edges.extend(Edge::over(Tree::Chunk(chunk)));
        }
        while edges.len() > FAN {
            let mut above = Vec::with_capacity(edges.len().div_ceil(FAN));
            let mut below = edges.into_iter();
            loop {
                let inner: Vec<Edge<T>> = below.by_ref().take(FAN).collect();
                if inner.is_empty() {
                    break;
                }
                above.extend(Edge::over(Tree::Inner(inner)));
            }
            edges = above;
        }
        Chunks { root: Tree::Inner(edges), len }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Puts `item` in its place. One of the same key is handed to `merge`
    /// together with it instead. Returns whether the key was new.
    pub(crate) fn insert(&mut self, item: T, merge: impl FnOnce(&mut T, T)) -> bool {
        let (new, split) = self.root.insert(item, merge);
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Tree::Inner(Vec::with_capacity(2)));
            if let Tree::Inner(edges) = &mut self.root {
                edges.extend(Edge::over(left));
                edges.push(right);
            }
        }
        self.len += usize::from(new);
        new
    }

    pub(crate) fn remove(&mut self, key: T::Key) -> Option<T> {
        let removed = self.root.remove(key)?;
        self.len -= 1;
        while let Tree::Inner(edges) = &mut self.root {
            match edges.len() {
                0 => self.root = Tree::Chunk(Vec::new()),
                1 => {
                    let Some(edge) = edges.pop() else { break };
                    self.root = Arc::unwrap_or_clone(edge.tree);
                }
                _ => break,
            }
        }
        Some(removed)
    }

    pub(crate) fn find(&self, key: T::Key) -> Option<&T> {
        let mut tree = &self.root;
        loop {
            match tree {
                Tree::Chunk(items) => {
                    return items.binary_search_by_key(&key, T::key).ok().map(|at| &items[at]);
                }
                Tree::Inner(edges) => tree = &edges[toward(edges, key)].tree,
            }
        }
    }

    /// How many have a lesser key.
    pub(crate) fn place_of(&self, key: T::Key) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle) {
                Some(item) if item.key() < key => low = middle + 1,
                Some(_) | None => high = middle,
            }
        }
        low
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.run_from(index).first()
    }

    /// The items from `index` to the end of their chunk; empty past the end.
    pub(crate) fn run_from(&self, mut index: usize) -> &[T] {
        if index >= self.len {
            return &[];
        }
        let mut tree = &self.root;
        'down: loop {
            match tree {
                Tree::Chunk(items) => return items.get(index..).unwrap_or(&[]),
                Tree::Inner(edges) => {
                    for edge in edges {
                        if index < edge.len {
                            tree = &edge.tree;
                            continue 'down;
                        }
                        index -= edge.len;
                    }
                    return &[];
                }
            }
        }
    }

    pub(crate) fn iter_from(&self, index: usize) -> Iter<'_, T> {
        Iter { list: self, next: index, run: [].iter() }
    }
}

/// A walk that can be taken up again at any index.
pub(crate) struct Iter<'a, T: Keyed> {
    list: &'a Chunks<T>,
    next: usize,
    run: std::slice::Iter<'a, T>,
}

impl<'a, T: Keyed> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        if self.run.len() == 0 {
            self.run = self.list.run_from(self.next).iter();
        }
        let item = self.run.next()?;
        self.next += 1;
        Some(item)
    }
}

impl<T: Keyed> Tree<T> {
    fn len(&self) -> usize {
        match self {
            Tree::Chunk(items) => items.len(),
            Tree::Inner(edges) => edges.iter().map(|edge| edge.len).sum(),
        }
    }

    /// How full it is, in children or items.
    fn width(&self) -> usize {
        match self {
            Tree::Chunk(items) => items.len(),
            Tree::Inner(edges) => edges.len(),
        }
    }

    fn first(&self) -> Option<T::Key> {
        match self {
            Tree::Chunk(items) => items.first().map(T::key),
            Tree::Inner(edges) => edges.first().map(|edge| edge.first),
        }
    }

    /// Whether the key was new, and the right half if it had to be split.
    fn insert(&mut self, item: T, merge: impl FnOnce(&mut T, T)) -> (bool, Option<Edge<T>>) {
        match self {
            Tree::Chunk(items) => {
                let at = match items.binary_search_by_key(&item.key(), T::key) {
                    Ok(at) => {
                        merge(&mut items[at], item);
                        return (false, None);
                    }
                    Err(at) => at,
                };
                if items.len() < T::CHUNK {
                    insert_tight(items, at, item, T::CHUNK);
                    return (true, None);
                }
                // Slots mostly ascend: at the end a fresh chunk leaves this one full.
                let cut = if at == items.len() { at } else { items.len() / 2 };
                let mut right = items.split_off(cut);
                if at <= cut && !right.is_empty() {
                    items.insert(at, item);
                } else {
                    right.insert(at - cut, item);
                }
                (true, Edge::over(Tree::Chunk(right)))
            }
            Tree::Inner(edges) => {
                let at = toward(edges, item.key());
                let edge = &mut edges[at];
                edge.first = edge.first.min(item.key());
                let (new, split) = Arc::make_mut(&mut edge.tree).insert(item, merge);
                edge.len += usize::from(new);
                let Some(right) = split else { return (new, None) };
                edge.len -= right.len;
                if edges.len() < FAN {
                    insert_tight(edges, at + 1, right, FAN);
                    return (new, None);
                }
                let cut = if at + 1 == edges.len() { at + 1 } else { edges.len() / 2 };
                let mut upper = edges.split_off(cut);
                if at < cut && !upper.is_empty() {
                    edges.insert(at + 1, right);
                } else {
                    upper.insert(at + 1 - cut, right);
                }
                (new, Edge::over(Tree::Inner(upper)))
            }
        }
    }

    fn remove(&mut self, key: T::Key) -> Option<T> {
        match self {
            Tree::Chunk(items) => {
                let at = items.binary_search_by_key(&key, T::key).ok()?;
                let removed = items.remove(at);
                if items.len() < items.capacity() / 4 {
                    items.shrink_to(items.len() * 2);
                }
                Some(removed)
            }
            Tree::Inner(edges) => {
                let at = toward(edges, key);
                let edge = &mut edges[at];
                let removed = Arc::make_mut(&mut edge.tree).remove(key)?;
                edge.len -= 1;
                if edge.len == 0 {
                    edges.remove(at);
                } else {
                    join_if_thin(edges, at);
                }
                Some(removed)
            }
        }
    }

    fn limit(&self) -> usize {
        match self {
            Tree::Chunk(_) => T::CHUNK,
            Tree::Inner(_) => FAN,
        }
    }

    /// Takes in its right neighbour of the same depth.
    fn join(&mut self, right: Tree<T>) {
        match (self, right) {
            (Tree::Chunk(left), Tree::Chunk(right)) => left.extend(right),
            (Tree::Inner(left), Tree::Inner(right)) => left.extend(right),
            (Tree::Chunk(_), Tree::Inner(_)) | (Tree::Inner(_), Tree::Chunk(_)) => {
                unreachable!("neighbours in a B+ tree are of the same depth")
            }
        }
    }
}

impl<T: Keyed> Edge<T> {
    /// None over nothing.
    fn over(tree: Tree<T>) -> Option<Edge<T>> {
        Some(Edge { first: tree.first()?, len: tree.len(), tree: Arc::new(tree) })
    }
}

/// The child that holds `key`, if any does.
fn toward<T: Keyed>(edges: &[Edge<T>], key: T::Key) -> usize {
    edges.partition_point(|edge| edge.first <= key).saturating_sub(1)
}

/// Inserts with little room to spare: most lists are short and there are many.
fn insert_tight<E>(items: &mut Vec<E>, at: usize, item: E, limit: usize) {
    if items.len() == items.capacity() {
        let room = (items.len() / 4 + 1).min(limit - items.len());
        items.reserve_exact(room);
    }
    items.insert(at, item);
}

/// A node that has become thin is joined with a neighbour that has room, so
/// that a list which shrinks gives its memory back.
fn join_if_thin<T: Keyed>(edges: &mut Vec<Edge<T>>, at: usize) {
    let limit = edges[at].tree.limit();
    if edges[at].tree.width() >= limit / 4 {
        return;
    }
    let fits = |left: usize, edges: &[Edge<T>]| {
        edges
            .get(left + 1)
            .is_some_and(|right| edges[left].tree.width() + right.tree.width() <= limit * 3 / 4)
    };
    let left = if fits(at, edges) {
        at
    } else if at > 0 && fits(at - 1, edges) {
        at - 1
    } else {
        return;
    };
    let right = edges.remove(left + 1);
    let edge = &mut edges[left];
    edge.len += right.len;
    Arc::make_mut(&mut edge.tree).join(Arc::unwrap_or_clone(right.tree));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Clone, Debug, Eq, PartialEq)]
    struct Pair(u16, u32);

    impl Keyed for Pair {
        type Key = u16;
        const CHUNK: usize = 4;
        fn key(&self) -> u16 {
            self.0
        }
    }

    fn same(list: &Chunks<Pair>, model: &BTreeMap<u16, u32>) {
        let expected: Vec<Pair> = model.iter().map(|(k, v)| Pair(*k, *v)).collect();
        assert_eq!(list.iter_from(0).cloned().collect::<Vec<_>>(), expected);
        assert_eq!(list.len(), expected.len());
        for (index, pair) in expected.iter().enumerate() {
            assert_eq!(list.get(index), Some(pair));
            assert_eq!(list.find(pair.0), Some(pair));
        }
        assert_eq!(list.get(expected.len()), None);
    }

    proptest! {
        #[test]
        fn a_list_equals_a_map_and_its_snapshots_do_not_move(
            steps in proptest::collection::vec((any::<bool>(), 0u16..2000, any::<u32>()), 0..3000),
            from in 0usize..1500,
        ) {
            let mut list = Chunks::from_sorted((0..from as u16).map(|k| Pair(k, 7)).collect());
            let mut model: BTreeMap<u16, u32> = (0..from as u16).map(|k| (k, 7)).collect();
            let (kept, kept_model) = (list.clone(), model.clone());
            for (add, key, value) in steps {
                if add {
                    let new = list.insert(Pair(key, value), |old, item| *old = item);
                    prop_assert_eq!(new, model.insert(key, value).is_none());
                } else {
                    let removed = list.remove(key).map(|pair| pair.1);
                    prop_assert_eq!(removed, model.remove(&key));
                }
            }
            same(&list, &model);
            same(&kept, &kept_model);
            for key in model.keys() {
                prop_assert!(list.remove(*key).is_some());
            }
            prop_assert_eq!(list.len(), 0);
            prop_assert!(matches!(list.root, Tree::Chunk(_)));
        }
    }

    #[test]
    fn ascending_inserts_leave_full_chunks() {
        let mut list = Chunks::new();
        for key in 0..1000 {
            list.insert(Pair(key, 0), |_, _| unreachable!("keys are distinct"));
        }
        let mut chunks = 0;
        let mut index = 0;
        while index < list.len() {
            index += list.run_from(index).len();
            chunks += 1;
        }
        assert_eq!(chunks, 250);
    }
}
