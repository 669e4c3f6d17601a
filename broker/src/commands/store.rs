//! `tidegate store …`: what lies in a data directory whose node is down.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tidegate_store::segment::{SEGMENT_HEADER_BYTES, file_name};
use tidegate_store::{
    FileDisk, Identity, IdentityFile, Kind, Log, Position, ReadError, Reader, SegmentInfo,
};

use crate::store::directory::{Directory, identity_in, log_in};

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Content {
    groups_from: u64,
    end: u64,
    entries: u64,
    entry_bytes: u64,
    states: u64,
    state_bytes: u64,
    others: u64,
    partitions: usize,
    checkpoint: Option<u64>,
    tail: Option<String>,
    segments: Vec<SegmentInfo>,
}

/// Reads every record of a log and checks its checksum. Changes nothing.
///
/// # Errors
/// With what is damaged, and where.
pub(super) fn read_log(path: &Path, store: u128) -> anyhow::Result<Content> {
    ensure!(path.is_dir(), "{}: there is no log", path.display());
    let named = || path.display().to_string();
    let disk = FileDisk::open(path).with_context(named)?;
    let found = Log::inspect(disk, store).with_context(named)?;
    let points = &found.manifest.partitions;
    let mut content = Content {
        groups_from: found.recovered.first.0,
        end: found.recovered.end.0,
        checkpoint: points.iter().map(|point| point.snapshot.0).min(),
        tail: found.recovered.cut.map(|cut| {
            format!("{} bytes at {} that were never durable: {}", cut.bytes, cut.at, cut.what)
        }),
        segments: found.segments,
        ..Content::default()
    };
    let bases: Vec<u64> = content.segments.iter().map(|segment| segment.base.0).collect();
    count(&found.reader, found.recovered.first, &mut content).map_err(|error| {
        let place = place_of(&error, &bases);
        anyhow::anyhow!("{}, {place}{error}", path.display())
    })?;
    Ok(content)
}

fn count(
    reader: &Reader<FileDisk>,
    from: Position,
    content: &mut Content,
) -> Result<(), ReadError> {
    let mut seen = [false; 1 << 16];
    let mut scan = reader.scan(from)?;
    while let Some((_, record)) = scan.next_record()? {
        let bytes = record.body.len() as u64;
        match record.kind {
            Kind::Entry => {
                content.entries += 1;
                content.entry_bytes += bytes;
                seen[usize::from(record.partition)] = true;
            }
            Kind::Snapshot => {
                content.states += 1;
                content.state_bytes += bytes;
            }
            Kind::Vote
            | Kind::Truncate
            | Kind::Compacted
            | Kind::Membership
            | Kind::Blank
            | Kind::Committed => content.others += 1,
        }
    }
    content.partitions = seen.iter().filter(|seen| **seen).count();
    Ok(())
}

fn place_of(error: &ReadError, bases: &[u64]) -> String {
    match error {
        ReadError::Absent { at } | ReadError::Record { at, .. } | ReadError::Damage { at, .. } => {
            let base = bases.iter().rev().find(|base| **base <= at.0).copied().unwrap_or(0);
            let offset = at.0 - base + SEGMENT_HEADER_BYTES as u64;
            format!("{}, offset {offset}: ", file_name(base))
        }
        ReadError::Io(_) => String::new(),
    }
}

/// The directory, ours alone, and who its node is.
fn open(data_dir: &Path) -> anyhow::Result<(Directory, Identity)> {
    let path = identity_in(data_dir);
    if !path.is_file() {
        bail!("{}: no node has kept anything here", data_dir.display());
    }
    let directory = Directory::lock(data_dir)?;
    let identity = IdentityFile::open(&path).with_context(|| path.display().to_string())?;
    let who = identity.identity().with_context(|| path.display().to_string())?;
    Ok((directory, who))
}

/// Checks all that a data directory holds.
///
/// # Errors
/// With what is damaged, or that a node uses it.
pub fn check(data_dir: &Path) -> anyhow::Result<String> {
    let (_directory, who) = open(data_dir)?;
    let content = read_log(&log_in(data_dir), who.store)?;
    Ok(format!("ok\n\n{}", text(&who, &content)))
}

/// Tells what a data directory holds.
///
/// # Errors
/// As [`check`].
pub fn show(data_dir: &Path, json: bool) -> anyhow::Result<String> {
    let (_directory, who) = open(data_dir)?;
    let content = read_log(&log_in(data_dir), who.store)?;
    if !json {
        return Ok(text(&who, &content));
    }
    let segments = content.segments.iter().map(|segment| {
        let (file, base) = (file_name(segment.base.0), segment.base.0);
        json!({ "file": file, "base": base, "bytes": segment.bytes() })
    });
    let value = json!({
        "node_id": who.node,
        "store_id": format!("{:032x}", who.store),
        "generation": who.generation,
        "first": content.groups_from,
        "end": content.end,
        "checkpoint": content.checkpoint,
        "entries": content.entries,
        "entry_bytes": content.entry_bytes,
        "state_pieces": content.states,
        "state_bytes": content.state_bytes,
        "partitions_with_entries": content.partitions,
        "tail": content.tail,
        "segments": segments.collect::<Vec<_>>(),
    });
    Ok(format!("{value:#}\n"))
}

fn text(who: &Identity, content: &Content) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<12} {value}");
    };
    line("node", format!("{} (start {})", who.node, who.generation));
    line("store", format!("{:032x}", who.store));
    line("log", format!("{} bytes", content.end - content.groups_from));
    line("segments", content.segments.len().to_string());
    let (records, bytes) = (content.entries, content.entry_bytes);
    line("records", format!("{records} of {} partitions, {bytes} bytes", content.partitions));
    line("states", format!("{} pieces, {} bytes", content.states, content.state_bytes));
    let checkpoint = content.checkpoint.map_or_else(
        || "none: a start reads everything".to_owned(),
        |from| format!("a start reads {} bytes", content.end.saturating_sub(from)),
    );
    line("checkpoint", checkpoint);
    if let Some(tail) = &content.tail {
        line("tail", format!("{tail}; the next start cuts it off"));
    }
    out
}
