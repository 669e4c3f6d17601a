use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::rig::Rig;

/// One run: nodes crash, links are cut one way or both, calls are lost and come
/// late, snapshots are taken and the log forgets, leadership is handed over;
/// then all is well again, and everything that was acknowledged is everywhere.
/// Says how much that was.
async fn run(seed: u64, nodes: u64) -> usize {
    let mut rig = Rig::new(seed, nodes, nodes, &[1, 2]).await;
    let mut acknowledged = Vec::new();
    let mut down: Option<u64> = None;
    for step in 0..60 {
        match rig.below(12) {
            0 => rig.isolate(1 + rig.below(nodes)),
            1 | 2 => rig.heal(),
            3 => {
                let (from, to) = (1 + rig.below(nodes), 1 + rig.below(nodes));
                rig.faults(|faults| {
                    faults.cut.insert((from, to));
                });
            }
            4 => {
                let (dropped, delay) = (rig.below(200), rig.below(30));
                rig.faults(|faults| {
                    faults.dropped = dropped;
                    faults.delay = Duration::from_millis(delay);
                });
            }
            5 => match down.take() {
                Some(node) => rig.start(node).await,
                None => {
                    let node = 1 + rig.below(nodes);
                    rig.crash(node).await;
                    down = Some(node);
                }
            },
            6 => {
                let node = 1 + rig.below(nodes);
                if down != Some(node) {
                    rig.restart(node).await;
                }
            }
            7 => {
                let node = 1 + rig.below(nodes);
                if down != Some(node)
                    && let Ok(Ok(Some(last))) =
                        timeout(Duration::from_secs(5), rig.groups(node).snapshot(1)).await
                {
                    // It may have been closed by its own fault meanwhile.
                    let _ = rig.groups(node).purge(1, last.index).await;
                }
            }
            8 => {
                let (from, to) = (1 + rig.below(nodes), 1 + rig.below(nodes));
                if down != Some(from) {
                    // Most are refused.
                    let _ = rig.groups(from).transfer_leadership(1, to).await;
                }
            }
            _ => sleep(Duration::from_millis(rig.below(1_500))).await,
        }
        for i in 0..4 {
            let (node, group) = (1 + rig.below(nodes), 1 + (i % 2) as u16);
            if down == Some(node) {
                continue;
            }
            let payload = format!("{step}-{i}");
            let answer = rig.groups(node).propose(group, payload.clone().into());
            if let Ok(Ok(_)) = timeout(Duration::from_millis(400), answer).await {
                acknowledged.push((group, payload));
            }
        }
    }
    rig.heal();
    if let Some(node) = down {
        rig.start(node).await;
    }
    let all: Vec<u64> = (1..=nodes).collect();
    for group in [1, 2] {
        rig.commit(group, "end").await;
        rig.reaches(&all, group, "end").await;
        // A second end may follow, where the outcome of the first was not known.
        let same = || {
            let first = rig.machine(1, group).payloads();
            all.iter().all(|node| rig.machine(*node, group).payloads() == first)
        };
        let mut looks = 0;
        while !same() {
            assert!(looks < 200, "seed {seed}: the replicas of {group} stay different");
            looks += 1;
            sleep(Duration::from_millis(50)).await;
        }
    }
    for (group, payload) in &acknowledged {
        assert!(rig.has(1, *group, payload), "seed {seed}: {payload} of {group} is lost");
        let times = rig.machine(1, *group).payloads();
        let times = times.iter().filter(|got| *got == payload.as_bytes()).count();
        assert_eq!(times, 1, "seed {seed}: {payload} of {group}");
    }
    acknowledged.len()
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_to_three_nodes_nothing_acknowledged_is_lost_or_doubled() {
    let mut acknowledged = 0;
    for seed in 1_000..1_012 {
        acknowledged += run(seed, 3).await;
    }
    assert!(acknowledged > 12 * 20, "{acknowledged}: the faults leave nothing to be tested");
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_to_five_nodes_nothing_acknowledged_is_lost_or_doubled() {
    let mut acknowledged = 0;
    for seed in 2_000..2_005 {
        acknowledged += run(seed, 5).await;
    }
    assert!(acknowledged > 5 * 20, "{acknowledged}: the faults leave nothing to be tested");
}
