//! A log whose newest segment was changed anyhow is refused or cut, never
//! accepted with other records than were written, and never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_store::segment::SEGMENT_HEADER_BYTES;
use tidegate_store::{Batch, Kind, Log, Options, SimDisk};

const NAME: &str = "0000000000000000.seg";

fn written() -> (Vec<u8>, Vec<Vec<u8>>, usize) {
    let disk = SimDisk::new(1);
    let (mut log, _) = Log::open(disk.clone(), Options::new(1).create()).expect("new");
    let mut bodies = Vec::new();
    let mut proven = 0;
    for i in 0..6u8 {
        let mut batch = Batch::new();
        for j in 0..3u8 {
            let body = vec![i * 16 + j; usize::from(i) * 5 + 3];
            batch.push(Kind::Entry, 0, 1, 1, 1, |out| out.extend_from_slice(&body));
            bodies.push(body);
        }
        proven = log.durable().0 as usize;
        log.append(&[&batch]).expect("room");
        log.sync().expect("works");
    }
    (disk.content(NAME).expect("there"), bodies, proven + SEGMENT_HEADER_BYTES)
}

// The input is a list of changes: offset u16, what u8, value u8.
fuzz_target!(|changes: &[u8]| {
    let (content, bodies, proven) = written();
    let mut bytes = content.clone();
    for change in changes.chunks_exact(4).take(64) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (bytes.len() + 1);
        match change[2] % 4 {
            0 if at < bytes.len() => bytes[at] = change[3],
            1 => bytes.truncate(at),
            2 => bytes.insert(at, change[3]),
            _ => bytes.extend_from_slice(&content[at.min(content.len())..]),
        }
    }
    let disk = SimDisk::new(1);
    disk.put(NAME, &bytes);
    let Ok((log, _)) = Log::open(disk, Options::new(1)) else { return };
    let mut scan = log.scan(log.first()).expect("there");
    let mut found = Vec::new();
    while let Some((_, record)) = scan.next_record().expect("recovery checked it") {
        found.push(record.body.to_vec());
    }
    assert_eq!(found, bodies[..found.len()]);
    // Whatever was proven and is still proven is there.
    if bytes.len() >= content.len() && bytes[proven..proven + 44] == content[proven..proven + 44] {
        assert!(log.end().0 as usize + SEGMENT_HEADER_BYTES >= proven);
    }
});
