//! Who comes in, and what is said to those who do not.

mod samples;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use samples::{hello, secret};
use tidegate_peer::frame::{Flags, Parsed, parse, whole};
use tidegate_peer::limits::{HANDSHAKE_TIME_MAX, HEADER_BYTES};
use tidegate_peer::*;

const NOW: Duration = Duration::from_secs(1_000);

fn local(node: u64, nonce: u8) -> Local {
    Local { hello: hello(node, nonce), auth: secret() }
}

/// Two ends that talk until both are through, or one has failed.
struct Talk {
    caller: Local,
    called: Local,
    caller_met: Acquaintances,
    called_met: Acquaintances,
    /// All that the caller has sent, for whoever listens.
    heard: Vec<Bytes>,
}

#[derive(Debug)]
struct Outcome {
    caller: Result<Established, HandshakeError>,
    called: Result<Established, HandshakeError>,
}

impl Talk {
    fn new() -> Self {
        Self {
            caller: local(1, 0xAA),
            called: local(2, 0xBB),
            caller_met: Acquaintances::default(),
            called_met: Acquaintances::default(),
            heard: Vec::new(),
        }
    }

    fn run(&mut self) -> Outcome {
        let (mut caller, first) = Handshake::call(self.caller.clone(), NOW);
        let mut called = Handshake::answer(self.called.clone(), NOW);
        self.heard.push(first.clone());
        let (mut to_called, mut to_caller) = (BytesMut::from(&first[..]), BytesMut::new());
        let (mut of_caller, mut of_called) = (None, None);
        while of_caller.is_none() || of_called.is_none() {
            let before = (to_called.len(), to_caller.len());
            if of_called.is_none() {
                let said = called.receive(&mut to_called, &self.called_met);
                of_called = step(said, &mut to_caller);
            }
            if of_caller.is_none() {
                let mut sent = BytesMut::new();
                let said = caller.receive(&mut to_caller, &self.caller_met);
                of_caller = step(said, &mut sent);
                if !sent.is_empty() {
                    to_called.extend_from_slice(&sent);
                    self.heard.push(sent.freeze());
                }
            }
            let after = (to_called.len(), to_caller.len());
            assert!(before != after || of_caller.is_some() && of_called.is_some(), "stuck");
        }
        Outcome { caller: of_caller.expect("through"), called: of_called.expect("through") }
    }

    /// The called side refuses, and the caller hears why.
    fn refused(&mut self) -> Reason {
        let outcome = self.run();
        let HandshakeError::ByPeer(goodbye) = outcome.caller.expect_err("told so") else {
            panic!("the caller is told, and does not decide");
        };
        let reason = outcome.called.expect_err("refused").reason();
        assert_eq!(goodbye.reason(), reason);
        reason.expect("one of ours")
    }
}

fn step(
    said: Result<Step, Failure>,
    answer: &mut BytesMut,
) -> Option<Result<Established, HandshakeError>> {
    match said {
        Ok(Step::NeedMore(_)) => None,
        Ok(Step::Send(bytes)) => {
            answer.extend_from_slice(&bytes);
            None
        }
        Ok(Step::Established { send, established }) => {
            answer.extend_from_slice(&send.unwrap_or_default());
            Some(Ok(*established))
        }
        Err(Failure { error, send }) => {
            answer.extend_from_slice(&send.unwrap_or_default());
            Some(Err(error))
        }
    }
}

#[test]
fn two_nodes_with_the_same_secret_believe_each_other() {
    let mut talk = Talk::new();
    talk.called.hello.features = 0b110;
    // What the called side says of the connection does not matter.
    (talk.called.hello.kind, talk.called.hello.stripe) = (ConnectionKind::Control, 0);
    let outcome = talk.run();
    let (caller, called) = (outcome.caller.expect("in"), outcome.called.expect("in"));
    assert_eq!((caller.peer.node, called.peer.node), (NodeId(2), NodeId(1)));
    assert_eq!((caller.proto, called.proto), (1, 1));
    assert_eq!((caller.features, called.features), (0b100, 0b100));
    assert_eq!((caller.peer.kind, caller.peer.stripe), (ConnectionKind::Data, 1));
    assert!(caller.is_caller && !called.is_caller && !caller.config_differs);
}

#[test]
fn it_works_however_the_bytes_come() {
    let (mut caller, first) = Handshake::call(local(1, 0xAA), NOW);
    let mut called = Handshake::answer(local(2, 0xBB), NOW);
    let met = Acquaintances::default();
    let mut waiting = BytesMut::new();
    let mut feed = |handshake: &mut Handshake, bytes: &Bytes| {
        for (at, byte) in bytes.iter().enumerate() {
            waiting.extend_from_slice(&[*byte]);
            match handshake.receive(&mut waiting, &met).expect("no fault") {
                Step::NeedMore(missing) => assert!((1..bytes.len() - at).contains(&missing)),
                Step::Send(bytes) => return Some(bytes),
                Step::Established { send, .. } => return send,
            }
        }
        None
    };
    let second = feed(&mut called, &first).expect("a Hello");
    let third = feed(&mut caller, &second).expect("a Proof");
    let fourth = feed(&mut called, &third).expect("a Welcome");
    assert_eq!(feed(&mut caller, &fourth), None);
}

