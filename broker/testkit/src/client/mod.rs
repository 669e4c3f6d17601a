//! A packet builder and reader for tests, and a client made of them.
//!
//! Written apart from the broker's codec on purpose: a fault that both ends
//! share would be invisible. It checks what it reads (reserved bits, lengths,
//! property types), so every test also shows that what the broker sends is
//! well formed; and it sends whatever it is told to, however wrong.

mod build;
mod read;

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub use build::*;
pub use read::*;

use crate::{Broker, Got, QUIET, Raw};

/// A connection that speaks one version.
#[derive(Debug)]
pub struct Client {
    raw: Raw,
    /// What it speaks.
    pub version: Version,
    /// The client id it gave.
    pub id: String,
    /// What the CONNECT was answered with.
    pub connack: Connack,
    next: u16,
    ahead: VecDeque<Packet>,
}

impl Client {
    /// A connection on which nothing was sent.
    pub fn bare(address: SocketAddr, version: Version) -> Client {
        let (raw, ahead) = (Raw::open(address), VecDeque::new());
        Client { raw, version, id: String::new(), connack: Connack::default(), next: 0, ahead }
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.raw.send(bytes);
    }

    /// The next packet; none is a failure.
    #[track_caller]
    pub fn recv(&mut self) -> Packet {
        if let Some(packet) = self.ahead.pop_front() {
            return packet;
        }
        match self.raw.recv() {
            Got::Packet(bytes) => read(self.version, &bytes),
            Got::Closed => panic!("{} ({:?}): the broker closed", self.id, self.version),
            Got::Silence => panic!("{} ({:?}): nothing came", self.id, self.version),
        }
    }

    /// The next packet as it came.
    #[track_caller]
    pub fn recv_bytes(&mut self) -> Vec<u8> {
        match self.raw.recv() {
            Got::Packet(bytes) => bytes,
            other => panic!("{} ({:?}): {other:?} in place of a packet", self.id, self.version),
        }
    }

    /// The next packet that is not a PUBLISH; those are kept for later.
    #[track_caller]
    fn answer(&mut self) -> Packet {
        let mut kept = VecDeque::new();
        let packet = loop {
            match self.recv() {
                p @ Packet::Publish(_) => kept.push_back(p),
                p => break p,
            }
        };
        kept.append(&mut self.ahead);
        self.ahead = kept;
        packet
    }

    /// What comes within `patience`, or nothing; a close is a failure.
    #[track_caller]
    pub fn within(&mut self, patience: Duration) -> Option<Packet> {
        if let Some(packet) = self.ahead.pop_front() {
            return Some(packet);
        }
        match self.raw.recv_within(patience) {
            Got::Packet(bytes) => Some(read(self.version, &bytes)),
            Got::Silence => None,
            Got::Closed => panic!("{} ({:?}): the broker closed", self.id, self.version),
        }
    }

    /// Requires that nothing comes for [`QUIET`].
    #[track_caller]
    pub fn quiet(&mut self) {
        if let Some(packet) = self.within(QUIET) {
            panic!("{} ({:?}): expected nothing, got {packet:?}", self.id, self.version);
        }
    }

