//! What was decoded, encoded again and decoded again, is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_codec::{
    ConnectOut, Direction, Packet, PublishOut, Version, WillOut, decode, decode_connect,
    encode_connect, encode_publish, encode_subscribe, encode_unsubscribe, frame,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(found)) = frame(bytes, u32::MAX) else { return };
    connect(&found, bytes);
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        for from in [Direction::FromClient, Direction::FromServer] {
            if let Ok(packet) = decode(&found, bytes, version, from) {
                again(packet, version, from);
            }
        }
    }
});

fn connect(found: &tidegate_codec::Frame, bytes: &[u8]) {
    let Ok(before) = decode_connect(found, bytes) else { return };
    // The will's list is rebuilt from what was understood.
    let mut list = Vec::new();
    if let Some(will) = before.will {
        let mut writer = tidegate_codec::PropertyWriter::new();
        writer.will_delay_interval(will.delay);
        if let Some(seconds) = will.message_expiry {
            writer.message_expiry_interval(seconds);
        }
        list = writer.into_vec();
        will.forward.copy_to(&mut list);
    }
    let will = before.will.map(|will| WillOut {
        topic: will.topic,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        properties: &list,
    });
    let out = ConnectOut {
        clean_start: before.clean_start,
        keep_alive: before.keep_alive,
        client_id: before.client_id,
        will,
        username: before.username,
        password: before.password,
        properties: before.properties.raw.raw(),
    };
    let mut encoded = Vec::new();
    encode_connect(&mut encoded, before.version, &out);
    let found = frame(&encoded, u32::MAX).unwrap().expect("a whole packet");
    let after = decode_connect(&found, &encoded).expect("what we encode, we decode");
    assert_eq!(before.properties, after.properties);
    assert_eq!((before.client_id, before.username), (after.client_id, after.username));
    assert_eq!((before.password, before.keep_alive), (after.password, after.keep_alive));
    assert_eq!(before.clean_start, after.clean_start);
    match (before.will, after.will) {
        (None, None) => {}
        (Some(before), Some(after)) => {
            assert_eq!((before.topic, before.payload), (after.topic, after.payload));
            assert_eq!((before.qos, before.retain), (after.qos, after.retain));
            assert_eq!((before.delay, before.message_expiry), (after.delay, after.message_expiry));
            assert_eq!(before.forward.to_vec(), after.forward.to_vec());
        }
        (before, after) => panic!("{before:?} became {after:?}"),
    }
}

fn again(packet: Packet<'_>, version: Version, from: Direction) {
    let mut out = Vec::new();
    match packet {
        Packet::Publish(publish) => {
            let ids: Vec<u32> = publish.properties.subscription_ids.collect();
            let forward = publish.properties.forward.to_vec();
            let packet = PublishOut {
                dup: publish.dup,
                qos: publish.qos,
                retain: publish.retain,
                topic: publish.topic,
                packet_id: publish.packet_id,
                topic_alias: publish.properties.topic_alias,
                message_expiry: publish.properties.message_expiry,
                subscription_ids: &ids,
                forward: &forward,
                payload_len: publish.payload.len(),
            };
            encode_publish(&mut out, version, &packet, publish.payload);
            assert_eq!(out.len(), packet.len(version));
            let found = frame(&out, u32::MAX).unwrap().expect("a whole packet");
            let Ok(Packet::Publish(after)) = decode(&found, &out, version, from) else {
                panic!("what we encode, we decode");
            };
            assert_eq!((publish.topic, publish.payload), (after.topic, after.payload));
            assert_eq!((publish.dup, publish.qos), (after.dup, after.qos));
            assert_eq!((publish.retain, publish.packet_id), (after.retain, after.packet_id));
            assert_eq!(publish.properties.topic_alias, after.properties.topic_alias);
            assert_eq!(publish.properties.message_expiry, after.properties.message_expiry);
            assert_eq!(forward, after.properties.forward.to_vec());
            assert_eq!(ids, after.properties.subscription_ids.collect::<Vec<_>>());
        }
        Packet::Subscribe(before) => {
            let filters: Vec<_> = before.filters.collect();
            let list = before.properties.raw();
            encode_subscribe(&mut out, version, before.packet_id, &filters, list);
            let found = frame(&out, u32::MAX).unwrap().expect("a whole packet");
            let Ok(Packet::Subscribe(after)) = decode(&found, &out, version, from) else {
                panic!("what we encode, we decode");
            };
            assert_eq!(before, after);
        }
        Packet::Unsubscribe(before) => {
            let filters: Vec<_> = before.filters.collect();
            let list = before.properties.raw();
            encode_unsubscribe(&mut out, version, before.packet_id, &filters, list);
            let found = frame(&out, u32::MAX).unwrap().expect("a whole packet");
            let Ok(Packet::Unsubscribe(after)) = decode(&found, &out, version, from) else {
                panic!("what we encode, we decode");
            };
            assert_eq!(before, after);
        }
        Packet::Connect(_)
        | Packet::Connack(_)
        | Packet::Puback(_)
        | Packet::Pubrec(_)
        | Packet::Pubrel(_)
        | Packet::Pubcomp(_)
        | Packet::Suback(_)
        | Packet::Unsuback(_)
        | Packet::Pingreq
        | Packet::Pingresp
        | Packet::Disconnect(_)
        | Packet::Auth(_) => {}
    }
}
