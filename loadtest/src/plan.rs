//! From clients, rate and size of messages to nodes, memory, disk and kernel
//! settings.
//!
//! Every slope is a measurement of `docs/benchmarks.md`, on one machine: the
//! plan is where to begin, and the harness is how to check it on yours. What
//! was assumed for want of a measurement is printed as an assumption.

use std::fmt::Write as _;

use crate::faces::figures::{bytes, count, digits, percent, short};

/// What is asked of the cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Connections at one time.
    pub clients: u64,
    /// Messages published a second, by all of them together.
    pub rate: f64,
    /// Bytes of a payload.
    pub size: u64,
    /// Subscribers of a message.
    pub fan_out: f64,
    /// The QoS of publishing and delivering: 0, 1 or 2.
    pub qos: u8,
    /// How they come in.
    pub way: Way,
    /// Seconds between a client's pings; it sends none if it publishes sooner.
    pub keepalive_s: u32,
    /// Share of the subscribers that are away with a durable session, 0 to 1.
    pub away: f64,
    /// For how long their messages are kept.
    pub away_s: u64,
    /// Cores of a node.
    pub cores: u32,
    /// Memory of a node.
    pub memory_bytes: u64,
    /// Nodes that may be missing without anyone noticing.
    pub spare: u32,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            clients: 0,
            rate: 0.0,
            size: 0,
            fan_out: 1.0,
            qos: 1,
            way: Way::Tcp,
            keepalive_s: 60,
            away: 0.02,
            away_s: 3_600,
            cores: 8,
            memory_bytes: 32 << 30,
            spare: 1,
        }
    }
}

/// How clients come in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Plain TCP.
    Tcp,
    /// TLS 1.3.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

/// User memory of a connection's subscription: 371 less 217.
const SUBSCRIPTION_BYTES: f64 = 154.0;
/// Kernel memory of a connection on the broker's side.
const KERNEL_BYTES: f64 = 5_120.0;
/// User memory of a durable session that is away, without its queue.
const SESSION_BYTES: f64 = 224.0;
/// Beside a queued payload: topic, place in the queue, the allocator's share.
const QUEUED_BYTES: f64 = 160.0;
/// The process without clients, and the system under it.
const BASE_BYTES: f64 = 1024.0 * 1024.0 * 1024.0;
/// CPU of a PINGREQ, which has a turn to itself.
const PING_US: f64 = 6.7;
/// CPU of one KiB of payload, in and out: 40.1 less 0.4, over 64.
const KIB_US: f64 = 0.62;
/// Bytes around a payload on the wire: headers of MQTT, TCP, IP, Ethernet, and
/// the segment that acknowledges it.
const WIRE_BYTES: f64 = 160.0;
/// What a stored record takes beside its payload.
const RECORD_BYTES: f64 = 64.0;
/// Replicas of a stored record.
const REPLICAS: f64 = 3.0;
/// Of a node's CPU, what may be used in the steady state: the rest is for the
/// storm that follows the loss of a node.
const CPU_SHARE: f64 = 0.5;
/// Of a node's memory.
const MEMORY_SHARE: f64 = 0.7;
/// Of a node's memory, when every socket holds a page at once.
const BURST_SHARE: f64 = 0.95;
/// A page.
const PAGE_BYTES: f64 = 4_096.0;
/// Of the conntrack table, where the broker's own check begins to warn.
const CONNTRACK_SHARE: f64 = 0.75;
/// Connections from one address to one port, with the widest port range.
const PORTS: u64 = 64_511;

impl Way {
    /// User memory of an idle connection.
    fn bytes(self) -> f64 {
        match self {
            Self::Tcp => 228.0,
            Self::Tls => 3_881.0,
            Self::Ws => 386.0,
            Self::Wss => 3_885.0,
        }
    }

    /// CPU of a connect, handshake and close.
    fn connect_us(self) -> f64 {
        match self {
            Self::Tcp => 20.7,
            Self::Tls => 151.0,
            Self::Ws => 24.9,
            Self::Wss => 154.0,
        }
    }

