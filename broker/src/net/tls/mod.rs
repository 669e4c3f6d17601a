//! TLS for a shard: no task, no thread and no idle buffer a connection.
//!
//! A [`TlsSession`] turns a stream of records into plain bytes and back, in
//! buffers that the caller lends. What the server presents and trusts is read
//! from files into a [`Loaded`], kept by a [`TlsStore`] for each listener, and
//! read again when a [`Watch`] sees the files change; sessions that exist stay
//! with what they were opened with.

mod certificate;
mod error;
mod fault;
mod foreign;
mod fuzzing;
mod limits;
mod material;
mod peer;
mod report;
mod server_name;
mod session;
mod store;
mod watch;

#[cfg(test)]
mod tests;

pub use certificate::CertificateInfo;
pub use error::TlsError;
pub use fault::{Problem, TlsFault, TlsWarning};
pub use foreign::Foreign;
#[doc(hidden)]
pub use fuzzing::fuzz_records;
pub use limits::CARRY_BYTES_MAX;
pub use material::{Alpn, ClientAuth, Loaded, TlsFiles, TlsVersion, load};
pub use peer::PeerCertificate;
pub use report::{show, show_json};
pub use session::{Step, TlsSession};
pub use store::{Change, TlsStore};
pub use watch::{Pace, Watch};
