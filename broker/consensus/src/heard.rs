//! When a replica has last taken what only a leader says, and from whom.

use tokio::time::{Duration, Instant};

/// What was heard of leaders since the process opened the group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// Before, another process of this node may have heard anything.
    began: Instant,
    /// Who was heard last.
    newest: Option<(u64, Instant)>,
    /// When anybody else was.
    other: Option<Instant>,
}

impl Heard {
    pub(crate) fn new(now: Instant) -> Heard {
        Heard { began: now, newest: None, other: None }
    }

    /// A node has said something as a leader, rightly or not.
    pub(crate) fn took(&mut self, from: u64, now: Instant) {
        if let Some((node, at)) = self.newest
            && node != from
        {
            self.other = Some(at);
        }
        self.newest = Some((from, now));
    }

    /// For how long this leader was not heard, if it was the last one.
    pub(crate) fn silence_of(&self, leader: u64, now: Instant) -> Option<Duration> {
        let newest = self.newest.filter(|(node, _)| *node == leader);
        newest.map(|(_, at)| now.saturating_duration_since(at))
    }

    /// For how long certainly nobody but that node was heard.
    pub(crate) fn silence_but(&self, leader: u64, now: Instant) -> Duration {
        let newest = self.newest.filter(|(node, _)| *node != leader).map(|(_, at)| at);
        now.saturating_duration_since(newest.or(self.other).unwrap_or(self.began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_silence_of_one_is_known_while_it_is_the_last_that_was_heard() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut heard = Heard::new(began);
        assert_eq!(heard.silence_of(1, at(5)), None);
        heard.took(1, at(10));
        assert_eq!(heard.silence_of(1, at(15)), Some(Duration::from_millis(5)));
        heard.took(2, at(20));
        assert_eq!(heard.silence_of(1, at(25)), None, "it may have been deposed");
    }

    #[test]
    fn the_silence_of_all_but_one_counts_from_the_last_of_the_others() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let ms = |heard: &Heard, but, now| heard.silence_but(but, at(now)).as_millis();
        let mut heard = Heard::new(began);
        assert_eq!(ms(&heard, 1, 5), 5, "an earlier process may have heard somebody");
        heard.took(1, at(10));
        assert_eq!((ms(&heard, 1, 15), ms(&heard, 2, 15)), (15, 5));
        heard.took(2, at(20));
        heard.took(2, at(30));
        assert_eq!((ms(&heard, 2, 35), ms(&heard, 1, 35), ms(&heard, 3, 35)), (25, 5, 5));
        heard.took(1, at(40));
        assert_eq!((ms(&heard, 1, 45), ms(&heard, 2, 45)), (15, 5));
        heard.took(3, at(50));
        assert_eq!((ms(&heard, 3, 55), ms(&heard, 1, 55)), (15, 5));
    }
}
