//! `inet_diag`: asking the kernel for TCP sockets by port and state.
//!
//! A request goes out over netlink (`NETLINK_SOCK_DIAG`), with a small program
//! that has the kernel leave out the sockets of other ports. The answer is a
//! dump of many datagrams of messages. No privilege is needed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The type of requests and answers, `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const FLAGS: u16 = 0x1 | 0x300;
const HEADER: usize = 16;
/// The body of a request, and of an answer before its attributes.
const REQUEST: usize = 56;
const ANSWER: usize = 72;
const IPPROTO_TCP: u8 = 6;
const ATTRIBUTE_BYTECODE: u16 = 1;
const ATTRIBUTE_MEMORY: u16 = 1;
const ATTRIBUTE_INFO: u16 = 2;
/// Operations of the filter.
const PORT_GE: u8 = 2;
const PORT_LE: u8 = 3;
const JUMP: u8 = 1;

/// Ports that a request can be about.
pub const PORTS_MAX: usize = 64;

/// IPv4, or IPv6 with the IPv4 connections of a dual-stack socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// `AF_INET`
    V4,
    /// `AF_INET6`
    V6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }
}

/// The state of a TCP socket.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs)]
pub enum State {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl State {
    /// All, by the kernel's numbers from 1 on.
    pub const ALL: [State; 11] = [
        State::Established,
        State::SynSent,
        State::SynRecv,
        State::FinWait1,
        State::FinWait2,
        State::TimeWait,
        State::Close,
        State::CloseWait,
        State::LastAck,
        State::Listen,
        State::Closing,
    ];

    /// The name in metrics and tables; node-exporter's.
    pub fn label(self) -> &'static str {
        match self {
            State::Established => "established",
            State::SynSent => "syn_sent",
            State::SynRecv => "syn_recv",
            State::FinWait1 => "fin_wait1",
            State::FinWait2 => "fin_wait2",
            State::TimeWait => "time_wait",
            State::Close => "close",
            State::CloseWait => "close_wait",
            State::LastAck => "last_ack",
            State::Listen => "listen",
            State::Closing => "closing",
        }
    }

    fn bit(self) -> u32 {
        1 << (self as u32 + 1)
    }

    fn from_number(number: u8) -> Option<State> {
        match number {
            // A request that has not become a socket yet (TCP_NEW_SYN_RECV).
            12 => Some(State::SynRecv),
            number => Self::ALL.get(usize::from(number).checked_sub(1)?).copied(),
        }
    }
}

/// Which sockets are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Of one family.
    pub family: Family,
    /// In one of these states.
    pub states: &'a [State],
    /// With one of these local ports; the first [`PORTS_MAX`] count.
    pub ports: &'a [u16],
    /// Whether with `tcp_info`.
    pub info: bool,
}

