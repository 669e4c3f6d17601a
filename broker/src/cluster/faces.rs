//! What operators are shown of the cluster, and may ask: the part of the control
//! socket behind `tidegate cluster`, `node`, `partition` and `replication`.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tidegate_cluster::ids::{NodeId, PartitionId};
use tidegate_cluster::lease::Hold;
use tidegate_cluster::meta::{Command, Node, NodeState, Wish};
use tokio::time::{Instant, sleep};

use super::fares::{Fares, Progress};
use super::recover::price;
use super::replicas::{shown_json, shown_text};
use super::view::{Cluster, Phase, View};
use crate::shard::clock::Reading;

/// How long who waits for a drain waits for something new, and between two looks.
const DRAINED_PATIENCE: Duration = Duration::from_secs(10);
const DRAINED_LOOK: Duration = Duration::from_millis(100);

/// The routes; without a cluster each says that the node is alone.
pub(crate) fn routes(cluster: Option<Arc<Cluster>>) -> Router {
    let Some(cluster) = cluster else {
        let alone = async || {
            let why = "this node is alone: its config has no cluster.name\n";
            (StatusCode::CONFLICT, why)
        };
        return Router::new()
            .route("/cluster", get(alone))
            .route("/cluster/{*verb}", post(alone))
            .route("/nodes", get(alone))
            .route("/nodes/{*verb}", post(alone))
            .route("/partitions", get(alone))
            .route("/replicas", get(alone));
    };
    Router::new()
        .route("/cluster", get(show))
        .route("/cluster/init", post(init))
        .route("/cluster/join", post(join))
        .route("/cluster/leave", post(leave))
        .route("/cluster/forget", post(forget))
        .route("/cluster/recover", post(recover))
        .route("/cluster/rebalance", post(rebalance))
        .route("/nodes", get(nodes))
        .route("/nodes/drain", post(drain))
        .route("/nodes/drained", get(drained))
        .route("/nodes/undrain", post(undrain))
        .route("/partitions", get(partitions))
        .route("/replicas", get(replicas))
        .with_state(cluster)
}

/// The same for the time before the node has its number: a start that waits for
/// its cluster can be asked why, and told to found one.
pub(crate) fn routes_while_starting(cluster: Arc<Cluster>) -> Router {
    let starting = async || {
        let why = "this node waits for its cluster; see tidegate cluster show\n";
        (StatusCode::SERVICE_UNAVAILABLE, why)
    };
    routes(Some(cluster)).fallback(starting)
}

/// The admin port of a node that waits for its cluster.
pub(crate) fn health_while_starting(cluster: Arc<Cluster>) -> Router {
    let readyz = async |State(cluster): State<Arc<Cluster>>| {
        let why = cluster.unready(Reading::take().millis());
        let why = why.unwrap_or_else(|| "starting".into());
        (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
    };
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/health/ping", get(async || "pong\n"))
        .route("/readyz", get(readyz))
        .fallback(async || (StatusCode::SERVICE_UNAVAILABLE, "starting\n"))
        .with_state(cluster)
}

#[derive(serde::Deserialize)]
struct Form {
    #[serde(default)]
    json: bool,
}

#[derive(serde::Deserialize)]
struct NodeForm {
    /// Its id, the beginning of it, or its address; none: this node.
    node: Option<String>,
    #[serde(default)]
    accept_data_loss: bool,
}

#[derive(serde::Deserialize)]
struct InitForm {
    #[serde(default)]
    despite_silent: bool,
}

#[derive(serde::Deserialize)]
struct JoinForm {
    address: String,
}

#[derive(serde::Deserialize)]
struct RecoverForm {
    /// Separated by commas.
    lost: String,
    #[serde(default)]
    accept_data_loss: bool,
}

fn refuse(why: impl std::fmt::Display) -> Response {
    (StatusCode::CONFLICT, format!("{why}\n")).into_response()
}

async fn show(State(cluster): State<Arc<Cluster>>, Query(form): Query<Form>) -> String {
    let now = Reading::take().millis();
    let (view, hold, fares) = (cluster.view(), cluster.hold(now), Fares::of(&cluster, now));
    match form.json {
        true => format!("{:#}\n", cluster_json(&view, hold, &fares)),
        false => cluster_text(&view, hold, &fares),
    }
}

async fn nodes(State(cluster): State<Arc<Cluster>>, Query(form): Query<Form>) -> String {
    let view = cluster.view();
    let fares = Fares::of(&cluster, Reading::take().millis());
    match form.json {
        true => format!("{:#}\n", json!({ "nodes": nodes_json(&view, &fares) })),
        false => nodes_text(&view, &fares),
    }
}

async fn partitions(State(cluster): State<Arc<Cluster>>, Query(form): Query<Form>) -> String {
    let view = cluster.view();
    match form.json {
        true => format!("{:#}\n", json!({ "partitions": partitions_json(&view) })),
        false => partitions_text(&view),
    }
}

async fn replicas(State(cluster): State<Arc<Cluster>>, Query(form): Query<Form>) -> String {
    let shown = cluster.replicas();
    match form.json {
        true => format!("{:#}\n", shown_json(&shown)),
        false => shown_text(&shown),
    }
}

async fn init(State(cluster): State<Arc<Cluster>>, Query(form): Query<InitForm>) -> Response {
    match cluster.init(form.despite_silent).await {
        Ok(said) => said.into_response(),
        Err(why) => refuse(why),
    }
}

async fn join(State(cluster): State<Arc<Cluster>>, Query(form): Query<JoinForm>) -> Response {
    match cluster.join(form.address).await {
        Ok(said) => said.into_response(),
        Err(why) => refuse(why),
    }
}

/// The node that an operator means.
fn find<'a>(view: &'a View, typed: Option<&str>) -> Result<&'a Node, String> {
    let Some(typed) = typed else {
        return view.this_node().ok_or_else(|| "this node is not registered yet".to_owned());
    };
    let matches =
        |node: &&Node| node.spec.id.to_string().starts_with(typed) || node.spec.address == typed;
    let mut found = view.meta.nodes().filter(matches);
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(node),
        (None, _) => Err(format!("there is no node {typed:?}; see tidegate node show")),
        (Some(_), Some(_)) => Err(format!("{typed:?} is the beginning of more than one node's id")),
    }
}

