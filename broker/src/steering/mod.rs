//! Which shard gets a new connection, when the kernel may be asked to see to it.
//!
//! Upholds KRN-1: whatever of this is off, the broker behaves the same. The
//! kernel's hash then spreads connections, and what would be refused in the
//! kernel is refused after the accept.

pub mod report;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tidegate_kernel::mapped::Gauge;
use tidegate_kernel::program::Facts;
use tidegate_kernel::steering::{self, Admission, Counts, Load, Policy, Setup, Steering};
use tracing::{info, warn};

use crate::config::{Bind, Config, Listener, Mode, ProxyProtocol, Rate, Weights, ebpf::WEIGHT_MAX};
use crate::net::admission::{IN_KERNEL_LISTENER, IN_KERNEL_SOURCES};
use crate::net::listener::Bound;
use crate::node::cores::Cores;

/// How often choices that came to nothing are written off.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// The steering of a node.
#[derive(Debug)]
pub struct Steer {
    mode: Mode,
    shards: usize,
    prefix_bits: (u8, u8),
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The program; none where it is off.
    steering: Option<Steering>,
    /// Why it is off.
    why: Option<String>,
    /// In the order of the config.
    listeners: Vec<Steered>,
}

/// A listener and its steering.
#[derive(Clone, Debug)]
struct Steered {
    name: String,
    /// None of a Unix socket.
    address: Option<SocketAddr>,
    /// As asked for.
    setup: Setup,
    /// Whether the rate of a source is the kernel's affair: not behind a proxy,
    /// which tells who it is only later.
    sources: bool,
    /// Why it is not in effect; none if it is.
    why: Option<String>,
}

impl Steer {
    /// Of a node that does not steer.
    pub fn off(shards: usize, why: &str) -> Steer {
        let inner = Inner { why: Some(why.to_owned()), ..Inner::default() };
        Steer { mode: Mode::Off, shards, prefix_bits: (32, 64), inner: Mutex::new(inner) }
    }

    /// Loads the program and attaches it to the listeners, which have just been
    /// opened. `seed` has to be unpredictable.
    ///
    /// # Errors
    /// When it is required and does not load, or a listener's settings do not
    /// fit the number of shards.
    pub fn start(
        config: &Config,
        bound: &[Bound],
        shards: usize,
        cores: &Cores,
        seed: u32,
    ) -> anyhow::Result<Steer> {
        for listener in &config.listeners {
            check_weights(&listener.name, &listener.shard_weights, shards)?;
        }
        let limits = &config.settings.limits;
        let prefix_bits = (limits.source_prefix_v4, limits.source_prefix_v6);
        let mode = config.ebpf.steer;
        let cpus: Vec<_> =
            (0..shards).filter_map(|shard| Some((cores.core(shard, shards)?, shard))).collect();
        let mut inner = Inner::default();
        match mode {
            Mode::Off => inner.why = Some("ebpf.steer = \"off\"".into()),
            Mode::Auto | Mode::Require => match Steering::load(shards, seed, &cpus) {
                Ok(steering) => inner.steering = Some(steering),
                Err(error) => inner.why = Some(error.to_string()),
            },
        }
        if let (Mode::Require, Some(why)) = (mode, &inner.why) {
            bail!("ebpf.steer = \"require\": {why}; use \"auto\" to run without it");
        }
        for (index, (listener, bound)) in config.listeners.iter().zip(bound).enumerate() {
            let mut steered = Steered {
                name: listener.name.clone(),
                address: match &bound.address {
                    Bind::Tcp(address) => Some(*address),
                    Bind::Unix(_) => None,
                },
                setup: setup(listener, shards, prefix_bits),
                sources: is_told_by_nobody(listener),
                why: inner.why.clone(),
            };
            if let (Some(steering), Some(address)) = (&mut inner.steering, steered.address) {
                let setup = steered.in_kernel();
                if let Err(error) = steering.attach(index, address, &bound.sockets, setup) {
                    steered.why = Some(error.to_string());
                }
            } else if steered.address.is_none() {
                steered.why = Some("a Unix socket, which all shards share".into());
            }
            if let (Mode::Require, Some(_), Some(why)) = (mode, steered.address, &steered.why) {
                bail!("ebpf.steer = \"require\": listener.{}: {why}", steered.name);
            }
            inner.listeners.push(steered);
        }
        Ok(Steer { mode, shards, prefix_bits, inner: Mutex::new(inner) })
    }

    /// Whether a program is loaded.
    pub fn is_on(&self) -> bool {
        self.lock().steering.is_some()
    }

