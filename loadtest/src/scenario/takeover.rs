//! Clients that come a second time while they are there.
//!
//! The first connection moves to a spare slot and goes on there; the second is
//! made in the client's own. Once the second has its CONNACK, nothing that the
//! first still brings is looked at: its session is the second's.

use std::collections::HashMap;

use tidegate_loadtest::ledger::Ledger;

use crate::engine::clock::SECOND;
use crate::engine::{Gone, Net};
use crate::scenario::tally::Tally;

/// A first connection that lives that long beside the second was not ended.
const END_TIME_MAX: u64 = 5 * SECOND;
/// The reason of 5.0 for those that were taken over.
const TAKEN_OVER: u8 = 0x8E;

/// First connections that are to end, by client.
#[derive(Debug, Default)]
pub(crate) struct Takeovers(HashMap<u32, First>);

#[derive(Clone, Copy, Debug)]
struct First {
    slot: u32,
    /// When the second was accepted; 0: not yet.
    accepted: u64,
    /// What its DISCONNECT said.
    told: Option<u8>,
    /// How it ended.
    gone: Option<Gone>,
}

impl Takeovers {
    /// Whether a client's takeover is not over.
    pub(crate) fn has(&self, client: u32) -> bool {
        self.0.contains_key(&client)
    }

    /// How many are not over.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// A first connection moved to a spare slot.
    pub(crate) fn begin(&mut self, client: u32, slot: u32) {
        self.0.insert(client, First { slot, accepted: 0, told: None, gone: None });
    }

    /// Whether the second has taken over from what is in a spare slot.
    pub(crate) fn obsolete(&self, client: u32) -> bool {
        self.0.get(&client).is_none_or(|first| first.accepted > 0)
    }

    /// The second was accepted.
    pub(crate) fn accepted(&mut self, client: u32, now: u64, v5: bool, ledger: &mut Ledger) {
        if let Some(first) = self.0.get_mut(&client) {
            first.accepted = now.max(1);
        }
        self.settle(client, v5, ledger);
    }

    /// The first got a DISCONNECT.
    pub(crate) fn told(&mut self, client: u32, reason: u8) {
        if let Some(first) = self.0.get_mut(&client) {
            first.told = Some(reason);
        }
    }

    /// The first ended.
    pub(crate) fn gone(&mut self, client: u32, gone: Gone, v5: bool, ledger: &mut Ledger) {
        if let Some(first) = self.0.get_mut(&client) {
            first.gone = Some(gone);
        }
        self.settle(client, v5, ledger);
    }

    fn settle(&mut self, client: u32, v5: bool, ledger: &mut Ledger) {
        let Some(first) = self.0.get(&client).copied() else { return };
        let (true, Some(gone)) = (first.accepted > 0, first.gone) else { return };
        self.0.remove(&client);
        // A reset may have swallowed the farewell.
        let told = !v5 || first.told == Some(TAKEN_OVER) || gone == Gone::Reset;
        ledger.taken_over(true, told);
    }

    /// Gives up on those that live on.
    pub(crate) fn expire(
        &mut self,
        net: &mut Net,
        now: u64,
        ledger: &mut Ledger,
        tally: &mut Tally,
    ) {
        self.0.retain(|_, first| {
            let lives = first.accepted == 0 || now < first.accepted + END_TIME_MAX;
            if !lives {
                net.close(first.slot);
                ledger.taken_over(false, false);
                tally.error("a first connection lived on beside the second");
            }
            lives
        });
    }
}
