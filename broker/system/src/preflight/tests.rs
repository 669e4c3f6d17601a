//! What is said of good machines, bad ones and unknown ones.

use super::*;

/// A large node that was set up for it.
fn good() -> Facts {
    Facts {
        kernel: Some("6.12.9-amd64".into()),
        version: Some((6, 12)),
        btf: Some(true),
        jit: Some(1),
        capabilities: Some(Capabilities(u64::MAX)),
        descriptors: Some((Limit::At(1_024), Limit::At(2_000_000))),
        nr_open: Some(2_097_152),
        file_max: Some(9_223_372_036_854_775_807),
        somaxconn: Some(4_096),
        syn_backlog: Some(4_096),
        tcp_mem: Some([1_500_000, 2_000_000, 3_000_000]),
        port_range: Some([32_768, 60_999]),
        conntrack_max: Some(2_097_152),
        conntrack_entries: Some(300),
        cgroup2: Some("/sys/fs/cgroup".into()),
        cpu_max: Some(Limit::Unlimited),
        cpus: Some(16),
        memory_max: Some(Limit::Unlimited),
        memory_total: Some(64 << 30),
        keepalive_time: Some(7_200),
        keepalive_interval: Some(75),
        keepalive_probes: Some(9),
        data_free: Some(100 << 30),
        huge_pages: Some("always".into()),
    }
}

fn demand() -> Demand {
    Demand {
        connections_max: 1_000_000,
        connections: 0,
        shards: 16,
        listeners: 2,
        backlog: 1_024,
        ebpf: Ebpf::Auto,
        keepalive: (300, 300, 2),
    }
}

fn check(id: &str, facts: &Facts, demand: &Demand) -> Check {
    let checks = assess(facts, demand);
    checks.into_iter().find(|check| check.id == id).expect("a check of that name")
}

fn outcome(id: &str, facts: &Facts) -> Outcome {
    check(id, facts, &demand()).outcome
}

#[test]
fn a_node_that_was_set_up_for_it_is_ok_throughout() {
    for check in assess(&good(), &demand()) {
        assert_eq!(check.outcome, Outcome::Ok, "{}", check.sentence());
    }
}

#[test]
fn what_could_not_be_read_is_unknown_throughout() {
    let checks = assess(&Facts::default(), &demand());
    assert!(checks.iter().all(|check| check.outcome == Outcome::Unknown));
    assert!(checks.iter().all(|check| check.found == "unknown"));
    let all = Totals { unknown: checks.len(), ..Totals::default() };
    assert_eq!(Totals::of(&checks), all);
}

#[test]
fn every_check_says_what_to_do_and_has_a_name_of_its_own() {
    let checks = assess(&Facts::default(), &demand());
    for (at, check) in checks.iter().enumerate() {
        assert!(check.id.bytes().all(|b| b.is_ascii_lowercase() || b"_2".contains(&b)));
        assert!(!check.why.is_empty() && !check.fix.is_empty() && !check.needed.is_empty());
        assert!(checks[..at].iter().all(|other| other.id != check.id), "{} twice", check.id);
    }
}

#[test]
fn descriptors_are_for_all_connections_and_listeners() {
    assert_eq!(descriptors(&demand()), 1_000_000 + 32 + 512);
    let low = Facts { descriptors: Some((Limit::At(1_024), Limit::At(65_536))), ..good() };
    let check = check("nofile", &low, &demand());
    assert_eq!(check.outcome, Outcome::Fail);
    assert_eq!(check.found, "1024 soft, 65536 hard");
    assert!(check.fix.starts_with("systemd: LimitNOFILE=1000544;"), "{}", check.fix);
    let exact = Facts { descriptors: Some((Limit::At(1), Limit::At(1_000_544))), ..good() };
    assert_eq!(outcome("nofile", &exact), Outcome::Ok);
    let none = Facts { descriptors: Some((Limit::Unlimited, Limit::Unlimited)), ..good() };
    assert_eq!(outcome("nofile", &none), Outcome::Ok);
    assert_eq!(outcome("fs_nr_open", &Facts { nr_open: Some(1 << 20), ..good() }), Outcome::Ok);
    let fewer = Facts { nr_open: Some(1_000_000), ..good() };
    assert_eq!(outcome("fs_nr_open", &fewer), Outcome::Fail);
    let fewer = Facts { file_max: Some(1_000_544), ..good() };
    assert_eq!(outcome("fs_file_max", &fewer), Outcome::Fail);
}