async fn propose(cluster: &Cluster, command: Command, done: String) -> Response {
    match cluster.propose(command).await {
        Ok(_) => done.into_response(),
        Err(why) => refuse(why),
    }
}

async fn drain(State(cluster): State<Arc<Cluster>>, Query(form): Query<NodeForm>) -> Response {
    let node = match find(&cluster.view(), form.node.as_deref()) {
        Ok(node) => node.spec.id,
        Err(why) => return refuse(why),
    };
    let command = Command::Drain { node, wish: Wish::Empty };
    propose(&cluster, command, format!("node {node} drains\n")).await
}

#[derive(serde::Deserialize)]
struct DrainedForm {
    node: Option<String>,
    /// What who asks knows already: it is answered once there is something new.
    #[serde(default)]
    have: String,
}

/// How far a drain is: at once if it is done, or further than is known.
async fn drained(State(cluster): State<Arc<Cluster>>, Query(form): Query<DrainedForm>) -> Response {
    let node = match find(&cluster.view(), form.node.as_deref()) {
        Ok(node) => node.spec.id,
        Err(why) => return refuse(why),
    };
    let until = Instant::now() + DRAINED_PATIENCE;
    loop {
        let (view, fares) = (cluster.view(), Fares::of(&cluster, Reading::take().millis()));
        let Some(progress) = Progress::of(&view, &fares, node) else {
            return refuse(format!("node {node} is forgotten"));
        };
        let said = progress.text();
        if progress.done || said != form.have || Instant::now() >= until {
            let answer = json!({ "done": progress.done, "said": said });
            return format!("{answer}\n").into_response();
        }
        sleep(DRAINED_LOOK).await;
    }
}

async fn undrain(State(cluster): State<Arc<Cluster>>, Query(form): Query<NodeForm>) -> Response {
    let node = match find(&cluster.view(), form.node.as_deref()) {
        Ok(node) => node.spec.id,
        Err(why) => return refuse(why),
    };
    propose(&cluster, Command::Undrain(node), format!("node {node} may serve\n")).await
}

async fn leave(State(cluster): State<Arc<Cluster>>, Query(form): Query<NodeForm>) -> Response {
    let node = match find(&cluster.view(), form.node.as_deref()) {
        Ok(node) => node.spec.id,
        Err(why) => return refuse(why),
    };
    let command = Command::Drain { node, wish: Wish::Leave };
    let done = format!("node {node} drains, and leaves when nothing counts on it\n");
    propose(&cluster, command, done).await
}

async fn forget(State(cluster): State<Arc<Cluster>>, Query(form): Query<NodeForm>) -> Response {
    let accept_data_loss = form.accept_data_loss;
    let Some(typed) = form.node.as_deref() else { return refuse("which node?") };
    let node = match find(&cluster.view(), Some(typed)) {
        Ok(node) => node.spec.id,
        Err(why) => return refuse(why),
    };
    let command = Command::Forget { node, accept_data_loss };
    propose(&cluster, command, format!("node {node} is forgotten\n")).await
}

