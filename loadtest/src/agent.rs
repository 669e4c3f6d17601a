//! An agent: a machine that lends itself to a coordinator elsewhere.
//!
//! Each connection becomes a worker process that speaks over it. A worker takes
//! a plan and no programs, but it does connect wherever the plan says: an agent
//! belongs in a trusted network, and listens on loopback unless told otherwise.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// Workers at one time; beyond, a coordinator is hung up on.
const WORKERS_MAX: usize = 64;

/// Serves until it is ended.
pub(crate) fn serve(listen: SocketAddr, mut says: impl FnMut(&str)) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    says(&format!("listening {}", listener.local_addr()?));
    let program = std::env::current_exe().context("find this program")?;
    let mut workers: Vec<Child> = Vec::new();
    for stream in listener.incoming() {
        workers.retain_mut(|worker| matches!(worker.try_wait(), Ok(None)));
        let Ok(stream) = stream else { continue };
        if workers.len() >= WORKERS_MAX {
            says("too many workers: a coordinator was hung up on");
            continue;
        }
        stream.set_nodelay(true)?;
        let orders = OwnedFd::from(stream.try_clone()?);
        let reports = OwnedFd::from(stream);
        let mut command = Command::new(&program);
        command.arg("worker").stdin(Stdio::from(orders)).stdout(Stdio::from(reports));
        workers.push(command.spawn().context("start a worker")?);
    }
    Ok(())
}
