//! Opening the store of a data directory, before anything else is started.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tidegate_core::Keeps;
use tidegate_core::ids::{Millis, PARTITIONS};
use tidegate_store::identity::IdentityFile;
use tidegate_store::{
    AppendError, Batch, Disk, FileDisk, Identity, IdentityError, Log, Options, Recovered,
    push_sole_voter,
};
use tracing::{debug, info, warn};

use super::directory::{Directory, log_in};
use super::found::{self, Form};
use super::replay::Recovery;
use super::reserve::Reserve;
use super::{Store, reader, volume, writer};
use crate::config::{self, Config, Durability};
use crate::shard::Shared;
use crate::shard::clock::Reading;

/// Under this name the identity keeps what places client ids and topics.
const SEED: &str = "seed";
/// So much to read is announced before: it takes a moment.
const LONG_BYTES: u64 = 64 << 20;

/// A store that is open and not yet in use.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) directory: Directory,
    /// Locked as well, until the process ends.
    pub(super) identity: Arc<IdentityFile>,
    pub(super) log: Log<FileDisk>,
    pub(super) disk: FileDisk,
    pub(super) reserve: Arc<Reserve>,
    /// What its records were written with.
    pub(crate) seed: u64,
    /// What it has kept alone, and is to bring into a cluster.
    pub(super) keeps: Option<Keeps>,
    pub(super) options: Options,
    /// Its id among nodes.
    pub(super) node: u64,
    /// What the wall clock showed, in milliseconds, when the shell's stood at 0;
    /// now is never before the last record.
    pub(crate) epoch: Millis,
}

/// Opens what the config asks for; none: nothing is kept.
///
/// # Errors
/// With what is wrong and what to do.
pub(crate) fn open(config: &Config, random: u64) -> anyhow::Result<Option<Opened>> {
    match config.store.durability {
        Durability::Memory => {
            let log = log_in(&config.data_dir);
            if log.exists() {
                warn!(
                    log = %log.display(),
                    "store.durability is \"memory\": what was kept before is not looked at"
                );
            }
            return Ok(None);
        }
        Durability::Fsync | Durability::Os => {}
    }
    let directory = Directory::open(&config.data_dir).context("node.data_dir")?;
    let path = directory.log();
    let disk = FileDisk::open(&path).with_context(|| format!("{}", path.display()))?;
    let space = disk.space().with_context(|| format!("{}", path.display()))?;
    let reserve = Arc::new(Reserve::new(directory.reserve(), space));
    let (identity, who) = match identify(&directory) {
        // A start writes little, but it writes.
        Err(error) if error.is_full() && reserve.give() => identify(&directory),
        done => done,
    }
    .with_context(|| format!("{}", directory.identity().display()))?;
    let form = Form::read(&identity)?;
    if form != Form::Alone && config.cluster.is_none() {
        anyhow::bail!(
            "{} is that of a node of a cluster, and there is no cluster.name; set it, or begin \
             with an empty node.data_dir",
            config.data_dir.display()
        );
    }
    let seed = match identity.value(SEED)? {
        Some(bytes) => {
            let bytes = <[u8; 8]>::try_from(bytes).ok();
            u64::from_le_bytes(bytes.context("the identity's seed is damaged")?)
        }
        None => {
            identity.set_value(SEED, Some(&random.to_le_bytes()))?;
            random
        }
    };
    // Both clocks at once: a start may take long from here on.
    let epoch = wall_millis().max(newest_change(&path)).saturating_sub(Reading::take().millis());
    let options = Options::new(who.store).segment_bytes(config.store.segment_bytes);
    let options = if who.log_created { options } else { options.create() };
    let begin_anew = |founder| {
        found::begin_anew(&disk, options.clone(), founder)
            .with_context(|| format!("{}", path.display()))
    };
    let (mut log, recovered) = match form {
        Form::Alone | Form::Groups => Log::open(disk.clone(), options.clone())
            .with_context(|| format!("{}", path.display()))?,
        // A start before this one has ended on the way.
        Form::Founding => begin_anew(Some(who.node))?,
        Form::Blank => begin_anew(None)?,
    };
    let founded = log.vote(0).is_some();
    let mut keeps = None;
    match (form, &config.cluster) {
        (Form::Alone, None) => {
            found::forget(&config.data_dir)?;
            if !founded {
                found(&mut log, who.node).with_context(|| format!("{}", path.display()))?;
            }
        }
        (Form::Alone, Some(_)) if founded => {
            let alone = found::Alone { config, log: &log, seed, epoch, node: who.node };
            let kept = alone.prepare().with_context(|| format!("{}", config.data_dir.display()))?;
            if kept.is_nothing() {
                Form::Blank.write(&identity)?;
                drop(log);
                (log, _) = begin_anew(None)?;
                Form::Groups.write(&identity)?;
            } else {
                keeps = Some(kept);
            }
        }
        (Form::Groups, _) => {}
        (Form::Alone | Form::Founding | Form::Blank, _) => Form::Groups.write(&identity)?,
    }
    if !who.log_created {
        identity.set_log_created()?;
    }
    tell(&path, &who, &recovered);
    let (identity, node) = (Arc::new(identity), who.node);
    Ok(Some(Opened {
        directory,
        identity,
        log,
        disk,
        reserve,
        seed,
        keeps,
        options: Options { create: false, ..options },
        node,
        epoch,
    }))
}

