//! The formats of mail between nodes.
//!
//! Format 2 is that of version 2 of the protocol between nodes; format 1, for
//! nodes that speak no more than its version 1, does not say what a message for a
//! partition comes behind. A message in it is taken whatever it comes behind. Errands
//! for other nodes are in format 2 alone, and are sent from feature level 2 on.

/// How mail is written, which is a matter of what the peer reads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MailFormat {
    /// Of peers that speak version 1 of the protocol.
    One,
    /// Since its version 2.
    #[default]
    Two,
}

impl MailFormat {
    /// Of peers that speak this version of the protocol: the newest format that
    /// it has, 1 before all others.
    pub fn of_protocol(version: u16) -> MailFormat {
        if version < 2 { MailFormat::One } else { MailFormat::Two }
    }

    /// The format that a mail says it is of; none: it is not known.
    pub(super) fn of_number(number: u8) -> Option<MailFormat> {
        [MailFormat::One, MailFormat::Two].into_iter().find(|format| format.number() == number)
    }

    /// What a mail says.
    pub(super) fn number(self) -> u8 {
        match self {
            MailFormat::One => 1,
            MailFormat::Two => 2,
        }
    }

    /// Whether a granted claim says that errands of its client are open.
    pub(super) fn tells_errands(self) -> bool {
        self.says_behind()
    }

    /// Whether a message for a partition says what it comes behind.
    pub(super) fn says_behind(self) -> bool {
        match self {
            MailFormat::One => false,
            MailFormat::Two => true,
        }
    }
}
