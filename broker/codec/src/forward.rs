//! The part of a property list that goes on to subscribers, unchanged.

use crate::property::{PropertyIter, span};

const MESSAGE_EXPIRY: u8 = 0x02;
const SUBSCRIPTION_ID: u8 = 0x0B;
const WILL_DELAY: u8 = 0x18;
const TOPIC_ALIAS: u8 = 0x23;

/// The properties that are forwarded verbatim and in order: all but topic
/// alias, message expiry, subscription identifiers and will delay, which belong
/// to one connection or are counted by the broker. When none of those is there,
/// the usual case, this is the sender's list itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Forward<'a> {
    list: &'a [u8],
    len: usize,
}

impl<'a> Forward<'a> {
    /// `list` has been validated; `dropped` is how many of its bytes stay here.
    pub(crate) fn new(list: &'a [u8], dropped: usize) -> Forward<'a> {
        Forward { list, len: list.len() - dropped }
    }

    /// The sender's list, with what is not forwarded.
    pub(crate) fn list(&self) -> &'a [u8] {
        self.list
    }

    /// Whether nothing is forwarded.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that [`copy_to`](Self::copy_to) appends.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The list itself, when it is forwarded whole.
    pub fn whole(&self) -> Option<&'a [u8]> {
        (self.len == self.list.len()).then_some(self.list)
    }

    /// Appends what is forwarded.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        if self.len == self.list.len() {
            out.extend_from_slice(self.list);
            return;
        }
        let mut rest = self.list;
        while let Some((id, len)) = span(rest) {
            let (one, next) = rest.split_at(len);
            if is_forwarded(id) {
                out.extend_from_slice(one);
            }
            rest = next;
        }
    }

    /// What is forwarded, in a vector of its own.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut list = Vec::with_capacity(self.len);
        self.copy_to(&mut list);
        list
    }

    /// The forwarded properties, one by one.
    pub fn iter(&self) -> impl Iterator<Item = crate::Property<'a>> + use<'a> {
        PropertyIter::over(self.list).filter(|property| is_forwarded(property.id()))
    }
}

/// Whether a property of a PUBLISH or a will goes on to subscribers.
pub(crate) const fn is_forwarded(id: u8) -> bool {
    !matches!(id, MESSAGE_EXPIRY | SUBSCRIPTION_ID | WILL_DELAY | TOPIC_ALIAS)
}

/// The subscription identifiers in a PUBLISH that a server sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SubscriptionIds<'a> {
    list: &'a [u8],
}

impl<'a> SubscriptionIds<'a> {
    pub(crate) fn new(list: &'a [u8]) -> SubscriptionIds<'a> {
        SubscriptionIds { list }
    }
}

impl Iterator for SubscriptionIds<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        while let Some((id, len)) = span(self.list) {
            let (one, rest) = self.list.split_at(len);
            self.list = rest;
            if id == SUBSCRIPTION_ID {
                let value = one[1..].iter().rev();
                return Some(value.fold(0, |sum, byte| sum << 7 | u32::from(byte & 0x7F)));
            }
        }
        None
    }
}
