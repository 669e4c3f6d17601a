//! What the native tests share: whether they can run, and sockets.
//!
//! They need root (or CAP_BPF and friends). Where they cannot run they say so and
//! pass, unless `TIDEGATE_EBPF_TESTS` says `require`, as CI does, or `guest`: then
//! only tools and network namespaces may be missing.

#![allow(dead_code, clippy::print_stderr)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tidegate_kernel::steering::{Admission, Counts, Policy, Setup, Steering};

/// Shards of most tests.
pub(crate) const SHARDS: usize = 8;

/// The value, or a test that says why it did not run.
pub(crate) fn or_skip<T, E: std::fmt::Display>(what: Result<T, E>) -> Option<T> {
    match what {
        Ok(value) => Some(value),
        Err(why) => {
            let required = std::env::var("TIDEGATE_EBPF_TESTS").is_ok_and(|v| v != "optional");
            assert!(!required, "TIDEGATE_EBPF_TESTS is set, and: {why}");
            eprintln!("NOT RUN: {why}");
            None
        }
    }
}

/// The same of a tool or a namespace, which a guest need not have.
pub(crate) fn or_skip_tool<T>(what: Result<T, String>) -> Option<T> {
    match what {
        Err(why) if std::env::var("TIDEGATE_EBPF_TESTS").is_ok_and(|v| v == "guest") => {
            eprintln!("NOT RUN: {why}");
            None
        }
        what => or_skip(what),
    }
}

/// All the descriptors that there may be.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("raise the limit");
}

/// Held by tests that open thousands of descriptors: of two at once one would
/// find none left.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static MANY: Mutex<()> = Mutex::new(());
    // A test that failed has nothing open any more.
    MANY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listeners of the same port, a shard each, and what they accepted.
pub(crate) struct Group {
    pub(crate) address: SocketAddr,
    pub(crate) listeners: Vec<Option<Socket>>,
    pub(crate) accepted: Vec<Vec<Socket>>,
}

impl Group {
    pub(crate) fn new(shards: usize) -> Group {
        Group::at("127.0.0.1:0".parse().expect("an address"), shards)
    }

    pub(crate) fn at(address: SocketAddr, shards: usize) -> Group {
        let first = listener(address).expect("listen");
        let address = first.local_addr().expect("bound").as_socket().expect("TCP");
        let mut listeners = vec![Some(first)];
        listeners.extend((1..shards).map(|_| Some(listener(address).expect("listen"))));
        Group { address, listeners, accepted: (0..shards).map(|_| Vec::new()).collect() }
    }

    pub(crate) fn sockets(&self) -> Vec<&Socket> {
        self.listeners.iter().flatten().collect()
    }

    /// Accepts all that waits, and tells the program. Returns how many.
    pub(crate) fn accept(&mut self, steering: Option<&Steering>) -> usize {
        let mut count = 0;
        for (shard, listener) in self.listeners.iter().enumerate() {
            let Some(listener) = listener else { continue };
            let gauge = steering.map(|steering| steering.gauge(shard));
            while let Ok((socket, _)) = listener.accept() {
                count += 1;
                if let Some(gauge) = &gauge {
                    gauge.accepted();
                }
                self.accepted[shard].push(socket);
            }
        }
        count
    }

    /// Closes all that a shard has.
    pub(crate) fn close(&mut self, shard: usize, steering: Option<&Steering>) -> usize {
        let closed = std::mem::take(&mut self.accepted[shard]);
        for socket in &closed {
            // No TIME_WAIT, which would use the ports up.
            socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
            if let Some(steering) = steering {
                steering.gauge(shard).closed();
            }
        }
        closed.len()
    }

    pub(crate) fn counts(&self) -> Vec<usize> {
        self.accepted.iter().map(Vec::len).collect()
    }

    /// The most that a shard has over the mean.
    pub(crate) fn imbalance(&self) -> f64 {
        let counts = self.counts();
        let most = *counts.iter().max().expect("shards") as f64;
        most * counts.len() as f64 / counts.iter().sum::<usize>() as f64
    }
}

fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    Ok(socket)
}

/// A connection from `source` that goes without TIME_WAIT.
pub(crate) fn connect(source: Ipv4Addr, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    rustix_bind_no_port(&socket);
    socket.bind(&SocketAddrV4::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(3))?;
    Ok(socket)
}

/// Leaves the choice of a port to the connect, so that one port serves many.
#[allow(unsafe_code)]
fn rustix_bind_no_port(socket: &Socket) {
    use std::os::fd::AsRawFd;
    let one: libc::c_int = 1;
    // SAFETY: an int-sized value for an int option of a socket that is open.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const one).cast(),
            size_of_val(&one) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "IP_BIND_ADDRESS_NO_PORT");
}

/// One of many source addresses.
pub(crate) fn source(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (n >> 8) as u8, n as u8)
}

pub(crate) fn setup(policy: Policy) -> Setup {
    Setup { policy, weights: vec![100; SHARDS], admission: Admission::default() }
}

/// A loaded program, or a reason why not.
pub(crate) fn load() -> Option<Steering> {
    raise_descriptor_limit();
    or_skip(Steering::load(SHARDS, 0x5eed, &[]))
}

/// What was counted between two readings.
pub(crate) fn between(before: Counts, after: Counts) -> Counts {
    Counts {
        selected: after.selected - before.selected,
        fallback_ring: after.fallback_ring - before.fallback_ring,
        fallback_hash: after.fallback_hash - before.fallback_hash,
        migrated: after.migrated - before.migrated,
        refused_rate: after.refused_rate - before.refused_rate,
        refused_prefix: after.refused_prefix - before.refused_prefix,
        refused_blocked: after.refused_blocked - before.refused_blocked,
        uncharged: after.uncharged - before.uncharged,
        stray: after.stray - before.stray,
        errors: after.errors - before.errors,
    }
}

/// Connects so many, from many sources, accepting after each `batch`.
pub(crate) fn fill(
    group: &mut Group,
    steering: Option<&Steering>,
    count: usize,
    batch: usize,
) -> Vec<Socket> {
    let mut clients = Vec::with_capacity(count);
    for n in 0..count {
        clients.push(connect(source(n % 1_000), group.address).expect("connect"));
        if (n + 1) % batch == 0 {
            group.accept(steering);
        }
    }
    group.accept(steering);
    clients
}

/// The descriptor of a socket that closes with it.
pub(crate) fn into_fd(socket: Socket) -> OwnedFd {
    socket.into()
}

/// Runs a story in a network namespace of its own, with loopback up.
pub(crate) fn in_namespace(story: impl FnOnce() + Send + 'static) {
    let done = std::thread::spawn(move || {
        // SAFETY: it moves this thread alone, which has no sockets yet.
        #[allow(unsafe_code)]
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let moved = if moved == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        let moved = moved.map_err(|error| format!("a network namespace: {error}"));
        let in_guest = std::env::var("TIDEGATE_EBPF_TESTS").is_ok_and(|v| v == "guest");
        if moved.is_err() && in_guest {
            // The guest is as good as one: nobody else is there.
            story();
        } else if or_skip(moved).is_some() {
            let up = run("ip", &["link", "set", "lo", "up"]);
            if or_skip_tool(up).is_some() {
                story();
            }
        }
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a tool that may not be there.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Result<(), String> {
    let done = std::process::Command::new(tool).args(arguments).output();
    let done = done.map_err(|error| format!("{tool}: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("{tool} {arguments:?}: {said}")) }
}
