//! Which sequence numbers were seen, in memory that grows with gaps and not
//! with messages.
//!
//! A broker that keeps its promises costs one interval a publisher and
//! subscriber, however long the run: 24 bytes, without an allocation. Only
//! what went missing or came out of order takes more.

/// Sequence numbers from the first up to and without the second.
pub type Span = (u64, u64);

/// A set of sequence numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Intervals {
    /// The highest interval, where nearly every number goes; empty if both ends
    /// are equal.
    last: Span,
    /// The others, ascending, apart from each other and below `last`.
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24, and nearly always none")]
    earlier: Option<Box<Vec<Span>>>,
}

const _: () = assert!(size_of::<Intervals>() == 24);

/// What inserting a number found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inserted {
    /// New, and higher than all before.
    InOrder,
    /// New, and lower than one before.
    OutOfOrder,
    /// Had been there.
    Again,
    /// It would have needed another interval, and there was no room for one.
    NoRoom,
}

impl Intervals {
    /// Intervals in use; what a bound on memory counts.
    pub fn len(&self) -> usize {
        self.earlier().len() + usize::from(!self.is_empty())
    }

    /// Whether no number is in it.
    pub fn is_empty(&self) -> bool {
        self.last.0 == self.last.1
    }

    /// The number after the highest; 0 of an empty set.
    pub fn end(&self) -> u64 {
        self.last.1
    }

    /// How many numbers are in it.
    pub fn count(&self) -> u64 {
        count(&self.spans())
    }

    /// Whether one interval holds all of `span`.
    pub fn covers(&self, span: Span) -> bool {
        let within = |own: &Span| own.0 <= span.0 && span.1 <= own.1;
        span.0 >= span.1 || within(&self.last) || self.earlier().iter().any(within)
    }

    /// All intervals, ascending.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = self.earlier().to_vec();
        if !self.is_empty() {
            spans.push(self.last);
        }
        spans
    }

    /// Adds one number; `room` allows for another interval.
    ///
    /// `u64::MAX` has no end after it and counts as no room.
    pub fn insert(&mut self, number: u64, room: bool) -> Inserted {
        let Some(next) = number.checked_add(1) else {
            return Inserted::NoRoom;
        };
        if self.is_empty() {
            if !room {
                return Inserted::NoRoom;
            }
            self.last = (number, next);
            return Inserted::InOrder;
        }
        if number == self.last.1 {
            self.last.1 = next;
            return Inserted::InOrder;
        }
        if number > self.last.1 {
            if !room {
                return Inserted::NoRoom;
            }
            let last = std::mem::replace(&mut self.last, (number, next));
            self.earlier.get_or_insert_default().push(last);
            return Inserted::InOrder;
        }
        if number >= self.last.0 {
            return Inserted::Again;
        }
        self.insert_below(number, next, room)
    }

    /// Adds every number of `spans`, ascending and apart, whatever room it takes.
    pub fn extend(&mut self, spans: &[Span]) {
        let mut all = union(&self.spans(), spans);
        self.last = all.pop().unwrap_or_default();
        self.earlier = (!all.is_empty()).then(|| Box::new(all));
    }

    /// A number under `last`: a late one, so this path may take its time.
    fn insert_below(&mut self, number: u64, next: u64, room: bool) -> Inserted {
        let spans = self.earlier.get_or_insert_default();
        // The first interval that begins above the number.
        let at = spans.partition_point(|span| span.0 <= number);
        if at > 0 && number < spans[at - 1].1 {
            return Inserted::Again;
        }
        let joins_below = at > 0 && spans[at - 1].1 == number;
        let above = spans.get(at).copied().unwrap_or(self.last);
        let joins_above = above.0 == next;
        match (joins_below, joins_above) {
            (true, true) => {
                let start = spans.remove(at - 1).0;
                self.begin_at(at - 1, start);
            }
            (true, false) => spans[at - 1].1 = next,
            (false, true) => self.begin_at(at, number),
            (false, false) if room => spans.insert(at, (number, next)),
            (false, false) => return Inserted::NoRoom,
        }
        Inserted::OutOfOrder
    }

    /// Lets the interval at `at`, which may be the last, begin at `start`.
    fn begin_at(&mut self, at: usize, start: u64) {
        match self.earlier.as_mut().and_then(|spans| spans.get_mut(at)) {
            Some(span) => span.0 = start,
            None => self.last.0 = start,
        }
    }

    fn earlier(&self) -> &[Span] {
        self.earlier.as_ref().map_or(&[], |spans| spans)
    }
}

/// How many numbers the spans hold.
pub fn count(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.1 - span.0).sum()
}

