//! Into a cluster: found it, join it, or wait.
//!
//! [`decide`](tidegate_cluster::bootstrap::decide) says what to do; here are the
//! probes that it is fed with, and what it takes to carry out what it says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use tidegate_cluster::bootstrap::{
    Claim, ClaimView, ClaimWrite, Decision, Local, Mode, Peers, Reason, decide,
};
use tidegate_cluster::ids::{ClusterId, Millis};
use tidegate_cluster::meta::{ClusterConfig, Command, Entry};
use tidegate_consensus::META;
use tidegate_core::ids::PARTITIONS;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::config_map::ConfigMap;
use super::core::{ASK_PATIENCE, Core, lock, unix_millis};
use super::discover;
use super::question::{Leader, Outcome, Question};
use super::view::Phase;
use super::wire::Wire;
use super::{id_with, seed_of};
use crate::config::{Bootstrap, Discovery};
use crate::shard::clock::Reading;

/// In the identity: this node is about to found the cluster of that id. From
/// then on nobody else does, and a crash on the way changes nothing.
const FOUNDING: &str = "cluster.founding";
/// Between two rounds of probes.
const ROUND: Duration = Duration::from_millis(500);
/// After a refusal: an operator has to change something.
const REFUSED_ROUND: Duration = Duration::from_secs(3);
/// For the first entry of a group of one.
const FOUND_PATIENCE: Duration = Duration::from_secs(10);

/// The ConfigMap as it was seen, and since when it has been the same.
#[derive(Default)]
struct Claims {
    map: Option<ConfigMap>,
    seen: Option<(Claim, String)>,
    since: Millis,
}

/// Returns when this node belongs to a cluster.
///
/// # Errors
/// When the node cannot go on: its disk failed, or it is no pod.
pub(super) async fn enter<W: Wire>(core: &Arc<Core<W>>) -> anyhow::Result<ClusterId> {
    if let Some(bytes) = core.identity.value(FOUNDING)? {
        let bytes = <[u8; 16]>::try_from(bytes).ok().context("the identity is damaged")?;
        return found(core, ClusterId(u128::from_le_bytes(bytes))).await;
    }
    let (local, draw) = match core.keeps {
        Some(seed) => (Local::Alone, id_with(seed, random_id()?)),
        None => (Local::Fresh, ClusterId(random_id()?)),
    };
    let mut claims = Claims::default();
    if core.config.bootstrap == Bootstrap::Kubernetes {
        claims.map = Some(ConfigMap::of_this_pod(&core.config.config_map)?);
    }
    let mut peers = Peers::new(Vec::new());
    let mut said = String::new();
    loop {
        let probes = core.probe(look(core, &mut peers, false).await).await;
        let mode = mode(core, &mut claims, &probes).await;
        let (why, refused) = match decide(&local, core.store, &mode, &probes, draw) {
            Decision::Found(cluster) => return found(core, cluster).await,
            Decision::Join { cluster, via } => match join(core, cluster, &via).await? {
                None => return Ok(cluster),
                Some(why) => (why, true),
            },
            Decision::Write(write) => {
                claim(&mut claims, write).await;
                continue;
            }
            Decision::Wait(reason) => (reason.to_string(), false),
            // Nothing that peers may say later makes it any better.
            Decision::Refuse(reason @ Reason::OwnData(_)) => bail!(
                "{reason}. Nothing was changed. Leave cluster.name out to go on alone with them; \
                 or set node.data_dir to an empty directory, and the node joins without them"
            ),
            Decision::Refuse(reason) => (reason.to_string(), true),
            Decision::Rejoin { .. } => bail!("a fresh node does not come back"),
        };
        if said != why {
            match refused {
                true => error!(why, "this node does not get into its cluster"),
                false => info!(why, "this node waits for its cluster"),
            }
            core.cluster.change(|view| {
                view.phase = Phase::Seeking(why.clone());
                true
            });
            said = why;
        }
        sleep(if refused { REFUSED_ROUND } else { ROUND }).await;
    }
}

/// Asks discovery again if it is time, and says whom to probe.
pub(super) async fn look<W: Wire>(core: &Core<W>, peers: &mut Peers, within: bool) -> Vec<String> {
    let now = Reading::take().millis();
    if peers.is_due(now, within)
        && let Some(discovery) = &core.config.discovery
    {
        let found = discover::resolve(discovery).await;
        if let Err(error) = &found
            && peers.failures() == 0
        {
            warn!(%error, "cluster.discovery finds no peers");
        }
        peers.resolved(found.ok(), now);
        if peers.left_out() > 0 {
            warn!(left_out = peers.left_out(), "cluster.discovery names too many peers");
        }
    }
    let mut all = peers.to_probe(&core.config.advertise);
    let named = lock(&core.named);
    all.extend(named.iter().filter(|address| !all.contains(address)).cloned().collect::<Vec<_>>());
    all
}

async fn mode<W: Wire>(
    core: &Core<W>,
    claims: &mut Claims,
    probes: &[tidegate_cluster::bootstrap::Probe],
) -> Mode {
    match core.config.bootstrap {
        Bootstrap::Single => Mode::Single,
        Bootstrap::Static => {
            let list = match &core.config.discovery {
                Some(Discovery::Static(list)) => list.clone(),
                Some(Discovery::Dns { .. } | Discovery::File(_)) | None => Vec::new(),
            };
            Mode::Static { list, me: core.config.advertise.clone() }
        }
        Bootstrap::Init => Mode::Init {
            asked: core.asked.load(Ordering::Acquire),
            despite_silent: core.despite_silent.load(Ordering::Acquire),
        },
        Bootstrap::Kubernetes => Mode::Kubernetes { view: read_claim(claims, probes).await },
    }
}

