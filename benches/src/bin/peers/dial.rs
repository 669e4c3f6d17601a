//! Opening many connections: CONNECT, CONNACK, and their subscriptions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
pub(crate) use tidegate_loadtest::floor::Role;

use crate::net::{Net, Wait};
use benches::wire::{self, Frame, Version};

/// Keep-alive that every connection of a load asks for, in seconds.
pub(crate) const KEEP_ALIVE_S: u16 = 60;
/// Handshakes under way at once; below the shortest backlog of the peers (100).
const HANDSHAKES_MAX: usize = 64;
const FILTERS_PER_PACKET: usize = 200;
const DIAL_TIME_MAX: Duration = Duration::from_secs(300);

/// The letter of a role, the first of its client id.
fn letter(role: Role) -> char {
    match role {
        Role::Publisher => 'p',
        Role::Subscriber => 's',
        Role::Echo => 'e',
        Role::Idle => 'i',
    }
}

/// From a client id what the floor is to do with the bytes.
pub(crate) fn seat(client_id: &str) -> Option<(Role, u32)> {
    let role = [Role::Publisher, Role::Subscriber, Role::Echo, Role::Idle]
        .into_iter()
        .find(|role| client_id.starts_with(letter(*role)))?;
    Some((role, client_id.get(1..8)?.parse().ok()?))
}

/// What a connection subscribes to once it is accepted.
#[derive(Clone, Debug)]
pub(crate) enum Subscribe {
    /// Nothing.
    Nothing,
    /// One filter.
    One(String),
    /// The wildcard filters of `count` numbers from `first`.
    Wildcards { first: usize, count: usize },
}

/// One connection to open.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// What it is for.
    pub(crate) role: Role,
    /// Which publisher and subscribers belong together.
    pub(crate) group: usize,
    /// The protocol version.
    pub(crate) version: Version,
    /// The filters.
    pub(crate) subscribe: Subscribe,
    /// Maximum QoS of the filters.
    pub(crate) qos: u8,
}

impl Spec {
    /// A client id of 16 characters: role, group, serial number.
    fn client_id(&self, serial: usize) -> String {
        format!("{}{:07}{serial:08}", letter(self.role), self.group)
    }

    /// The SUBSCRIBE that begins with the filter `done`, and how many it holds.
    fn subscribe_from(&self, done: usize) -> Option<(Vec<u8>, usize)> {
        match &self.subscribe {
            Subscribe::Nothing => None,
            Subscribe::One(_) if done > 0 => None,
            Subscribe::One(filter) => {
                let filters = std::iter::once(filter.as_str());
                Some((wire::subscribe(self.version, 1, filters, self.qos), 1))
            }
            Subscribe::Wildcards { first, count } => {
                let held = FILTERS_PER_PACKET.min(count - done);
                if held == 0 {
                    return None;
                }
                let filters: Vec<_> =
                    (0..held).map(|index| wire::wildcard(first + done + index)).collect();
                let filters = filters.iter().map(String::as_str);
                Some((wire::subscribe(self.version, 1, filters, self.qos), held))
            }
        }
    }
}

struct Pending {
    spec: Spec,
    filters_done: usize,
    filters_asked: usize,
}

/// Opens all of `specs`, at most 64 handshakes at once, and returns their
/// indices in the same order once each is accepted and subscribed.
pub(crate) fn open(
    net: &mut Net,
    addr: SocketAddr,
    specs: impl IntoIterator<Item = Spec>,
) -> Result<Vec<usize>> {
    let deadline = Instant::now() + DIAL_TIME_MAX;
    let mut specs = specs.into_iter();
    let mut pending: HashMap<usize, Pending> = HashMap::with_capacity(HANDSHAKES_MAX);
    let mut opened = Vec::new();
    let mut more = true;
    while more || !pending.is_empty() {
        while more && pending.len() < HANDSHAKES_MAX {
            let Some(spec) = specs.next() else {
                more = false;
                break;
            };
            let index = net.connect(addr)?;
            net.push(index, &wire::connect(spec.version, &spec.client_id(index), KEEP_ALIVE_S));
            // At once: the broker sees a steady stream of them, not a volley.
            net.flush()?;
            opened.push(index);
            pending.insert(index, Pending { spec, filters_done: 0, filters_asked: 0 });
        }
        net.turn(Wait::AtMost(Duration::from_millis(100)), &mut |net, index, frame| {
            answer(net, &mut pending, index, frame)
        })?;
        net.flush()?;
        ensure!(Instant::now() < deadline, "{} connections still wait to open", pending.len());
    }
    Ok(opened)
}

fn answer(
    net: &mut Net,
    pending: &mut HashMap<usize, Pending>,
    index: usize,
    frame: Frame<'_>,
) -> Result<()> {
    let Some(waiting) = pending.get_mut(&index) else { return Ok(()) };
    match frame.kind() {
        2 => ensure!(frame.body.get(1) == Some(&0), "CONNACK {:?}", frame.body),
        9 => {
            let codes = &frame.body[frame.body.len().saturating_sub(waiting.filters_asked)..];
            let refused = codes.iter().find(|code| **code >= 0x80);
            ensure!(refused.is_none(), "SUBACK refuses with {refused:?}");
            waiting.filters_done += waiting.filters_asked;
        }
        kind => bail!("packet type {kind} while connection {index} opens"),
    }
    match waiting.spec.subscribe_from(waiting.filters_done) {
        Some((packet, held)) => {
            waiting.filters_asked = held;
            net.push(index, &packet);
        }
        None => {
            pending.remove(&index);
        }
    }
    Ok(())
}
