//! What is left of a cluster goes on when its operator gives up the rest.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use testkit::client::{
    Connack, Connect, PUBACK, Packet, Props, Publish, Version, ack, read, subscribe,
};
use testkit::{Got, Raw};

use crate::rig::*;

const MESSAGES: usize = 20;
/// For 64 replicas to move, two at a time.
const MOVES_PATIENCE: Duration = Duration::from_secs(400);

fn lasts(node: &Node) -> Result<BTreeMap<u64, u64>, String> {
    let number = |value: &Value| value.as_u64().expect("a number");
    let all = node.replicas()?;
    Ok(all.iter().map(|one| (number(&one["partition"]), number(&one["last"]))).collect())
}

fn placed(node: &Node) {
    until("placed", || {
        let placed = node.show()?["partitions"]["placed"].clone();
        if placed == 64 { Ok(()) } else { Err(format!("{placed}")) }
    });
}

fn connect(at: SocketAddr, id: &str) -> Result<(Raw, Connack), String> {
    TcpStream::connect(at).map_err(|error| error.to_string())?;
    let mut raw = Raw::open(at);
    raw.send(&Connect::lasting(Version::V5, id).bytes());
    match raw.recv() {
        Got::Packet(packet) => match read(Version::V5, &packet) {
            Packet::Connack(connack) if connack.code == 0 => Ok((raw, connack)),
            other => Err(format!("{other:?}")),
        },
        other => Err(format!("{other:?}")),
    }
}

