//! What the kernel tells, taken when somebody asks and kept for a while.
//!
//! A scrape, a health check and a command may come at the same moment; the
//! kernel is asked once. To walk all TCP sockets of a machine takes the longer
//! the more there are, so the pause grows with what the last walk took, and it
//! is never made for an idle node's own sake.
//!
//! A source that cannot be read is an `Err` with the reason, and its metrics are
//! absent: 0 would say that all is well.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::fstat;
use tidegate_core::limits::Limits;
use tidegate_system::conntrack::{self, Operations};
use tidegate_system::counters;
use tidegate_system::inet_diag::State;
use tidegate_system::preflight::{Check, Demand, Outcome, Totals, assess};
use tidegate_system::process::Capabilities;
use tidegate_system::{sockstat, values};
use tracing::{info, warn};

use super::diag;
use super::files::{self, Tree};
use crate::config::Config;
use crate::net::listener::Bound;

/// Time between two samples at least.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The pause is so many times what the last sample took.
const PAUSE_FACTOR: u32 = 20;
/// Time between two looks at what the preflight looks at.
const PREFLIGHT_EVERY: Duration = Duration::from_secs(60);
/// With more open connections than this their sockets are not walked: what a
/// node has open it counts itself.
const ESTABLISHED_MAX: u64 = 50_000;

/// A sample.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Our ports' sockets.
    pub sockets: Result<Sockets, String>,
    /// The TCP of the whole network namespace.
    pub tcp: Result<Tcp, String>,
    /// Connection tracking.
    pub conntrack: Result<Conntrack, String>,
    /// What the preflight says.
    pub checks: Arc<Vec<Check>>,
}

impl Snapshot {
    /// Each source and why it cannot be read; none if it can.
    pub fn collectors(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("sockets", self.sockets.as_ref().err().map(String::as_str)),
            ("tcp", self.tcp.as_ref().err().map(String::as_str)),
            ("conntrack", self.conntrack.as_ref().err().map(String::as_str)),
        ]
    }
}

/// Sockets of our ports.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sockets {
    /// By state, as [`State::ALL`]; established is none when there were too
    /// many to look at.
    pub states: [Option<u64>; State::ALL.len()],
    /// What the buffers of all but the listening ones take; none when there were too
    /// many to look at.
    pub memory: Option<Buffers>,
    /// Accept queues.
    pub queues: Vec<Queue>,
}

/// Bytes of memory of sockets' buffers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Buffers {
    /// For what was received.
    pub receive: u64,
    /// For what is to be sent.
    pub send: u64,
}

/// The accept queue of a listener on a shard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Queue {
    /// The listener's place in the config.
    pub listener: usize,
    /// Whose it is.
    pub shard: usize,
    /// Connections that wait to be accepted.
    pub length: u32,
    /// How many may.
    pub limit: u32,
}

/// Counters of the whole network namespace; none for what this kernel lacks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tcp {
    /// Connections not completed because an accept queue was full.
    pub listen_overflows: Option<u64>,
    /// The same for any reason.
    pub listen_drops: Option<u64>,
    /// Segments sent again.
    pub retransmits: Option<u64>,
    /// Resets sent.
    pub resets_sent: Option<u64>,
    /// Pages that buffers take.
    pub memory_pages: Option<u64>,
    /// Pages there may be.
    pub memory_limit_pages: Option<u64>,
}

impl Tcp {
    /// Reads the counters.
    ///
    /// # Errors
    /// When there is none of the files.
    pub fn read(tree: &Tree) -> Result<Tcp, String> {
        let netstat = tree.text("proc/net/netstat");
        let snmp = tree.text("proc/net/snmp");
        let (Ok(netstat), Ok(snmp)) = (&netstat, &snmp) else {
            return Err(netstat.err().or(snmp.err()).map_or_else(String::new, |e| e.to_string()));
        };
        let memory = tree.text("proc/net/sockstat").ok();
        let limits = tree.text("proc/sys/net/ipv4/tcp_mem").ok();
        Ok(Tcp {
            listen_overflows: counters::value(netstat, "TcpExt", "ListenOverflows"),
            listen_drops: counters::value(netstat, "TcpExt", "ListenDrops"),
            retransmits: counters::value(snmp, "Tcp", "RetransSegs"),
            resets_sent: counters::value(snmp, "Tcp", "OutRsts"),
            memory_pages: memory.and_then(|text| sockstat::tcp(&text)?.memory_pages),
            memory_limit_pages: limits
                .and_then(|text| values::numbers(&text))
                .map(|[_, _, most]| most),
        })
    }
}

/// Connection tracking in our network namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Conntrack {
    /// Connections tracked.
    pub entries: u64,
    /// How many may be.
    pub limit: u64,
    /// Those there would be at the connection limit.
    pub predicted: u64,
    /// What was done; none where the kernel does not tell.
    pub operations: Option<Operations>,
}

