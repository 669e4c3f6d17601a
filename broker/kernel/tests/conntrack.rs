//! What the probes on connection tracking count, held against what the kernel
//! says of the same network namespace.
//!
//! Where a kernel has no kprobes there is nothing to test: that is the kernel's,
//! and the broker says so. Debian's, under `cargo xtask vm test`, has them.

#![allow(clippy::print_stderr)]

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{in_namespace, or_skip};
use tidegate_kernel::capabilities;
use tidegate_kernel::conntrack::{Conntrack, Counts};

const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const ENTRIES: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// All probes, or a reason why not.
fn start() -> Option<Conntrack> {
    if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        eprintln!("NOT RUN: this kernel has no kprobes");
        return None;
    }
    or_skip(Conntrack::start())
}

/// The namespace of this thread: that of the process may be another one.
fn namespace() -> u32 {
    let inode = fs::metadata("/proc/thread-self/ns/net").expect("procfs").ino();
    inode.try_into().expect("namespaces have 32 bits")
}

fn number(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().parse().expect("a number")
}

/// Whether a new namespace tracks what nobody made a rule for: one connection
/// tells.
fn tracks() -> Result<(), String> {
    drop(connections(1));
    match number(ENTRIES) {
        0 => Err("nothing is tracked; load nf_conntrack with enable_hooks=1".into()),
        _ => Ok(()),
    }
}

fn connections(count: usize) -> Vec<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let to = listener.local_addr().expect("bound");
    let pair = |_| {
        let client = TcpStream::connect(to).expect("connect");
        (client, listener.accept().expect("accept").0)
    };
    (0..count).map(pair).collect()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} within 20 s");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn new_entries_are_counted_in_their_own_namespace_alone() {
    in_namespace(|| {
        let Some(conntrack) = start() else { return };
        let Some(()) = or_skip(tracks()) else { return };
        let counts = |inode| conntrack.counts(inode).expect("the map is read");
        let before = counts(namespace());
        assert_eq!((before.new, before.confirmed), (1, 1), "the one that told");
        let (sender, receiver) = mpsc::channel();
        in_namespace(move || {
            drop(connections(3));
            sender.send(namespace()).expect("the test waits");
        });
        let other = receiver.recv().expect("a second namespace as the first");
        assert_ne!(other, namespace());
        // The map is ours without any capability, too.
        capabilities::drop_all(true).expect("dropping is always allowed");
        let _open = connections(40);
        let after = counts(namespace());
        assert_eq!((after.new, after.confirmed), (41, 41), "{after:?}");
        assert_eq!(after.confirm_dropped + after.early_drops, 0, "{after:?}");
        assert_eq!(after.confirmed - after.destroyed, number(ENTRIES), "as the kernel says");
        assert_eq!((counts(other).new, counts(other).confirmed), (3, 3), "the other one's own");
        assert_eq!(counts(1), Counts::default(), "nobody has that number");
    });
}

#[test]
fn entries_that_go_with_their_namespace_are_destroyed() {
    let Some(conntrack) = start() else { return };
    let (sender, receiver) = mpsc::channel();
    in_namespace(move || {
        let Some(()) = or_skip(tracks()) else { return };
        let open = connections(24);
        sender.send((namespace(), number(ENTRIES))).expect("the test waits");
        drop(open);
    });
    // Where it did not run, it said why.
    let Ok((inode, entries)) = receiver.recv() else { return };
    assert_ne!(inode, namespace());
    assert_eq!(entries, 25);
    let destroyed = || conntrack.counts(inode).expect("the map is read").destroyed;
    until("all 25 are gone", || destroyed() == 25);
}

/// Puts the limit of the table back.
struct Limit(String);

impl Limit {
    fn set(entries: u32) -> Result<Limit, String> {
        let was = fs::read_to_string(MAX).map_err(|error| format!("{MAX}: {error}"))?;
        fs::write(MAX, entries.to_string()).map_err(|error| format!("{MAX}: {error}"))?;
        Ok(Limit(was))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        fs::write(MAX, self.0.trim()).expect("it could be written before");
    }
}

#[test]
fn a_full_table_is_seen_by_what_it_drops_early() {
    let Some(conntrack) = start() else { return };
    // Of all namespaces, and only the first one may: from here, then.
    let Some(_limit) = or_skip(Limit::set(20)) else { return };
    let (sender, receiver) = mpsc::channel();
    in_namespace(move || {
        let Some(()) = or_skip(tracks()) else { return };
        let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let to = server.local_addr().expect("bound");
        for _ in 1..60 {
            let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
            // Refused once there is no room: that is what this is about.
            let _ = client.send_to(b"?", to);
        }
        sender.send(namespace()).expect("the test waits");
    });
    let Ok(inode) = receiver.recv() else { return };
    let counts = conntrack.counts(inode).expect("the map is read");
    assert_eq!(counts.new, 60, "{counts:?}");
    assert_eq!(counts.early_drops, 40, "each beyond the 20th has to look: {counts:?}");
    assert!(counts.confirmed >= 20, "{counts:?}");
}
