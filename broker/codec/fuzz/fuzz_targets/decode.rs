//! Arbitrary bytes never panic, and what is taken can be read to its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_codec::{
    Direction, Filter, Packet, Publish, Version, decode, decode_connect, frame, topic_name,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(found)) = frame(bytes, u32::MAX) else { return };
    if let Ok(connect) = decode_connect(&found, bytes) {
        connect.properties.raw.iter().for_each(drop);
        if let Some(will) = connect.will {
            topic_name(will.topic.as_bytes()).expect("a will has a good topic");
            assert_eq!(will.forward.to_vec().len(), will.forward.len());
        }
    }
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        for from in [Direction::FromClient, Direction::FromServer] {
            match decode(&found, bytes, version, from) {
                Ok(packet) => read(packet),
                Err(error) => assert!(error.reason().is_error()),
            }
        }
    }
});

fn read(packet: Packet<'_>) {
    match packet {
        Packet::Publish(publish) => read_publish(publish),
        Packet::Subscribe(subscribe) => {
            assert_eq!(subscribe.filters.len(), subscribe.filters.count());
            for (filter, _) in subscribe.filters {
                Filter::parse(filter).expect("a SUBSCRIBE yields good filters");
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert_eq!(unsubscribe.filters.len(), unsubscribe.filters.count());
            for filter in unsubscribe.filters {
                Filter::parse(filter).expect("an UNSUBSCRIBE yields good filters");
            }
        }
        Packet::Disconnect(disconnect) => disconnect.properties.iter().for_each(drop),
        Packet::Auth(auth) => auth.properties.iter().for_each(drop),
        Packet::Connack(connack) => connack.properties.iter().for_each(drop),
        Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack) => {
            assert_ne!(ack.packet_id, 0);
            ack.properties.iter().for_each(drop);
        }
        Packet::Suback(suback) => assert!(!suback.codes.is_empty()),
        Packet::Unsuback(unsuback) => unsuback.properties.iter().for_each(drop),
        Packet::Connect(_) => unreachable!("a CONNECT is not for decode"),
        Packet::Pingreq | Packet::Pingresp => {}
    }
}

fn read_publish(publish: Publish<'_>) {
    let properties = publish.properties;
    match publish.topic {
        "" => assert!(properties.topic_alias.is_some()),
        topic => assert_eq!(topic_name(topic.as_bytes()), Ok(topic)),
    }
    assert_ne!(properties.topic_alias, Some(0));
    assert_eq!(publish.packet_id == 0, publish.qos as u8 == 0);
    assert_eq!(properties.forward.to_vec().len(), properties.forward.len());
    assert!(properties.subscription_ids.into_iter().all(|id| (1..=268_435_455).contains(&id)));
}
