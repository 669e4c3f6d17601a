//! The steering program in the kernel of this machine.

#![allow(clippy::print_stdout)]

mod common;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use common::{Group, SHARDS, alone, between, connect, fill, load, or_skip, setup, source};
use tidegate_kernel::model;
use tidegate_kernel::steering::{Admission, Policy, Rate, Setup, Steering};

/// Half of them come back; both ends are in this process, whose descriptors
/// have a limit of 20,000.
const CONNECTIONS: usize = 8_000;

/// Fills 8 shards, closes all connections of three of them, and has as many
/// come back. Returns the imbalance after that.
fn imbalance_after_skew(steering: Option<&Steering>, group: &mut Group, batch: usize) -> f64 {
    let mut clients = fill(group, steering, CONNECTIONS, batch);
    let closed: usize = (0..3).map(|shard| group.close(shard, steering)).sum();
    // The clients' ends of what was closed; they are of no use any more.
    clients.retain(|client| client.take_error().is_ok_and(|error| error.is_none()));
    clients.extend(fill(group, steering, closed, batch));
    let sum: usize = group.counts().iter().sum();
    assert_eq!(sum, CONNECTIONS, "everybody is in");
    group.imbalance()
}

#[test]
fn connections_stay_balanced_after_three_shards_lost_theirs() {
    let _alone = alone();
    let Some(mut steering) = load() else { return };
    let mut plain = Group::new(SHARDS);
    let by_hash = imbalance_after_skew(None, &mut plain, 100);
    drop(plain);
    for (listener, batch) in [(0, 1), (1, 400)] {
        let mut group = Group::new(SHARDS);
        let sockets = group.sockets();
        steering.attach(listener, group.address, &sockets, setup(Policy::Least)).expect("attach");
        let least = imbalance_after_skew(Some(&steering), &mut group, batch);
        println!(
            "max/mean: kernel hash {by_hash:.3}, least accepting {batch} at a time {least:.3}"
        );
        assert!(least <= 1.02, "{:?}", group.counts());
        assert!(by_hash > 1.2, "the hash does not notice what is gone");
        let counts = steering.counts(listener).expect("counts");
        assert_eq!(counts.errors + counts.fallback_hash, 0, "{counts:?}");
        (0..SHARDS).for_each(|shard| {
            group.close(shard, Some(&steering));
        });
    }
}

#[test]
fn each_choice_is_one_that_the_model_allows() {
    let _alone = alone();
    let Some(mut steering) = load() else { return };
    let weights = vec![100, 50, 25, 25, 100, 7, 0, 1];
    let mut group = Group::new(SHARDS);
    let set = Setup { weights: weights.clone(), ..setup(Policy::Least) };
    steering.attach(0, group.address, &group.sockets(), set).expect("attach");
    let mut clients = Vec::new();
    let mut before = steering.picked(0).expect("picked");
    for n in 0..1_500 {
        let shards: Vec<_> = (0..SHARDS)
            .map(|shard| {
                let load = steering.load_of(shard);
                model::Shard { live: load.live, pending: load.pending, weight: weights[shard] }
            })
            .collect();
        let allowed = model::least(&shards);
        clients.push(connect(source(n), group.address).expect("connect"));
        let after = steering.picked(0).expect("picked");
        let chosen: Vec<_> = (0..SHARDS).filter(|shard| after[*shard] > before[*shard]).collect();
        assert_eq!(chosen.len(), 1, "one connection, one choice");
        assert!(allowed.contains(&chosen[0]), "{chosen:?} of {shards:?}");
        before = after;
        // Sometimes some wait, sometimes some go.
        if n % 7 == 0 {
            group.accept(Some(&steering));
        }
        if n % 301 == 300 {
            group.accept(Some(&steering));
            group.close(n % SHARDS, Some(&steering));
        }
    }
}

#[test]
fn weights_are_kept() {
    let _alone = alone();
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(4);
    let weights = vec![100, 50, 25, 25];
    let set = Setup { weights, ..setup(Policy::Least) };
    steering.attach(0, group.address, &group.sockets(), set).expect("attach");
    let _clients = fill(&mut group, Some(&steering), 4_000, 50);
    for (count, wanted) in group.counts().into_iter().zip([2_000_usize, 1_000, 500, 500]) {
        assert!(count.abs_diff(wanted) <= wanted / 20, "{:?} for 4:2:1:1", group.counts());
    }
}

