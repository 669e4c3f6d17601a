//! How sessions come about, end, and begin anew.

use std::time::Duration;

use tidegate_mesh::*;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_have_a_session_each_with_each() {
    let (mut a, mut b, mut c) = (Rig::start(1).await, Rig::start(2).await, Rig::start(3).await);
    a.knows(&[&b, &c]);
    b.knows(&[&a, &c]);
    c.knows(&[&a, &b]);
    let ids = [a.node, b.node, c.node];
    for rig in [&mut a, &mut b, &mut c] {
        let own = rig.node;
        for node in ids.into_iter().filter(|node| *node != own) {
            rig.up(node).await;
        }
    }
    for from in [&a, &b, &c] {
        for to in ids.into_iter().filter(|node| *node != from.node) {
            for over in [ConnectionKind::Control, ConnectionKind::Data, ConnectionKind::Bulk] {
                // A session that gave way to another is not yet the last one.
                until("an answer", async || {
                    from.mesh.call(to, request(over, ECHO, "hello")).await == Ok("hello".into())
                })
                .await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_speak_the_newest_version_that_both_know() {
    for (ours, theirs) in [(PROTO_MIN, PROTO_MIN), (PROTO_MIN, PROTO_MAX), (PROTO_MAX, PROTO_MAX)] {
        let (mut first, mut second) = (config(1), config(2));
        (first.identity.proto_max, second.identity.proto_max) = (ours, theirs);
        let (_a, _b, to_b, to_a) = pair_of(first, second).await;
        assert_eq!((to_b.proto(), to_a.proto()), (ours.min(theirs), ours.min(theirs)));
        assert_eq!(to_b.call(echo("understood")).await, Ok("understood".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_cross_settle_on_one_session() {
    for _ in 0..10 {
        let at_once = |node| {
            let mut config = config(node);
            config.backoff = (Duration::ZERO, Duration::from_millis(100));
            config
        };
        let (a, b) = (Rig::with(at_once(1)).await, Rig::with(at_once(2)).await);
        a.knows(&[&b]);
        b.knows(&[&a]);
        until("the same session", async || {
            let token = |rig: &Rig, node| rig.mesh.peer(node).map(|it| it.hello().session);
            let (ours, theirs) = (token(&a, b.node), token(&b, a.node));
            ours.is_some()
                && ours == theirs
                && a.mesh.call(b.node, echo("x")).await.is_ok()
                && b.mesh.call(a.node, echo("x")).await.is_ok()
        })
        .await;
        a.mesh.stop().await;
        b.mesh.stop().await;
        for rig in [a, b] {
            let counts = rig.mesh.counts();
            assert_eq!(counts.ups, counts.downs, "each that came up has ended");
            let order = rig.order();
            for pair in order.chunks(2) {
                let [up, down] = pair else { panic!("{order:?}") };
                let generation = up.strip_prefix("up ").expect("an up first");
                assert_eq!(down.strip_prefix("down "), Some(generation), "{order:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_found_again_at_another_address() {
    let (mut a, b, to_b, _) = pair().await;
    b.mesh.stop().await;
    let why = a.down(&to_b).await;
    assert_eq!(why.reason(), Some(Reason::Leaving));
    assert!(matches!(why, Ended::ByPeer(_)), "{why}");
    let mut config = config(2);
    config.identity.incarnation = 2;
    config.bind = "127.0.0.7:0".parse().expect("an address");
    let mut again = Rig::with(config).await;
    a.knows(&[&again]);
    let to_again = a.up(again.node).await;
    again.up(a.node).await;
    assert_eq!(to_again.incarnation(), 2);
    assert!(to_again.generation() > to_b.generation());
    assert_eq!(to_again.call(echo("here")).await, Ok("here".into()));
    assert_eq!(to_b.call(echo("here")).await, Err(CallError::Lost), "that one is over");
    assert_eq!(to_b.send(MailClass::Routes, "x".into()), Err(SendError::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_process_takes_the_older_ones_place_for_good() {
    let (mut a, mut old, to_old, to_a) = pair().await;
    let mut config = config(2);
    config.identity.incarnation = 2;
    config.bind = "127.0.0.7:0".parse().expect("an address");
    let mut new = Rig::with(config).await;
    new.knows(&[&a]);
    let to_new = a.up(new.node).await;
    new.up(a.node).await;
    assert_eq!(to_new.incarnation(), 2);
    assert_eq!(a.down(&to_old).await.reason(), Some(Reason::StaleIncarnation));
    assert_eq!(old.down(&to_a).await.reason(), Some(Reason::StaleIncarnation));
    let said = old.mesh.probe(&a.address(), LONG).await.expect_err("too old");
    let AskError::Refused { reason, by_peer, .. } = said else { panic!("{said}") };
    assert_eq!((reason, by_peer), (Some(Reason::StaleIncarnation), true));
    // And it does not take the new one's place by calling.
    assert_eq!(to_new.call(echo("still")).await, Ok("still".into()));
    let order = a.order();
    let at = |what: String| order.iter().position(|it| *it == what).expect("told");
    let (down, up) = (to_old.generation(), to_new.generation());
    assert!(at(format!("down {down}")) < at(format!("up {up}")), "{order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_metadata_says_ends_sessions() {
    let (mut a, b, to_b, _) = pair().await;
    a.mesh.learn(b.node, identity(2).store, 1);
    assert_eq!(to_b.call(echo("x")).await, Ok("x".into()), "no news");
    a.mesh.learn(b.node, identity(2).store, 2);
    assert_eq!(a.down(&to_b).await.reason(), Some(Reason::StaleIncarnation));
    let mut config = config(3);
    config.identity.role = Role::Voter;
    let c = Rig::with(config).await;
    a.knows(&[&c]);
    let to_c = a.up(c.node).await;
    assert_eq!(to_c.hello().role, Role::Voter);
    a.mesh.forget(c.node);
    assert_eq!(a.down(&to_c).await.reason(), Some(Reason::Forgotten));
    let said = c.mesh.probe(&a.address(), LONG).await.expect_err("forgotten");
    assert!(matches!(said, AskError::Refused { reason: Some(Reason::Forgotten), .. }), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_node_asks_and_joins() {
    let a = Rig::start(1).await;
    let mut fresh = config(2);
    fresh.identity.cluster = ClusterId(0);
    fresh.identity.role = Role::Fresh;
    let mut fresh = Rig::with(fresh).await;
    let probed = fresh.mesh.probe(&a.address(), LONG).await.expect("reached");
    assert_eq!((probed.hello.node, probed.hello.cluster), (a.node, CLUSTER));
    assert_eq!(probed.hello.address, a.address());
    let who = request(ConnectionKind::Control, WHO, "");
    let (probed, answer) = fresh.mesh.ask(&a.address(), who).await.expect("answered");
    assert_eq!((probed.hello.node, &answer[..]), (a.node, &b"2 None"[..]));
    // The other way round too: somebody asks a fresh node.
    let probed = a.mesh.probe(&fresh.address(), LONG).await.expect("reached");
    assert_eq!(probed.hello.role, Role::Fresh);
    assert_eq!((a.order(), fresh.order()), (vec![], vec![]), "no session came of it");

    fresh.knows(&[&a]);
    let as_fresh = fresh.up(a.node).await;
    assert_eq!(as_fresh.send(MailClass::Shard(0), "x".into()), Err(SendError::NoData));
    let over_data = request(ConnectionKind::Data, ECHO, "x");
    assert_eq!(as_fresh.call(over_data.clone()).await, Err(CallError::NotConnected));
    fresh.mesh.set_identity(identity(2)).expect("good");
    fresh.down(&as_fresh).await;
    let as_member = fresh.up(a.node).await;
    assert_eq!(as_member.call(over_data).await, Ok("x".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_disturbs_no_session() {
    let (a, b, to_b, to_a) = pair().await;
    for _ in 0..3 {
        a.mesh.probe(&b.address(), LONG).await.expect("reached");
        let (_, answer) = b.mesh.ask(&a.address(), echo("x")).await.expect("answered");
        assert_eq!(&answer[..], b"x");
    }
    assert_eq!(to_b.call(echo("y")).await, Ok("y".into()));
    assert_eq!(to_a.call(echo("y")).await, Ok("y".into()));
    assert_eq!(a.order(), [format!("up {}", to_b.generation())]);
}
