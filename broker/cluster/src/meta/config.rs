//! What is set for the cluster as a whole and may change while it runs.

use crate::limits::{FORGET_AFTER_MS, REBUILD_AFTER_LOSS_MS};
use crate::wire::{DecodeError, Reader, Writer};

use super::Refused;

/// The cluster's own settings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClusterConfig {
    /// Replicas of a partition (1, 2, 3, 5). 0: 3 where there are 3 nodes, else
    /// what there is.
    pub replication_factor: u8,
    /// Voters of the meta group at most (1, 3, 5).
    pub voters_max: u8,
    /// Clients of the whole cluster that are handed over a second, at most.
    pub reconnects_per_second_max: u32,
    /// Until the replicas of a node that is down are rebuilt elsewhere.
    pub rebuild_after_ms: u64,
    /// Until a node that is gone is forgotten, if nothing depends on it.
    pub forget_after_ms: u64,
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        ClusterConfig {
            replication_factor: 0,
            voters_max: 5,
            reconnects_per_second_max: 2_000,
            rebuild_after_ms: REBUILD_AFTER_LOSS_MS,
            forget_after_ms: FORGET_AFTER_MS,
        }
    }
}

impl ClusterConfig {
    /// Replicas of a partition where `nodes` nodes can hold one.
    pub fn replicas(&self, nodes: usize) -> u8 {
        let wanted = if self.replication_factor == 0 { 3 } else { self.replication_factor };
        u8::try_from(nodes).unwrap_or(u8::MAX).min(wanted)
    }

    pub(super) fn check(&self) -> Result<(), Refused> {
        let fault = |key| Err(Refused::BadConfig { key });
        if !matches!(self.replication_factor, 0 | 1 | 2 | 3 | 5) {
            return fault("replication_factor");
        }
        if !matches!(self.voters_max, 1 | 3 | 5) {
            return fault("voters_max");
        }
        if self.reconnects_per_second_max == 0 {
            return fault("reconnects_per_second_max");
        }
        if self.rebuild_after_ms < 10_000 {
            return fault("rebuild_after_ms");
        }
        if self.forget_after_ms < self.rebuild_after_ms {
            return fault("forget_after_ms");
        }
        Ok(())
    }

    pub(super) fn write(&self, to: &mut Writer) {
        to.u8(self.replication_factor);
        to.u8(self.voters_max);
        to.u32(self.reconnects_per_second_max);
        to.u64(self.rebuild_after_ms);
        to.u64(self.forget_after_ms);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<ClusterConfig, DecodeError> {
        Ok(ClusterConfig {
            replication_factor: from.u8("replication factor")?,
            voters_max: from.u8("voters")?,
            reconnects_per_second_max: from.u32("reconnects")?,
            rebuild_after_ms: from.u64("rebuild after")?,
            forget_after_ms: from.u64("forget after")?,
        })
    }
}
