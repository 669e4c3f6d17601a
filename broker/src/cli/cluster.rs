//! `tidegate cluster` and `tidegate node`.

use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;

use super::{NodeArgs, complain, percent};

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Show the cluster as a running node knows it, and what the node waits for
    Show {
        #[command(flatten)]
        node: NodeArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Found the cluster: once, at any one node (cluster.bootstrap = "init")
    Init {
        /// Also if peers do not answer; they must not belong to a cluster already
        #[arg(long)]
        despite_silent: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Have a node that is of no cluster yet look for it at an address as well
    Join {
        /// Host and port of a member
        address: String,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Empty a node and take it out of the cluster for good
    Leave {
        /// Its id, the beginning of it, or its address; without it the one that is asked
        #[arg(long = "node", value_name = "ID")]
        id: Option<String>,
        /// Wait until it has left
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Strike off a node that is gone
    Forget {
        /// Its id, the beginning of it, or its address
        id: String,
        /// Also if partitions count on it: what only it had is lost for good
        #[arg(long)]
        accept_data_loss: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Balance replicas over the nodes now, rather than a minute after the last join
    Rebalance {
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Give up nodes that never come back, so that the others can go on
    Recover {
        /// Their ids, the beginnings of them, or their addresses
        #[arg(required = true)]
        lost: Vec<String>,
        /// What only they had is lost for good
        #[arg(long)]
        accept_data_loss: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Show the nodes of the cluster
    Show {
        #[command(flatten)]
        node: NodeArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Empty a node, until it is undrained
    Drain {
        /// Its id, the beginning of it, or its address; without it the one that is asked
        #[arg(long = "node", value_name = "ID")]
        id: Option<String>,
        /// Wait until its clients, leaderships and replicas are elsewhere
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Let a node serve again
    Undrain {
        /// Its id, the beginning of it, or its address; without it the one that is asked
        #[arg(long = "node", value_name = "ID")]
        id: Option<String>,
        #[command(flatten)]
        node: NodeArgs,
    },
}

pub(super) fn cluster(command: ClusterCommand) -> anyhow::Result<String> {
    match command {
        ClusterCommand::Show { node, json } => node.ask("GET", &format!("/cluster?json={json}")),
        ClusterCommand::Init { despite_silent, node } => {
            node.ask("POST", &format!("/cluster/init?despite_silent={despite_silent}"))
        }
        ClusterCommand::Join { address, node } => {
            node.ask("POST", &format!("/cluster/join?address={}", percent(address.as_bytes())))
        }
        ClusterCommand::Leave { id, wait, node } => {
            emptied(&node, &format!("/cluster/leave{}", of_node(id.as_deref())), wait)
        }
        ClusterCommand::Forget { id, accept_data_loss, node } => {
            let id = percent(id.as_bytes());
            let query = format!("?node={id}&accept_data_loss={accept_data_loss}");
            node.ask("POST", &format!("/cluster/forget{query}"))
        }
        ClusterCommand::Rebalance { node } => node.ask("POST", "/cluster/rebalance"),
        ClusterCommand::Recover { lost, accept_data_loss, node } => {
            let lost = percent(lost.join(",").as_bytes());
            let query = format!("?lost={lost}&accept_data_loss={accept_data_loss}");
            node.ask("POST", &format!("/cluster/recover{query}"))
        }
    }
}

pub(super) fn members(command: NodeCommand) -> anyhow::Result<String> {
    match command {
        NodeCommand::Show { node, json } => node.ask("GET", &format!("/nodes?json={json}")),
        NodeCommand::Drain { id, wait, node } => {
            emptied(&node, &format!("/nodes/drain{}", of_node(id.as_deref())), wait)
        }
        NodeCommand::Undrain { id, node } => {
            node.ask("POST", &format!("/nodes/undrain{}", of_node(id.as_deref())))
        }
    }
}

/// Has a node emptied; with `wait` returns when it is.
fn emptied(node: &NodeArgs, target: &str, wait: bool) -> anyhow::Result<String> {
    let said = node.ask("POST", target)?;
    if !wait {
        return Ok(said);
    }
    complain(said.trim_end());
    let query = target.split_once('?').map_or(String::new(), |(_, query)| format!("&{query}"));
    let mut have = String::new();
    loop {
        let target = format!("/nodes/drained?have={}{query}", percent(have.as_bytes()));
        let answer: Value = serde_json::from_str(&node.ask("GET", &target)?)?;
        let said = answer["said"].as_str().context("an answer without words")?;
        if answer["done"] == true {
            return Ok(format!("{said}\n"));
        }
        if said != have {
            complain(said);
            have = said.to_owned();
        }
    }
}

/// A node as a query; none: the one that is asked.
fn of_node(id: Option<&str>) -> String {
    id.map_or(String::new(), |id| format!("?node={}", percent(id.as_bytes())))
}