#[test]
fn each_speaks_n_and_n_minus_1() {
    for (caller, called, agreed) in
        [((1, 2), (1, 1), 1), ((1, 1), (1, 2), 1), ((1, 2), (2, 3), 2), ((2, 3), (2, 3), 3)]
    {
        let mut talk = Talk::new();
        (talk.caller.hello.proto_min, talk.caller.hello.proto_max) = caller;
        (talk.called.hello.proto_min, talk.called.hello.proto_max) = called;
        let outcome = talk.run();
        assert_eq!(outcome.caller.expect("in").proto, agreed, "{caller:?} {called:?}");
        assert_eq!(outcome.called.expect("in").proto, agreed, "{caller:?} {called:?}");
    }
}

#[test]
fn whoever_does_not_belong_here_is_refused_with_the_reason() {
    type Case = (Reason, fn(&mut Talk));
    let cases: [Case; 14] = [
        (Reason::WrongVersion, |talk| {
            (talk.caller.hello.proto_min, talk.caller.hello.proto_max) = (2, 3);
        }),
        (Reason::WrongVersion, |talk| {
            (talk.called.hello.proto_min, talk.called.hello.proto_max) = (2, 3);
        }),
        (Reason::WrongCluster, |talk| talk.caller.hello.cluster = ClusterId(9)),
        (Reason::WrongName, |talk| talk.caller.hello.name = "mill".into()),
        (Reason::BadProof, |talk| {
            talk.caller.auth = Auth::Secret(Secret::new("another secret of theirs").expect("long"));
        }),
        (Reason::WrongAuth, |talk| {
            talk.caller.auth = Auth::Tls { peer: Identity::default(), accepted: vec![] };
        }),
        (Reason::Myself, |talk| talk.caller.hello.node = NodeId(2)),
        (Reason::Replayed, |talk| talk.caller.hello.nonce = talk.called.hello.nonce),
        (Reason::StaleIncarnation, |talk| {
            talk.called_met.learn(NodeId(1), talk.caller.hello.store, 6);
        }),
        (Reason::OtherStore, |talk| talk.called_met.learn(NodeId(1), StoreId(1), 5)),
        (Reason::Forgotten, |talk| talk.called_met.forget(NodeId(1))),
        (Reason::BadBody, |talk| talk.caller.hello.proto_min = 0),
        (Reason::BadBody, |talk| talk.caller.hello.lane_credit = 1),
        (Reason::BadHello, |talk| {
            (talk.called.hello.cluster, talk.called.hello.role) = (ClusterId(0), Role::Fresh);
        }),
    ];
    for (reason, spoil) in cases {
        let mut talk = Talk::new();
        spoil(&mut talk);
        assert_eq!(talk.refused(), reason);
    }
}

#[test]
fn the_caller_refuses_as_well() {
    let mut talk = Talk::new();
    talk.caller_met.forget(NodeId(2));
    let outcome = talk.run();
    assert_eq!(outcome.caller.expect_err("refused").reason(), Some(Reason::Forgotten));
    let told = outcome.called.expect_err("told");
    assert!(
        matches!(&told, HandshakeError::ByPeer(goodbye)
        if goodbye.reason() == Some(Reason::Forgotten)),
        "{told:?}"
    );
}

#[test]
fn certificates_are_held_against_the_node_they_are_used_for() {
    let own = |names: &[&str]| Auth::Tls {
        peer: Identity { names: names.iter().map(|&name| name.into()).collect() },
        accepted: vec!["*.tidegate.svc".into()],
    };
    let mut talk = Talk::new();
    talk.caller.auth = own(&["b.tidegate.svc"]);
    talk.called.auth = own(&["a.tidegate.svc", "tidegate://plant/0000000000000001"]);
    let outcome = talk.run();
    assert!(outcome.caller.is_ok() && outcome.called.is_ok(), "{outcome:?}");
    talk.caller.hello.nonce = Nonce([1; 32]);
    talk.called.auth = own(&["a.tidegate.svc", "tidegate://plant/0000000000000003"]);
    assert_eq!(talk.refused(), Reason::WrongIdentity);
}

