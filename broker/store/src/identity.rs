//! Who this node is: a small database beside the log.
//!
//! The ids are made once, at the node's first start, and never again: a node
//! whose log was lost must not vote under the id that it had. It also holds
//! the small tables of the shell (`value`), for which a log is the wrong shape.

use std::io;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::limits::PEERS_MAX;

/// The newest form of the database that this program reads.
pub const IDENTITY_FORMAT: u64 = 1;

const IDENTITY: TableDefinition<'_, &str, u128> = TableDefinition::new("identity");
const PEERS: TableDefinition<'_, u64, &str> = TableDefinition::new("peers");
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");

/// Who a node is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Its cluster, once it belongs to one.
    pub cluster: Option<u128>,
    /// Its id among nodes; by chance, never reused.
    pub node: u64,
    /// The id of its log.
    pub store: u128,
    /// How many times the node has started on this directory.
    pub generation: u64,
    /// Whether the log was made: from then on one that is missing was lost.
    pub log_created: bool,
}

/// Another node, as it was last known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its id.
    pub node: u64,
    /// Where it was.
    pub address: String,
}

/// Why the identity cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it open.
    #[error("another process uses this data directory")]
    InUse,
    /// Written by a newer program.
    #[error(
        "the identity has format {found}, newer than {IDENTITY_FORMAT}; start the version that \
         wrote it, or a newer one"
    )]
    Newer {
        /// What it says.
        found: u64,
    },
    /// It has some ids and lacks others.
    #[error("the identity lacks {0}: restore the file, or begin with an empty data directory")]
    Incomplete(&'static str),
    /// A node belongs to one cluster for good.
    #[error("this node belongs to cluster {is:032x} and cannot join {wanted:032x}")]
    OtherCluster {
        /// Its cluster.
        is: u128,
        /// The one it was to join.
        wanted: u128,
    },
    /// More than [`PEERS_MAX`].
    #[error("{0} peers are over the limit of {PEERS_MAX}")]
    TooManyPeers(usize),
    /// The database's answer.
    #[error("the identity: {0}")]
    Database(Box<redb::Error>),
    /// The system's.
    #[error("the identity: {0}")]
    Io(io::Error),
}

impl IdentityError {
    /// Whether there was no room on the disk.
    pub fn is_full(&self) -> bool {
        matches!(self, IdentityError::Io(error) if crate::disk::is_full(error))
    }
}

fn db(error: impl Into<redb::Error>) -> IdentityError {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => IdentityError::InUse,
        redb::Error::Io(error) => IdentityError::Io(error),
        error => IdentityError::Database(Box::new(error)),
    }
}

/// The database, open. Every change is durable when its call returns.
#[derive(Debug)]
pub struct IdentityFile {
    database: Database,
}

