use super::*;
use crate::ids::{Incarnation, Life, NodeId};
use crate::limits::FOUNDER_SILENT_MS;
use crate::seeded::Seeded;

const OURS: ClusterId = ClusterId(1);
const OTHER: ClusterId = ClusterId(2);
const DRAW: ClusterId = ClusterId(99);
const ME: StoreId = StoreId(10);
const SHE: StoreId = StoreId(20);

fn fresh() -> Answer {
    Answer::Fresh { store: SHE, list: Some(list_hash(&list())), asked: false, keeps: false }
}

fn list() -> Vec<String> {
    ["a", "b", "c"].map(String::from).to_vec()
}

/// Peers b, c and so on say these.
fn probes(answers: &[Answer]) -> Vec<Probe> {
    let addresses = ["b", "c", "d"].into_iter();
    addresses
        .zip(answers)
        .map(|(address, answer)| Probe { address: address.into(), answer: answer.clone() })
        .collect()
}

fn by_list_at(me: &str) -> Mode {
    Mode::Static { list: list(), me: me.into() }
}

fn init(asked: bool) -> Mode {
    Mode::Init { asked, despite_silent: false }
}

fn kubernetes(view: ClaimView) -> Mode {
    Mode::Kubernetes { view }
}

fn present(founder: StoreId, confirmed: bool, unseen_ms: u64) -> Mode {
    let claim = Claim { cluster: OURS, founder, confirmed };
    kubernetes(ClaimView::Present { claim, version: "7".into(), unseen_ms })
}

fn every_mode() -> Vec<Mode> {
    vec![
        Mode::Single,
        by_list_at("a"),
        by_list_at("b"),
        init(false),
        init(true),
        Mode::Init { asked: true, despite_silent: true },
        kubernetes(ClaimView::Unknown),
        kubernetes(ClaimView::Absent),
        present(ME, false, 0),
        present(ME, true, 0),
        present(SHE, false, 0),
        present(SHE, false, FOUNDER_SILENT_MS),
        present(SHE, true, FOUNDER_SILENT_MS),
    ]
}

