//! The codec beside mqttbytes: decode and encode of what a broker sees most.
//!
//! `cargo bench -p benches --bench codec`
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use mqttbytes::v5;
use tidegate_codec::{
    ConnectOut, Direction, Packet, PacketType, PropertyWriter, PublishOut, QoS, ReasonCode,
    Version, decode, decode_connect, decode_publish, encode_ack, encode_connect, encode_publish,
    frame,
};

const TOPIC: &str = "site/line4/cell7/temperature";
const MAX: u32 = 1 << 20;

fn publish(version: Version, qos: QoS, forward: &[u8], payload: &[u8]) -> Vec<u8> {
    let packet = PublishOut {
        qos,
        topic: TOPIC,
        packet_id: 9,
        forward,
        payload_len: payload.len(),
        ..Default::default()
    };
    let mut out = Vec::new();
    encode_publish(&mut out, version, &packet, payload);
    out
}

/// Many packets back to back, as they lie in a read buffer.
const BATCH: usize = 64;

fn decode_one(c: &mut Criterion) {
    let payload = [0x5A; 64];
    let mut list = PropertyWriter::new();
    list.content_type("text/plain").user_property("unit", "celsius");
    let mut group = c.benchmark_group("publish decode, 64 bytes");
    group.throughput(criterion::Throughput::Elements(BATCH as u64));
    for (name, version, qos, forward) in [
        ("3.1.1 qos 0", Version::V3_1_1, QoS::AtMostOnce, &b""[..]),
        ("5.0 qos 0", Version::V5, QoS::AtMostOnce, b""),
        ("5.0 qos 1", Version::V5, QoS::AtLeastOnce, b""),
        ("5.0 qos 1, two properties", Version::V5, QoS::AtLeastOnce, list.bytes()),
    ] {
        let batch = publish(version, qos, forward, &payload).repeat(BATCH);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut rest = black_box(&batch[..]);
                while let Ok(Some(found)) = frame(rest, MAX) {
                    let packet = decode(&found, rest, version, Direction::FromClient);
                    if let Ok(Packet::Publish(publish)) = &packet {
                        black_box(publish);
                    }
                    rest = &rest[found.total..];
                }
            });
        });
        group.bench_function(format!("{name}, decode_publish"), |b| {
            b.iter(|| {
                let mut rest = black_box(&batch[..]);
                while let Ok(Some(found)) = frame(rest, MAX) {
                    let _ = black_box(decode_publish(&found, rest, version, Direction::FromClient));
                    rest = &rest[found.total..];
                }
            });
        });
    }
    let batch = publish(Version::V5, QoS::AtMostOnce, b"", &payload).repeat(BATCH);
    group.bench_function("mqttbytes 5.0 qos 0", |b| {
        b.iter(|| {
            let mut rest = BytesMut::from(black_box(&batch[..]));
            for _ in 0..BATCH {
                black_box(v5::read(&mut rest, MAX as usize).expect("a good packet"));
            }
        });
    });
    group.finish();
}

fn encode_one(c: &mut Criterion) {
    let payload = [0x5A; 64];
    let mut out = Vec::with_capacity(1 << 16);
    let mut group = c.benchmark_group("publish encode, 64 bytes");
    group.throughput(criterion::Throughput::Elements(BATCH as u64));
    for (name, version) in [("3.1.1", Version::V3_1_1), ("5.0", Version::V5)] {
        let packet = PublishOut {
            qos: QoS::AtLeastOnce,
            topic: TOPIC,
            payload_len: payload.len(),
            ..Default::default()
        };
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                for packet_id in 1..=BATCH as u16 {
                    let packet = PublishOut { packet_id, ..packet };
                    encode_publish(&mut out, version, black_box(&packet), &payload);
                }
                black_box(&out);
            });
        });
    }
    let mut packet = v5::Publish::new(TOPIC, mqttbytes::QoS::AtLeastOnce, payload.to_vec());
    let mut wire = BytesMut::with_capacity(1 << 16);
    group.bench_function("mqttbytes 5.0", |b| {
        b.iter(|| {
            wire.clear();
            for id in 1..=BATCH as u16 {
                packet.pkid = id;
                black_box(&packet).write(&mut wire).expect("a good packet");
            }
            black_box(&wire);
        });
    });
    group.finish();
}

fn acknowledge(c: &mut Criterion) {
    let mut out = Vec::with_capacity(1 << 16);
    c.bench_function("puback encode, 5.0", |b| {
        b.iter(|| {
            out.clear();
            let kind = PacketType::Puback;
            encode_ack(&mut out, Version::V5, kind, black_box(9), ReasonCode::Success, None);
            black_box(&out);
        });
    });
    let ack = [0x40, 2, 0, 9];
    c.bench_function("puback decode, 5.0", |b| {
        b.iter(|| {
            let bytes = black_box(&ack[..]);
            if let Ok(Some(found)) = frame(bytes, MAX) {
                let _ = black_box(decode(&found, bytes, Version::V5, Direction::FromClient));
            }
        });
    });
}

fn connect(c: &mut Criterion) {
    let mut group = c.benchmark_group("connect decode");
    for (name, version) in [("3.1.1", Version::V3_1_1), ("5.0", Version::V5)] {
        let mut list = PropertyWriter::new();
        list.session_expiry_interval(3600).receive_maximum(20);
        let connect = ConnectOut {
            client_id: "meter-0000042",
            keep_alive: 60,
            username: Some("meter"),
            password: Some(b"secret"),
            properties: list.bytes(),
            ..Default::default()
        };
        let mut bytes = Vec::new();
        encode_connect(&mut bytes, version, &connect);
        group.bench_function(name, |b| {
            b.iter(|| {
                let bytes = black_box(&bytes[..]);
                if let Ok(Some(found)) = frame(bytes, MAX) {
                    let _ = black_box(decode_connect(&found, bytes));
                }
            });
        });
        if version.is_v5() {
            group.bench_function("mqttbytes 5.0", |b| {
                b.iter(|| {
                    let mut rest = BytesMut::from(black_box(&bytes[..]));
                    black_box(v5::read(&mut rest, MAX as usize).expect("a good packet"));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode_one, encode_one, acknowledge, connect);
criterion_main!(benches);
