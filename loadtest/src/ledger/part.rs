//! A ledger as it travels from a worker to the coordinator.

use serde::{Deserialize, Serialize};

use crate::intervals::Span;
use crate::ledger::registers::RetainedReport;
use crate::outcome::Takeovers;

/// A worker's account, on its way to the coordinator.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LedgerPart {
    pub(super) run: u32,
    pub(super) streams: Vec<StreamPart>,
    pub(super) routes: Vec<RoutePart>,
    pub(super) absences: Vec<(u32, u64, Option<u64>)>,
    pub(super) forgotten: u64,
    pub(super) groups: Vec<(u32, u32)>,
    pub(super) cut_off: Vec<u32>,
    pub(super) takeovers: Takeovers,
    pub(super) retained: RetainedReport,
    pub(super) damaged: u64,
    pub(super) misrouted: u64,
    pub(super) foreign: u64,
}

impl LedgerPart {
    /// Turns times of a clock that is `ahead` into those of the coordinator's.
    pub fn set_clock(&mut self, ahead: i64) {
        let marks = self.streams.iter_mut().flat_map(|stream| &mut stream.marks);
        let times = marks.map(|mark| &mut mark.0);
        let until = self.absences.iter_mut().filter_map(|absence| absence.2.as_mut());
        for time in times.chain(until) {
            *time = time.saturating_add_signed(-ahead);
        }
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct StreamPart {
    pub(super) publisher: u32,
    pub(super) qos: u8,
    pub(super) published: u64,
    pub(super) acknowledged: Vec<Span>,
    pub(super) unrecorded: u64,
    pub(super) repeats: bool,
    pub(super) marks: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct RoutePart {
    pub(super) receiver: u32,
    pub(super) stream: u32,
    pub(super) granted: u8,
    pub(super) ordered: bool,
    pub(super) from: u64,
    pub(super) delivered: Vec<Span>,
    pub(super) duplicated: u32,
    pub(super) reordered: u32,
    pub(super) unrecorded: u32,
    pub(super) excused: Vec<Span>,
}
