//! What a client may do. The rules come from outside; these are the defaults.

use std::fmt::Debug;

use tidegate_codec::ReasonCode;

/// A client, as the rules know it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Who<'a> {
    /// Its client id.
    pub client: &'a str,
    /// Its user name, if somebody vouched for one.
    pub user: Option<&'a str>,
}

/// Decides what a connected client may publish and subscribe to. Called on the
/// shard's path: it must neither block nor lock.
pub trait Access: Debug + Send + Sync {
    /// Whether `who` may publish to `topic`; the reason if not.
    fn publish(&self, who: Who<'_>, topic: &str) -> Result<(), ReasonCode>;
    /// Whether `who` may subscribe to `filter` (without its `$share` prefix).
    fn subscribe(&self, who: Who<'_>, filter: &str) -> Result<(), ReasonCode>;
    /// Whether a subscription may be refused at all; if not, none is looked at
    /// again when its session is resumed.
    fn has_rules(&self) -> bool {
        true
    }
}

/// Everything but publishing to `$SYS`, which is the broker's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Access for Open {
    #[inline]
    fn publish(&self, _who: Who<'_>, topic: &str) -> Result<(), ReasonCode> {
        match topic.as_bytes() {
            [b'$', ..] if topic == "$SYS" || topic.starts_with("$SYS/") => {
                Err(ReasonCode::NotAuthorized)
            }
            _ => Ok(()),
        }
    }

    #[inline]
    fn subscribe(&self, _who: Who<'_>, _filter: &str) -> Result<(), ReasonCode> {
        Ok(())
    }

    fn has_rules(&self) -> bool {
        false
    }
}
