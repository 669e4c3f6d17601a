//! A double of the API server: ConfigMaps over TLS, with their versions.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

const TOKEN: &str = "the-token-of-the-pod";

/// The double; its thread runs until the test's process ends.
pub struct ApiServer {
    pub port: u16,
    account: PathBuf,
    objects: Arc<Mutex<Objects>>,
}

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    versions: u64,
    pub created: u32,
    conflicts: u32,
}

impl ApiServer {
    /// With the files of a service account below `place`.
    pub fn start(place: &Path) -> ApiServer {
        let account = place.join("serviceaccount");
        std::fs::create_dir_all(&account).expect("a directory");
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
        let key = KeyPair::generate().expect("a key");
        let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let issuer = Issuer::new(ca, ca_key);
        let certificate = server.signed_by(&key, &issuer).expect("a certificate");
        std::fs::write(account.join("ca.crt"), ca_certificate.pem()).expect("a file");
        std::fs::write(account.join("token"), format!("{TOKEN}\n")).expect("a file");
        std::fs::write(account.join("namespace"), "messaging").expect("a file");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        let tls = Arc::new(tls);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let objects = Arc::new(Mutex::new(Objects::default()));
        let shared = objects.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, objects) = (tls.clone(), shared.clone());
                thread::spawn(move || {
                    // A client that leaves early is its own business.
                    let _ = serve(stream, tls, &objects);
                });
            }
        });
        ApiServer { port, account, objects }
    }

    /// The environment of a pod.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("KUBERNETES_SERVICE_HOST", "127.0.0.1".into()),
            ("KUBERNETES_SERVICE_PORT", self.port.to_string()),
            ("TIDEGATE_SERVICE_ACCOUNT_DIR", self.account.display().to_string()),
        ]
    }

    /// How many objects were created.
    pub fn created(&self) -> u32 {
        self.objects.lock().expect("no panic").created
    }

    /// The data of the ConfigMap.
    pub fn data(&self, name: &str) -> Value {
        let path = format!("/api/v1/namespaces/messaging/configmaps/{name}");
        self.objects.lock().expect("no panic").by_path[&path]["data"].clone()
    }
}

fn serve(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    objects: &Mutex<Objects>,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let session = ServerConnection::new(tls).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    let mut text = Vec::new();
    let head_end = loop {
        let mut piece = [0; 4_096];
        let got = stream.read(&mut piece)?;
        if got == 0 {
            return Ok(());
        }
        text.extend_from_slice(&piece[..got]);
        if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
    };
    let head = String::from_utf8_lossy(&text[..head_end]).into_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    let mut body = text[head_end + 4..].to_vec();
    while body.len() < length {
        let mut piece = [0; 4_096];
        let got = stream.read(&mut piece)?;
        body.extend_from_slice(&piece[..got]);
    }
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let allowed = head.contains(&format!("Authorization: Bearer {TOKEN}\r\n"));
    let (status, answer) = match allowed {
        true => act(&mut objects.lock().expect("no panic"), method, path, &body),
        false => (401, json!({ "message": "Unauthorized" })),
    };
    let answer = answer.to_string();
    let length = answer.len();
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{answer}")?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn act(objects: &mut Objects, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let status = |code: u16, message: &str| (code, json!({ "kind": "Status", "message": message }));
    let object = || serde_json::from_slice::<Value>(body).expect("JSON");
    match method {
        "GET" => match objects.by_path.get(path) {
            Some(object) => (200, object.clone()),
            None => status(404, "not found"),
        },
        "POST" => {
            let mut object = object();
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            let path = format!("{path}/{name}");
            if objects.by_path.contains_key(&path) {
                objects.conflicts += 1;
                return status(409, "already exists");
            }
            objects.versions += 1;
            objects.created += 1;
            object["metadata"]["resourceVersion"] = json!(objects.versions.to_string());
            objects.by_path.insert(path, object.clone());
            (201, object)
        }
        "PUT" => {
            let mut object = object();
            let Some(there) = objects.by_path.get(path) else { return status(404, "not found") };
            if there["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
                objects.conflicts += 1;
                return status(409, "the object has been modified");
            }
            objects.versions += 1;
            object["metadata"]["resourceVersion"] = json!(objects.versions.to_string());
            objects.by_path.insert(path.to_owned(), object.clone());
            (200, object)
        }
        _other => status(405, "not allowed"),
    }
}