#[test]
fn the_conntrack_table_is_held_against_the_connection_limit() {
    let small = Facts { conntrack_max: Some(262_144), conntrack_entries: Some(200_300), ..good() };
    let demand = Demand { connections_max: 1_200_000, connections: 200_000, ..demand() };
    let check = check("conntrack", &small, &demand);
    assert_eq!(check.outcome, Outcome::Fail);
    assert_eq!(check.needed, "1200300 (457 % of it)");
    assert!(check.fix.starts_with("sysctl -w net.netfilter.nf_conntrack_max="));
    let nearly = Facts { conntrack_max: Some(1_300_000), ..good() };
    assert_eq!(outcome("conntrack", &nearly), Outcome::Warn);
    // A table of nothing is full, not a division by it.
    let none = Facts { conntrack_max: Some(0), ..good() };
    assert_eq!(outcome("conntrack", &none), Outcome::Fail);
}

#[test]
fn less_than_two_cpus_or_a_part_of_one_is_warned_of() {
    let with = |limit, cpus| Facts { cpu_max: Some(limit), cpus: Some(cpus), ..good() };
    for (limit, cpus, wanted) in [
        (Limit::At(2_000), 16, Outcome::Ok),
        (Limit::At(1_000), 16, Outcome::Warn),
        (Limit::At(2_500), 16, Outcome::Warn),
        (Limit::Unlimited, 2, Outcome::Ok),
        (Limit::Unlimited, 1, Outcome::Warn),
    ] {
        assert_eq!(outcome("cgroup_cpu", &with(limit, cpus)), wanted, "{limit:?} {cpus}");
    }
    let check = check("cgroup_cpu", &with(Limit::At(2_500), 16), &Demand::default());
    assert_eq!(check.found, "limit of 2.5 CPUs");
    assert!(check.fix.starts_with("resources.limits.cpu: 3,"), "{}", check.fix);
}

#[test]
fn a_small_data_volume_fails_with_its_size() {
    let small = Facts { data_free: Some(60 << 20), ..good() };
    let check = check("data_dir", &small, &demand());
    assert_eq!((check.outcome, check.found.as_str()), (Outcome::Fail, "60 MiB free"));
    let middling = Facts { data_free: Some(500 << 20), ..good() };
    assert_eq!(outcome("data_dir", &middling), Outcome::Warn);
}

#[test]
fn what_ebpf_wants_counts_as_much_as_ebpf_does() {
    let bare = Facts {
        capabilities: Some(Capabilities(0)),
        btf: Some(false),
        jit: Some(0),
        version: Some((4, 19)),
        cgroup2: Some(String::new()),
        ..good()
    };
    let told = |ebpf| {
        let demand = Demand { ebpf, ..demand() };
        Totals::of(&assess(&bare, &demand))
    };
    assert_eq!(told(Ebpf::Off).ok, 18);
    assert_eq!((told(Ebpf::Auto).warn, told(Ebpf::Auto).fail), (5, 0));
    assert_eq!((told(Ebpf::Required).warn, told(Ebpf::Required).fail), (3, 2));
}

#[test]
fn queues_and_memory_are_warned_of() {
    assert_eq!(outcome("somaxconn", &Facts { somaxconn: Some(128), ..good() }), Outcome::Warn);
    let few = Facts { syn_backlog: Some(128), ..good() };
    assert_eq!(outcome("tcp_max_syn_backlog", &few), Outcome::Warn);
    let few = Facts { tcp_mem: Some([1, 2, 3]), ..good() };
    assert_eq!(outcome("tcp_mem", &few), Outcome::Warn);
    let small = Facts { memory_max: Some(Limit::At(1 << 30)), ..good() };
    let check = check("cgroup_memory", &small, &demand());
    assert_eq!((check.outcome, check.found.as_str()), (Outcome::Warn, "limit of 1 GiB"));
}

#[test]
fn the_largest_numbers_are_no_trouble() {
    let most = u64::MAX;
    let facts = Facts {
        conntrack_max: Some(most),
        conntrack_entries: Some(most),
        tcp_mem: Some([most; 3]),
        ..good()
    };
    let demand =
        Demand { connections_max: most, shards: most, listeners: most, backlog: most, ..demand() };
    assert!(assess(&facts, &demand).iter().all(|check| !check.sentence().is_empty()));
}

#[test]
fn bytes_are_readable() {
    for (number, text) in [(5, "5 B"), (1_536, "1.5 KiB"), (128 << 20, "128 MiB")] {
        assert_eq!(bytes(number), text);
    }
    assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    assert_eq!(rounded(1_000_544), 1_048_576);
}