    /// Says in a line what is in effect.
    pub fn announce(&self) {
        let inner = self.lock();
        match (&inner.steering, &inner.why) {
            (Some(steering), _) => {
                let facts = steering.facts();
                info!(
                    program = steering.program(),
                    id = facts.id,
                    shards = self.shards,
                    "eBPF steering is on"
                );
                for listener in &inner.listeners {
                    if let (Some(why), Some(_)) = (&listener.why, listener.address) {
                        warn!(
                            listener = listener.name,
                            why, "not steered; the kernel spreads its connections by hash"
                        );
                    }
                }
            }
            (None, why) => {
                let why = why.as_deref().unwrap_or("unknown");
                info!(why, "eBPF steering is off; the kernel spreads connections by hash");
            }
        }
    }

    /// Where a shard tells how many connections it has.
    pub fn gauge(&self, shard: usize) -> Gauge {
        self.lock().steering.as_ref().map_or_else(Gauge::none, |steering| steering.gauge(shard))
    }

    /// What of a listener's admission the kernel sees to, in bits of
    /// [`crate::net::admission`].
    pub fn in_kernel(&self, listener: usize) -> u8 {
        match self.lock().listeners.get(listener) {
            Some(steered) if steered.why.is_none() => {
                IN_KERNEL_LISTENER | if steered.sources { IN_KERNEL_SOURCES } else { 0 }
            }
            Some(_) | None => 0,
        }
    }

    /// Takes over the settings of a config that was read again. Weights that
    /// were set by hand give way to it. Returns what there is to say.
    pub fn reload(&self, config: &Config) -> Vec<String> {
        let mut said = Vec::new();
        let mut inner = self.lock();
        let inner = &mut *inner;
        for (index, steered) in inner.listeners.iter_mut().enumerate() {
            let Some(listener) = config.listeners.iter().find(|l| l.name == steered.name) else {
                continue;
            };
            if let Err(error) = check_weights(&listener.name, &listener.shard_weights, self.shards)
            {
                said.push(format!("{error}; the old settings stay in effect"));
                continue;
            }
            let new = setup(listener, self.shards, self.prefix_bits);
            if new == steered.setup {
                continue;
            }
            steered.setup = new;
            let setup = steered.in_kernel();
            if let Some(steering) = inner.steering.as_mut().filter(|_| steered.why.is_none())
                && let Err(error) = steering.set(index, setup)
            {
                said.push(format!("listener.{}: steering: {error}", steered.name));
            }
        }
        said
    }

    /// Changes a shard's weight on a listener, or on all that are steered.
    ///
    /// # Errors
    /// When there is no such listener or shard, it is not steered, or no shard
    /// would be left.
    pub fn set_weight(
        &self,
        listener: Option<&str>,
        shard: usize,
        weight: u8,
    ) -> anyhow::Result<String> {
        if shard >= self.shards {
            bail!("shard {shard}: there are shards 0 to {}", self.shards - 1);
        }
        if weight > WEIGHT_MAX {
            bail!("weight {weight}: use 0 to {WEIGHT_MAX}");
        }
        let mut inner = self.lock();
        let Inner { steering, why, listeners } = &mut *inner;
        let Some(steering) = steering else {
            bail!("steering is off: {}", why.as_deref().unwrap_or("unknown"));
        };
        let names = || listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
        let chosen: Vec<usize> = match listener {
            None => (0..listeners.len()).filter(|at| listeners[*at].why.is_none()).collect(),
            Some(name) => match listeners.iter().position(|l| l.name == name) {
                Some(at) => vec![at],
                None => bail!("listener {name:?} is none of this node's: {}", names()),
            },
        };
        for at in &chosen {
            let Steered { name, setup, why, .. } = &listeners[*at];
            if let Some(why) = why {
                bail!("listener {name:?} is not steered: {why}");
            }
            let others = setup.weights.iter().enumerate().filter(|(at, _)| *at != shard);
            if weight == 0 && others.clone().all(|(_, weight)| *weight == 0) {
                bail!("listener {name:?}: shard {shard} is the last with a weight above 0");
            }
        }
        let mut said = String::new();
        for at in chosen {
            steering.set_weight(at, shard, weight).context("the kernel refuses")?;
            let Steered { name, setup, .. } = &mut listeners[at];
            let old = std::mem::replace(&mut setup.weights[shard], weight);
            info!(listener = name.as_str(), shard, old, new = weight, "weight set");
            said += &format!("listener {name}: weight of shard {shard}: {old} -> {weight}\n");
        }
        Ok(said)
    }

