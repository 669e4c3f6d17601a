//! The program that gives each new connection to a shard, and refuses some.
//!
//! Order matters and is kept here: sockets, tables and addresses first, the
//! attachment last. From then on the kernel asks the program for each
//! connection of that listener. It goes on when this value is dropped, with the
//! last settings, until the sockets are closed.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ReusePortSockArray};
use aya::programs::{ProgramError, SkReuseport};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use serde::Serialize;
use tidegate_ebpf_abi::steer as abi;
use tidegate_ebpf_abi::{LISTENERS_MAX, SHARDS_MAX, slot};

use crate::affinity;
use crate::blocks;
use crate::capabilities;
use crate::mapped::{Gauge, Mapped};
use crate::objects::STEER;
use crate::program::{Facts, chain, explain};

/// Calls of [`Steering::settle`] for which a choice may wait to be accepted.
const SETTLE_AFTER: usize = 5;

/// How a listener's connections are given to shards.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// To the one with the fewest for its weight.
    #[default]
    Least,
    /// By the client's address (IPv6: its /64), each always to the same one.
    Affinity,
    /// To the one of the CPU that received the packet.
    Cpu,
    /// By addresses and ports.
    Hash,
}

impl Policy {
    fn number(self) -> u32 {
        match self {
            Policy::Least => abi::POLICY_LEAST,
            Policy::Affinity => abi::POLICY_AFFINITY,
            Policy::Cpu => abi::POLICY_CPU,
            Policy::Hash => abi::POLICY_HASH,
        }
    }

    /// Its word in the config.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Policy::Least => "least",
            Policy::Affinity => "affinity",
            Policy::Cpu => "cpu",
            Policy::Hash => "hash",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// So many new connections a second, and so many at once after a rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// In the long run; 0: no limit.
    pub per_second: u32,
    /// At once; at least 1.
    pub burst: u32,
}

/// Whom a listener lets in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Admission {
    /// Of all sources together.
    pub rate: Option<Rate>,
    /// Of one source prefix.
    pub prefix_rate: Option<Rate>,
    /// Length of a prefix, of IPv4 and IPv6.
    pub prefix_bits: (u8, u8),
    /// Sources that are refused.
    pub blocked: Vec<IpNet>,
}

/// How a listener steers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Setup {
    /// How a shard is chosen.
    pub policy: Policy,
    /// 0 to 100, of each shard; 0: no new connections.
    pub weights: Vec<u8>,
    /// Whom it lets in.
    pub admission: Admission,
}

/// Why nothing could be loaded: each program that was tried, and what it said.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no steering program loads: {}", reasons(.tried))]
pub struct LoadError {
    /// In the order of trying.
    pub tried: Vec<(String, String)>,
}

fn reasons(tried: &[(String, String)]) -> String {
    let each: Vec<_> = tried
        .iter()
        .map(|(program, why)| match program.as_str() {
            "all" => why.clone(),
            program => format!("{program}: {why}"),
        })
        .collect();
    each.join("; ")
}

/// A setting that the kernel did not take.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// A listener or shard beyond what the maps hold.
    #[error("{what} {value} is out of range: 0 to {max}")]
    Range {
        /// Which number.
        what: &'static str,
        /// As given.
        value: usize,
        /// The largest.
        max: usize,
    },
    /// A map.
    #[error("map {name}: {source}")]
    Map {
        /// Its name in the object.
        name: &'static str,
        /// What the kernel says.
        source: MapError,
    },
    /// The attachment.
    #[error("cannot attach the program: {0}")]
    Attach(#[from] ProgramError),
    /// The listener is not steered.
    #[error("listener {0} is not attached")]
    NotAttached(usize),
}