    /// CPU of a QoS 1 message and its delivery at a moderate rate, when nothing
    /// can be batched: the dear case, which a fleet of rare talkers is.
    fn message_us(self) -> f64 {
        match self {
            Self::Tcp => 24.1,
            Self::Tls => 24.3,
            Self::Ws => 22.4,
            Self::Wss => 21.8,
        }
    }

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// Why a demand cannot be planned for.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// There is no such QoS.
    #[error("QoS {got}: there is 0, 1 and 2")]
    BadQos {
        /// The number given.
        got: u8,
    },
    /// A number that is none, or below zero, or a share above 1.
    #[error("{name} of {got} makes no sense")]
    BadNumber {
        /// Which.
        name: &'static str,
        /// What was given.
        got: f64,
    },
    /// A node that could not even hold itself.
    #[error("a node of {cores} cores and {memory_bytes} bytes is too small to hold any client")]
    NodeTooSmall {
        /// Its cores.
        cores: u32,
        /// Its memory.
        memory_bytes: u64,
    },
    /// More than anyone has.
    #[error("that would take {nodes} nodes; give them more cores or memory")]
    TooMany {
        /// The nodes it would take.
        nodes: f64,
    },
}

/// Nodes a plan goes up to.
const NODES_MAX: f64 = 10_000.0;

/// A cluster that meets a demand.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What it meets.
    pub demand: Demand,
    /// Nodes, spare ones included.
    pub nodes: u32,
    /// What decided their number.
    pub decided_by: Need,
    /// Clients of a node when the spare ones are gone.
    pub clients_each: u64,
    /// User memory of a node then.
    pub user_bytes_each: f64,
    /// Kernel memory of a node then, every socket empty.
    pub kernel_bytes_each: f64,
    /// What the sockets take besides if all of them are sent something at once.
    pub burst_bytes_each: f64,
    /// Cores of a node that are busy then.
    pub busy_cores_each: f64,
    /// Bits a second in and out of a node then.
    pub bits_each: f64,
    /// Disk of a node for what waits for durable sessions.
    pub disk_bytes_each: f64,
    /// Seconds until a lost node's clients are connected elsewhere.
    pub return_s: f64,
    /// Entries of the conntrack table that a node needs.
    pub conntrack: u64,
    /// Kernel settings of a node: name, value, why.
    pub sysctls: Vec<(&'static str, String, &'static str)>,
    /// Source addresses that a harness needs to play these clients to one port.
    pub harness_addresses: u64,
}

/// What decides how many nodes it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// Memory.
    Memory,
    /// CPU.
    Cpu,
    /// Nothing does: it is the least there can be.
    Least,
}

/// Plans for a demand.
pub fn plan(demand: &Demand) -> Result<Plan, PlanError> {
    check(demand)?;
    let clients = demand.clients as f64;
    let queued = demand.rate * demand.fan_out * demand.away * demand.away_s as f64;
    let user = clients * (demand.way.bytes() + SUBSCRIPTION_BYTES)
        + clients * demand.away * SESSION_BYTES
        + queued * (demand.size as f64 + QUEUED_BYTES);
    let kernel = clients * KERNEL_BYTES;
    let busy_cores = cpu_us(demand) / 1e6;

    let memory_room = demand.memory_bytes as f64 * MEMORY_SHARE - BASE_BYTES;
    let cpu_room = f64::from(demand.cores) * CPU_SHARE;
    if memory_room <= 0.0 || cpu_room <= 0.0 {
        let (cores, memory_bytes) = (demand.cores, demand.memory_bytes);
        return Err(PlanError::NodeTooSmall { cores, memory_bytes });
    }
    let burst_room = demand.memory_bytes as f64 * BURST_SHARE - BASE_BYTES;
    let steady = (user + kernel) / memory_room;
    let burst = (user + kernel + clients * PAGE_BYTES) / burst_room;
    let by_memory = steady.max(burst).ceil();
    let by_cpu = (busy_cores / cpu_room).ceil();
    let working = by_memory.max(by_cpu).max(1.0);
    if working > NODES_MAX {
        return Err(PlanError::TooMany { nodes: working });
    }
    let decided_by = if working <= 1.0 {
        Need::Least
    } else if by_memory >= by_cpu {
        Need::Memory
    } else {
        Need::Cpu
    };
    let nodes = working as u32 + demand.spare;
    let clients_each = (clients / working).ceil();
    let conntrack = (clients_each / CONNTRACK_SHARE).ceil() as u64;
    let wire = (demand.size as f64 + WIRE_BYTES) * 8.0;
    // A lost node's clients, over the CPU that the steady state leaves free.
    let free_us = (f64::from(demand.cores) - busy_cores / working) * 1e6 * working;
    let return_s = clients / f64::from(nodes) * demand.way.connect_us() / free_us;
    Ok(Plan {
        demand: *demand,
        nodes,
        decided_by,
        clients_each: clients_each as u64,
        user_bytes_each: user / working + BASE_BYTES,
        kernel_bytes_each: kernel / working,
        burst_bytes_each: clients_each * PAGE_BYTES,
        busy_cores_each: busy_cores / working,
        bits_each: demand.rate * (1.0 + demand.fan_out) * wire / working,
        disk_bytes_each: queued
            * (demand.size as f64 + RECORD_BYTES)
            * 2.0
            * REPLICAS.min(f64::from(nodes))
            / f64::from(nodes),
        return_s,
        conntrack,
        sysctls: sysctls(clients_each as u64, conntrack),
        harness_addresses: demand.clients.div_ceil(PORTS),
    })
}

