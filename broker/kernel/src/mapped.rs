//! The counts of the shards in memory that the steering program shares.
//!
//! A shard tells of each connection with plain atomic stores, without a system
//! call. Where there is no program the same handle counts into memory of its
//! own, so that a shard's code is the same.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_ebpf_abi::SHARDS_MAX;
use tidegate_ebpf_abi::steer::{Load, Loads};

/// A shard's counts. The order of the words is that of [`Load`].
#[repr(C, align(64))]
#[derive(Debug, Default)]
struct Words {
    live: AtomicU64,
    accepted: AtomicU64,
    settled: AtomicU64,
    picked: AtomicU64,
    reserved: [AtomicU64; 4],
}

const _: () = {
    assert!(size_of::<Words>() == size_of::<Load>());
    assert!(std::mem::offset_of!(Words, live) == std::mem::offset_of!(Load, live));
    assert!(std::mem::offset_of!(Words, accepted) == std::mem::offset_of!(Load, accepted));
    assert!(std::mem::offset_of!(Words, settled) == std::mem::offset_of!(Load, settled));
    assert!(std::mem::offset_of!(Words, picked) == std::mem::offset_of!(Load, picked));
};

/// The counts of all shards, for as long as anybody has them.
#[derive(Debug)]
pub(crate) struct Mapped(NonNull<Words>);

// SAFETY: what it points to is atomics alone, mapped until the last owner drops
// it, and the kernel's side of it uses atomics as well.
#[allow(unsafe_code)]
unsafe impl Send for Mapped {}
// SAFETY: the same.
#[allow(unsafe_code)]
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the one element of `LOADS`.
    ///
    /// # Errors
    /// When the kernel will not map it.
    #[allow(unsafe_code)]
    pub(crate) fn new(map: BorrowedFd<'_>) -> io::Result<Mapped> {
        use std::os::fd::AsRawFd;
        // SAFETY: a mapping at an address of the kernel's choice, over nothing of
        // ours. The map has one element of this size, rounded up to pages.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Loads>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // mmap gives whole pages, which are aligned for any type.
        NonNull::new(address.cast()).map(Mapped).ok_or_else(|| io::Error::other("mapped at 0"))
    }

    #[allow(unsafe_code)]
    fn shards(&self) -> &[Words] {
        // SAFETY: mapped until drop, `Loads` is this many of them, and every bit
        // pattern is a value.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), SHARDS_MAX) }
    }

    /// As it is now; the words are not of one moment.
    pub(crate) fn load(&self, shard: usize) -> Load {
        let words = &self.shards()[shard];
        Load {
            live: words.live.load(Relaxed),
            accepted: words.accepted.load(Relaxed),
            settled: words.settled.load(Relaxed),
            picked: words.picked.load(Relaxed),
            reserved: [0; 4],
        }
    }

    pub(crate) fn settle(&self, shard: usize, settled: u64) {
        self.shards()[shard].settled.store(settled, Relaxed);
    }
}

impl Drop for Mapped {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and nobody has a reference.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Loads>()) };
    }
}

/// Where one shard tells what it took in and let go. Only its thread may call.
#[derive(Clone, Debug)]
pub struct Gauge(Option<(Arc<Mapped>, usize)>);

impl Gauge {
    pub(crate) fn new(mapped: Arc<Mapped>, shard: usize) -> Gauge {
        assert!(shard < SHARDS_MAX, "shard {shard}");
        Gauge(Some((mapped, shard)))
    }

    /// One that tells nobody.
    #[must_use]
    pub fn none() -> Gauge {
        Gauge(None)
    }

    /// A connection was accepted. Costs two loads and two stores.
    #[inline]
    pub fn accepted(&self) {
        if let Some((mapped, shard)) = &self.0 {
            let words = &mapped.shards()[*shard];
            add(&words.accepted, 1);
            add(&words.live, 1);
        }
    }

    /// A connection that was accepted is closed.
    #[inline]
    pub fn closed(&self) {
        if let Some((mapped, shard)) = &self.0 {
            add(&mapped.shards()[*shard].live, 1_u64.wrapping_neg());
        }
    }
}

/// One writer: no atomic read-modify-write is needed.
fn add(word: &AtomicU64, n: u64) {
    word.store(word.load(Relaxed).wrapping_add(n), Relaxed);
}