/// What happened at a listener since it was attached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// The policy's own choice was taken.
    pub selected: u64,
    /// That one was drained or closed: the next usable one.
    pub fallback_ring: u64,
    /// None of ours: the kernel's hash.
    pub fallback_hash: u64,
    /// Waiting connections of a closed socket, given to another.
    pub migrated: u64,
    /// Refused: the listener's rate.
    pub refused_rate: u64,
    /// Refused: the source prefix's rate.
    pub refused_prefix: u64,
    /// Refused: a blocked source.
    pub refused_blocked: u64,
    /// Let through uncounted for contention, or for want of room for a prefix.
    pub uncharged: u64,
    /// Packets that are no SYN: never charged.
    pub stray: u64,
    /// Sockets that the kernel would not take.
    pub errors: u64,
}

/// A shard's load as the program sees it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Load {
    /// Connections it has.
    pub live: u64,
    /// Accepted, ever.
    pub accepted: u64,
    /// Chosen for it, ever.
    pub picked: u64,
    /// Chosen and expected, but not accepted yet.
    pub pending: u64,
}

/// The loaded program, and the listeners it serves.
pub struct Steering {
    ebpf: Ebpf,
    program: &'static str,
    tried: Vec<(String, String)>,
    loads: Arc<Mapped>,
    shards: usize,
    seed: u32,
    listeners: [Option<Attached>; LISTENERS_MAX],
    blocked: BTreeMap<IpNet, u32>,
    /// Of each shard: what waited at the last calls of `settle`.
    waiting: Vec<VecDeque<u64>>,
}