/// What is in either.
pub fn union(one: &[Span], other: &[Span]) -> Vec<Span> {
    let mut all: Vec<Span> = one.iter().chain(other).copied().filter(|s| s.0 < s.1).collect();
    all.sort_unstable();
    let mut joined: Vec<Span> = Vec::with_capacity(all.len());
    for span in all {
        match joined.last_mut() {
            Some(last) if span.0 <= last.1 => last.1 = last.1.max(span.1),
            Some(_) | None => joined.push(span),
        }
    }
    joined
}

/// What is in both.
pub fn intersection(one: &[Span], other: &[Span]) -> Vec<Span> {
    let (mut a, mut b) = (one.iter().peekable(), other.iter().peekable());
    let mut both = Vec::new();
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        let span = (x.0.max(y.0), x.1.min(y.1));
        if span.0 < span.1 {
            both.push(span);
        }
        if x.1 <= y.1 {
            a.next();
        } else {
            b.next();
        }
    }
    both
}

/// What is in `from` and not in `taken`.
pub fn difference(from: &[Span], taken: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    let mut taken = taken.iter().peekable();
    for &(mut start, end) in from {
        while let Some(&&(gone, back)) = taken.peek() {
            if gone >= end {
                break;
            }
            if start < gone {
                left.push((start, gone));
            }
            start = start.max(back);
            if back > end {
                break;
            }
            taken.next();
        }
        if start < end {
            left.push((start, end));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn of(numbers: impl IntoIterator<Item = u64>) -> Intervals {
        let mut set = Intervals::default();
        for number in numbers {
            set.insert(number, true);
        }
        set
    }

    #[test]
    fn a_steady_stream_is_one_interval() {
        let set = of(0..100_000);
        assert_eq!(set.spans(), [(0, 100_000)]);
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn a_gap_closes_when_the_late_one_comes() {
        let mut set = of([0, 1, 3, 4]);
        assert_eq!(set.len(), 2);
        assert_eq!(set.insert(2, false), Inserted::OutOfOrder, "joining needs no room");
        assert_eq!(set.spans(), [(0, 5)]);
        assert_eq!(set.insert(2, true), Inserted::Again);
    }

    #[test]
    fn a_span_is_covered_by_one_interval_and_not_by_two() {
        let set = of([2, 3, 4, 6, 7]);
        assert!(set.covers((2, 5)) && set.covers((3, 4)) && set.covers((6, 8)));
        assert!(!set.covers((2, 8)) && !set.covers((5, 6)) && !set.covers((6, 9)));
        assert!(set.covers((9, 9)), "nothing is covered by anything");
    }

    #[test]
    fn without_room_nothing_is_kept_and_nothing_pretended() {
        let mut set = of([0, 5]);
        assert_eq!(set.insert(9, false), Inserted::NoRoom);
        assert_eq!(set.insert(2, false), Inserted::NoRoom);
        assert_eq!(set.insert(u64::MAX, true), Inserted::NoRoom);
        assert_eq!(set.spans(), [(0, 1), (5, 6)]);
    }

    /// A small generator, so that the walk below is the same every time.
    fn walk(seed: u64, steps: usize, below: u64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        (0..steps).map(move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        })
    }

    #[test]
    fn intervals_agree_with_a_plain_set_on_every_insert() {
        for seed in 0..50 {
            let mut plain = BTreeSet::new();
            let mut set = Intervals::default();
            for number in walk(seed, 300, 120) {
                let highest = plain.last().copied();
                let expected = match (plain.insert(number), highest) {
                    (false, _) => Inserted::Again,
                    (true, Some(highest)) if number < highest => Inserted::OutOfOrder,
                    (true, _) => Inserted::InOrder,
                };
                assert_eq!(set.insert(number, true), expected, "seed {seed}, {number}");
                assert_eq!(set.count(), plain.len() as u64, "seed {seed}");
            }
            let listed: Vec<u64> = set.spans().iter().flat_map(|s| s.0..s.1).collect();
            assert_eq!(listed, plain.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn set_algebra_agrees_with_a_plain_set() {
        let listed = |spans: &[Span]| spans.iter().flat_map(|s| s.0..s.1).collect::<BTreeSet<_>>();
        for seed in 0..200 {
            let one = of(walk(seed, 40, 90)).spans();
            let other = of(walk(seed + 1_000, 40, 90)).spans();
            let (a, b) = (listed(&one), listed(&other));
            assert_eq!(listed(&union(&one, &other)), &a | &b, "seed {seed}");
            assert_eq!(listed(&intersection(&one, &other)), &a & &b, "seed {seed}");
            assert_eq!(listed(&difference(&one, &other)), &a - &b, "seed {seed}");
        }
    }
}
