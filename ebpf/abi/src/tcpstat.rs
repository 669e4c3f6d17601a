//! Object `tcpstat`: what the kernel sees of our connections.
//!
//! | map | type | written by | what |
//! |---|---|---|---|
//! | `PORTS` | hash of `u16` port -> `u32` listener | user | whose sockets are counted |
//! | `STATS` | per-CPU array of 32 [`Stats`] | kernel | by listener |
//! | `STARTS` | socket storage of `u64` | kernel | when a sampled connection began |
//!
//! A port has one listener here: listeners on several addresses with one port
//! share the first one's numbers.
//!
//! `socket_events` is a sock_ops program for a cgroup (version 2) and counts the
//! connections that began after it was attached: everything in [`Stats`] but the
//! fields that name a tracepoint. The tracepoints see every connection of our
//! ports in all network namespaces; each is of use without the others.

use crate::{LISTENERS_MAX, layout, pod};

/// The file of the object.
pub const OBJECT: &str = "tcpstat.o";

/// sock_ops on the broker's cgroup: CAP_BPF and CAP_NET_ADMIN.
pub const PROGRAM_SOCKET_EVENTS: &str = "socket_events";
/// BTF tracepoint [`TRACEPOINT_SET_STATE`]: CAP_BPF and CAP_PERFMON. Needs
/// [`GLOBAL_OFFSET_SPORT`].
pub const PROGRAM_SET_STATE: &str = "set_state";
/// BTF tracepoint [`TRACEPOINT_RECEIVE_RESET`], the same.
pub const PROGRAM_RECEIVE_RESET: &str = "receive_reset";
/// Tracepoint of [`PROGRAM_SET_STATE`].
pub const TRACEPOINT_SET_STATE: &str = "inet_sock_set_state";
/// Tracepoint of [`PROGRAM_RECEIVE_RESET`].
pub const TRACEPOINT_RECEIVE_RESET: &str = "tcp_receive_reset";

/// Name of the map from port to listener.
pub const MAP_PORTS: &str = "PORTS";
/// Name of the map of [`Stats`].
pub const MAP_STATS: &str = "STATS";
/// Name of the map of starts.
pub const MAP_STARTS: &str = "STARTS";

/// Read-only global, `u32`: the offset of `inet_sport` in `inet_sock`, out of
/// the kernel's BTF. The tracepoints must not be loaded without it; a value of
/// `u32::MAX` (the default) makes them count nothing.
pub const GLOBAL_OFFSET_SPORT: &str = "OFFSET_SPORT";
/// Read-only global, `u32`: 0 takes no RTTs; 1, the default, takes one for each
/// acknowledgement that gave the kernel a sample.
pub const GLOBAL_RTT: &str = "RTT";
/// Read-only global, `u32`: 0, the default, takes no lifetimes; otherwise a
/// power of two n: of one connection in n. Costs about 300 bytes of kernel
/// memory each while it lives.
pub const GLOBAL_LIFETIMES: &str = "LIFETIMES";

/// Entries of `PORTS`.
pub const PORTS_MAX: usize = 2 * LISTENERS_MAX;
/// TCP states as the kernel numbers them: 1 ESTABLISHED, 2 SYN_SENT, 3 SYN_RECV,
/// 4 FIN_WAIT1, 5 FIN_WAIT2, 6 TIME_WAIT, 7 CLOSE, 8 CLOSE_WAIT, 9 LAST_ACK,
/// 10 LISTEN, 11 CLOSING, 12 NEW_SYN_RECV.
pub const STATES_MAX: usize = 16;
/// Buckets of a histogram. Bucket 0 counts 0 and 1; bucket n counts 2^n up to
/// 2^(n+1) - 1; the last one counts all above too (2^31 µs or ms and more).
pub const BUCKETS: usize = 32;

/// What was counted of a listener: `STATS` by listener and CPU, written by the
/// kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stats {
    /// Connections whose handshake was completed.
    pub established: u64,
    /// Segments sent again.
    pub retransmitted_segments: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Sum of the smoothed RTTs in the histogram, in µs.
    pub rtt_us_sum: u64,
    /// Sum of the lifetimes in the histogram, in ms.
    pub lifetime_ms_sum: u64,
    /// Resets received; from its tracepoint.
    pub resets_received: u64,
    /// Always 0.
    pub reserved: [u64; 2],
    /// Smoothed RTTs, by log2 of µs.
    pub rtt_us: [u64; BUCKETS],
    /// Lifetimes of the sampled connections, by log2 of ms.
    pub lifetime_ms: [u64; BUCKETS],
    /// Times a connection came into a state, by state.
    pub entered: [u64; STATES_MAX],
    /// State that a connection left when it was closed, by state: ESTABLISHED
    /// is a reset or a timeout, LAST_ACK the peer closed first, FIN_WAIT2 or
    /// CLOSING we did.
    pub closed_from: [u64; STATES_MAX],
    /// As `entered`, from the tracepoint: also the connections that were there
    /// before us, and listening sockets.
    pub traced_entered: [u64; STATES_MAX],
    /// As `closed_from`, from the tracepoint.
    pub traced_closed_from: [u64; STATES_MAX],
}

impl Stats {
    /// Nothing counted.
    pub const ZERO: Self = Self {
        established: 0,
        retransmitted_segments: 0,
        timeouts: 0,
        rtt_us_sum: 0,
        lifetime_ms_sum: 0,
        resets_received: 0,
        reserved: [0; 2],
        rtt_us: [0; BUCKETS],
        lifetime_ms: [0; BUCKETS],
        entered: [0; STATES_MAX],
        closed_from: [0; STATES_MAX],
        traced_entered: [0; STATES_MAX],
        traced_closed_from: [0; STATES_MAX],
    };
}

pod!(Stats);

layout!(Stats, 1088, {
    established: 0, retransmitted_segments: 8, timeouts: 16, rtt_us_sum: 24, lifetime_ms_sum: 32,
    resets_received: 40, reserved: 48, rtt_us: 64, lifetime_ms: 320, entered: 576,
    closed_from: 704, traced_entered: 832, traced_closed_from: 960,
});
