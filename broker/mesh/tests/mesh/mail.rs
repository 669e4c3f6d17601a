//! Mail: in order, within its credit, each class for itself.

use bytes::Bytes;
use tidegate_mesh::*;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_of_a_class_comes_once_and_in_order() {
    let (_a, mut b, to_b, _) = pair().await;
    let classes = [
        MailClass::Shard(0),
        MailClass::Shard(1),
        MailClass::Shard(5),
        MailClass::Routes,
        MailClass::Meta,
    ];
    let count = 400_u32;
    for number in 0..count {
        for class in classes {
            // Some of them in several frames.
            let mut body = number.to_le_bytes().to_vec();
            body.resize(4 + if number % 100 == 7 { 100_000 } else { number as usize }, 1);
            let body = Bytes::from(body);
            while to_b.send(class, body.clone()) == Err(SendError::Full) {
                tokio::task::yield_now().await;
            }
        }
    }
    let mut next = [0; 5];
    for _ in 0..count as usize * classes.len() {
        let came = b.mail().await;
        let at = classes.iter().position(|class| *class == came.class).expect("one of them");
        assert_eq!(came.body[..4], u32::to_le_bytes(next[at]), "{:?}", came.class);
        next[at] += 1;
    }
    assert!(!b.has_mail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_slow_with_one_class_stalls_that_class_alone() {
    let (mut a, mut b, to_b, _) = pair().await;
    let slow = MailClass::Shard(0);
    let body = Bytes::from(vec![1; 50_000]);
    let mut sent = 0;
    let mut held = Vec::new();
    // Whoever has no room left here, and none in the sockets, is told so.
    loop {
        match to_b.send(slow, body.clone()) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => {
                // What the credit lets through is held, and gives none back.
                let credit = (1 << 20) / body.len();
                while held.len() < credit {
                    held.push(b.mail().await.room);
                }
                if to_b.send(slow, body.clone()) == Err(SendError::Full) {
                    break;
                }
                sent += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!to_b.ready(slow));
    assert!(sent < 50, "{sent} times 50 kB were taken with 1 MiB of credit and 1 of queue");

    // Another class on the same connection, control, and calls go on.
    let others = [MailClass::Shard(2), MailClass::Shard(1), MailClass::Routes];
    for round in 0..100_u8 {
        for class in others {
            assert!(to_b.ready(class));
            to_b.send(class, Bytes::copy_from_slice(&[round; 20_000])).expect("room");
        }
        let mut came = 0;
        while came < others.len() {
            let mail = b.mail().await;
            if mail.class == slow {
                held.push(mail.room);
            } else {
                assert_eq!(mail.body[0], round);
                came += 1;
            }
        }
    }
    let over_data = request(ConnectionKind::Data, ECHO, "x");
    assert_eq!(to_b.call(over_data).await, Ok("x".into()));

    // Dealt with, it goes on where it stopped, and the sender is told.
    let mut total = held.len();
    held.clear();
    let generation = to_b.generation();
    a.event(|event| match event {
        Event::Writable { class, generation: of, .. } if *of == generation => {
            (*class == slow).then_some(())
        }
        _ => None,
    })
    .await;
    while total < sent {
        assert_eq!(b.mail().await.body, body);
        total += 1;
    }
    assert!(to_b.ready(slow));
    assert!(!b.has_mail());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_by_id_is_of_one_generation() {
    let (mut a, mut b, to_b, to_a) = pair().await;
    let first = to_b.generation();
    a.mesh.send(b.node, first, MailClass::Shard(0), "one".into()).expect("room");
    let came = b.mail().await;
    assert_eq!((&came.body[..], came.generation), (&b"one"[..], to_a.generation()));
    to_b.disconnect("test");
    a.down(&to_b).await;
    let second = a.up(b.node).await.generation();
    assert!(second > first);
    let said = a.mesh.send(b.node, first, MailClass::Shard(0), "two".into());
    assert_eq!(said, Err(SendError::Lost));
    assert!(!a.mesh.ready(b.node, first, MailClass::Shard(0)));
    a.mesh.send(b.node, second, MailClass::Shard(0), "three".into()).expect("room");
    assert_eq!(b.mail().await.body, "three");
    let said = to_b.send(MailClass::Shard(0), "four".into());
    assert_eq!(said, Err(SendError::Lost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_longer_than_a_message_is_our_own_fault() {
    let (_a, mut b, to_b, _) = pair().await;
    let most = (16 << 20) - 8;
    let body = Bytes::from(vec![7; most]);
    to_b.send(MailClass::Shard(0), body.clone()).expect("room");
    assert!(b.mail().await.body == body, "the same bytes");
    let said = to_b.send(MailClass::Shard(0), vec![7; most + 1].into());
    assert_eq!(said, Err(SendError::TooLarge { got: (16 << 20) + 1, max: 16 << 20 }));
}