fn shards_of_sources(group: &Group) -> HashMap<IpAddr, Vec<usize>> {
    let mut shards: HashMap<IpAddr, Vec<usize>> = HashMap::new();
    for (shard, accepted) in group.accepted.iter().enumerate() {
        for socket in accepted {
            let peer = socket.peer_addr().expect("connected").as_socket().expect("TCP");
            let of_source = shards.entry(peer.ip()).or_default();
            if !of_source.contains(&shard) {
                of_source.push(shard);
            }
        }
    }
    shards
}

#[test]
fn an_address_stays_on_its_shard_and_a_drain_moves_only_its_own() {
    let _alone = alone();
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(SHARDS);
    let sockets = group.sockets();
    steering.attach(0, group.address, &sockets, setup(Policy::Affinity)).expect("attach");
    let clients = fill(&mut group, Some(&steering), 3_000, 100);
    let before = shards_of_sources(&group);
    assert_eq!(before.len(), 1_000);
    let table = tidegate_kernel::affinity::table(&[100; SHARDS]);
    for (source, shards) in &before {
        assert_eq!(shards.len(), 1, "{source} is on one shard");
        assert_eq!(model::affinity(&table, 0x5eed, *source), Some(shards[0]), "as the model says");
    }
    drop(clients);
    (0..SHARDS).for_each(|shard| {
        group.close(shard, Some(&steering));
    });
    steering.set_weight(0, 5, 0).expect("set");
    let _clients = fill(&mut group, Some(&steering), 1_000, 100);
    for (source, shards) in shards_of_sources(&group) {
        let was = before[&source][0];
        assert!(shards[0] != 5 && (was == 5 || shards[0] == was), "{source}: {was} to {shards:?}");
    }
}

#[test]
fn the_hash_policy_spreads_by_weight() {
    let _alone = alone();
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(2);
    let set = Setup { weights: vec![90, 10], ..setup(Policy::Hash) };
    steering.attach(0, group.address, &group.sockets(), set).expect("attach");
    let _clients = fill(&mut group, Some(&steering), 2_000, 100);
    let second = group.counts()[1];
    assert!((120..=280).contains(&second), "{:?} for 90:10", group.counts());
}

