//! The transport: TCP, and WebSocket as section 6 wants it.

mod conformance;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use conformance::*;

const WEB: &str = "[listener.default]\ntransport = \"ws\"\n";

/// An open WebSocket, and what it was answered; `protocol` is what it offers.
fn upgrade(address: SocketAddr, protocol: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}Sec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("ask");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).expect("an answer") == 0 {
            break;
        }
        answer.push(byte[0]);
    }
    (stream, String::from_utf8(answer).expect("text"))
}

/// A frame of a client, masked; short.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let masked = payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]);
    [first, 0x80 | payload.len() as u8].into_iter().chain(mask).chain(masked).collect()
}

/// The first byte and the payload of the next frame of the broker.
fn next_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame");
    assert!(head[1] < 126, "short, and not masked");
    let mut payload = vec![0; head[1].into()];
    stream.read_exact(&mut payload).expect("its payload");
    (head[0], payload)
}

const OFFER: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

// [MQTT-6.0.0-1]: MQTT goes in binary frames; any other data frame closes.
#[test]
fn websocket_takes_binary_frames_and_closes_on_text() {
    let server = broker(WEB);
    let connect = Connect::new(Version::V311, &unique("c")).bytes();
    let (mut good, _) = upgrade(server.mqtt, OFFER);
    good.write_all(&frame(0x82, &connect)).expect("send");
    assert_eq!(next_frame(&mut good), (0x82, vec![0x20, 2, 0, 0]));
    let (mut bad, _) = upgrade(server.mqtt, OFFER);
    bad.write_all(&frame(0x81, &connect)).expect("send");
    assert_eq!(next_frame(&mut bad), (0x88, 1003u16.to_be_bytes().to_vec()));
    assert_eq!(bad.read(&mut [0]).expect("an orderly end"), 0);
}

// [MQTT-6.0.0-2]: a frame may hold a part of a packet, or several packets.
#[test]
fn websocket_frames_and_packets_are_not_aligned() {
    let server = broker(WEB);
    let (mut stream, _) = upgrade(server.mqtt, OFFER);
    let connect = Connect::new(Version::V311, &unique("c")).bytes();
    let (first, rest) = connect.split_at(5);
    stream.write_all(&frame(0x82, first)).expect("send");
    stream.write_all(&frame(0x02, &rest[..3])).expect("send");
    let end = [&rest[3..], &PINGREQ, &PINGREQ].concat();
    stream.write_all(&frame(0x80, &end)).expect("send");
    let mut got = Vec::new();
    while got.len() < 8 {
        let (first, payload) = next_frame(&mut stream);
        assert_eq!(first, 0x82);
        got.extend(payload);
    }
    assert_eq!(got, [0x20, 2, 0, 0, 0xD0, 0, 0xD0, 0]);
}

// [MQTT-6.0.0-3] [MQTT-6.0.0-4]: the client offers `mqtt`, and the server selects it.
#[test]
fn websocket_is_opened_for_the_subprotocol_mqtt_alone() {
    let server = broker(WEB);
    let (_stream, answer) = upgrade(server.mqtt, "Sec-WebSocket-Protocol: chat, mqtt\r\n");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
    for offer in ["", "Sec-WebSocket-Protocol: chat\r\n"] {
        let (_stream, answer) = upgrade(server.mqtt, offer);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

// 3.1.4: a connection on which no CONNECT comes is closed after a while.
#[test]
fn connection_without_a_connect_is_closed() {
    let server = broker("[limits]\nconnect_timeout_ms = 1500\n");
    let mut idle = Client::bare(server.mqtt, Version::V5);
    let mut slow = Client::bare(server.mqtt, Version::V5);
    let connect = Connect::new(Version::V5, &unique("c")).bytes();
    slow.send(&connect[..connect.len() - 1]);
    let mut good = Connect::new(Version::V5, &unique("c")).open(server.mqtt);
    idle.expect_closed();
    slow.expect_closed();
    good.ping();
}

// SIGTERM: clients of 5.0 are told that the server shuts down.
#[test]
fn shutdown_tells_clients_and_refuses_new_ones() {
    let mut server = broker("");
    let mut clients: Vec<Client> =
        ALL.iter().map(|v| Connect::new(*v, &unique("c")).open(server.mqtt)).collect();
    let code = server.terminate();
    assert_eq!(code, Some(0));
    for client in &mut clients {
        client.expect_end(0x8b);
    }
}
