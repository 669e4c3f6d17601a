//! `bootstrap = "kubernetes"`: who founds is settled by a ConfigMap, which can be
//! created once and replaced only as it was read.
//!
//! Needs get, create and update of ConfigMaps in the pod's namespace
//! (`manifests/`). The API server is found as every pod finds it: by
//! `KUBERNETES_SERVICE_HOST` and `_PORT`, and the files of the service account.
//! The token is read each time, since it is changed while the pod runs.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tidegate_cluster::bootstrap::{Claim, ClaimWrite};
use tidegate_cluster::ids::{ClusterId, StoreId};

use super::http::{Server, trusting};

/// Where a pod has the files of its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Another place for them, for tests.
const ACCOUNT_VARIABLE: &str = "TIDEGATE_SERVICE_ACCOUNT_DIR";

/// The object, and how to get at it.
#[derive(Clone, Debug)]
pub(crate) struct ConfigMap {
    server: Server,
    account: PathBuf,
    namespace: String,
    name: String,
}

/// The object as it was read.
pub(crate) type Found = Option<(Claim, String)>;

impl ConfigMap {
    /// Of the pod that this process runs in.
    ///
    /// # Errors
    /// When it is none, or lacks something.
    pub(crate) fn of_this_pod(name: &str) -> anyhow::Result<ConfigMap> {
        let variable = |name: &str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.with_context(|| {
                format!(
                    "{name} is not set: cluster.bootstrap = \"kubernetes\" works in a pod alone"
                )
            })
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let port = port.parse().with_context(|| format!("KUBERNETES_SERVICE_PORT: {port:?}"))?;
        let account = std::env::var_os(ACCOUNT_VARIABLE).map_or(ACCOUNT.into(), PathBuf::from);
        let namespace = account.join("namespace");
        let namespace = std::fs::read_to_string(&namespace)
            .with_context(|| format!("cannot read {namespace:?}"))?
            .trim()
            .to_owned();
        ensure!(!namespace.is_empty(), "the pod's namespace is empty");
        let server = Server { host, port, tls: trusting(&account.join("ca.crt"))? };
        Ok(ConfigMap { server, account, namespace, name: name.to_owned() })
    }

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
        let token = self.account.join("token");
        let token =
            std::fs::read_to_string(&token).with_context(|| format!("cannot read {token:?}"))?;
        let answer = self.server.request(method, path, token.trim(), body).with_context(|| {
            format!("the API server at {}:{}", self.server.host, self.server.port)
        })?;
        Ok((answer.status, answer.body))
    }

    /// Reads it; none: it is not there. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or is no claim.
    pub(crate) fn read(&self) -> anyhow::Result<Found> {
        let (status, body) =
            self.ask("GET", &format!("{}/{}", self.collection(), self.name), "")?;
        match status {
            200 => parse(&body).with_context(|| format!("the ConfigMap {}", self.name)).map(Some),
            404 => Ok(None),
            other => bail!("reading the ConfigMap {}: {}", self.name, told(other, &body)),
        }
    }

    /// Writes it; `false`: somebody else was first. Blocks.
    ///
    /// # Errors
    /// When it is not known whether it was written: it has to be read again.
    pub(crate) fn write(&self, write: &ClaimWrite) -> anyhow::Result<bool> {
        let (method, path, body) = match write {
            ClaimWrite::Create(claim) => ("POST", self.collection(), self.object(claim, None)),
            ClaimWrite::Replace { version, claim } => {
                let path = format!("{}/{}", self.collection(), self.name);
                ("PUT", path, self.object(claim, Some(version)))
            }
        };
        match self.ask(method, &path, &body)? {
            (200 | 201, _) => Ok(true),
            (404 | 409, _) => Ok(false),
            (other, body) => bail!("writing the ConfigMap {}: {}", self.name, told(other, &body)),
        }
    }

    fn object(&self, claim: &Claim, version: Option<&String>) -> String {
        let mut metadata = json!({ "name": self.name, "namespace": self.namespace });
        if let Some(version) = version {
            metadata["resourceVersion"] = json!(version);
        }
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {
                "cluster": claim.cluster.to_string(),
                "founder": claim.founder.to_string(),
                "confirmed": claim.confirmed.to_string(),
            },
        })
        .to_string()
    }
}

fn parse(body: &str) -> anyhow::Result<(Claim, String)> {
    let object: Value = serde_json::from_str(body)?;
    let data = |key: &str| object["data"][key].as_str().with_context(|| format!("lacks {key}"));
    let id = |key: &str| {
        let text = data(key)?;
        u128::from_str_radix(text, 16).with_context(|| format!("{key} is {text:?}"))
    };
    let version = object["metadata"]["resourceVersion"].as_str().context("lacks a version")?;
    let claim = Claim {
        cluster: ClusterId(id("cluster")?),
        founder: StoreId(id("founder")?),
        confirmed: data("confirmed")? == "true",
    };
    Ok((claim, version.to_owned()))
}

/// What the API server says of a refusal.
fn told(status: u16, body: &str) -> String {
    let message = serde_json::from_str::<Value>(body).ok();
    let message = message.as_ref().and_then(|object| object["message"].as_str());
    format!("status {status} {}", message.unwrap_or_default())
}
