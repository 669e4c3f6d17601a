//! Bugs that can be switched on, so that the checkers are checked.

/// A bug of the driver around core and store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Plant {
    /// A batch is called durable as soon as it is written.
    AckBeforeSync,
    /// The disk does not sync its directory.
    SkipDirSync,
    /// Every few records of a partition are not written.
    LoseRecords,
    /// After a start nobody is told that the connections of before are gone.
    SkipResume,
    /// The store goes on after a sync that failed.
    IgnoreSyncError,
    /// Mail between shards overtakes other mail.
    ReorderMail,
    /// Some mail between shards is lost.
    LoseMail,
    /// A partition's state is read back and the records behind it are not.
    StateWithoutTail,
    /// The log is cut off without writing again what queues need of it.
    RemoveTooMuch,
}

impl Plant {
    /// All of them with their names.
    pub const ALL: [(&'static str, Plant); 9] = [
        ("ack-before-sync", Plant::AckBeforeSync),
        ("skip-dir-sync", Plant::SkipDirSync),
        ("lose-records", Plant::LoseRecords),
        ("skip-resume", Plant::SkipResume),
        ("ignore-sync-error", Plant::IgnoreSyncError),
        ("reorder-mail", Plant::ReorderMail),
        ("lose-mail", Plant::LoseMail),
        ("state-without-tail", Plant::StateWithoutTail),
        ("remove-too-much", Plant::RemoveTooMuch),
    ];

    /// The one with this name.
    pub fn named(name: &str) -> Option<Plant> {
        Plant::ALL.iter().find(|(known, _)| *known == name).map(|(_, plant)| *plant)
    }
}
