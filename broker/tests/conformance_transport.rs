//! The transport: TCP is spoken, WebSocket is not offered yet.

mod conformance;

use std::io::{Read, Write};
use std::process::Command;

use conformance::*;

// [MQTT-6.0.0-1] [MQTT-6.0.0-2] [MQTT-6.0.0-3] [MQTT-6.0.0-4] say what holds *if* MQTT
// goes over WebSocket. Until it does, a handshake must not be answered as if it did, and
// a config that asks for it must not pass. This test goes red when the transport comes.
#[test]
fn websocket_is_not_offered() {
    let mut stream = std::net::TcpStream::connect(BROKER.address()).expect("connect");
    stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    let upgrade = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                   Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).expect("ask");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"", "a WebSocket handshake is bytes that are no CONNECT");

    let dir = std::env::temp_dir().join(unique("tidegate-ws-"));
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    let check = |transport: &str| {
        let file = dir.join("tidegate.toml");
        let config =
            format!("[listener.web]\nbind = \"127.0.0.1:0\"\ntransport = \"{transport}\"\n");
        std::fs::write(&file, config).expect("write the config");
        let binary = std::env::var("TIDEGATE_BIN").unwrap_or_else(|_| BINARY.to_owned());
        let output = Command::new(binary).arg("check").arg(&file).output().expect("run the check");
        output.status.success()
    };
    assert!(check("tcp"), "the way the key is written is right");
    assert!(!check("websocket"));
    assert!(!check("ws"));
    let _ = std::fs::remove_dir_all(dir);
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
