//! What a node gives up when the disk fills up.
//!
//! Somebody outside measures, and says [`Node::set_room`](crate::Node::set_room).
//! What is kept stays, and so does everything that writes nothing: QoS 0,
//! sessions that end with their connection, deliveries of what waits.

/// How much room there is for what has to survive.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Room {
    /// Enough.
    #[default]
    Enough = 0,
    /// New messages that might have to be kept are refused: all with QoS 1 and
    /// 2 (0x97; before 5.0 the connection is closed, so that the client tries
    /// again later), whoever wants them; and retained ones are not kept.
    Low = 1,
    /// Durable sessions and their subscriptions are refused as well. Who comes
    /// back to a session that is there may fetch what waits for it, so that
    /// queues become shorter: within [`Node::set_resume_bytes`](crate::Node::set_resume_bytes).
    None = 2,
}

impl Room {
    /// All, in order.
    pub const ALL: [Room; 3] = [Room::Enough, Room::Low, Room::None];

    pub(crate) fn of(number: u8) -> Room {
        Room::ALL.get(usize::from(number)).copied().unwrap_or(Room::None)
    }
}