#[test]
fn each_case_has_its_decision() {
    use Answer::{Member, Myself, NotTrusted, Silent};
    let via = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let join = |cluster, names: &[&str]| Decision::Join { cluster, via: via(names) };
    let asked = Answer::Fresh { store: SHE, list: None, asked: true, keeps: false };
    let another_list = Answer::Fresh { store: SHE, list: Some(1), asked: false, keeps: false };
    let refuse = Decision::Refuse;
    let wait = Decision::Wait;
    let cases: Vec<(&str, Mode, Vec<Answer>, Decision)> = vec![
        ("single and alone", Mode::Single, vec![], Decision::Found(DRAW)),
        ("single sees itself", Mode::Single, vec![Myself], Decision::Found(DRAW)),
        (
            "single with a peer",
            Mode::Single,
            vec![Silent],
            refuse(Reason::SingleWithPeers("b".into())),
        ),
        (
            "single with a cluster",
            Mode::Single,
            vec![Member(OURS)],
            refuse(Reason::SingleWithPeers("b".into())),
        ),
        (
            "static, all fresh, first",
            by_list_at("a"),
            vec![fresh(), fresh()],
            Decision::Found(DRAW),
        ),
        (
            "static, one silent",
            by_list_at("a"),
            vec![fresh(), Silent],
            wait(Reason::PeersSilent(via(&["c"]))),
        ),
        (
            "static, nobody probed yet",
            by_list_at("a"),
            vec![],
            wait(Reason::PeersSilent(via(&["b", "c"]))),
        ),
        (
            "static, another list",
            by_list_at("a"),
            vec![fresh(), another_list],
            refuse(Reason::ListsDiffer("c".into())),
        ),
        ("static, not in it", by_list_at("x"), vec![], refuse(Reason::NotInList("x".into()))),
        (
            "static, a cluster is there",
            by_list_at("a"),
            vec![Member(OURS), Silent],
            join(OURS, &["b"]),
        ),
        ("init, nobody asked", init(false), vec![fresh()], wait(Reason::NotAsked)),
        ("init, asked, all fresh", init(true), vec![fresh(), Myself], Decision::Found(DRAW)),
        (
            "init, asked, one silent",
            init(true),
            vec![fresh(), Silent],
            refuse(Reason::PeersSilent(via(&["c"]))),
        ),
        (
            "init, asked twice",
            init(true),
            vec![asked.clone()],
            refuse(Reason::OtherFounds("b".into())),
        ),
        ("init, a cluster is there", init(true), vec![Member(OURS)], join(OURS, &["b"])),
        (
            "kubernetes, not read yet",
            kubernetes(ClaimView::Unknown),
            vec![fresh()],
            wait(Reason::ClaimUnknown),
        ),
        (
            "kubernetes, absent",
            kubernetes(ClaimView::Absent),
            vec![],
            Decision::Write(ClaimWrite::Create(Claim {
                cluster: DRAW,
                founder: ME,
                confirmed: false,
            })),
        ),
        (
            "kubernetes, mine to confirm",
            present(ME, false, 0),
            vec![],
            Decision::Write(ClaimWrite::Replace {
                version: "7".into(),
                claim: Claim { cluster: OURS, founder: ME, confirmed: true },
            }),
        ),
        ("kubernetes, mine", present(ME, true, 0), vec![Silent], Decision::Found(OURS)),
        (
            "kubernetes, hers, about to confirm",
            present(SHE, false, FOUNDER_SILENT_MS - 1),
            vec![],
            wait(Reason::Claimed(SHE)),
        ),
        (
            "kubernetes, hers, and she is seen",
            present(SHE, false, FOUNDER_SILENT_MS),
            vec![fresh()],
            wait(Reason::Claimed(SHE)),
        ),
        (
            "kubernetes, hers, and she is seen nowhere",
            present(SHE, false, FOUNDER_SILENT_MS),
            vec![Silent],
            Decision::Write(ClaimWrite::Replace {
                version: "7".into(),
                claim: Claim { cluster: DRAW, founder: ME, confirmed: false },
            }),
        ),
        (
            "kubernetes, hers for ever",
            present(SHE, true, 100 * FOUNDER_SILENT_MS),
            vec![Silent],
            wait(Reason::ClusterSilent(OURS)),
        ),
        ("kubernetes, join", present(SHE, true, 0), vec![Member(OURS)], join(OURS, &["b"])),
        (
            "kubernetes, another cluster",
            present(SHE, true, 0),
            vec![Member(OTHER)],
            refuse(Reason::ClaimDiffers { claimed: OURS, found: OTHER }),
        ),
        (
            "two clusters",
            init(true),
            vec![Member(OTHER), Member(OURS)],
            refuse(Reason::TwoClusters(OURS, OTHER)),
        ),
        (
            "another name",
            init(true),
            vec![Answer::OtherName("x".into())],
            refuse(Reason::OtherName { address: "b".into(), name: "x".into() }),
        ),
        (
            "a wrong secret is no reason to found",
            init(true),
            vec![fresh(), NotTrusted],
            refuse(Reason::NotTrusted { address: "c".into() }),
        ),
        (
            "a wrong secret at one peer does not keep it from joining by another",
            init(false),
            vec![NotTrusted, Member(OURS)],
            join(OURS, &["c"]),
        ),
    ];
    for (story, mode, answers, expected) in cases {
        let decided = decide(&Local::Fresh, ME, &mode, &probes(&answers), DRAW);
        assert_eq!(decided, expected, "{story}");
    }
}