/// The request, to be sent as it is.
pub fn request(wanted: Wanted<'_>, sequence: u32) -> Vec<u8> {
    let filter = filter(&wanted.ports[..wanted.ports.len().min(PORTS_MAX)]);
    let states = wanted.states.iter().fold(0, |bits, state| bits | state.bit());
    let length = HEADER + REQUEST + 4 + filter.len();
    let mut out = Vec::with_capacity(length);
    out.extend((length as u32).to_ne_bytes());
    out.extend(BY_FAMILY.to_ne_bytes());
    out.extend(FLAGS.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    let info = if wanted.info { 1 << (ATTRIBUTE_INFO - 1) } else { 0 };
    let extensions = 1 << (ATTRIBUTE_MEMORY - 1) | info;
    out.extend([wanted.family.number(), IPPROTO_TCP, extensions, 0]);
    out.extend(u32::to_ne_bytes(states));
    // Of the socket's identity nothing is given: the filter says it all.
    out.resize(HEADER + REQUEST, 0);
    out.extend((4 + filter.len() as u16).to_ne_bytes());
    out.extend(ATTRIBUTE_BYTECODE.to_ne_bytes());
    out.extend(filter);
    out
}

/// Takes sockets whose local port is one of these. The kernel checks that every
/// jump goes forwards to an operation; to jump four bytes beyond the end is to
/// leave a socket out, to arrive at the end is to take it.
fn filter(ports: &[u16]) -> Vec<u8> {
    const TEST: u16 = 8;
    const ONE: u16 = 2 * TEST + 4;
    // Without a port: from 1 to 0, which is none.
    let ranges: Vec<(u16, u16)> =
        if ports.is_empty() { vec![(1, 0)] } else { ports.iter().map(|p| (*p, *p)).collect() };
    let last = ranges.len() - 1;
    let length = last as u16 * ONE + 2 * TEST;
    let mut out = Vec::with_capacity(length.into());
    for (at, (from, to)) in ranges.into_iter().enumerate() {
        for (code, port) in [(PORT_GE, from), (PORT_LE, to)] {
            let left = length - out.len() as u16;
            let next = if at == last { left + 4 } else { at as u16 * ONE + ONE - out.len() as u16 };
            operation(&mut out, code, TEST as u8, next);
            operation(&mut out, 0, 0, port);
        }
        if at < last {
            let left = length - out.len() as u16;
            operation(&mut out, JUMP, 4, left);
        }
    }
    out
}

fn operation(out: &mut Vec<u8>, code: u8, yes: u8, no: u16) {
    out.extend([code, yes]);
    out.extend(no.to_ne_bytes());
}

/// A TCP socket as the kernel tells it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Socket {
    /// What it is doing.
    pub state: State,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Of a listening one: connections that wait to be accepted. Else bytes
    /// that wait to be read.
    pub receive_queue: u32,
    /// Of a listening one: how many may wait. Else bytes not acknowledged.
    pub send_queue: u32,
    /// Tells it from others; 0 for one that no process has any more.
    pub inode: u32,
    /// What its buffers take; a listening one, or one without a process, has none.
    pub memory: Option<Memory>,
    /// If it was asked for, and the socket has it.
    pub info: Option<Info>,
}

/// Memory of a socket's buffers, with what the kernel adds to the bytes in them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Bytes for what was received.
    pub receive: u32,
    /// Bytes for what is to be sent, or acknowledged.
    pub send: u32,
}

/// A part of `tcp_info`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Info {
    /// Smoothed round-trip time in microseconds.
    pub rtt_micros: u32,
    /// Segments sent again, ever.
    pub retransmits: u32,
}

/// Whether more datagrams follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Yes.
    More,
    /// That was all.
    Done,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DiagError {
    /// The kernel refuses.
    #[error("the kernel refuses with error {0}")]
    Refused(i32),
    /// A message is cut off or shorter than its type.
    #[error("the kernel's answer is malformed")]
    Malformed,
}

/// Reads a datagram of the answer to the request with this sequence number, and
/// gives each socket to `take`. One in a state that is not known is left out.
///
/// # Errors
/// When the kernel refused, or this is no answer.
pub fn decode(
    mut datagram: &[u8],
    sequence: u32,
    mut take: impl FnMut(Socket),
) -> Result<Progress, DiagError> {
    while !datagram.is_empty() {
        let length = u32_at(datagram, 0).ok_or(DiagError::Malformed)? as usize;
        let message = datagram.get(..length).ok_or(DiagError::Malformed)?;
        let (Some(kind), Some(answers)) = (u16_at(message, 4), u32_at(message, 8)) else {
            return Err(DiagError::Malformed);
        };
        let body = message.get(HEADER..).ok_or(DiagError::Malformed)?;
        let rest = datagram.get(aligned(length)..).unwrap_or_default();
        datagram = rest;
        if answers != sequence {
            continue;
        }
        match kind {
            MESSAGE_DONE => {
                // What a dump ended with, where the kernel tells it.
                return match u32_at(body, 0).map(u32::cast_signed) {
                    Some(error) if error < 0 => Err(DiagError::Refused(error.saturating_neg())),
                    Some(_) | None => Ok(Progress::Done),
                };
            }
            MESSAGE_ERROR => {
                let error = u32_at(body, 0).ok_or(DiagError::Malformed)?.cast_signed();
                return Err(DiagError::Refused(error.saturating_neg()));
            }
            BY_FAMILY => {
                if let Some(socket) = socket(body)? {
                    take(socket);
                }
            }
            _ => {}
        }
    }
    Ok(Progress::More)
}