async fn recover(State(cluster): State<Arc<Cluster>>, Query(form): Query<RecoverForm>) -> Response {
    let view = cluster.view();
    let typed = form.lost.split(',').map(str::trim).filter(|typed| !typed.is_empty());
    let lost: Result<Vec<NodeId>, String> =
        typed.map(|typed| find(&view, Some(typed)).map(|node| node.spec.id)).collect();
    let lost = match lost {
        Ok(lost) if !lost.is_empty() => lost,
        Ok(_) => return refuse("which nodes are lost?"),
        Err(why) => return refuse(why),
    };
    let price = price(&view, &lost);
    if !form.accept_data_loss {
        return refuse(format!("{price}. Add --accept-data-loss if they never come back"));
    }
    match cluster.recover(lost).await {
        Ok(_) => format!(
            "{price}.\nWhat is left is brought back now; see tidegate replication show. Nodes that \
             were given up must not be started again with their data\n"
        )
        .into_response(),
        Err(why) => refuse(why),
    }
}

async fn rebalance(State(cluster): State<Arc<Cluster>>) -> Response {
    match cluster.rebalance().await {
        Ok(_) => "replicas move until the nodes are balanced; see tidegate partition show\n"
            .into_response(),
        Err(why) => refuse(why),
    }
}

fn phase(view: &View) -> (&'static str, Option<&str>) {
    match &view.phase {
        Phase::Seeking(why) => ("seeking", Some(why)),
        Phase::Registering(why) => ("registering", Some(why)),
        Phase::Registered => ("registered", None),
    }
}

fn lease(hold: Hold) -> &'static str {
    match hold {
        Hold::Serving => "held",
        Hold::Silent => "run out",
        Hold::Isolated => "none",
    }
}

fn wish(wish: Wish) -> &'static str {
    match wish {
        Wish::Serve => "serve",
        Wish::Empty => "empty",
        Wish::Leave => "leave",
    }
}

/// `tidegate cluster show --json`.
fn cluster_json(view: &View, hold: Hold, fares: &Fares) -> Value {
    let (phase, why) = phase(view);
    let placed = view.meta.placement().iter().filter(|replicas| !replicas.is_empty()).count();
    let warnings: Vec<_> = view.meta.warnings().iter().map(ToString::to_string).collect();
    json!({
        "name": view.name,
        "cluster": view.cluster.map(|cluster| cluster.to_string()),
        "phase": phase,
        "waits_for": why,
        "this": {
            "node": view.me.node.to_string(),
            "incarnation": view.me.incarnation.0,
            "member": view.member().map(|member| member.0),
            "address": view.address,
            "lease": lease(hold),
        },
        "meta": {
            "term": view.term,
            "leader": view.leader.map(|leader| leader.to_string()),
            "voters": view.voters.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "applied": view.meta.applied(),
            "level": view.meta.level(),
            "level_supported": view.meta.level_supported(),
            "generation": view.meta.generation(),
        },
        "replication_factor": view.meta.config().replication_factor,
        "partitions": { "all": view.meta.partitions(), "placed": placed,
            "moving": view.meta.moves().count(), "replicas_wanted": view.meta.replicas_wanted(),
            "under_replicated": view.meta.under_replicated() },
        "nodes": nodes_json(view, fares),
        "warnings": warnings,
    })
}

fn nodes_json(view: &View, fares: &Fares) -> Vec<Value> {
    let node = |node: &Node| {
        let id = node.spec.id;
        let mut shown = json!({
            "node": id.to_string(),
            "incarnation": node.spec.incarnation.0,
            "member": node.state.is_alive().then_some(node.member.0),
            "address": node.spec.address,
            "zone": node.spec.zone,
            "state": node.state.name(),
            "wish": wish(node.wish),
            "since_unix_ms": node.since,
            "this": id == view.me.node,
            "connected": id == view.me.node || view.up.contains(&id),
            "votes": view.voters.contains(&id),
            "leads": view.leader == Some(id),
            "partitions": view.meta.partitions_that_need(id),
        });
        for (name, value) in fares.fields(id) {
            shown[name] = value;
        }
        shown
    };
    view.meta.nodes().map(node).collect()
}

fn partitions_json(view: &View) -> Vec<Value> {
    let one = |(number, replicas): (usize, &Vec<NodeId>)| {
        let moving = view.meta.moves().find(|(at, _)| *at == PartitionId(number as u16));
        json!({
            "partition": number,
            "replicas": replicas.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "preferred": replicas.first().map(ToString::to_string),
            "moving": moving.map(|(_, of)| json!({
                "to": of.add.map(|node| node.to_string()),
                "from": of.remove.map(|node| node.to_string()),
                "step": of.step.name(),
            })),
        })
    };
    view.meta.placement().iter().enumerate().map(one).collect()
}

