//! Wires that are cut, or swallow what goes over them.

use std::time::Duration;

use tidegate_mesh::*;

use crate::rig::*;

/// Two with a wire between them; only the first calls.
async fn wired(silent: Duration) -> (Rig, Rig, Wire, Peer, Peer) {
    let with = |node| {
        let mut config = config(node);
        config.silent = silent;
        config
    };
    let (mut a, mut b) = (Rig::with(with(1)).await, Rig::with(with(2)).await);
    let wire = Wire::to(b.mesh.local_addr()).await;
    a.mesh.set_peers(vec![PeerAddress { node: b.node, address: wire.address.to_string() }]);
    let (to_b, to_a) = (a.up(b.node).await, b.up(a.node).await);
    (a, b, wire, to_b, to_a)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_is_told_and_a_new_generation_begins() {
    let (mut a, mut b, wire, to_b, to_a) = wired(Duration::from_secs(10)).await;
    let peer = to_b.clone();
    let call =
        tokio::spawn(async move { peer.call(request(ConnectionKind::Data, NEVER, "x")).await });
    for number in 0..50_u8 {
        to_b.send(MailClass::Shard(0), vec![number].into()).expect("room");
    }
    until("it is asked", async || b.handler.called.load(std::sync::atomic::Ordering::SeqCst) == 1)
        .await;
    wire.cut();
    a.down(&to_b).await;
    b.down(&to_a).await;
    assert_eq!(call.await.expect("no panic"), Err(CallError::Lost), "it may have been done");
    let (again, back) = (a.up(b.node).await, b.up(a.node).await);
    assert!(again.generation() > to_b.generation());
    again.send(MailClass::Shard(0), "new".into()).expect("room");
    // What came of the first came in order and before its end; then the new.
    let mut next = 0;
    loop {
        let came = b.mail().await;
        if came.generation == back.generation() {
            assert_eq!(came.body, "new");
            break;
        }
        assert_eq!((came.generation, came.body[0]), (to_a.generation(), next));
        next += 1;
    }
    let order = b.order();
    let last = order.iter().rposition(|it| *it == format!("mail {}", to_a.generation()));
    let down = order.iter().position(|it| *it == format!("down {}", to_a.generation()));
    let up = order.iter().position(|it| *it == format!("up {}", back.generation()));
    assert!(last < down && down < up, "{order:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wire_that_swallows_is_noticed_by_its_silence() {
    let (mut a, mut b, wire, to_b, to_a) = wired(Duration::from_millis(600)).await;
    // Idle for longer than that is not silent: pings go to and fro.
    until("pings", async || a.mesh.counts().pongs >= 20).await;
    assert_eq!(to_b.call(echo("x")).await, Ok("x".into()));
    assert_eq!(a.order(), [format!("up {}", to_b.generation())]);
    wire.set(Flow::Swallows);
    let peer = to_b.clone();
    let call = tokio::spawn(async move { peer.call(echo("lost")).await });
    assert_eq!(a.down(&to_b).await.reason(), Some(Reason::Silent));
    assert_eq!(b.down(&to_a).await.reason(), Some(Reason::Silent));
    assert_eq!(call.await.expect("no panic"), Err(CallError::Lost));
    assert!(a.mesh.peer(b.node).is_none());
    assert!(a.refused(false, "silent") >= 1);
    // The connections that were swallowed never come back to life.
    wire.cut();
    wire.set(Flow::Open);
    let again = a.up(b.node).await;
    assert_eq!(again.call(echo("x")).await, Ok("x".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_nobody_reaches_is_called_again_and_again() {
    let mut a = Rig::start(1).await;
    let nobody = PeerAddress { node: NodeId(2), address: "127.0.0.1:1".into() };
    let nameless = PeerAddress { node: NodeId(3), address: "no such name:1".into() };
    a.mesh.set_peers(vec![nobody, nameless]);
    until("failures", async || a.mesh.status().iter().all(|peer| peer.failures >= 2)).await;
    assert!(a.mesh.status().iter().all(|peer| peer.last_error.is_some()));
    let mut b = Rig::start(2).await;
    a.knows(&[&b]);
    b.up(a.node).await;
    a.up(b.node).await;
    let status = a.mesh.status();
    assert_eq!(status.len(), 1, "who is not listed and was never there is forgotten");
    assert_eq!((status[0].failures, &status[0].last_error), (0, &None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_the_one_that_was_called_is_left_alone() {
    let (a, b) = (Rig::start(1).await, Rig::start(2).await);
    a.mesh.set_peers(vec![PeerAddress { node: NodeId(3), address: b.address() }]);
    until("failures", async || a.mesh.status()[0].failures >= 2).await;
    assert_eq!((a.order(), b.order()), (vec![], vec![]));
}
