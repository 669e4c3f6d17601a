//! Known holes of clusters, planted so that the simulator's checkers are checked.
//!
//! Only with the feature `holes`, which the simulator switches on; else
//! `on` is a constant. A hole is open on the thread that opened it.

/// One of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hole {
    /// Of two retained messages that with the larger number stays, whatever the
    /// log of the topic's partition says.
    RetainedLastWriter,
    /// What came in at QoS 2 is known to the connection alone.
    LocalQos2,
    /// A packet id is used again before its exchange is over.
    EarlyPacketId,
    /// An errand is numbered by the shard that sends it.
    LanesByIncarnation,
    /// Only the first subscriber of a filter waits until the others know it.
    SecondSubscriber,
}

#[cfg(feature = "holes")]
thread_local! {
    static OPEN: std::cell::Cell<Option<Hole>> = const { std::cell::Cell::new(None) };
}

/// Opens a hole on this thread, and closes the one before.
#[cfg(feature = "holes")]
pub fn open(hole: Option<Hole>) {
    OPEN.set(hole);
}

/// Whether it is open.
#[inline]
pub(crate) fn on(hole: Hole) -> bool {
    #[cfg(feature = "holes")]
    return OPEN.get() == Some(hole);
    #[cfg(not(feature = "holes"))]
    {
        let _ = hole;
        false
    }
}