/// CPU of all nodes a second.
fn cpu_us(demand: &Demand) -> f64 {
    // Half of a message's cost is the way in, half the way out. QoS 0 saves
    // the acknowledgements: 10.1 against 18.0 when both were measured.
    let message = demand.way.message_us()
        * match demand.qos {
            0 => 10.1 / 18.0,
            1 => 1.0,
            _ => 2.0,
        };
    let half = message / 2.0;
    let payload = demand.size as f64 / 1024.0 * KIB_US / 2.0;
    let messages = demand.rate * (half + payload) * (1.0 + demand.fan_out);
    let pings = demand.clients as f64 / f64::from(demand.keepalive_s.max(1)) * PING_US;
    messages + pings
}

fn check(demand: &Demand) -> Result<(), PlanError> {
    if demand.qos > 2 {
        return Err(PlanError::BadQos { got: demand.qos });
    }
    for (name, got, most) in [
        ("rate", demand.rate, f64::MAX),
        ("fan-out", demand.fan_out, f64::MAX),
        ("share that is away", demand.away, 1.0),
    ] {
        if !(0.0..=most).contains(&got) {
            return Err(PlanError::BadNumber { name, got });
        }
    }
    Ok(())
}

fn sysctls(clients: u64, conntrack: u64) -> Vec<(&'static str, String, &'static str)> {
    let files = clients + 10_000;
    // In pages: warned of, under pressure, refused.
    let pages = clients.max(200_000);
    let (low, high) = (pages / 2, pages * 2);
    vec![
        ("fs.nr_open", files.to_string(), "a descriptor a connection, and the process' own"),
        ("fs.file-max", (files + 10_000).to_string(), "the whole node's descriptors"),
        ("net.core.somaxconn", "4096".into(), "accept queues that outlast a storm's first turn"),
        ("net.ipv4.tcp_max_syn_backlog", "8192".into(), "the same for half-open connections"),
        (
            "net.ipv4.tcp_mem",
            format!("{low} {pages} {high}"),
            "a page a connection, for the moment when all are sent something",
        ),
        (
            "net.netfilter.nf_conntrack_max",
            conntrack.to_string(),
            "at most 75 % full; or keep the port out of conntrack",
        ),
        (
            "net.netfilter.nf_conntrack_buckets",
            (conntrack / 4).to_string(),
            "chains of four at most",
        ),
    ]
}