    /// Requires that the broker answers PINGREQ, and nothing comes before that.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(&PINGREQ);
        assert_eq!(self.recv(), Packet::Pingresp, "{} ({:?})", self.id, self.version);
    }

    /// Requires the close, and nothing before it.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        assert!(self.ahead.is_empty(), "unread: {:?}", self.ahead);
        let got = self.raw.recv();
        assert_eq!(got, Got::Closed, "{} ({:?})", self.id, self.version);
    }

    /// Requires what ends a connection for a fault of the client: DISCONNECT
    /// with `reason` and the close in 5.0, the bare close before.
    #[track_caller]
    pub fn expect_end(&mut self, reason: u8) {
        if self.version.is_5() {
            match self.recv() {
                Packet::Disconnect { reason: got, .. } => assert_eq!(
                    got, reason,
                    "{}: DISCONNECT {got:#04x} in place of {reason:#04x}",
                    self.id
                ),
                other => panic!("{}: {other:?} in place of DISCONNECT {reason:#04x}", self.id),
            }
        }
        self.expect_closed();
    }

    /// Requires a CONNACK with `code`, then the close.
    #[track_caller]
    pub fn expect_refusal(&mut self, code: u8) -> Connack {
        let Packet::Connack(connack) = self.recv() else { panic!("no CONNACK") };
        assert_eq!(connack.code, code, "CONNACK {:#04x}, not {code:#04x}", connack.code);
        assert_eq!(connack.flags, 0, "Session Present in a refusal");
        self.expect_closed();
        connack
    }

    /// Requires what ends a malformed CONNECT: CONNACK with `code` and the
    /// close in 5.0, the bare close before.
    #[track_caller]
    pub fn expect_connect_end(&mut self, code: u8) {
        if self.version.is_5() {
            self.expect_refusal(code);
        } else {
            self.expect_closed();
        }
    }

    /// A packet id not used before on this connection.
    pub fn next_id(&mut self) -> u16 {
        self.next += 1;
        self.next
    }

    /// Subscribes and requires that the QoS is granted.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) {
        let codes = self.subscribe_all(&Props::default(), &[(filter, options)]);
        assert_eq!(codes, [options & 3], "SUBACK for {filter}");
    }

    /// Subscribes with a Subscription Identifier.
    #[track_caller]
    pub fn subscribe_id(&mut self, filter: &str, options: u8, id: u32) {
        let props = Props::from([var(prop::SUBSCRIPTION_ID, id)]);
        let codes = self.subscribe_all(&props, &[(filter, options)]);
        assert_eq!(codes, [options & 3], "SUBACK for {filter}");
    }

    /// Subscribes and returns the codes of the SUBACK.
    #[track_caller]
    pub fn subscribe_all(&mut self, props: &Props, filters: &[(&str, u8)]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&subscribe(self.version, id, props, filters));
        match self.answer() {
            Packet::Suback { id: got, codes, .. } => {
                assert_eq!(got, id, "the packet id of the SUBACK");
                codes
            }
            other => panic!("{other:?} in place of SUBACK"),
        }
    }

    /// Unsubscribes and returns the codes of the UNSUBACK (none before 5.0).
    #[track_caller]
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.next_id();
        self.send(&unsubscribe(self.version, id, filters));
        match self.answer() {
            Packet::Unsuback { id: got, codes, .. } => {
                assert_eq!(got, id, "the packet id of the UNSUBACK");
                codes
            }
            other => panic!("{other:?} in place of UNSUBACK"),
        }
    }

    /// Publishes and completes the exchange.
    #[track_caller]
    pub fn publish(&mut self, topic: &str, qos: u8, payload: &[u8]) {
        self.put(Publish::new(topic, qos, payload));
    }

    /// As [`Client::publish`], retained.
    #[track_caller]
    pub fn retain(&mut self, topic: &str, qos: u8, payload: &[u8]) {
        self.put(Publish::new(topic, qos, payload).retain());
    }

    /// Sends a PUBLISH (with a packet id of its own) and completes the exchange.
    #[track_caller]
    pub fn put(&mut self, mut publish: Publish) {
        if publish.qos > 0 {
            publish.id = self.next_id();
        }
        self.send(&publish.bytes(self.version));
        match publish.qos {
            0 => {}
            1 => drop(self.expect_ack(PUBACK, publish.id)),
            _ => {
                self.expect_ack(PUBREC, publish.id);
                self.send(&ack(PUBREL, publish.id));
                self.expect_ack(PUBCOMP, publish.id);
            }
        }
    }

    /// Requires an acknowledgement that is no error; returns its reason.
    #[track_caller]
    pub fn expect_ack(&mut self, kind: u8, id: u16) -> u8 {
        let reason = self.expect_answer(kind, id);
        assert!(reason < 0x80, "an acknowledgement with {reason:#04x}");
        reason
    }

    /// Requires an acknowledgement of this kind and packet id; returns its reason.
    #[track_caller]
    pub fn expect_answer(&mut self, kind: u8, id: u16) -> u8 {
        match self.answer() {
            Packet::Ack { kind: k, id: i, reason, .. } => {
                assert_eq!((k, i), (kind, id), "(kind, packet id) of the acknowledgement");
                reason
            }
            other => panic!("{other:?} in place of acknowledgement {kind} of {id}"),
        }
    }

    /// The next message; it is not acknowledged.
    #[track_caller]
    pub fn message(&mut self) -> Publish {
        match self.recv() {
            Packet::Publish(p) => p,
            other => panic!("{} ({:?}): {other:?} in place of PUBLISH", self.id, self.version),
        }
    }

    /// The next message, and its exchange completed.
    #[track_caller]
    pub fn take(&mut self) -> Publish {
        let message = self.message();
        self.finish(&message);
        message
    }

    /// Completes the exchange of a received message.
    #[track_caller]
    pub fn finish(&mut self, message: &Publish) {
        match message.qos {
            0 => {}
            1 => self.send(&ack(PUBACK, message.id)),
            _ => {
                self.send(&ack(PUBREC, message.id));
                self.expect_ack(PUBREL, message.id);
                self.send(&ack(PUBCOMP, message.id));
            }
        }
    }

    /// Requires a message with this payload next, and completes its exchange.
    #[track_caller]
    pub fn hears(&mut self, payload: &str) -> Publish {
        let message = self.take();
        assert_eq!(message.said(), payload, "{} ({:?}): {message:?}", self.id, self.version);
        message
    }

    /// Leaves with a DISCONNECT, and waits until the broker has closed.
    #[track_caller]
    pub fn leave(mut self) {
        self.send(&DISCONNECT);
        self.gone();
    }

    /// Leaves with a 5.0 DISCONNECT.
    #[track_caller]
    pub fn leave_with(mut self, reason: u8, props: impl Into<Props>) {
        self.send(&disconnect(reason, props));
        self.gone();
    }

    /// Closes without a word. The broker may need a moment to see it.
    pub fn lose(self) {
        self.raw.abort();
    }

    /// Ends the client's half of the connection (an end without DISCONNECT)
    /// and waits until the broker has closed the other.
    #[track_caller]
    pub fn drop_and_wait(mut self) {
        let _ = self.raw.stream().shutdown(std::net::Shutdown::Write);
        self.gone();
    }

    #[track_caller]
    fn gone(&mut self) {
        loop {
            match self.raw.recv() {
                Got::Closed => return,
                Got::Packet(_) => {}
                Got::Silence => {
                    panic!("{} ({:?}): the broker does not close", self.id, self.version)
                }
            }
        }
    }

    /// The connection below.
    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }
}