/// Who this node is, with one start more.
fn identify(directory: &Directory) -> Result<(IdentityFile, Identity), IdentityError> {
    let identity = IdentityFile::open(&directory.identity())?;
    let who = identity.begin_generation()?;
    Ok((identity, who))
}

/// The locks of a data directory, and the room that is set aside there.
#[derive(Debug)]
pub(crate) struct Held {
    reserve: Arc<Reserve>,
    _directory: Directory,
    _identity: Arc<IdentityFile>,
}

impl Held {
    /// The room that is set aside.
    pub(crate) fn reserve(&self) -> Arc<Reserve> {
        Arc::clone(&self.reserve)
    }
}

impl Opened {
    /// Who this node is; the cluster keeps its own notes there.
    pub(crate) fn identity(&self) -> Arc<IdentityFile> {
        Arc::clone(&self.identity)
    }

    /// The seed of what it has kept alone and is to bring into a cluster; none:
    /// there is nothing.
    pub(crate) fn keeps(&self) -> Option<u64> {
        self.keeps.map(|_| self.seed)
    }

    /// The cluster is founded, and its partitions are placed here: what was kept
    /// alone is theirs from now on, and its log is given up.
    ///
    /// # Errors
    /// The disk's, or the cluster is not this node's: then nothing has changed.
    pub(crate) fn enter(self, cluster_seed: u64) -> anyhow::Result<Opened> {
        let Some(keeps) = self.keeps else { return Ok(self) };
        anyhow::ensure!(
            cluster_seed == self.seed,
            "{}: what this node has kept alone is not placed by the seed of its cluster, so it \
             cannot go there; leave cluster.name out to go on alone with it",
            self.directory.path().display()
        );
        Form::Founding.write(&self.identity)?;
        let Opened { directory, identity, log, disk, reserve, seed, options, node, epoch, .. } =
            self;
        drop(log);
        let path = directory.log();
        let (log, _) = found::begin_anew(&disk, options.clone(), Some(node))
            .with_context(|| format!("{}", path.display()))?;
        Form::Groups.write(&identity)?;
        let Keeps { sessions, messages, retained, .. } = keeps;
        info!(sessions, messages, retained, "what this node has kept alone is the cluster's");
        let keeps = None;
        Ok(Opened { directory, identity, log, disk, reserve, seed, keeps, options, node, epoch })
    }

    /// What each shard reads back.
    pub(crate) fn recovery(&self) -> Recovery {
        Recovery::new(&self.log)
    }

    /// The same for a node of a cluster, whose Raft groups work the log: the log,
    /// and what has to be held as long as it is used.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start_in_cluster(
        self,
        shared: &Arc<Shared>,
        store: &Arc<Store>,
        config: &config::Store,
    ) -> io::Result<(Log<FileDisk>, Held)> {
        let (disk, watched) = (self.disk.clone(), Arc::clone(&self.reserve));
        volume::watch(disk, watched, config, Arc::clone(shared), Arc::clone(store))?;
        let Opened { directory, identity, log, reserve, .. } = self;
        Ok((log, Held { reserve, _directory: directory, _identity: identity }))
    }

    /// Hands it to the threads that work it.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(
        self,
        shared: &Arc<Shared>,
        store: &Arc<Store>,
        config: &config::Store,
    ) -> io::Result<()> {
        let (disk, reserve) = (self.disk.clone(), Arc::clone(&self.reserve));
        volume::watch(disk, reserve, config, Arc::clone(shared), Arc::clone(store))?;
        let read = reader::of_log(self.log.reader());
        reader::start(Arc::clone(shared), Arc::clone(store), read)?;
        let (window, segment_bytes) = (config.group_window, config.segment_bytes);
        writer::start(self, Arc::clone(shared), Arc::clone(store), window, segment_bytes)?;
        Ok(())
    }
}

/// Begins each partition as its only voter would, so that the node can become
/// one of a cluster.
fn found(log: &mut Log<FileDisk>, node: u64) -> Result<(), AppendError> {
    let mut batch = Batch::new();
    (0..PARTITIONS).for_each(|partition| push_sole_voter(&mut batch, partition, node));
    log.append(&[&batch])?;
    log.sync()?;
    Ok(())
}

fn tell(path: &Path, who: &Identity, recovered: &Recovered) {
    let Recovered { first, end, cut, created } = recovered;
    let path = path.display();
    let bytes = end.0 - first.0;
    debug!(%path, node_id = who.node, generation = who.generation, bytes, created, "store opened");
    if bytes >= LONG_BYTES {
        info!(%path, bytes, "reading back what was kept");
    }
    if let Some(cut) = cut {
        // Nothing of it was acknowledged.
        warn!(
            position = %cut.at,
            bytes = cut.bytes,
            found = %cut.what,
            "what had not become durable before the last end was cut off"
        );
    }
}

fn wall_millis() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as Millis)
}

/// When the wall clock was read last for the log: a clock that was set back
/// since (or a machine without one) must not make records older than they are.
fn newest_change(log: &Path) -> Millis {
    let Ok(entries) = std::fs::read_dir(log) else { return 0 };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter_map(changed).max().unwrap_or(0)
}

fn changed(path: PathBuf) -> Option<Millis> {
    let changed = path.metadata().ok()?.modified().ok()?;
    Some(changed.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis() as Millis)
}
