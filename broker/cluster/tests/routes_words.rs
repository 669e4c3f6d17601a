//! The bytes that nodes say to each other about routes, as release 1 writes them.
//!
//! Nodes of two releases speak with each other: a test that goes red here means
//! that they would not understand each other. Make a new version.

use tidegate_cluster::DecodeError;
use tidegate_cluster::ids::{Incarnation, Life, NodeId, PartitionId};
use tidegate_cluster::routes::{Batch, Change, Exchange, Follower, Word};

fn words() -> Vec<Word> {
    let partition = PartitionId(3);
    let changes = vec![
        Change::NodeAdd("a/+".into()),
        Change::NodeRemove("$share/g/b".into()),
        Change::Begin { partition, index: 9 },
        Change::Add { partition, index: 9, filter: "#".into() },
        Change::Remove { partition, index: 9, filter: "c/#".into() },
        Change::Complete { partition, index: 9 },
    ];
    let snapshot = |first, last| Batch::Snapshot { first, last, changes: changes.clone() };
    vec![
        Word::Attach { have: None },
        Word::Attach { have: Some(7) },
        Word::Batch(snapshot(true, None)),
        Word::Batch(snapshot(false, Some(12))),
        Word::Batch(Batch::Increments { first: 13, changes: changes.clone() }),
        Word::Ack(18),
        Word::Ping(4),
        Word::Pong { request: 4, newest: 18 },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim().as_bytes().chunks(2);
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).expect("hex"), 16);
    digits.map(|two| byte(two).expect("hex")).collect()
}

/// SplitMix64.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn every_word_has_the_bytes_of_release_1_and_is_read_back() {
    let golden: Vec<_> = include_str!("golden/words.hex").lines().collect();
    let written: Vec<_> = words().iter().map(|word| hex(&word.encode())).collect();
    assert_eq!(written, golden, "\n{}\n", written.join("\n"));
    for (line, word) in golden.iter().zip(words()) {
        assert_eq!(Word::decode(&unhex(line)), Ok(word));
    }
}

#[test]
fn a_word_that_is_cut_off_too_long_or_of_another_version_is_refused() {
    for word in words() {
        let mut bytes = word.encode();
        for len in 0..bytes.len() {
            assert!(Word::decode(&bytes[..len]).is_err(), "{word:?} cut off at {len}");
        }
        bytes.push(0);
        assert_eq!(Word::decode(&bytes), Err(DecodeError::Left(1)));
        bytes[0] = 2;
        assert_eq!(Word::decode(&bytes), Err(DecodeError::Version(2)));
    }
    let many = [&[1u8, 3][..], &[0; 8], &1_100u16.to_le_bytes(), &[0; 9_000]].concat();
    let limit = DecodeError::TooMany { what: "changes", got: 1_100, max: 1_026 };
    assert_eq!(Word::decode(&many), Err(limit));
    for text in ["", "a#", "#/a", "a/+b", "a\0"] {
        let changes = vec![Change::NodeAdd(text.into())];
        let word = Word::Batch(Batch::Increments { first: 1, changes });
        assert!(Word::decode(&word.encode()).is_err(), "{text:?} is no filter");
    }
    let changes = vec![Change::Begin { partition: PartitionId(256), index: 1 }];
    let word = Word::Batch(Batch::Increments { first: 1, changes });
    assert!(Word::decode(&word.encode()).is_err(), "there is no such partition");
}

#[test]
fn whatever_bytes_come_nothing_panics_and_what_is_read_is_written_alike() {
    let mut seed = 1;
    let samples: Vec<_> = words().iter().map(Word::encode).collect();
    let life = Life { node: NodeId(1), incarnation: Incarnation(1) };
    let mut exchange = Exchange::new(1, 64);
    exchange.up(life, 1);
    let mut follower = Follower::default();
    let mut good = 0;
    for _ in 0..60_000 {
        let mut bytes = samples[random(&mut seed) as usize % samples.len()].clone();
        for _ in 0..random(&mut seed) % 4 {
            let at = random(&mut seed) as usize % bytes.len();
            bytes[at] = random(&mut seed) as u8;
        }
        if random(&mut seed).is_multiple_of(4) {
            bytes.truncate(random(&mut seed) as usize % (bytes.len() + 1));
        }
        if let Ok(word) = Word::decode(&bytes) {
            good += 1;
            assert_eq!(word.encode(), bytes);
            if let Word::Batch(batch) = &word {
                follower.take(life, batch);
            }
        }
        // An error closes the link, and no more.
        let _closes = exchange.read(life, &bytes, 0);
        while exchange.write(life, 0).is_some() {}
        while exchange.next_call().is_some() {}
    }
    assert!(good > 10_000, "only {good} were words");
}
