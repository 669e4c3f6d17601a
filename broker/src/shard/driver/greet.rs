//! Connections that come or go: what is agreed below MQTT and the first packet,
//! in time and at a bounded share of the turn, and who it is that sends CONNECT.

use std::collections::VecDeque;

use tidegate_codec::{Connect, ReasonCode, decode_connect, frame};
use tidegate_core::counters::RejectReason;
use tidegate_core::ids::Millis;
use tidegate_core::{Hangup, Layer, Opened, Verdict};

use super::{Driver, TURN_NANOS_MAX};
use crate::auth::Attempt;
use crate::config::UserFrom;
use crate::net::door::Door;
use crate::shard::clock::Reading;
use crate::shard::table::Flags;

/// The share of a turn that they may take; one always gets through. While many
/// wait, turns are short and follow each other, so this is a third of the time.
const HANDSHAKE_NANOS_MAX: u64 = TURN_NANOS_MAX / 10;
/// Connections of a shard that are in a handshake at once. Further ones stay in
/// the kernel's queue, where they cost nothing.
const HANDSHAKES_MAX: usize = 1_024;

/// A connection that has not agreed on everything below MQTT.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Millis,
    opened: Opened,
}

/// The handshakes of a shard.
#[derive(Debug)]
pub(crate) struct Greeter {
    /// To be read, each at most once (`Flags::LISTED`).
    pub(super) ready: VecDeque<u32>,
    /// So many go on.
    going: usize,
    /// By listener, the earliest first.
    deadlines: Vec<VecDeque<Deadline>>,
}

impl Greeter {
    pub(super) fn new(listeners: usize) -> Greeter {
        let deadlines = (0..listeners).map(|_| VecDeque::new()).collect();
        Greeter { ready: VecDeque::new(), going: 0, deadlines }
    }

    /// Whether no further one should begin.
    pub(crate) fn is_full(&self) -> bool {
        self.going >= HANDSHAKES_MAX
    }

    /// Whether there is room for a good number again.
    pub(crate) fn has_room(&self) -> bool {
        self.going <= HANDSHAKES_MAX / 2
    }

    /// One begins.
    pub(super) fn begin(&mut self, listener: u16, at: Millis, opened: Opened) {
        self.going += 1;
        if let Some(deadlines) = self.deadlines.get_mut(usize::from(listener)) {
            deadlines.push_back(Deadline { at, opened });
        }
    }

    /// One is over, whatever came of it.
    pub(super) fn end(&mut self) {
        self.going = self.going.saturating_sub(1);
    }

    pub(super) fn next_tick(&self) -> Option<Millis> {
        self.deadlines.iter().filter_map(|queue| queue.front()).map(|first| first.at).min()
    }

    fn due(&mut self, now: Millis) -> Option<Opened> {
        let due = |queue: &&mut VecDeque<Deadline>| queue.front().is_some_and(|d| d.at <= now);
        self.deadlines.iter_mut().find(due)?.pop_front().map(|deadline| deadline.opened)
    }
}

/// What is to be done about a CONNECT.
enum Found {
    Known(Verdict),
    /// The password has to be looked at.
    Ask {
        user: String,
        password: Vec<u8>,
    },
}

impl Driver {
    /// Reads those in a handshake, for their share of the turn.
    pub(super) fn greet(&mut self, now: Millis, began: Reading) {
        let start = Reading::take();
        for _ in 0..self.greeter.ready.len() {
            let Some(slot) = self.greeter.ready.pop_front() else { return };
            self.read_listed(now, slot, began);
            if Reading::take().nanos_since(start) >= HANDSHAKE_NANOS_MAX {
                return;
            }
        }
    }

    /// Ends those that took too long.
    pub(super) fn end_late_handshakes(&mut self, now: Millis) {
        while let Some(Opened { slot, generation }) = self.greeter.due(now) {
            let late = |entry: &mut crate::shard::table::Entry| entry.is_handshaking();
            if self.table.tenant(slot, generation).is_some_and(late) {
                self.hang_up(now, slot, Hangup::Layer(Layer::Timeout));
            }
        }
    }

    /// The core asks whether the CONNECT that a connection keeps may come in.
    pub(super) fn authenticate(&mut self, now: Millis, opened: Opened) {
        let Opened { slot, generation } = opened;
        let packet_bytes_max = self.node().settings.limits.packet_bytes_max;
        let deadline = now + Millis::from(self.node().settings.limits.connect_timeout_ms);
        let Some(listener) = self.table.listener(slot) else { return };
        let Some(entry) = self.table.tenant(slot, generation) else { return };
        if entry.flags.has(Flags::CLOSING) {
            return;
        }
        let Some(door) = self.shared.doors.get(usize::from(listener)) else { return };
        let bytes = entry.stash();
        let found = match frame(bytes, packet_bytes_max) {
            Ok(Some(frame)) => match decode_connect(&frame, &bytes[..frame.total]) {
                Ok(connect) => find(door, entry, &connect, self.shared.doorman.has_passwords()),
                // The core has decoded it already, or would not have asked.
                Err(_) => Found::Known(refuse(ReasonCode::MalformedPacket, RejectReason::Protocol)),
            },
            Ok(None) | Err(_) => {
                Found::Known(refuse(ReasonCode::MalformedPacket, RejectReason::Protocol))
            }
        };
        match found {
            Found::Known(verdict) => self.admit(now, opened, verdict),
            Found::Ask { user, password } => {
                let attempt =
                    Attempt { shard: self.id, opened, user, password, expires_at: deadline };
                if self.shared.doorman.ask(attempt).is_err() {
                    let busy = refuse(ReasonCode::QuotaExceeded, RejectReason::Busy);
                    self.admit(now, opened, busy);
                }
            }
        }
    }

    /// Tells the core; from here on nobody needs to know who it is.
    pub(super) fn admit(&mut self, now: Millis, opened: Opened, verdict: Verdict) {
        if let Some(entry) = self.table.tenant(opened.slot, opened.generation) {
            entry.forget_peer();
            self.core.admit(now, opened, verdict);
        }
    }
}

/// Who it is, by what the listener goes by.
fn find(
    door: &Door,
    entry: &crate::shard::table::Entry,
    connect: &Connect<'_>,
    passwords: bool,
) -> Found {
    let peer = entry.peer();
    let shown = match door.listener.user_from {
        UserFrom::Connect => return find_in_connect(door, connect, passwords),
        UserFrom::CertificateCn => peer.and_then(|peer| peer.common_name.as_deref()),
        UserFrom::CertificateSan => peer.and_then(|peer| peer.alternative_name.as_deref()),
        UserFrom::ProxyCn => peer.and_then(|peer| peer.proxy_name.as_deref()),
    };
    Found::Known(match shown {
        Some(user) => Verdict::Admit { user: Some(user.into()) },
        None if door.listener.anonymous => Verdict::Admit { user: None },
        None => refuse(ReasonCode::NotAuthorized, RejectReason::Auth),
    })
}

fn find_in_connect(door: &Door, connect: &Connect<'_>, passwords: bool) -> Found {
    match connect.username {
        Some(user) if passwords => Found::Ask {
            user: user.to_owned(),
            password: connect.password.unwrap_or_default().to_vec(),
        },
        _ if door.listener.anonymous => Found::Known(Verdict::Admit { user: None }),
        Some(_) | None => Found::Known(refuse(ReasonCode::NotAuthorized, RejectReason::Auth)),
    }
}

fn refuse(code: ReasonCode, reason: RejectReason) -> Verdict {
    Verdict::Refuse { code, reason }
}
