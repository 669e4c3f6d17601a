//! The driver's turn, on sockets of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use tidegate_core::access::Open;
use tidegate_core::settings::Settings;

use super::*;
use crate::auth::Doorman;
use crate::config::{Bind, Config};
use crate::net::listener::{self, ListenOptions};

/// Two shards on this thread, with real sockets, that move only when told.
struct Rig {
    shared: Arc<Shared>,
    shards: Vec<(Driver, std::net::SocketAddr)>,
}

impl Rig {
    fn new() -> Rig {
        let mut settings = Settings::default();
        settings.limits.queue_messages_max = u32::MAX;
        settings.limits.queue_bytes_max = u64::MAX;
        let node = Node::new(settings, 2, 7, Box::new(Open));
        let doors = crate::node::doors::open(&Config::default()).expect("nothing to read");
        let doorman = Doorman::open(&Default::default()).expect("nothing to read");
        let shared = Shared::new(node, doors, Arc::new(doorman)).expect("two eventfds");
        let shared = Arc::new(shared);
        let options = ListenOptions { ipv6_only: true, backlog: 16, keepalive: None };
        let shards = (0..2)
            .map(|id| {
                let any = Bind::Tcp("127.0.0.1:0".parse().expect("an address"));
                let bound = listener::bind("t", &any, options, 1).expect("bind");
                let Bind::Tcp(address) = bound.address else { panic!("TCP was asked for") };
                let listeners: Vec<OwnedFd> = bound.sockets;
                let (drained, _) = mpsc::channel(1);
                let shared = Arc::clone(&shared);
                let driver = Driver::new(ShardId(id), shared, listeners, Gauge::none(), drained);
                (driver.expect("an epoll instance"), address)
            })
            .collect();
        Rig { shared, shards }
    }

    fn turn(&mut self, shard: usize) -> Next {
        self.shards[shard].0.turn().expect("no failure of the kernel")
    }

    fn client(&mut self, shard: usize, hello: &[u8], answer: usize) -> Client {
        let stream = TcpStream::connect(self.shards[shard].1).expect("connect");
        stream.set_nonblocking(true).expect("set O_NONBLOCK");
        let mut client = Client { stream, got: Vec::new() };
        assert_eq!(client.send(hello), hello.len());
        while client.got.len() < answer {
            self.turn(0);
            self.turn(1);
            client.receive();
        }
        client.got.clear();
        client
    }
}

struct Client {
    stream: TcpStream,
    got: Vec<u8>,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) -> usize {
        match self.stream.write(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    fn receive(&mut self) {
        let mut chunk = [0; 65536];
        while let Ok(count) = self.stream.read(&mut chunk) {
            assert_ne!(count, 0, "closed");
            self.got.extend_from_slice(&chunk[..count]);
        }
    }
}

/// QoS 1 to `t`, the number as payload; 13 bytes.
fn publish(number: u32) -> [u8; 13] {
    let [high, low] = ((number % 60_000 + 1) as u16).to_be_bytes();
    let [a, b, c, d] = number.to_be_bytes();
    [0x32, 11, 0, 1, b't', high, low, a, b, c, d, 0, 0]
}

#[test]
fn a_shard_that_stands_still_pauses_its_publishers_and_gets_every_message_later() {
    const MESSAGES: u32 = 200_000;
    let mut rig = Rig::new();
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01";
    let mut alice = rig.client(1, &[&connect[..], b"a\x82\x06\x00\x01\x00\x01t\x01"].concat(), 9);
    let mut bob = rig.client(0, &[&connect[..], b"b"].concat(), 4);
    let flood: Vec<u8> = (0..MESSAGES).flat_map(publish).collect();

    // Shard 1 stands still: its mailbox fills, then the outbox, then bob is
    // not read any more.
    let (mut sent, mut read, mut quiet) = (0, 0, 0);
    while quiet < 50 {
        sent += bob.send(&flood[sent..]);
        bob.receive();
        if rig.turn(0) == Next::Sleep {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let before = read;
        read = rig.shared.meters[0].bytes_received.value();
        quiet = if read == before { quiet + 1 } else { 0 };
    }
    assert!(read < flood.len() as u64, "all {read} bytes were read");
    assert!(rig.shared.meters[0].mailbox_full.value() > 0);
    assert!(rig.shared.node.counters[0].mailbox_pauses.value() > 0);

    // It moves again, and everything comes, once and in order.
    let mut expected = 0;
    while expected < MESSAGES {
        sent += bob.send(&flood[sent..]);
        bob.receive();
        rig.turn(1);
        rig.turn(0);
        alice.receive();
        let whole = alice.got.len() / 13 * 13;
        let mut acks = Vec::new();
        for packet in alice.got[..whole].chunks(13) {
            assert_eq!(packet[7..11], expected.to_be_bytes());
            acks.extend_from_slice(&[0x40, 2, packet[5], packet[6]]);
            expected += 1;
        }
        alice.got.drain(..whole);
        assert_eq!(alice.send(&acks), acks.len());
    }
    while bob.got.len() < 4 * MESSAGES as usize {
        rig.turn(1);
        rig.turn(0);
        bob.receive();
    }
}

#[test]
fn a_shard_with_idle_connections_sleeps_until_its_next_tick() {
    let mut rig = Rig::new();
    let connect = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a";
    let _alice = rig.client(0, connect, 4);
    let mut turns = 0;
    while rig.turn(0) == Next::Again {
        turns += 1;
        assert!(turns < 100, "nothing to do, and it does not sleep");
    }
    assert!(rig.shards[0].0.mailbox().fall_asleep());
}
