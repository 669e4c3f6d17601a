//! The node's identity outlives the process and is made only once.

use tidegate_store::{IdentityError, IdentityFile, Peer};

struct Dir(std::path::PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn dir(name: &str) -> Dir {
    let path = std::env::temp_dir().join(format!("tidegate-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("room");
    Dir(path)
}

#[test]
fn ids_are_made_once_and_the_generation_counts_starts() {
    let dir = dir("identity");
    let path = dir.0.join("identity.redb");
    let file = IdentityFile::open(&path).expect("made");
    let first = file.begin_generation().expect("works");
    assert!(first.node != 0 && first.store != 0);
    assert_eq!((first.generation, first.cluster, first.log_created), (1, None, false));
    file.set_log_created().expect("works");
    drop(file);

    let file = IdentityFile::open(&path).expect("there");
    let second = file.begin_generation().expect("works");
    assert_eq!((second.node, second.store), (first.node, first.store));
    assert_eq!((second.generation, second.log_created), (2, true));

    let other = IdentityFile::open(&dir.0.join("other.redb")).expect("made");
    let other = other.identity().expect("works");
    assert!(other.node != first.node && other.store != first.store);
}

#[test]
fn a_second_opener_is_refused() {
    let dir = dir("identity-twice");
    let path = dir.0.join("identity.redb");
    let _file = IdentityFile::open(&path).expect("made");
    assert!(matches!(IdentityFile::open(&path), Err(IdentityError::InUse)));
}

#[test]
fn a_node_stays_in_its_cluster() {
    let dir = dir("identity-cluster");
    let file = IdentityFile::open(&dir.0.join("identity.redb")).expect("made");
    file.set_cluster(7).expect("the first");
    file.set_cluster(7).expect("the same");
    let other = file.set_cluster(8);
    assert!(matches!(other, Err(IdentityError::OtherCluster { is: 7, wanted: 8 })));
    assert_eq!(file.identity().expect("works").cluster, Some(7));
}

#[test]
fn peers_are_replaced_and_values_kept() {
    let dir = dir("identity-peers");
    let file = IdentityFile::open(&dir.0.join("identity.redb")).expect("made");
    let peer = |node, address: &str| Peer { node, address: address.into() };
    file.set_peers(&[peer(2, "b:7000"), peer(1, "a:7000")]).expect("works");
    file.set_peers(&[peer(3, "c:7000"), peer(1, "a:7001")]).expect("works");
    assert_eq!(file.peers().expect("works"), [peer(1, "a:7001"), peer(3, "c:7000")]);
    let many: Vec<_> = (0..1025).map(|node| peer(node, "x")).collect();
    assert!(matches!(file.set_peers(&many), Err(IdentityError::TooManyPeers(1025))));

    assert_eq!(file.value("admin").expect("works"), None);
    file.set_value("admin", Some(b"x")).expect("works");
    assert_eq!(file.value("admin").expect("works"), Some(b"x".to_vec()));
    file.set_value("admin", None).expect("works");
    assert_eq!(file.value("admin").expect("works"), None);
}