#[test]
fn who_has_kept_data_founds_or_stays_out() {
    use Answer::{Member, Silent};
    let keeper =
        || Answer::Fresh { store: SHE, list: Some(list_hash(&list())), asked: false, keeps: true };
    let replace = Decision::Write(ClaimWrite::Replace {
        version: "7".into(),
        claim: Claim { cluster: DRAW, founder: ME, confirmed: false },
    });
    let two = || Decision::Refuse(Reason::TwoWithData("b".into()));
    let own = || Decision::Refuse(Reason::OwnData(OURS));
    let cases = [
        ("alone", Mode::Single, vec![], Decision::Found(DRAW)),
        ("the last of the list", by_list_at("c"), vec![fresh()], Decision::Found(DRAW)),
        ("asked", init(true), vec![fresh()], Decision::Found(DRAW)),
        ("not asked", init(false), vec![fresh()], Decision::Wait(Reason::NotAsked)),
        ("the claim of one that has none", present(SHE, false, 0), vec![fresh()], replace),
        ("mine", present(ME, true, 0), vec![fresh()], Decision::Found(OURS)),
        ("too late", present(SHE, true, 0), vec![Silent], own()),
        ("two", Mode::Init { asked: true, despite_silent: true }, vec![keeper()], two()),
        ("two of a list", by_list_at("c"), vec![keeper()], two()),
        ("two and a claim", present(SHE, false, 0), vec![keeper()], two()),
    ];
    for (story, mode, answers, expected) in cases {
        let mut probes = probes(&answers);
        if mode == by_list_at("c") {
            probes.push(Probe { address: "a".into(), answer: fresh() });
        }
        assert_eq!(decide(&Local::Alone, ME, &mode, &probes, DRAW), expected, "{story}");
    }
    for mode in every_mode() {
        let decided = decide(&Local::Alone, ME, &mode, &probes(&[Silent, Member(OURS)]), DRAW);
        assert_eq!(decided, own(), "{mode:?}: there is a cluster already");
        // And nobody else founds while it is seen, but who is bound to by the claim.
        let decided = decide(&Local::Fresh, ME, &mode, &probes(&[keeper(), fresh()]), DRAW);
        let bound = mode == present(ME, true, 0);
        assert_eq!(matches!(decided, Decision::Found(_)), bound, "{mode:?}: {decided:?}");
        assert!(!matches!(decided, Decision::Write(_)), "{mode:?}: {decided:?}");
    }
    let fresh_of_list =
        decide(&Local::Fresh, ME, &by_list_at("a"), &probes(&[fresh(), keeper()]), DRAW);
    assert_eq!(fresh_of_list, Decision::Wait(Reason::OtherFounds("c".into())));
    let asked = decide(&Local::Fresh, ME, &init(true), &probes(&[keeper()]), DRAW);
    assert_eq!(asked, Decision::Refuse(Reason::OtherHasData("b".into())));
}

#[test]
fn who_has_a_cluster_id_never_founds() {
    use Answer::{Member, Silent};
    for mode in every_mode() {
        let member = Local::Member { cluster: OURS };
        let decide =
            |local: &Local, answers: &[Answer]| decide(local, ME, &mode, &probes(answers), DRAW);
        let alone = Decision::Rejoin { via: vec![] };
        assert_eq!(decide(&member, &[Silent, fresh()]), alone, "all restart at once");
        let via = vec!["c".to_owned()];
        assert_eq!(decide(&member, &[Member(OTHER), Member(OURS)]), Decision::Rejoin { via });
        let other = Reason::OtherCluster { ours: OURS, theirs: OTHER };
        assert_eq!(decide(&member, &[Member(OTHER)]), Decision::Wait(other.clone()));

        let lost = Local::LogLost { cluster: OURS };
        let silent = Decision::Wait(Reason::ClusterSilent(OURS));
        assert_eq!(decide(&lost, &[]), silent);
        assert_eq!(decide(&lost, &[fresh(), fresh()]), silent);
        let via = vec!["b".to_owned()];
        assert_eq!(decide(&lost, &[Member(OURS)]), Decision::Join { cluster: OURS, via });
        assert_eq!(decide(&lost, &[Member(OTHER)]), Decision::Refuse(other));
    }
}

#[test]
fn that_nobody_answers_is_no_reason_to_found() {
    for mode in every_mode() {
        let decided = decide(&Local::Fresh, ME, &mode, &probes(&[Answer::Silent]), DRAW);
        let said_aloud = mode == Mode::Init { asked: true, despite_silent: true }
            || mode == present(ME, true, 0);
        assert_eq!(matches!(decided, Decision::Found(_)), said_aloud, "{mode:?}: {decided:?}");
    }
}

