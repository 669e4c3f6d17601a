//! Reads of retained messages that wait until a quorum has said that this node
//! still leads what is read.
//!
//! A node that was paused or cut off may have been replaced and not know it: what
//! it has is then older than what the next leader has acknowledged. So a read
//! that begins here waits for an answer that was asked for after it came
//! (ReadIndex). One round is under way at a time, for all that have come until
//! it began; who is not answered asks again.

use std::sync::Arc;

use super::Shard;
use crate::limits::PROOF_ROUNDS_MAX;
use crate::mail::Replay;
use crate::retained::Cursor;

/// Bounded like the reads themselves: by the replays of sessions.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    wanted: bool,
    /// Those that the round under way is for, and the rounds that each has had.
    // Boxed as they travel.
    #[allow(clippy::vec_box)]
    asked: Vec<(Box<Replay>, u8)>,
    under_way: bool,
    /// Those that have come since.
    #[allow(clippy::vec_box)]
    next: Vec<(Box<Replay>, u8)>,
}

impl Shard {
    /// From now on the shell answers [`Shard::take_unproven`] with
    /// [`Shard::proven`].
    pub fn want_proofs(&mut self) {
        self.proofs.wanted = true;
    }

    /// A replay asks for what is kept here.
    pub(super) fn queried(&mut self, replay: Box<Replay>) {
        let begun = replay.cursor.is_some() && replay.keeper == self.id;
        if !self.proofs.wanted || begun || replay.is_system() {
            return self.queries.push_back(replay);
        }
        self.proofs.next.push((replay, 0));
    }

    /// The partitions, a bit each, of which a quorum is to say that this node
    /// leads them; none: nothing is to be asked now.
    pub fn take_unproven(&mut self) -> Option<u64> {
        if self.proofs.under_way || self.proofs.next.is_empty() {
            return None;
        }
        let kept = self.kept(false);
        let mut asked = std::mem::take(&mut self.proofs.next);
        // What has moved is asked for again.
        asked.retain(|(replay, _)| replay.left & kept != 0);
        let wanted = asked.iter().fold(0, |wanted, (replay, _)| wanted | replay.left & kept);
        self.proofs.under_way = wanted != 0;
        self.proofs.asked = asked;
        (wanted != 0).then_some(wanted)
    }

    /// It has, of these. Whatever was committed before is applied.
    pub fn proven(&mut self, partitions: u64) {
        self.proofs.under_way = false;
        for (mut replay, rounds) in std::mem::take(&mut self.proofs.asked) {
            (replay.asked, replay.keeper) = (replay.left & partitions, self.id);
            if replay.asked != 0 {
                replay.cursor = Some(Cursor::new(Arc::clone(&replay.filter)));
                self.queries.push_back(replay);
            } else if rounds < PROOF_ROUNDS_MAX {
                self.proofs.next.push((replay, rounds + 1));
            }
        }
    }
}
