//! Topic aliases of one connection, each way. Never part of a session
//! [MQTT-3.3.2-7].

use std::sync::Arc;

/// Aliases that the client has set.
#[derive(Debug, Default)]
pub(crate) struct AliasesIn(Vec<Option<Arc<str>>>);

impl AliasesIn {
    /// Sets or remaps `alias`, which is at most the announced maximum.
    pub(crate) fn set(&mut self, alias: u16, topic: &str) {
        let at = usize::from(alias) - 1;
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        if self.0[at].as_deref() != Some(topic) {
            self.0[at] = Some(topic.into());
        }
    }

    /// The topic behind `alias`.
    pub(crate) fn topic(&self, alias: u16) -> Option<Arc<str>> {
        self.0.get(usize::from(alias).checked_sub(1)?)?.clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Aliases that we have set towards the client: the first topics that came.
#[derive(Debug, Default)]
pub(crate) struct AliasesOut(Vec<Box<str>>);

/// Longer topics get no alias: what a client makes us remember stays small.
const TOPIC_BYTES_MAX: usize = 1_024;

/// How a topic is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outgoing {
    /// By name.
    Name,
    /// By an alias that is known.
    Known(u16),
    /// By name, setting this alias; to be confirmed by [`AliasesOut::set`]
    /// once the packet is really sent.
    New(u16),
}

impl AliasesOut {
    pub(crate) fn look(&self, topic: &str, max: u16) -> Outgoing {
        if topic.len() > TOPIC_BYTES_MAX {
            return Outgoing::Name;
        }
        match self.0.iter().position(|known| **known == *topic) {
            Some(at) => Outgoing::Known(at as u16 + 1),
            None if self.0.len() < usize::from(max) => Outgoing::New(self.0.len() as u16 + 1),
            None => Outgoing::Name,
        }
    }

    pub(crate) fn set(&mut self, topic: &str) {
        self.0.push(topic.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_out_counts_only_once_its_packet_was_sent() {
        let mut out = AliasesOut::default();
        assert_eq!(out.look("a", 1), Outgoing::New(1));
        assert_eq!(out.look("a", 1), Outgoing::New(1));
        out.set("a");
        assert_eq!(out.look("a", 1), Outgoing::Known(1));
        assert_eq!(out.look("b", 1), Outgoing::Name);
    }

    #[test]
    fn a_known_alias_in_is_remapped_by_a_topic() {
        let mut aliases = AliasesIn::default();
        assert_eq!(aliases.topic(3), None);
        aliases.set(3, "a");
        aliases.set(3, "b");
        assert_eq!(aliases.topic(3).as_deref(), Some("b"));
        assert_eq!(aliases.topic(0), None);
    }
}
