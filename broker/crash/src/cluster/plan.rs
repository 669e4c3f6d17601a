//! What is done to a cluster: each scenario a row, its steps data.

/// One thing that is done. Nodes have numbers from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// The load goes on for so many milliseconds.
    Wait(u64),
    /// SIGKILL.
    Kill(u8),
    /// SIGKILL to all at once.
    KillAll,
    /// SIGTERM; it has to end well and in time.
    Stop(u8),
    /// A process for a node that has none; of a node that was not there, a new one.
    Start(u8),
    /// The same for all.
    StartAll,
    /// Waits until every node with a process says that it is ready.
    Ready,
    /// SIGSTOP.
    Pause(u8),
    /// SIGCONT.
    Resume(u8),
    /// Two nodes do not reach each other; clients reach both.
    Cut(u8, u8),
    /// What the first sends to the second does not come.
    CutOneWay(u8, u8),
    /// Nodes reach only those of their own part.
    Split(&'static [&'static [u8]]),
    /// What a node sends is limited to so many kbit/s.
    Slow(u8, u32),
    /// Every link is whole and fast again.
    Heal,
    /// The data directory of a node without a process is removed.
    Wipe(u8),
    /// A byte in the middle of what such a node keeps is changed.
    Corrupt(u8),
    /// A node that was started with a damaged log refuses, and says that its
    /// directory has to be emptied: that is done, and it is started again.
    Renew(u8),
    /// Every node, none of which has a process, gets another address.
    Readdress,
    /// A node is told to leave the cluster for good, and is stopped.
    Leave(u8),
    /// Its next start is the newer program's, and with the newer protocol.
    Upgrade(u8),
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// Nodes at the beginning.
    pub(crate) nodes: u8,
    /// `cluster.replication_factor`; none: the default.
    pub(crate) replicas: Option<u8>,
    /// Whether CI runs it; the others run with `--all`.
    pub(crate) subset: bool,
    /// What is done.
    pub(crate) steps: &'static [Step],
}

use Step::{
    Corrupt, Cut, CutOneWay, Heal, Kill, KillAll, Leave, Pause, Readdress, Ready, Renew, Resume,
    Slow, Split, Start, StartAll, Stop, Upgrade, Wait, Wipe,
};

/// How long the load goes on before anything is done.
pub(crate) const WARM_MS: u64 = 4_000;

const fn row(name: &'static str, about: &'static str, steps: &'static [Step]) -> Scenario {
    Scenario { name, about, nodes: 3, replicas: None, subset: false, steps }
}

impl Scenario {
    const fn nodes(self, nodes: u8) -> Scenario {
        Scenario { nodes, ..self }
    }

    const fn replicas(self, replicas: u8) -> Scenario {
        Scenario { replicas: Some(replicas), ..self }
    }

    const fn in_ci(self) -> Scenario {
        Scenario { subset: true, ..self }
    }

    /// Whether it wants links that can be cut.
    pub(crate) fn wants_network(&self) -> bool {
        self.steps.iter().any(|step| match step {
            Cut(..) | CutOneWay(..) | Split(_) | Slow(..) | Heal => true,
            Wait(_) | Kill(_) | KillAll | Stop(_) | Start(_) | StartAll | Ready | Pause(_)
            | Resume(_) | Wipe(_) | Corrupt(_) | Renew(_) | Readdress | Leave(_) | Upgrade(_) => {
                false
            }
        })
    }

    /// Whether it is about two versions of the protocol.
    pub(crate) fn has_two_versions(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Upgrade(_)))
    }
}

