//! Connects to a URL, sends itself a message at each QoS, and prints what came.
//!
//! `through tcp|ssl|ws|wss HOST PORT [CA [CERT KEY]]`

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};

const PAYLOAD: usize = 70_000;
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // An error here is that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scheme, host, port, files @ ..] = &arguments[..] else {
        println!("usage: through tcp|ssl|ws|wss HOST PORT [CA [CERT KEY]]");
        return ExitCode::from(2);
    };
    match tokio::time::timeout(PATIENCE, through(scheme, host, port, files)).await {
        Ok(Ok(got)) => {
            println!("{}", got.join(" "));
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            println!("error {error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("error: nothing came within {PATIENCE:?}");
            ExitCode::FAILURE
        }
    }
}

async fn through(
    scheme: &str,
    host: &str,
    port: &str,
    files: &[String],
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let tls = || -> Result<TlsConfiguration, Box<dyn std::error::Error>> {
        let [ca, identity @ ..] = files else { return Err("a CA is needed".into()) };
        let client_auth = match identity {
            [certificate, key] => Some((fs::read(certificate)?, fs::read(key)?)),
            _ => None,
        };
        Ok(TlsConfiguration::Simple { ca: fs::read(ca)?, alpn: None, client_auth })
    };
    // With WebSocket it wants the URL where the host goes.
    let url = format!("{scheme}://{host}:{port}/mqtt");
    let (target, transport) = match scheme {
        "tcp" => (host, Transport::Tcp),
        "ssl" => (host, Transport::Tls(tls()?)),
        "ws" => (&url[..], Transport::Ws),
        "wss" => (&url[..], Transport::Wss(tls()?)),
        other => return Err(format!("no scheme of ours: {other}").into()),
    };
    let mut options =
        MqttOptions::new(format!("through-{}", std::process::id()), target, port.parse()?);
    options.set_transport(transport).set_max_packet_size(Some(1 << 20));
    let (client, mut events) = AsyncClient::new(options, 16);
    let topic = format!("through/{}", std::process::id());
    client.subscribe(&topic, QoS::ExactlyOnce).await?;
    let mut got = Vec::new();
    while got.len() < 3 {
        match events.poll().await? {
            Event::Incoming(Packet::SubAck(_)) => {
                for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    client.publish(&topic, qos, false, vec![b'x'; PAYLOAD]).await?;
                }
            }
            Event::Incoming(Packet::Publish(p)) => {
                got.push(format!("{}:{}", p.qos as u8, p.payload.len()));
            }
            Event::Incoming(_) | Event::Outgoing(_) => {}
        }
    }
    got.sort();
    Ok(got)
}