struct Attached {
    setup: Setup,
    /// Bit n: shard n has a socket.
    sockets: u64,
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Steering {
    /// Loads the first of the programs that the kernel takes. `cpus` tells which
    /// shard is next to which CPU; `seed` has to be unpredictable, or clients
    /// could all choose one shard. Takes some 50 ms and 10 MB of kernel memory.
    ///
    /// # Errors
    /// When it takes none, with the reason of each.
    pub fn load(shards: usize, seed: u32, cpus: &[(usize, usize)]) -> Result<Steering, LoadError> {
        Steering::load_one_of(&abi::PROGRAMS, shards, seed, cpus)
    }

    /// The same with some of the programs alone.
    ///
    /// # Errors
    /// When the kernel takes none of them.
    pub fn load_one_of(
        programs: &[&'static str],
        shards: usize,
        seed: u32,
        cpus: &[(usize, usize)],
    ) -> Result<Steering, LoadError> {
        let mut tried = Vec::new();
        if !(1..=SHARDS_MAX).contains(&shards) {
            let why = format!("{shards} shards: 1 to {SHARDS_MAX} can be steered");
            return Err(LoadError { tried: vec![("all".into(), why)] });
        }
        if let Some(why) = capabilities::lacking(&["BPF"]) {
            return Err(LoadError { tried: vec![("all".into(), why)] });
        }
        for program in programs {
            match Steering::load_this(program, shards, seed, cpus) {
                Ok(mut steering) => {
                    steering.tried = tried;
                    return Ok(steering);
                }
                Err(why) => tried.push(((*program).to_owned(), why)),
            }
        }
        Err(LoadError { tried })
    }

    fn load_this(
        name: &'static str,
        shards: usize,
        seed: u32,
        cpus: &[(usize, usize)],
    ) -> Result<Steering, String> {
        let mut ebpf = EbpfLoader::new().load(STEER).map_err(|error| chain(&error))?;
        let program = ebpf.program_mut(name).ok_or("it is not in the object")?;
        let program: &mut SkReuseport = program.try_into().map_err(|e: ProgramError| chain(&e))?;
        program.load().map_err(|error| explain(&error))?;
        let Some(Map::Array(map)) = ebpf.map(abi::MAP_LOADS) else {
            return Err(format!("map {} is not in the object", abi::MAP_LOADS));
        };
        let loads = Mapped::new(map.fd().as_fd()).map_err(|error| chain(&error))?;
        let mut steering = Steering {
            ebpf,
            program: name,
            tried: Vec::new(),
            loads: Arc::new(loads),
            shards,
            seed,
            listeners: std::array::from_fn(|_| None),
            blocked: BTreeMap::new(),
            waiting: vec![VecDeque::new(); shards],
        };
        steering.set_cpus(cpus).map_err(|error| error.to_string())?;
        Ok(steering)
    }

    /// Where shard `shard` counts.
    #[must_use]
    pub fn gauge(&self, shard: usize) -> Gauge {
        Gauge::new(Arc::clone(&self.loads), shard)
    }

    /// Steers a listener: `sockets` are those of shards 0 on, all bound to
    /// `address` with SO_REUSEPORT, and listening.
    ///
    /// # Errors
    /// When the kernel does not take a socket or a setting. The listener is then
    /// spread by the kernel's hash.
    pub fn attach<S: AsFd>(
        &mut self,
        listener: usize,
        address: SocketAddr,
        sockets: &[S],
        setup: Setup,
    ) -> Result<(), SteerError> {
        let done = self.attach_now(listener, address, sockets, setup);
        if done.is_err()
            && let Some(attached) = self.listeners.get_mut(listener)
        {
            *attached = None;
        }
        done
    }

    fn attach_now<S: AsFd>(
        &mut self,
        listener: usize,
        address: SocketAddr,
        sockets: &[S],
        setup: Setup,
    ) -> Result<(), SteerError> {
        in_range("listener", listener, LISTENERS_MAX)?;
        let Some(last) = sockets.len().checked_sub(1) else {
            return Err(SteerError::Range { what: "sockets", value: 0, max: self.shards });
        };
        in_range("shard", last, self.shards)?;
        let mut map: ReusePortSockArray<_> = self.map(abi::MAP_SOCKETS)?;
        let mut present = 0;
        for (shard, socket) in sockets.iter().enumerate() {
            let at = slot(listener, shard) as u32;
            map.set(at, &socket.as_fd().as_raw_fd(), 0).map_err(named(abi::MAP_SOCKETS))?;
            present |= 1 << shard;
        }
        self.listeners[listener] = Some(Attached { setup, sockets: present });
        self.apply(listener)?;
        self.forget(listener, true, true)?;
        let mut index: HashMap<_, abi::Address, u32> = self.map(abi::MAP_INDEX)?;
        index.insert(key(address), listener as u32, 0).map_err(named(abi::MAP_INDEX))?;
        let program = self.ebpf.program(self.program).ok_or(SteerError::NotAttached(listener))?;
        let program: &SkReuseport = program.try_into()?;
        program.attach(&sockets[0])?;
        Ok(())
    }

    /// Gives a listener back to the kernel's hash; `socket` is any of its group.
    ///
    /// # Errors
    /// When it has no program.
    pub fn detach<S: AsFd>(&mut self, listener: usize, socket: &S) -> Result<(), SteerError> {
        in_range("listener", listener, LISTENERS_MAX)?;
        self.listeners[listener] = None;
        SkReuseport::detach(socket)?;
        Ok(())
    }

    /// A listener's settings.
    #[must_use]
    pub fn setup(&self, listener: usize) -> Option<&Setup> {
        self.listeners.get(listener)?.as_ref().map(|attached| &attached.setup)
    }

    /// Changes them; in effect for the next connection.
    ///
    /// # Errors
    /// When it is not attached, or the kernel does not take them.
    pub fn set(&mut self, listener: usize, setup: Setup) -> Result<(), SteerError> {
        for weight in &setup.weights {
            in_range("weight", usize::from(*weight), 101)?;
        }
        let attached = self.listeners.get_mut(listener).and_then(Option::as_mut);
        let attached = attached.ok_or(SteerError::NotAttached(listener))?;
        let (was, is) = (&attached.setup.admission, &setup.admission);
        let rate = was.rate != is.rate;
        let prefixes = (was.prefix_rate, was.prefix_bits) != (is.prefix_rate, is.prefix_bits);
        attached.setup = setup;
        self.apply(listener)?;
        self.forget(listener, rate, prefixes)
    }

    /// Changes one shard's weight on a listener.
    ///
    /// # Errors
    /// When the listener is not attached, it has no such shard, or the weight
    /// is above 100.
    pub fn set_weight(
        &mut self,
        listener: usize,
        shard: usize,
        weight: u8,
    ) -> Result<(), SteerError> {
        in_range("shard", shard, self.shards)?;
        in_range("weight", weight.into(), 101)?;
        let mut setup = self.setup(listener).ok_or(SteerError::NotAttached(listener))?.clone();
        setup.weights.resize(self.shards, 100);
        setup.weights[shard] = weight;
        self.set(listener, setup)
    }

    /// Choices that were never accepted, and older than some calls of this one,
    /// no longer count as pending: clients that went away in the middle of the
    /// handshake. To be called once a second.
    pub fn settle(&mut self) {
        for shard in 0..self.shards {
            let load = self.loads.load(shard);
            let unaccepted = load.picked.wrapping_sub(load.accepted);
            let pending = unaccepted.wrapping_sub(load.settled) as i64;
            let window = &mut self.waiting[shard];
            if pending < 0 {
                // What was written off came in after all.
                self.loads.settle(shard, unaccepted);
                window.clear();
                continue;
            }
            window.push_back(pending as u64);
            if window.len() > SETTLE_AFTER {
                window.pop_front();
                let least = window.iter().copied().min().unwrap_or(0);
                if least > 0 {
                    self.loads.settle(shard, load.settled.wrapping_add(least));
                    window.clear();
                }
            }
        }
    }

    /// What a shard has.
    #[must_use]
    pub fn load_of(&self, shard: usize) -> Load {
        let load = self.loads.load(shard.min(SHARDS_MAX - 1));
        let pending = load.picked.wrapping_sub(load.accepted).wrapping_sub(load.settled) as i64;
        Load {
            live: load.live,
            accepted: load.accepted,
            picked: load.picked,
            pending: pending.max(0) as u64,
        }
    }

    /// How often each shard was chosen on a listener.
    ///
    /// # Errors
    /// When the kernel will not say.
    pub fn picked(&self, listener: usize) -> Result<Vec<u64>, SteerError> {
        in_range("listener", listener, LISTENERS_MAX)?;
        let map: Array<_, abi::Picked> = self.map_ref(abi::MAP_PICKED)?;
        let picked = map.get(&(listener as u32), 0).map_err(named(abi::MAP_PICKED))?;
        Ok(picked.picked[..self.shards].to_vec())
    }

    /// What happened on a listener.
    ///
    /// # Errors
    /// When the kernel will not say.
    pub fn counts(&self, listener: usize) -> Result<Counts, SteerError> {
        in_range("listener", listener, LISTENERS_MAX)?;
        let map: PerCpuArray<_, abi::Counts> = self.map_ref(abi::MAP_COUNTS)?;
        let cpus = map.get(&(listener as u32), 0).map_err(named(abi::MAP_COUNTS))?;
        let sum = |field: fn(&abi::Counts) -> u64| cpus.iter().map(field).sum();
        Ok(Counts {
            selected: sum(|c| c.selected),
            fallback_ring: sum(|c| c.fallback_ring),
            fallback_hash: sum(|c| c.fallback_hash),
            migrated: sum(|c| c.migrated),
            refused_rate: sum(|c| c.refused_rate),
            refused_prefix: sum(|c| c.refused_prefix),
            refused_blocked: sum(|c| c.refused_blocked),
            uncharged: sum(|c| c.contended + c.prefixes_full),
            stray: sum(|c| c.stray),
            errors: sum(|c| c.errors),
        })
    }

    /// The program in effect.
    #[must_use]
    pub fn program(&self) -> &'static str {
        self.program
    }

    /// What the kernel tells of it.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let program = self.ebpf.program(self.program);
        let program = program.and_then(|p| <&SkReuseport>::try_from(p).ok());
        match program.and_then(|program| program.fd().ok()) {
            Some(descriptor) => Facts::read(self.program, descriptor.as_fd()),
            None => Facts { name: self.program.to_owned(), ..Facts::default() },
        }
    }

