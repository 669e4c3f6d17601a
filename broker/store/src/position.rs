use std::fmt;

/// The offset of a byte since the log began. The log's positions only grow;
/// removing old segments does not renumber what stays.
///
/// Position 0 is the head of the first group, so no record ever lies there and
/// an owner may use it for 'none'.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position(pub u64);

impl Position {
    /// The position of what lies `bytes` further on.
    #[must_use]
    pub fn after(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