#[test]
fn a_recording_does_not_come_in() {
    let mut talk = Talk::new();
    assert!(talk.run().called.is_ok());
    let recording = BytesMut::from(&talk.heard.concat()[..]);

    // To a node that remembers the Hello.
    let first = talk.run().called.expect("nothing is remembered yet");
    talk.called_met.met(&first);
    let mut called = Handshake::answer(local(2, 0xBC), NOW);
    let refused = called.receive(&mut recording.clone(), &talk.called_met).expect_err("refused");
    assert_eq!(refused.error.reason(), Some(Reason::Replayed));

    // To one that has restarted, with the Proof behind it.
    let mut called = Handshake::answer(local(2, 0xBC), NOW);
    let (mut bytes, met) = (recording, Acquaintances::default());
    let said = called.receive(&mut bytes, &met).expect("a Hello like any other");
    assert!(matches!(said, Step::Send(_)));
    let refused = called.receive(&mut bytes, &met).expect_err("refused");
    assert_eq!(refused.error.reason(), Some(Reason::BadProof));
}

#[test]
fn a_proof_sent_back_does_not_let_its_sender_in() {
    // Somebody without the secret is called, and answers with what he was sent.
    let (mut caller, first) = Handshake::call(local(1, 0xAA), NOW);
    let met = Acquaintances::default();
    let mut answer = BytesMut::from(&whole_frame(MessageType::Hello, hello(2, 0xBB).encode())[..]);
    let Ok(Step::Send(proof)) = caller.receive(&mut answer, &met) else { panic!("a Proof") };
    let said = Proof::decode(&proof.slice(HEADER_BYTES..)).expect("a Proof");
    let welcome = Welcome { auth: said.auth, proto: 1, features: 0b101, proof: said.proof };
    let mut answer = BytesMut::from(&whole_frame(MessageType::Welcome, welcome.encode())[..]);
    let refused = caller.receive(&mut answer, &met).expect_err("refused");
    assert_eq!(refused.error.reason(), Some(Reason::BadProof));

    // And the Hello itself, sent back.
    let (mut caller, _) = Handshake::call(local(1, 0xAA), NOW);
    let refused = caller.receive(&mut BytesMut::from(&first[..]), &met).expect_err("refused");
    assert_eq!(refused.error.reason(), Some(Reason::Replayed));
}

#[test]
fn a_changed_version_or_feature_breaks_the_proof() {
    // In between, the features are taken away from the caller's Hello.
    let (mut caller, _) = Handshake::call(local(1, 0xAA), NOW);
    let mut called = Handshake::answer(local(2, 0xBB), NOW);
    let met = Acquaintances::default();
    let weaker = Hello { features: 0, ..hello(1, 0xAA) };
    let mut bytes = BytesMut::from(&whole_frame(MessageType::Hello, weaker.encode())[..]);
    let Ok(Step::Send(answer)) = called.receive(&mut bytes, &met) else { panic!("a Hello") };
    let Ok(Step::Send(proof)) = caller.receive(&mut BytesMut::from(&answer[..]), &met) else {
        panic!("a Proof");
    };
    let refused = called.receive(&mut BytesMut::from(&proof[..]), &met).expect_err("refused");
    assert_eq!(refused.error.reason(), Some(Reason::BadProof));
}

#[test]
fn a_welcome_to_what_was_not_agreed_on_is_refused() {
    let auth = Auth::Tls { peer: Identity::default(), accepted: vec![] };
    for (proto, features) in [(2, 0b101), (1, 0b111)] {
        let local = Local { hello: hello(1, 0xAA), auth: auth.clone() };
        let (mut caller, _) = Handshake::call(local, NOW);
        let met = Acquaintances::default();
        let answer = Hello { auth: AuthMethod::Tls, ..hello(2, 0xBB) };
        let answer = whole_frame(MessageType::Hello, answer.encode());
        let said = caller.receive(&mut BytesMut::from(&answer[..]), &met).expect("a Hello");
        assert!(matches!(said, Step::Send(_)));
        let welcome = Welcome { auth: AuthMethod::Tls, proto, features, proof: [0; 32] };
        let welcome = whole_frame(MessageType::Welcome, welcome.encode());
        let said = caller.receive(&mut BytesMut::from(&welcome[..]), &met);
        assert_eq!(said.expect_err("refused").error.reason(), Some(Reason::BadHello));
    }
}

