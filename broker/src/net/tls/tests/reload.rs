//! New material for new handshakes, while old sessions go on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustls::ClientConnection;
use rustls::client::Resumption;

use super::super::{Alpn, Change, ClientAuth, Pace, TlsSession, TlsStore, Watch};
use super::pki::{Client, Identity, Link, Site};

/// Longer than any watch needs, and never waited for when all is well.
const PATIENCE: Duration = Duration::from_secs(20);

fn link(store: &TlsStore, client: &Client) -> Link {
    let session = TlsSession::new(store.current()).expect("a session");
    let mut link = Link::new(session, client.connect());
    link.shake().expect("a handshake");
    link
}

/// The certificate that a session's client was shown.
fn shown(link: &Link) -> Vec<u8> {
    link.client.peer_certificates().expect("it was verified")[0].to_vec()
}

#[test]
fn a_renewed_certificate_is_for_new_handshakes_alone() {
    let site = Site::new("renewed");
    let store = TlsStore::open(site.files.clone(), Alpn::Mqtt).expect("material");
    let mut old = link(&store, &site.client());
    assert_eq!(store.reload().expect("the same files"), Change::Same);

    let renewed = site.ca.server_until(&["broker.example"], 2098);
    site.folder.write("tls.crt", &renewed.certificate);
    site.folder.write("tls.key", &renewed.key);
    let before = store.expires();
    assert_eq!(store.reload().expect("new files"), Change::Changed);
    assert!(store.expires() < before);

    let new = link(&store, &site.client());
    assert_ne!(shown(&new), shown(&old));
    old.client_writes(b"still here");
    old.shake().expect("the old session goes on");
    assert_eq!(old.heard, b"still here");
    assert_eq!(old.tell(b"and we too"), b"and we too");
    assert_eq!((store.changes(), store.failures()), (1, 0));
}

#[test]
fn a_bad_file_leaves_all_as_it_was() {
    let site = Site::new("bad");
    let store = TlsStore::open(site.files.clone(), Alpn::Mqtt).expect("material");
    let before = shown(&link(&store, &site.client()));
    let good = fs::read_to_string(&site.files.key).expect("the key");

    site.folder.write("tls.key", &site.ca.server(&["other.example"]).key);
    store.reload().expect_err("a key of another certificate");
    let error = store.last_error().expect("a failure");
    assert!(error.starts_with("tls_key: ") && error.contains("does not belong to"));
    assert_eq!((store.changes(), store.failures()), (0, 1));
    assert_eq!(shown(&link(&store, &site.client())), before);

    site.folder.write("tls.key", &good);
    assert_eq!(store.reload().expect("the old key"), Change::Same);
    assert_eq!(store.last_error(), None);
}

#[test]
fn other_files_can_take_over() {
    let site = Site::new("other");
    let store = TlsStore::open(site.files.clone(), Alpn::Mqtt).expect("material");
    let own = site.ca.server(&["broker.example"]);
    let mut files = site.files.clone();
    files.certificate = site.folder.write("new.crt", &own.certificate);
    store.reload_from(files.clone()).expect_err("the key is the old one");
    assert_eq!(store.files(), site.files);
    files.key = site.folder.write("new.key", &own.key);
    assert_eq!(store.reload_from(files.clone()).expect("a pair"), Change::Changed);
    assert_eq!(store.files(), files);
}

/// Shakes hands with a client that keeps its tickets.
fn resumes(store: &TlsStore, config: &Arc<rustls::ClientConfig>) -> Result<bool, &'static str> {
    let session = TlsSession::new(store.current()).expect("a session");
    let name = "broker.example".try_into().expect("a name");
    let client = ClientConnection::new(config.clone(), name).expect("a client");
    let mut link = Link::new(session, client);
    link.shake().map_err(|error| error.label())?;
    assert_eq!(link.tell(b"x"), b"x");
    Ok(link.session.is_resumed())
}

#[test]
fn tickets_outlive_a_renewal_but_not_a_revocation() {
    let mut site = Site::new("tickets").asking(ClientAuth::Required);
    let mallory = site.ca.client("mallory", Vec::new());
    site.files.crl = Some(site.folder.write("crl.pem", &site.ca.revoking(&[], 2099)));
    let store = TlsStore::open(site.files.clone(), Alpn::Mqtt).expect("material");
    let mut client = site.client();
    client.identity = Some(mallory.clone());
    client.resumption = Some(Resumption::in_memory_sessions(8));
    let config = client.config();

    assert_eq!(resumes(&store, &config), Ok(false));
    assert_eq!(resumes(&store, &config), Ok(true));

    let renewed = site.ca.server(&["broker.example"]);
    site.folder.write("tls.crt", &renewed.certificate);
    site.folder.write("tls.key", &renewed.key);
    assert_eq!(store.reload().expect("a renewal"), Change::Changed);
    assert_eq!(resumes(&store, &config), Ok(true));

    site.folder.write("crl.pem", &site.ca.revoking(&[&mallory], 2099));
    assert_eq!(store.reload().expect("a new list"), Change::Changed);
    assert_eq!(resumes(&store, &config), Err("certificate_revoked"));
}

