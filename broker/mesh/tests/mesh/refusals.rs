//! Who does not belong here is refused, told why, and disturbs nobody.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidegate_mesh::limits::HANDSHAKES_PER_SOURCE_MAX;
use tidegate_mesh::*;
use tidegate_peer::frame::{Flags, Parsed, parse, whole};
use tidegate_peer::limits::{FRAME_BODY_BYTES_MAX, HEADER_BYTES};
use tidegate_peer::{
    Acquaintances, Auth, Goodbye, Handshake, Lane, Local, MessageType, Nonce, PROTO_MAX, Step,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::rig::*;

/// Somebody with a socket.
struct Stranger {
    tcp: TcpStream,
    bytes: BytesMut,
}

impl Stranger {
    async fn call(to: SocketAddr) -> Self {
        Self::call_from("127.0.0.1", to).await
    }

    async fn call_from(source: &str, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from = SocketAddr::new(source.parse().expect("an address"), 0);
        socket.bind(from).expect("bound");
        let tcp = socket.connect(to).await.expect("it listens");
        Self { tcp, bytes: BytesMut::new() }
    }

    async fn says(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.expect("written");
    }

    /// The next frame; none: it was hung up.
    async fn hears(&mut self) -> Option<(MessageType, Bytes)> {
        loop {
            if let Ok(Parsed::Frame(header)) = parse(&self.bytes, FRAME_BODY_BYTES_MAX) {
                let mut frame = self.bytes.split_to(HEADER_BYTES + header.len as usize);
                let body = frame.split_off(HEADER_BYTES).freeze();
                let kind = MessageType::from_code(header.kind).expect("known");
                return Some((kind, body));
            }
            let read = timeout(LONG, self.tcp.read_buf(&mut self.bytes)).await.expect("in time");
            if !read.is_ok_and(|read| read > 0) {
                return None;
            }
        }
    }

    /// The reason of the Goodbye that comes, and that nothing comes behind it.
    async fn is_refused(&mut self) -> Reason {
        let mut last = None;
        while let Some((kind, body)) = self.hears().await {
            assert_eq!(last, None, "nothing comes behind a Goodbye");
            if kind == MessageType::Goodbye {
                last = Goodbye::decode(&body).expect("a Goodbye").reason();
            }
        }
        last.expect("it says why")
    }

    /// Does the handshake; returns what it has said.
    async fn is_greeted(&mut self, hello: Hello) -> Vec<Bytes> {
        let secret = Secret::new(SECRET).expect("long enough");
        let local = Local { hello, auth: Auth::Secret(secret) };
        let (mut handshake, first) = Handshake::call(local, Duration::ZERO);
        self.says(&first).await;
        let mut said = vec![first];
        loop {
            match handshake.receive(&mut self.bytes, &Acquaintances::default()) {
                Ok(Step::NeedMore(_)) => {
                    let read = self.tcp.read_buf(&mut self.bytes).await.expect("read");
                    assert!(read > 0, "hung up");
                }
                Ok(Step::Send(frame)) => {
                    self.says(&frame).await;
                    said.push(frame);
                }
                Ok(Step::Established { .. }) => return said,
                Err(failure) => panic!("{}", failure.error),
            }
        }
    }
}

/// What a node with this id would say, asking without a session.
fn hello(node: u64, nonce: u8) -> Hello {
    Hello {
        role: Role::Member,
        proto_min: 1,
        proto_max: 1,
        features: 0,
        cluster: CLUSTER,
        generation: 1,
        node: NodeId(node),
        store: StoreId(u128::from(node) << 64),
        incarnation: 1,
        config_hash: [0; 32],
        nonce: Nonce([nonce; 32]),
        kind: ConnectionKind::Control,
        stripe: 0,
        stripes: 2,
        session: 0,
        auth: tidegate_peer::AuthMethod::Secret,
        lane_credit: 1 << 20,
        link_credit: 32 << 20,
        lanes_max: 2_048,
        name: "plant".into(),
        address: "nowhere:1".into(),
    }
}

fn hello_frame(hello: &Hello) -> Bytes {
    whole(MessageType::Hello.code(), Flags::NONE, Lane::LINK, &hello.encode())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_belong_here_is_told_why_and_so_are_we() {
    let (a, _b, to_b, _) = pair().await;
    type Case = (&'static str, Reason, fn(&mut MeshConfig));
    let cases: [Case; 6] = [
        ("another cluster's name", Reason::WrongName, |it| it.identity.name = "other".into()),
        ("another cluster's id", Reason::WrongCluster, |it| {
            it.identity.cluster = ClusterId(9);
        }),
        ("another secret", Reason::BadProof, |it| it.trust = secret(b"a secret of others")),
        ("our own id", Reason::Myself, |it| it.identity.node = NodeId(1)),
        ("another log", Reason::OtherStore, |it| {
            it.identity.node = NodeId(2);
            it.identity.store = StoreId(77);
        }),
        ("an older process", Reason::StaleIncarnation, |it| {
            it.identity.node = NodeId(2);
            it.identity.store = identity(2).store;
            it.identity.incarnation = 0;
        }),
    ];
    for (what, reason, spoil) in cases {
        let mut config = config(3);
        spoil(&mut config);
        let other = Rig::with(config).await;
        let said = other.mesh.probe(&a.address(), LONG).await.expect_err(what);
        let AskError::Refused { reason: told, by_peer, .. } = said else {
            panic!("{what}: {said}")
        };
        assert_eq!((told, by_peer), (Some(reason), true), "{what}");
        assert_eq!(other.refused(true, reason.name()), 1, "{what}");
        assert_eq!(a.refused(false, reason.name()), 1, "{what}");
        // Nor by listing us.
        other.knows(&[&a]);
        if other.node != a.node {
            until(what, async || a.refused(false, reason.name()) >= 3).await;
        }
        assert_eq!(other.order(), [""; 0], "{what}");
        other.mesh.stop().await;
    }
    assert_eq!(to_b.call(echo("still")).await, Ok("still".into()));
    assert_eq!(a.order(), [format!("up {}", to_b.generation())], "nobody was disturbed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_handshake_are_refused_with_the_reason() {
    let (a, _b, to_b, _) = pair().await;
    let to = a.mesh.local_addr();
    let hello = hello_frame(&hello(9, 1));
    let mut flipped = hello.to_vec();
    flipped[40] ^= 1;
    let newer = Hello { proto_min: PROTO_MAX + 1, proto_max: PROTO_MAX + 2, ..self::hello(9, 2) };
    let proof = whole(MessageType::Proof.code(), Flags::NONE, Lane::LINK, &[1, 36, 0, 1]);
    let big = whole(MessageType::Hello.code(), Flags::NONE, Lane::LINK, &[0; 5_000]);
    let cases: [(&str, &[u8], Reason); 7] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: tidegate\r\n\r\n", Reason::TooLarge),
        ("too long", &big, Reason::TooLarge),
        ("a flipped bit", &flipped, Reason::BadChecksum),
        ("a newer version", &hello_frame(&newer), Reason::WrongVersion),
        ("a proof first", &proof, Reason::OutOfTurn),
        ("two Hellos", &[&hello[..], &hello].concat(), Reason::OutOfTurn),
        ("no Hello inside", &whole(1, Flags::NONE, Lane::LINK, &[1, 4, 0, 9]), Reason::BadBody),
    ];
    for (what, bytes, reason) in cases {
        let mut stranger = Stranger::call(to).await;
        stranger.says(bytes).await;
        assert_eq!(stranger.is_refused().await, reason, "{what}");
        until(what, async || a.refused(false, reason.name()) >= 1).await;
    }
    assert_eq!(to_b.call(echo("still")).await, Ok("still".into()));
    assert_eq!(a.order(), [format!("up {}", to_b.generation())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_is_refused() {
    let (a, _b, to_b, _) = pair().await;
    let to = a.mesh.local_addr();
    let mut first = Stranger::call(to).await;
    let said = first.is_greeted(hello(9, 3)).await;
    let mut again = Stranger::call(to).await;
    again.says(&said.concat()).await;
    assert_eq!(again.is_refused().await, Reason::Replayed);
    // Not even with another node's word for it.
    let mut other = Stranger::call(to).await;
    other.says(&hello_frame(&Hello { node: NodeId(8), ..hello(9, 3) })).await;
    assert_eq!(other.is_refused().await, Reason::Replayed);
    assert_eq!(a.refused(false, "replayed"), 2);
    assert_eq!(to_b.call(echo("still")).await, Ok("still".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_wrong_on_an_open_connection_ends_that_one() {
    let (a, _b, to_b, _) = pair().await;
    let to = a.mesh.local_addr();
    let mail = whole(MessageType::Mail.code(), Flags::NONE, MailClass::Routes.lane(), &[1; 8]);
    let good_mail = tidegate_peer::Mail { class: MailClass::Routes, body: "x".into() };
    let good_mail = good_mail.encode().to_bytes();
    let good_mail =
        whole(MessageType::Mail.code(), Flags::NONE, MailClass::Routes.lane(), &good_mail);
    let unknown = whole(0x7777, Flags::NONE, MailClass::Routes.lane(), b"x");
    let append = tidegate_peer::Message::AppendAck(tidegate_peer::AppendAck {
        group: tidegate_peer::Group(1),
        request: 1,
        vote: tidegate_peer::Vote { term: 1, node: 1, committed: true },
        matched: None,
        outcome: tidegate_peer::AppendOutcome::Taken,
    });
    let append = append.encode().to_bytes();
    let append = whole(
        MessageType::AppendAck.code(),
        Flags::NONE,
        Lane::new(tidegate_peer::LaneClass::Raft, 1),
        &append,
    );
    let cases: [(&str, &[u8], Reason); 6] = [
        ("a length over the limit", &[0xFF; 16], Reason::TooLarge),
        ("a type that nobody knows", &unknown, Reason::UnknownType),
        ("a type that is not in use", &append, Reason::UnknownType),
        ("another body", &mail, Reason::BadBody),
        ("mail of no session", &good_mail, Reason::WrongConnection),
        ("the handshake again", &hello_frame(&hello(9, 90)), Reason::WrongConnection),
    ];
    for (at, (what, bytes, reason)) in cases.into_iter().enumerate() {
        let mut stranger = Stranger::call(to).await;
        stranger.is_greeted(hello(9, 10 + at as u8)).await;
        stranger.says(bytes).await;
        assert_eq!(stranger.is_refused().await, reason, "{what}");
        until(what, async || a.refused(false, reason.name()) >= 1).await;
    }
    // A data connection of a session that is not there.
    let mut stranger = Stranger::call(to).await;
    let data = Hello { kind: ConnectionKind::Data, session: 77, ..hello(9, 50) };
    stranger.is_greeted(data).await;
    assert_eq!(stranger.is_refused().await, Reason::NoSession);
    // A control connection whose others do not come leads to nothing.
    let mut stranger = Stranger::call(to).await;
    stranger.is_greeted(Hello { session: 78, ..hello(9, 51) }).await;
    assert_eq!(stranger.is_refused().await, Reason::HandshakeTimeout);
    assert_eq!(to_b.call(echo("still")).await, Ok("still".into()));
    assert_eq!(a.order(), [format!("up {}", to_b.generation())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_end_are_few_and_end() {
    let mut config_a = config(1);
    config_a.handshake = Duration::from_secs(2);
    let (a, _b, to_b, _) = pair_of(config_a, config(2)).await;
    let to = a.mesh.local_addr();
    let mut strangers = Vec::new();
    for _ in 0..HANDSHAKES_PER_SOURCE_MAX {
        strangers.push(Stranger::call_from("127.0.0.9", to).await);
    }
    // Whether they came before or after the last of these does not matter.
    let mut over = Stranger::call_from("127.0.0.9", to).await;
    assert!(over.hears().await.is_none(), "hung up on");
    assert_eq!(a.refused(false, "handshakes"), 1);
    let mut other = Stranger::call_from("127.0.0.8", to).await;
    other.is_greeted(hello(9, 4)).await;
    for mut stranger in strangers {
        assert_eq!(stranger.is_refused().await, Reason::HandshakeTimeout);
    }
    let mut again = Stranger::call_from("127.0.0.9", to).await;
    again.is_greeted(hello(9, 5)).await;
    assert_eq!(to_b.call(echo("still")).await, Ok("still".into()));
}
