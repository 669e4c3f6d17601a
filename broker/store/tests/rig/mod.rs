//! A log on a simulated disk, and what its owner remembers of it.
#![allow(dead_code, reason = "each test file uses a part")]

use tidegate_store::disk::Fault;
use tidegate_store::{
    AppendError, Batch, Kind, Log, ManifestError, OpenError, Options, PartitionPoint, Position,
    Recovered, RemoveError, SimDisk,
};

pub(crate) const STORE: u128 = 0x5eed;

pub(crate) fn options() -> Options {
    Options::new(STORE).create().segment_bytes(4096)
}

pub(crate) fn open(disk: &SimDisk) -> Result<(Log<SimDisk>, Recovered), OpenError> {
    Log::open(disk.clone(), options())
}

/// One batch with an entry for each body.
pub(crate) fn batch(bodies: &[&[u8]]) -> Batch {
    let mut batch = Batch::new();
    for body in bodies {
        batch.push(Kind::Entry, 0, 1, 1, 7, |out| out.extend_from_slice(body));
    }
    batch
}

/// The entries' bodies from the log's beginning on.
pub(crate) fn bodies(log: &Log<SimDisk>) -> Vec<Vec<u8>> {
    records(log, log.first()).into_iter().map(|(_, body)| body).collect()
}

pub(crate) fn records(log: &Log<SimDisk>, from: Position) -> Vec<(Position, Vec<u8>)> {
    let mut scan = log.scan(from).expect("in the log");
    let mut found = Vec::new();
    while let Some((at, record)) = scan.next_record().expect("undamaged") {
        if record.kind == Kind::Entry {
            found.push((at, record.body.to_vec()));
        }
    }
    found
}

/// A generator for the tests' choices: splitmix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// What a crash may not take, and what it may.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// Every entry that was handed to the log since it was last opened or
    /// found, by position.
    pub(crate) appended: Vec<(Position, Vec<u8>)>,
    /// The position that the log last called durable.
    pub(crate) durable: Position,
    /// Votes in the order they were written, with the positions after them.
    pub(crate) votes: Vec<(Position, u64)>,
    /// The log may begin here or anywhere before.
    pub(crate) removable: Position,
    /// The manifest's owner bytes, as last known to be durable, and as tried.
    pub(crate) owner: Vec<Vec<u8>>,
    pub(crate) serial: u64,
}

/// Why a run ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By the disk's fault, as planted.
    Fault,
    /// All steps were made.
    Done,
}

impl Ledger {
    /// Does something random to the log, as often as said or up to a fault.
    pub(crate) fn work(&mut self, log: &mut Log<SimDisk>, dice: &mut Dice, steps: u64) -> Ended {
        for _ in 0..steps {
            if self.step(log, dice).is_err() {
                return Ended::Fault;
            }
        }
        Ended::Done
    }

    fn step(&mut self, log: &mut Log<SimDisk>, dice: &mut Dice) -> Result<(), ()> {
        match dice.roll(20) {
            0..12 => self.append(log, dice),
            12..17 => {
                self.durable = log.sync().map_err(drop)?;
                Ok(())
            }
            17 => {
                self.durable = log.prove().map_err(drop)?;
                Ok(())
            }
            18 => self.manifest(log),
            _ => {
                let segments = log.segments();
                let at = segments[dice.roll(segments.len() as u64) as usize].base;
                // What is tried may have happened.
                let manifest = log.manifest();
                let none = manifest.partitions.is_empty();
                let limit = if none { at } else { at.min(manifest.replay_from()) };
                self.removable = self.removable.max(limit);
                match log.remove_before(at) {
                    Ok(_) => Ok(()),
                    Err(RemoveError::Full | RemoveError::Fatal(_)) => Err(()),
                }
            }
        }
    }

