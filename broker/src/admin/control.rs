//! The control socket: what an operator on this machine may ask of the node.
//!
//! A Unix socket that only the node's own user can open (mode 0600), so that
//! `kubectl exec` and scripts need no key. `tidegate … reload` and the like
//! speak HTTP on it. Nothing of it is reachable over the admin port.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::cluster::faces;
use crate::commands;
use crate::shard::Shared;
use crate::steering::report;
use crate::system::report::{collectors_json, collectors_text};
use crate::telemetry::source::Source;

/// The socket's name in the data directory.
const SOCKET: &str = "tidegate.sock";
/// How long a command waits for its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the control socket asks of the node's main thread: to reload, and to
/// say what came of it.
pub(crate) type Reloads = mpsc::Receiver<oneshot::Sender<String>>;

/// What the handlers know.
#[derive(Clone)]
struct Control {
    shared: Arc<Shared>,
    reload: mpsc::Sender<oneshot::Sender<String>>,
}

/// Where the socket of a node with this data directory is.
pub fn socket_in(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// Opens the socket, in place of what a node that was killed left behind.
///
/// # Errors
/// When the directory cannot be made or another node has the socket.
pub(crate) fn open(data_dir: &Path) -> anyhow::Result<std::os::unix::net::UnixListener> {
    let path = socket_in(data_dir);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(data_dir)
        .with_context(|| format!("node.data_dir: cannot make {data_dir:?}"))?;
    if UnixStream::connect(&path).is_ok() {
        bail!("node.data_dir: another node runs in {data_dir:?}; use another directory");
    }
    let _ = std::fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path)
        .with_context(|| format!("node.data_dir: cannot listen on {path:?}"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("node.data_dir: cannot close {path:?} to others"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves the socket, until dropped; reloads are asked for through `reload`.
///
/// # Errors
/// None in practice: a failed accept is tried again.
pub(crate) async fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    reload: mpsc::Sender<oneshot::Sender<String>>,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/reload", post(reload_all))
        .route("/tls", get(tls))
        .route("/bpf", get(bpf))
        .route("/shards", get(shards))
        .route("/shards/weight", post(weight))
        .route("/backup", post(backup))
        .route("/routes", get(route))
        .fallback(async || (StatusCode::NOT_FOUND, "this node does not know that command\n"));
    let cluster = faces::routes(shared.cluster.clone());
    let routes = routes.with_state(Control { shared, reload }).merge(cluster);
    axum::serve(listener, routes).await
}

async fn reload_all(State(control): State<Control>) -> Response {
    let (answer, answered) = oneshot::channel();
    if control.reload.try_send(answer).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "a reload is under way; try again\n")
            .into_response();
    }
    match answered.await {
        Ok(said) => said.into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the node is going down\n").into_response(),
    }
}

#[derive(serde::Deserialize)]
struct Form {
    #[serde(default)]
    json: bool,
}

async fn tls(State(control): State<Control>, Query(form): Query<Form>) -> String {
    let doors = control.shared.doors.iter();
    let stores = doors.filter_map(|door| Some((door.listener.name.as_str(), door.tls.as_deref()?)));
    crate::commands::tls::report(stores.map(|(name, store)| (name, store.loaded())), form.json)
}

#[derive(serde::Deserialize)]
struct RouteForm {
    topic: String,
    #[serde(default)]
    json: bool,
}

async fn route(State(control): State<Control>, Query(form): Query<RouteForm>) -> Response {
    match super::route::show(&control.shared, &form.topic, form.json) {
        Ok(shown) => shown.into_response(),
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

async fn bpf(State(control): State<Control>, Query(form): Query<Form>) -> String {
    let status = control.shared.steer.status();
    let observers = &control.shared.observers;
    let snapshot = control.shared.system();
    if form.json {
        let mut objects = vec![status.json()];
        objects.extend(observers.json());
        let collectors = snapshot.as_deref().map(collectors_json);
        return format!("{:#}\n", json!({ "objects": objects, "collectors": collectors }));
    }
    let collectors = snapshot.as_deref().map(collectors_text).unwrap_or_default();
    let (steer, listeners) = (status.text(), status.listeners_text());
    format!("{steer}{}\n{listeners}\n{collectors}", observers.text())
}

async fn shards(State(control): State<Control>, Query(form): Query<Form>) -> String {
    let shared = &control.shared;
    let status = shared.steer.status();
    let rows: Vec<_> = (0..shared.meters.len()).map(|shard| shared.shard_row(shard)).collect();
    match form.json {
        true => format!("{:#}\n", report::shards_json(&rows, &status)),
        false => report::shards_text(&rows, &status),
    }
}

#[derive(serde::Deserialize)]
struct BackupForm {
    to: PathBuf,
}

async fn backup(
    State(control): State<Control>,
    Query(BackupForm { to }): Query<BackupForm>,
) -> Response {
    let refuse = |status, why: String| (status, why).into_response();
    let Some(store) = &control.shared.store else {
        let why = "this node keeps nothing (store.durability is \"memory\")\n";
        return refuse(StatusCode::CONFLICT, why.into());
    };
    let Some(asked) = store.backup() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "a backup begins just now\n".into());
    };
    let parts = match asked.await {
        Ok(Ok(parts)) => parts,
        Ok(Err(error)) => return refuse(StatusCode::CONFLICT, format!("{error:#}\n")),
        Err(_) => return refuse(StatusCode::SERVICE_UNAVAILABLE, "the node ends\n".into()),
    };
    // Away from the thread that answers Prometheus.
    match tokio::task::spawn_blocking(move || commands::backup::create(parts, &to)).await {
        Ok(Ok(said)) => said.into_response(),
        Ok(Err(error)) => refuse(StatusCode::CONFLICT, format!("{error:#}\n")),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[derive(serde::Deserialize)]
struct WeightForm {
    listener: Option<String>,
    shard: usize,
    weight: u8,
}

async fn weight(State(control): State<Control>, Query(form): Query<WeightForm>) -> Response {
    let WeightForm { listener, shard, weight } = form;
    match control.shared.steer.set_weight(listener.as_deref(), shard, weight) {
        Ok(said) => said.into_response(),
        Err(error) => (StatusCode::CONFLICT, format!("{error:#}\n")).into_response(),
    }
}

/// Sends one request to a node's control socket and returns the answer.
///
/// # Errors
/// When no node is there, or it refuses; what it says is in the error.
pub fn ask(socket: &Path, method: &str, target: &str) -> anyhow::Result<String> {
    ask_within(socket, method, target, PATIENCE)
}

/// The same of what takes long.
///
/// # Errors
/// As [`ask`].
pub fn ask_within(
    socket: &Path,
    method: &str,
    target: &str,
    patience: Duration,
) -> anyhow::Result<String> {
    let no_node = || format!("no node answers at {socket:?}; is it running with this data_dir?");
    let mut stream = UnixStream::connect(socket).with_context(no_node)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "{method} {target} HTTP/1.0\r\nHost: tidegate\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{socket:?} does not answer"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _refused => bail!("the node says: {}", body.trim()),
    }
}
