//! Clients that come and go at random nodes while links break and leaders move.
//!
//! When all is well again each client id has one connection at most, nobody
//! waits, and everybody can come in.

use proptest::prelude::*;
use tidegate_core::ids::PartitionId;

use crate::rig::Client;
use crate::runner;
use crate::world::Cluster;

const NODES: usize = 3;
const IDS: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    Connect {
        id: usize,
        node: usize,
        shard: usize,
        clean: bool,
    },
    Abort {
        id: usize,
    },
    Cut {
        a: usize,
        b: usize,
    },
    Heal {
        a: usize,
        b: usize,
    },
    Delay {
        a: usize,
        b: usize,
        ms: u64,
    },
    /// Only one node is told.
    Tell {
        id: usize,
        node: usize,
        leader: usize,
    },
    Lead {
        id: usize,
        leader: Option<usize>,
    },
    Advance {
        ms: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let (id, node) = (0..IDS, 0..NODES);
    prop_oneof![
        8 => (id.clone(), node.clone(), 0..2usize, any::<bool>())
            .prop_map(|(id, node, shard, clean)| Op::Connect { id, node, shard, clean }),
        3 => id.clone().prop_map(|id| Op::Abort { id }),
        1 => (node.clone(), node.clone()).prop_map(|(a, b)| Op::Cut { a, b }),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| Op::Heal { a, b }),
        2 => (node.clone(), node.clone(), 0..40u64).prop_map(|(a, b, ms)| Op::Delay { a, b, ms }),
        1 => (id.clone(), node.clone(), node.clone())
            .prop_map(|(id, node, leader)| Op::Tell { id, node, leader }),
        1 => (id, proptest::option::of(node)).prop_map(|(id, leader)| Op::Lead { id, leader }),
        8 => (1..60u64).prop_map(|ms| Op::Advance { ms }),
        1 => (1_000..12_000u64).prop_map(|ms| Op::Advance { ms }),
    ]
}

struct Chaos {
    cluster: Cluster,
    ids: Vec<(String, PartitionId)>,
    /// Who came: id, node.
    clients: Vec<(usize, usize, Client)>,
}

impl Chaos {
    fn new(shards: u16) -> Chaos {
        let cluster = Cluster::new(NODES, shards);
        let id = |n: usize| {
            let id = cluster.client_of(n % NODES, &format!("client-{n}-"));
            let partition = cluster.nodes[0].node.partition_of_client(&id);
            (id, partition)
        };
        let ids = (0..IDS).map(id).collect();
        Chaos { cluster, ids, clients: Vec::new() }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Connect { id, node, shard, clean } => {
                let shard = shard % self.cluster.nodes[node].shards.len();
                let client = self.cluster.connect(node, shard, &self.ids[id].0, clean);
                self.clients.push((id, node, client));
            }
            Op::Abort { id } => {
                let of = |&(other, ..): &(usize, usize, Client)| other == id;
                if let Some(at) = self.clients.iter().rposition(of) {
                    let (_, node, client) = self.clients.remove(at);
                    self.cluster.abort(node, client);
                }
            }
            Op::Cut { a, b } if a != b => self.cluster.cut(a, b),
            Op::Heal { a, b } if a != b => self.cluster.heal(a, b),
            Op::Delay { a, b, ms } if a != b => self.cluster.delay(a, b, ms),
            Op::Cut { .. } | Op::Heal { .. } | Op::Delay { .. } => {}
            Op::Tell { id, node, leader } => {
                self.cluster.tell(node, self.ids[id].1, Some(leader));
                self.cluster.run();
            }
            Op::Lead { id, leader } => self.cluster.lead(self.ids[id].1, leader),
            Op::Advance { ms } => self.cluster.advance(ms),
        }
    }

    fn finish(mut self) -> Result<(), String> {
        let cluster = &mut self.cluster;
        for a in 0..NODES {
            for b in 0..a {
                cluster.delay(a, b, 0);
                cluster.heal(a, b);
            }
        }
        for n in 0..IDS {
            cluster.lead(self.ids[n].1, Some(n % NODES));
        }
        cluster.advance(15_000);
        let mut open = [0; IDS];
        for &(id, node, client) in &self.clients {
            open[id] += usize::from(cluster.is_open(node, client));
        }
        if open.iter().any(|&n| n > 1) {
            return Err(format!("connections by client id: {open:?}"));
        }
        let gauge = |of: &dyn Fn(&tidegate_core::counters::Counters) -> u64| -> u64 {
            cluster.nodes.iter().flat_map(|rig| &*rig.node.counters).map(of).sum()
        };
        let online = gauge(&|counters| counters.sessions_online.value());
        let waiting = gauge(&|counters| counters.half_open.value());
        let open: usize = open.iter().sum();
        if (online, waiting) != (open as u64, 0) {
            return Err(format!("{open} are open, {online} online, {waiting} wait"));
        }
        let shards = || cluster.nodes.iter().flat_map(|rig| &rig.shards);
        let releases: usize = shards().map(|shard| shard.open_releases()).sum();
        let mails: usize = shards().map(|shard| shard.outbox_depth()).sum();
        if (releases, mails) != (0, 0) {
            return Err(format!("{releases} ends are not noted, {mails} mails wait"));
        }
        for n in 0..IDS {
            let node = (n + 1) % NODES;
            let client = cluster.connect(node, 0, &self.ids[n].0, true);
            cluster.advance(50);
            let came = cluster.packets(node, client);
            if came != [[0x20, 2, 0, 0]] {
                return Err(format!("client {n} cannot come in: {came:?}"));
            }
        }
        Ok(())
    }
}

#[test]
fn when_all_is_well_again_each_client_id_has_one_connection_at_most() {
    runner::run_cases(op(), 60, 8_000, |shards, ops| {
        let mut chaos = Chaos::new(shards.min(2));
        ops.iter().for_each(|op| chaos.apply(op));
        chaos.finish()
    });
}
