//! Real processes become one cluster, and stay it.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::rig::kubernetes::ApiServer;

use crate::rig::*;

#[test]
fn three_nodes_with_one_list_form_one_cluster_and_take_a_killed_one_back() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = three(&place, "static", &addresses);
    nodes[0].start();
    nodes[1].start();
    // Two of three are not all: nobody founds.
    until("two wait", || {
        let shown = nodes[1].show()?;
        let why = shown["waits_for"].as_str().unwrap_or_default().to_owned();
        if why.contains(&addresses[2]) { Ok(()) } else { Err(format!("{shown:#}")) }
    });
    assert_eq!(nodes[0].get("/livez"), Some((200, "alive\n".into())), "it waits, and is alive");
    assert_eq!(nodes[0].get("/readyz").expect("it answers").0, 503);
    nodes[2].start();

    let shown = all_serve(&mut nodes);
    let voters = until("three voters", || {
        let shown = nodes[0].show()?;
        let voters = shown["meta"]["voters"].as_array().map_or(0, Vec::len);
        if voters == 3 { Ok(voters) } else { Err(format!("{shown:#}\n{}", nodes[0].said())) }
    });
    assert_eq!(voters, 3);
    until("placed", || {
        let shown = nodes[2].show()?;
        let placed = shown["partitions"]["placed"].as_u64();
        if placed == Some(64) { Ok(()) } else { Err(format!("{shown:#}")) }
    });
    until("ready", || match nodes[0].get("/readyz") {
        Some((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    until("the level is raised", || {
        let shown = nodes[0].show()?;
        let (level, supported) = (&shown["meta"]["level"], &shown["meta"]["level_supported"]);
        if (level.as_u64(), supported.as_u64()) == (Some(2), Some(2)) {
            Ok(())
        } else {
            Err(format!("{level} of {supported}"))
        }
    });
    let (good, said) = nodes[0].ask(&["cluster", "show"]);
    assert!(good && said.contains("level     2, the highest that all nodes support: 2"), "{said}");
    assert!(said.contains("replicas  3 a partition; with fewer that run: 0\n"), "{said}");
    let (_, metrics) = nodes[0].get("/metrics").expect("it answers");
    assert!(metrics.contains("tidegate_cluster_members{state=\"serving\"} 3"), "{metrics}");
    let (good, nodes_said) = nodes[1].ask(&["node", "show"]);
    assert!(good && addresses.iter().all(|address| nodes_said.contains(address)), "{nodes_said}");
    let (good, partitions) = nodes[1].ask(&["partition", "show"]);
    assert!(good && partitions.lines().count() == 65, "{partitions}");

    // A node that is killed is down soon; the others know it.
    let victim = text(&shown[1]["this"]["node"]);
    let known = node_of(&shown[0], &victim);
    let (member, incarnation) = (known["member"].as_u64(), known["incarnation"].as_u64());
    let (member, incarnation) = (member.expect("alive"), incarnation.expect("a number"));
    nodes[1].kill();
    until("down", || {
        let shown = nodes[0].show()?;
        if states(&shown, "down").contains(&victim) { Ok(()) } else { Err(format!("{shown:#}")) }
    });
    let few =
        |node: &Node| node.show().expect("it answers")["partitions"]["under_replicated"].clone();
    assert_eq!(few(&nodes[0]), 64, "each has a replica at each node");

    // It comes back as another life with another number, of the same node.
    nodes[1].start();
    let back = all_serve(&mut nodes);
    let again = node_of(&back[0], &victim);
    assert!(again["incarnation"].as_u64() > Some(incarnation), "{again}");
    assert_ne!(again["member"].as_u64(), Some(member));
    assert_eq!(back[0]["cluster"], shown[0]["cluster"]);
    assert_eq!(few(&nodes[0]), 0);
}

#[test]
fn all_killed_and_started_elsewhere_are_the_same_cluster() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = three(&place, "static", &addresses);
    nodes.iter_mut().for_each(Node::start);
    let before = all_serve(&mut nodes);
    until("three voters", || {
        let shown = nodes[0].show()?;
        let voters = shown["meta"]["voters"].as_array().map_or(0, Vec::len);
        if voters == 3 { Ok(()) } else { Err(format!("{shown:#}\n{}", nodes[0].said())) }
    });
    nodes.iter_mut().for_each(Node::kill);
    let elsewhere = three_addresses();
    for (me, node) in nodes.iter_mut().enumerate() {
        node.configure(&table("static", &elsewhere, me));
        node.start();
    }
    let after = all_serve(&mut nodes);
    assert_eq!(after[0]["cluster"], before[0]["cluster"]);
    assert_eq!(states(&after[0], "serving"), states(&before[0], "serving"), "the same nodes");
    for (me, one) in after.iter().enumerate() {
        let id = text(&one["this"]["node"]);
        assert_eq!(node_of(&after[0], &id)["address"], elsewhere[me].as_str());
    }
}

#[test]
fn init_founds_once_and_a_wiped_disk_is_a_new_node() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = three(&place, "init", &addresses);
    nodes.iter_mut().for_each(Node::start);
    nodes[1].says("`tidegate cluster init` was not called yet");
    sleep(Duration::from_secs(1));
    assert!(nodes.iter().all(|node| node.show().expect("it answers")["cluster"].is_null()));
    let (good, said) = nodes[1].ask(&["cluster", "init"]);
    assert!(good, "{said}");
    let before = all_serve(&mut nodes);
    let (good, said) = nodes[0].ask(&["cluster", "init"]);
    assert!(!good && said.contains("belongs to cluster"), "{said}");

    let old = text(&before[2]["this"]["node"]);
    nodes[2].kill();
    fs::remove_dir_all(nodes[2].data()).expect("its own");
    nodes[2].start();
    let after = until("the new node serves", || {
        let shown = nodes[0].show()?;
        let serving = states(&shown, "serving");
        let good = serving.len() == 3 && !serving.contains(&old);
        if good { Ok(shown) } else { Err(format!("{shown:#}\n{}", nodes[2].said())) }
    });
    assert_eq!(after["cluster"], before[0]["cluster"], "the same cluster");
    assert_eq!(after["nodes"].as_array().map(Vec::len), Some(3), "the old one has no place");
    let (good, said) = nodes[0].ask(&["cluster", "forget", &old]);
    assert!(!good && said.contains("there is no node"), "{said}");
}

#[test]
fn another_secret_and_another_name_are_refused_and_the_log_says_why() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut first = Node::new(
        &place,
        "first",
        "127.0.0.1",
        &format!(
            "name = 'test'\nbind = '{}'\nbootstrap = 'single'\nsecret = 'a secret of the test'",
            addresses[0]
        ),
    );
    first.start();
    first.sees_serving(1);
    let joins = |me: usize, name: &str, secret: &str| {
        format!(
            "name = '{name}'\nbind = '{}'\ndiscovery = ['{}']\nsecret = '{secret}'",
            addresses[me], addresses[0]
        )
    };
    let mut stranger =
        Node::new(&place, "stranger", "127.0.0.2", &joins(1, "test", "quite another secret"));
    stranger.start();
    stranger.says("do not trust each other");
    let mut other =
        Node::new(&place, "other", "127.0.0.3", &joins(2, "other", "a secret of the test"));
    other.start();
    other.says("another name");
    assert!(other.show().expect("it answers")["cluster"].is_null());
    assert!(stranger.show().expect("it answers")["cluster"].is_null());
    let shown = first.show().expect("it answers");
    assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(1), "nobody came in");
}