fn socket(body: &[u8]) -> Result<Option<Socket>, DiagError> {
    let (fixed, attributes) = body.split_at_checked(ANSWER).ok_or(DiagError::Malformed)?;
    let Some(state) = State::from_number(fixed[1]) else { return Ok(None) };
    let number = |at| u32_at(fixed, at).unwrap_or_default();
    let port = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let address = |at: usize| match fixed[0] {
        2 => Some(IpAddr::from(Ipv4Addr::from(u32::from_be_bytes(*fixed[at..].first_chunk()?)))),
        10 => Some(IpAddr::from(Ipv6Addr::from(u128::from_be_bytes(*fixed[at..].first_chunk()?)))),
        _ => None,
    };
    let (Some(local), Some(remote)) = (address(8), address(24)) else { return Ok(None) };
    Ok(Some(Socket {
        state,
        local: (local, port(4)).into(),
        remote: (remote, port(6)).into(),
        receive_queue: number(56),
        send_queue: number(60),
        inode: number(68),
        memory: attribute(attributes, ATTRIBUTE_MEMORY)
            .and_then(|told| Some(Memory { receive: u32_at(told, 0)?, send: u32_at(told, 4)? })),
        info: attribute(attributes, ATTRIBUTE_INFO).and_then(|told| {
            Some(Info { rtt_micros: u32_at(told, 68)?, retransmits: u32_at(told, 100)? })
        }),
    }))
}

