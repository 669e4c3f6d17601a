//! Calls: answered in any order, refused, given up, bounded.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tidegate_mesh::limits::CALLS_HANDLED_MAX;
use tidegate_mesh::*;
use tokio::task::JoinSet;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_gets_its_own_answer_however_many_there_are() {
    let (_a, b, to_b, to_a) = pair().await;
    let mut calls = JoinSet::new();
    for number in 0..600_u32 {
        let peer = if number % 2 == 0 { to_b.clone() } else { to_a.clone() };
        let over = [ConnectionKind::Control, ConnectionKind::Data, ConnectionKind::Bulk];
        let mut request = request(over[number as usize % 3], ECHO, number.to_le_bytes().to_vec());
        request.group = (number % 7) as u16;
        calls.spawn(async move { (number, peer.call(request).await) });
    }
    for (number, answer) in calls.join_all().await {
        assert_eq!(answer, Ok(Bytes::copy_from_slice(&number.to_le_bytes())));
    }
    assert_eq!(b.handler.called.load(Ordering::SeqCst), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_group_are_begun_in_the_order_in_which_they_were_made() {
    let (_a, b, to_b, _) = pair().await;
    let bodies: Vec<_> =
        (0..500_u32).map(|number| Bytes::copy_from_slice(&number.to_le_bytes())).collect();
    let mut calls: Vec<_> = bodies
        .iter()
        .map(|body| Box::pin(to_b.call(request(ConnectionKind::Data, IN_ORDER, body.clone()))))
        .collect();
    // Made when it is first polled; some are answered before that is over.
    let mut answers = vec![None; calls.len()];
    std::future::poll_fn(|context| {
        for (call, answer) in calls.iter_mut().zip(&mut answers) {
            if let std::task::Poll::Ready(early) = call.as_mut().poll(context) {
                *answer = Some(early);
            }
        }
        std::task::Poll::Ready(())
    })
    .await;
    for ((call, early), body) in calls.into_iter().zip(answers).zip(&bodies) {
        let answer = match early {
            Some(early) => early,
            None => call.await,
        };
        assert_eq!(answer.as_ref(), Ok(body));
    }
    assert_eq!(*b.handler.begun.lock().expect("whole"), bodies);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_call_is_carried_whole_and_a_longer_one_is_our_own_fault() {
    let (_a, _b, to_b, _) = pair().await;
    let most = (16 << 20) - 24;
    let body: Bytes = (0..most).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
    for over in [ConnectionKind::Data, ConnectionKind::Bulk, ConnectionKind::Control] {
        let answer = to_b.call(request(over, ECHO, body.clone())).await;
        assert!(answer == Ok(body.clone()), "the same bytes");
    }
    let over = Bytes::from(vec![0; most + 1]);
    let said = to_b.call(request(ConnectionKind::Data, ECHO, over)).await;
    assert_eq!(said, Err(CallError::TooLarge { got: (16 << 20) + 1, max: 16 << 20 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_why() {
    let (_a, b, to_b, _) = pair().await;
    let said = to_b.call(request(ConnectionKind::Data, REFUSE, "x")).await;
    assert_eq!(said, Err(CallError::Refused { code: 7, detail: "not that".into() }));
    let said = b.mesh.call(NodeId(9), echo("x")).await;
    assert_eq!(said, Err(CallError::NotConnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_answered_in_time_is_dropped_at_both_ends() {
    let (_a, b, to_b, _) = pair().await;
    let mut never = request(ConnectionKind::Control, NEVER, "x");
    never.timeout = Duration::from_millis(100);
    assert_eq!(to_b.call(never).await, Err(CallError::TimedOut));
    until("the handler's future dropped", async || b.handler.dropped.load(Ordering::SeqCst) == 1)
        .await;
    assert_eq!(to_b.call(echo("x")).await, Ok("x".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_calls_at_a_time_are_told_so() {
    let (_a, b, to_b, _) = pair().await;
    let mut calls = JoinSet::new();
    for number in 0..CALLS_HANDLED_MAX + 10 {
        let peer = to_b.clone();
        let mut gated = request(ConnectionKind::Control, GATED, "x");
        gated.group = number as u16;
        calls.spawn(async move { peer.call(gated).await });
    }
    let mut busy = 0;
    while busy < 10 {
        let said = calls.join_next().await.expect("some").expect("no panic");
        assert_eq!(said, Err(CallError::Busy));
        busy += 1;
    }
    b.handler.gate.add_permits(CALLS_HANDLED_MAX);
    assert!(calls.join_all().await.into_iter().all(|said| said == Ok("1".into())));
    assert_eq!(b.handler.called.load(Ordering::SeqCst), CALLS_HANDLED_MAX);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_holds_up_nothing_else() {
    let mut config_a = config(1);
    // Half a minute for what is sent.
    config_a.bulk_bytes_per_second = 512 << 10;
    let (a, b, to_b, to_a) = pair_of(config_a, config(2)).await;
    let peer = to_b.clone();
    let bulk = tokio::spawn(async move {
        peer.call(request(ConnectionKind::Bulk, GATED, vec![7; 15 << 20])).await
    });
    until("it has begun", async || to_b_queued(&a) > 0).await;
    for _ in 0..200 {
        assert_eq!(to_b.call(echo("beat")).await, Ok("beat".into()));
        assert_eq!(to_a.call(echo("beat")).await, Ok("beat".into()));
        let over_data = request(ConnectionKind::Data, ECHO, "x");
        assert_eq!(to_b.call(over_data).await, Ok("x".into()));
    }
    assert_eq!(b.handler.called.load(Ordering::SeqCst), 400, "the bulk is on its way still");
    assert!(to_b_queued(&a) > 0);
    bulk.abort();
}

fn to_b_queued(a: &Rig) -> usize {
    a.mesh.status()[0].queued_bytes
}