/// A Secret as the kubelet mounts it: the files are links through `..data`,
/// and an update is a new directory and one rename.
fn mount(root: &Path, stamp: &str, own: &Identity) {
    let data = root.join(stamp);
    fs::create_dir_all(&data).expect("a directory");
    fs::write(data.join("tls.crt"), &own.certificate).expect("a file");
    fs::write(data.join("tls.key"), &own.key).expect("a file");
    let old = fs::read_link(root.join("..data")).ok();
    symlink(stamp, root.join("..data_tmp")).expect("a link");
    fs::rename(root.join("..data_tmp"), root.join("..data")).expect("the swap");
    match old {
        Some(old) => fs::remove_dir_all(root.join(old)).expect("the old directory goes"),
        None => {
            for file in ["tls.crt", "tls.key"] {
                symlink(Path::new("..data").join(file), root.join(file)).expect("a link");
            }
        }
    }
}

/// A watch that reloads a store and tells of each change.
fn watched(store: &Arc<TlsStore>, pace: Pace) -> (Watch, Receiver<Option<Change>>) {
    let (told, changes) = channel();
    let (paths, store) = (store.files().paths(), store.clone());
    let watch = Watch::start(paths, pace, move || {
        told.send(store.reload().ok()).expect("the test listens");
    });
    (watch.expect("a thread"), changes)
}

/// Waits for a reload that changed something; a look in the midst of a
/// rewrite may fail before it.
fn await_change(changes: &Receiver<Option<Change>>) {
    while changes.recv_timeout(PATIENCE).expect("the change is seen") != Some(Change::Changed) {}
}

/// Notices alone: a look without one comes too late for the test.
const BY_NOTICE: Pace = Pace { quiet: Duration::from_millis(50), poll: Duration::from_secs(3_600) };

/// Looks alone would find it, notices or not.
const BY_POLL: Pace = Pace { quiet: Duration::from_millis(50), poll: Duration::from_millis(100) };

#[test]
fn a_swapped_secret_is_seen_and_drops_nobody() {
    let mut site = Site::new("secret");
    let root = site.folder.path().join("mounted");
    mount(&root, "..2026_01", &site.ca.server(&["broker.example"]));
    site.files.certificate = root.join("tls.crt");
    site.files.key = root.join("tls.key");
    let store = Arc::new(TlsStore::open(site.files.clone(), Alpn::Mqtt).expect("material"));
    let mut old = link(&store, &site.client());
    let (watch, changes) = watched(&store, BY_NOTICE);
    assert!(watch.is_notified());

    // Twice: the watch has to move on with the directories.
    for stamp in ["..2026_02", "..2026_03"] {
        let before = shown(&link(&store, &site.client()));
        mount(&root, stamp, &site.ca.server(&["broker.example"]));
        await_change(&changes);
        assert_ne!(shown(&link(&store, &site.client())), before);
    }
    old.client_writes(b"still here");
    old.shake().expect("the old session goes on");
    assert_eq!(old.heard, b"still here");
    assert_eq!(store.failures(), 0);
    watch.stop();
}

#[test]
fn overwritten_and_renamed_files_are_seen() {
    let site = Site::new("rewritten");
    let store = Arc::new(TlsStore::open(site.files.clone(), Alpn::Mqtt).expect("material"));
    let (watch, changes) = watched(&store, BY_NOTICE);

    let own = site.ca.server(&["broker.example"]);
    site.folder.write("tls.crt", &own.certificate);
    site.folder.write("tls.key", &own.key);
    await_change(&changes);

    let own = site.ca.server(&["broker.example"]);
    for (file, text) in [("tls.crt", &own.certificate), ("tls.key", &own.key)] {
        let fresh = site.folder.write(&format!("{file}.new"), text);
        fs::rename(fresh, site.folder.path().join(file)).expect("a rename");
    }
    await_change(&changes);
    watch.stop();
}

#[test]
fn a_new_server_name_is_seen() {
    let mut site = Site::new("newname");
    let sni = site.folder.path().join("sni");
    fs::create_dir(&sni).expect("a directory");
    site.files.sni_dir = Some(sni);
    let store = Arc::new(TlsStore::open(site.files.clone(), Alpn::Mqtt).expect("material"));
    let (watch, changes) = watched(&store, BY_NOTICE);

    let own = site.ca.server(&["a.example"]);
    site.folder.write("sni/a.example/tls.key", &own.key);
    site.folder.write("sni/a.example/tls.crt", &own.certificate);
    await_change(&changes);
    assert_eq!(store.loaded().certificates.len(), 2);
    watch.stop();
}

#[test]
fn without_a_notice_the_regular_look_finds_it() {
    let site = Site::new("polled");
    let store = Arc::new(TlsStore::open(site.files.clone(), Alpn::Mqtt).expect("material"));
    let (watch, changes) = watched(&store, BY_POLL);
    // Nothing changes: nothing is told, however often it looks.
    assert!(changes.recv_timeout(Duration::from_millis(500)).is_err());

    let own = site.ca.server(&["broker.example"]);
    site.folder.write("tls.key", &own.key);
    site.folder.write("tls.crt", &own.certificate);
    await_change(&changes);
    watch.stop();
    assert!(changes.recv().is_err());
}
