//! Where peers may be found, before anything is known of them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::limits::{ADDRESS_FILE_BYTES_MAX, ADDRESSES_MAX};

/// Where peers may be found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Discovery {
    /// At these, host and port each.
    Static(Vec<String>),
    /// At all addresses (A and AAAA) of a name, such as that of a headless
    /// service of Kubernetes that publishes addresses before they are ready.
    Dns {
        /// The name.
        name: String,
        /// The port at each.
        port: u16,
    },
    /// At those in a file, one a line; `#` begins a comment.
    File {
        /// The file; read again when it has changed.
        path: PathBuf,
    },
}

/// Why nobody knows where peers are.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The name could not be resolved: for a while, or it is wrong.
    #[error("cannot resolve {name:?}: {error}")]
    Dns {
        /// The name.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read {path:?}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not host and port.
    #[error("{0:?} is not host:port")]
    Address(String),
}

/// Asks where peers may be found, as often as one likes.
#[derive(Debug)]
pub struct Resolver {
    discovery: Discovery,
    read: Option<(Stamp, Vec<String>)>,
}

/// Of a file; another one, or one that was written, has another.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Discovery {
    /// Of `name:port`.
    pub fn dns(address: &str) -> Result<Self, DiscoverError> {
        let (name, port) = split(address)?;
        Ok(Self::Dns { name: name.to_owned(), port })
    }
}

impl Resolver {
    /// Nothing is asked yet.
    pub fn new(discovery: Discovery) -> Self {
        Self { discovery, read: None }
    }

    /// Addresses, host and port each, in order and once each; this node's may
    /// be among them. At most `ADDRESSES_MAX`.
    pub async fn resolve(&mut self) -> Result<Vec<String>, DiscoverError> {
        match &self.discovery {
            Discovery::Static(addresses) => in_order(addresses.clone()),
            Discovery::Dns { name, port } => {
                let found = tokio::net::lookup_host((name.as_str(), *port)).await;
                let found =
                    found.map_err(|error| DiscoverError::Dns { name: name.clone(), error })?;
                in_order(found.map(|address| address.to_string()).collect())
            }
            Discovery::File { path } => {
                let failed = |error| DiscoverError::File { path: path.clone(), error };
                let (of_path, known) =
                    (path.clone(), self.read.as_ref().map(|read| read.0.clone()));
                let reading = tokio::task::spawn_blocking(move || read(&of_path, known.as_ref()));
                let read = reading.await.map_err(|error| failed(io::Error::other(error)))?;
                if let Some((stamp, text)) = read.map_err(failed)? {
                    self.read = Some((stamp, in_order(lines(&text))?));
                }
                Ok(self.read.as_ref().map(|(_, addresses)| addresses.clone()).unwrap_or_default())
            }
        }
    }
}

/// What is in the file; none: what was there.
fn read(path: &Path, known: Option<&Stamp>) -> io::Result<Option<(Stamp, String)>> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(path)?;
    let (bytes, inode) = (meta.len(), meta.ino());
    let stamp = Stamp { modified: meta.modified().ok(), bytes, inode };
    if known == Some(&stamp) {
        return Ok(None);
    }
    if bytes > ADDRESS_FILE_BYTES_MAX {
        let detail = format!("{bytes} bytes are over the limit of {ADDRESS_FILE_BYTES_MAX}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
    }
    Ok(Some((stamp, std::fs::read_to_string(path)?)))
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

fn in_order(mut addresses: Vec<String>) -> Result<Vec<String>, DiscoverError> {
    for address in &addresses {
        split(address)?;
    }
    addresses.sort();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses)
}

fn split(address: &str) -> Result<(&str, u16), DiscoverError> {
    let wrong = || DiscoverError::Address(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    // An IPv6 address has brackets around it.
    let is_bare = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || is_bare || host.contains(char::is_whitespace) {
        return Err(wrong());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_told_apart() {
        assert_eq!(split("node-1.peers:7883").expect("good"), ("node-1.peers", 7883));
        assert_eq!(split("[::1]:7883").expect("good"), ("[::1]", 7883));
        for wrong in ["", "node", "node:", ":7883", "node:70000", "::1:7883", "a b:1"] {
            assert!(split(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_has_an_address_a_line_and_comments() {
        let text = "# peers\n b:1 # the second\n\na:1\nb:1\n";
        assert_eq!(in_order(lines(text)).expect("good"), ["a:1", "b:1"]);
        assert!(in_order(lines("a:1\nnonsense\n")).is_err());
    }
}