    /// Better programs that the kernel did not take, and why.
    #[must_use]
    pub fn tried(&self) -> &[(String, String)] {
        &self.tried
    }

    /// Fills what the program reads of a listener; its own record last.
    fn apply(&mut self, listener: usize) -> Result<(), SteerError> {
        let attached = self.listeners[listener].as_ref();
        let Attached { setup, sockets } = attached.ok_or(SteerError::NotAttached(listener))?;
        let (setup, sockets) = (setup.clone(), *sockets);
        let at = listener as u32;
        let mut weights = setup.weights.clone();
        weights.resize(self.shards, 100);
        for weight in &weights {
            in_range("weight", usize::from(*weight), 101)?;
        }

        let mut inverse = abi::Weights { inverse: [0; SHARDS_MAX] };
        let mut usable = 0;
        for (shard, weight) in weights.iter().enumerate() {
            inverse.inverse[shard] = abi::inverse_weight((*weight).into());
            usable |= u64::from(*weight > 0) << shard;
        }
        let mut map: Array<_, abi::Weights> = self.map(abi::MAP_WEIGHTS)?;
        map.set(at, inverse, 0).map_err(named(abi::MAP_WEIGHTS))?;
        // Of shards that have a socket, or a bucket would go nowhere.
        for (shard, weight) in weights.iter_mut().enumerate() {
            *weight *= u8::from(sockets >> shard & 1 == 1);
        }
        let table = abi::Table { shard: affinity::table(&weights) };
        let mut map: Array<_, abi::Table> = self.map(abi::MAP_TABLES)?;
        map.set(at, table, 0).map_err(named(abi::MAP_TABLES))?;
        self.apply_blocks()?;

        let admission = &setup.admission;
        let rate = |rate: Option<Rate>| {
            rate.map_or(abi::Rate::UNLIMITED, |r| abi::Rate::per_second(r.per_second, r.burst))
        };
        let blocks = if admission.blocked.is_empty() { 0 } else { abi::FLAG_BLOCKS };
        let record = abi::Listener {
            policy: setup.policy.number(),
            shards: self.shards as u32,
            flags: abi::FLAG_PENDING | blocks,
            seed: self.seed,
            usable: usable & sockets,
            rate: rate(admission.rate),
            prefix_rate: rate(admission.prefix_rate),
            mask_v4: abi::mask_v4(admission.prefix_bits.0.into()),
            mask_v6: abi::mask_v6(admission.prefix_bits.1.into()),
            ..abi::Listener::default()
        };
        let mut map: Array<_, abi::Listener> = self.map(abi::MAP_LISTENERS)?;
        map.set(at, record, 0).map_err(named(abi::MAP_LISTENERS))
    }

