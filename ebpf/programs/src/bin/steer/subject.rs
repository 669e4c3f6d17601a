//! What the program is asked about: a packet or a connection that waits, its
//! listener and its source.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::programs::SkReuseportContext;
use tidegate_ebpf_abi::steer::{COUNTS_UNKNOWN, FAMILY_V4, FAMILY_V6};
use tidegate_ebpf_programs::{lookup, read, zero};

use crate::maps;

const AF_INET: u32 = FAMILY_V4 as u32;
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const IPPROTO_TCP: u32 = 6;
const BPF_HDR_START_NET: u32 = 1;
/// The third word of ::ffff:0:0/96.
const V4_MAPPED: u32 = 0xffff_u32.to_be();

/// Where the flags are in a TCP header, and two of them.
const TCP_FLAGS: usize = 13;
const TCP_SYN: u8 = 1 << 1;
const TCP_ACK: u8 = 1 << 4;

/// No listener: past the end of every map by listener but `COUNTS`.
pub(crate) const NOBODY: u32 = COUNTS_UNKNOWN as u32;

/// What came.
#[derive(Clone, Copy)]
pub(crate) enum Arrival {
    /// A new connection: SYN without ACK.
    Syn,
    /// A connection that waits at a socket that was closed.
    Migration,
    /// Any other packet that belongs to no connection.
    Stray,
}

/// The question.
pub(crate) struct Subject {
    /// Whose packet it is; [`NOBODY`] if it is none of ours.
    ///
    /// A number and no `Option`: without CAP_PERFMON the verifier also follows
    /// what a CPU would do that guesses the branch wrongly, and finds it reading
    /// the number where there is none.
    pub(crate) listener: u32,
    pub(crate) arrival: Arrival,
}

/// Where a connection comes from. An IPv4 address is the first four bytes.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) v4: bool,
    pub(crate) ip: Ip,
}

/// 16 bytes in network byte order, as they lie in memory.
///
/// As two words, since keys are written to the stack by whole words: Linux 6.1
/// takes two writes to one word of the stack for an attempt to forge a pointer,
/// unless it is given CAP_PERFMON.
pub(crate) type Ip = [u64; 2];

impl Subject {
    /// By the listening socket: right for what migrates too, which is no packet.
    #[inline(always)]
    pub(crate) fn of_socket(ctx: &SkReuseportContext) -> Self {
        let socket = ctx.sk().sock;
        // SAFETY: the context's `sk` is never null, and the fields are read by
        // the words that the verifier allows.
        let listener = unsafe {
            let port = read(&raw const (*socket).src_port);
            if read(&raw const (*socket).family) == AF_INET {
                let ip = [u64::from(read(&raw const (*socket).src_ip4)), zero()];
                listener(ip, port, FAMILY_V4)
            } else {
                listener(fields(&raw const (*socket).src_ip6), port, FAMILY_V6)
            }
        };
        let arrival = if ctx.migrating_sk().is_some() { Arrival::Migration } else { arrival(ctx) };
        Self { listener, arrival }
    }

    /// By the packet's destination: the socket bound to it, to any address of
    /// its family, or to any at all.
    #[inline(always)]
    pub(crate) fn of_packet(ctx: &SkReuseportContext) -> Self {
        let (start, end) = (ctx.data(), ctx.data_end());
        if start + 4 > end {
            return Self { listener: NOBODY, arrival: Arrival::Stray };
        }
        // SAFETY: the two bytes lie before the end, which was just compared.
        let port = u32::from(u16::from_be(unsafe { *((start + 2) as *const u16) }));
        let v4 = ctx.eth_protocol() == ETH_P_IP;
        let family = if v4 { FAMILY_V4 } else { FAMILY_V6 };
        let mut found = listener(address(ctx, 16, 24), port, family);
        if found == NOBODY {
            found = listener([zero(); 2], port, family);
        }
        if found == NOBODY && v4 {
            found = listener([zero(); 2], port, FAMILY_V6);
        }
        Self { listener: found, arrival: arrival(ctx) }
    }

    /// Where it comes from.
    #[inline(always)]
    pub(crate) fn source(&self, ctx: &SkReuseportContext) -> Source {
        match ctx.migrating_sk() {
            Some(waiting) if matches!(self.arrival, Arrival::Migration) => {
                source_of_socket(waiting.sock)
            }
            _ => source_of_packet(ctx),
        }
    }
}

/// The packet's source, out of its network header; all 0 if that can't be read.
#[inline(always)]
pub(crate) fn source_of_packet(ctx: &SkReuseportContext) -> Source {
    Source { ip: address(ctx, 12, 8), v4: ctx.eth_protocol() == ETH_P_IP }
}

/// The peer of a connection.
#[inline(always)]
fn source_of_socket(socket: *mut bpf_sock) -> Source {
    // SAFETY: the pointer is not null, and the fields are read by the words that
    // the verifier allows.
    unsafe {
        if read(&raw const (*socket).family) == AF_INET {
            return Source { v4: true, ip: [u64::from(read(&raw const (*socket).dst_ip4)), 0] };
        }
        let ip = fields(&raw const (*socket).dst_ip6);
        if ip[0] == 0 && ip[1] as u32 == V4_MAPPED {
            // A dual-stack listener's IPv4 client: the same one as in its packets.
            return Source { v4: true, ip: [ip[1] >> 32, 0] };
        }
        Source { v4: false, ip }
    }
}

#[inline(always)]
fn arrival(ctx: &SkReuseportContext) -> Arrival {
    let (start, end) = (ctx.data(), ctx.data_end());
    if ctx.ip_protocol() == IPPROTO_TCP && start + TCP_FLAGS < end {
        // SAFETY: the byte lies before the end, which was just compared.
        let flags = unsafe { *((start + TCP_FLAGS) as *const u8) };
        if flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
            return Arrival::Syn;
        }
    }
    Arrival::Stray
}

#[inline(always)]
fn listener(ip: Ip, port: u32, family: u16) -> u32 {
    // An address, its port and family, and four bytes of 0.
    let key = [ip[0], ip[1], u64::from(port & 0xffff) | u64::from(family) << 16];
    // SAFETY: 24 bytes, as the map's keys.
    let listener: *mut u32 = unsafe { lookup(&maps::INDEX, &key) };
    if listener.is_null() {
        return NOBODY;
    }
    // SAFETY: a value that the map gave. If user space removes the entry just
    // then, the packet may count for the listener that takes its place.
    unsafe { read(listener) }
}

/// An address out of the network header, by its place in that of IPv4 or IPv6.
#[inline(always)]
fn address(ctx: &SkReuseportContext, v4: u32, v6: u32) -> Ip {
    let mut ip = [zero(); 2];
    let (offset, len) = if ctx.eth_protocol() == ETH_P_IP { (v4, 4) } else { (v6, 16) };
    // SAFETY: the buffer has 16 bytes. Where it fails they stay 0.
    unsafe {
        bpf_skb_load_bytes_relative(
            ctx.as_ptr(),
            offset,
            (&raw mut ip).cast(),
            len,
            BPF_HDR_START_NET,
        )
    };
    ip
}

/// Four words of a socket's address.
///
/// # Safety
///
/// The pointer is to a socket's field.
#[inline(always)]
unsafe fn fields(field: *const [u32; 4]) -> Ip {
    let field: *const u32 = field.cast();
    // SAFETY: four words, as the field's type says.
    let [a, b, c, d] =
        unsafe { [read(field), read(field.add(1)), read(field.add(2)), read(field.add(3))] };
    [u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32]
}