    fn append(&mut self, log: &mut Log<SimDisk>, dice: &mut Dice) -> Result<(), ()> {
        let mut batches = Vec::new();
        let mut placed = Vec::new();
        for i in 0..=dice.roll(3) as usize {
            let mut batch = Batch::new();
            for _ in 0..dice.roll(4) {
                self.serial += 1;
                let mut body = self.serial.to_le_bytes().to_vec();
                body.resize(8 + dice.roll(300) as usize, self.serial as u8);
                let at = batch.push(Kind::Entry, 0, 1, 1, self.serial, |out| {
                    out.extend_from_slice(&body);
                });
                placed.push((i, at, body));
            }
            if dice.roll(8) == 0 {
                self.serial += 1;
                batch.push(Kind::Vote, 0, 1, self.serial, 0, |out| out.push(9));
            }
            batches.push(batch);
        }
        let votes: u64 = batches.iter().map(|batch| u64::from(batch.records())).sum();
        let refs: Vec<&Batch> = batches.iter().collect();
        match log.append(&refs) {
            Ok(appended) => {
                for (i, at, body) in placed {
                    self.appended.push((appended.bases[i].after(at.into()), body));
                }
                if votes > 0
                    && let Some(vote) = log.vote(1)
                {
                    self.votes.push((appended.end, vote.term));
                }
                // A roll syncs.
                self.durable = log.durable();
                Ok(())
            }
            Err(AppendError::Full { .. } | AppendError::Fatal(_)) => Err(()),
            Err(AppendError::TooLarge { .. }) => panic!("these are small"),
        }
    }

    fn manifest(&mut self, log: &mut Log<SimDisk>) -> Result<(), ()> {
        self.serial += 1;
        let owner = self.serial.to_le_bytes().to_vec();
        self.owner.push(owner.clone());
        let durable_at = self.appended.iter().rev().find(|(at, _)| *at < self.durable);
        let snapshot = durable_at.map_or(log.first(), |(at, _)| (*at).max(log.first()));
        let point = PartitionPoint { partition: 1, snapshot, compacted: 1 };
        match log.set_manifest(vec![point], owner.clone()) {
            Ok(()) => {
                self.owner = vec![owner];
                Ok(())
            }
            Err(ManifestError::Full | ManifestError::Fatal(_)) => Err(()),
            Err(error) => panic!("{error}"),
        }
    }

    /// What every recovery has to fulfil; then the log is what is remembered.
    pub(crate) fn check(&mut self, log: &Log<SimDisk>) -> Result<(), String> {
        let found = records(log, log.first());
        if log.first() > self.removable {
            return Err(format!("begins at {}, kept from {}", log.first(), self.removable));
        }
        if log.end() < self.durable {
            return Err(format!("ends at {}, durable was {}", log.end(), self.durable));
        }
        let expected: Vec<_> = self
            .appended
            .iter()
            .filter(|(at, _)| *at >= log.first() && *at < log.end())
            .cloned()
            .collect();
        // An append that the fault cut short may be there in whole.
        if found.len() < expected.len() || found[..expected.len()] != expected[..] {
            return Err(format!("{} records, expected {}", found.len(), expected.len()));
        }
        let durable_vote = self.votes.iter().rev().find(|(end, _)| *end <= self.durable);
        let vote = log.vote(1).map(|vote| vote.term);
        if vote < durable_vote.map(|(_, term)| *term) {
            return Err(format!("vote {vote:?}, durable was {durable_vote:?}"));
        }
        if !self.owner.is_empty() && !self.owner.contains(&log.manifest().owner) {
            return Err(format!("manifest {:?} of {:?}", log.manifest().owner, self.owner));
        }
        self.appended = found;
        self.durable = log.durable();
        self.votes = vote.map(|term| (log.durable(), term)).into_iter().collect();
        self.owner = vec![log.manifest().owner.clone()];
        self.removable = log.first();
        Ok(())
    }
}

/// Works on a disk whose power is cut again and again, checking each recovery.
pub(crate) fn survive(seed: u64, crashes: u64, prepare: impl Fn(&SimDisk)) -> Result<(), String> {
    let disk = SimDisk::new(seed);
    prepare(&disk);
    let mut dice = Dice(seed);
    // An owner that was never told of a manifest accepts the empty one.
    let mut ledger = Ledger { owner: vec![Vec::new()], ..Ledger::default() };
    for crash in 0..crashes {
        disk.plant(1 + dice.roll(60), Fault::PowerCut);
        match open(&disk) {
            Ok((mut log, _)) => {
                ledger.check(&log).map_err(|error| format!("crash {crash}: {error}"))?;
                while let Ended::Done = ledger.work(&mut log, &mut dice, 100) {}
            }
            // The power may go while the log is opened.
            Err(OpenError::Io { .. }) => {}
            Err(error) => return Err(format!("crash {crash}: {error}")),
        }
        disk.crash();
    }
    Ok(())
}