/// All of them. `cargo xtask cluster-test` runs those of CI.
// A row a line or two, so that the table can be read as one.
#[rustfmt::skip]
pub(crate) const SCENARIOS: &[Scenario] = &[
    row("alone", "one node without a cluster: the control of this program", &[
        Wait(2_000), Kill(1), Wait(500), Start(1), Ready, Wait(3_000),
    ])
    .nodes(1),
    row("calm", "three nodes and no fault: the control", &[Wait(10_000)]).in_ci(),
    row("kill-each", "kill -9 of each node in turn, the first-born among them", &[
        Kill(1), Wait(8_000), Start(1), Ready, Wait(4_000),
        Kill(2), Wait(8_000), Start(2), Ready, Wait(4_000),
        Kill(3), Wait(8_000), Start(3), Ready, Wait(4_000),
    ])
    .in_ci(),
    row("kill-each-of-five", "the same with five, two of them at once in the end", &[
        Kill(1), Wait(8_000), Start(1), Ready, Wait(4_000),
        Kill(3), Wait(8_000), Start(3), Ready, Wait(4_000),
        Kill(5), Wait(8_000), Start(5), Ready, Wait(4_000),
        Kill(2), Kill(4), Wait(8_000), Start(2), Start(4), Ready, Wait(4_000),
    ])
    .nodes(5),
    row("restart-at-once", "kill -9 and a new process within a second", &[
        Kill(1), Wait(300), Start(1), Ready, Wait(5_000),
        Kill(2), Wait(50), Start(2), Ready, Wait(5_000),
        Kill(3), Wait(700), Start(3), Ready, Wait(5_000),
    ])
    .in_ci(),
    row("split-2-1", "the last node alone, then the first-born alone", &[
        Split(&[&[1, 2], &[3]]), Wait(15_000), Heal, Wait(12_000), Ready,
        Split(&[&[1], &[2, 3]]), Wait(15_000), Heal, Wait(12_000), Ready,
    ]),
    row("split-1-1-1", "no two nodes reach each other", &[
        Split(&[&[1], &[2], &[3]]), Wait(15_000), Heal, Wait(12_000), Ready, Wait(2_000),
    ]),
    row("split-3-2", "five nodes, the first-born in the minority", &[
        Split(&[&[1, 2], &[3, 4, 5]]), Wait(15_000), Heal, Wait(12_000), Ready, Wait(2_000),
    ])
    .nodes(5),
    row("brief-cuts", "splits shorter than a lease", &[
        Split(&[&[1], &[2, 3]]), Wait(700), Heal, Wait(3_000),
        Split(&[&[2], &[1, 3]]), Wait(1_500), Heal, Wait(3_000),
        Split(&[&[3], &[1, 2]]), Wait(2_200), Heal, Wait(10_000), Ready,
    ]),
    row("one-way", "a link that carries one direction alone", &[
        CutOneWay(1, 2), Wait(12_000), Heal, Wait(10_000), Ready,
        CutOneWay(3, 1), Wait(12_000), Heal, Wait(10_000), Ready,
    ]),
    row("deaf", "a node that is heard and hears nobody, then the other way round", &[
        CutOneWay(2, 1), CutOneWay(3, 1), Wait(12_000), Heal, Wait(10_000), Ready,
        CutOneWay(1, 2), CutOneWay(1, 3), Wait(12_000), Heal, Wait(10_000), Ready,
    ]),
    row("pair-cut", "two nodes cut off from each other, the third reaches both", &[
        Cut(1, 2), Wait(15_000), Heal, Wait(12_000), Ready,
        Cut(2, 3), Wait(15_000), Heal, Wait(12_000), Ready,
    ]),
    row("slow-link", "a node with 256 kbit/s, clients included", &[
        Slow(2, 256), Wait(12_000), Heal, Wait(10_000), Ready,
        Slow(1, 256), Wait(12_000), Heal, Wait(10_000), Ready,
    ]),
    row("all-killed", "all at once, and back with new addresses", &[
        KillAll, Wait(1_000), Readdress, StartAll, Ready, Wait(6_000),
        KillAll, StartAll, Ready, Wait(6_000),
    ])
    .in_ci(),
    row("disk-wiped", "a node comes back with an empty disk: as a new one", &[
        Kill(2), Wipe(2), Wait(5_000), Start(2), Ready, Wait(5_000),
        Kill(1), Wipe(1), Wait(500), Start(1), Ready, Wait(5_000),
    ]),
    row("disk-corrupt", "a log that is damaged in its middle is refused, and then emptied", &[
        Kill(2), Corrupt(2), Wait(5_000), Start(2), Renew(2), Ready, Wait(5_000),
        Kill(1), Corrupt(1), Wait(500), Start(1), Renew(1), Ready, Wait(5_000),
    ]),
    row("pause", "SIGSTOP past the lease, with bytes in the socket", &[
        Pause(2), Wait(7_000), Resume(2), Wait(10_000), Ready,
        Pause(1), Wait(7_000), Resume(1), Wait(10_000), Ready,
        Pause(3), Wait(2_300), Resume(3), Wait(10_000), Ready,
    ])
    .in_ci(),
    row("two-replicas", "replication_factor = 2, each node down once", &[
        Kill(1), Wait(6_000), Start(1), Ready, Wait(4_000),
        Kill(2), Wait(6_000), Start(2), Ready, Wait(4_000),
        Kill(3), Wait(6_000), Start(3), Ready, Wait(4_000),
    ])
    .replicas(2),
    row("scale", "three nodes, five, and three again", &[
        Start(4), Ready, Wait(6_000), Start(5), Ready, Wait(15_000),
        Leave(4), Wait(5_000), Leave(1), Wait(5_000), Ready,
    ]),
    row("rolling-restart", "SIGTERM and a new process, one node after the other", &[
        Stop(1), Start(1), Ready, Wait(4_000), Stop(2), Start(2), Ready, Wait(4_000),
        Stop(3), Start(3), Ready, Wait(4_000),
    ]),
    row("rolling-upgrade", "the same from version 1 of the protocol (with --older PATH: from that program) to 2", &[
        Stop(1), Upgrade(1), Start(1), Ready, Wait(6_000),
        Stop(2), Upgrade(2), Start(2), Ready, Wait(6_000),
        Stop(3), Upgrade(3), Start(3), Ready, Wait(6_000),
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The highest number of a node.
    fn nodes_max(scenario: &Scenario) -> u8 {
        let started = scenario.steps.iter().filter_map(|step| match step {
            Start(node) => Some(*node),
            Wait(_) | Kill(_) | KillAll | Stop(_) | StartAll | Ready | Pause(_) | Resume(_)
            | Cut(..) | CutOneWay(..) | Split(_) | Slow(..) | Heal | Wipe(_) | Corrupt(_)
            | Renew(_) | Readdress | Leave(_) | Upgrade(_) => None,
        });
        started.max().unwrap_or(0).max(scenario.nodes)
    }

    #[test]
    fn every_node_of_a_step_is_there_and_every_fault_is_over_in_the_end() {
        for scenario in SCENARIOS {
            let (mut down, mut cut, mut paused) = (Vec::new(), false, Vec::new());
            let most = nodes_max(scenario);
            for step in scenario.steps {
                match *step {
                    Kill(node) | Stop(node) => down.push(node),
                    KillAll => down.extend(1..=scenario.nodes),
                    Start(node) => down.retain(|&other| other != node),
                    StartAll => down.clear(),
                    Pause(node) => paused.push(node),
                    Resume(node) => paused.retain(|&other| other != node),
                    Cut(a, b) | CutOneWay(a, b) => {
                        assert!(a != b && a.max(b) <= most, "{}: {step:?}", scenario.name);
                        cut = true;
                    }
                    Split(parts) => {
                        let mut all = parts.concat();
                        all.sort_unstable();
                        let wanted: Vec<u8> = (1..=scenario.nodes).collect();
                        assert_eq!(all, wanted, "{}: {step:?}", scenario.name);
                        cut = true;
                    }
                    Slow(..) => cut = true,
                    Heal => cut = false,
                    Wipe(node) | Corrupt(node) | Upgrade(node) => {
                        assert!(down.contains(&node), "{}: {step:?}", scenario.name);
                    }
                    Readdress => assert!(down.len() >= scenario.nodes.into()),
                    Wait(_) | Ready | Leave(_) | Renew(_) => {}
                }
            }
            assert!(down.is_empty() && paused.is_empty() && !cut, "{}", scenario.name);
        }
    }

    #[test]
    fn names_are_given_once() {
        let mut names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SCENARIOS.len());
    }
}