impl Plan {
    /// For a terminal.
    pub fn text(&self) -> String {
        let demand = &self.demand;
        let working = self.nodes - demand.spare;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<22} {value}");
        };
        line(
            "demand",
            format!(
                "{} clients over {}, {} messages/s of {} at QoS {}, each to {}",
                count(demand.clients),
                demand.way.name(),
                short(demand.rate),
                bytes(demand.size as f64),
                demand.qos,
                digits(demand.fan_out)
            ),
        );
        let why = match self.decided_by {
            Need::Memory => "memory decides",
            Need::Cpu => "CPU decides",
            Need::Least => "one could hold it all",
        };
        line(
            "nodes",
            format!(
                "{} of {} cores and {}: {working} that work and {} spare; {why}",
                self.nodes,
                demand.cores,
                bytes(demand.memory_bytes as f64),
                demand.spare
            ),
        );
        line("", "each, when the spare ones are gone:".into());
        line("clients", count(self.clients_each));
        line(
            "memory",
            format!(
                "{} user + {} kernel (+ {} if every socket holds a page)",
                bytes(self.user_bytes_each),
                bytes(self.kernel_bytes_each),
                bytes(self.burst_bytes_each)
            ),
        );
        line(
            "CPU",
            format!(
                "{} cores busy, {} of the node",
                digits(self.busy_cores_each),
                percent(self.busy_cores_each / f64::from(demand.cores))
            ),
        );
        line("network", format!("{}bit/s in and out together", short(self.bits_each)));
        line("disk", format!("{} for queues of absent sessions", bytes(self.disk_bytes_each)));
        line("conntrack", format!("{} entries", count(self.conntrack)));
        line(
            "loss of a node",
            format!(
                "its clients are back within {} s of CPU, if they come at once",
                digits(self.return_s)
            ),
        );
        let _ = writeln!(text, "\nsysctls of a node (and LimitNOFILE as fs.nr_open):");
        for (name, value, why) in &self.sysctls {
            let _ = writeln!(text, "  {name} = {value}\n      # {why}");
        }
        let _ = writeln!(
            text,
            "\nto test it: {} source addresses for the harness, {} processes of 19,000 connections\n",
            count(self.harness_addresses),
            count(demand.clients.div_ceil(19_000))
        );
        text.push_str(&self.assumptions());
        text
    }

    /// What was not measured, or does not hold yet.
    fn assumptions(&self) -> String {
        let demand = &self.demand;
        let mut notes = vec![
            format!(
                "slopes of docs/benchmarks.md; at most {} of CPU and {} of memory are planned for",
                percent(CPU_SHARE),
                percent(MEMORY_SHARE)
            ),
            format!(
                "{} of the subscribers are away for {} s with a durable session; queues are in \
                 memory, and not on disk before the broker has a store",
                percent(demand.away),
                count(demand.away_s)
            ),
            "assumed, not measured: 160 bytes beside a queued payload, 64 beside a stored one, \
             twice the disk for compaction"
                .to_owned(),
        ];
        if demand.qos == 2 {
            notes.push("assumed: an unbatched QoS 2 message costs twice a QoS 1 one".to_owned());
        }
        if self.nodes > 1 {
            notes.push(
                "nodes are taken to share the load evenly and for nothing: messages between nodes \
                 are not in it, and the cluster is not built yet"
                    .to_owned(),
            );
        }
        notes.into_iter().map(|note| format!("note: {note}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BENCHMARKS: &str = include_str!("../../docs/benchmarks.md");

    /// The number in the column `at` of the row that begins so.
    fn measured(row: &str, at: usize) -> f64 {
        let line = BENCHMARKS.lines().find(|line| line.starts_with(&format!("| {row} |")));
        let cell = line.and_then(|line| line.split('|').nth(at + 1)).expect(row);
        cell.trim().replace(',', "").parse().expect(row)
    }

    /// Tidegate's number in a row beside other brokers, however many of those there are.
    fn beside_others(row: &str) -> f64 {
        let heads = BENCHMARKS.lines().find(|line| line.starts_with("| row | floor |"));
        let at =
            heads.and_then(|heads| heads.split('|').position(|head| head.trim() == "tidegate"));
        measured(row, at.expect("a column of Tidegate") - 1)
    }

    #[test]
    fn the_slopes_are_what_the_benchmarks_measured() {
        // Within a factor of two: the page is measured anew more often than
        // these constants, on machines that are not alike.
        let subscription = beside_others("user bytes, idle connection + one own subscription")
            - beside_others("user bytes, idle connection");
        for (constant, found) in [
            (SUBSCRIPTION_BYTES, subscription),
            (PING_US, beside_others("PINGREQ, one at a time on 100 connections")),
            (Way::Tcp.message_us(), beside_others("20,000 msg/s QoS 1, CPU")),
            (KIB_US * 64.0, beside_others("payload 64 KiB, QoS 0, W4")),
            (Way::Tls.bytes(), measured("tls (1.3)", 1)),
            (Way::Ws.bytes(), measured("ws", 1)),
            (Way::Tls.connect_us(), measured("tls, full", 1)),
        ] {
            let ratio = constant / found;
            assert!((0.5..=2.0).contains(&ratio), "{constant} planned with, {found} measured");
        }
    }

    fn million() -> Demand {
        Demand { clients: 1_000_000, rate: 50_000.0, size: 200, ..Demand::default() }
    }

    #[test]
    fn a_million_clients_take_what_the_slopes_say() {
        let plan = plan(&million()).expect("sound");
        // 50,000 x 24.1 us and 16,667 pings x 6.7 us: 1.32 cores and payload.
        let cpu = plan.busy_cores_each * f64::from(plan.nodes - 1);
        assert!((1.3..1.36).contains(&cpu), "{cpu}");
        // 1 M x 5,120 bytes of sockets over the nodes that work.
        let kernel = plan.kernel_bytes_each * f64::from(plan.nodes - 1);
        assert!((kernel - 5.12e9).abs() < 1e6, "{kernel}");
        assert_eq!(plan.nodes, 2, "one holds it, one is spare: {plan:?}");
        assert_eq!(plan.harness_addresses, 16);
    }

    #[test]
    fn a_conntrack_table_is_never_planned_fuller_than_the_broker_tolerates() {
        let plan = plan(&million()).expect("sound");
        assert!(plan.clients_each as f64 <= plan.conntrack as f64 * 0.75 + 1.0);
        assert!(plan.sysctls.iter().any(|sysctl| sysctl.0 == "net.netfilter.nf_conntrack_max"
            && sysctl.1 == plan.conntrack.to_string()));
    }

    #[test]
    fn a_node_survives_the_moment_when_every_socket_holds_a_page() {
        for clients in (1..40).map(|n| n * 700_000) {
            let demand = Demand { clients, away: 0.0, ..million() };
            let plan = plan(&demand).expect("sound");
            let all = plan.user_bytes_each + plan.kernel_bytes_each + plan.burst_bytes_each;
            assert!(all <= demand.memory_bytes as f64 * 0.951, "{clients}: {all}");
        }
    }

    #[test]
    fn more_of_anything_never_takes_fewer_nodes() {
        let base = Demand { clients: 4_000_000, rate: 400_000.0, ..million() };
        let nodes = |demand: Demand| plan(&demand).expect("sound").nodes;
        let least = nodes(base);
        for more in [
            Demand { clients: base.clients * 3, ..base },
            Demand { rate: base.rate * 3.0, ..base },
            Demand { size: 64 << 10, ..base },
            Demand { fan_out: 8.0, ..base },
            Demand { way: Way::Tls, ..base },
            Demand { spare: 3, ..base },
            Demand { qos: 2, ..base },
        ] {
            assert!(nodes(more) >= least, "{more:?}");
        }
        assert!(nodes(Demand { clients: base.clients * 9, ..base }) > least);
        assert!(nodes(Demand { rate: base.rate * 9.0, ..base }) > least);
    }

    #[test]
    fn what_decides_is_named() {
        let many = Demand { clients: 20_000_000, rate: 100.0, ..million() };
        assert_eq!(plan(&many).expect("sound").decided_by, Need::Memory);
        let loud = Demand { clients: 10_000, rate: 2e6, away: 0.0, ..million() };
        assert_eq!(plan(&loud).expect("sound").decided_by, Need::Cpu);
        let few = Demand { clients: 10, rate: 1.0, ..million() };
        assert_eq!(plan(&few).expect("sound").decided_by, Need::Least);
    }

    #[test]
    fn senseless_demands_are_refused() {
        for demand in [
            Demand { qos: 3, ..million() },
            Demand { rate: f64::NAN, ..million() },
            Demand { away: 1.5, ..million() },
            Demand { memory_bytes: 1 << 30, ..million() },
            Demand { rate: 1e15, ..million() },
        ] {
            assert!(plan(&demand).is_err(), "{demand:?}");
        }
        assert!(plan(&Demand::default()).is_ok(), "nothing asked, one node and a spare");
    }

    #[test]
    fn the_text_names_what_is_not_there_yet() {
        let text = plan(&million()).expect("sound").text();
        for part in ["nodes", "conntrack", "net.ipv4.tcp_mem", "no", "the cluster is not built yet"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
