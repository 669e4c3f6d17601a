//! One subscription as the index keeps it.

use crate::ids::SessionKey;

/// What a subscription asks for, in one byte.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Options(u8);

impl Options {
    const QOS: u8 = 0b0011;
    const NO_LOCAL: u8 = 0b0100;
    const RETAIN_AS_PUBLISHED: u8 = 0b1000;

    /// `qos` is 0, 1 or 2; the parser of the packet has seen to it.
    pub const fn new(qos: u8, no_local: bool, retain_as_published: bool) -> Options {
        let mut bits = qos & Options::QOS;
        if no_local {
            bits |= Options::NO_LOCAL;
        }
        if retain_as_published {
            bits |= Options::RETAIN_AS_PUBLISHED;
        }
        Options(bits)
    }

    /// As one byte, for records.
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    /// The reverse of `bits`; what no version knows is left out.
    pub(crate) const fn of_bits(bits: u8) -> Options {
        Options(bits & 0b1111)
    }

    /// The highest QoS that the subscription is granted.
    pub const fn qos(self) -> u8 {
        self.0 & Options::QOS
    }

    /// Whether the session's own publishes are withheld.
    pub const fn no_local(self) -> bool {
        self.0 & Options::NO_LOCAL != 0
    }

    /// Whether live messages keep the retain flag they were published with.
    pub const fn retain_as_published(self) -> bool {
        self.0 & Options::RETAIN_AS_PUBLISHED != 0
    }

    /// One copy for overlapping filters: the highest QoS; withheld from its
    /// publisher only if every filter says so; the retain flag if any wants it.
    pub fn merge(self, other: Options) -> Options {
        Options::new(
            self.qos().max(other.qos()),
            self.no_local() && other.no_local(),
            self.retain_as_published() || other.retain_as_published(),
        )
    }
}

/// A session's subscription to one filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subscriber {
    /// Whose it is.
    pub session: SessionKey,
    /// What it asks for.
    pub options: Options,
    /// The subscription identifier, 1 to 268,435,455; 0 is none. Of a remote, when
    /// it was said: no route shows that.
    pub subscription_id: u32,
}

// A million of them are kept: a field more is 4 MB more.
const _: () = assert!(size_of::<Subscriber>() == 20);