async fn read_claim(
    claims: &mut Claims,
    probes: &[tidegate_cluster::bootstrap::Probe],
) -> ClaimView {
    use tidegate_cluster::bootstrap::Answer;
    let Some(map) = claims.map.clone() else { return ClaimView::Unknown };
    let read = tokio::task::spawn_blocking(move || map.read()).await;
    let found = match read {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            warn!(error = format!("{error:#}"), "cluster.bootstrap: the ConfigMap is not read");
            return ClaimView::Unknown;
        }
        Err(_) => return ClaimView::Unknown,
    };
    let now = Reading::take().millis();
    let Some((claim, version)) = found.clone() else {
        claims.seen = None;
        return ClaimView::Absent;
    };
    let founder = claim.founder;
    let is_there = |probe: &tidegate_cluster::bootstrap::Probe| matches!(&probe.answer, Answer::Fresh { store, .. } if *store == founder);
    if claims.seen != found || probes.iter().any(is_there) {
        claims.seen = found;
        claims.since = now;
    }
    ClaimView::Present { claim, version, unseen_ms: now.saturating_sub(claims.since) }
}

async fn claim(claims: &mut Claims, write: ClaimWrite) {
    let Some(map) = claims.map.clone() else { return };
    match tokio::task::spawn_blocking(move || map.write(&write)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => info!("another node was first to write the ConfigMap"),
        Ok(Err(error)) => {
            warn!(error = format!("{error:#}"), "the ConfigMap may not be written");
            sleep(ROUND).await;
        }
        Err(_) => sleep(ROUND).await,
    }
}

/// Founds the cluster, or goes on with it.
async fn found<W: Wire>(core: &Arc<Core<W>>, cluster: ClusterId) -> anyhow::Result<ClusterId> {
    if core.keeps.is_some_and(|seed| seed_of(cluster) != seed) {
        bail!(
            "this node was to found cluster {cluster} before it kept data alone, which are placed \
             by another seed than that cluster's: with bootstrap = \"kubernetes\" remove the \
             ConfigMap, else begin with an empty node.data_dir; nothing was changed"
        );
    }
    core.identity.set_value(FOUNDING, Some(&cluster.0.to_le_bytes()))?;
    core.set_presence(cluster);
    info!(%cluster, name = core.config.name, "this node founds the cluster");
    core.groups.initialize(META, BTreeSet::from([core.me.node.0])).await?;
    let mut own = core.own.clone();
    let config = ClusterConfig {
        replication_factor: core.config.replication_factor,
        ..ClusterConfig::default()
    };
    let proposed = async {
        loop {
            if own.borrow_and_update().cluster().is_some() {
                return anyhow::Ok(());
            }
            let (partitions, level) = (PARTITIONS, 1);
            let node = core.spec();
            let command = Command::Found { cluster, partitions, level, config, node };
            match core.commit(command).await {
                Outcome::Done(_) => return Ok(()),
                Outcome::Refused(_, why) => bail!("the cluster cannot be founded: {why}"),
                Outcome::Elsewhere(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(FOUND_PATIENCE, proposed).await.context("the first entry is not committed")??;
    core.registered.store(true, Ordering::Release);
    core.belong(cluster)?;
    core.identity.set_value(FOUNDING, None)?;
    Ok(cluster)
}

/// Asks members to take this node in; says why they do not.
async fn join<W: Wire>(
    core: &Arc<Core<W>>,
    cluster: ClusterId,
    via: &[String],
) -> anyhow::Result<Option<String>> {
    let command = Command::Register { cluster, node: core.spec() };
    let entry = Entry { at: unix_millis(), command }.encode();
    let mut why = "no member of the cluster answers".to_owned();
    let mut left: Vec<String> = via.iter().rev().cloned().collect();
    for _ in 0..2 * via.len() + 4 {
        let Some(address) = left.pop() else { break };
        let what = Question::Propose as u16;
        let asked = core.wire.ask(&address, what, entry.clone().into(), 4 * ASK_PATIENCE).await;
        let (seen, answer) = match asked {
            Ok(answered) => answered,
            Err(unanswered) => {
                why = format!("{address}: {unanswered}");
                continue;
            }
        };
        core.learn(&seen);
        match Outcome::decode(&answer) {
            Ok(Outcome::Done(_)) => {
                info!(%cluster, via = address, "this node joins the cluster");
                core.registered.store(true, Ordering::Release);
                // It has committed that, so it leads.
                *lock(&core.hint) = Some(Leader { node: seen.node, address: address.clone() });
                core.belong(cluster)?;
                return Ok(None);
            }
            Ok(Outcome::Refused(_, refused)) => return Ok(Some(refused)),
            Ok(Outcome::Elsewhere(Some(leader))) if !leader.address.is_empty() => {
                left.push(leader.address);
            }
            Ok(Outcome::Elsewhere(_)) => "the cluster has no leader just now".clone_into(&mut why),
            Err(error) => why = format!("{address}: {error}"),
        }
    }
    Ok(Some(why))
}

fn random_id() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    anyhow::ensure!(got == bytes.len(), "no chance to be had");
    Ok(u128::from_le_bytes(bytes).max(1))
}