/// The value of the first attribute of a kind.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)?;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with a filter (`inet_diag_bc_run`).
    fn passes(filter: &[u8], port: u16) -> bool {
        let (mut at, end) = (0, filter.len());
        while at < end {
            let yes = usize::from(filter[at + 1]);
            let no = usize::from(u16_at(filter, at + 2).expect("an operation"));
            let operand = || u16_at(filter, at + 6).expect("an operand");
            let taken = match filter[at] {
                PORT_GE => port >= operand(),
                PORT_LE => port <= operand(),
                JUMP => false,
                other => panic!("operation {other}"),
            };
            at += if taken { yes } else { no };
        }
        at == end
    }

    #[test]
    fn the_filter_takes_the_ports_asked_for_and_no_other() {
        let ports: Vec<u16> = (0..64).map(|n| 1_000 + 7 * n).collect();
        for count in [0, 1, 2, 3, 16, 64] {
            let filter = filter(&ports[..count]);
            for port in 990..1_500 {
                assert_eq!(passes(&filter, port), ports[..count].contains(&port), "{count} {port}");
            }
            assert!(!passes(&filter, 0) && !passes(&filter, u16::MAX));
        }
    }

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let ports = [1_883, 8_883];
        let wanted =
            Wanted { family: Family::V6, states: &[State::Listen], ports: &ports, info: true };
        let request = request(wanted, 7);
        assert_eq!(u32_at(&request, 0), Some(request.len() as u32));
        assert_eq!(request[16..20], [10, 6, 2 | 1, 0]);
        assert_eq!(u32_at(&request, 20), Some(1 << 10));
        assert_eq!(usize::from(u16_at(&request, 72).expect("there")), request.len() - 72);
    }

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut out = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(2u16.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0u32.to_ne_bytes());
        out.extend(body);
        out.resize(aligned(out.len()), 0);
        out
    }

    fn answer(state: u8) -> Vec<u8> {
        let mut body = vec![2, state, 0, 0];
        body.extend(1_883u16.to_be_bytes());
        body.extend(40_000u16.to_be_bytes());
        body.extend([127, 0, 0, 1]);
        body.resize(24, 0);
        body.extend([10, 1, 2, 3]);
        body.resize(56, 0);
        for number in [3u32, 128, 1_000, 4_242] {
            body.extend(number.to_ne_bytes());
        }
        body
    }

    fn with_info(mut body: Vec<u8>) -> Vec<u8> {
        body.extend(5u16.to_ne_bytes());
        body.extend(9u16.to_ne_bytes());
        body.extend([1, 0, 0, 0]);
        // idiag_rmem, idiag_wmem, idiag_fmem, idiag_tmem.
        body.extend(20u16.to_ne_bytes());
        body.extend(ATTRIBUTE_MEMORY.to_ne_bytes());
        for number in [2_304u32, 4_608, 1_792, 8] {
            body.extend(number.to_ne_bytes());
        }
        let mut info = [0u8; 232];
        info[68..72].copy_from_slice(&1_250u32.to_ne_bytes());
        info[100..104].copy_from_slice(&6u32.to_ne_bytes());
        body.extend((4 + info.len() as u16).to_ne_bytes());
        body.extend(ATTRIBUTE_INFO.to_ne_bytes());
        body.extend(info);
        body
    }

    fn decoded(datagram: &[u8]) -> (Result<Progress, DiagError>, Vec<Socket>) {
        let mut sockets = Vec::new();
        let progress = decode(datagram, 7, |socket| sockets.push(socket));
        (progress, sockets)
    }

    #[test]
    fn a_dump_is_decoded_to_its_end() {
        let mut datagram = message(BY_FAMILY, 7, &answer(10));
        datagram.extend(message(BY_FAMILY, 7, &with_info(answer(1))));
        datagram.extend(message(BY_FAMILY, 6, &answer(1)));
        let (progress, sockets) = decoded(&datagram);
        assert_eq!((progress, sockets.len()), (Ok(Progress::More), 2));
        let Socket { state, local, remote, receive_queue, send_queue, inode, memory, info } =
            sockets[0];
        assert_eq!((state, memory, info), (State::Listen, None, None));
        assert_eq!(local, "127.0.0.1:1883".parse().expect("an address"));
        assert_eq!(remote, "10.1.2.3:40000".parse().expect("an address"));
        assert_eq!((receive_queue, send_queue, inode), (3, 128, 4_242));
        assert_eq!(sockets[1].info, Some(Info { rtt_micros: 1_250, retransmits: 6 }));
        assert_eq!(sockets[1].memory, Some(Memory { receive: 2_304, send: 4_608 }));
        assert_eq!(decoded(&message(MESSAGE_DONE, 7, &[0; 4])).0, Ok(Progress::Done));
    }

    #[test]
    fn a_refusal_is_told_by_its_number() {
        let refused = (-2i32).to_ne_bytes();
        assert_eq!(decoded(&message(MESSAGE_ERROR, 7, &refused)).0, Err(DiagError::Refused(2)));
        assert_eq!(decoded(&message(MESSAGE_DONE, 7, &refused)).0, Err(DiagError::Refused(2)));
        let least = i32::MIN.to_ne_bytes();
        assert!(decoded(&message(MESSAGE_ERROR, 7, &least)).0.is_err());
    }

    #[test]
    fn states_that_nobody_knows_are_left_out() {
        for state in [0, 13, 255] {
            assert_eq!(decoded(&message(BY_FAMILY, 7, &answer(state))).1, []);
        }
        assert_eq!(decoded(&message(BY_FAMILY, 7, &answer(12))).1[0].state, State::SynRecv);
    }

    #[test]
    fn a_message_cut_anywhere_is_an_error_or_lacks_what_was_cut() {
        let whole = message(BY_FAMILY, 7, &with_info(answer(1)));
        for length in 1..whole.len() {
            // Cut by the kernel's own account.
            let mut cut = whole[..length].to_vec();
            let said = (length as u32).to_ne_bytes();
            let head = said.len().min(length);
            cut[..head].copy_from_slice(&said[..head]);
            let (progress, sockets) = decoded(&cut);
            assert_eq!(progress.is_err(), length < HEADER + ANSWER, "{length}");
            assert!(sockets.iter().all(|socket| socket.info.is_none()));
            // Cut on the way.
            assert!(decoded(&whole[..length]).0.is_err(), "{length}");
        }
    }

    #[test]
    fn lengths_of_nothing_do_not_go_round_in_circles() {
        assert_eq!(decoded(&[0; 64]).0, Err(DiagError::Malformed));
        let mut body = answer(1);
        body.extend([0; 16]);
        assert_eq!(decoded(&message(BY_FAMILY, 7, &body)).1[0].info, None);
    }
}