/// A broker that all the tests of a file share: one of its own, or the one
/// that already runs at `TIDEGATE_TEST_ADDRESS`.
#[derive(Debug)]
pub struct Shared {
    address: SocketAddr,
    // Statics are never dropped: the guard ends the broker with the tests.
    _guard: Option<(Broker, Child)>,
}

impl Shared {
    /// Starts `binary` with `config`, or aims at `TIDEGATE_TEST_ADDRESS`.
    pub fn start(binary: &str, config: &str) -> Shared {
        if let Ok(given) = std::env::var("TIDEGATE_TEST_ADDRESS") {
            let address = given.parse().expect("TIDEGATE_TEST_ADDRESS is HOST:PORT");
            return Shared { address, _guard: None };
        }
        let broker = Broker::start(binary, config);
        let guard = Command::new("sh")
            .args(["-c", r#"read -r _; kill -9 "$1"; rm -rf "$2""#, "guard"])
            .arg(broker.pid().to_string())
            .arg(broker.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the guard");
        Shared { address: broker.mqtt, _guard: Some((broker, guard)) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A clean client with a new id.
    #[track_caller]
    pub fn join(&self, version: Version) -> Client {
        Connect::new(version, &unique("c")).open(self.address)
    }

    /// A connection on which nothing was sent.
    pub fn bare(&self, version: Version) -> Client {
        Client::bare(self.address, version)
    }
}

/// Writes all of `bytes` slowly enough that they arrive in two reads.
pub fn trickle(client: &mut Client, bytes: &[u8], at: usize) {
    let mut stream = client.raw().stream();
    let _ = stream.write_all(&bytes[..at]);
    std::thread::sleep(Duration::from_millis(20));
    let _ = stream.write_all(&bytes[at..]);
}
