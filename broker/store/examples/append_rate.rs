//! How fast the log is on this machine's disk: durable appends a second at
//! several sizes of a commit, what they cost the device, and how fast small
//! records are read back.
//!
//! ```console
//! $ cargo run --release -p tidegate-store --example append_rate -- DIR [SECONDS] [RECORDS]
//! ```
//!
//! DIR is made, and has to be on the disk in question. The device's bytes are
//! those of `/proc/self/io`, which counts whole pages as they are handed to it.
#![allow(clippy::print_stdout, reason = "a program that prints figures")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures time")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate_store::{Batch, FileDisk, Kind, Log, Options, Position};

const BODY: [u8; 200] = [0x5a; 200];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: append_rate DIR [SECONDS] [RECORDS]")?);
    let seconds = args.next().map_or(Ok(3), |text| text.parse())?;
    let records = args.next().map_or(Ok(10_000_000), |text| text.parse())?;
    std::fs::create_dir_all(&dir)?;
    println!("commit   appends/s   commits/s   sync p50   sync p99   log/payload   device/payload");
    for commit in [1, 16, 128, 1024] {
        append(&dir.join(format!("commit-{commit}")), commit, Duration::from_secs(seconds))?;
    }
    recover(&dir.join("recovery"), records)
}

fn open(dir: &Path) -> Result<Log<FileDisk>, Box<dyn Error>> {
    Ok(Log::open(FileDisk::open(dir)?, Options::new(1).create())?.0)
}

fn append(dir: &Path, commit: u32, time: Duration) -> Result<(), Box<dyn Error>> {
    let _ = std::fs::remove_dir_all(dir);
    let mut log = open(dir)?;
    let mut batch = Batch::new();
    let (before, begun) = (device_bytes()?, Instant::now());
    let (mut index, mut syncs) = (0, Vec::new());
    while begun.elapsed() < time {
        batch.clear();
        for _ in 0..commit {
            batch.push(Kind::Entry, 0, 1, 1, index, |out| out.extend_from_slice(&BODY));
            index += 1;
        }
        log.append(&[&batch])?;
        let sync = Instant::now();
        log.sync()?;
        syncs.push(sync.elapsed());
    }
    let took = begun.elapsed().as_secs_f64();
    let payload = (index * BODY.len() as u64) as f64;
    syncs.sort_unstable();
    println!(
        "{commit:>6}   {:>9.0}   {:>9.0}   {:>5} us   {:>5} us   {:>11.3}   {:>14.3}",
        index as f64 / took,
        syncs.len() as f64 / took,
        syncs[syncs.len() / 2].as_micros(),
        syncs[syncs.len() * 99 / 100].as_micros(),
        log.counters().written_bytes as f64 / payload,
        (device_bytes()? - before) as f64 / payload,
    );
    drop(log);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

fn recover(dir: &Path, records: u64) -> Result<(), Box<dyn Error>> {
    let _ = std::fs::remove_dir_all(dir);
    let mut log = open(dir)?;
    let mut batch = Batch::new();
    for index in 0..records {
        batch.push(Kind::Entry, 0, (index % 64) as u16, 1, index, |out| {
            out.extend_from_slice(&BODY[..100]);
        });
        if batch.records() == 1000 || index + 1 == records {
            log.append(&[&batch])?;
            batch.clear();
        }
    }
    log.sync()?;
    let bytes = log.end().0;
    drop(log);
    println!("\n{records} records with 100-byte bodies, {} MiB", bytes >> 20);
    for (cache, threads) in [("cold", 1), ("cold", 2), ("warm", 1), ("warm", 2)] {
        if cache == "cold" {
            drop_cache(dir)?;
        }
        let begun = Instant::now();
        let log = open(dir)?;
        let opened = begun.elapsed();
        let scans = log.scans(Position(0))?;
        let share = scans.len().div_ceil(threads);
        let mut shares: Vec<Vec<_>> = Vec::new();
        for (i, scan) in scans.into_iter().enumerate() {
            if i % share == 0 {
                shares.push(Vec::new());
            }
            shares.last_mut().expect("pushed above").push(scan);
        }
        let counted: u64 = std::thread::scope(|scope| {
            let count =
                |scans: Vec<_>| scope.spawn(move || scans.into_iter().map(count).sum::<u64>());
            let running: Vec<_> = shares.into_iter().map(count).collect();
            running.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(counted, records);
        let took = begun.elapsed().as_secs_f64();
        println!(
            "{cache} cache, {threads} threads: open {:>4} ms, all {took:.2} s, {:.1} M records/s, {:.0} MB/s",
            opened.as_millis(),
            records as f64 / took / 1e6,
            bytes as f64 / took / 1e6,
        );
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

/// Looks at every record, as a replay would.
fn count(mut scan: tidegate_store::Scan<<FileDisk as tidegate_store::Disk>::File>) -> u64 {
    let (mut count, mut sum) = (0, 0u64);
    while let Some((at, record)) = scan.next_record().expect("undamaged") {
        count += u64::from(record.kind == Kind::Entry);
        sum = sum.wrapping_add(at.0 ^ record.index ^ u64::from(record.body[0]));
    }
    assert_ne!(sum, 0);
    count
}

fn device_bytes() -> Result<u64, Box<dyn Error>> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("no write_bytes in /proc/self/io")?.parse()?)
}

/// Lets the kernel forget the files.
fn drop_cache(dir: &Path) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(dir)? {
        let file = std::fs::File::open(entry?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}