impl Conntrack {
    /// Reads it; `connections` are open and in the entries, of `connections_max`.
    ///
    /// # Errors
    /// When connection tracking is not there, or not for us.
    pub fn read(tree: &Tree, connections: u64, connections_max: u64) -> Result<Conntrack, String> {
        let number = |name: &str| {
            let path = format!("proc/sys/net/netfilter/nf_conntrack_{name}");
            tree.number(&path).map_err(|error| error.to_string())
        };
        let (entries, limit) = (number("count")?, number("max")?);
        Ok(Conntrack {
            entries,
            limit,
            predicted: conntrack::predicted_entries(entries, connections, connections_max),
            operations: tree
                .text("proc/net/stat/nf_conntrack")
                .ok()
                .and_then(|text| conntrack::operations(&text)),
        })
    }

    /// Share of the limit that is taken; none of a limit of 0.
    pub fn fill(&self) -> Option<f64> {
        conntrack::ratio(self.entries, self.limit)
    }

    /// The same at the connection limit.
    pub fn predicted_fill(&self) -> Option<f64> {
        conntrack::ratio(self.predicted, self.limit)
    }
}

/// A listener as the kernel knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listening {
    /// Its place in the config.
    pub listener: usize,
    /// Its port.
    pub port: u16,
    /// The inodes of its sockets, by shard.
    pub inodes: Vec<u64>,
}

impl Listening {
    /// Those of a node that have a port.
    pub fn of(bound: &[Bound]) -> Vec<Listening> {
        let inode = |socket: &OwnedFd| fstat(socket).map_or(0, |stat| stat.st_ino);
        let each = bound.iter().enumerate().filter_map(|(listener, bound)| {
            let inodes = bound.sockets.iter().map(inode).collect();
            Some(Listening { listener, port: bound.address.port()?, inodes })
        });
        each.collect()
    }
}

/// Takes samples of a node.
pub struct Sampler {
    tree: Tree,
    listening: Vec<Listening>,
    ports: Vec<u16>,
    demand: Demand,
    data_dir: PathBuf,
    /// As they were at start: a node gives them up.
    capabilities: Option<Capabilities>,
    // Taken by a scrape or a command, never by a shard.
    state: Mutex<Taken>,
}

struct Taken {
    snapshot: Option<Arc<Snapshot>>,
    next: Instant,
    checks: Arc<Vec<Check>>,
    next_checks: Instant,
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler").field("listening", &self.listening).finish_non_exhaustive()
    }
}

impl Sampler {
    /// Of a node with this config; to be made by the thread that holds the
    /// capabilities, before it gives them up.
    pub fn new(config: &Config, shards: usize, listening: Vec<Listening>) -> Sampler {
        Sampler::at(Tree::default(), config, shards, listening)
    }

    /// The same, with the files looked for in `tree`.
    pub fn at(tree: Tree, config: &Config, shards: usize, listening: Vec<Listening>) -> Sampler {
        let demand = files::demand(config, shards, 0);
        let facts = files::facts(&tree, &config.data_dir);
        let capabilities = facts.capabilities;
        let now = Instant::now();
        let state = Taken {
            snapshot: None,
            next: now,
            checks: Arc::new(assess(&facts, &demand)),
            next_checks: now + PREFLIGHT_EVERY,
        };
        let mut ports: Vec<_> = listening.iter().map(|listening| listening.port).collect();
        ports.sort_unstable();
        ports.dedup();
        Sampler {
            tree,
            listening,
            ports,
            demand,
            data_dir: config.data_dir.clone(),
            capabilities,
            state: Mutex::new(state),
        }
    }

    /// Says what the preflight found: the counts, and a line for each that
    /// there is something to do about.
    pub fn announce(&self) {
        let checks = Arc::clone(&self.lock().checks);
        let Totals { ok, warn, fail, unknown } = Totals::of(&checks);
        let named = |outcome: Outcome| {
            let ids = checks.iter().filter(|check| check.outcome == outcome).map(|check| check.id);
            ids.collect::<Vec<_>>().join(",")
        };
        let (failed, to_mind) = (named(Outcome::Fail), named(Outcome::Warn));
        let connections = self.demand.connections_max;
        info!(ok, warn, fail, unknown, failed, to_mind, connections, "preflight");
        // Nobody asked for the default's million.
        let asked_for = u64::from(Limits::default().connections_max) != connections;
        if fail > 0 && asked_for {
            warn!(
                failed,
                connections,
                "this machine is not fit for limits.connections_max; `tidegate preflight` says who can change what"
            );
        }
    }