#[test]
fn garbage_and_what_comes_out_of_turn_is_refused_with_the_reason() {
    let ping = samples::frame_of(Lane::LINK, &Message::Ping(Ping { sent_ns: 1 }));
    let welcome = Welcome { auth: AuthMethod::Secret, proto: 1, features: 0, proof: [0; 32] };
    let mut flipped = whole_frame(MessageType::Hello, hello(1, 1).encode()).to_vec();
    flipped[40] ^= 1;
    let long = whole(1, Flags::NONE, Lane::LINK, &[0; 5_000]);
    let cases: [(&[u8], Reason); 7] = [
        (b"GET / HTTP/1.1\r\n", Reason::TooLarge),
        (b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x3c\x00\x00", Reason::TooLarge),
        (&long, Reason::TooLarge),
        (&flipped, Reason::BadChecksum),
        (&ping, Reason::OutOfTurn),
        (&whole_frame(MessageType::Welcome, welcome.encode()), Reason::OutOfTurn),
        (&whole(0x7777, Flags::OPTIONAL, Lane::LINK, b""), Reason::OutOfTurn),
    ];
    for (bytes, reason) in cases {
        let mut called = Handshake::answer(local(2, 0xBB), NOW);
        let said = called.receive(&mut BytesMut::from(bytes), &Acquaintances::default());
        let failure = said.expect_err("refused");
        assert_eq!(failure.error.reason(), Some(reason), "{bytes:?}");
        let goodbye = failure.send.expect("the peer is told");
        let Ok(Parsed::Frame(header)) = parse(&goodbye, 4_096) else { panic!("a frame") };
        assert_eq!(header.kind, MessageType::Goodbye.code());
        let goodbye = Goodbye::decode(&goodbye.slice(HEADER_BYTES..)).expect("a Goodbye");
        assert_eq!((goodbye.reason(), goodbye.proto_min, goodbye.proto_max), (Some(reason), 1, 1));
        // And it stays refused.
        let hello = whole_frame(MessageType::Hello, hello(1, 1).encode());
        let again = called.receive(&mut BytesMut::from(&hello[..]), &Acquaintances::default());
        assert_eq!(again.expect_err("over").error.reason(), Some(Reason::OutOfTurn));
    }
}

#[test]
fn a_handshake_has_five_seconds() {
    let mut called = Handshake::answer(local(2, 0xBB), NOW);
    assert_eq!(called.deadline(), NOW + HANDSHAKE_TIME_MAX);
    assert_eq!(called.expire(called.deadline() - Duration::from_nanos(1)), None);
    let failure = called.expire(called.deadline()).expect("over");
    assert_eq!(failure.error.reason(), Some(Reason::HandshakeTimeout));
    assert_eq!(called.expire(NOW + Duration::from_secs(60)), None, "said once");
}

#[test]
fn a_fresh_node_may_ask_on_a_control_connection_alone() {
    let fresh = Hello {
        role: Role::Fresh,
        cluster: ClusterId(0),
        kind: ConnectionKind::Control,
        ..hello(1, 0xAA)
    };
    let mut talk = Talk::new();
    talk.caller.hello = fresh.clone();
    let outcome = talk.run();
    assert_eq!(outcome.called.expect("in").peer.role, Role::Fresh);
    assert_eq!(outcome.caller.expect("in").peer.cluster, hello(2, 0).cluster);
    let mut talk = Talk::new();
    talk.caller.hello = Hello { kind: ConnectionKind::Bulk, ..fresh };
    assert_eq!(talk.refused(), Reason::BadBody);
}

#[test]
fn of_two_connections_both_ends_keep_the_same_one() {
    let mut talk = Talk::new();
    let one = talk.run();
    let mut talk = Talk { caller: local(2, 0x11), called: local(1, 0x22), ..Talk::new() };
    let two = talk.run();
    let (lower, higher) = (NodeId(1), NodeId(2));
    assert!(stays(lower, &one.caller.expect("in")) && stays(higher, &one.called.expect("in")));
    assert!(!stays(higher, &two.caller.expect("in")) && !stays(lower, &two.called.expect("in")));
}

#[test]
fn whom_one_has_met_is_remembered_within_bounds() {
    let mut met = Acquaintances::default();
    let established = Talk::new().run().called.expect("in");
    met.met(&established);
    let nonce = established.peer.nonce;
    assert!(met.has_seen(&nonce));
    for number in 0..limits::NONCES_MAX as u32 {
        let mut other = established.clone();
        other.peer.nonce.0[..4].copy_from_slice(&number.to_le_bytes());
        other.peer.node = NodeId(100 + u64::from(number));
        met.met(&other);
    }
    assert!(!met.has_seen(&nonce), "the oldest went");
    assert_eq!(met.known(NodeId(1)).map(|known| known.incarnation), Some(5));
    let last = NodeId(100 + limits::NONCES_MAX as u64 - 1);
    assert_eq!(met.known(last), None, "nobody new is known beyond the bound");
    // An older process is no news, and who is forgotten does not come back.
    met.learn(NodeId(1), StoreId(3), 4);
    assert_eq!(met.known(NodeId(1)).map(|known| known.store), Some(established.peer.store));
    met.forget(NodeId(1));
    met.learn(NodeId(1), StoreId(3), 9);
    assert!(met.known(NodeId(1)).is_some_and(|known| known.is_forgotten));
}

fn whole_frame(kind: MessageType, body: Bytes) -> Bytes {
    whole(kind.code(), Flags::NONE, Lane::LINK, &body)
}
