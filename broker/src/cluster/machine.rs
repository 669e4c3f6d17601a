//! The metadata as the state machine of the meta group.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tidegate_cluster::meta::{Effect, Entry, Meta};
use tidegate_consensus::{Body, Entries, LogId, SnapshotSource, StateMachine};
use tokio::sync::watch;
use tracing::{info, warn};

use super::question::{Kind, Outcome};

/// Applies what is committed, and shows the result.
pub(crate) struct Machine {
    meta: Meta,
    shown: watch::Sender<Arc<Meta>>,
    /// False while what was applied by an earlier process comes again.
    telling: Arc<AtomicBool>,
}

impl Machine {
    pub(crate) fn new(shown: watch::Sender<Arc<Meta>>, telling: Arc<AtomicBool>) -> Machine {
        Machine { meta: Meta::new(), shown, telling }
    }

    fn show(&self) {
        self.shown.send_replace(Arc::new(self.meta.clone()));
    }

    fn tell(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Founded(cluster) => info!(%cluster, "the cluster is founded"),
                Effect::NodeChanged(id) => {
                    if let Some(node) = self.meta.node(*id) {
                        let (state, member) = (node.state.name(), node.member.0);
                        let address = &node.spec.address;
                        info!(node = %id, life = %node.spec.incarnation, member, state, %address,
                            "a node of the cluster");
                    }
                }
                Effect::NodeGone(life, member) => {
                    info!(%life, member = member.0, "that life of a node is over");
                }
                Effect::NodeForgotten(node) => info!(%node, "a node is forgotten"),
                Effect::PartitionLost(partition) => {
                    warn!(%partition, "a partition has no replica left");
                }
                Effect::LevelRaised(level) => info!(level, "the feature level rises"),
                Effect::GenerationRaised(generation) => {
                    warn!(generation, "nodes were given up for good");
                }
                Effect::Warn(warning) => warn!("{warning}"),
                Effect::PlacementChanged(_) | Effect::MoveChanged(_) | Effect::ConfigChanged => {}
            }
        }
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, log: LogId, payload: &Bytes) -> Vec<u8> {
        let outcome = match Entry::decode(payload) {
            Ok(entry) => match self.meta.apply(log.index, &entry) {
                Ok(effects) => {
                    if self.telling.load(Ordering::Relaxed) {
                        self.tell(&effects);
                    }
                    Outcome::Done(log.index)
                }
                Err(refused) => Outcome::Refused(Kind::of(&refused), refused.to_string()),
            },
            // The same on every node of this version.
            Err(error) => Outcome::Refused(Kind::Other, format!("an entry that is none: {error}")),
        };
        self.show();
        outcome.encode().to_vec()
    }

    fn snapshot(
        &mut self,
        _: Entries,
    ) -> impl Future<Output = io::Result<Box<dyn SnapshotSource>>> + Send + 'static {
        let bytes = Bytes::from(self.meta.snapshot());
        async move { Ok(Box::new(bytes) as Box<dyn SnapshotSource>) }
    }

    fn install(&mut self, body: Body) -> io::Result<()> {
        self.meta = Meta::restore(&body.read_all()?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.show();
        Ok(())
    }
}