    /// A sample that is not older than its price; `connections` are open.
    pub fn sample(&self, connections: u64) -> Arc<Snapshot> {
        let mut state = self.lock();
        let begin = Instant::now();
        if let Some(snapshot) = state.snapshot.as_ref().filter(|_| begin < state.next) {
            return Arc::clone(snapshot);
        }
        if begin >= state.next_checks {
            let facts = files::facts(&self.tree, &self.data_dir);
            let facts =
                tidegate_system::preflight::Facts { capabilities: self.capabilities, ..facts };
            let demand = Demand { connections, ..self.demand.clone() };
            state.checks = Arc::new(assess(&facts, &demand));
            state.next_checks = begin + PREFLIGHT_EVERY;
        }
        let snapshot = Arc::new(Snapshot {
            sockets: self.sockets(connections),
            tcp: Tcp::read(&self.tree),
            conntrack: Conntrack::read(&self.tree, connections, self.demand.connections_max),
            checks: Arc::clone(&state.checks),
        });
        let end = Instant::now();
        state.next = end + PAUSE_MIN.max((end - begin) * PAUSE_FACTOR);
        state.snapshot = Some(Arc::clone(&snapshot));
        snapshot
    }

    fn sockets(&self, connections: u64) -> Result<Sockets, String> {
        let too_many = connections > ESTABLISHED_MAX;
        let looked_at = |state: &State| !(too_many && *state == State::Established);
        let states: Vec<_> = State::ALL.into_iter().filter(looked_at).collect();
        let mut whose = HashMap::new();
        for listening in &self.listening {
            for (shard, inode) in listening.inodes.iter().enumerate() {
                whose.insert(*inode, (listening.listener, shard));
            }
        }
        let memory = (!too_many).then(Buffers::default);
        let mut found = Sockets { memory, ..Sockets::default() };
        for state in &states {
            found.states[*state as usize] = Some(0);
        }
        diag::sockets(&self.ports, &states, false, |socket| {
            if let Some(count) = &mut found.states[socket.state as usize] {
                *count += 1;
            }
            if let (Some(sum), Some(told)) = (&mut found.memory, socket.memory) {
                sum.receive += u64::from(told.receive);
                sum.send += u64::from(told.send);
            }
            let inode = u64::from(socket.inode);
            if let (State::Listen, Some((listener, shard))) = (socket.state, whose.get(&inode)) {
                found.queues.push(Queue {
                    listener: *listener,
                    shard: *shard,
                    length: socket.receive_queue,
                    limit: socket.send_queue,
                });
            }
        })
        .map_err(|error| format!("inet_diag: {error}"))?;
        found.queues.sort_by_key(|queue| (queue.listener, queue.shard));
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use crate::net::listener::{ListenOptions, bind};

    use super::*;

    #[test]
    fn each_shard_s_accept_queue_is_told_by_its_socket() {
        let options = ListenOptions { ipv6_only: true, backlog: 16, keepalive: None };
        let wanted = "127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address");
        let bound = [bind("t", &wanted.into(), options, 3).expect("bind")];
        let port = bound[0].address.port().expect("TCP");
        let listening = Listening::of(&bound);
        let clients: Vec<_> = (0..30)
            .map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).expect("connect"))
            .collect();
        let sampler = Sampler::new(&Config::default(), 3, listening);
        let sockets = sampler.sample(0).sockets.clone().expect("the kernel tells");
        let told: Vec<_> = sockets.queues.iter().map(|q| (q.listener, q.shard, q.limit)).collect();
        assert_eq!(told, [(0, 0, 16), (0, 1, 16), (0, 2, 16)]);
        let waiting: u32 = sockets.queues.iter().map(|queue| queue.length).sum();
        assert_eq!(waiting as usize, clients.len());
        assert_eq!(sockets.states[State::Listen as usize], Some(3));
        assert_eq!(sockets.states[State::Established as usize], Some(30));
        // Nobody has read or sent a byte.
        assert_eq!(sockets.memory, Some(Buffers::default()));
        (&clients[0]).write_all(&[7; 1_000]).expect("the kernel takes it");
        let memory = sampler.sockets(0).expect("the kernel tells").memory.expect("so few");
        assert!((1_000..100_000).contains(&memory.receive), "{memory:?}");
        // With too many the open ones are not looked at; the rest is.
        let many = sampler.sockets(ESTABLISHED_MAX + 1).expect("the kernel tells");
        assert_eq!((many.states[State::Established as usize], many.memory), (None, None));
        assert_eq!(many.queues, sockets.queues);
    }

    #[test]
    fn what_is_not_there_is_an_error_that_says_so() {
        let nowhere = Tree::at(Path::new("/nonexistent"));
        let sampler = Sampler::at(nowhere, &Config::default(), 1, Vec::new());
        let snapshot = sampler.sample(0);
        assert!(snapshot.conntrack.is_err() && snapshot.tcp.is_err());
        let [(_, sockets), (_, tcp), (_, conntrack)] = snapshot.collectors();
        assert_eq!(sockets, None);
        assert!(tcp.is_some_and(|why| why.starts_with("/proc/net/netstat: No such file")));
        let path = "/proc/sys/net/netfilter/nf_conntrack_count: No such file";
        assert!(conntrack.is_some_and(|why| why.starts_with(path)), "{conntrack:?}");
    }

    #[test]
    fn two_scrapes_at_once_ask_the_kernel_once() {
        let sampler = Sampler::new(&Config::default(), 1, Vec::new());
        assert!(Arc::ptr_eq(&sampler.sample(1), &sampler.sample(2)));
    }
}
