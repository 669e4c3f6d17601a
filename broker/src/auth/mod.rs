//! Who may come in (not yet: nobody but by `anonymous`).

use tidegate_core::Opened;
use tidegate_core::ids::{Millis, ShardId};

/// A CONNECT whose password is to be checked.
#[derive(Debug)]
pub struct Attempt {
    /// Where it came in.
    pub shard: ShardId,
    /// Its connection.
    pub opened: Opened,
    /// Its user name.
    pub user: String,
    /// Its password.
    pub password: Vec<u8>,
    /// When nobody waits any more.
    pub expires_at: Millis,
}

/// Who looks at passwords.
#[derive(Debug, Default)]
pub struct Doorman;

impl Doorman {
    /// Whether there are any.
    pub fn has_passwords(&self) -> bool {
        false
    }

    /// Has a password checked.
    ///
    /// # Errors
    /// The attempt comes back when too many wait.
    pub fn ask(&self, attempt: Attempt) -> Result<(), Attempt> {
        Err(attempt)
    }
}