fn subscribed(at: SocketAddr) {
    until("it has subscribed", || {
        let (mut raw, _) = connect(at, "session")?;
        raw.send(&subscribe(Version::V5, 1, &Props::default(), &[("t", 1)]));
        match raw.recv() {
            Got::Packet(suback) if suback[0] == 0x90 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn publish(at: SocketAddr, payload: &str) {
    let packet = Publish::new("t", 1, payload.as_bytes()).bytes(Version::V5);
    until("it is acknowledged", || {
        let (mut raw, _) = connect(at, "publisher")?;
        raw.send(&packet);
        match raw.recv() {
            Got::Packet(puback) if puback[0] == 0x40 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// The session is there, with all of these.
fn gets(at: SocketAddr, mut wanted: Vec<String>) {
    until("all are there", || {
        let (mut raw, connack) = connect(at, "session")?;
        assert!(connack.present(), "the session is lost");
        while !wanted.is_empty() {
            let Got::Packet(packet) = raw.recv() else { return Err(format!("{wanted:?}")) };
            if let Packet::Publish(publish) = read(Version::V5, &packet) {
                raw.send(&ack(PUBACK, publish.id));
                wanted.retain(|wanted| *wanted != publish.said());
            }
        }
        Ok(())
    });
}

fn numbers(when: &str) -> Vec<String> {
    (0..MESSAGES).map(|number| format!("{when} {number:02}")).collect()
}

fn id_of(node: &Node) -> String {
    text(&node.show().expect("it answers")["this"]["node"])
}

#[test]
fn the_last_of_three_serves_what_was_acknowledged_and_takes_a_new_node_in() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes: Vec<Node> = three(&place, "static", &addresses).into();
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| drop(node.sees_serving(3)));
    placed(&nodes[0]);
    until("three voters", || {
        let voters = nodes[0].show()?["meta"]["voters"].as_array().map_or(0, Vec::len);
        if voters == 3 { Ok(()) } else { Err(format!("{voters}")) }
    });
    subscribed(nodes[1].mqtt());
    numbers("before").iter().for_each(|payload| publish(nodes[1].mqtt(), payload));
    // What is acknowledged is at two of three: here it is to be at the third.
    until("all have everything", || {
        let all = nodes.iter().map(lasts).collect::<Result<Vec<_>, _>>()?;
        let same = all[0].len() == 64 && all.iter().all(|one| *one == all[0]);
        if same { Ok(()) } else { Err(format!("{all:?}")) }
    });
    let lost = [id_of(&nodes[1]), id_of(&nodes[2])];
    let (good, said) = nodes[0].ask(&["cluster", "recover", &lost[0], "--accept-data-loss"]);
    assert!(!good && said.contains("is connected, so it is not lost"), "{said}");
    for gone in &mut nodes[1..] {
        gone.kill();
        fs::remove_dir_all(gone.data()).expect("its data");
    }
    nodes.truncate(1);
    let (good, said) = nodes[0].ask(&["cluster", "recover", &lost[0], &lost[1]]);
    assert!(!good, "{said}");
    let price = "64 partitions lose the majority of their replicas";
    assert!(said.contains(price) && said.contains("Add --accept-data-loss"), "{said}");
    assert!(said.contains("the metadata loses its majority"), "{said}");
    until("they are given up", || {
        let mut args = vec!["cluster", "recover", "--accept-data-loss"];
        args.extend(lost.iter().map(String::as_str));
        match nodes[0].ask(&args) {
            (true, said) if said.contains(price) => Ok(()),
            // Connections end a moment after their processes.
            (_, said) if said.contains("is connected") => Err(said),
            (_, said) => panic!("{said}\n{}", nodes[0].said()),
        }
    });
    nodes[0].sees_serving(1);
    until("it leads all", || {
        nodes[0].supervise();
        let led = nodes[0].replicas()?.iter().filter(|one| one["role"] == "leader").count();
        if led == 64 { Ok(()) } else { Err(format!("{led}\n{}", nodes[0].said())) }
    });
    gets(nodes[0].mqtt(), numbers("before"));
    numbers("after").iter().for_each(|payload| publish(nodes[0].mqtt(), payload));
    // It stays so.
    nodes[0].kill();
    nodes[0].start();
    nodes[0].sees_serving(1);
    gets(nodes[0].mqtt(), numbers("after"));

    let address = format!("127.0.0.4:{}", free_port("127.0.0.4"));
    let table = format!(
        "name = 'test'\nbind = '{address}'\ndiscovery = ['{}']\n\
         secret = 'a secret of the test'",
        addresses[0]
    );
    let mut new = Node::new(&place, "node-3", "127.0.0.4", &table);
    new.start();
    new.sees_serving(2);
    let (good, said) = new.ask(&["cluster", "rebalance"]);
    assert!(good, "{said}");
    until_within("it has all replicas", MOVES_PATIENCE, || {
        nodes[0].supervise();
        new.supervise();
        let held = new.replicas()?;
        let votes = |one: &Value| one["voters"].as_array().is_some_and(|voters| voters.len() == 2);
        let all = held.iter().filter(|one| votes(one)).count();
        if all == 64 { Ok(()) } else { Err(format!("{all}\n{}", new.said())) }
    });
    numbers("late").iter().for_each(|payload| publish(new.mqtt(), payload));
    gets(new.mqtt(), numbers("late"));
}

#[test]
fn the_one_of_two_that_did_not_vote_for_the_metadata_goes_on_with_what_it_knows() {
    let place = Place::new();
    let addresses = ["127.0.0.1", "127.0.0.2"].map(|host| format!("{host}:{}", free_port(host)));
    let list = addresses.each_ref().map(|address| format!("'{address}'")).join(", ");
    let mut nodes = [0, 1].map(|me| {
        let table = format!(
            "name = 'test'\nbind = '{}'\ndiscovery = [{list}]\nbootstrap = 'static'\n\
             replication_factor = 2\nsecret = 'a secret of the test'",
            addresses[me]
        );
        let host = addresses[me].split(':').next().expect("a host");
        Node::new(&place, &format!("node-{me}"), host, &table)
    });
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| drop(node.sees_serving(2)));
    placed(&nodes[1]);
    subscribed(nodes[1].mqtt());
    numbers("before").iter().for_each(|payload| publish(nodes[1].mqtt(), payload));
    let lost = id_of(&nodes[0]);
    let shown = nodes[1].show().expect("it answers");
    assert_eq!(shown["meta"]["voters"], serde_json::json!([lost]), "{shown:#}");

    nodes[0].kill();
    fs::remove_dir_all(nodes[0].data()).expect("its data");
    until("it is given up", || {
        match nodes[1].ask(&["cluster", "recover", &lost, "--accept-data-loss"]) {
            (true, _) => Ok(()),
            (_, said) if said.contains("is connected") => Err(said),
            (_, said) => panic!("{said}\n{}", nodes[1].said()),
        }
    });
    nodes[1].sees_serving(1);
    // With two replicas each has all that was acknowledged.
    gets(nodes[1].mqtt(), numbers("before"));
    numbers("after").iter().for_each(|payload| publish(nodes[1].mqtt(), payload));
    nodes[1].kill();
    nodes[1].start();
    nodes[1].sees_serving(1);
    gets(nodes[1].mqtt(), numbers("after"));
}
