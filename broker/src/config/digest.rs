//! The settings in effect, one by one, and a hash of them.

use super::file::{
    AdminTable, AuthTable, ClusterTable, EbpfTable, File, LimitsTable, ListenerTable, LogTable,
    MqttTable, NodeTable, StoreTable,
};
use super::key::Fallback;

/// In these the nodes of one cluster differ.
const OF_ONE_NODE: [&str; 2] = ["node.name", "cluster.advertise"];

/// The keys of a table with their values in effect.
pub(super) type Keys = Vec<(&'static str, Fallback)>;

/// All tables by their names, in the order of the reference.
pub(super) fn tables(file: &File) -> Vec<(String, Keys)> {
    // Named one by one, so that a table more does not compile without its line.
    let File { node, mqtt, limits, store, cluster, auth, admin, log, ebpf, listeners } = file;
    let mut all = vec![("node".to_owned(), NodeTable::effective(node))];
    for (name, listener) in listeners {
        all.push((format!("listener.{name}"), ListenerTable::effective(listener)));
    }
    let rest = [
        ("mqtt", MqttTable::effective(mqtt)),
        ("limits", LimitsTable::effective(limits)),
        ("store", StoreTable::effective(store)),
        ("cluster", ClusterTable::effective(cluster)),
        ("auth", AuthTable::effective(auth)),
        ("admin", AdminTable::effective(admin)),
        ("log", LogTable::effective(log)),
        ("ebpf", EbpfTable::effective(ebpf)),
    ];
    all.extend(rest.map(|(name, keys)| (name.to_owned(), keys)));
    all
}

/// CRC32C of all settings in effect, but for those of one node (`node.name`,
/// `cluster.advertise`) and what is secret: nodes that are set alike have the
/// same.
pub(super) fn digest(file: &File) -> u32 {
    let mut hash = 0;
    for (table, keys) in tables(file) {
        for (key, value) in keys {
            let path = format!("{table}.{key}");
            if !OF_ONE_NODE.contains(&path.as_str()) {
                let line = format!("{path} = {}\n", value.shown());
                hash = crc32c::crc32c_append(hash, line.as_bytes());
            }
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