/// Pods that come, crash and lose their disks around one ConfigMap whose API is
/// slow: at most one cluster is ever founded.
#[test]
fn many_pods_and_one_config_map_found_one_cluster() {
    let (mut founded_runs, mut by_keeper) = (0, 0);
    for seed in 0..500 {
        // In every other run the first pod has data, and keeps its disk.
        let keeper = seed % 2 == 1;
        let mut random = Seeded::new(seed);
        let mut map: Option<(Claim, u64)> = None;
        let mut founded: BTreeSet<ClusterId> = BTreeSet::new();
        // A pod's store, what it read last and when that was new to it, its cluster.
        struct Pod {
            store: StoreId,
            view: Option<Option<(Claim, u64)>>,
            since: u64,
            cluster: Option<ClusterId>,
        }
        let mut stores = 100;
        let mut pods: Vec<Pod> = Vec::new();
        for _ in 0..3 {
            stores += 1;
            pods.push(Pod { store: StoreId(stores), view: None, since: 0, cluster: None });
        }
        for step in 0..400_u64 {
            let now = step * 1_000;
            let at = random.below(3) as usize;
            if random.below(40) == 0 {
                // It restarts, now and then without its disk.
                pods[at].view = None;
                if random.chance(30) && pods[at].cluster.is_none() && !(keeper && at == 0) {
                    stores += 1;
                    pods[at].store = StoreId(stores);
                }
            }
            if random.chance(40) {
                if pods[at].view.as_ref() != Some(&map) {
                    pods[at].since = now;
                }
                pods[at].view = Some(map.clone());
                continue;
            }
            let probes: Vec<Probe> = (0..3)
                .filter(|other| *other != at)
                .map(|other| {
                    let answer = match pods[other].cluster {
                        _ if random.chance(50) => Answer::Silent,
                        Some(cluster) => Answer::Member(cluster),
                        None => {
                            let (store, keeps) = (pods[other].store, keeper && other == 0);
                            Answer::Fresh { store, list: None, asked: false, keeps }
                        }
                    };
                    Probe { address: other.to_string(), answer }
                })
                .collect();
            let view = match &pods[at].view {
                None => ClaimView::Unknown,
                Some(None) => ClaimView::Absent,
                Some(Some((claim, version))) => ClaimView::Present {
                    claim: claim.clone(),
                    version: version.to_string(),
                    unseen_ms: now - pods[at].since,
                },
            };
            let local = match pods[at].cluster {
                None if keeper && at == 0 => Local::Alone,
                None => Local::Fresh,
                Some(cluster) => Local::Member { cluster },
            };
            let draw = ClusterId(u128::from(random.next()));
            let mode = Mode::Kubernetes { view };
            match decide(&local, pods[at].store, &mode, &probes, draw) {
                Decision::Found(cluster) => {
                    founded.insert(cluster);
                    by_keeper += usize::from(keeper && at == 0);
                    pods[at].cluster = Some(cluster);
                }
                Decision::Refuse(Reason::OwnData(_)) if keeper && at == 0 => {}
                Decision::Join { cluster, .. } => {
                    assert!(!(keeper && at == 0), "seed {seed}: with data of its own");
                    pods[at].cluster = Some(cluster);
                }
                Decision::Write(ClaimWrite::Create(claim)) => {
                    if map.is_none() {
                        map = Some((claim, step));
                    }
                    pods[at].view = None;
                }
                Decision::Write(ClaimWrite::Replace { version, claim }) => {
                    if map.as_ref().is_some_and(|(_, is)| is.to_string() == version) {
                        map = Some((claim, step));
                    }
                    pods[at].view = None;
                }
                Decision::Rejoin { .. } | Decision::Wait(_) => {}
                Decision::Refuse(reason) => panic!("seed {seed}: {reason}"),
            }
            assert!(founded.len() <= 1, "seed {seed}: two clusters");
        }
        founded_runs += founded.len();
    }
    assert!(founded_runs > 400, "mostly one is founded: {founded_runs} of 500");
    assert!(by_keeper > 100, "often by the one with data: {by_keeper} of 250");
}

#[test]
fn an_empty_answer_of_dns_takes_nothing_away() {
    let mut peers = Peers::new(vec!["old".into()]);
    assert!(peers.is_due(0, false));
    peers.resolved(Some(vec!["b".into(), "a".into(), "b".into()]), 0);
    assert_eq!(peers.to_probe("a"), ["b", "old"]);
    peers.resolved(Some(vec![]), 1_000);
    peers.resolved(None, 2_000);
    assert_eq!(peers.to_probe("a"), ["b", "old"]);
    assert_eq!(peers.failures(), 2);
    assert!(!peers.is_due(3_999, true));
    assert!(peers.is_due(4_000, true), "after failures it is asked sooner");
    peers.resolved(Some(vec!["z".into()]), 4_000);
    assert!(!peers.is_due(33_999, true));
    assert_eq!(peers.to_probe("a"), ["z", "old"]);
}

#[test]
fn a_node_is_found_where_its_latest_life_is() {
    let mut book = AddressBook::default();
    let life = |incarnation| Life { node: NodeId(1), incarnation: Incarnation(incarnation) };
    assert!(book.learn(life(1), "a"));
    assert!(book.learn(life(2), "b"));
    assert!(!book.learn(life(1), "a"), "a late word of the old pod");
    assert_eq!(book.address(NodeId(1)), Some("b"));
    book.forget(NodeId(1));
    assert_eq!(book.all(), Vec::<String>::new());
}
