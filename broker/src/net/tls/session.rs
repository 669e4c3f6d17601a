//! One connection's TLS, in the buffers of others.
//!
//! rustls' unbuffered connection keeps keys and state alone: ciphertext, plain
//! bytes and answers live in buffers that the caller lends for a call. So an
//! idle session costs its keys, and a partial record stays with the caller.
//!
//! Two of that interface's edges are kept away from here on. A handshake
//! message whose records are not all here is remembered by its offsets in the
//! caller's buffer, so that rustls must be offered the same bytes again, as it
//! left them; and offered less, it panics. [`TlsSession::seal`] offers nothing,
//! so a session with such a piece after its handshake is ended. After an error
//! the alert is taken out without offering any bytes to the deframer again.

use std::io::IoSlice;
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};

use super::error::TlsError;
use super::foreign::{Opening, recognize};
use super::limits::{CARRY_BYTES_MAX, RECORD_OVERHEAD_MAX, RECORD_PLAIN_MAX};
use super::peer::PeerCertificate;
use super::server_name;

/// The bytes of a record's header.
const RECORD_HEADER: usize = 5;

/// The server's side of one TLS connection. About 3.3 KB of memory when idle
/// with TLS 1.3, and a client's certificate if it sent one.
pub struct TlsSession {
    connection: Box<UnbufferedServerConnection>,
    phase: Phase,
    server_name: Option<Box<str>>,
    peer: Option<Box<PeerCertificate>>,
}

/// What one call of [`TlsSession::receive`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Step {
    /// Bytes of `raw` that are done with. The rest is offered again, unchanged
    /// from how the call left it, with more behind it.
    pub consumed: usize,
    /// Bytes at the front of `plain`.
    pub plain: usize,
    /// The handshake ended in this call.
    pub done_handshake: bool,
    /// The peer sent its `close_notify`: nothing more will come.
    pub closed: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Nothing has been seen of the peer.
    Fresh,
    Handshaking,
    Open,
    /// The peer will send no more; we may.
    PeerClosed,
    /// We have said goodbye.
    Closed,
    Failed,
}

