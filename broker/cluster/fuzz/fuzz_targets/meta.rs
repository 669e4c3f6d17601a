//! Arbitrary bytes as entries and snapshots of the cluster's metadata: never a
//! panic, one form for what is taken, and a state that applies more and comes
//! back from its snapshot the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_cluster::lanes::Arrivals;
use tidegate_cluster::meta::{Entry, Meta};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(arrivals) = Arrivals::restore(bytes) {
        assert_eq!(arrivals.snapshot(), bytes);
    }
    if let Ok(meta) = Meta::restore(bytes) {
        assert_eq!(meta.snapshot(), bytes);
        let _ = (meta.warnings(), meta.forgettable(u64::MAX), meta.level_possible());
        return;
    }
    // A log: each entry behind its length.
    let (mut meta, mut rest) = (Meta::new(), bytes);
    let mut index = 0;
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let Some((entry, more)) = more.split_at_checked(usize::from(u16::from_le_bytes(*len)))
        else {
            return;
        };
        rest = more;
        let Ok(decoded) = Entry::decode(entry) else { continue };
        assert_eq!(decoded.encode(), entry);
        index += 1;
        let _ = meta.apply(index, &decoded);
        let restored = Meta::restore(&meta.snapshot()).expect("our own bytes");
        assert_eq!(restored, meta);
    }
});