    /// What is in effect now.
    pub fn status(&self) -> Status {
        let inner = self.lock();
        let steering = inner.steering.as_ref();
        let listeners = inner.listeners.iter().enumerate().map(|(index, steered)| {
            let on = steering.filter(|_| steered.why.is_none());
            ListenerStatus {
                name: steered.name.clone(),
                address: steered.address,
                policy: steered.setup.policy,
                effective: on.map(|_| steered.setup.policy),
                why: steered.why.clone(),
                weights: on.map_or_else(Vec::new, |_| steered.setup.weights.clone()),
                picked: on.and_then(|s| s.picked(index).ok()).unwrap_or_default(),
                counts: on.and_then(|s| s.counts(index).ok()),
            }
        });
        Status {
            mode: self.mode,
            shards: self.shards,
            why: inner.why.clone(),
            program: steering.map(Steering::facts),
            tried: steering.map_or_else(Vec::new, |s| s.tried().to_vec()),
            loads: steering.map_or_else(Vec::new, |s| {
                (0..self.shards).map(|shard| s.load_of(shard)).collect()
            }),
            listeners: listeners.collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is in it is whole between two statements.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is in effect.
#[derive(Clone, Debug)]
pub struct Status {
    /// As configured.
    pub mode: Mode,
    /// Shards of the node.
    pub shards: usize,
    /// Why the program is off; none if it is on.
    pub why: Option<String>,
    /// The program in effect.
    pub program: Option<Facts>,
    /// Better programs that the kernel did not take, and why.
    pub tried: Vec<(String, String)>,
    /// By shard; empty when off.
    pub loads: Vec<Load>,
    /// In the order of the config.
    pub listeners: Vec<ListenerStatus>,
}

/// What is in effect on a listener.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// Its name in the config.
    pub name: String,
    /// Where it listens; none of a Unix socket.
    pub address: Option<SocketAddr>,
    /// As configured.
    pub policy: Policy,
    /// In effect; none: the kernel's hash.
    pub effective: Option<Policy>,
    /// Why it is not as configured.
    pub why: Option<String>,
    /// By shard; empty when not in effect.
    pub weights: Vec<u8>,
    /// How often each shard was chosen.
    pub picked: Vec<u64>,
    /// What happened.
    pub counts: Option<Counts>,
}

impl Steered {
    /// What of the settings the kernel gets.
    fn in_kernel(&self) -> Setup {
        let mut setup = self.setup.clone();
        if !self.sources {
            setup.admission.prefix_rate = None;
        }
        setup
    }
}

/// Starts the thread that writes off what was chosen and never came.
///
/// # Errors
/// When there can be no thread.
pub fn keep(steer: Arc<crate::shard::Shared>) -> io::Result<()> {
    if steer.steer.lock().steering.is_none() {
        return Ok(());
    }
    thread::Builder::new().name("steering".to_owned()).spawn(move || {
        loop {
            thread::sleep(SETTLE_EVERY);
            if let Some(steering) = &mut steer.steer.lock().steering {
                steering.settle();
            }
        }
    })?;
    Ok(())
}

/// Whether where a connection comes from is what the kernel sees.
fn is_told_by_nobody(listener: &Listener) -> bool {
    let forwards = listener.transport.has_websocket() && !listener.trusted_sources.0.is_empty();
    listener.proxy_protocol == ProxyProtocol::Off && !forwards
}

fn setup(listener: &Listener, shards: usize, prefix_bits: (u8, u8)) -> Setup {
    let rate = |rate: Option<Rate>| {
        rate.map(|Rate { per_second, burst }| steering::Rate { per_second, burst })
    };
    Setup {
        policy: listener.steering,
        weights: listener.shard_weights.of(shards),
        admission: Admission {
            rate: rate(listener.connects),
            prefix_rate: rate(listener.source_connects),
            prefix_bits,
            blocked: listener.blocked_sources.0.clone(),
        },
    }
}

/// The config cannot know how many shards there will be.
fn check_weights(name: &str, weights: &Weights, shards: usize) -> anyhow::Result<()> {
    let given = weights.0.len();
    if given > shards {
        bail!("listener.{name}.shard_weights: {given} weights for {shards} shards; leave some out");
    }
    if weights.of(shards).iter().all(|weight| *weight == 0) {
        bail!(
            "listener.{name}.shard_weights: all {shards} shards have 0, no connection could come; \
             give one a weight of 1 to {WEIGHT_MAX}"
        );
    }
    Ok(())
}
