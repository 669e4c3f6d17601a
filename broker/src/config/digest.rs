//! A hash of the settings in effect.

use super::file::File;
use super::reference::effective;
use super::resolve::Config;

/// In these the nodes of one cluster differ.
const OF_ONE_NODE: [(&str, &str); 2] = [("[node]", "name = "), ("[cluster]", "advertise = ")];

/// CRC32C of all settings in effect, said or derived, but for those of one node
/// (`node.name`, `cluster.advertise`) and what is secret: nodes that are set
/// alike have the same. `config` is what `file` means.
pub(super) fn digest(file: &File, config: &Config) -> u32 {
    let (mut hash, mut table) = (0, "");
    for line in effective(file, config).lines() {
        if line.starts_with('[') {
            table = line;
        }
        if !OF_ONE_NODE.iter().any(|(of, key)| table == *of && line.starts_with(key)) {
            hash = crc32c::crc32c_append(hash, line.as_bytes());
            hash = crc32c::crc32c_append(hash, b"\n");
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use crate::config::{Overlay, load};

    fn digest(text: &str) -> u32 {
        load(text, &Overlay::default()).expect("no faults").digest
    }

    #[test]
    fn nodes_that_are_set_alike_have_the_same_and_others_another() {
        let plain = digest("");
        // Said aloud, written otherwise, and of one node.
        assert_eq!(digest("[node]\nshards = 2"), digest("node = { shards = 2 } # two"));
        assert_eq!(digest("[node]\nname = 'one'"), plain);
        assert_eq!(digest("[node]\ndrain_seconds = 25"), plain);
        let of = |host: &str| {
            let listener = "[listener.a]\nbind = '0.0.0.0:1883'\nanonymous = true";
            digest(&format!(
                "[cluster]\nname = 'c'\nadvertise = '{host}:7947'\nsecret = 'a secret of 16 bytes'\n\
                 bootstrap = 'single'\n{listener}"
            ))
        };
        assert_eq!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("10.0.0.1"), plain);
        let set = [
            digest("[node]\nshards = 2"),
            digest("[node]\nshards = 3"),
            digest("[listener.tcp]\nbind = '127.0.0.1:1883'"),
            digest("[mqtt]\nkeep_alive_max_seconds = 3"),
            plain,
        ];
        for (at, one) in set.iter().enumerate() {
            assert!(!set[..at].contains(one), "{at}");
        }
    }
}