    /// Empties the buckets of a listener whose rate is another one now: what was
    /// used up of a slow rate would be owed for as long as it took.
    fn forget(&mut self, listener: usize, rate: bool, prefixes: bool) -> Result<(), SteerError> {
        if rate {
            let mut map: Array<_, u64> = self.map(abi::MAP_BUCKETS)?;
            map.set(listener as u32, 0, 0).map_err(named(abi::MAP_BUCKETS))?;
        }
        if prefixes {
            let mut map: HashMap<_, abi::Prefix, u64> = self.map(abi::MAP_PREFIXES)?;
            // Bounded, as looking begins again when the kernel takes one away.
            let keys = map.keys().take(abi::PREFIXES_MAX).filter_map(Result::ok);
            let keys: Vec<_> = keys.filter(|key| key.listener == listener as u32).collect();
            for key in &keys {
                // What is not there any more is gone as well.
                let _ = map.remove(key);
            }
        }
        Ok(())
    }

    /// Brings the block lists of all listeners into the kernel: new ones first,
    /// so that nobody who stays blocked gets through in between.
    fn apply_blocks(&mut self) -> Result<(), SteerError> {
        let lists: Vec<Vec<IpNet>> = self
            .listeners
            .iter()
            .map(|l| l.as_ref().map_or_else(Vec::new, |l| l.setup.admission.blocked.clone()))
            .collect();
        let wanted = blocks::flatten(&lists);
        if wanted == self.blocked {
            return Ok(());
        }
        let gone: Vec<IpNet> =
            self.blocked.keys().filter(|network| !wanted.contains_key(network)).copied().collect();
        let v4 = |network: &IpNet| match network.addr() {
            IpAddr::V4(ip) => Some(Key::new(network.prefix_len().into(), ip.octets())),
            IpAddr::V6(_) => None,
        };
        let v6 = |network: &IpNet| match network.addr() {
            IpAddr::V6(ip) => Some(Key::new(network.prefix_len().into(), ip.octets())),
            IpAddr::V4(_) => None,
        };
        replace(self.map(abi::MAP_BLOCKED_V4)?, &wanted, &gone, v4)
            .map_err(named(abi::MAP_BLOCKED_V4))?;
        replace(self.map(abi::MAP_BLOCKED_V6)?, &wanted, &gone, v6)
            .map_err(named(abi::MAP_BLOCKED_V6))?;
        self.blocked = wanted;
        Ok(())
    }

