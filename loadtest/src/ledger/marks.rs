//! When messages were published, coarsely: what says how far a publisher was
//! while a subscriber of another worker was away.

/// Marks of a stream; past it every other is forgotten.
const MARKS_MAX: usize = 1_024;
/// Time between two marks at first.
const SPACING_NS: u64 = 10_000_000;

/// Times and the numbers published then, ascending.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub(super) noted: Vec<(u64, u64)>,
    spacing: u64,
}

impl Marks {
    /// A message is published.
    pub(super) fn note(&mut self, now: u64, sequence: u64) {
        let spacing = self.spacing.max(SPACING_NS);
        if self.noted.last().is_some_and(|last| now < last.0 + spacing) {
            return;
        }
        if self.noted.len() >= MARKS_MAX {
            let mut odd = false;
            self.noted.retain(|_| {
                odd = !odd;
                odd
            });
            self.spacing = spacing * 2;
        }
        self.noted.push((now, sequence));
    }

    /// A number from which on all were published after `time`; up to the spacing's worth of
    /// messages before it were, too.
    pub(super) fn first_after(&self, time: u64) -> Option<u64> {
        let at = self.noted.partition_point(|mark| mark.0 <= time);
        self.noted.get(at).map(|mark| mark.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_the_run_marks_stay_few_and_in_order() {
        let mut marks = Marks::default();
        for number in 0..1_000_000_u64 {
            marks.note(number * 1_000_000, number);
        }
        assert!(marks.noted.len() <= MARKS_MAX, "{}", marks.noted.len());
        assert!(marks.noted.is_sorted());
        let found = marks.first_after(500_000_000_000).expect("there are later ones");
        assert!((500_000..504_000).contains(&found), "{found}");
        assert_eq!(marks.first_after(u64::MAX), None);
    }
}