#[test]
fn a_drained_shard_gets_nothing_and_what_waited_is_not_reset() {
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(SHARDS);
    let sockets = group.sockets();
    steering.attach(0, group.address, &sockets, setup(Policy::Least)).expect("attach");
    // 64 wait unaccepted, 8 on each.
    let mut clients: Vec<_> =
        (0..64).map(|n| connect(source(n), group.address).expect("connect")).collect();
    let waiting = steering.load_of(3);
    assert_eq!(waiting.pending, 8, "{waiting:?}");
    steering.set_weight(0, 3, 0).expect("set");
    clients.extend((0..64).map(|n| connect(source(n), group.address).expect("connect")));
    assert_eq!(steering.load_of(3).picked, waiting.picked, "nobody new");
    // Its listener closes, as when its thread ends.
    group.listeners[3] = None;
    assert_eq!(group.accept(Some(&steering)), 128, "nobody was reset");
    for client in &clients {
        client.set_nonblocking(true).expect("set");
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let error = client.recv(&mut byte).expect_err("nothing was sent");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    let counts = steering.counts(0).expect("counts");
    assert_eq!(counts.migrated, 8, "{counts:?}");
    assert_eq!(counts.refused_rate + counts.refused_blocked, 0);
}

fn admission(rate: Option<(u32, u32)>, prefix_rate: Option<(u32, u32)>) -> Admission {
    let of = |r: Option<(u32, u32)>| r.map(|(per_second, burst)| Rate { per_second, burst });
    Admission {
        rate: of(rate),
        prefix_rate: of(prefix_rate),
        prefix_bits: (24, 64),
        blocked: Vec::new(),
    }
}

/// Connects as fast as it goes; how many came in and how many were refused.
fn rush(
    group: &mut Group,
    steering: &Steering,
    span: Duration,
    from: impl Fn(usize) -> Ipv4Addr,
) -> (usize, usize) {
    let (mut inside, mut refused) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < span {
        match connect(from(inside + refused), group.address) {
            Ok(_client) => inside += 1,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => refused += 1,
            Err(error) => panic!("{error}"),
        }
        group.accept(Some(steering));
        (0..group.accepted.len()).for_each(|shard| {
            group.close(shard, Some(steering));
        });
    }
    (inside, refused)
}

#[test]
fn the_rate_of_a_listener_is_held() {
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(2);
    // A burst that outlasts the pauses of a busy machine: what is not asked for
    // in time is lost.
    let limits = admission(Some((500, 100)), None);
    let set = Setup { admission: limits, ..setup(Policy::Least) };
    steering.attach(0, group.address, &group.sockets(), set.clone()).expect("attach");
    let start = Instant::now();
    let (inside, refused) = rush(&mut group, &steering, Duration::from_secs(2), source);
    let allowed = 500.0 * start.elapsed().as_secs_f64() + 100.0;
    println!("{inside} came in of {allowed:.0} allowed, {refused} were refused");
    assert!(inside as f64 <= allowed * 1.05, "{inside} of {allowed}");
    // An emulated machine may be too slow to ask for more than it is allowed.
    if (inside + refused) as f64 >= 2.0 * allowed {
        assert!(inside as f64 >= allowed * 0.95, "{inside} of {allowed}");
    }
    let counts = steering.counts(0).expect("counts");
    assert_eq!(counts.refused_rate, refused as u64, "each is counted");
    // Live: without it nobody is refused.
    steering.set(0, setup(Policy::Least)).expect("set");
    let (_, refused) = rush(&mut group, &steering, Duration::from_millis(200), source);
    assert_eq!(refused, 0);
}

#[test]
fn a_new_rate_does_not_wait_for_the_old_one() {
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(2);
    let from = Ipv4Addr::new(127, 7, 9, 1);
    // A hundred at once, and then one a second: used up, that is owed for long.
    for (slow, fast) in [
        (admission(Some((1, 100)), None), admission(Some((1_000, 10)), None)),
        (admission(None, Some((1, 100))), admission(None, Some((1_000, 10)))),
    ] {
        let set = Setup { admission: slow, ..setup(Policy::Least) };
        match steering.setup(0) {
            None => steering.attach(0, group.address, &group.sockets(), set).expect("attach"),
            Some(_) => steering.set(0, set).expect("set"),
        }
        for _ in 0..100 {
            connect(from, group.address).expect("within the burst");
        }
        connect(from, group.address).expect_err("one too many");
        let set = Setup { admission: fast, ..setup(Policy::Least) };
        steering.set(0, set.clone()).expect("set");
        for _ in 0..10 {
            connect(from, group.address).expect("within the new burst");
        }
        // What is no change of a rate forgets nothing.
        let slow = admission(Some((1, 2)), Some((1, 2)));
        steering.set(0, Setup { admission: slow.clone(), ..set.clone() }).expect("set");
        connect(from, group.address).expect("one");
        connect(from, group.address).expect("two");
        let weights = vec![50; SHARDS];
        steering.set(0, Setup { admission: slow, weights, ..set }).expect("set");
        connect(from, group.address).expect_err("three, whatever the weights");
        group.accept(Some(&steering));
    }
}

#[test]
fn a_source_over_its_own_rate_takes_nothing_from_others() {
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(2);
    let limits = admission(Some((100_000, 1_000)), Some((50, 5)));
    let set = Setup { admission: limits, ..setup(Policy::Least) };
    steering.attach(0, group.address, &group.sockets(), set).expect("attach");
    // One /24 rushes, another comes now and then.
    let start = Instant::now();
    let (inside, refused) = rush(&mut group, &steering, Duration::from_secs(1), |n| {
        Ipv4Addr::new(127, 7, 7, (n % 250) as u8 + 1)
    });
    let allowed = 50.0 * start.elapsed().as_secs_f64() + 5.0;
    assert!((inside as f64 - allowed).abs() <= 1.0 + allowed * 0.05, "{inside} of {allowed}");
    assert_eq!(steering.counts(0).expect("counts").refused_prefix, refused as u64);
    for n in 0..5 {
        connect(Ipv4Addr::new(127, 7, 8, n + 1), group.address).expect("another prefix");
    }
}

#[test]
fn blocked_sources_are_refused_live() {
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(2);
    steering.attach(0, group.address, &group.sockets(), setup(Policy::Least)).expect("attach");
    let mut other = Group::new(2);
    steering.attach(1, other.address, &other.sockets(), setup(Policy::Least)).expect("attach");
    let from = Ipv4Addr::new(127, 9, 1, 1);
    connect(from, group.address).expect("not blocked yet");
    let mut set = setup(Policy::Least);
    set.admission.blocked = vec!["127.9.0.0/16".parse().expect("a network")];
    steering.set(0, set).expect("set");
    let error = connect(from, group.address).expect_err("blocked");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    connect(Ipv4Addr::new(127, 10, 1, 1), group.address).expect("another network");
    connect(from, other.address).expect("another listener");
    assert_eq!(steering.counts(0).expect("counts").refused_blocked, 1);
    steering.set(0, setup(Policy::Least)).expect("set");
    connect(from, group.address).expect("not any more");
    group.accept(Some(&steering));
    other.accept(Some(&steering));
}

#[test]
fn both_families_and_several_ports_share_the_program() {
    let Some(mut steering) = load() else { return };
    let mut any = Group::at("[::]:0".parse().expect("an address"), SHARDS);
    steering.attach(0, any.address, &any.sockets(), setup(Policy::Least)).expect("attach");
    let mut one = Group::new(SHARDS);
    steering.attach(7, one.address, &one.sockets(), setup(Policy::Least)).expect("attach");
    let port = any.address.port();
    let clients: Vec<_> = (0..80)
        .map(|n| {
            let to: std::net::SocketAddr = match n % 2 {
                0 => format!("127.0.0.1:{port}"),
                _ => format!("[::1]:{port}"),
            }
            .parse()
            .expect("an address");
            std::net::TcpStream::connect(to).expect("connect")
        })
        .collect();
    assert_eq!(any.accept(Some(&steering)), 80);
    assert_eq!(any.counts(), [10; SHARDS]);
    // The load of a shard is that of all its listeners.
    any.close(2, Some(&steering));
    let _more = fill(&mut one, Some(&steering), 10, 1);
    assert_eq!(one.counts()[2], 10, "{:?}", one.counts());
    let counts = |listener| steering.counts(listener).expect("counts").selected;
    assert_eq!((counts(0), counts(7)), (80, 10));
    drop(clients);
}

#[test]
fn what_will_never_be_accepted_is_written_off() {
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(2);
    let mut set = setup(Policy::Least);
    set.weights = vec![100, 100];
    steering.attach(0, group.address, &group.sockets(), set).expect("attach");
    let gone: Vec<_> =
        (0..10).map(|n| connect(source(n), group.address).expect("connect")).collect();
    // Accepted by nobody who would tell: as good as gone.
    group.accept(None);
    drop(gone);
    assert_eq!(steering.load_of(0).pending, 5);
    (0..10).for_each(|_| steering.settle());
    assert_eq!(steering.load_of(0).pending, 0);
    let _later = fill(&mut group, Some(&steering), 10, 1);
    (0..10).for_each(|_| steering.settle());
    assert_eq!((steering.load_of(0).pending, steering.load_of(0).live), (0, 5));
}

#[test]
fn each_program_that_this_kernel_takes_steers() {
    common::raise_descriptor_limit();
    let mut taken = 0;
    for program in tidegate_ebpf_abi::steer::PROGRAMS {
        let mut steering = match Steering::load_one_of(&[program], SHARDS, 1, &[]) {
            Ok(steering) => steering,
            Err(error) => {
                println!("{error}");
                continue;
            }
        };
        taken += 1;
        let mut group = Group::new(SHARDS);
        let sockets = group.sockets();
        steering.attach(0, group.address, &sockets, setup(Policy::Least)).expect("attach");
        let _clients = fill(&mut group, Some(&steering), 80, 80);
        assert_eq!(group.counts(), [10; SHARDS], "{program}");
        let facts = steering.facts();
        assert!(facts.id.is_some() && facts.tag.is_some(), "{facts:?}");
        steering.detach(0, group.listeners[0].as_ref().expect("open")).expect("detach");
        let before = steering.counts(0).expect("counts");
        let _more = fill(&mut group, Some(&steering), 10, 10);
        let after = between(before, steering.counts(0).expect("counts"));
        assert_eq!(after.selected, 0, "the kernel's hash again");
    }
    let all = tidegate_ebpf_abi::steer::PROGRAMS.len();
    println!("{taken} of {all} programs load");
    or_skip(if taken > 0 { Ok(()) } else { Err("no program loads") });
}

#[test]
fn settings_out_of_range_are_refused() {
    let Some(mut steering) = load() else { return };
    let group = Group::new(2);
    let error = steering.attach(32, group.address, &group.sockets(), setup(Policy::Least));
    assert_eq!(error.expect_err("32").to_string(), "listener 32 is out of range: 0 to 31");
    let error = steering.set_weight(0, 1, 5).expect_err("not attached");
    assert_eq!(error.to_string(), "listener 0 is not attached");
    steering.attach(0, group.address, &group.sockets(), setup(Policy::Least)).expect("attach");
    let error = steering.set_weight(0, 1, 101).expect_err("101");
    assert_eq!(error.to_string(), "weight 101 is out of range: 0 to 100");
    let error = Steering::load(65, 0, &[]).expect_err("65 shards");
    assert!(error.to_string().contains("65 shards: 1 to 64"), "{error}");
}

#[test]
fn everything_goes_on_after_all_capabilities_are_gone() {
    let Some(mut steering) = load() else { return };
    let done = std::thread::spawn(move || {
        let mut group = Group::new(SHARDS);
        let sockets = group.sockets();
        steering.attach(0, group.address, &sockets, setup(Policy::Least)).expect("attach");
        let left = tidegate_kernel::capabilities::drop_all(true).expect("drop");
        println!("{left:?}");
        let _clients = fill(&mut group, Some(&steering), 80, 80);
        assert_eq!(group.counts(), [10; SHARDS]);
        steering.set_weight(0, 1, 0).expect("a map is still ours");
        let mut set = setup(Policy::Affinity);
        set.admission.blocked = vec!["127.99.0.0/16".parse().expect("a network")];
        steering.set(0, set).expect("and all others");
        let from = Ipv4Addr::new(127, 99, 1, 1);
        connect(from, group.address).expect_err("blocked");
        assert_eq!(steering.counts(0).expect("counts").refused_blocked, 1);
        steering.settle();
        assert!(steering.facts().id.is_some());
    });
    done.join().expect("no panic");
}

/// A TCP segment without data that belongs to no connection.
fn bare_segment(from: u16, to: std::net::SocketAddrV4, flags: u8) -> std::io::Result<()> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    let mut segment = [0_u8; 20];
    segment[..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&7_u32.to_be_bytes());
    segment[8..12].copy_from_slice(&9_u32.to_be_bytes());
    (segment[12], segment[13], segment[14]) = (5 << 4, flags, 1);
    // Both addresses, the protocol and the length are part of the sum.
    let mut pseudo = [127, 0, 0, 1, 0, 0, 0, 0, 0, 6, 0, 20];
    pseudo[4..8].copy_from_slice(&to.ip().octets());
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let sum: u32 = words.map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    socket.send_to(&segment, &to.into()).map(|_| ())
}

#[test]
fn only_a_syn_is_charged() {
    const ACK: u8 = 0x10;
    let Some(mut steering) = load() else { return };
    let mut group = Group::new(2);
    let limits = admission(Some((1, 5)), None);
    let set = Setup { admission: limits, ..setup(Policy::Least) };
    steering.attach(0, group.address, &group.sockets(), set).expect("attach");
    let std::net::SocketAddr::V4(to) = group.address else { panic!("IPv4 was asked for") };
    for n in 0..50 {
        let sent = bare_segment(40_000 + n, to, ACK).map_err(|e| format!("a raw socket: {e}"));
        if common::or_skip_tool(sent).is_none() {
            return;
        }
    }
    let counts = steering.counts(0).expect("counts");
    assert_eq!((counts.stray, counts.refused_rate), (50, 0), "{counts:?}");
    assert_eq!(steering.load_of(0).picked + steering.load_of(1).picked, 0, "nobody will come");
    let _clients: Vec<_> =
        (0..5).map(|n| connect(source(n), group.address).expect("the burst is whole")).collect();
    connect(source(9), group.address).expect_err("and used up now");
    group.accept(Some(&steering));
}
