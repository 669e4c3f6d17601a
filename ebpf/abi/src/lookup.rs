//! Object `lookup`: one listening socket for a range of ports and addresses.
//!
//! For load tests only: a client machine has some 28,000 ports towards one
//! address and port, and a million connections need many.
//!
//! | map | type | written by | what |
//! |---|---|---|---|
//! | `ANCHOR` | sockmap of 1 | user | the listening socket |
//! | `RANGE` | array of 1 [`Range`] | user | what goes to it |
//! | `REDIRECTED` | per-CPU array of 1 `u64` | kernel | lookups that went to it |
//!
//! A socket in a sockmap can't be in a reuseport sockarray as well: the anchor
//! is a listener of its own in the group that `steer` serves, and it gets no
//! connections itself as the group's program chooses another.

use crate::{layout, pod};

/// The file of the object.
pub const OBJECT: &str = "lookup.o";
/// sk_lookup on a network namespace: CAP_BPF and CAP_NET_ADMIN.
pub const PROGRAM: &str = "redirect";
/// Name of the map of the listening socket.
pub const MAP_ANCHOR: &str = "ANCHOR";
/// Name of the map of [`Range`].
pub const MAP_RANGE: &str = "RANGE";
/// Name of the map of the number of lookups.
pub const MAP_REDIRECTED: &str = "REDIRECTED";
/// [`Range::flags`]: give it to the anchor itself, not to its reuseport group.
pub const FLAG_NO_REUSEPORT: u32 = 1 << 1;

/// Which connections go to the anchor, written by user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Range {
    /// The first local port; 0: nothing is redirected.
    pub port_min: u32,
    /// The last local port.
    pub port_max: u32,
    /// 0 or [`FLAG_NO_REUSEPORT`].
    pub flags: u32,
    /// Local IPv4 addresses under `mask_v4`, in network byte order.
    pub ip_v4: [u8; 4],
    /// All 0: any address.
    pub mask_v4: [u8; 4],
    /// Local IPv6 addresses under `mask_v6`, in network byte order.
    pub ip_v6: [u8; 16],
    /// All 0: any address.
    pub mask_v6: [u8; 16],
    /// Always 0.
    pub reserved: u32,
}

pod!(Range);

layout!(Range, 56, {
    port_min: 0, port_max: 4, flags: 8, ip_v4: 12, mask_v4: 16, ip_v6: 20, mask_v6: 36,
    reserved: 52,
});