impl TlsSession {
    /// A session that waits for a ClientHello.
    ///
    /// # Errors
    /// What rustls says of the configuration.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let connection = Box::new(UnbufferedServerConnection::new(config)?);
        Ok(Self { connection, phase: Phase::Fresh, server_name: None, peer: None })
    }

    /// Takes in all whole records at the front of `raw`, in any split.
    ///
    /// Decrypted bytes go to the front of `plain`, answers (handshake, tickets,
    /// alerts) behind what `out` holds. `raw` is the scratch of this call: it
    /// must begin where the last call's `consumed` ended, with the bytes that
    /// call left there.
    ///
    /// # Errors
    /// Whatever ends the session. `out` then holds the alert for the peer.
    ///
    /// # Panics
    /// If `plain` is shorter than `raw`.
    pub fn receive(
        &mut self,
        raw: &mut [u8],
        plain: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, TlsError> {
        assert!(plain.len() >= raw.len(), "the caller lends room for all that may be in `raw`");
        match self.phase {
            Phase::Fresh => match recognize(raw) {
                Opening::Unclear => return Ok(Step::default()),
                Opening::Tls => self.phase = Phase::Handshaking,
                Opening::Foreign(foreign) => {
                    self.phase = Phase::Failed;
                    out.extend_from_slice(foreign.answer());
                    return Err(TlsError::NotTls(foreign));
                }
            },
            Phase::Handshaking | Phase::Open => {}
            // Whatever comes after a closure alert is ignored (RFC 8446, 6.1).
            Phase::PeerClosed | Phase::Closed => {
                return Ok(Step { consumed: raw.len(), closed: true, ..Step::default() });
            }
            Phase::Failed => return Err(TlsError::Over),
        }
        self.records(raw, plain, out).inspect_err(|_| self.fail(out))
    }

    /// Encrypts `plain` in records of at most 16 KiB behind what `out` holds.
    /// Nothing to encrypt writes nothing.
    ///
    /// # Errors
    /// Before the handshake is done, after [`TlsSession::close`], and when a
    /// TLS 1.2 connection's keys are used up.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.sealing()?;
        plain.chunks(RECORD_PLAIN_MAX).try_for_each(|part| self.seal_record(part, out))
    }

    /// Encrypts at most `max` bytes of `slices`, gathered so that small packets
    /// share a record. Returns how many it took. `scratch` is the place where
    /// they are gathered; what it held is lost.
    ///
    /// # Errors
    /// As [`TlsSession::seal`].
    pub fn seal_slices(
        &mut self,
        slices: &[IoSlice<'_>],
        max: usize,
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<usize, TlsError> {
        self.sealing()?;
        scratch.clear();
        let mut taken = 0;
        for slice in slices {
            let mut rest = &slice[..slice.len().min(max - taken)];
            taken += rest.len();
            while !rest.is_empty() {
                // A large payload is sealed from where it lies.
                if scratch.is_empty() && rest.len() >= RECORD_PLAIN_MAX {
                    let (record, behind) = rest.split_at(RECORD_PLAIN_MAX);
                    self.seal_record(record, out)?;
                    rest = behind;
                    continue;
                }
                let (fits, behind) =
                    rest.split_at(rest.len().min(RECORD_PLAIN_MAX - scratch.len()));
                scratch.extend_from_slice(fits);
                rest = behind;
                if scratch.len() == RECORD_PLAIN_MAX {
                    self.seal_record(scratch, out)?;
                    scratch.clear();
                }
            }
            if taken == max {
                break;
            }
        }
        if !scratch.is_empty() {
            self.seal_record(scratch, out)?;
            scratch.clear();
        }
        Ok(taken)
    }

    /// Says goodbye: `close_notify`, once, if there are keys to say it with.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        match self.phase {
            Phase::Open | Phase::PeerClosed => {
                self.phase = Phase::Closed;
                self.close_notify(out);
            }
            Phase::Fresh | Phase::Handshaking => self.phase = Phase::Closed,
            Phase::Closed | Phase::Failed => {}
        }
    }

    /// Whether application data has to wait.
    pub fn is_handshaking(&self) -> bool {
        match self.phase {
            Phase::Fresh | Phase::Handshaking => true,
            Phase::Open | Phase::PeerClosed | Phase::Closed | Phase::Failed => false,
        }
    }

    /// Whether the handshake was shortened by a ticket.
    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The protocol's version, `1.2` or `1.3`, once it is agreed.
    pub fn version_label(&self) -> Option<&'static str> {
        match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
            Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
            _ => None,
        }
    }

    /// The names in the client's certificate, if it sent one and the handshake
    /// is done; it has then been verified.
    pub fn peer(&self) -> Option<&PeerCertificate> {
        self.peer.as_deref()
    }

    /// The name by which the client called us (SNI).
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    fn records(
        &mut self,
        raw: &mut [u8],
        plain: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, TlsError> {
        let mut step = Step::default();
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.connection.process_tls_records(&mut raw[step.consumed..]);
            let idle = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        let end = step.plain + record.payload.len();
                        plain[step.plain..end].copy_from_slice(record.payload);
                        step.plain = end;
                        discard += record.discard;
                    }
                    false
                }
                ConnectionState::EncodeTlsData(answer) => {
                    append(answer, out);
                    false
                }
                ConnectionState::TransmitTlsData(sent) => {
                    sent.done();
                    false
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    step.closed = true;
                    true
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => true,
                // Early data is off, and these are all states that there are.
                _ => return Err(TlsError::Over),
            };
            step.consumed += discard;
            if idle {
                break;
            }
        }

        if self.phase == Phase::Handshaking {
            if let Some(name) = server_name::take() {
                self.server_name = Some(name);
            }
            if !self.connection.is_handshaking() {
                self.phase = Phase::Open;
                self.peer = self
                    .connection
                    .peer_certificates()
                    .and_then(|chain| chain.first())
                    .map(|own| Box::new(PeerCertificate::read(own)));
                step.done_handshake = true;
            }
        }
        if step.closed {
            self.phase = Phase::PeerClosed;
            step.consumed = raw.len();
        }
        let kept = &raw[step.consumed..];
        if kept.len() > CARRY_BYTES_MAX {
            return Err(TlsError::HandshakeTooLarge { max: CARRY_BYTES_MAX });
        }
        if self.phase == Phase::Open && begins_with_whole_record(kept) {
            return Err(TlsError::FragmentAfterHandshake);
        }
        Ok(step)
    }

    /// Ends the session, with the alert that rustls has prepared.
    fn fail(&mut self, out: &mut Vec<u8>) {
        self.phase = Phase::Failed;
        if let Some(name) = server_name::take() {
            self.server_name = Some(name);
        }
        // `wants_write` is true while a prepared message is left, and then
        // `process_tls_records` yields it before it looks at any input.
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(alert)) => append(alert, out),
                Ok(ConnectionState::ReadTraffic(mut unread)) => {
                    while unread.next_record().is_some() {}
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn sealing(&self) -> Result<(), TlsError> {
        match self.phase {
            Phase::Open | Phase::PeerClosed => Ok(()),
            Phase::Fresh | Phase::Handshaking => Err(TlsError::StillHandshaking),
            Phase::Closed | Phase::Failed => Err(TlsError::Over),
        }
    }

    fn seal_record(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        let sealed = loop {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(writer)) => break encrypt(writer, plain, out),
                Ok(ConnectionState::EncodeTlsData(answer)) => append(answer, out),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(_) => break Err(TlsError::Over),
                Err(error) => break Err(error.into()),
            }
        };
        sealed.inspect_err(|_| self.fail(out))
    }

    fn close_notify(&mut self, out: &mut Vec<u8>) {
        loop {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::WriteTraffic(mut writer)) => {
                    let start = out.len();
                    out.resize(start + 2 * RECORD_OVERHEAD_MAX, 0);
                    let written = writer.queue_close_notify(&mut out[start..]).unwrap_or(0);
                    out.truncate(start + written);
                    return;
                }
                Ok(ConnectionState::EncodeTlsData(answer)) => append(answer, out),
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSession").field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// Appends a prepared message; asking with no room tells how much it needs.
fn append(mut message: EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    if let Err(EncodeError::InsufficientSize(short)) = message.encode(&mut []) {
        let start = out.len();
        out.resize(start + short.required_size, 0);
        let written = message.encode(&mut out[start..]).unwrap_or(0);
        out.truncate(start + written);
    }
}

fn encrypt(
    mut writer: WriteTraffic<'_, ServerConnectionData>,
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), TlsError> {
    let start = out.len();
    out.resize(start + plain.len() + RECORD_OVERHEAD_MAX, 0);
    loop {
        match writer.encrypt(plain, &mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            // A key update goes before the record now and then.
            Err(EncryptError::InsufficientSize(short)) => {
                out.resize(start + short.required_size, 0);
            }
            Err(EncryptError::EncryptExhausted) => {
                out.truncate(start);
                return Err(TlsError::KeysExhausted);
            }
        }
    }
}

/// Whether a whole record is left over: rustls has taken it in, and waits for
/// the next piece of the message that began in it.
fn begins_with_whole_record(kept: &[u8]) -> bool {
    kept.len() >= RECORD_HEADER
        && kept.len() - RECORD_HEADER >= usize::from(u16::from_be_bytes([kept[3], kept[4]]))
}