    fn set_cpus(&mut self, cpus: &[(usize, usize)]) -> Result<(), SteerError> {
        let mut table = abi::Cpus { shard: [abi::NO_SHARD; abi::CPUS_MAX] };
        for &(cpu, shard) in cpus {
            if let Some(entry) = table.shard.get_mut(cpu)
                && shard < self.shards
            {
                *entry = shard as u8;
            }
        }
        let mut map: Array<_, abi::Cpus> = self.map(abi::MAP_CPUS)?;
        map.set(0, table, 0).map_err(named(abi::MAP_CPUS))
    }

    fn map<'a, M>(&'a mut self, name: &'static str) -> Result<M, SteerError>
    where
        M: TryFrom<&'a mut Map, Error = MapError>,
    {
        let missing = || MapError::IoError(io::Error::other("it is not in the object"));
        let map = self.ebpf.map_mut(name).ok_or_else(missing).map_err(named(name))?;
        M::try_from(map).map_err(named(name))
    }

    fn map_ref<'a, M>(&'a self, name: &'static str) -> Result<M, SteerError>
    where
        M: TryFrom<&'a Map, Error = MapError>,
    {
        let missing = || MapError::IoError(io::Error::other("it is not in the object"));
        let map = self.ebpf.map(name).ok_or_else(missing).map_err(named(name))?;
        M::try_from(map).map_err(named(name))
    }
}

/// Writes the prefixes of one family, and takes out those that are gone.
fn replace<K: aya::Pod>(
    mut trie: LpmTrie<&mut MapData, K, u32>,
    wanted: &BTreeMap<IpNet, u32>,
    gone: &[IpNet],
    key: impl Fn(&IpNet) -> Option<Key<K>>,
) -> Result<(), MapError> {
    for (network, bits) in wanted {
        if let Some(key) = key(network) {
            trie.insert(&key, bits, 0)?;
        }
    }
    for key in gone.iter().filter_map(key) {
        // What is not there any more is gone as well.
        let _ = trie.remove(&key);
    }
    Ok(())
}

/// A map by name in an error.
fn named(name: &'static str) -> impl Fn(MapError) -> SteerError {
    move |source| SteerError::Map { name, source }
}

fn in_range(what: &'static str, value: usize, end: usize) -> Result<(), SteerError> {
    if value < end { Ok(()) } else { Err(SteerError::Range { what, value, max: end - 1 }) }
}

/// The key of a listening socket.
fn key(address: SocketAddr) -> abi::Address {
    let mut ip = [0; 16];
    let family = match address.ip() {
        IpAddr::V4(v4) => {
            ip[..4].copy_from_slice(&v4.octets());
            abi::FAMILY_V4
        }
        IpAddr::V6(v6) => {
            ip = v6.octets();
            abi::FAMILY_V6
        }
    };
    abi::Address { ip, port: address.port(), family, reserved: 0 }
}

// The maps' owner may move between threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Steering>();
    is_send::<MapData>();
};