impl IdentityFile {
    /// Opens the file, or makes it and the node's ids.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let database = Database::create(path).map_err(db)?;
        let this = Self { database };
        let fresh = this.change(|tx| {
            let mut table = tx.open_table(IDENTITY).map_err(db)?;
            let format = table.get("format").map_err(db)?.map(|format| format.value());
            match format {
                Some(format) if format as u64 > IDENTITY_FORMAT => {
                    return Err(IdentityError::Newer { found: format as u64 });
                }
                Some(_) => return Ok(false),
                None => {}
            }
            let fresh = [
                ("format", u128::from(IDENTITY_FORMAT)),
                ("node", u128::from(random_id()? as u64)),
                ("store", random_id()?),
                ("generation", 0),
            ];
            for (key, value) in fresh {
                table.insert(key, value).map_err(db)?;
            }
            tx.open_table(PEERS).map_err(db)?;
            tx.open_table(VALUES).map_err(db)?;
            Ok(true)
        })?;
        if fresh {
            crate::disk::sync_parent(path).map_err(IdentityError::Io)?;
        }
        Ok(this)
    }

    /// Who this node is.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        let tx = self.database.begin_read().map_err(db)?;
        let table = tx.open_table(IDENTITY).map_err(db)?;
        let read = |key| Ok(table.get(key).map_err(db)?.map(|value| value.value()));
        let need = |key| read(key)?.ok_or(IdentityError::Incomplete(key));
        Ok(Identity {
            cluster: read("cluster")?,
            node: need("node")? as u64,
            store: need("store")?,
            generation: need("generation")? as u64,
            log_created: read("log_created")?.is_some(),
        })
    }

    /// Counts a start, and says who is starting.
    pub fn begin_generation(&self) -> Result<Identity, IdentityError> {
        let mut identity = self.identity()?;
        identity.generation += 1;
        self.set("generation", u128::from(identity.generation))?;
        Ok(identity)
    }

    /// Notes that the log is there.
    pub fn set_log_created(&self) -> Result<(), IdentityError> {
        self.set("log_created", 1)
    }

    /// Belongs to a cluster, for good.
    pub fn set_cluster(&self, wanted: u128) -> Result<(), IdentityError> {
        match self.identity()?.cluster {
            Some(is) if is == wanted => Ok(()),
            Some(is) => Err(IdentityError::OtherCluster { is, wanted }),
            None => self.set("cluster", wanted),
        }
    }

    /// The peers that were noted last, by id.
    pub fn peers(&self) -> Result<Vec<Peer>, IdentityError> {
        let tx = self.database.begin_read().map_err(db)?;
        let table = tx.open_table(PEERS).map_err(db)?;
        let peer = |row: Result<(redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &str>), _>| {
            let (node, address) = row.map_err(|error: redb::StorageError| db(error))?;
            Ok(Peer { node: node.value(), address: address.value().to_owned() })
        };
        table.iter().map_err(db)?.map(peer).collect()
    }

    /// Notes the peers of now in place of the last ones.
    pub fn set_peers(&self, peers: &[Peer]) -> Result<(), IdentityError> {
        if peers.len() > PEERS_MAX {
            return Err(IdentityError::TooManyPeers(peers.len()));
        }
        self.change(|tx| {
            let mut table = tx.open_table(PEERS).map_err(db)?;
            table.retain(|_, _| false).map_err(db)?;
            for peer in peers {
                table.insert(peer.node, peer.address.as_str()).map_err(db)?;
            }
            Ok(())
        })
    }

    /// A small value of the shell's.
    pub fn value(&self, key: &str) -> Result<Option<Vec<u8>>, IdentityError> {
        let tx = self.database.begin_read().map_err(db)?;
        let table = tx.open_table(VALUES).map_err(db)?;
        Ok(table.get(key).map_err(db)?.map(|value| value.value().to_vec()))
    }

    /// Replaces a value of the shell's; none removes it.
    pub fn set_value(&self, key: &str, value: Option<&[u8]>) -> Result<(), IdentityError> {
        self.change(|tx| {
            let mut table = tx.open_table(VALUES).map_err(db)?;
            match value {
                Some(value) => table.insert(key, value).map_err(db)?.is_some(),
                None => table.remove(key).map_err(db)?.is_some(),
            };
            Ok(())
        })
    }

    fn set(&self, key: &str, value: u128) -> Result<(), IdentityError> {
        self.change(|tx| {
            let mut table = tx.open_table(IDENTITY).map_err(db)?;
            table.insert(key, value).map_err(db)?;
            Ok(())
        })
    }

    fn change<T>(
        &self,
        f: impl FnOnce(&WriteTransaction) -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let tx = self.database.begin_write().map_err(db)?;
        let result = f(&tx)?;
        tx.commit().map_err(db)?;
        Ok(result)
    }
}

/// Never 0, which stands for 'none' elsewhere.
fn random_id() -> Result<u128, IdentityError> {
    loop {
        let mut bytes = [0; 16];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        let got = got.map_err(|error| IdentityError::Io(error.into()))?;
        let id = u128::from_le_bytes(bytes);
        if got == bytes.len() && id as u64 != 0 {
            return Ok(id);
        }
    }
}
