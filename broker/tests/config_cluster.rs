//! `[cluster]`: what a good one means, and what is wrong with others in words
//! that name key, value and fix.

use tidegate::config::{
    Bootstrap, Discovery, Flags, Isolated, Overlay, SubscribeBarrier, Trust, Warning, load, read,
    reference,
};

const SECRET: &str = "secret = '0123456789abcdef'\n";

fn faults(keys: &str) -> String {
    match load(&format!("[cluster]\n{keys}"), &Overlay::default()) {
        Ok(_) => panic!("runs: {keys}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn without_a_name_the_node_is_alone() {
    let config = load("", &Overlay::default()).expect("the defaults");
    assert_eq!(config.cluster, None);
}

#[test]
fn a_name_and_peers_are_enough_on_loopback() {
    let text = "[cluster]\nname = 'a'\ndiscovery = ['127.0.0.2:7883', '127.0.0.3:7883']";
    let cluster = load(text, &Overlay::default()).expect("good").cluster.expect("it has a name");
    assert_eq!(cluster.bind.to_string(), "127.0.0.1:7883");
    assert_eq!(cluster.advertise, "127.0.0.1:7883");
    assert_eq!((cluster.bootstrap, cluster.replication_factor), (Bootstrap::Init, 0));
    assert_eq!(cluster.trust, Trust::Loopback);
    assert_eq!(cluster.subscribe_barrier, SubscribeBarrier::Cluster);
    assert_eq!(cluster.isolated, Isolated::Close);
}

#[test]
fn discovery_is_a_name_a_list_or_a_file() {
    let of = |typed: &str| {
        let text = format!("[cluster]\nname = 'a'\ndiscovery = {typed}");
        load(&text, &Overlay::default()).expect(typed).cluster.expect("named").discovery
    };
    let dns = Discovery::Dns { name: "peers.mq.svc".into(), port: 7883 };
    assert_eq!(of("'dns:peers.mq.svc:7883'"), Some(dns));
    assert_eq!(of("'file:/run/peers'"), Some(Discovery::File("/run/peers".into())));
    let list = Some(Discovery::Static(vec!["[::1]:1".into(), "b:2".into()]));
    assert_eq!(of("['[::1]:1', 'b:2']"), list);
    assert_eq!(of("'[::1]:1, b:2'"), list, "as the environment has it");
}

#[test]
fn a_pod_is_told_where_it_is_by_its_environment() {
    let variables = [
        ("TIDEGATE__CLUSTER__NAME", "a"),
        ("TIDEGATE__CLUSTER__BIND", "0.0.0.0:7883"),
        ("TIDEGATE__CLUSTER__ADVERTISE", "10.0.0.7:7883"),
        ("TIDEGATE__CLUSTER__DISCOVERY", "dns:tidegate-peers:7883"),
        ("TIDEGATE__CLUSTER__BOOTSTRAP", "kubernetes"),
        ("TIDEGATE__CLUSTER__SECRET", "0123456789abcdef"),
    ];
    let variables = variables.map(|(name, value)| (name.into(), value.into())).into();
    let config = load("", &Overlay { variables, flags: Flags::default() }).expect("good");
    let cluster = config.cluster.expect("named");
    assert_eq!(
        (cluster.advertise.as_str(), cluster.config_map.as_str()),
        ("10.0.0.7:7883", "tidegate-a")
    );
    assert_eq!(cluster.bootstrap, Bootstrap::Kubernetes);
}

#[test]
fn two_replicas_are_warned_of() {
    let text = "[cluster]\nname = 'a'\nbootstrap = 'single'\nreplication_factor = 2";
    let warnings = load(text, &Overlay::default()).expect("it runs").warnings;
    assert_eq!(warnings, [Warning::TwoReplicas]);
    let said = warnings[0].to_string();
    assert!(said.contains("its partitions stop") && said.contains("with 3"), "{said}");
}

#[test]
fn each_fault_names_key_value_and_fix() {
    let cases: &[(&str, &str)] = &[
        (
            "zone = 'a'",
            "cluster.zone: has no effect without cluster.name; set cluster.name, or remove the key",
        ),
        (
            "name = 'A'\nbootstrap = 'single'",
            "cluster.name: \"A\" is not a name; use 1 to 63 of lower-case letters, digits, '.', '-', '_'",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nbind = '10.0.0.1:7883'",
            "cluster.bind: \"10.0.0.1:7883\" is off loopback, and nothing says who may join; set cluster.secret_file, or cluster.tls_certificate with tls_key and tls_ca, or bind to 127.0.0.1",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nsecret = '0123456789abcdef'\nbind = '0.0.0.0:7883'",
            "cluster.advertise: missing, and peers can't call 0.0.0.0:7883; name the address and port where they reach this node, such as 10.0.0.1:7883",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nbind = '127.0.0.1:0'",
            "cluster.bind: \"127.0.0.1:0\" leaves the port to the kernel, and peers have to know it; use a fixed port such as 7883",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nbind = '127.0.0.1:1883'",
            "cluster.bind: 127.0.0.1:1883 is taken by listener.default.bind (127.0.0.1:1883); use another port",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nsecret = 'short'",
            "cluster.secret: \"(hidden)\" has 5 bytes, and could be guessed; draw one of at least 16 bytes, such as by `openssl rand -hex 32`",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nsecret = 123456789",
            "cluster.secret: what is typed is a number; use text in quotes",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nsecret = '0123456789abcdef'\nsecret_file = 's'",
            "cluster.secret: has no effect with cluster.secret_file; keep one of them",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\ntls_certificate = 'c'\ntls_key = 'k'",
            "cluster.tls_ca: missing, and TLS between nodes needs certificate, key and authority; name its file",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nreplication_factor = 4",
            "cluster.replication_factor: \"4\" survives no more than 3 does, and costs one copy more; use 1, 2, 3 or 5",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\npartitions = 32",
            "cluster.partitions: \"32\" is not offered by this version, in which every cluster has 64; use 64, or remove the key",
        ),
        (
            "name = 'a'",
            "cluster.discovery: missing, and cluster.bootstrap = \"init\" looks for peers; name them, or use cluster.bootstrap = \"single\"",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\ndiscovery = ['a:1']",
            "cluster.bootstrap: \"single\" founds a cluster without looking for peers, and cluster.discovery names some; use \"init\", or remove cluster.discovery",
        ),
        (
            "name = 'a'\nbootstrap = 'static'\ndiscovery = ['a:1']",
            "cluster.bootstrap: \"static\" needs this node, 127.0.0.1:7883, in the list of cluster.discovery; add it there, or set cluster.advertise as the list has it",
        ),
        (
            "name = 'a'\nbootstrap = 'static'\ndiscovery = 'dns:a:1'",
            "cluster.bootstrap: \"static\" needs the same list at every node, and cluster.discovery is none; list all addresses in cluster.discovery, or use \"init\" or \"kubernetes\"",
        ),
        (
            "name = 'a'\ndiscovery = ['nowhere']",
            "cluster.discovery: \"nowhere\" is no host and port; use one such as 10.0.0.1:7883",
        ),
        (
            "name = 'a'\ndiscovery = 'dns:nowhere'",
            "cluster.discovery: \"dns:nowhere\" does not name a service and port; use one such as dns:tidegate-peers.messaging.svc:7883",
        ),
        (
            "name = 'a'\nbootstrap = 'raft'\ndiscovery = ['a:1']",
            "cluster.bootstrap: \"raft\" is not known; use \"kubernetes\" or \"init\" or \"static\" or \"single\"",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\nconfig_map = 'x'",
            "cluster.config_map: has no effect with cluster.bootstrap = \"single\"; use cluster.bootstrap = \"kubernetes\", or remove the key",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\n[store]\ndurability = 'memory'",
            "store.durability: \"memory\" forgets what this node has voted for and promised to its cluster; use \"fsync\" or \"os\", or remove cluster.name",
        ),
        (
            "name = 'a'\nbootstrap = 'single'\n[limits]\nqueue_bytes_max = 20000000\npacket_bytes_max = 10000000",
            "limits.packet_bytes_max: \"10000000\" is more than goes from node to node in one piece; use at most 8388608, or remove cluster.name",
        ),
    ];
    for (keys, said) in cases {
        let found = faults(keys);
        assert_eq!(found.lines().next(), Some(*said), "{keys}\n{found}");
    }
}

#[test]
fn the_summary_means_the_same_and_shows_no_secret() {
    let text = format!(
        "[cluster]\nname = 'a'\nbind = '10.0.0.1:7883'\ndiscovery = ['b:2']\nzone = 'z'\n{SECRET}"
    );
    let (file, config) = read(&text, &Overlay::default()).expect("good");
    let summary = reference::effective(&file, &config);
    assert!(!summary.contains("0123456789abcdef"), "{summary}");
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
    assert!(summary.contains("# secret: set, and not shown"), "{summary}");
    let with_secret = summary.replace("# secret: set, and not shown\n", SECRET);
    let again = load(&with_secret, &Overlay::default()).expect(&with_secret);
    assert_eq!(again.cluster, config.cluster);
}