#[test]
fn three_pods_make_exactly_one_cluster_by_their_config_map() {
    let (place, addresses) = (Place::new(), three_addresses());
    let api = ApiServer::start(place.path());
    let nodes = three(&place, "kubernetes", &addresses);
    let mut nodes = nodes.map(|node| {
        let environment = api.environment();
        environment.into_iter().fold(node, |node, (name, value)| node.with(name, &value))
    });
    nodes.iter_mut().for_each(Node::start);
    let shown = all_serve(&mut nodes);
    assert_eq!(api.created(), 1);
    let data = api.data("tidegate-test");
    assert_eq!(data["cluster"], shown[0]["cluster"]);
    assert_eq!(data["confirmed"], "true");
}

#[test]
fn a_node_alone_says_that_it_is() {
    let place = Place::new();
    let mut node = Node::new(&place, "alone", "127.0.0.1", "");
    node.start();
    until("it is up", || match node.get("/readyz") {
        Some((200, _)) => Ok(()),
        other => Err(format!("{other:?}\n{}", node.said())),
    });
    let (good, said) = node.ask(&["cluster", "show"]);
    assert!(!good && said.contains("this node is alone"), "{said}");
    let (good, said) = node.ask(&["node", "drain"]);
    assert!(!good && said.contains("this node is alone"), "{said}");
}
