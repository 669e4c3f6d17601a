//! One client that waits for each answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use benches::wire::{self, Version};

const PATIENCE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_S: u16 = 0;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// Connects and waits for the CONNACK.
    pub(crate) fn connect(address: SocketAddr, client_id: &str) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, received: Vec::new() };
        client.stream.write_all(&wire::connect(Version::V311, client_id, KEEP_ALIVE_S))?;
        let (head, body) = client.packet()?;
        ensure!(head >> 4 == 2 && body.get(1) == Some(&0), "CONNECT was answered {body:02x?}");
        Ok(client)
    }

    /// Subscribes to `filters` at QoS 1; how long the SUBACK took.
    pub(crate) fn subscribe<'a>(
        &mut self,
        filters: impl Iterator<Item = &'a str>,
    ) -> Result<Duration> {
        let began = Instant::now();
        self.stream.write_all(&wire::subscribe(Version::V311, 1, filters, 1))?;
        let (head, body) = self.packet()?;
        let granted = body.get(2..).unwrap_or_default();
        ensure!(head >> 4 == 9 && granted.iter().all(|&qos| qos < 3), "refused: {body:02x?}");
        Ok(began.elapsed())
    }

    fn packet(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut chunk = [0; 4096];
        loop {
            if let Some((frame, used)) = wire::split(&self.received)? {
                let packet = (frame.head, frame.body.to_vec());
                self.received.drain(..used);
                return Ok(packet);
            }
            let length = self.stream.read(&mut chunk)?;
            ensure!(length > 0, "the broker closed the connection");
            self.received.extend_from_slice(&chunk[..length]);
        }
    }
}