fn cluster_text(view: &View, hold: Hold, fares: &Fares) -> String {
    let mut out = String::new();
    let id = view.cluster.map_or("none yet".into(), |cluster| cluster.to_string());
    let _ = writeln!(out, "cluster   {} ({id})", view.name);
    let (phase, why) = phase(view);
    let member = view.member().map_or(String::new(), |member| format!(", member {member}"));
    let _ =
        writeln!(out, "this node {} life {}{member}: {phase}", view.me.node, view.me.incarnation);
    if let Some(why) = why {
        let _ = writeln!(out, "waits     {why}");
    }
    let _ = writeln!(out, "lease     {}", lease(hold));
    if view.cluster.is_some() {
        let leader = view.leader.map_or("nobody".into(), |leader| leader.to_string());
        let voters = view.voters.len();
        let _ = writeln!(out, "metadata  term {}, led by {leader}, {voters} voters", view.term);
        let supported = view.meta.level_supported();
        let supported = supported.map_or("none".into(), |level| level.to_string());
        let level = view.meta.level();
        let _ = writeln!(out, "level     {level}, the highest that all nodes support: {supported}");
        let placed = view.meta.placement().iter().filter(|nodes| !nodes.is_empty()).count();
        let (all, moving) = (view.meta.partitions(), view.meta.moves().count());
        let _ = writeln!(out, "partitions {placed} of {all} placed, {moving} moving");
        let (few, wanted) = (view.meta.under_replicated(), view.meta.replicas_wanted());
        let _ = writeln!(out, "replicas  {wanted} a partition; with fewer that run: {few}");
        for warning in view.meta.warnings() {
            let _ = writeln!(out, "warning   {warning}");
        }
        out.push('\n');
        out.push_str(&nodes_text(view, fares));
    }
    out
}

fn nodes_text(view: &View, fares: &Fares) -> String {
    let mut rows = vec![[
        "NODE".to_owned(),
        "LIFE".into(),
        "MEMBER".into(),
        "STATE".into(),
        "ADDRESS".into(),
        "ZONE".into(),
        "META".into(),
        "CONNECTED".into(),
        "PARTITIONS".into(),
        "VERSION".into(),
        "CLIENTS".into(),
        "LAG".into(),
    ]];
    for node in view.meta.nodes() {
        let id = node.spec.id;
        let meta = match (view.leader == Some(id), view.voters.contains(&id)) {
            (true, _) => "leads",
            (false, true) => "votes",
            (false, false) => "-",
        };
        let connected = match (id == view.me.node, view.up.contains(&id)) {
            (true, _) => "this node",
            (false, true) => "yes",
            (false, false) => "no",
        };
        let state = match (node.state, node.wish) {
            (state, Wish::Serve) | (state @ (NodeState::Left | NodeState::Draining), _) => {
                state.name().to_owned()
            }
            (state, wished) => format!("{} (to {})", state.name(), wish(wished)),
        };
        let [version, clients, lag] = fares.cells(id);
        rows.push([
            id.to_string(),
            node.spec.incarnation.to_string(),
            if node.state.is_alive() { node.member.to_string() } else { "-".into() },
            state,
            node.spec.address.clone(),
            if node.spec.zone.is_empty() { "-".into() } else { node.spec.zone.clone() },
            meta.into(),
            connected.into(),
            view.meta.partitions_that_need(id).to_string(),
            version,
            clients,
            lag,
        ]);
    }
    table(&rows)
}

fn partitions_text(view: &View) -> String {
    let mut rows =
        vec![["PARTITION".to_owned(), "MOVES".into(), "REPLICAS (PREFERRED FIRST)".into()]];
    for (number, replicas) in view.meta.placement().iter().enumerate() {
        let nodes: Vec<_> = replicas.iter().map(ToString::to_string).collect();
        let nodes = if nodes.is_empty() { "not placed".into() } else { nodes.join(" ") };
        let moving = view.meta.moves().find(|(at, _)| *at == PartitionId(number as u16));
        let moving = moving.map_or("-".into(), |(_, of)| {
            let end = |node: Option<NodeId>| node.map_or("-".into(), |node| node.to_string());
            format!("{} to {}, {}", end(of.remove), end(of.add), of.step.name())
        });
        rows.push([number.to_string(), moving, nodes]);
    }
    table(&rows)
}

pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N)
        .map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    out
}
