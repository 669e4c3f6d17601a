//! What TLS may take, of memory and of files.

/// The most ciphertext that a session asks its caller to keep: a record that is
/// not whole, or a handshake message whose records are not all here. A chain of
/// client certificates fits several times over; beyond it, the session fails.
pub const CARRY_BYTES_MAX: usize = 64 * 1024;

/// The most plain bytes in a record (RFC 8446, 5.1).
pub(super) const RECORD_PLAIN_MAX: usize = 16 * 1024;

/// More than any suite adds to a record: header, explicit nonce, tag, type.
pub(super) const RECORD_OVERHEAD_MAX: usize = 64;

/// The bytes of a certificate chain or of a key.
pub(super) const PEM_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The bytes of a CA bundle.
pub(super) const CA_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The bytes of a revocation list: about a million revoked certificates.
pub(super) const CRL_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Server names of one listener.
pub(super) const SERVER_NAMES_MAX: usize = 4_096;

/// Alternative names that are read from a client's certificate.
pub(super) const PEER_NAMES_MAX: usize = 64;

/// The length of a name from a client's certificate: MQTT's own bound on a
/// user name, and nobody's real one.
pub(super) const PEER_NAME_BYTES_MAX: usize = 1_024;

/// Symbolic links that are followed from a watched file.
pub(super) const LINKS_MAX: usize = 8;

/// Directories that are watched by notification; the rest is polled.
pub(super) const WATCHED_DIRECTORIES_MAX: usize = 2 * SERVER_NAMES_MAX;
