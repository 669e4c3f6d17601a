//! The admin port: metrics and health over HTTP.
//!
//! Runs on a node thread, never on a shard. Kubelet and Prometheus need it
//! without a key, so it tells nothing about single clients. `/livez` asks for a
//! restart (some shard is stuck), `/readyz` for clients to be kept away (not up
//! yet, or draining).

pub mod control;
mod port;
mod route;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;

use crate::cluster::Cluster;
use crate::config::Config;
use crate::shard::clock::Reading;
use crate::telemetry::exposition::Format;
use crate::telemetry::health::{Health, Phase};
use crate::telemetry::registry::Metrics;
use crate::telemetry::source::Source;
use crate::telemetry::watch::Watch;

/// What the admin port knows of its node.
pub struct AdminState {
    name: String,
    source: Arc<dyn Source>,
    health: Arc<Health>,
    watch: Watch,
    metrics: Metrics,
    cluster: Option<Arc<Cluster>>,
}

impl AdminState {
    /// Of the node that `config` describes and `source` counts. The runtime
    /// keeps `health` up to date.
    pub fn new(config: &Config, source: Arc<dyn Source>, health: Arc<Health>) -> AdminState {
        AdminState {
            name: config.name.clone(),
            watch: Watch::new(source.counters().len(), Instant::now()),
            metrics: Metrics::new(config, source.clone(), health.clone()),
            source,
            health,
            cluster: None,
        }
    }

    /// Readiness is that of the cluster's member as well.
    pub fn with_cluster(mut self, cluster: Option<Arc<Cluster>>) -> AdminState {
        self.cluster = cluster;
        self
    }

    /// Whether the shards move. [`serve`] looks at them.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    fn connections(&self) -> u64 {
        self.source.counters().iter().map(|counters| counters.connections.value()).sum()
    }
}

/// Serves the admin port and watches the shards, until dropped.
///
/// # Errors
/// None in practice: a failed accept is tried again.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>) -> std::io::Result<()> {
    let port = port::Port::new(listener);
    let watched = state.clone();
    tokio::select! {
        served = async { axum::serve(port, routes(state)).await } => served,
        () = watched.watch.keep_looking(&*watched.source) => Ok(()),
    }
}

fn routes(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/health", get(health))
        .route("/health/ping", get(async || text(StatusCode::OK, "pong\n")))
        .fallback(async || text(StatusCode::NOT_FOUND, "not found\n"))
        .method_not_allowed_fallback(async || {
            text(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n")
        })
        .layer(from_fn(close_after_answer))
        .with_state(state)
}

async fn metrics(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    let headers = [(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")];
    (headers, state.metrics.text(format)).into_response()
}

async fn livez(State(state): State<Arc<AdminState>>) -> Response {
    match state.watch.stuck(Instant::now()) {
        None => text(StatusCode::OK, "alive\n"),
        Some(stuck) => {
            let (shard, seconds) = (stuck.shard, stuck.since.as_secs());
            let why = format!("shard {shard} has taken no turn for {seconds} s\n");
            text(StatusCode::SERVICE_UNAVAILABLE, why)
        }
    }
}

async fn readyz(State(state): State<Arc<AdminState>>) -> Response {
    let phase = state.health.phase();
    let unready = state.cluster.as_ref().and_then(|cluster| {
        let now = Reading::take().millis();
        cluster.unready(now).filter(|_| phase == Phase::Ready)
    });
    if let Some(why) = unready {
        return text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
    }
    let status = match phase {
        Phase::Ready => StatusCode::OK,
        Phase::Starting | Phase::Draining | Phase::Drained => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(status, format!("{}\n", phase.label()))
}

async fn health(State(state): State<Arc<AdminState>>) -> Response {
    let stuck = state.watch.stuck(Instant::now());
    let status = if stuck.is_some() { "stuck" } else { state.health.phase().label() };
    let body = json!({
        "status": status,
        "name": state.name,
        "version": env!("CARGO_PKG_VERSION"),
        "shards": state.source.counters().len(),
        "connections": state.connections(),
        "uptime_seconds": state.health.uptime().as_secs(),
    });
    let code = if stuck.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (code, headers, format!("{body}\n")).into_response()
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.into()).into_response()
}

/// One request a connection: probes and scrapes are rare, and a connection that
/// idles would hold one of the few that the port takes.
async fn close_after_answer(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
