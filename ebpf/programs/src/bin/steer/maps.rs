//! The maps of this object; who writes what is told in the ABI.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ReusePortSockArray};
use tidegate_ebpf_abi::steer::{
    Address, BLOCKED_MAX, Counts, Cpus, INDEX_MAX, Listener, Loads, PREFIXES_MAX, Picked, Prefix,
    Table, Weights,
};
use tidegate_ebpf_abi::{LISTENERS_MAX, SLOTS_MAX};
use tidegate_ebpf_programs::add;

/// User space reads and writes it as memory.
const MMAPABLE: u32 = 1 << 10;

const BY_LISTENER: u32 = LISTENERS_MAX as u32;

#[map]
pub(crate) static SOCKETS: ReusePortSockArray =
    ReusePortSockArray::with_max_entries(SLOTS_MAX as u32, 0);

#[map]
pub(crate) static INDEX: HashMap<Address, u32> = HashMap::with_max_entries(INDEX_MAX as u32, 0);

#[map]
pub(crate) static LISTENERS: Array<Listener> = Array::with_max_entries(BY_LISTENER, MMAPABLE);

#[map]
pub(crate) static WEIGHTS: Array<Weights> = Array::with_max_entries(BY_LISTENER, MMAPABLE);

#[map]
pub(crate) static LOADS: Array<Loads> = Array::with_max_entries(1, MMAPABLE);

#[map]
pub(crate) static TABLES: Array<Table> = Array::with_max_entries(BY_LISTENER, MMAPABLE);

#[map]
pub(crate) static CPUS: Array<Cpus> = Array::with_max_entries(1, MMAPABLE);

#[map]
pub(crate) static PICKED: Array<Picked> = Array::with_max_entries(BY_LISTENER, MMAPABLE);

#[map]
pub(crate) static BUCKETS: Array<u64> = Array::with_max_entries(BY_LISTENER, MMAPABLE);

#[map]
pub(crate) static PREFIXES: LruHashMap<Prefix, u64> =
    LruHashMap::with_max_entries(PREFIXES_MAX as u32, 0);

#[map]
pub(crate) static BLOCKED_V4: LpmTrie<[u8; 4], u32> =
    LpmTrie::with_max_entries(BLOCKED_MAX as u32, 0);

#[map]
pub(crate) static BLOCKED_V6: LpmTrie<[u8; 16], u32> =
    LpmTrie::with_max_entries(BLOCKED_MAX as u32, 0);

#[map]
pub(crate) static COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(BY_LISTENER + 1, 0);

/// Adds one to a counter of a listener on this CPU.
#[inline(always)]
pub(crate) fn count(listener: u32, counter: impl FnOnce(&mut Counts) -> *mut u64) {
    if let Some(counts) = COUNTS.get_ptr_mut(listener) {
        // SAFETY: a word of a map value. Atomically, as a program that runs for a
        // socket that is closed can be interrupted by one for a packet.
        unsafe { add(counter(&mut *counts), 1) };
    }
}
