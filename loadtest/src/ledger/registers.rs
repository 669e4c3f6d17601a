//! What a broker keeps for who comes later: the truth about retained messages.
//!
//! A topic is a register. Once a set is acknowledged, whoever subscribes must be
//! sent that value and no older one; once a clear is, nothing.

use serde::{Deserialize, Serialize};

use crate::identity::{Identity, IdentityError};

/// What is known to be kept in a register.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Kept {
    /// A set or clear is under way, or its end is not known.
    #[default]
    Unknown,
    /// The acknowledged value, by its number.
    Value(u64),
    /// The clear was acknowledged.
    Nothing,
}

/// What looks into registers found.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct RetainedReport {
    /// Sets that were acknowledged.
    pub set: u64,
    /// Clears that were acknowledged.
    pub cleared: u64,
    /// Subscriptions that were to be sent a value.
    pub looks: u64,
    /// Subscriptions that were to be sent nothing.
    pub empty_looks: u64,
    /// The acknowledged value came, marked as retained.
    pub right: u64,
    /// An older value came.
    pub stale: u64,
    /// Nothing came.
    pub missing: u64,
    /// Something came after a clear.
    pub ghosts: u64,
    /// The value came without its retain flag.
    pub unmarked: u64,
    /// Something came that was never set there.
    pub strange: u64,
}

impl RetainedReport {
    /// A message came to who looks into register `number`.
    pub fn came(
        &mut self,
        number: u32,
        kept: Kept,
        identity: &Result<Identity, IdentityError>,
        retain: bool,
    ) {
        let value = match (kept, identity) {
            (Kept::Unknown, _) => return,
            (Kept::Nothing, _) => {
                self.ghosts += 1;
                return;
            }
            (Kept::Value(value), _) => value,
        };
        match identity {
            Ok(identity) if identity.publisher == number && identity.sequence < value => {
                self.stale += 1;
            }
            Ok(identity) if identity.publisher == number && identity.sequence == value => {
                // [MQTT-3.3.1-8]
                if retain { self.right += 1 } else { self.unmarked += 1 }
            }
            Ok(_) | Err(_) => self.strange += 1,
        }
    }

    /// What broke a promise.
    pub fn wrong(&self) -> u64 {
        self.stale + self.missing + self.ghosts + self.unmarked + self.strange
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.set += other.set;
        self.cleared += other.cleared;
        self.looks += other.looks;
        self.empty_looks += other.empty_looks;
        self.right += other.right;
        self.stale += other.stale;
        self.missing += other.missing;
        self.ghosts += other.ghosts;
        self.unmarked += other.unmarked;
        self.strange += other.strange;
    }
}

#[cfg(test)]
mod tests {
    use tidegate_codec::QoS;

    use super::*;

    fn value(publisher: u32, sequence: u64) -> Result<Identity, IdentityError> {
        Ok(Identity { run: 7, publisher, qos: QoS::AtLeastOnce, sequence, due_ns: 0 })
    }

    #[test]
    fn only_the_acknowledged_value_is_right() {
        let mut report = RetainedReport::default();
        report.came(3, Kept::Value(5), &value(3, 5), true);
        assert_eq!((report.right, report.wrong()), (1, 0));
        report.came(3, Kept::Value(5), &value(3, 4), true);
        report.came(3, Kept::Value(5), &value(3, 5), false);
        report.came(3, Kept::Value(5), &value(3, 6), true);
        report.came(3, Kept::Value(5), &value(4, 5), true);
        report.came(3, Kept::Nothing, &value(3, 5), true);
        report.came(3, Kept::Value(5), &Identity::decode(b"else"), true);
        let found = (report.stale, report.unmarked, report.strange, report.ghosts);
        assert_eq!((found, report.right), ((1, 1, 3, 1), 1));
    }

    #[test]
    fn while_nobody_knows_nobody_judges() {
        let mut report = RetainedReport::default();
        report.came(3, Kept::Unknown, &value(3, 0), true);
        assert_eq!(report, RetainedReport::default());
    }
}
