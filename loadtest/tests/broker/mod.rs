//! A broker of threads, small enough to believe, that breaks promises on purpose.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use tidegate_codec::{
    ConnackOut, Direction, Packet, PacketType, PublishOut, QoS, ReasonCode, Version, decode,
    decode_connect, encode_ack, encode_connack, encode_pingresp, encode_publish, encode_suback,
    frame, matches,
};

const PACKET_BYTES_MAX: u32 = 1 << 20;

/// What goes wrong: one delivery in so many. 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Acknowledged and forgotten.
    pub(crate) lose_every: u64,
    /// Delivered twice.
    pub(crate) repeat_every: u64,
    /// Delivered after the next one.
    pub(crate) delay_every: u64,
    /// A byte of the identity is flipped.
    pub(crate) damage_every: u64,
}

/// How often it did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Done {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) delayed: u64,
    pub(crate) damaged: u64,
}

struct Subscription {
    filter: String,
    out: Arc<Mutex<Outlet>>,
}

struct Outlet {
    stream: TcpStream,
    version: Version,
    next_id: u16,
    deliveries: u64,
    held: Option<(String, Vec<u8>)>,
}

struct Shared {
    faults: Faults,
    subscriptions: Mutex<Vec<Subscription>>,
    done: Mutex<Done>,
}

/// It runs until the test ends.
pub(crate) struct Broker {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Broker {
    pub(crate) fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let shared =
            Arc::new(Shared { faults, subscriptions: Mutex::default(), done: Mutex::default() });
        let all = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let all = Arc::clone(&all);
                thread::spawn(move || serve(&all, stream));
            }
        });
        Self { addr, shared }
    }

    pub(crate) fn done(&self) -> Done {
        *self.shared.done.lock().expect("no panic")
    }
}

/// Until the client leaves.
fn serve(all: &Shared, mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let mut version = None;
    let outlet = Arc::new(Mutex::new(Outlet {
        stream: stream.try_clone().ok()?,
        version: Version::V3_1_1,
        next_id: 1,
        deliveries: 0,
        held: None,
    }));
    loop {
        while let Ok(Some(frame)) = frame(&bytes, PACKET_BYTES_MAX) {
            let one: Vec<u8> = bytes.drain(..frame.total).collect();
            let mut answer = Vec::new();
            if let Some(version) = version {
                let packet = decode(&frame, &one, version, Direction::FromClient).ok()?;
                handle(all, &outlet, packet, version, &mut answer)?;
            } else {
                let connect = decode_connect(&frame, &one).ok()?;
                version = Some(connect.version);
                outlet.lock().ok()?.version = connect.version;
                encode_connack(&mut answer, connect.version, &ConnackOut::default());
            }
            outlet.lock().ok()?.stream.write_all(&answer).ok()?;
        }
        let got = stream.read(&mut buffer).ok()?;
        if got == 0 {
            return None;
        }
        bytes.extend_from_slice(&buffer[..got]);
    }
}

fn handle(
    all: &Shared,
    outlet: &Arc<Mutex<Outlet>>,
    packet: Packet<'_>,
    version: Version,
    answer: &mut Vec<u8>,
) -> Option<()> {
    match packet {
        Packet::Subscribe(subscribe) => {
            let mut subscriptions = all.subscriptions.lock().ok()?;
            for (filter, _) in subscribe.filters {
                let (filter, out) = (filter.to_owned(), Arc::clone(outlet));
                subscriptions.push(Subscription { filter, out });
            }
            let codes = [ReasonCode::GrantedQoS1];
            encode_suback(answer, version, subscribe.packet_id, &codes, None);
        }
        Packet::Publish(publish) => {
            for subscription in all.subscriptions.lock().ok()?.iter() {
                if matches(&subscription.filter, publish.topic) {
                    let mut out = subscription.out.lock().ok()?;
                    out.deliver(all, publish.topic, publish.payload)?;
                }
            }
            let (id, success) = (publish.packet_id, ReasonCode::Success);
            encode_ack(answer, version, PacketType::Puback, id, success, None);
        }
        Packet::Pingreq => encode_pingresp(answer),
        _ => {}
    }
    Some(())
}

impl Outlet {
    fn deliver(&mut self, all: &Shared, topic: &str, payload: &[u8]) -> Option<()> {
        self.deliveries += 1;
        let mut done = all.done.lock().ok()?;
        let faults = all.faults;
        let number = self.deliveries;
        let turn = |every: u64| every > 0 && number.is_multiple_of(every);
        if turn(faults.lose_every) {
            done.lost += 1;
            return Some(());
        }
        if turn(faults.delay_every) && self.held.is_none() {
            self.held = Some((topic.to_owned(), payload.to_vec()));
            return Some(());
        }
        if turn(faults.damage_every) {
            done.damaged += 1;
            let mut changed = payload.to_vec();
            changed[20] ^= 1;
            return self.send(topic, &changed);
        }
        self.send(topic, payload)?;
        if turn(faults.repeat_every) {
            done.repeated += 1;
            self.send(topic, payload)?;
        }
        if let Some((topic, payload)) = self.held.take() {
            done.delayed += 1;
            self.send(&topic, &payload)?;
        }
        Some(())
    }

    fn send(&mut self, topic: &str, payload: &[u8]) -> Option<()> {
        let publish = PublishOut {
            qos: QoS::AtLeastOnce,
            topic,
            packet_id: self.next_id,
            payload_len: payload.len(),
            ..PublishOut::default()
        };
        self.next_id = self.next_id % 60_000 + 1;
        let mut bytes = Vec::new();
        encode_publish(&mut bytes, self.version, &publish, payload);
        self.stream.write_all(&bytes).ok()
    }
}
