//! What answers while a node waits for its cluster: the control socket and the
//! admin port, until the admin thread takes over.
//!
//! A pod that waits for its peers is alive: a probe that restarted it would keep
//! the cluster from ever being complete.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::{io, thread};

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::cluster::{Cluster, faces};

/// The thread, until it is ended.
pub(super) struct Waiting {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Waiting {
    /// Starts it, on the same sockets that the admin thread will have.
    ///
    /// # Errors
    /// When there can be no thread or no runtime for it.
    pub(super) fn start(
        control: Option<&UnixListener>,
        admin: &TcpListener,
        cluster: Arc<Cluster>,
    ) -> io::Result<Waiting> {
        let control = control.map(UnixListener::try_clone).transpose()?;
        let admin = admin.try_clone()?;
        admin.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("waiting".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let asked = async {
                    match control.map(tokio::net::UnixListener::from_std) {
                        Some(Ok(control)) => {
                            let routes = faces::routes_while_starting(cluster.clone());
                            // It ends only with this thread.
                            let _ = axum::serve(control, routes).await;
                        }
                        Some(Err(_)) | None => std::future::pending().await,
                    }
                };
                let probed = async {
                    match tokio::net::TcpListener::from_std(admin) {
                        Ok(admin) => {
                            let routes = faces::health_while_starting(cluster.clone());
                            let _ = axum::serve(admin, routes).await;
                        }
                        Err(_) => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = asked => {}
                    () = probed => {}
                    _ = ended => {}
                }
            });
        })?;
        Ok(Waiting { end, thread })
    }

    /// Ends it; requests that are under way get no answer.
    pub(super) fn end(self) {
        // A thread that has ended needs no word.
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}
